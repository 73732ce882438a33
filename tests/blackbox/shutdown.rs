//! Shutdown, seen from outside: signals to the real process at awkward moments.
//!
//! Whatever the moment, the process ends within its budget, says how it ended, and after the next start the audit finds
//! nothing lost and nothing doubled.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::server::signal_body;
use crate::support::websocket::Ended;
use crate::support::{CLEAN, Installation, Load, Socket, UNCLEAN, eventually, within};
use serde_json::{Value, json};
use shutdown_coordinator::testkit::{Exit, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Longer than the budgets that `Installation::new` sets, deadline and watchdog together.
const BUDGET: Duration = Duration::from_secs(9);

/// The orders that the report names: whatever in it looks like a client order id (`h` and 26 more).
fn unresolved(report: &Value) -> BTreeSet<String> {
    let text = report.to_string();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| word.len() == 27 && word.starts_with('h')).map(str::to_owned).collect()
}

#[tokio::test]
async fn an_idle_server_ends_with_0_and_leaves_a_report() {
    let mut installation = Installation::new();
    let mut server = installation.start().await;
    server.sigterm();
    assert_eq!(server.wait_exit(BUDGET).await, CLEAN);
    let report = installation.report();
    assert_eq!(unresolved(&report), BTreeSet::new());
    for phase in [
        "announce",
        "stop-accepting",
        "stop-new-signals",
        "order-drain",
        "persist-state",
        "close-streams",
        "close-stores",
    ] {
        assert!(server.stdout().contains(phase), "the table lacks {phase}:\n{}", server.stdout());
        assert!(report.to_string().contains(phase), "the report lacks {phase}: {report}");
    }
}

#[tokio::test]
async fn sigterm_under_load_loses_no_acknowledged_signal() {
    let mut installation = Installation::new();
    let load = Load::new(&installation.scratch("answered"), "drain");
    let mut server = installation.start().await;
    let robot = server.robot("loaded").await;
    let client = server.client();
    let mut tasks = JoinSet::new();
    let (sender, target) = (load.clone(), robot.clone());
    tasks.spawn(async move { sender.run(&client, &target, 8, 100_000).await });
    eventually(Duration::from_secs(10), "signals are answered", async || (load.answered() >= 50).then_some(())).await;
    server.sigterm();
    assert_eq!(server.wait_exit(BUDGET).await, CLEAN, "{}", server.stdout());
    within(Duration::from_secs(25), "the senders end", tasks.join_next()).await.unwrap().unwrap();
    installation.assert_recovers_clean(Some(load.path()), "after a shutdown under load").await;
}

#[tokio::test]
async fn while_it_drains_it_is_alive_and_not_ready_and_new_signals_get_503_with_retry_after() {
    let mut installation = Installation::new();
    let mut server = installation.start().await;
    let robot = server.robot("draining").await;
    server.signal(&robot, "before").await.unwrap().ok();
    // An order that the venue does not answer keeps the drain going; connections from before it go on being answered.
    server.silence_venue().await;
    server.signal(&robot, "held").await.unwrap().ok();
    server.wait_fired("hold_answers").await;
    let [mut alive, mut ready, mut health, mut signal] =
        [server.keep_alive().await, server.keep_alive().await, server.keep_alive().await, server.keep_alive().await];
    server.sigterm();
    server.wait_phase("order-drain").await;
    assert_eq!(alive.get("/api/health/live").await.status, 200, "liveness must hold while it drains");
    assert_eq!(ready.get("/api/health/ready").await.status, 503, "readiness must not");
    let health = health.get("/api/health").await;
    assert_eq!(health.json()["phase"], "order-drain", "{health:?}");
    let refused = signal.post("/api/signals", &signal_body(robot.id)).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "a 503 must say when to try again: {refused:?}");
    assert_eq!(refused.header("connection"), Some("close"), "each answer is the last on its connection: {refused:?}");
    server.set_faults(json!({})).await;
    assert_eq!(server.wait_exit(BUDGET).await, CLEAN, "{}", server.stdout());
    let server = installation.start().await;
    for key in ["before", "held"] {
        let again = server.signal(&robot, key).await.unwrap().ok();
        assert_eq!(again["orders"].as_array().map(Vec::len), Some(1), "the acknowledged signal survived: {again}");
    }
    installation.audit(None).await.assert_clean("after a drain");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn during_the_hold_it_is_not_ready_and_still_takes_signals() {
    let mut installation = Installation::new();
    installation.set("HOTGO__SHUTDOWN__HOLD_MS", "1500");
    installation.set("HOTGO__SHUTDOWN__DEADLINE_MS", "9000");
    installation.set("HOTGO__SHUTDOWN__STOP_BUDGET_MS", "11000");
    let mut server = installation.start().await;
    let robot = server.robot("held").await;
    server.sigterm();
    let client = server.client();
    let not_ready = async || client.get("/api/health/ready").await.ok().filter(|answer| answer.status == 503);
    eventually(Duration::from_secs(2), "readiness turns 503", not_ready).await;
    // Load balancers have not seen it yet: nobody who is still sent here is turned away.
    server.signal(&robot, "in-the-hold").await.unwrap().ok();
    assert_eq!(server.wait_exit(BUDGET + Duration::from_secs(2)).await, CLEAN);
}

