//! A strategy with a bug, and a runtime that nothing runs on any more.

use std::time::Duration;

use shutdown_coordinator::testkit::Exit;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::support::{Installation, Load, eventually};
use super::tools::{order_of, order_with_status};

#[tokio::test]
async fn a_robot_that_panics_is_quarantined_and_reported_and_its_account_trades_on() {
    let mut installation = Installation::new();
    let load = Load::new(&installation.scratch("answered"), "panic");
    let server = installation.start().await;
    let buggy = server.robot(hotgo::failpoints::BUGGY_ROBOT).await;
    let sound = server.robot("sound").await;
    let answer = load.send(&server.client(), &buggy).await.unwrap().ok();
    assert_eq!(answer["outcome"], "skipped", "{answer}");
    let shown = server.client().get(&format!("/api/robots/{}", buggy.id)).await.unwrap().ok();
    assert_eq!(shown["run"], "quarantined", "{shown}");
    assert!(shown["reason"].as_str().unwrap().contains("a bug that a test asked for"), "{shown}");
    let events = server.client().get("/api/events?account=1&since_seq=0&limit=1000").await.unwrap().ok();
    assert!(events.to_string().contains("robot quarantined: panicked"), "an alarm is an event: {events}");

    let made = load.send(&server.client(), &sound).await.unwrap().ok();
    order_with_status(&server, &order_of(&made), "FILLED").await;
    server.sigkill().await;

    // Quarantine is durable: a restart does not let a bug loose again.
    let server = installation.start().await;
    let shown = server.client().get(&format!("/api/robots/{}", buggy.id)).await.unwrap().ok();
    assert_eq!(shown["run"], "quarantined", "{shown}");
    installation.audit(Some(load.path())).await.assert_clean("after a robot's panic");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn a_starved_runtime_is_ended_by_the_watchdog_which_names_the_blockers_and_no_order_is_lost() {
    let mut installation = Installation::new();
    let points = installation.points();
    let load = Load::new(&installation.scratch("answered"), "starved");
    let mut server = installation.start().await;
    let robot = server.robot("starved").await;
    load.run(&server.client(), &robot, 2, 20).await;
    // More requests than workers, each of which blocks the one it runs on, until nothing answers any more.
    points.arm("stall");
    let mut held = Vec::new();
    let mut stalled = JoinSet::new();
    for _ in 0..64 {
        let (client, sender, target) = (server.client(), load.clone(), robot.clone());
        stalled.spawn(async move { sender.send(&client, &target).await });
    }
    let health = server.client().anonymous();
    held.push(points.reached("stall").await.unwrap());
    let starved =
        async || timeout(Duration::from_millis(500), health.get("/api/health/live")).await.is_err().then_some(());
    eventually(Duration::from_secs(15), "every worker is blocked", starved).await;
    server.sigterm();
    let at = Instant::now();
    // Deadline and watchdog's margin: 7 s and 1.5 s here.
    let exit = server.wait_exit(Duration::from_secs(20)).await;
    assert_eq!(exit, Exit::Code(70), "after {:?}\n{}", at.elapsed(), server.stderr());
    let words = server.stderr();
    assert!(words.contains("shutdown watchdog: not over in time"), "{words}");
    assert!(words.contains("waiting for announce: "), "the blockers are not named:\n{words}");
    drop(held);
    points.disarm("stall");
    stalled.abort_all();
    installation.assert_recovers_clean(Some(load.path()), "after a starved runtime").await;
}
