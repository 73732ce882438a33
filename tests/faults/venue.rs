//! A venue that is slow, silent or confused. It lives in the server's process here.

use serde_json::{Value, json};

use super::support::{Installation, Load};
use super::tools::{order_of, order_with_status};

#[tokio::test]
async fn a_venue_that_hangs_leaves_the_order_unknown_and_is_only_asked_about_it() {
    let mut installation = Installation::new();
    let load = Load::new(&installation.scratch("answered"), "hang");
    let server = installation.start().await;
    let robot = server.robot("hung").await;
    server.silence_venue().await;
    let made = load.send(&server.client(), &robot).await.unwrap().ok();
    let id = order_of(&made);
    server.wait_fired("hold_answers").await;
    order_with_status(&server, &id, "UNKNOWN").await;
    // While it is unknown, its robot takes no new entry, however often it is told to.
    let next = load.send(&server.client(), &robot).await.unwrap().ok();
    order_with_status(&server, &order_of(&next), "INTENT").await;
    server.set_faults(json!({})).await;
    order_with_status(&server, &id, "FILLED").await;
    order_with_status(&server, &order_of(&next), "FILLED").await;
    installation.audit(Some(load.path())).await.assert_clean("after a venue that hung");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn an_order_that_arrives_late_is_not_sent_again_although_queries_said_that_there_is_none() {
    let mut installation = Installation::new();
    installation.set("HOTGO__VENUE__RECV_WINDOW_MS", "5000");
    let load = Load::new(&installation.scratch("answered"), "late");
    let server = installation.start().await;
    let robot = server.robot("late").await;
    // It is waited for 400 ms, and accepted after 2 s, within the 5 s that its own time stamp allows.
    server.set_faults(json!({"delay_processing": {"ms": 2_000, "on": "post", "times": 1}})).await;
    let made = load.send(&server.client(), &robot).await.unwrap().ok();
    let id = order_of(&made);
    server.wait_fired("delay_processing").await;
    order_with_status(&server, &id, "UNKNOWN").await;
    order_with_status(&server, &id, "FILLED").await;
    let orders = server.orders().await;
    assert_eq!(orders.len(), 1, "one signal, one order: {orders:?}");
    installation.audit(Some(load.path())).await.assert_clean("after a late acceptance");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn an_order_that_the_venue_calls_a_duplicate_is_adopted() {
    let mut installation = Installation::new();
    let load = Load::new(&installation.scratch("answered"), "twin");
    let server = installation.start().await;
    let robot = server.robot("twin").await;
    server.set_faults(json!({"say_duplicate": {"times": 1}, "cut_stream": {"ms": 300, "times": 1}})).await;
    let made = load.send(&server.client(), &robot).await.unwrap().ok();
    let id = order_of(&made);
    server.wait_fired("say_duplicate").await;
    let adopted = order_with_status(&server, &id, "FILLED").await;
    assert_eq!(adopted["generation"], 0, "{adopted}");
    assert_eq!(server.orders().await.len(), 1);
    installation.audit(Some(load.path())).await.assert_clean("after a duplicate");
    server.assert_stops_clean().await;
}

/// What a query that finds nothing is worth before the request's own deadline: nothing.
#[tokio::test]
async fn an_order_that_queries_do_not_show_for_a_while_is_found_and_not_doubled() {
    let mut installation = Installation::new();
    installation.set("HOTGO__VENUE__RECV_WINDOW_MS", "2000");
    let load = Load::new(&installation.scratch("answered"), "hidden");
    let server = installation.start().await;
    let robot = server.robot("hidden").await;
    let faults = json!({
        "drop_answers": {"on": "post", "times": 1}, "query_says_none": {"times": 2}, "cut_stream": {"ms": 1_000, "times": 1},
    });
    server.set_faults(faults).await;
    let made = load.send(&server.client(), &robot).await.unwrap().ok();
    server.wait_fired("query_says_none").await;
    order_with_status(&server, &order_of(&made), "FILLED").await;
    let filled = |orders: &[Value]| orders.iter().filter(|order| order["status"] == "FILLED").count();
    assert_eq!(filled(&server.orders().await), 1);
    installation.audit(Some(load.path())).await.assert_clean("after queries that found nothing");
    server.assert_stops_clean().await;
}
