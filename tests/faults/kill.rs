//! SIGKILL while an order is held at each point of its life.

use shutdown_coordinator::testkit::Points;
use tokio::task::JoinSet;

use super::support::server::signal_body;
use super::support::{Installation, Load};

/// Held there, killed, started again: the sender repeats what it got no answer for, and there is one order.
async fn sigkill_at(point: &str) {
    let mut installation = Installation::new();
    let points: Points = installation.points();
    let load = Load::new(&installation.scratch("answered"), point);
    let server = installation.start().await;
    let robot = server.robot("killed").await;
    points.arm(point);
    let (client, sender, target) = (server.client(), load.clone(), robot.clone());
    let mut sending = JoinSet::new();
    sending.spawn(async move { sender.send(&client, &target).await });
    let _held = points.reached(point).await.unwrap();
    server.sigkill().await;
    points.disarm(point);
    let answered = sending.join_next().await.unwrap().unwrap().is_some();
    assert!(!answered || matches!(point, "p4" | "p5" | "p6" | "p7"), "{point}: answered before it was durable");

    // Recovery asks the venue before anything else is traded: readiness says that it has.
    let server = installation.start().await;
    let again = server.client().post_keyed("/api/signals", &format!("{point}-0"), &signal_body(robot.id)).await;
    let again = again.unwrap();
    let known = again.header("idempotent-replayed").is_some();
    assert_eq!(known, !matches!(point, "p0" | "p1" | "p2"), "{point}: it is known exactly if it was committed");
    load.note(&again.ok());
    server.order_that("the order ends", |order| order["status"] == "FILLED" || order["status"] == "ABSENT").await;
    installation.audit(Some(load.path())).await.assert_clean(point);
    let orders = server.orders().await;
    let reached = orders.iter().filter(|order| order["status"] != "ABSENT").count();
    assert!(reached <= 1, "{point}: one signal, one order: {orders:?}");
    server.assert_stops_clean().await;
}

macro_rules! points {
    ($($name:ident, $point:literal;)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                sigkill_at($point).await;
            }
        )+
    };
}

points! {
    sigkill_before_the_request_is_read, "p0";
    sigkill_before_authorisation, "p1";
    sigkill_before_the_commit, "p2";
    sigkill_before_the_answer, "p3";
    sigkill_before_the_send, "p4";
    sigkill_on_the_wire, "p5";
    sigkill_after_the_venues_answer, "p6";
    sigkill_after_the_result_is_committed, "p7";
}