#[tokio::test]
async fn sigterm_while_the_venue_is_silent_leaves_the_order_unknown_names_it_and_the_next_start_resolves_it() {
    silent_venue(Installation::new(), BUDGET).await;
}

#[tokio::test]
async fn with_the_default_budgets_a_silent_venue_does_not_outlast_the_supervisors_patience() {
    let mut installation = Installation::with_defaults();
    installation.set("HOTGO__VENUE__PAPER__ALLOW_FAULTS", "true");
    silent_venue(installation, Duration::from_secs(44)).await;
}

async fn silent_venue(mut installation: Installation, limit: Duration) {
    let mut server = installation.start().await;
    let robot = server.robot("silenced").await;
    server.silence_venue().await;
    let made = server.signal(&robot, "into-silence").await.unwrap().ok();
    let id = made["orders"][0].as_str().unwrap().to_owned();
    server.wait_fired("hold_answers").await;
    server.sigterm();
    let at = Instant::now();
    let exit = server.wait_exit(limit).await;
    assert_eq!(exit, UNCLEAN, "after {:?}\n{}", at.elapsed(), server.stdout());
    assert_eq!(unresolved(&installation.report()), BTreeSet::from([id.clone()]));
    assert!(server.stdout().contains(&id), "the table names the order:\n{}", server.stdout());

    let server = installation.start().await;
    let resolved = |order: &Value| order["client_id"] == id.as_str() && order["status"] == "FILLED";
    server.order_that("the order is resolved", resolved).await;
    installation.audit(None).await.assert_clean("after the venue was silent");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn a_second_sigterm_shortens_the_drain_and_still_persists() {
    let mut installation = Installation::new();
    installation.set("HOTGO__SHUTDOWN__ORDER_DRAIN_MS", "20000");
    installation.set("HOTGO__SHUTDOWN__DEADLINE_MS", "28000");
    installation.set("HOTGO__SHUTDOWN__STOP_BUDGET_MS", "30000");
    let mut server = installation.start().await;
    let robot = server.robot("impatient").await;
    server.silence_venue().await;
    let made = server.signal(&robot, "twice").await.unwrap().ok();
    server.wait_fired("hold_answers").await;
    server.sigterm();
    server.wait_draining().await;
    assert!(!server.exits_within(Duration::from_millis(500)).await, "the first one waits for the order");
    server.sigterm();
    let exit = server.wait_exit(Duration::from_secs(6)).await;
    // 128 + SIGTERM: forced.
    assert_eq!(exit, Exit::Code(143), "{}", server.stdout());
    let id = made["orders"][0].as_str().unwrap().to_owned();
    assert_eq!(unresolved(&installation.report()), BTreeSet::from([id]));
    installation.assert_recovers_clean(None, "after two SIGTERMs").await;
}

#[tokio::test]
async fn sighup_does_not_end_the_process() {
    let mut installation = Installation::new();
    let mut server = installation.start().await;
    for _ in 0..3 {
        server.signal_process(Signal::Hup);
        assert!(!server.exits_within(Duration::from_millis(150)).await, "SIGHUP ended it");
    }
    server.wait_ready().await;
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn sigterm_every_10_ms_through_start_up_never_leaves_a_half_made_data_directory() {
    let installation = Installation::new();
    let mut delay_ms = 0;
    loop {
        let mut server = installation.spawn();
        let born = Instant::now();
        server.exits_within(Duration::from_millis(delay_ms)).await;
        let was_ready = server.stdout().contains("listening on");
        server.sigterm();
        let exit = server.wait_exit(BUDGET).await;
        // Before the handler is installed the default action ends it, which is as good.
        let default_action = Exit::Signal(15);
        assert!(exit == CLEAN || exit == default_action, "after {delay_ms} ms: {exit:?}\n{}", server.stderr());
        if was_ready && born.elapsed() > Duration::from_millis(100) {
            break;
        }
        delay_ms += 10;
        assert!(delay_ms < 5_000, "it never became ready");
    }
    // Whatever was cut short, it starts: the token may have been shown to an interrupted start, so no API is used here.
    let mut server = installation.spawn();
    server.wait_listening().await;
    server.wait_ready().await;
    installation.audit(None).await.assert_clean("after interrupted starts");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn two_hundred_websockets_half_sent_requests_and_idle_connections_do_not_hold_up_the_end() {
    let mut installation = Installation::new();
    let mut server = installation.start().await;
    let address = server.address();
    let mut sockets = Vec::new();
    for _ in 0..200 {
        let mut socket: Socket = server.socket().await;
        socket.subscribe(1, 0).await;
        sockets.push(socket);
    }
    let mut half_sent = Vec::new();
    for text in [
        "GET /api/health HT",
        "POST /api/signals HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"rob",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        for _ in 0..10 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            half_sent.push(stream);
        }
    }
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /api/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        idle.push(stream);
    }
    server.sigterm();
    let mut ends = JoinSet::new();
    for mut socket in sockets {
        ends.spawn(async move { socket.until_end(BUDGET).await });
    }
    while let Some(end) = ends.join_next().await {
        let end = end.unwrap();
        assert!(matches!(end, Ended::Closed(1001 | 1012, _)), "a websocket ended with {end:?}");
    }
    assert_eq!(server.wait_exit(BUDGET).await, CLEAN, "{}", server.stdout());
}

#[tokio::test]
async fn a_shutdown_asked_for_over_http_is_the_same_shutdown() {
    let mut installation = Installation::new();
    let mut server = installation.start().await;
    assert_eq!(server.client().anonymous().post("/api/shutdown", &json!({})).await.unwrap().status, 401);
    server.client().post("/api/shutdown", &json!({})).await.unwrap().ok();
    assert_eq!(server.wait_exit(BUDGET).await, CLEAN);

    let mut server = installation.start().await;
    server.admin().post("/shutdown", &json!({"reason": "a test"})).await.unwrap().ok();
    assert_eq!(server.wait_exit(BUDGET).await, CLEAN);
}

/// SIGTERM while an order is held at each point of its life (P0 to P7 in docs/architecture.md), twice: the point is let go
/// once the shutdown has begun, or never.
#[cfg(feature = "failpoints")]
mod at_each_point {
    use super::*;

    async fn sigterm_at(point: &str, let_go: bool) {
        let mut installation = Installation::new();
        let points = installation.points();
        let load = Load::new(&installation.scratch("answered"), point);
        let mut server = installation.start().await;
        let robot = server.robot("held").await;
        points.arm(point);
        let client = server.client();
        let (sender, target) = (load.clone(), robot.clone());
        let mut sending = JoinSet::new();
        sending.spawn(async move { sender.send(&client, &target).await });
        let held = points.reached(point).await.unwrap();
        server.sigterm();
        server.wait_draining().await;
        if let_go {
            points.disarm(point);
        }
        let _never_let_go = (!let_go).then_some(held);
        let exit = server.wait_exit(BUDGET).await;
        within(BUDGET, "the sender hears something", sending.join_next()).await.unwrap().unwrap();
        if let_go {
            assert_eq!(exit, CLEAN, "{point} was let go, so it finishes\n{}", server.stdout());
        } else {
            let named = unresolved(&installation.report());
            assert!(exit == CLEAN || exit == UNCLEAN, "{point}: {exit:?}\n{}", server.stdout());
            assert!(named.is_empty() || exit == UNCLEAN, "{point}: {named:?} are open, and it says {exit:?}");
        }
        points.disarm(point);
        // Sending the same signal again is safe, and afterwards there is exactly one order.
        let server = installation.start().await;
        let key = format!("{point}-0");
        let again = server.client().post_keyed("/api/signals", &key, &signal_body(robot.id)).await.unwrap();
        load.note(&again.ok());
        server.order_that("the order ends", |order| order["status"] == "FILLED" || order["status"] == "ABSENT").await;
        // One that is proven never to have reached the venue may be followed by another attempt under a new id.
        let mut orders = server.orders().await;
        orders.sort_by_key(|order| order["generation"].as_i64());
        let last = orders.pop().unwrap();
        assert!(orders.iter().all(|order| order["status"] == "ABSENT"), "{point}: one signal, one order: {orders:?}");
        assert!(orders.iter().all(|order| order["decision"] == last["decision"]), "{point}: one decision");
        installation.audit(Some(load.path())).await.assert_clean(point);
        server.assert_stops_clean().await;
    }

    macro_rules! points {
        ($($finishes:ident, $held:ident, $point:literal;)+) => {
            $(
                #[tokio::test]
                async fn $finishes() {
                    sigterm_at($point, true).await;
                }

                #[tokio::test]
                async fn $held() {
                    sigterm_at($point, false).await;
                }
            )+
        };
    }

    points! {
        sigterm_before_the_request_is_read_finishes_it, sigterm_before_a_request_that_is_never_read_ends_in_time, "p0";
        sigterm_before_authorisation_finishes_it, sigterm_before_an_endless_authorisation_ends_in_time, "p1";
        sigterm_before_the_commit_finishes_it, sigterm_before_an_endless_commit_ends_in_time, "p2";
        sigterm_before_the_answer_finishes_it, sigterm_before_an_endless_answer_ends_in_time, "p3";
        sigterm_before_the_send_finishes_it, sigterm_before_an_endless_send_ends_in_time, "p4";
        sigterm_on_the_wire_finishes_it, sigterm_on_an_endless_wire_ends_in_time, "p5";
        sigterm_after_the_venues_answer_finishes_it, sigterm_after_an_answer_nobody_books_ends_in_time, "p6";
        sigterm_after_the_result_is_committed_finishes_it, sigterm_after_the_result_with_no_end_ends_in_time, "p7";
    }
}
