//! The upgrade against a pretended systemd and releases that misbehave in every way: whatever happens, a good release serves,
//! has every account, and the next run works.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod support;

use std::fs;

use support::{Host, artifact};

#[test]
fn the_first_release_and_the_next_one_serve_with_every_account() {
    let host = Host::serving("1.0+a");
    host.assert_serves("1.0+a");
    let run = host.quick("1.0+b", "good").ends_with(0);
    for step in
        ["preflight", "start", "probation", "accept", "traffic", "hand-over", "commit", "drain", "watch", "settle"]
    {
        assert!(run.stderr.contains(&format!("ok    {step}")), "{step}\n{}", run.stderr);
    }
    assert!(!run.stderr.contains('\u{1b}'), "no colours but on a terminal");
    host.assert_serves("1.0+b");
    assert_eq!(host.running(), 1);
    assert!(host.link("current").ends_with("1.0+b") && host.link("last-good").ends_with("1.0+b"));
    assert!(host.link("previous-good").ends_with("1.0+a"));
    let audit = host.audit();
    let last = audit.last().unwrap();
    assert_eq!(last["exit"], 0);
    assert_eq!(last["before"]["robots"], last["after"]["robots"]);
    assert_eq!(last["before"]["accounts"], 3);
    assert!(!host.is_unfinished());
}

/// Everything that is found before the commit: the old release never stops, and has its accounts.
#[test]
fn a_release_that_fails_before_the_commit_leaves_the_old_one_undisturbed() {
    let host = Host::serving("1.0+a");
    let pid = host.status()["status"]["pid"].clone();
    for (behaviour, code, says) in [
        ("check-fails", 8, "trading.limits is wrong"),
        ("crash-start", 9, "start:"),
        ("hang-start", 9, "start:"),
        ("wrong-build", 9, "it is build 0.0+liar"),
        ("self-test-fails", 9, "self-test: store"),
        ("die-probation", 9, "probation:"),
        ("die-traffic", 9, "traffic:"),
        ("errors", 9, "of them 5xx"),
        ("takes-no-accounts", 9, "missing accounts: [0, 1, 2]"),
    ] {
        let build = format!("2.0+{behaviour}");
        host.quick(&build, behaviour).ends_with(code).says(says);
        host.assert_serves("1.0+a");
        assert_eq!(host.status()["status"]["pid"], pid, "{behaviour}: the old process was disturbed");
        assert_eq!(host.running(), 1, "{behaviour}");
        assert!(!host.is_unfinished(), "{behaviour}");
        assert_eq!(host.audit().last().unwrap()["exit"], code);
    }
    // What has failed is not taken by itself again; the one that serves goes into the other slot.
    host.run(&["upgrade"]).ends_with(8);
    fs::remove_dir_all(host.root.join("opt/hotgo/releases").join(newest(&host, "check-fails"))).unwrap();
    host.run(&["upgrade"]).ends_with(0);
    host.assert_serves("1.0+a");
}

