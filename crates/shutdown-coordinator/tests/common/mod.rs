//! What several test files use.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "tests; no file uses all of it")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use shutdown_coordinator::{Builder, Entry, Outcome, PhaseReport, Reason, Report, ShutdownCoordinator, ShutdownHandle};

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn manual() -> Reason {
    Reason::Manual("test".to_owned())
}

pub fn build(builder: Builder) -> (ShutdownCoordinator, ShutdownHandle) {
    builder.build().unwrap()
}

pub fn phase<'a>(report: &'a Report, name: &str) -> &'a PhaseReport {
    report.phases.iter().find(|phase| phase.name == name).unwrap_or_else(|| panic!("no phase {name} in {report}"))
}

/// The one entry with this name.
pub fn entry<'a>(report: &'a Report, name: &str) -> &'a Entry {
    let mut found = report.phases.iter().flat_map(|phase| &phase.entries).filter(|entry| entry.name == name);
    let entry = found.next().unwrap_or_else(|| panic!("no entry {name} in {report}"));
    assert!(found.next().is_none(), "{name} is in the report twice: {report}");
    entry
}

pub fn outcome<'a>(report: &'a Report, name: &str) -> &'a Outcome {
    &entry(report, name).outcome
}

/// Remembers what happened in which order.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    pub fn add(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Waits for an event, for at most ten seconds of real time.
pub async fn soon<F: Future>(event: F) -> F::Output {
    tokio::time::timeout(secs(10), event).await.unwrap()
}

/// What an assertion says when it fails.
pub fn complaint(assertion: impl FnOnce()) -> String {
    let Err(payload) = catch_unwind(AssertUnwindSafe(assertion)) else { panic!("the assertion should have failed") };
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| (*payload.downcast_ref::<&str>().unwrap()).to_owned())
}

pub fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}
