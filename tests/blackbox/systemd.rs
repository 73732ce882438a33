//! What the server tells systemd, and what of its shutdown is measured.

use std::time::Duration;

use crate::support::{CLEAN, Installation, eventually, within};
use serde_json::json;
use shutdown_coordinator::testkit::Signal;
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

#[tokio::test]
async fn the_journal_gets_the_priority_of_each_line_and_nobody_else_does() {
    for is_journal in [true, false] {
        let mut installation = Installation::new();
        let (file, config) = (installation.scratch("log"), installation.scratch("settings"));
        std::fs::create_dir(&config).unwrap();
        std::fs::write(config.join("config.yaml"), "log: {filter: info}\n").unwrap();
        installation.unset("HOTGO__LOG__FILTER");
        installation.set("HOTGO_CONFIG", config.to_str().unwrap());
        let stream = if is_journal { "$(stat -c %d:%i \"$LOG\")" } else { "8:15" };
        installation.set("LOG", file.to_str().unwrap());
        let script = format!("exec 2>\"$LOG\"; export JOURNAL_STREAM={stream}; exec \"$0\" \"$@\"");
        installation.wrap(["bash", "-c", &script]);
        let server = installation.start().await;
        std::fs::write(config.join("config.yaml"), "nonsense: true\n").unwrap();
        server.signal_process(Signal::Hup);
        let refused = async || {
            let log = std::fs::read_to_string(&file).unwrap();
            log.lines().find(|line| line.contains("configuration not reloaded")).map(str::to_owned)
        };
        let refused = eventually(BUDGET, "the reload is refused", refused).await;
        server.assert_stops_clean().await;
        let mut log = std::fs::read_to_string(&file).unwrap();
        let (exit, _) = installation.start_refused().await;
        assert_ne!(exit, CLEAN);
        log.push_str(&std::fs::read_to_string(&file).unwrap());
        if is_journal {
            assert!(log.contains("<3>error:"), "{log}");
            assert!(refused.starts_with("<3>"), "{refused}");
            let taken = log.lines().find(|line| line.contains("account taken")).unwrap();
            assert!(taken.starts_with("<6>"), "{taken}");
            assert!(log.lines().all(|line| line.starts_with('<')), "{log}");
        } else {
            assert!(!log.lines().any(|line| line.starts_with('<')), "{log}");
        }
    }
}

#[tokio::test]
async fn websockets_and_requests_are_counted_and_notices_reach_users() {
    let mut installation = Installation::new();
    let server = installation.start().await;
    let mut socket = server.socket().await;
    let said = "0.3.0 (expected downtime: none)";
    let notice = json!({ "severity": "major", "message": said, "effective_at": 4_000_000_000_000_u64 });
    for (nth, status) in [201, 200].into_iter().enumerate() {
        let answer = server.admin().post("/notices", &notice).await.unwrap();
        assert_eq!(answer.status, status, "{nth}");
    }
    for bad in [json!({ "severity": "major", "message": "" }), json!({ "severity": "x", "message": "y" }), json!({})] {
        assert_eq!(server.admin().post("/notices", &bad).await.unwrap().status, 422, "{bad}");
    }
    let late = json!({ "severity": "minor", "message": "x", "effective_at": u64::MAX });
    assert_eq!(server.admin().post("/notices", &late).await.unwrap().status, 422);
    let shown = server.client().get("/api/notices").await.unwrap().ok();
    assert_eq!(shown["items"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(shown["items"][0]["effective_at_us"], 4_000_000_000_000_000_u64);
    // Follows nothing yet: told when it says something, or at the next ping.
    socket.send(&json!({ "op": "ping" })).await;
    let told = socket.wait_for("the notice", |message| message["op"] == "notices").await;
    assert_eq!(told["items"], shown["items"]);
    let metrics = server.admin().get("/metrics").await.unwrap();
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    for line in ["hotgo_http_requests_total{status=\"101\"} 1", "hotgo_event_lag_seconds 0"] {
        assert!(metrics.lines().any(|shown| shown == line), "no {line} in\n{metrics}");
    }
    let age = metrics.lines().find_map(|line| line.strip_prefix("hotgo_lease_age_seconds ")).unwrap();
    drop(socket);
    assert!((0.0..20.0).contains(&age.parse::<f64>().unwrap()), "{age}");
    server.assert_stops_clean().await;
}
