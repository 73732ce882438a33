//! Artifacts, windows, locks and rights: what is refused, is refused before anything changes, with a code and words of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod support;

use std::fs::{self, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Host, Run, example};

fn releases(host: &Host) -> usize {
    fs::read_dir(host.root.join("opt/hotgo/releases")).unwrap().count()
}

#[test]
fn an_artifact_is_released_once_and_a_second_time_is_no_error() {
    let host = Host::new();
    let path = host.artifact("1.0+a", "good");
    let first = host.run(&["release", path.to_str().unwrap()]).ends_with(0).stdout;
    let again = host.run(&["release", path.to_str().unwrap()]).ends_with(0).says("was there already").stdout;
    assert_eq!(first, again);
    let dir = host.root.join("opt/hotgo/releases").join(first.trim());
    assert!(dir.join("main").exists() && dir.join("manifest/build").exists() && dir.join("release.json").exists());
    assert_eq!(host.link("current"), "", "nothing serves by that");
    let list = host.run(&["list", "--json"]).ends_with(0).json();
    assert_eq!(list[0]["build_id"], "1.0+a");
}

#[test]
fn an_artifact_that_is_cut_or_changed_or_signed_by_a_stranger_is_refused() {
    let host = Host::new();
    let refused = |path: &Path, says: &str| {
        host.run(&["release", path.to_str().unwrap()]).ends_with(6).says(says);
        assert_eq!(releases(&host), 0, "{says}");
    };
    let cut = host.artifact("1.0+cut", "good");
    let bytes = fs::metadata(&cut).unwrap().len();
    OpenOptions::new().write(true).open(&cut).unwrap().set_len(bytes / 2).unwrap();
    refused(&cut, "were signed: copy it again");

    let changed = host.artifact("1.0+changed", "good");
    let mut file = OpenOptions::new().write(true).open(&changed).unwrap();
    file.seek(SeekFrom::Start(bytes / 2)).unwrap();
    file.write_all(b"evil").unwrap();
    refused(&changed, "was signed");

    // Whoever changes the checksum too has no key for it.
    let forged = host.artifact("1.0+forged", "good");
    let signature = forged.with_added_extension("sig");
    let text = fs::read_to_string(&signature).unwrap();
    let line = text.lines().find(|line| line.starts_with("unpacked")).unwrap();
    fs::write(&signature, text.replace(line, "unpacked 1")).unwrap();
    refused(&forged, "signature is wrong");
    fs::remove_file(&signature).unwrap();
    refused(&forged, "cannot be read");

    let good = host.artifact("1.0+good", "good");
    fs::remove_file(host.root.join("etc/hotgo/keys/key.pub")).unwrap();
    refused(&good, "is not in");
    host.run(&["release", "/nonexistent.tar.gz"]).ends_with(6);
}

#[test]
fn a_release_that_was_changed_on_the_disk_is_not_started() {
    let host = Host::serving("1.0+a");
    let path = host.artifact("1.0+b", "good");
    let name = host.run(&["release", path.to_str().unwrap()]).ends_with(0).stdout;
    fs::write(host.root.join("opt/hotgo/releases").join(name.trim()).join("manifest/behaviour"), "evil").unwrap();
    host.run(&["upgrade"]).ends_with(6).says("is not as it was built");
    host.run(&["upgrade", "9.9"]).ends_with(7);
    host.assert_serves("1.0+a");
    assert!(!host.is_unfinished());
}

#[test]
fn a_closed_window_refuses_and_a_reason_opens_it() {
    let host = Host::serving("1.0+a");
    let yaml = support::DEPLOY_YAML.replace("forbidden: []", "forbidden: [\"00:00-12:00\", \"12:00-24:00\"]");
    fs::write(host.root.join("etc/hotgo/deploy.yaml"), yaml).unwrap();
    host.run(&["upgrade"]).ends_with(5).says("is closed for deployments");
    host.run(&["upgrade", "--outside-window", " "]).ends_with(2);
    host.run(&["upgrade", "--outside-window", "the exchange told us to"]).ends_with(0);
    assert_eq!(host.audit().last().unwrap()["outside_window"], "the exchange told us to");
    host.run(&["rollback"]).ends_with(7);
    fs::write(host.root.join("etc/hotgo/deploy.yaml"), "upgrade:\n  probation: 3\n").unwrap();
    host.run(&["status"]).ends_with(3).says("probation");
}

