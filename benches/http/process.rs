//! Server processes: ours, and a bare one.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::load::Connection;

const PATIENCE: Duration = Duration::from_secs(20);
/// Clock ticks of `/proc/<pid>/stat`: 100 a second on every Linux that we know.
const TICK: Duration = Duration::from_millis(10);

/// A process that said where it listens. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) token: Option<String>,
    spawned: Instant,
}

impl Process {
    fn spawn(command: &mut Command) -> Self {
        let spawned = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut token = None;
        let address = loop {
            let line = lines.next().expect("it ended before it listened").unwrap();
            if let Some(shown) = line.strip_prefix("admin token (shown once): ") {
                token = Some(shown.trim().to_owned());
            }
            if let Some(address) = line.strip_prefix("listening on http://") {
                break address.trim().parse().unwrap();
            }
        };
        thread::spawn(move || lines.for_each(drop));
        Self { child, address, token, spawned }
    }

    /// The real binary, with the settings and data in this directory.
    pub(crate) fn ours(directory: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_main"));
        command.args(["http", "--bind", "127.0.0.1:0", "--config"]).arg(directory);
        command.arg("--data-dir").arg(directory.join("data")).current_dir(directory);
        Self::spawn(&mut command)
    }

    /// This very program, serving one bare route.
    pub(crate) fn bare() -> Self {
        Self::spawn(Command::new(std::env::current_exe().unwrap()).arg("serve-bare"))
    }

    /// Waits until it calls itself ready: how long after its start.
    pub(crate) async fn ready(&self) -> Duration {
        let mut connection = Connection::open(self.address).await;
        while connection.get("/api/health/ready").await != 200 {
            assert!(self.spawned.elapsed() < PATIENCE, "never ready");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.spawned.elapsed()
    }

    /// SIGTERM: how long until the process is gone.
    pub(crate) fn stop(mut self) -> Duration {
        let started = Instant::now();
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        while self.child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "it does not stop");
            thread::sleep(Duration::from_micros(200));
        }
        started.elapsed()
    }

    /// Processor time used so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u32 = fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
        TICK * ticks
    }

    /// Resident memory in MiB.
    pub(crate) fn memory_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
