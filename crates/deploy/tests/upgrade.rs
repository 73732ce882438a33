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
use std::os::unix::fs::PermissionsExt as _;

use support::{Host, Run, artifact};

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

/// What is found before the commit: the old release never stops, and has its accounts.
fn is_undone(behaviour: &str, code: i32, says: &str) {
    let host = Host::serving("1.0+a");
    let pid = host.status()["status"]["pid"].clone();
    host.quick("2.0+b", behaviour).ends_with(code).says(says);
    host.assert_serves("1.0+a");
    assert_eq!(host.status()["status"]["pid"], pid, "the old process was disturbed");
    assert_eq!(host.running(), 1);
    assert!(!host.is_unfinished());
    assert_eq!(host.audit().last().unwrap()["exit"], code);
    if code == 9 {
        // What has failed is not taken by itself again: the one that serves goes into the other slot.
        host.run(&["upgrade"]).ends_with(0);
        host.assert_serves("1.0+a");
    }
}

#[test]
fn a_release_that_does_not_accept_the_configuration_is_refused() {
    is_undone("check-fails", 8, "trading.limits is wrong");
}

#[test]
fn a_release_whose_migration_fails_is_refused() {
    let host = Host::serving("1.0+a");
    let path = artifact(host.dir.path(), "2.0+b", "migrate-fails", "[1, 3, 2]");
    host.run(&["quick", path.to_str().unwrap()]).ends_with(9).says("lock timeout");
    host.assert_serves("1.0+a");
}

#[test]
fn a_release_that_crashes_at_its_start_is_undone() {
    is_undone("crash-start", 9, "start:");
}

#[test]
fn a_release_that_never_gets_ready_is_undone() {
    is_undone("hang-start", 9, "start:");
}

#[test]
fn a_release_that_lies_about_its_build_is_undone() {
    is_undone("wrong-build", 9, "it is build 0.0+liar");
}

#[test]
fn a_release_whose_self_test_fails_is_undone() {
    is_undone("self-test-fails", 9, "self-test: store");
}

#[test]
fn a_release_that_dies_in_probation_is_undone() {
    is_undone("die-probation", 9, "probation:");
}

#[test]
fn a_release_that_dies_under_traffic_is_undone() {
    is_undone("die-traffic", 9, "traffic:");
}

#[test]
fn a_release_that_answers_with_errors_is_undone() {
    is_undone("errors", 9, "of them 5xx");
}

#[test]
fn a_release_that_takes_no_accounts_is_undone_and_the_old_one_gets_them_back() {
    is_undone("takes-no-accounts", 9, "missing accounts: [0, 1, 2]");
}

fn is_rolled_back(behaviour: &str) {
    let host = Host::serving("1.0+a");
    let run = host.quick("2.0+b", behaviour).ends_with(10).says("rolled back: ");
    assert!(run.stderr.contains("watch:") || run.stderr.contains("drain:"), "{}", run.stderr);
    host.assert_serves("1.0+a");
    assert_eq!(host.running(), 1);
    assert!(host.link("current").ends_with("1.0+a") && host.link("last-good").ends_with("1.0+a"));
    assert!(!host.is_unfinished());
}

#[test]
fn a_release_that_keeps_dying_after_the_commit_is_rolled_back() {
    is_rolled_back("die-watch");
}

#[test]
fn a_release_that_is_not_ready_after_the_commit_is_rolled_back() {
    is_rolled_back("sick-later");
}

#[test]
fn a_release_that_hangs_after_the_commit_is_rolled_back() {
    is_rolled_back("hang-later");
}

#[test]
fn the_way_back_needs_no_figures_of_the_release_that_it_leaves() {
    is_rolled_back("mute-later");
}

