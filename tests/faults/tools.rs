//! What the tests of this suite share: strace as the hand that injects, and numbers from the environment.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::support::{Installation, Load, Server, eventually};

/// Longer than the budgets that `Installation::new` sets, deadline and watchdog together.
pub(crate) const BUDGET: Duration = Duration::from_secs(12);

/// A number from the environment, for people who prolong a sweep.
pub(crate) fn number(name: &str, otherwise: usize) -> usize {
    #[expect(clippy::disallowed_methods, reason = "a test's own knob, not configuration")]
    let given = std::env::var(name);
    given.ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// strace in front of the server, detached, so that signals and the exit are the server's own.
pub(crate) fn strace(trace: &Path, options: &[&str]) -> Vec<String> {
    let mut words: Vec<String> = ["strace", "-D", "-f", "-q", "-o"].map(str::to_owned).into();
    words.push(trace.to_str().unwrap().to_owned());
    words.extend(options.iter().map(|option| (*option).to_owned()));
    words
}

/// What strace has written. The tracer may still be at it.
pub(crate) fn traced(trace: &Path) -> String {
    let bytes = std::fs::read(trace).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The whole trace of a process that has ended: strace notes the end of its first thread last.
pub(crate) async fn whole_trace(trace: &Path, pid: i32) -> String {
    let pid = format!("{pid} ");
    let ends = |line: &str| line.strip_prefix(&pid).is_some_and(|rest| rest.trim_start().starts_with("+++ "));
    let whole = async || Some(traced(trace)).filter(|text| text.lines().any(ends));
    eventually(Duration::from_secs(10), "strace notes the end of the process", whole).await
}

/// An order of this status, or a failed test.
pub(crate) async fn order_with_status(server: &Server, id: &str, status: &str) -> Value {
    let pick = |order: &Value| order["client_id"] == id && order["status"] == status;
    server.order_that(&format!("{id} is {status}"), pick).await
}

/// The id of the order that an answered signal planned.
pub(crate) fn order_of(answer: &Value) -> String {
    answer["orders"][0].as_str().unwrap_or_else(|| panic!("no order in {answer}")).to_owned()
}

/// Starts again without wrapper, audits, and kills: the quickest way to know that all is well.
pub(crate) async fn assert_recovers(installation: &mut Installation, load: Option<&Load>, context: &str) {
    let server = installation.start().await;
    installation.audit(load.map(Load::path)).await.assert_clean(context);
    server.sigkill().await;
}
