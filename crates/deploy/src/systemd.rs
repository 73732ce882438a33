//! systemd, through `systemctl`, `systemd-run` and `journalctl`: nothing else here knows that they exist.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::process::Command;
use std::time::Duration;

use crate::error::Error;
use crate::process::{self, Finished, Interrupt};
use crate::time;

/// The umbrella.
pub const SERVICE: &str = "hotgo.service";
/// The public listener.
pub const SOCKET: &str = "hotgo.socket";

/// A question is answered within this.
const ANSWER: Duration = Duration::from_secs(20);
/// What a program that is another user's gets to end after SIGTERM.
const TERM_WAIT: &str = "5s";
/// What it needs beyond the server's user: nothing.
const SANDBOX: [&str; 8] = [
    "CapabilityBoundingSet=",
    "NoNewPrivileges=yes",
    "ProtectSystem=full",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "RestrictSUIDSGID=yes",
    "UMask=0077",
];

/// How a unit stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// `loaded`, or why its file is of no use: `not-found`, `masked`, `bad-setting`, ...
    pub load: String,
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
    /// `systemd-run`.
    launcher: String,
    interrupt: Interrupt,
}

impl Systemd {
    /// These commands: `systemctl` and `journalctl`, or what a test gives.
    pub fn new(systemctl: &str, journalctl: &str, interrupt: Interrupt) -> Self {
        let [systemctl, journalctl, launcher] = [systemctl, journalctl, "systemd-run"].map(str::to_owned);
        Self { systemctl, journalctl, launcher, interrupt }
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

    /// Runs a program to its end as another user: systemd starts it, in a unit of its own, so that the tool needs no right to
    /// become somebody else. Of the environment it gets what the command sets, and the server's settings (`HOTGO__*`).
    ///
    /// # Errors
    /// As [`process::run`]. Nothing of it runs any more then; if the tool is killed, systemd sees to the timeout.
    pub fn run_as(&self, user: &str, command: &Command, timeout: Duration) -> Result<Finished, Error> {
        let unit = format!("hotgo-run-{}-{}.service", std::process::id(), time::now_ms());
        let mut run = Command::new(&self.launcher);
        run.args(["--quiet", "--collect", "--wait", "--pipe"]).arg(format!("--unit={unit}"));
        run.args([format!("--uid={user}"), format!("--gid={user}")]);
        if let Some(dir) = command.get_current_dir() {
            run.arg(with("--working-directory=", dir.as_os_str()));
        }
        let settings = std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"HOTGO__"));
        let own = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        for (name, value) in settings.chain(own) {
            let name = with("--setenv=", &name);
            run.arg(with(with(name, "="), &value));
        }
        let limits = [format!("RuntimeMaxSec={}s", timeout.as_secs() + 1), format!("TimeoutStopSec={TERM_WAIT}")];
        for property in SANDBOX.map(str::to_owned).into_iter().chain(limits) {
            run.arg(format!("--property={property}"));
        }
        run.arg("--").arg(command.get_program()).args(command.get_args());
        let done = process::run(&mut run, None, timeout, &self.interrupt);
        if done.is_err() {
            // Who waited is gone, and the program is not. Not even a signal keeps this from being done.
            let mut stop = Command::new(&self.systemctl);
            let _told = process::run(stop.args(["stop", &unit]), None, ANSWER, &Interrupt::default());
        }
        done
    }

    /// How a unit stands.
    ///
    /// # Errors
    /// [`Error::Systemd`] when systemd cannot be asked.
    pub fn show(&self, unit: &str) -> Result<Unit, Error> {
        let done = self.run(&["show", "-p", "LoadState,ActiveState,MainPID,Result,NRestarts", unit], ANSWER)?;
        if !done.status.success() {
            return Err(Error::Systemd(format!("systemctl show {unit}: {}", done.last_words())));
        }
        let fields: BTreeMap<&str, &str> = done.stdout.lines().filter_map(|line| line.split_once('=')).collect();
        let text = |key| fields.get(key).copied().unwrap_or_default();
        Ok(Unit {
            load: text("LoadState").to_owned(),
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

fn with(before: impl Into<OsString>, after: impl AsRef<OsStr>) -> OsString {
    let mut text = before.into();
    text.push(after);
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    fn script(path: &Path, text: &str) -> String {
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    /// Commands that write down what they are told; `systemd-run` runs what it is given, as whoever we are.
    fn pretended(dir: &Path) -> Systemd {
        let told = dir.join("told");
        let note = format!("echo \"$0\" \"$@\" >>{}", told.display());
        let run = format!("{note}; until [ \"$1\" = -- ]; do shift; done; shift; exec \"$@\"");
        Systemd {
            systemctl: script(&dir.join("systemctl"), &note),
            journalctl: "true".to_owned(),
            launcher: script(&dir.join("systemd-run"), &run),
            interrupt: Interrupt::default(),
        }
    }

    #[test]
    fn a_program_of_another_user_is_started_by_systemd_and_its_words_and_status_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let systemd = pretended(dir.path());
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 6"]).current_dir("/opt").env("HOTGO_CONFIG", "/etc/hotgo");
        let done = systemd.run_as("hotgo", &command, Duration::from_secs(30)).unwrap();
        assert_eq!((done.status.code(), done.stdout.as_str(), done.stderr.as_str()), (Some(6), "out\n", "err\n"));
        let told = fs::read_to_string(dir.path().join("told")).unwrap();
        for words in [
            "--uid=hotgo --gid=hotgo",
            "--working-directory=/opt",
            "--setenv=HOTGO_CONFIG=/etc/hotgo",
            "--property=RuntimeMaxSec=31s",
            "--property=NoNewPrivileges=yes",
            "-- sh -c",
        ] {
            assert!(told.contains(words), "no {words:?} in {told}");
        }
        assert!(!told.contains("systemctl stop"), "{told}");
    }

    #[test]
    fn a_program_of_another_user_is_stopped_by_its_unit_when_nobody_waits_for_it_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let systemd = Systemd { interrupt: Interrupt::arrived(), ..pretended(dir.path()) };
        let mut command = Command::new("sleep");
        let error = systemd.run_as("hotgo", command.arg("60"), Duration::from_mins(1)).unwrap_err();
        assert!(matches!(error, Error::Interrupted { .. }), "{error}");
        let told = fs::read_to_string(dir.path().join("told")).unwrap();
        let stop = told.lines().find(|line| line.contains("systemctl stop hotgo-run-")).unwrap();
        assert!(stop.ends_with(".service"), "{told}");
    }
}
