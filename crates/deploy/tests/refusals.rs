//! Bad input: one line that says what to do, the documented exit code, and nothing is changed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Host, Run, TOOL};

/// Everything that a release, an upgrade or an installation changes, but not the record that something was refused.
fn state(host: &Host) -> BTreeMap<String, String> {
    fn walk(dir: &Path, into: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            let what = if kind.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if kind.is_file() {
                format!("{:?}", fs::metadata(&path).unwrap().modified().unwrap())
            } else {
                walk(&path, into);
                String::new()
            };
            into.insert(path.display().to_string(), what);
        }
    }
    let mut all = BTreeMap::new();
    for dir in ["opt", "etc", "usr", "var/lib/hotgo-deploy", "run/hotgo-deploy"] {
        walk(&host.root.join(dir), &mut all);
    }
    all.retain(|path, _| !["/audit.jsonl", "/lock", "/failed"].iter().any(|name| path.ends_with(name)));
    all
}

/// One line of error, at most one of help, and one of them says what to do.
#[track_caller]
fn is_one_line(run: &Run, says: &str) {
    let lines: Vec<&str> = run.stderr.lines().skip_while(|line| !line.contains(" ERROR ")).collect();
    let help = lines.get(1).is_none_or(|line| line.contains(" help "));
    assert!((1..=2).contains(&lines.len()) && help, "{}", run.stderr);
    assert!(lines.iter().any(|line| line.contains(says)), "no {says:?} in\n{}", run.stderr);
}

#[track_caller]
fn is_refused(host: &Host, arguments: &[&str], code: i32, says: &str) {
    let (before, pid) = (state(host), host.status()["status"]["pid"].clone());
    let run = host.run(arguments).ends_with(code);
    is_one_line(&run, says);
    assert_eq!(state(host), before, "{arguments:?}");
    assert_eq!(host.status()["status"]["pid"], pid, "{arguments:?}");
    assert!(!host.is_unfinished(), "{arguments:?}");
}

#[test]
fn an_unknown_release_is_refused_by_every_command_that_takes_one() {
    let host = Host::serving("1.0+a");
    for command in ["upgrade", "canary", "rollback", "migrate"] {
        is_refused(&host, &[command, "9.9"], 7, "`hotgo-deploy list` names the releases here");
        assert_eq!(host.audit().last().unwrap()["exit"], 7);
    }
    is_refused(&host, &["upgrade", "--dry-run", "9.9"], 7, "`hotgo-deploy list`");
    is_refused(&host, &["quick", "/nonexistent.tar.gz"], 6, "/nonexistent.tar.gz");
}

#[test]
fn outside_the_window_nothing_begins_and_what_overrides_it_is_said() {
    let host = Host::serving("1.0+a");
    let artifact = host.artifact("1.0+b", "good");
    let yaml = host.root.join("etc/hotgo/deploy.yaml");
    let closed = support::DEPLOY_YAML.replace("forbidden: []", "forbidden: [\"00:00-12:00\", \"12:00-24:00\"]");
    fs::write(&yaml, closed).unwrap();
    let path = artifact.to_str().unwrap();
    for arguments in [&["upgrade"][..], &["canary"], &["restart"], &["quick", path], &["upgrade", "--dry-run"]] {
        is_refused(&host, arguments, 5, "--outside-window REASON overrides it");
    }
    // What makes requests wait has windows of its own: one that has just ended.
    let now = Command::new("date").args(["-u", "+%H"]).output().unwrap();
    let hour: u32 = String::from_utf8_lossy(&now.stdout).trim().parse().unwrap();
    let [from, to] = [(hour + 12) % 24, (hour + 13) % 24].map(|hour| format!("{hour:02}:00"));
    let open = support::DEPLOY_YAML
        .replace("maintenance: []", &format!("maintenance: [\"{from}-{to}\"]\n  utc_offset: \"+00:00\""));
    fs::write(&yaml, open).unwrap();
    is_refused(&host, &["restart"], 5, "--outside-window REASON overrides it");
    host.run(&["upgrade", "--dry-run"]).ends_with(0);
}

