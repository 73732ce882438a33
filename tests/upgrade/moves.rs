//! Hand-overs in which nobody dies.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::clients::Clients;
use crate::host::{Host, PATIENCE};
use crate::support::postgres::Postgres;
use crate::support::{Client, Installation, eventually};

/// The default of `trading.lease_ttl_ms`.
const LEASE: Duration = Duration::from_secs(15);

/// What a `hotgo_account_unowned_seconds` series says.
async fn unowned(server: &crate::support::Server) -> String {
    let answer = server.admin().get("/metrics").await.unwrap();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let lines = text.lines().filter(|line| line.starts_with("hotgo_account_unowned_seconds"));
    lines
        .filter(|line| line.contains("quantile=\"1\"") || line.contains("_sum") || line.contains("_count"))
        .collect::<Vec<_>>()
        .join("; ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_venue_and_clients_move_to_a_successor_and_nobody_notices() {
    let (mut host, old) = Host::new().await;
    let robots = host.robots().await;
    let clients = Clients::start(&host, &robots, false).await;
    let new = host.candidate().await;
    let test = new.get("/self-test").await;
    assert_eq!(test["ok"], true, "{test}");
    assert_eq!(old.get("/self-test").await["ok"], true);
    new.post("/accept", json!({})).await;
    new.post("/accept", json!({})).await;
    assert_eq!(new.status().await["accepting"], true);
    clients.go_on(50).await;
    for _ in 0..2 {
        old.post("/hand-over", json!({ "to": new.id })).await;
    }
    new.owns_all().await;
    eprintln!("unowned: {}", unowned(&new.server).await);
    let status = old.status().await;
    assert_eq!(status["successor"], new.id, "{status}");
    assert_eq!(status["ready"], true, "the old one goes on serving what it accepted: {status}");
    clients.go_on(50).await;
    old.leaves().await;
    clients.go_on(50).await;
    let answered = clients.load.path().to_owned();
    let closes = clients.finish().await;
    assert!(!closes.is_empty() && closes.iter().all(|code| *code == 1012), "{closes:?}");
    host.installation.audit(Some(&answered)).await.assert_clean("after a hand-over");
    new.server.assert_stops_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_accepts_nothing_before_it_is_told_to() {
    let (mut host, old) = Host::new().await;
    let candidate = host.candidate().await;
    // The only one that would accept stands still.
    old.server.freeze().await;
    let client: Client = host.client();
    let asked = tokio::time::timeout(Duration::from_millis(500), client.get("/api/health/live")).await;
    assert!(asked.is_err(), "answered by a candidate: {asked:?}");
    candidate.post("/accept", json!({})).await;
    let answers = async || client.get("/api/health/live").await.ok().filter(|answer| answer.status == 200);
    eventually(PATIENCE, "it answers once it was told to", answers).await;
    old.server.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handed_over_is_taken_back() {
    let (mut host, old) = Host::new().await;
    let robots = host.robots().await;
    let clients = Clients::start(&host, &robots, false).await;
    let new = host.candidate().await;
    for _ in 0..2 {
        old.post("/hand-over", json!({ "to": new.id })).await;
        new.owns_all().await;
        clients.go_on(20).await;
        for _ in 0..2 {
            old.post("/take-back", json!({})).await;
        }
        old.owns_all().await;
        clients.go_on(20).await;
    }
    assert_eq!(old.status().await["successor"], serde_json::Value::Null);
    new.leaves().await;
    clients.go_on(20).await;
    let answered = clients.load.path().to_owned();
    clients.finish().await;
    host.installation.audit(Some(&answered)).await.assert_clean("after a hand-over that was undone");
    old.server.assert_stops_clean().await;
}

/// Whatever had moved when the word came, and whichever process holds a lease under which no engine runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_is_taken_back_without_waiting_for_a_lease_to_end() {
    let (mut host, old) = Host::new().await;
    let robots = host.robots().await;
    let clients = Clients::start(&host, &robots, false).await;
    let new = host.candidate().await;
    for pause_ms in (0..60).step_by(4) {
        old.post("/hand-over", json!({ "to": new.id })).await;
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        old.post("/take-back", json!({})).await;
        let began = Instant::now();
        old.owns_all().await;
        let took = began.elapsed();
        assert!(took < LEASE / 2, "taken back after {pause_ms} ms: {took:?}; a lease lasts {LEASE:?}");
    }
    new.leaves().await;
    clients.go_on(20).await;
    let answered = clients.load.path().to_owned();
    clients.finish().await;
    host.installation.audit(Some(&answered)).await.assert_clean("after hand-overs that were undone half-way");
    old.server.assert_stops_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_accepted_and_is_stopped_again_is_not_noticed() {
    let (mut host, old) = Host::new().await;
    let robots = host.robots().await;
    let clients = Clients::start(&host, &robots, false).await;
    let new = host.candidate().await;
    new.post("/accept", json!({})).await;
    clients.go_on(200).await;
    new.leaves().await;
    clients.go_on(50).await;
    let answered = clients.load.path().to_owned();
    clients.finish().await;
    host.installation.audit(Some(&answered)).await.assert_clean("after a candidate was given up");
    old.server.assert_stops_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_is_new_in_the_configuration_is_traded_after_the_upgrade() {
    let (mut host, old) = Host::new().await;
    let paper = |label: &str| json!({ "label": label, "venue": "paper" });
    let three = json!([paper("main"), paper("second"), paper("third")]).to_string();
    host.installation.set("HOTGO__TRADING__ACCOUNTS", &three);
    let new = host.upgrade(old).await;
    let engines = new.status().await["engines"].clone();
    assert_eq!(engines.as_array().unwrap().len(), 3, "{engines}");
    new.server.assert_stops_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_handed_over_to_one_that_lacks_an_account() {
    let (mut host, old) = Host::new().await;
    host.installation.set("HOTGO__TRADING__ACCOUNTS", r#"[{"label":"main","venue":"paper"}]"#);
    let new = host.candidate().await;
    let refused = old.server.admin().post("/hand-over", &json!({ "to": new.id })).await.unwrap();
    assert_eq!(refused.status, 409, "{}", refused.json());
    assert!(refused.json().to_string().contains("is not configured for account 2"), "{}", refused.json());
    old.owns_all().await;
    assert_eq!(old.status().await["successor"], serde_json::Value::Null);
    new.leaves().await;
    old.server.assert_stops_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_self_test_reads_the_ledger_that_is_elsewhere() {
    let (mut host, old) = Host::new().await;
    let new = host.candidate().await;
    let mut ledger = OpenOptions::new().append(true).open(host.installation.data_dir().join("venue.ledger")).unwrap();
    ledger.write_all(b"{\"no\": \"record\"}\n").unwrap();
    let test = new.server.admin().get("/self-test").await.unwrap().json();
    assert_eq!(test["ok"], false, "{test}");
    assert!(test.to_string().contains("venue.ledger"), "{test}");
    new.leaves().await;
    old.server.sigkill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_upgrades_in_a_row() {
    upgrades(Installation::new(), 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_on_postgresql() {
    let postgres = Postgres::start();
    let mut installation = Installation::new();
    installation.set("HOTGO__STORE__URL", &postgres.url());
    upgrades(installation, 3).await;
}

async fn upgrades(installation: Installation, count: usize) {
    let (mut host, mut serving) = Host::with(installation).await;
    let robots = host.robots().await;
    let clients = Clients::start(&host, &robots, false).await;
    for _ in 0..count {
        serving = host.upgrade(serving).await;
        eprintln!("unowned: {}", unowned(&serving.server).await);
        clients.go_on(20).await;
    }
    let answered = clients.load.path().to_owned();
    let closes = clients.finish().await;
    assert!(!closes.is_empty() && closes.iter().all(|code| *code == 1012), "{closes:?}");
    host.installation.audit(Some(&answered)).await.assert_clean("after upgrades in a row");
    serving.server.assert_stops_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_not_asked_to_share_is_not_joined() {
    let mut installation = Installation::new();
    let server = installation.start().await;
    installation.set("HOTGO__INSTANCE__SHARE", "true");
    installation.set("HOTGO__SHUTDOWN__LINGER_MS", "1000");
    installation.set("HOTGO__SHUTDOWN__STOP_ACCEPTING_MS", "3000");
    installation.set("HOTGO__ADMIN__SOCKET", installation.scratch("2.sock").to_str().unwrap());
    let (exit, stderr) = installation.start_refused().await;
    assert_ne!(exit, crate::support::CLEAN);
    assert!(stderr.contains("another server uses it"), "{stderr}");
    server.assert_stops_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_the_private_port_over_and_knows_how_its_predecessor_ended() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut installation = Installation::new();
    installation.set("HOTGO__ADMIN__BIND", &address.to_string());
    let (mut host, old) = Host::with(installation).await;
    let port = Client::tcp(address, None);
    let asked = async || Some(port.get("/status").await.ok()?.json()["instance"].clone());
    assert_eq!(asked().await.unwrap(), old.id);
    let new = host.upgrade(old).await;
    let taken = async || asked().await.filter(|instance| *instance == new.id);
    eventually(PATIENCE, "the successor has the private port", taken).await;
    let metrics = port.get("/metrics").await.unwrap();
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.lines().any(|line| line == "hotgo_last_shutdown_clean 1"), "{metrics}");
    new.server.assert_stops_clean().await;
}
