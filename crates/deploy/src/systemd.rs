//! systemd, through `systemctl` and `journalctl`: nothing else here knows that they exist.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use crate::error::Error;
use crate::process::{self, Finished, Interrupt};

/// The umbrella.
pub const SERVICE: &str = "hotgo.service";
/// The public listener.
pub const SOCKET: &str = "hotgo.socket";

/// A question is answered within this.
const ANSWER: Duration = Duration::from_secs(20);

/// How a unit stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// `active`, `activating`, `deactivating`, `inactive`, `failed`, `reloading`.
    pub state: String,
    /// Its main process; 0 without one.
    pub main_pid: u32,
    /// `success`, or why the last run ended.
    pub result: String,
    /// How often systemd has started it again by itself.
    pub restarts: u64,
}

impl Unit {
    /// Whether its process runs.
    pub fn is_active(&self) -> bool {
        self.state == "active"
    }

    /// Whether nothing of it runs, and nothing will by itself.
    pub fn is_down(&self) -> bool {
        matches!(self.state.as_str(), "inactive" | "failed" | "")
    }

    /// Whether somebody wants it to run.
    pub fn is_wanted(&self) -> bool {
        matches!(self.state.as_str(), "active" | "activating" | "reloading")
    }
}

/// Drives it.
#[derive(Debug, Clone)]
pub struct Systemd {
    systemctl: String,
    journalctl: String,
    interrupt: Interrupt,
}

impl Systemd {
    /// These commands: `systemctl` and `journalctl`, or what a test gives.
    pub fn new(systemctl: &str, journalctl: &str, interrupt: Interrupt) -> Self {
        Self { systemctl: systemctl.to_owned(), journalctl: journalctl.to_owned(), interrupt }
    }

    fn run(&self, arguments: &[&str], timeout: Duration) -> Result<Finished, Error> {
        process::run(Command::new(&self.systemctl).args(arguments), None, timeout, &self.interrupt).map_err(|error| {
            match error {
                Error::Interrupted { .. } => error,
                other => Error::Systemd(format!("systemctl {}: {other}", arguments.join(" "))),
            }
        })
    }

    fn order(&self, arguments: &[&str], timeout: Duration) -> Result<(), Error> {
        let done = self.run(arguments, timeout)?;
        if done.status.success() {
            return Ok(());
        }
        Err(Error::Systemd(format!("systemctl {}: {}", arguments.join(" "), done.last_words())))
    }

    /// Starts a unit, and returns when it is ready.
    ///
    /// # Errors
    /// When it is not ready within `timeout`, or ends before.
    pub fn start(&self, unit: &str, timeout: Duration) -> Result<(), Error> {
        self.order(&["start", unit], timeout)
    }

    /// Stops units, and returns when they have ended.
    ///
    /// # Errors
    /// When they have not ended within `timeout`.
    pub fn stop(&self, units: &[&str], timeout: Duration) -> Result<(), Error> {
        self.order(&[&["stop"], units].concat(), timeout)
    }

    /// Tells a unit to stop.
    ///
    /// # Errors
    /// When systemd cannot be told.
    pub fn stop_soon(&self, unit: &str) -> Result<(), Error> {
        self.order(&["stop", "--no-block", unit], ANSWER)
    }

    /// Stops and starts a unit.
    ///
    /// # Errors
    /// As [`Systemd::start`].
    pub fn restart(&self, unit: &str, timeout: Duration) -> Result<(), Error> {
        self.order(&["restart", unit], timeout)
    }

    /// Forgets that a unit has failed. One that has not is no error.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub fn reset_failed(&self, unit: &str) -> Result<(), Error> {
        self.run(&["reset-failed", unit], ANSWER).map(|_| ())
    }

    /// Reads the units' files again.
    ///
    /// # Errors
    /// When it cannot.
    pub fn daemon_reload(&self) -> Result<(), Error> {
        self.order(&["daemon-reload"], Duration::from_secs(90))
    }

    /// Has units start at boot.
    ///
    /// # Errors
    /// When it cannot.
    pub fn enable(&self, units: &[&str]) -> Result<(), Error> {
        self.order(&[&["enable"], units].concat(), ANSWER)
    }

    /// How a unit stands.
    ///
    /// # Errors
    /// [`Error::Systemd`] when systemd cannot be asked.
    pub fn show(&self, unit: &str) -> Result<Unit, Error> {
        let done = self.run(&["show", "-p", "ActiveState,MainPID,Result,NRestarts", unit], ANSWER)?;
        if !done.status.success() {
            return Err(Error::Systemd(format!("systemctl show {unit}: {}", done.last_words())));
        }
        let fields: BTreeMap<&str, &str> = done.stdout.lines().filter_map(|line| line.split_once('=')).collect();
        let text = |key| fields.get(key).copied().unwrap_or_default();
        Ok(Unit {
            state: text("ActiveState").to_owned(),
            main_pid: text("MainPID").parse().unwrap_or_default(),
            result: text("Result").to_owned(),
            restarts: text("NRestarts").parse().unwrap_or_default(),
        })
    }

    /// Whether somebody has told the umbrella to stop: then nothing is to be started any more.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub fn is_stopping(&self) -> Result<bool, Error> {
        let done = self.run(&["list-jobs", "--no-legend"], ANSWER)?;
        Ok(done.stdout.lines().any(|line| {
            let mut words = line.split_whitespace().skip_while(|word| *word != SERVICE);
            words.next().is_some() && words.next() == Some("stop")
        }))
    }

    /// The last lines of a unit's log, since a time in milliseconds since 1970.
    pub fn log(&self, unit: &str, lines: u32, since_ms: u64) -> Vec<String> {
        self.journal(&["-u", unit, "-n", &lines.to_string(), "-o", "cat", &format!("--since=@{}", since_ms / 1_000)])
    }

    /// Errors in the log of both slots since a time.
    pub fn errors_since(&self, since_ms: u64) -> Vec<String> {
        let since = format!("--since=@{}", since_ms / 1_000);
        self.journal(&["-u", "hotgo@*.service", "-p", "err", "-n", "50", "-o", "cat", &since])
    }

    fn journal(&self, arguments: &[&str]) -> Vec<String> {
        let mut command = Command::new(&self.journalctl);
        command.args(arguments).args(["--no-pager", "-q"]);
        // Without a journal there are no lines, and that is all.
        let done = process::run(&mut command, None, ANSWER, &self.interrupt);
        done.map(|done| done.stdout.lines().map(str::to_owned).collect()).unwrap_or_default()
    }
}
