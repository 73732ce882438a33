//! The server at an exchange in another process: `main http` with `venue: binance` against `main venue`, over real sockets.
//! The exchange asserts that each order's row is committed before its request arrives, and survives whatever kills the
//! server.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::server::Robot;
use crate::support::{Client, Installation, Load, Server, eventually, within};
use serde_json::{Value, json};
use shutdown_coordinator::testkit::{Exit, Process};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(30);
const API_KEY: &str = "TheApiKey";
const SECRET: &str = "TheSecretThatNobodyPrints";
/// Roomier than the in-process venue's: these requests cross sockets on a busy machine.
const WINDOW: &[(&str, &str)] = &[
    ("HOTGO__VENUE__RECV_WINDOW_MS", "3000"),
    ("HOTGO__VENUE__ABSENCE_MARGIN_MS", "1000"),
    ("HOTGO__VENUE__REQUEST_TIMEOUT_MS", "3000"),
];

/// The exchange's process. Dropping it kills it.
struct Exchange {
    process: Process,
    control: Client,
}

/// A server's installation and an exchange beside it.
struct World {
    installation: Installation,
    exchange: Exchange,
    address: String,
    verifier: String,
}

fn exchange_dir(installation: &Installation) -> PathBuf {
    installation.scratch("exchange")
}

impl Exchange {
    async fn start(installation: &Installation, bind: &str, verifier: &str) -> (Self, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_main"));
        command
            .args(["venue", "--allow-faults", "--bind", bind, "--key", &format!("main:{API_KEY}:{verifier}")])
            .arg("--data-dir")
            .arg(exchange_dir(installation))
            .arg("--witness")
            .arg(installation.database())
            .envs(WINDOW.iter().copied());
        let mut process = Process::start(command).unwrap().patience(LIMIT);
        let address = |line: &str| line.strip_prefix("venue listening on http://").map(|rest| rest.trim().to_owned());
        let address = process.find_line("where the exchange listens", address).await.unwrap();
        let control = Client::unix(&exchange_dir(installation).join("venue.sock"));
        (Self { process, control }, address)
    }

    async fn set_faults(&self, faults: Value) {
        let answer = self.control.post("/faults", &faults).await.unwrap();
        assert!(answer.is_success(), "{}", answer.status);
    }

    async fn wait_fired(&self, fault: &str) {
        let fired = async || {
            let answer = self.control.get("/faults").await.unwrap().ok();
            (answer.pointer(&format!("/fired/{fault}"))?.as_u64()? > 0).then_some(())
        };
        eventually(LIMIT, format!("{fault} fires"), fired).await;
    }
}

impl World {
    async fn new() -> Self {
        Self::with(SECRET, SECRET).await
    }

