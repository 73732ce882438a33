//! The main job: three real minutes of BTCUSDT traded end to end, and audited.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::server::list;
use crate::support::{Installation, Load, eventually};
use serde_json::{Value, json};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Three minutes in `180 / speed` seconds.
fn replaying(speed: u32) -> Installation {
    let mut installation = Installation::new();
    installation.set("HOTGO__MARKET__SOURCE", "replay");
    installation.set("HOTGO__MARKET__REPLAY__SYMBOL", "BTCUSDT");
    installation.set("HOTGO__MARKET__REPLAY__SPEED", &speed.to_string());
    for (name, file) in [("TRADES", "BTCUSDT-trades-2025-03-25.csv"), ("BOOK", "BTCUSDT-bookTicker-2025-03-25.csv")] {
        installation.set(&format!("HOTGO__MARKET__REPLAY__{name}"), data(file).to_str().unwrap());
    }
    installation
}

/// A grid around the prices of those minutes (87,180 to 87,260), fine enough to trade often.
fn grid() -> Value {
    json!({
        "name": "ladder", "symbol": "BTCUSDT", "start": true,
        "config": {"kind": "grid", "lower": "87180", "upper": "87280", "levels": 21, "qty": "0.001"},
    })
}

#[tokio::test]
async fn three_real_minutes_traded_by_three_robots_leave_a_clean_ledger() {
    let mut installation = replaying(20);
    let load = Load::new(&installation.scratch("answered"), "minutes");
    let server = installation.start().await;
    let client = server.client();
    client.post_keyed("/api/robots", "grid", &grid()).await.unwrap().ok();
    let follower = server.robot("follower").await;
    load.run(&client, &follower, 2, 40).await;
    assert_eq!(load.answered(), 40, "every signal is taken");

    let traded = async || {
        let fills = list(&client.get("/api/fills?limit=500").await.unwrap().ok());
        let makers = fills.iter().filter(|fill| fill["maker"] == true).count();
        (fills.len() >= 45 && makers >= 3).then_some(())
    };
    eventually(Duration::from_secs(25), "the market trades with the ladder", traded).await;
    installation.audit(Some(load.path())).await.assert_clean("while the market moves");
    server.assert_stops_clean().await;
    installation.assert_recovers_clean(Some(load.path()), "after three real minutes").await;
}

#[tokio::test]
async fn a_client_that_resumes_its_websocket_sees_every_event_once_and_in_order() {
    let mut installation = replaying(20);
    let load = Load::new(&installation.scratch("answered"), "seen");
    let server = installation.start().await;
    let robot = server.robot("watched").await;
    let mut next = 1;
    for _ in 0..3 {
        let mut socket = server.socket().await;
        socket.subscribe(1, next - 1).await;
        load.run(&server.client(), &robot, 2, 10).await;
        for _ in 0..20 {
            let event = socket.wait_for("the next event", |message| message.get("seq").is_some()).await;
            assert_eq!(event["seq"].as_i64(), Some(next), "a gap or a repeat: {event}");
            next += 1;
        }
    }
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn the_demo_finds_its_robots_made_at_its_second_start() {
    let mut installation = Installation::new();
    installation.arguments(&["--demo"]);
    for starts in 1..=2 {
        let server = installation.start().await;
        let client = server.client();
        let fills = async || list(&client.get("/api/fills?limit=500").await.unwrap().ok()).len();
        let before = fills().await;
        let trading = async || {
            let robots = list(&client.get("/api/robots").await.unwrap().ok());
            (robots.len() == 3 && fills().await > before).then_some(())
        };
        eventually(Duration::from_secs(20), "three robots trade", trading).await;
        let events = list(&client.get("/api/events?limit=1000").await.unwrap().ok());
        let taken = events.iter().filter(|event| event["event"] == "started").count();
        assert_eq!(taken, starts, "the engine had to start anew");
        server.assert_stops_clean().await;
    }
}
