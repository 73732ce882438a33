//! `contract`: what a release that one could go back to needs is removed only when that release was given up.
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

use support::{Host, Run, artifact};

const DATABASE: &str = "var/lib/hotgo/schema";

/// What serves can contract to schema 4; the release before accepts 2 at most.
fn host() -> Host {
    let host = Host::serving("1.0+a");
    quick(&host, "2.0+b", "[1, 5, 2, 4]").ends_with(0);
    host
}

fn quick(host: &Host, build: &str, schema: &str) -> Run {
    let path = artifact(host.dir.path(), build, "good", schema);
    host.run(&["quick", path.to_str().unwrap()])
}

fn schema(host: &Host) -> String {
    fs::read_to_string(host.root.join(DATABASE)).unwrap()
}

/// What `list` says of a release.
fn listed(host: &Host, build: &str) -> String {
    host.run(&["list"]).stdout.lines().find(|line| line.contains(build)).unwrap().to_owned()
}

#[test]
fn a_release_that_one_could_go_back_to_is_not_lost_unasked() {
    let host = host();
    for arguments in [&["contract"][..], &["contract", "--dry-run"]] {
        let run = host.run(arguments).ends_with(17);
        assert!(run.stderr.contains("it makes schema 4") && run.stderr.contains("1.0+a (schema 2 at most)"), "{run:?}");
        assert!(run.stderr.contains("contract --forget") && !run.stderr.contains("2.0+b ("), "{run:?}");
    }
    assert_eq!(host.run(&["contract", "--json"]).ends_with(17).json()["exit"], 17);
    assert_eq!(host.audit().last().unwrap()["command"], "contract");
    assert_eq!(schema(&host), "2");
    // The way back is open.
    host.run(&["rollback"]).ends_with(0);
    host.assert_serves("1.0+a");
    // Also for one that is only kept, and served long ago.
    host.run(&["upgrade", "2.0+b"]).ends_with(0);
    quick(&host, "2.1+c", "[1, 5, 2, 4]").ends_with(0);
    quick(&host, "2.2+d", "[1, 5, 2, 4]").ends_with(0);
    let run = host.run(&["contract"]).ends_with(17);
    assert!(run.stderr.contains("1.0+a (") && !run.stderr.contains("+c ("), "{run:?}");
}

#[test]
fn a_release_that_was_forgotten_is_never_gone_back_to() {
    let host = host();
    let plan = host.run(&["contract", "--forget", "--dry-run"]).ends_with(0).says("would apply 4").says("would forget");
    assert!(plan.stdout.contains("1.0+a") && !listed(&host, "1.0+a").contains("forgotten"), "{plan:?}");
    assert_eq!(schema(&host), "2");
    let done = host.run(&["contract", "--forget", "--json"]).ends_with(0).json();
    assert!(
        done["forgotten"][0].as_str().unwrap().ends_with("1.0+a") && done["migrations"][0]["version"] == 4,
        "{done}"
    );
    assert_eq!(schema(&host), "4");
    host.assert_serves("2.0+b");
    assert!(listed(&host, "1.0+a").contains("schema 4 is beyond it"), "{}", listed(&host, "1.0+a"));
    // Not by itself, and not by its name: the preflight says why, and nothing has happened.
    let pid = host.status()["status"]["pid"].clone();
    host.run(&["rollback"]).ends_with(7).says("no other release is known to be good");
    for arguments in [&["rollback", "1.0+a"][..], &["upgrade", "1.0+a"], &["rollback", "1.0+a", "--dry-run"]] {
        let run = host.run(arguments).ends_with(8).says("the database has schema 4, and ");
        run.says("1.0+a accepts 1 to 2; nothing was changed");
    }
    assert_eq!(host.status()["status"]["pid"], pid);
    host.run(&["contract"]).ends_with(0).says("nothing to apply");
    // What accepts the new schema serves as ever.
    quick(&host, "3.0+e", "[4, 5, 4]").ends_with(0);
    host.run(&["rollback"]).ends_with(0);
    host.assert_serves("2.0+b");
}

#[test]
fn a_release_that_failed_or_accepts_the_result_is_not_in_the_way() {
    let host = Host::serving("1.0+a");
    quick(&host, "2.0+b", "[1, 5, 2, 4]").ends_with(0);
    quick(&host, "2.1+c", "[1, 5, 2, 4]").ends_with(0);
    fs::create_dir_all(host.root.join("var/lib/hotgo-deploy/failed")).unwrap();
    let first = listed(&host, "1.0+a").split(' ').next().unwrap().to_owned();
    fs::write(host.root.join("var/lib/hotgo-deploy/failed").join(first), "crashed").unwrap();
    host.run(&["contract"]).ends_with(0).says("applied 4");
    host.run(&["rollback"]).ends_with(0);
    host.assert_serves("2.0+b");
}

#[test]
fn a_living_process_of_another_build_is_named_and_nothing_is_forgotten() {
    let host = host();
    fs::write(host.root.join("var/lib/hotgo/other-build"), "").unwrap();
    host.run(&["contract", "--forget"]).ends_with(8).says("instance x of build 0.9+old lives");
    assert!(!listed(&host, "1.0+a").contains("forgotten"));
    assert_eq!(schema(&host), "2");
}

#[test]
fn the_checklist_says_what_is_left_to_contract_and_whether_there_is_a_way_back() {
    let host = host();
    host.run(&["checklist", "before"]).says("days later, by `hotgo-deploy contract`: 4");
    // A release that makes a schema which the one that serves does not accept.
    let path = artifact(host.dir.path(), "9.0+far", "good", "[1, 9, 6]");
    host.run(&["release", path.to_str().unwrap()]).ends_with(0);
    host.run(&["checklist", "before"]).ends_with(14).says("accepts schema 5 at most, and the database will have 6");
}