#[test]
fn a_missing_unit_is_found_before_anything_begins_and_install_brings_it_back() {
    let host = Host::serving("1.0+a");
    host.quick("1.0+b", "good").ends_with(0);
    for unit in ["hotgo@.service", "hotgo.socket", "hotgo.service"] {
        fs::remove_file(host.root.join("etc/systemd/system").join(unit)).unwrap();
        for command in ["upgrade", "rollback", "restart", "canary"] {
            is_refused(&host, &[command], 8, "`hotgo-deploy install` writes the units");
        }
        host.run(&["install"]).ends_with(0).says(unit);
    }
    host.run(&["rollback"]).ends_with(0);
    host.assert_serves("1.0+a");
}

#[test]
fn a_wrong_root_is_named_and_nothing_is_made_there() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for root in ["nothing", "file", ""] {
        let root = dir.path().join(root);
        for command in ["upgrade", "rollback", "restart", "status", "list", "monitor", "migrate", "contract", "abort"] {
            let run = Run::of(&Command::new(TOOL).arg("--root").arg(&root).arg(command).output().unwrap()).ends_with(8);
            is_one_line(&run, &format!("not installed below {}: `hotgo-deploy install`", root.display()));
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only what was there");
}

/// A build into `out`, which is empty.
struct Build {
    host: Host,
    out: PathBuf,
}

impl Build {
    fn new() -> Self {
        let host = Host::new();
        let out = host.dir.path().join("out");
        fs::create_dir(&out).unwrap();
        Self { host, out }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.host.dir.path().join(name)
    }

    fn command(&self, binary: Option<&Path>, source: &Path, key: &str) -> Command {
        let mut tool = Command::new(TOOL);
        tool.arg("build").arg("--source").arg(source).arg("--out").arg(&self.out).arg("--key").arg(self.file(key));
        tool.args(binary.iter().flat_map(|binary| [Path::new("--binary"), binary]));
        tool
    }

    #[track_caller]
    fn fails(&self, binary: Option<&Path>, source: &Path, key: &str, code: i32, says: &str) {
        Run::of(&self.command(binary, source, key).output().unwrap()).ends_with(code).says(says);
        assert_eq!(fs::read_dir(&self.out).unwrap().count(), 0, "{says}: something is left");
    }
}

#[test]
fn a_build_that_fails_leaves_no_artifact() {
    let build = Build::new();
    let source = build.file("source/0.0+first");
    let main = source.join("main");
    build.fails(Some(&main), &source, "key.pub", 2, "is no secret key");
    build.fails(Some(Path::new("/bin/false")), &source, "key", 6, "does not name a build");
    build.fails(Some(&main), &build.file("nowhere"), "key", 1, "manifest");
    build.fails(None, &source, "key", 6, "cargo build failed");
}

#[test]
fn a_build_whose_disk_fills_leaves_no_artifact_on_a_tmpfs() {
    let build = Build::new();
    let source = build.file("source/0.0+first");
    let tool = build.command(Some(&source.join("main")), &source, "key");
    let on = |size: u64| {
        let script = format!(
            "mount -t tmpfs -o size={size} full '{0}' && trap 'umount -l \"{0}\"' EXIT; \"$@\" >/dev/null; code=$?; cd '{0}'; \
             stat -c '%s %n' * 2>/dev/null; exit $code",
            build.out.display()
        );
        let mut shell = Command::new("bash");
        Run::of(&shell.args(["-c", &script, "bash"]).arg(tool.get_program()).args(tool.get_args()).output().unwrap())
    };
    let made = on(64 << 20).ends_with(0).stdout;
    assert_eq!(made.lines().count(), 2, "{made}");
    let bytes: u64 = made.split(' ').next().unwrap().parse().unwrap();
    // It fills in the middle of the artifact; then there is room for that, but not for its signature.
    for size in [64 << 10, bytes.next_multiple_of(4_096)] {
        let left = on(size).ends_with(12).stdout;
        assert_eq!(left, "", "{size}: something is left");
    }
}
