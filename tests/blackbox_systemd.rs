//! What the server tells systemd, and what of its shutdown is measured.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::as_conversions,
    reason = "tests"
)]

mod support;

use std::time::Duration;

use support::{CLEAN, Installation, within};
use tokio::net::UnixDatagram;

/// Longer than the budgets that `Installation::new` sets.
const BUDGET: Duration = Duration::from_secs(15);

/// Messages until one has this line.
async fn until(bus: &UnixDatagram, line: &str) -> Vec<String> {
    let mut heard = Vec::new();
    let listening = async {
        while !heard.last().is_some_and(|message: &String| message.lines().any(|said| said.starts_with(line))) {
            let mut buffer = vec![0; 4096];
            let length = bus.recv(&mut buffer).await.unwrap();
            heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
    };
    within(BUDGET, format!("systemd hears {line}"), listening).await;
    heard
}

#[tokio::test]
async fn systemd_hears_when_the_server_listens_lives_drains_and_stops() {
    let mut installation = Installation::new();
    let socket = installation.scratch("notify");
    let bus = UnixDatagram::bind(&socket).unwrap();
    installation.set("NOTIFY_SOCKET", socket.to_str().unwrap());
    installation.set("WATCHDOG_USEC", "1000000");
    let mut server = installation.start().await;
    // The port is any free one: nobody knows it before the server listens.
    let ready = format!("READY=1\nSTATUS=listening on http://{}\n", server.address());
    assert_eq!(until(&bus, "READY=1").await.pop().unwrap(), ready);
    until(&bus, "WATCHDOG=1").await;

    // An order that the venue does not answer keeps the drain going.
    let robot = server.robot("draining").await;
    server.silence_venue().await;
    server.signal(&robot, "held").await.unwrap().ok();
    server.wait_fired("hold_answers").await;
    server.sigterm();
    let heard = until(&bus, "STOPPING=1").await;
    let extended = heard.iter().filter(|message| message.contains("EXTEND_TIMEOUT_USEC="));
    assert!(
        extended.clone().count() >= 1 && extended.clone().all(|message| message.contains("WATCHDOG=1")),
        "{heard:?}"
    );
    until(&bus, "STATUS=shutting down (SIGTERM), ").await;
    server.wait_phase("order-drain").await;
    let metrics = server.admin().get("/metrics").await.unwrap();
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    for line in [
        "# HELP shutdown_phase_duration_seconds ",
        "shutdown_started_total{reason=\"signal\"} 1",
        "shutdown_phase_duration_seconds_count{phase=\"announce\",status=\"completed\"} 1",
        "shutdown_in_flight{phase=\"stop-new-signals\",gate=\"signals\"} 0",
        "shutdown_forced_total 0",
    ] {
        assert!(metrics.lines().any(|shown| shown.starts_with(line)), "no {line} in\n{metrics}");
    }
    server.set_faults(serde_json::json!({})).await;
    until(&bus, "STATUS=stopped (SIGTERM)").await;
    assert_eq!(server.wait_exit(BUDGET).await, CLEAN, "{}", server.stdout());
}

#[tokio::test]
async fn a_notify_socket_that_cannot_be_used_is_named() {
    let mut installation = Installation::new();
    installation.set("NOTIFY_SOCKET", "/nonexistent/notify");
    let (exit, words) = installation.start_refused().await;
    assert_ne!(exit, CLEAN);
    assert!(words.contains("NOTIFY_SOCKET=/nonexistent/notify cannot be used"), "{words}");
}
