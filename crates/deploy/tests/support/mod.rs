//! A throw-away host with artifacts of the toy server, and a pretended systemd.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub const TOOL: &str = env!("CARGO_BIN_EXE_hotgo-deploy");

/// An example of this package.
pub fn example(name: &str) -> PathBuf {
    Path::new(TOOL).parent().unwrap().join("examples").join(name)
}

pub const DEPLOY_YAML: &str = "upgrade:\n  start_timeout_s: 10\n  probation_s: 1\n  traffic_probation_s: 1\n  min_healthy_s: 2\n  \
     max_unhealthy_s: 2\n  hand_over_timeout_s: 4\nreleases:\n  min_free_mb: 0\nwindows:\n  forbidden: []\n  maintenance: []\n";

/// What came of running the tool.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        Self {
            code: output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or_default()),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text) || self.stderr.contains(text),
            "no {text:?} in\n{}{}",
            self.stdout,
            self.stderr
        );
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(self.stdout.trim())
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}

/// Makes an artifact of the toy server.
pub fn artifact(dir: &Path, build: &str, behaviour: &str, schema: &str) -> PathBuf {
    let source = dir.join("source").join(build);
    let manifest = source.join("manifest");
    fs::create_dir_all(&manifest).unwrap();
    fs::copy(example("toy-server"), source.join("main")).unwrap();
    for (name, text) in [("build", build), ("behaviour", behaviour), ("schema", schema)] {
        fs::write(manifest.join(name), text).unwrap();
    }
    let key = dir.join("key");
    if !key.exists() {
        let made = Command::new(TOOL).arg("keygen").arg(&key).output().unwrap();
        Run::of(&made).ends_with(0);
    }
    let mut tool = Command::new(TOOL);
    tool.args(["build", "--json", "--binary"]).arg(source.join("main")).arg("--source").arg(&source);
    let run = Run::of(&tool.arg("--out").arg(dir.join("dist")).arg("--key").arg(&key).output().unwrap()).ends_with(0);
    PathBuf::from(run.json()["artifact"].as_str().unwrap())
}

pub struct Host {
    pub dir: TempDir,
    pub root: PathBuf,
}

impl Host {
    /// Installed, with three accounts, and nothing that serves.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let host = Self { dir, root };
        fs::create_dir_all(host.root.join("etc/hotgo/keys")).unwrap();
        fs::write(host.root.join("etc/hotgo/deploy.yaml"), DEPLOY_YAML).unwrap();
        host.artifact("0.0+first", "good");
        let key = host.dir.path().join("key.pub");
        host.run(&["install", "--key", key.to_str().unwrap()]).ends_with(0);
        let accounts = host.root.join("var/lib/hotgo/accounts");
        fs::create_dir_all(&accounts).unwrap();
        for account in ["1", "2", "3"] {
            fs::write(accounts.join(account), "").unwrap();
        }
        host
    }

    /// One where a good release serves.
    pub fn serving(build: &str) -> Self {
        let host = Self::new();
        host.quick(build, "good").ends_with(0);
        host
    }

    pub fn artifact(&self, build: &str, behaviour: &str) -> PathBuf {
        artifact(self.dir.path(), build, behaviour, "[1, 2, 1]")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut tool = Command::new(TOOL);
        tool.arg("--root").arg(&self.root).args(arguments).env("FAKE_ROOT", &self.root);
        tool.env("TOY_DATA", self.root.join("var/lib/hotgo"));
        tool.env("HOTGO_DEPLOY_SYSTEMCTL", example("fake-systemctl")).env("HOTGO_DEPLOY_JOURNALCTL", "true");
        tool
    }

    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&self.command(arguments).output().unwrap())
    }

    /// A new artifact, and the tool's `quick` with it.
    pub fn quick(&self, build: &str, behaviour: &str) -> Run {
        let artifact = self.artifact(build, behaviour);
        self.run(&["quick", artifact.to_str().unwrap()])
    }

    pub fn status(&self) -> Value {
        self.run(&["status", "--json"]).json()
    }

    /// The build that serves, is ready, accepts, and has every account; empty if none does.
    pub fn serves(&self) -> String {
        let status = self.status();
        let server = &status["status"];
        let engines = server["engines"].as_array().cloned().unwrap_or_default();
        let complete = engines.len() == 3 && engines.iter().all(|engine| engine["ready"] == true);
        if complete && server["accepting"] == true {
            server["build_id"].as_str().unwrap().to_owned()
        } else {
            String::new()
        }
    }

    #[track_caller]
    pub fn assert_serves(&self, build: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.serves() != build {
            assert!(Instant::now() < end, "{build} does not serve:\n{:#}", self.status());
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// How many slots run.
    pub fn running(&self) -> usize {
        self.status()["slots"].as_array().unwrap().iter().filter(|slot| slot["state"] != "inactive").count()
    }

    pub fn link(&self, name: &str) -> String {
        let link = fs::read_link(self.root.join("opt/hotgo").join(name)).unwrap_or_default();
        link.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.root.join("var/lib/hotgo-deploy/audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn is_unfinished(&self) -> bool {
        self.root.join("var/lib/hotgo-deploy/journal.json").exists()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let mut stop = Command::new(example("fake-systemctl"));
        let _gone =
            stop.args(["stop", "hotgo@blue.service", "hotgo@green.service"]).env("FAKE_ROOT", &self.root).output();
    }
}
