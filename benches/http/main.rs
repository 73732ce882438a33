//! The real binary as a process: what HTTP costs beside a bare axum route, orders per second over HTTP, and how long starts
//! and stops take. `cargo bench --bench http`; with words after `--` only the parts so named.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    clippy::print_stdout,
    clippy::large_futures,
    clippy::disallowed_methods,
    reason = "a bench"
)]

mod load;
mod process;

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use serde_json::json;
use tempfile::TempDir;

use load::{Connection, Get, Round, Signals, load};
use process::Process;

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 5;
const HEALTH_REQUESTS: usize = 40_000;
const ORDERS: usize = 10_000;
const OPEN_ORDERS: usize = 10_000;
/// Funds and room for many orders, on the server's own defaults otherwise.
const CONFIG: &str = r#"
venue:
  paper:
    opening:
      USDT: "900000000"
market:
  symbols:
    - {symbol: BTCUSDT, base: BTC, quote: USDT, tick: "0.01", lot: "0.00001", min_qty: "0.00001", min_notional: "5",
       max_open_orders: 20000, start_price: "87000"}
"#;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |part: &str| words.is_empty() || words.iter().any(|word| word == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if words.iter().any(|word| word == "serve-bare") {
            return serve_bare().await;
        }
        if wanted("start") {
            starts_and_stops().await;
        }
        if wanted("health") {
            health().await;
        }
        if wanted("orders") {
            orders().await;
        }
        if wanted("signed") {
            signed().await;
        }
        if wanted("recovery") {
            recovery().await;
        }
    });
}

