//! An owner that stands still for longer than its lease lasts.

use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::support::{Installation, Load, Server, eventually};
use super::tools::{order_of, order_with_status};

const TTL: Duration = Duration::from_secs(3);

async fn epoch(server: &Server) -> Option<i64> {
    let status = server.admin().get("/status").await.ok()?.json();
    status.pointer("/engines/0/epoch").and_then(Value::as_i64).filter(|_| status["ready"] == true)
}

/// SIGSTOP until the lease has certainly expired by every clock.
async fn outlast_the_lease(server: &Server) {
    server.freeze().await;
    let until = Instant::now() + TTL + Duration::from_millis(500);
    eventually(TTL * 3, "the lease expires", async || (Instant::now() > until).then_some(())).await;
}

#[tokio::test]
async fn an_owner_frozen_past_its_lease_notices_when_it_thaws_and_takes_a_new_epoch_before_it_sends() {
    let mut installation = Installation::new();
    installation.set("HOTGO__TRADING__LEASE_TTL_MS", "3000");
    let load = Load::new(&installation.scratch("answered"), "frozen");
    let server = installation.start().await;
    let robot = server.robot("frozen").await;
    load.run(&server.client(), &robot, 1, 5).await;
    let before = epoch(&server).await.unwrap();
    outlast_the_lease(&server).await;
    // These wait in the kernel, and are the first thing that it reads.
    let mut sending = JoinSet::new();
    for _ in 0..4 {
        let (client, sender, target) = (server.client(), load.clone(), robot.clone());
        sending.spawn(async move { sender.send(&client, &target).await });
    }
    server.thaw();
    while let Some(answer) = sending.join_next().await {
        let answer = answer.unwrap().unwrap();
        assert!(answer.is_success() || answer.header("retry-after").is_some(), "{answer:?}");
    }
    let fenced = async || epoch(&server).await.filter(|epoch| *epoch > before);
    eventually(Duration::from_secs(15), "a newer epoch", fenced).await;
    assert!(server.stderr().contains("engine starts anew"), "{}", server.stderr());
    let made = load.send(&server.client(), &robot).await.unwrap().ok();
    order_with_status(&server, &order_of(&made), "FILLED").await;
    installation.audit(Some(load.path())).await.assert_clean("after a thaw");
    server.assert_stops_clean().await;
}

/// The worst moment: everything is committed, and nothing but the request itself is missing.
#[tokio::test]
async fn an_order_whose_owner_froze_between_commit_and_send_is_not_sent_under_the_old_epoch() {
    let mut installation = Installation::new();
    installation.set("HOTGO__TRADING__LEASE_TTL_MS", "3000");
    // The venue would still take it: only the lease keeps it back.
    installation.set("HOTGO__VENUE__RECV_WINDOW_MS", "60000");
    let points = installation.points();
    let load = Load::new(&installation.scratch("answered"), "between");
    let server = installation.start().await;
    let robot = server.robot("between").await;
    let before = epoch(&server).await.unwrap();
    points.arm("p4");
    let made = load.send(&server.client(), &robot).await.unwrap().ok();
    let held = points.reached("p4").await.unwrap();
    outlast_the_lease(&server).await;
    points.disarm("p4");
    held.release();
    server.thaw();
    let fenced = async || epoch_of(&server).await.filter(|epoch| *epoch > before);
    eventually(Duration::from_secs(15), "a newer epoch", fenced).await;
    let id = order_of(&made);
    let sent = |ledger: &str| ledger.contains(&id);
    let ledger = std::fs::read(installation.data_dir().join("venue.ledger")).unwrap();
    assert!(!sent(&String::from_utf8_lossy(&ledger)), "{id} was sent under epoch {before} after its lease had expired");
    server.sigkill().await;
}

/// As [`epoch`], also while the account is not ready: the order stays unknown until its request can no longer be accepted.
async fn epoch_of(server: &Server) -> Option<i64> {
    let status = server.admin().get("/status").await.ok()?.json();
    status.pointer("/engines/0/epoch").and_then(Value::as_i64)
}