#[test]
fn of_ten_upgrades_at_once_one_runs() {
    let host = Host::serving("1.0+a");
    let started: Vec<_> = (0..10)
        .map(|_| host.command(&["upgrade"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let runs: Vec<Run> = started.into_iter().map(|child| Run::of(&child.wait_with_output().unwrap())).collect();
    assert_eq!(runs.iter().filter(|run| run.code == 0).count(), 1, "{runs:#?}");
    assert_eq!(runs.iter().filter(|run| run.code == 4).count(), 9, "{runs:#?}");
    host.assert_serves("1.0+a");
    assert_eq!(host.audit().iter().filter(|record| record["exit"] == 4).count(), 9);
}

#[test]
fn a_signal_undoes_what_is_not_committed() {
    let host = Host::serving("1.0+a");
    let path = host.artifact("1.0+b", "good");
    host.run(&["release", path.to_str().unwrap()]).ends_with(0);
    let mut tool = host.command(&["canary", "1.0+b", "--for", "60"]);
    let child = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while host.status()["unfinished"]["step"] != "traffic" {
        assert!(Instant::now() < end);
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    Run::of(&child.wait_with_output().unwrap()).ends_with(130).says("undone: ");
    host.assert_serves("1.0+a");
    assert_eq!(host.running(), 1);
    assert!(!host.is_unfinished());
}

#[test]
fn installing_twice_is_installing_once_and_configuration_is_never_replaced() {
    let host = Host::new();
    let yaml = host.root.join("etc/hotgo/deploy.yaml");
    let before = fs::read_to_string(&yaml).unwrap();
    host.run(&["install"]).ends_with(0).says("everything was installed already");
    fs::remove_file(host.root.join("etc/systemd/system/hotgo.socket")).unwrap();
    host.run(&["install", "--dry-run"]).ends_with(0).says("would write");
    host.run(&["install"]).ends_with(0).says("hotgo.socket");
    assert_eq!(fs::read_to_string(yaml).unwrap(), before);
}

#[test]
fn a_full_disk_refuses_before_unpacking_on_a_tmpfs_of_its_own() {
    let host = Host::serving("1.0+a");
    let path = host.artifact("1.0+big", "good");
    let releases = host.root.join("opt/hotgo/releases");
    let script =
        format!("mount -t tmpfs -o size=1m full '{0}' && trap 'umount \"{0}\"' EXIT && \"$@\"", releases.display());
    let tool = host.command(&["release", path.to_str().unwrap()]);
    let mut shell = Command::new("bash");
    shell.args(["-c", &script, "bash"]).arg(tool.get_program()).args(tool.get_args());
    shell.envs(tool.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Run::of(&shell.output().unwrap()).ends_with(12).says("not enough space");
    host.assert_serves("1.0+a");
}

/// Two hosts behind a pretended load balancer, each a root of its own.
#[test]
fn rolling_takes_one_server_after_the_other_and_stops_at_the_first_failure() {
    let hosts = [Host::serving("1.0+a"), Host::serving("1.0+a")];
    let boss = Host::new();
    let log = boss.dir.path().join("log");
    let mut yaml = support::DEPLOY_YAML.to_owned() + "servers:\n";
    for (name, host) in ["a", "b"].into_iter().zip(&hosts) {
        let (root, data, systemctl) = (host.root.display(), host.root.join("var/lib/hotgo"), example("fake-systemctl"));
        let server = format!(
            "  - name: {name}\n    out: echo out {name} >>{log}\n    in: echo in {name} >>{log}\n    run: env FAKE_ROOT={root} \
             TOY_DATA={} HOTGO_DEPLOY_SYSTEMCTL={} {} --root {root}\n",
            data.display(),
            systemctl.display(),
            support::TOOL,
            log = log.display(),
        );
        yaml.push_str(&server);
        // Both trust the one who builds.
        fs::copy(boss.dir.path().join("key.pub"), host.root.join("etc/hotgo/keys/boss.pub")).unwrap();
    }
    fs::write(boss.root.join("etc/hotgo/deploy.yaml"), yaml).unwrap();
    let good = boss.artifact("1.0+b", "good");
    boss.run(&["rolling", good.to_str().unwrap()]).ends_with(0).says("2 of 2 servers");
    assert_eq!(fs::read_to_string(&log).unwrap(), "out a\nin a\nout b\nin b\n");
    for host in &hosts {
        host.assert_serves("1.0+b");
    }
    fs::remove_file(&log).unwrap();
    let bad = boss.artifact("1.0+bad", "die-probation");
    boss.run(&["rolling", bad.to_str().unwrap()])
        .ends_with(14)
        .says("stopped after 0 of 2 servers")
        .says("is in again");
    assert_eq!(fs::read_to_string(&log).unwrap(), "out a\nin a\n");
    for host in &hosts {
        host.assert_serves("1.0+b");
    }
}

/// The server's tool is a script: at work when it is asked for the first time, and slow to upgrade.
#[test]
fn rolling_waits_for_another_run_ends_between_two_servers_and_leaves_none_outside() {
    let boss = Host::new();
    let dir = boss.dir.path();
    let remote = "cd DIR\ncase $1 in\n  status) mkdir asked 2>/dev/null && echo '{\"at_work\": \"it\"}' || echo '{\"serves\": true}' ;;\n  upgrade) touch begun\n    \
                  for i in $(seq 300); do [ -e go ] && exit 0; sleep 0.1; done; exit 1 ;;\nesac\n";
    fs::write(dir.join("remote"), remote.replace("DIR", dir.to_str().unwrap())).unwrap();
    let mut yaml = support::DEPLOY_YAML.to_owned() + "servers:\n";
    for name in ["a", "b"] {
        let at = dir.display();
        let server = format!(
            "  - name: {name}\n    out: echo out {name} >>{at}/log\n    in: echo in {name} >>{at}/log\n    run: sh {at}/remote\n"
        );
        yaml.push_str(&server);
    }
    fs::write(boss.root.join("etc/hotgo/deploy.yaml"), yaml).unwrap();
    let child = boss.command(&["rolling"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + Duration::from_mins(1);
    while !dir.join("begun").exists() {
        assert!(Instant::now() < end);
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    fs::write(dir.join("go"), "").unwrap();
    Run::of(&child.wait_with_output().unwrap()).ends_with(143).says("a is waited for: it").says("1 of 2 servers");
    assert_eq!(fs::read_to_string(dir.join("log")).unwrap(), "out a\nin a\n");
    // As a run that was killed leaves it.
    fs::write(boss.root.join("var/lib/hotgo-deploy/rolling.out"), "b").unwrap();
    boss.run(&["rolling"]).ends_with(0).says("b was left outside");
    assert_eq!(fs::read_to_string(dir.join("log")).unwrap(), "out a\nin a\nin b\nout a\nin a\nout b\nin b\n");
    assert!(!boss.root.join("var/lib/hotgo-deploy/rolling.out").exists());
}

#[test]
fn checklists_monitor_and_watch_show_their_evidence() {
    let host = Host::serving("1.0+a");
    host.run(&["checklist", "before"])
        .ends_with(0)
        .says("is here and as it was built")
        .says("no notice in the last week");
    host.run(&["checklist", "during"]).ends_with(0).says("hand-over").says("websockets");
    host.run(&["checklist", "after"]).says("store").says("6 robots");
    let mail = host.dir.path().join("mail");
    let yaml = format!(
        "{}notify:\n  mail: [ops@example.com]\n  sendmail: {}\nmonitor:\n  min_robots: 7\n  cpu_percent: 0\n",
        support::DEPLOY_YAML,
        host.dir.path().join("sendmail").display()
    );
    fs::write(host.dir.path().join("sendmail"), format!("#!/bin/sh\ncat >>{}\n", mail.display())).unwrap();
    Command::new("chmod").arg("+x").arg(host.dir.path().join("sendmail")).status().unwrap();
    fs::write(host.root.join("etc/hotgo/deploy.yaml"), yaml).unwrap();
    for _ in 0..3 {
        host.run(&["monitor"]).ends_with(14).says("robots");
    }
    let text = fs::read_to_string(&mail).unwrap();
    assert_eq!(text.matches("Subject: ").count(), 1, "told once\n{text}");
    assert!(text.contains("robots: 3 accounts, 6 robots"), "{text}");
    fs::write(host.root.join("etc/hotgo/deploy.yaml"), support::DEPLOY_YAML).unwrap();
    host.run(&["watch", "--for", "1", "--every", "1"]).says("unknown-orders");
}

#[test]
fn a_notice_follows_the_rules_of_its_level() {
    let host = Host::serving("1.0+a");
    host.run(&["notice", "major", "New engine"]).ends_with(2).says("--at");
    host.run(&["notice", "major", "New engine", "--at", "2020-01-01 00:00"]).ends_with(2).says("24 hours ahead");
    host.run(&["notice", "hotfix", "Fixed"]).ends_with(2).says("--fixed");
    host.run(&["notice", "major", "New engine", "--at", "2099-01-01 02:00", "--dry-run"])
        .ends_with(0)
        .says("major at 2099");
    host.run(&["notice", "hotfix", "Sorry", "--fixed", "a doubled mail"]).ends_with(0).says("told: server");
    host.run(&["checklist", "before"]).ends_with(0).says("notice of ");
}

#[test]
fn without_rights_nothing_happens_and_that_is_said() {
    let host = Host::serving("1.0+a");
    let mut tool = Command::new("setpriv");
    tool.args(["--reuid", "65534", "--clear-groups", "--regid", "65534"]);
    let command = host.command(&["upgrade"]);
    // The temporary directory is its owner's alone.
    Command::new("chmod").args(["-R", "a+rX"]).arg(host.dir.path()).status().unwrap();
    tool.arg(command.get_program()).args(command.get_args());
    tool.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = tool.output().unwrap();
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("setpriv:") {
        return; // only root can become somebody else
    }
    Run::of(&output).ends_with(13).says("run it as root");
    host.assert_serves("1.0+a");
}