#[test]
fn the_way_back_needs_no_hand_over_by_the_release_that_it_leaves() {
    is_rolled_back("die-asked");
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
fn an_upgrade_and_a_rollback_touch_neither_configuration_nor_ledger_and_build_nothing() {
    let host = Host::serving("1.0+a");
    let file = |name: &str| host.root.join(name);
    let [config, deploy, ledger] =
        ["etc/hotgo/config.yaml", "etc/hotgo/deploy.yaml", "var/lib/hotgo/hotgo.db"].map(file);
    fs::write(&config, "# changed by hand, and in no repository\n").unwrap();
    fs::write(&ledger, "order 1 filled\n").unwrap();
    let before = [&config, &deploy].map(|path| fs::read(path).unwrap());
    // Whatever could fetch or build something here is a trap.
    let traps = host.dir.path().join("traps");
    fs::create_dir(&traps).unwrap();
    for name in ["git", "cargo", "rustc", "go", "make", "cc", "gcc", "curl", "wget"] {
        fs::write(traps.join(name), "#!/bin/sh\necho \"$0 $*\" >>\"${0%/*}/called\"\n").unwrap();
        fs::set_permissions(traps.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", traps.display());
    let run = |arguments: &[&str]| Run::of(&host.command(arguments).env("PATH", &path).output().unwrap());
    let artifact = host.artifact("1.0+b", "good");
    run(&["quick", artifact.to_str().unwrap()]).ends_with(0);
    fs::write(&ledger, "order 1 filled\norder 2 filled, by 1.0+b\n").unwrap();
    run(&["rollback"]).ends_with(0);
    host.assert_serves("1.0+a");
    assert_eq!(fs::read_to_string(&ledger).unwrap(), "order 1 filled\norder 2 filled, by 1.0+b\n");
    assert_eq!([&config, &deploy].map(|path| fs::read(path).unwrap()), before);
    assert_eq!(fs::read_to_string(traps.join("called")).unwrap_or_default(), "");
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
    host.run(&["rollback", "1.0+a"]).ends_with(8).says("the database has schema 3, and ").says("accepts 1 to 2");
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
        let run = Run::of(&tool.env("HOTGO_DEPLOY_STOP_AT", at).output().unwrap());
        assert_eq!(run.code, -9, "{at}: {}{}", run.stdout, run.stderr);
    }

    /// A tool that is killed leaves the service up, and the next run works.
    fn killed_at(at: &str) {
        let host = Host::serving("1.0+a");
        let b = host.artifact("1.0+b", "good");
        host.run(&["release", b.to_str().unwrap()]).ends_with(0);
        cut_short(&host, at, "1.0+b");
        assert!(host.status()["serves"] == true, "{at}: nothing serves");
        host.run(&["upgrade", "1.0+b"]).ends_with(0).says("cut short");
        host.assert_serves("1.0+b");
        assert_eq!(host.running(), 1, "{at}");
        let audit = host.audit();
        let dead = audit.iter().rfind(|record| record["exit"] == 137).unwrap();
        assert!(dead["outcome"].as_str().unwrap().starts_with("cut short"), "{dead}");
    }

    #[test]
    fn abort_undoes_what_was_cut_short_before_the_commit_and_finishes_what_was_after_it() {
        let host = Host::serving("1.0+a");
        let b = host.artifact("1.0+b", "good");
        host.run(&["release", b.to_str().unwrap()]).ends_with(0);
        for (at, serves) in [("traffic", "1.0+a"), ("drain", "1.0+b")] {
            cut_short(&host, at, "1.0+b");
            host.run(&["abort"]).ends_with(0).says("cut short");
            host.assert_serves(serves);
            assert_eq!((host.running(), host.is_unfinished()), (1, false), "{at}");
        }
        host.run(&["abort"]).ends_with(2).says("nothing to abort");
    }

    macro_rules! killed {
        ($($name:ident: $at:literal)*) => { $(
            #[test]
            fn $name() {
                killed_at($at);
            }
        )* };
    }

    // Every step, and between the parts of those that have some.
    killed! {
        at_preflight: "preflight"
        at_migrate: "migrate"
        at_start: "start"
        at_start_pointed: "start-pointed"
        at_probation: "probation"
        at_accept: "accept"
        at_traffic: "traffic"
        at_hand_over: "hand-over"
        at_hand_over_sent: "hand-over-sent"
        at_commit: "commit"
        at_commit_unmarked: "commit-unmarked"
        at_commit_done: "commit-done"
        at_drain: "drain"
        at_watch: "watch"
        at_settle: "settle"
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