/// The least that axum can do for this answer: a body of the same size, made beforehand.
async fn serve_bare() {
    let body = json!({
        "status": "ok", "phase": "serving", "version": "0.1.0", "build_id": "0123456789ab", "uptime_ms": 1234,
        "checks": [{"name": "account:main", "ok": true, "detail": "running"}, {"name": "store", "ok": true, "detail": "answers"}],
    });
    let body: &'static str = body.to_string().leak();
    let app = Router::new().route("/api/health", get(async move || ([("content-type", "application/json")], body)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

fn installation() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.yaml"), CONFIG).unwrap();
    directory
}

async fn starts_and_stops() {
    let (mut empty, mut again, mut stops, mut memory) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS * 2 {
        let directory = installation();
        for starts in [&mut empty, &mut again] {
            let server = Process::ours(directory.path());
            starts.push(millis(server.ready().await));
            tokio::time::sleep(Duration::from_millis(500)).await;
            memory.push(server.memory_mib());
            stops.push(millis(server.stop()));
        }
    }
    println!("start to ready, no database yet          {:>9.1} ms", median(empty));
    println!("start to ready, existing database        {:>9.1} ms", median(again));
    println!("SIGTERM to exit, nothing under way       {:>9.1} ms", median(stops));
    println!("memory when idle                         {:>9.1} MiB", median(memory));
}

async fn health() {
    let directory = installation();
    let (server, bare) = (Process::ours(directory.path()), Process::bare());
    server.ready().await;
    let (mut ours, mut theirs) = (Figures::default(), Figures::default());
    for _ in 0..ROUNDS {
        theirs.round(&bare).await;
        ours.round(&server).await;
    }
    let (ours, theirs) = ((median(ours.rates), median(ours.cpu)), (median(theirs.rates), median(theirs.cpu)));
    println!("/api/health, {CONNECTIONS} connections: requests/s and CPU a request (client on the same cores)");
    println!("  bare axum route                        {:>9.0} /s {:>7.1} us", theirs.0, theirs.1);
    println!("  the server                             {:>9.0} /s {:>7.1} us", ours.0, ours.1);
    println!("  the server / bare                      {:>9.2}    {:>7.2}", ours.0 / theirs.0, ours.1 / theirs.1);
}

#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    /// Microseconds a request.
    cpu: Vec<f64>,
}

impl Figures {
    async fn round(&mut self, process: &Process) {
        let before = process.cpu();
        let round = load(process.address, CONNECTIONS, HEALTH_REQUESTS, Get("/api/health")).await;
        self.rates.push(round.per_second);
        self.cpu.push((process.cpu().saturating_sub(before)).as_secs_f64() * 1e6 / HEALTH_REQUESTS as f64);
    }
}

/// Makes a robot, and waits until there is a price.
async fn robot(server: &Process) -> (String, i64) {
    server.ready().await;
    let token = server.token.clone().expect("a first start shows a token");
    let wish = json!({"name": "bench", "symbol": "BTCUSDT", "config": {"kind": "follower", "default_qty": "0.0001"}, "start": true});
    let mut connection = Connection::open(server.address).await;
    let (status, answer) = connection.post("/api/robots", &token, "make", wish.to_string()).await;
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert!((200..300).contains(&status), "{status}: {answer}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    (token, answer["robot"].as_i64().unwrap())
}

async fn orders() {
    let directory = installation();
    let server = Process::ours(directory.path());
    let (token, robot) = robot(&server).await;
    let order = json!({"type": "market"});
    let signals = |prefix: String| Signals { token: token.clone(), signer: None, robot, prefix, order: order.clone() };
    println!("POST /api/signals, a market order each    orders/s   p50 ms   p99 ms   CPU us");
    rounds(&server, signals).await;
    println!("  memory after that                      {:>9.1} MiB", server.memory_mib());
    println!("  SIGTERM to exit after that             {:>9.1} ms", millis(server.stop()));
}

/// The same by a key that signs: what a signature and the write of its nonce cost.
async fn signed() {
    let directory = installation();
    let server = Process::ours(directory.path());
    let (admin, robot) = robot(&server).await;
    let wish = json!({"name": "bench", "role": "trader", "signed": true}).to_string();
    let (status, answer) = Connection::open(server.address).await.post("/api/keys", &admin, "key", wish).await;
    let key: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(status, 201, "{key}");
    let text = |name: &str| key[name].as_str().unwrap().to_owned();
    let (token, order) = (text("token"), json!({"type": "market"}));
    let signals = |prefix: String| Signals {
        token: token.clone(),
        signer: Some(text("id")),
        robot,
        prefix,
        order: order.clone(),
    };
    println!("the same, signed                          orders/s   p50 ms   p99 ms   CPU us");
    rounds(&server, signals).await;
}

async fn rounds(server: &Process, signals: impl Fn(String) -> Signals) {
    for connections in [1, CONNECTIONS] {
        let (mut rounds, mut cpu) = (Vec::new(), Vec::new());
        for n in 0..ROUNDS {
            let count = if connections == 1 { ORDERS / 20 } else { ORDERS };
            let before = server.cpu();
            rounds.push(load(server.address, connections, count, signals(format!("{connections}-{n}"))).await);
            cpu.push((server.cpu().saturating_sub(before)).as_secs_f64() * 1e6 / count as f64);
        }
        let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        let (rate, p50, p99) = (of(|r| r.per_second), of(|r| r.quantile_ms(50)), of(|r| r.quantile_ms(99)));
        println!(
            "  {connections:>3} connections                        {rate:>9.0} {p50:>8.2} {p99:>8.2} {:>8.0}",
            median(cpu)
        );
    }
}

/// Kills a server with many open orders; the next one asks the venue for every one of them.
async fn recovery() {
    let directory = installation();
    let server = Process::ours(directory.path());
    let (token, robot) = robot(&server).await;
    let order = json!({"type": "limit", "price": "75000"});
    load(
        server.address,
        CONNECTIONS,
        OPEN_ORDERS,
        Signals { token, signer: None, robot, prefix: "open".into(), order },
    )
    .await;
    drop(server);
    let (mut starts, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let server = Process::ours(directory.path());
        starts.push(millis(server.ready().await));
        memory.push(server.memory_mib());
        drop(server);
    }
    println!(
        "killed with {OPEN_ORDERS} open orders: start to ready {:>7.0} ms, then {:.0} MiB",
        median(starts),
        median(memory)
    );
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
