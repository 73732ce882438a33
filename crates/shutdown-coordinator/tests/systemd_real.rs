//! Property 47 under a real systemd, with `examples/systemd.rs` and its unit.
//!
//! `scripts/test` boots one with `scripts/systemd-box`, where the machine allows it, and runs these against it. By hand:
//!
//! ```text
//! export BOX_NAME=dev BOX_BIND="$PWD/target/debug/examples/systemd:/usr/local/bin/systemd-example:ro"
//! cargo build -p shutdown-coordinator --features systemd --example systemd && scripts/systemd-box up
//! cargo nextest run -p shutdown-coordinator --features systemd --run-ignored all -E 'binary(systemd_real)'
//! scripts/systemd-box down
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

const UNIT: &str = include_str!("../examples/systemd.service");
const BOX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/systemd-box");

/// Runs a command inside, with this on its standard input.
fn inside(command: &[&str], input: &str) -> Output {
    let mut child = Command::new(BOX)
        .arg("exec")
        .args(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}{}", text(output), String::from_utf8_lossy(&output.stderr));
}

/// A unit of its own, from the example's, taken away at the end.
struct Unit {
    name: String,
}

impl Unit {
    /// `settings` override the unit's.
    fn new(scenario: &str, settings: &str) -> Self {
        let unit = Self { name: format!("example-{scenario}.service") };
        let mut file = UNIT.replace("systemd-example", &format!("systemd-example {scenario}"));
        if text(&inside(&["systemctl", "--version"], "")).split(' ').nth(1).unwrap().parse::<u32>().unwrap() < 253 {
            file = file.replace("Type=notify-reload", "Type=notify");
        }
        let file = file.replace("[Install]", &format!("{settings}\n[Install]"));
        assert_success(&inside(&["tee", &format!("/run/systemd/system/{}", unit.name)], &file));
        // No daemon-reload: systemd finds a new unit by itself, and would forget the extensions of the others.
        unit
    }

    /// Runs `systemctl`, and says how long that took.
    fn systemctl(&self, verb: &str) -> (Output, Duration) {
        let start = Instant::now();
        let output = inside(&["systemctl", verb, &self.name], "");
        (output, start.elapsed())
    }

    fn property(&self, name: &str) -> String {
        text(&inside(&["systemctl", "show", "--value", "-p", name, &self.name], ""))
    }

    /// Waits until the property satisfies this.
    fn wait(&self, name: &str, is: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let value = self.property(name);
            if is(&value) {
                return value;
            }
            assert!(Instant::now() < end, "{name} is still {value:?}\n{}", self.journal());
            thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn journal(&self) -> String {
        text(&inside(&["journalctl", "-o", "short-monotonic", "-u", &self.name], ""))
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        inside(&["systemctl", "kill", "-s", "KILL", &self.name], "");
        inside(&["systemctl", "stop", &self.name], "");
        inside(&["systemctl", "reset-failed", &self.name], "");
        inside(&["rm", &format!("/run/systemd/system/{}", self.name)], "");
    }
}

/// `TimeoutStopSec` is 3 s here, `WatchdogSec` 2 s, and the drain takes more than 6 s.
#[test]
#[ignore = "needs a systemd in namespaces: see the step `systemd` of scripts/test"]
fn a_drain_longer_than_the_stop_timeout_is_not_killed_and_says_what_it_waits_for() {
    let unit = Unit::new("slow", "");
    assert_success(&unit.systemctl("start").0);
    assert_eq!(unit.property("StatusText"), "serving");
    thread::scope(|scope| {
        let stop = scope.spawn(|| unit.systemctl("stop"));
        let status = unit.wait("StatusText", |status| status.contains("slow"));
        assert!(status.starts_with("shutting down (SIGTERM), 1"), "{status}");
        assert!(status.contains(" s left: drain: task \"slow\", for ") && status.ends_with(", and 1 more"), "{status}");
        assert_eq!(unit.property("ActiveState"), "deactivating");
        let (output, took) = stop.join().unwrap();
        assert_success(&output);
        assert!(took > Duration::from_secs(5), "the drain was cut short after {took:?}\n{}", unit.journal());
    });
    // systemd forgets the properties of a unit that ended well.
    let journal = unit.journal();
    assert!(journal.contains("exit code 0") && journal.contains("Deactivated successfully"), "{journal}");
}

#[test]
#[ignore = "needs a systemd in namespaces: see the step `systemd` of scripts/test"]
fn a_service_with_nothing_to_do_satisfies_its_watchdog() {
    let unit = Unit::new("serve", "");
    assert_success(&unit.systemctl("start").0);
    let mut last = String::new();
    for _ in 0..4 {
        last = unit.wait("WatchdogTimestampMonotonic", |ping| ping != last);
    }
    assert_eq!(unit.property("ActiveState"), "active");
    assert_eq!(unit.property("NRestarts"), "0");
}

#[test]
#[ignore = "needs a systemd in namespaces: see the step `systemd` of scripts/test"]
fn a_hung_runtime_is_ended_by_the_watchdog() {
    let unit = Unit::new("hang", "Restart=no");
    assert_success(&unit.systemctl("start").0);
    unit.wait("ActiveState", |state| state == "failed");
    assert_eq!(unit.property("Result"), "watchdog", "{}", unit.journal());
}

/// An extension must not put systemd's watchdog off: the deadline is 20 s away, `WatchdogSec` 2 s.
#[test]
#[ignore = "needs a systemd in namespaces: see the step `systemd` of scripts/test"]
fn a_runtime_that_hangs_in_its_shutdown_is_ended_by_the_watchdog_too() {
    let unit = Unit::new("hang-stop", "Restart=no");
    assert_success(&unit.systemctl("start").0);
    let (_, took) = unit.systemctl("stop");
    assert_eq!(unit.property("Result"), "watchdog", "{}", unit.journal());
    assert!(took < Duration::from_secs(15), "{took:?}\n{}", unit.journal());
}

#[test]
#[ignore = "needs a systemd in namespaces: see the step `systemd` of scripts/test"]
fn a_reload_of_a_notify_reload_unit_returns_when_it_is_done() {
    let unit = Unit::new("reload", "");
    assert_success(&unit.systemctl("start").0);
    for count in 1..=2 {
        let (output, took) = unit.systemctl("reload");
        assert_success(&output);
        assert!(took >= Duration::from_secs(1), "a reload takes a second, not {took:?}");
        assert_eq!(unit.property("StatusText"), format!("serving, reload {count} is done"));
        assert_eq!(unit.property("ActiveState"), "active");
    }
    assert_success(&unit.systemctl("stop").0);
    assert!(unit.journal().contains("Deactivated successfully"), "{}", unit.journal());
}

#[test]
#[ignore = "needs a systemd in namespaces: see the step `systemd` of scripts/test"]
fn a_service_that_is_never_ready_fails_to_start() {
    let unit = Unit::new("mute", "TimeoutStartSec=2\nRestart=no");
    let (output, _) = unit.systemctl("start");
    assert!(!output.status.success(), "it was taken for started");
    assert_eq!(unit.property("Result"), "timeout", "{}", unit.journal());
}