fn newest(host: &Host, part: &str) -> String {
    let entries = fs::read_dir(host.root.join("opt/hotgo/releases")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.into_iter().rfind(|name| name.contains(part)).unwrap()
}

#[test]
fn a_release_that_fails_after_the_commit_is_rolled_back_by_itself() {
    let host = Host::serving("1.0+a");
    for behaviour in ["die-watch", "sick-later", "hang-later"] {
        let run = host.quick(&format!("2.0+{behaviour}"), behaviour).ends_with(10).says("rolled back: ");
        assert!(run.stderr.contains("watch:") || run.stderr.contains("drain:"), "{}", run.stderr);
        host.assert_serves("1.0+a");
        assert_eq!(host.running(), 1, "{behaviour}");
        assert!(host.link("current").ends_with("1.0+a") && host.link("last-good").ends_with("1.0+a"));
        assert!(!host.is_unfinished());
    }
}

#[test]
fn a_new_process_that_dies_once_while_the_old_one_drains_is_told_and_survived() {
    let host = Host::new();
    host.quick("1.0+a", "slow-drain").ends_with(0);
    host.quick("1.0+b", "die-drain").ends_with(0).says("died; systemd has started");
    host.assert_serves("1.0+b");
}

#[test]
fn rollback_goes_to_the_last_good_release_and_never_back_to_the_bad_one() {
    let host = Host::serving("1.0+a");
    host.run(&["rollback"]).ends_with(7);
    host.quick("1.0+b", "good").ends_with(0);
    host.run(&["rollback"]).ends_with(0);
    host.assert_serves("1.0+a");
    host.run(&["rollback"]).ends_with(7).says("no other release is known to be good");
    host.run(&["rollback", "1.0+b"]).ends_with(0);
    host.assert_serves("1.0+b");
}

#[test]
fn a_schema_that_the_serving_release_does_not_accept_is_refused_before_anything_changes() {
    let host = Host::serving("1.0+a");
    let step = |build: &str, schema: &str| {
        let path = artifact(host.dir.path(), build, "good", schema);
        host.run(&["quick", path.to_str().unwrap()])
    };
    step("3.0+far", "[1, 3, 3]").ends_with(8).says("accepts 2 at most: upgrade in two steps");
    step("2.0+near", "[1, 3, 2]").ends_with(0);
    host.assert_serves("2.0+near");
    step("3.0+now", "[2, 4, 3]").ends_with(0).says("1 applied");
    // 2.0 accepts schema 3, so that the way back is open.
    host.run(&["rollback"]).ends_with(0);
    host.assert_serves("2.0+near");
    host.run(&["rollback", "1.0+a"]).ends_with(8).says("the schema does not fit");
    host.assert_serves("2.0+near");
}

#[test]
fn a_canary_shares_the_traffic_until_a_word_is_given() {
    let host = Host::serving("1.0+a");
    let b = host.artifact("1.0+b", "good");
    host.run(&["release", b.to_str().unwrap()]).ends_with(0);
    for word in ["abort", "promote"] {
        host.run(&["canary", "1.0+b", "--for", "1"]).ends_with(0).says("promote");
        assert_eq!(host.running(), 2);
        host.assert_serves("1.0+a");
        host.run(&["upgrade"]).ends_with(15);
        host.run(&[word]).ends_with(0);
        assert_eq!(host.running(), 1);
        host.assert_serves(if word == "abort" { "1.0+a" } else { "1.0+b" });
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let host = Host::serving("1.0+a");
    let records = host.audit().len();
    let b = host.artifact("1.0+b", "good");
    for arguments in
        [&["quick", b.to_str().unwrap(), "--dry-run"][..], &["upgrade", "--dry-run"], &["restart", "--dry-run"]]
    {
        host.run(arguments).ends_with(0);
    }
    assert_eq!(host.audit().len(), records);
    host.assert_serves("1.0+a");
    host.run(&["restart"]).ends_with(0);
    host.assert_serves("1.0+a");
}

#[cfg(feature = "failpoints")]
mod killed {
    use super::*;

    fn cut_short(host: &Host, at: &str, release: &str) {
        let mut tool = host.command(&["upgrade", release]);
        let run = support::Run::of(&tool.env("HOTGO_DEPLOY_STOP_AT", at).output().unwrap());
        assert_eq!(run.code, -9, "{at}: {}{}", run.stdout, run.stderr);
    }

    /// SIGKILL at every step, and between the parts of the steps that have some.
    #[test]
    fn a_tool_that_is_killed_at_any_step_leaves_the_service_up_and_the_next_run_works() {
        let host = Host::serving("1.0+a");
        let b = host.artifact("1.0+b", "good");
        host.run(&["release", b.to_str().unwrap()]).ends_with(0);
        let mut builds = ["1.0+a", "1.0+b"];
        for at in [
            "preflight",
            "migrate",
            "start",
            "start-pointed",
            "probation",
            "accept",
            "traffic",
            "hand-over",
            "hand-over-sent",
            "commit",
            "commit-unmarked",
            "commit-done",
            "drain",
            "watch",
            "settle",
        ] {
            let [old, new] = builds;
            cut_short(&host, at, new);
            assert!(host.status()["serves"] == true, "{at}: nothing serves");
            host.run(&["upgrade", new]).ends_with(0).says("cut short");
            host.assert_serves(new);
            assert_eq!(host.running(), 1, "{at}");
            let audit = host.audit();
            let dead = audit.iter().rfind(|record| record["exit"] == 137).unwrap();
            assert!(dead["outcome"].as_str().unwrap().starts_with("cut short"), "{dead}");
            builds = [new, old];
        }
    }

    #[test]
    fn what_a_dead_run_left_can_be_undone_by_hand() {
        let host = Host::serving("1.0+a");
        let b = host.artifact("1.0+b", "good");
        host.run(&["release", b.to_str().unwrap()]).ends_with(0);
        cut_short(&host, "hand-over-sent", "1.0+b");
        assert_eq!(host.status()["unfinished"]["step"], "hand-over");
        host.run(&["monitor", "--dry-run"]).ends_with(14).says("was cut short");
        host.run(&["abort"]).ends_with(0);
        host.assert_serves("1.0+a");
        assert_eq!(host.running(), 1);
        host.run(&["abort"]).ends_with(2);
    }
}
