//! As much of systemd as the tool's logic needs, for machines where none can be booted: it starts a slot's server, starts
//! it again when it dies, and knows how it stands. What the tool does with a real one is in `tests/systemd_slots.rs`.
//!
//! `FAKE_ROOT` is the tool's `--root`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::zombie_processes,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a tool of the tests"
)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const START: Duration = Duration::from_secs(4);
const STOP: Duration = Duration::from_secs(30);
const KILL: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

struct Unit {
    root: PathBuf,
    name: String,
}

fn main() {
    let root = PathBuf::from(std::env::var_os("FAKE_ROOT").unwrap());
    fs::create_dir_all(root.join("fake")).unwrap();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| words.iter().any(|word| word == name);
    let units = words
        .iter()
        .skip(1)
        .filter(|word| word.contains("hotgo"))
        .map(|name| Unit { root: root.clone(), name: name.clone() });
    let ok = match words.first().map(String::as_str) {
        Some("start") => units.filter(|unit| !unit.start()).count() == 0,
        Some("stop") if flag("--no-block") => {
            for unit in units {
                unit.helper("__stop");
            }
            true
        }
        Some("stop") => units.filter(|unit| !unit.stop()).count() == 0,
        Some("restart") => units.filter(|unit| !(unit.stop() && unit.start())).count() == 0,
        Some("show") => {
            for unit in units {
                print!("{}", unit.show());
            }
            true
        }
        Some("list-jobs") => {
            print!("{}", fs::read_to_string(root.join("fake/jobs")).unwrap_or_default());
            true
        }
        Some("__supervise") => {
            units.for_each(|unit| unit.supervise());
            true
        }
        Some("__stop") => units.filter(|unit| !unit.stop()).count() == 0,
        _ => true,
    };
    if !ok {
        eprint!("Job failed. See \"systemctl status\" for details.");
        std::process::exit(1);
    }
}

impl Unit {
    fn file(&self, what: &str) -> PathBuf {
        self.root.join("fake").join(format!("{}.{what}", self.name))
    }

    fn get(&self, what: &str) -> String {
        fs::read_to_string(self.file(what)).unwrap_or_default()
    }

    fn set(&self, what: &str, text: &str) {
        let temporary = self.file(&format!("{what}.{}", std::process::id()));
        // The test may be over, and its directory gone.
        let _gone = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, self.file(what)));
    }

    fn is_slot(&self) -> bool {
        self.name.contains('@')
    }

    fn state(&self) -> String {
        let supervised =
            Path::new("/proc").join(self.get("supervisor")).join("exe").exists() && !self.get("supervisor").is_empty();
        match self.get("state").as_str() {
            "" => "inactive".to_owned(),
            state if self.is_slot() && !supervised && state != "failed" => "inactive".to_owned(),
            state => state.to_owned(),
        }
    }

    fn show(&self) -> String {
        let result = self.get("result");
        let state = self.state();
        let pid = if state == "inactive" { "0".to_owned() } else { self.get("pid") };
        format!(
            "LoadState={}\nActiveState={state}\nMainPID={}\nResult={}\nNRestarts={}\n",
            self.load(),
            if pid.is_empty() { "0" } else { &pid },
            if result.is_empty() { "success" } else { &result },
            self.get("restarts").parse::<u64>().unwrap_or_default()
        )
    }

    fn load(&self) -> &'static str {
        let template = self.name.replace("@blue", "@").replace("@green", "@");
        if self.root.join("etc/systemd/system").join(template).exists() { "loaded" } else { "not-found" }
    }

    fn helper(&self, what: &str) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([what, &self.name]).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    }

    fn start(&self) -> bool {
        if self.load() != "loaded" {
            return false;
        }
        if !self.is_slot() {
            self.set("state", "active");
            return true;
        }
        if self.state() == "inactive" || self.state() == "failed" {
            for what in ["stop", "result", "restarts", "pid", "supervisor"] {
                let _fresh = fs::remove_file(self.file(what));
            }
            // Sockets= of a slot wants it.
            Self { root: self.root.clone(), name: "hotgo.socket".to_owned() }.set("state", "active");
            self.set("state", "activating");
            self.helper("__supervise");
        }
        let end = Instant::now() + START + START;
        while Instant::now() < end {
            match (self.get("state").as_str(), self.get("restarts").as_str()) {
                ("active", _) => return true,
                ("failed", _) => return false,
                (_, restarts) if restarts.parse::<u64>().unwrap_or_default() > 0 => return false,
                _ => thread::park_timeout(POLL),
            }
        }
        false
    }

    fn stop(&self) -> bool {
        if !self.is_slot() {
            self.set("state", "inactive");
            return true;
        }
        if self.state() == "inactive" {
            return true;
        }
        self.set("stop", "");
        let end = Instant::now() + STOP;
        while self.state() != "inactive" && Instant::now() < end {
            thread::park_timeout(POLL);
        }
        self.state() == "inactive"
    }

    /// Restart=always.
    fn supervise(&self) {
        self.set("supervisor", &std::process::id().to_string());
        let colour = self.name.trim_start_matches("hotgo@").trim_end_matches(".service").to_owned();
        let notify = self.file("notify");
        for restarts in 0.. {
            self.set("restarts", &restarts.to_string());
            let _old = fs::remove_file(&notify);
            let socket = UnixDatagram::bind(&notify).unwrap();
            socket.set_nonblocking(true).unwrap();
            let Some(mut child) = self.spawn(&colour, &notify) else { break };
            self.set("pid", &child.id().to_string());
            let result = self.attend(&mut child, &socket);
            self.set("pid", "0");
            self.set("result", result);
            if self.file("stop").exists() || !self.root.exists() {
                break;
            }
            self.set("state", "activating");
            thread::park_timeout(Duration::from_millis(100));
        }
        self.set("state", "inactive");
    }

    fn spawn(&self, colour: &str, notify: &Path) -> Option<Child> {
        let release = self.root.join("opt/hotgo/slots").join(colour).canonicalize().ok()?;
        let mut command = Command::new(release.join("main"));
        command.arg("http").env("NOTIFY_SOCKET", notify).env("TOY_DATA", self.root.join("var/lib/hotgo"));
        command.env("HOTGO__ADMIN__SOCKET", self.root.join(format!("run/hotgo/{colour}.sock")));
        let mark = fs::read_to_string(self.root.join(format!("run/hotgo-deploy/{colour}.env"))).unwrap_or_default();
        command.envs(mark.lines().filter_map(|line| line.split_once('=')));
        command.spawn().ok()
    }

    /// Until it ends. Says how it ended.
    fn attend(&self, child: &mut Child, socket: &UnixDatagram) -> &'static str {
        let started = Instant::now();
        let mut stopping = None;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return if status.success() { "success" } else { "exit-code" };
            }
            let mut message = [0; 256];
            if let Ok(count) = socket.recv(&mut message)
                && message.get(..count) == Some(b"READY=1")
            {
                self.set("state", "active");
            }
            if self.get("state") == "activating" && started.elapsed() > START {
                child.kill().unwrap();
                child.wait().unwrap();
                return "timeout";
            }
            if stopping.is_none() && (self.file("stop").exists() || !self.root.exists()) {
                self.set("state", "deactivating");
                stopping = Some(Instant::now());
                let _gone = kill(pid, Signal::SIGTERM);
            }
            if stopping.is_some_and(|since| since.elapsed() > KILL) {
                child.kill().unwrap();
            }
            thread::park_timeout(POLL);
        }
    }
}