    /// `secret` is what the server signs with, `verifier` what the exchange knows of it.
    async fn with(secret_text: &str, verifier: &str) -> Self {
        let mut installation = Installation::new();
        let (exchange, address) = Exchange::start(&installation, "127.0.0.1:0", verifier).await;
        let secret = installation.scratch("secret");
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&secret).unwrap();
        file.write_all(secret_text.as_bytes()).unwrap();
        let account =
            format!("[{{label: main, venue: binance, api_key: {API_KEY}, secret_file: {}}}]", secret.display());
        for (name, value) in WINDOW {
            installation.set(name, value);
        }
        installation.set("HOTGO__TRADING__ACCOUNTS", &account);
        installation.set("HOTGO__VENUE__BINANCE__REST_URL", &format!("http://{address}"));
        installation.set("HOTGO__VENUE__BINANCE__WS_API_URL", &format!("ws://{address}/ws-api/v3"));
        installation.set("HOTGO__VENUE__BINANCE__WS_STREAM_URL", &format!("ws://{address}"));
        installation.set("HOTGO__VENUE__BINANCE__RECONCILE_MS", "500");
        installation.set("HOTGO__VENUE__PAPER__ALLOW_FAULTS", "false");
        installation.set("HOTGO__MARKET__SOURCE", "binance");
        Self { installation, exchange, address, verifier: verifier.to_owned() }
    }

    async fn start(&mut self) -> Server {
        self.installation.start().await
    }

    /// The exchange dies and comes back where it was.
    async fn restart_exchange(&mut self) {
        assert_eq!(self.exchange.process.kill().await.unwrap(), Exit::Signal(9));
        (self.exchange, _) = Exchange::start(&self.installation, &self.address, &self.verifier).await;
    }

    async fn assert_clean(&self, answered: Option<&Path>, context: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_main"));
        command
            .args(["audit", "--json", "--settle", "20", "--data-dir"])
            .arg(self.installation.data_dir())
            .env("HOTGO__VENUE__PAPER__LEDGER", exchange_dir(&self.installation).join("venue.ledger"))
            .current_dir(self.installation.scratch(""));
        if let Some(path) = answered {
            command.arg("--answered").arg(path);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = within(LIMIT + LIMIT, "main audit ends", command.output()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let report: Value = serde_json::from_str(&text).unwrap_or_default();
        assert!(
            report["counts"]["orders"].as_u64().is_some_and(|orders| orders > 0),
            "{context}: nothing to audit: {text}"
        );
        assert_eq!(output.status.code(), Some(0), "{context}: {text}{}", String::from_utf8_lossy(&output.stderr));
    }

    /// How often the exchange received a request for a new order.
    fn posts(&self) -> Vec<String> {
        let text = std::fs::read_to_string(exchange_dir(&self.installation).join("requests.jsonl")).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|line| line["method"] == "POST")
            .map(|line| line["client_id"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

async fn filled(server: &Server, count: usize) {
    let all = async || {
        let orders = server.orders().await;
        (orders.iter().filter(|order| order["status"] == "FILLED").count() >= count).then_some(())
    };
    eventually(LIMIT, format!("{count} filled orders"), all).await;
}

#[tokio::test]
async fn a_signal_becomes_a_fill_at_the_exchange_and_survives_a_kill() {
    let mut world = World::new().await;
    let server = world.start().await;
    let robot = server.robot("follower").await;
    server.signal(&robot, "first").await.unwrap().ok();
    filled(&server, 1).await;
    assert!(!server.stderr().contains(SECRET), "the secret is in the log");
    server.sigkill().await;
    let server = world.start().await;
    server.signal(&robot, "first").await.unwrap().ok();
    server.signal(&robot, "second").await.unwrap().ok();
    filled(&server, 2).await;
    world.assert_clean(None, "after a kill").await;
    assert_eq!(world.posts().len(), 2, "the repeated signal made no second order");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn an_ed25519_key_opens_the_exchange_too() {
    use base64::Engine as _;
    use ring::signature::{Ed25519KeyPair, KeyPair};
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    // SubjectPublicKeyInfo of an Ed25519 key: RFC 8410, section 4.
    let mut public = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00".to_vec();
    public.extend(pair.public_key().as_ref());
    let pem = |what: &str, der: &[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n")
    };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(pem("PUBLIC KEY", &public).as_bytes()).unwrap();
    let verifier = format!("@{}", file.path().display());
    let mut world = World::with(&pem("PRIVATE KEY", pkcs8.as_ref()), &verifier).await;
    let server = world.start().await;
    let robot = server.robot("follower").await;
    server.signal(&robot, "only").await.unwrap().ok();
    filled(&server, 1).await;
    world.assert_clean(None, "with an Ed25519 key").await;
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn kills_under_load_lose_nothing_and_double_nothing() {
    let mut world = World::new().await;
    let load = Load::new(&world.installation.scratch("answered"), "load");
    let mut robot = None;
    for round in 0..6_u64 {
        let server = world.start().await;
        let target: &Robot = match &robot {
            Some(robot) => robot,
            None => robot.insert(server.robot("follower").await),
        };
        let before = load.answered();
        let client = server.client();
        let kill = async {
            let some = async || (load.answered() > before + 3 * round).then_some(());
            eventually(LIMIT, "signals are answered", some).await;
            server.sigkill().await;
        };
        let ((), ()) = tokio::join!(load.run(&client, target, 4, 2_000), kill);
    }
    let server = world.start().await;
    world.assert_clean(Some(load.path()), "after six kills under load").await;
    server.assert_stops_clean().await;
    let mut posts = world.posts();
    let all = posts.len();
    posts.sort();
    posts.dedup();
    assert_eq!(posts.len(), all, "an order was posted twice");
}

/// Killed before the request leaves, with it on the wire, and with the answer in hand.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn killed_at_any_point_of_a_request_the_order_is_found_or_proven_absent() {
    for (point, arrived) in [("p4", 0), ("p5", 1), ("p6", 1)] {
        let mut world = World::new().await;
        let points = world.installation.points();
        let server = world.start().await;
        let robot = server.robot("follower").await;
        points.arm(point);
        server.signal(&robot, "only").await.unwrap().ok();
        let _held = points.reached(point).await.unwrap();
        server.sigkill().await;
        points.disarm(point);
        assert_eq!(world.posts().len(), arrived, "{point}");
        let server = world.start().await;
        filled(&server, 1).await;
        world.assert_clean(None, point).await;
        assert_eq!(world.posts().len(), 1, "{point}: one request in all");
        server.assert_stops_clean().await;
    }
}

#[tokio::test]
async fn an_exchange_that_dies_and_comes_back_is_found_again() {
    let mut world = World::new().await;
    let server = world.start().await;
    let robot = server.robot("follower").await;
    server.signal(&robot, "before").await.unwrap().ok();
    filled(&server, 1).await;
    world.restart_exchange().await;
    server.signal(&robot, "after").await.unwrap().ok();
    // It may have met a closed door, and is then refused; the next one finds it open.
    let tries = AtomicU32::new(0);
    let again = async || {
        let key = format!("again-{}", tries.fetch_add(1, Ordering::Relaxed));
        server.signal(&robot, &key).await.ok()?;
        let orders = server.orders().await;
        (orders.iter().filter(|order| order["status"] == "FILLED").count() >= 2).then_some(())
    };
    eventually(LIMIT, "an order fills after the restart", again).await;
    world.assert_clean(None, "after the exchange's death").await;
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_and_the_order_is_not_sent_again() {
    for fault in [
        json!({"cut_body": {"on": "post", "times": 1}}),
        json!({"drop_answers": {"on": "post", "times": 1}}),
        json!({"server_error": {"status": 503, "processed": true, "on": "post", "times": 1}}),
        json!({"say_duplicate": {"on": "post", "times": 1}}),
    ] {
        let mut world = World::new().await;
        let server = world.start().await;
        let robot = server.robot("follower").await;
        let name = fault.as_object().unwrap().keys().next().unwrap().clone();
        world.exchange.set_faults(fault).await;
        server.signal(&robot, "only").await.unwrap().ok();
        world.exchange.wait_fired(&name).await;
        filled(&server, 1).await;
        world.assert_clean(None, &name).await;
        assert_eq!(world.posts().len(), 1, "{name}");
        server.assert_stops_clean().await;
    }
}

#[tokio::test]
async fn a_lost_request_is_proven_absent_and_sent_under_a_new_id() {
    let mut world = World::new().await;
    let server = world.start().await;
    let robot = server.robot("follower").await;
    world.exchange.set_faults(json!({"drop_requests": {"on": "post", "times": 1}})).await;
    server.signal(&robot, "only").await.unwrap().ok();
    world.exchange.wait_fired("drop_requests").await;
    filled(&server, 1).await;
    let statuses: Vec<Value> = server.orders().await.iter().map(|order| order["status"].clone()).collect();
    assert_eq!(statuses.len(), 2, "{statuses:?}");
    assert!(statuses.contains(&json!("ABSENT")), "{statuses:?}");
    world.assert_clean(None, "a lost request").await;
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn after_a_429_orders_are_refused_here_until_they_are_welcome_again() {
    let mut world = World::new().await;
    let server = world.start().await;
    let robot = server.robot("follower").await;
    world.exchange.set_faults(json!({"limit": {"status": 429, "retry_after": 2, "on": "post", "times": 1}})).await;
    server.signal(&robot, "refused").await.unwrap().ok();
    world.exchange.wait_fired("limit").await;
    let refused = |order: &Value| order["status"] == "REJECTED";
    server.order_that("the order is refused", refused).await;
    let posts = world.posts().len();
    server.signal(&robot, "kept-back").await.unwrap().ok();
    let kept = |order: &Value| order["reason"].as_str().is_some_and(|reason| reason.contains("not sent"));
    server.order_that("the next one is not sent", kept).await;
    assert_eq!(world.posts().len(), posts);
    let tries = AtomicU32::new(0);
    let again = async || {
        let key = format!("again-{}", tries.fetch_add(1, Ordering::Relaxed));
        server.signal(&robot, &key).await.ok()?;
        server.orders().await.iter().any(|order| order["status"] == "FILLED").then_some(())
    };
    eventually(LIMIT, "an order fills again", again).await;
    world.assert_clean(None, "after a 429").await;
    server.assert_stops_clean().await;
}

/// An order that rests far below the market.
async fn resting(server: &Server, robot: &Robot, key: &str) {
    let order = json!({"type": "post_only", "price": "80000"});
    let body = json!({"robot": robot.id, "action": "buy", "qty": "0.001", "order": order});
    server.client().post_keyed("/api/signals", key, &body).await.unwrap().ok();
}

#[tokio::test]
async fn a_cancel_whose_report_never_came_is_found_by_the_sweep() {
    let mut world = World::new().await;
    let server = world.start().await;
    let robot = server.robot("follower").await;
    resting(&server, &robot, "rests").await;
    let order = server.order_that("the order rests", |order| order["status"] == "OPEN").await;
    let id = order["client_id"].as_str().unwrap();
    // Somebody cancels it behind our back, and the stream says nothing.
    world.exchange.set_faults(json!({"stream_gap": {}})).await;
    foreign_cancel(&world.address, id).await;
    world.exchange.wait_fired("stream_gap").await;
    server.order_that("its end is found out", |order| order["status"] == "CANCELED").await;
    world.exchange.set_faults(json!({})).await;
    world.assert_clean(None, "a gap").await;
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn a_stream_that_breaks_comes_back_and_nothing_is_missed() {
    let mut world = World::new().await;
    let server = world.start().await;
    let robot = server.robot("follower").await;
    resting(&server, &robot, "rests").await;
    let order = server.order_that("the order rests", |order| order["status"] == "OPEN").await;
    world.exchange.set_faults(json!({"disconnect": {"times": 1}})).await;
    foreign_cancel(&world.address, order["client_id"].as_str().unwrap()).await;
    world.exchange.wait_fired("disconnect").await;
    server.order_that("its end is found out", |order| order["status"] == "CANCELED").await;
    server.signal(&robot, "next").await.unwrap().ok();
    filled(&server, 1).await;
    world.assert_clean(None, "a broken stream").await;
    server.assert_stops_clean().await;
}

/// Cancels an order as the account's owner would do on the venue's own page.
async fn foreign_cancel(address: &str, client_id: &str) {
    use ring::hmac;
    let now = hotgo::clock::Clock::start().now().millis();
    let params = format!("symbol=BTCUSDT&origClientOrderId={client_id}&timestamp={now}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, params.as_bytes());
    let signature = tag.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let request = format!(
        "DELETE /api/v3/order?{params}&signature={signature} HTTP/1.1\r\nHost: {address}\r\nX-MBX-APIKEY: {API_KEY}\r\n\
         Connection: close\r\n\r\n"
    );
    let answer = within(LIMIT, "the cancel is answered", async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
