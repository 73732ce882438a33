//! Each fault, as a client meets it.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Answer, End, LIMIT, World, eventually, resting};

/// Sends an order, and does not wait for the answer.
fn send(world: &Arc<World>, id: &'static str) -> JoinSet<Result<Answer, reqwest::Error>> {
    let world = Arc::clone(world);
    let mut sent = JoinSet::new();
    sent.spawn(async move { world.try_signed(Method::POST, "order", &resting(id)).await });
    sent
}

async fn join(mut sent: JoinSet<Result<Answer, reqwest::Error>>) -> Result<Answer, reqwest::Error> {
    tokio::time::timeout(LIMIT, sent.join_next()).await.unwrap().unwrap().unwrap()
}

async fn recorded(world: &World, count: usize) {
    eventually(async || (world.posts().len() >= count).then_some(())).await;
}

#[tokio::test]
async fn a_fault_that_is_none_is_refused_with_a_list_of_those_that_are() {
    let world = World::start().await;
    let refused = world.post_faults(json!({ "drop_reqests": {} })).await;
    let why = refused.json["error"].as_str().unwrap();
    assert!(refused.status == 422 && why.contains("drop_reqests") && why.contains("stream_gap"), "{why}");
    for bad in [
        json!({ "server_error": { "status": 404, "processed": true } }),
        json!({ "server_error": { "status": 500 } }),
        json!({ "limit": { "status": 503, "retry_after": 1 } }),
        json!({ "stream_gap": { "tims": 1 } }),
    ] {
        assert_eq!(world.post_faults(bad.clone()).await.status, 422, "{bad}");
    }
    world.faults(json!({ "limit": { "status": 429, "retry_after": 1, "on": "all", "times": 2 } })).await;
    assert_eq!(world.host.faults().0.limit.unwrap().times, Some(2));
}

#[tokio::test]
async fn a_dropped_request_does_nothing_and_stays_silent_until_the_server_ends() {
    let world = Arc::new(World::start().await);
    world.faults(json!({ "drop_requests": { "times": 1 } })).await;
    let mut sent = send(&world, "lost");
    eventually(async || (world.fired().drop_requests == 1).then_some(())).await;
    assert_eq!(world.query("lost").await.error(), (400, -2013));
    assert!(world.posts().is_empty() && sent.try_join_next().is_none());
    let line = world.lines(1).await.remove(0);
    assert_eq!(
        (&line["client_id"], &line["status"], &line["faults"]),
        (&json!("lost"), &json!(null), &json!(["drop_requests"]))
    );
    world.rest("arrives").await.ok();
    world.binance.close();
    assert_eq!(join(sent).await.unwrap().error(), (503, -1007));
}

#[tokio::test]
async fn a_late_request_is_processed_also_when_its_sender_is_gone() {
    let world = Arc::new(World::start().await);
    world.faults(json!({ "delay_processing": { "ms": 300, "times": 1 } })).await;
    let sent = send(&world, "late");
    eventually(async || (world.fired().delay_processing == 1).then_some(())).await;
    assert_eq!(world.query("late").await.error(), (400, -2013), "which proves nothing yet");
    drop(sent);
    recorded(&world, 1).await;
    assert_eq!(world.query("late").await.ok()["status"], "NEW");
    // Later than its own window it is refused.
    world.faults(json!({ "delay_processing": { "ms": 300, "times": 1 } })).await;
    let pairs = [&resting("later")[..], &[("recvWindow", "100")]].concat();
    assert_eq!(world.signed(Method::POST, "order", &pairs).await.error(), (400, -1021));
}

#[tokio::test]
async fn a_dropped_answer_leaves_the_order_there() {
    let world = Arc::new(World::start().await);
    world.faults(json!({ "drop_answers": { "times": 1 } })).await;
    let mut sent = send(&world, "there");
    recorded(&world, 1).await;
    assert_eq!(world.query("there").await.ok()["status"], "NEW");
    assert!(sent.try_join_next().is_none());
    assert_eq!(world.fired().drop_answers, 1);
    world.binance.close();
    assert_eq!(join(sent).await.unwrap().status, 503);
}

#[tokio::test]
async fn a_late_answer_comes_late_and_a_held_one_with_its_release() {
    let world = Arc::new(World::start().await);
    world.faults(json!({ "delay_answers": { "ms": 200, "times": 1 } })).await;
    let start = tokio::time::Instant::now();
    world.rest("slow").await.ok();
    assert!(start.elapsed().as_millis() >= 200);
    world.faults(json!({ "hold_answers": { "times": 1 } })).await;
    let mut sent = send(&world, "held");
    recorded(&world, 2).await;
    world.query("held").await.ok();
    assert!(sent.try_join_next().is_none());
    world.faults(json!({})).await;
    assert_eq!(join(sent).await.unwrap().ok()["clientOrderId"], "held");
    assert_eq!((world.fired().delay_answers, world.fired().hold_answers), (1, 1));
}

#[tokio::test]
async fn a_cut_body_is_half_an_answer_to_an_order_that_was_accepted() {
    let world = World::start().await;
    world.faults(json!({ "cut_body": { "times": 1 } })).await;
    let error = world.try_signed(Method::POST, "order", &resting("cut")).await.unwrap_err();
    assert!(error.is_body() || error.is_decode(), "the head came, the body did not: {error:?}");
    assert_eq!(world.query("cut").await.ok()["status"], "NEW");
    assert_eq!(world.fired().cut_body, 1);
}

#[tokio::test]
async fn a_server_error_says_nothing_of_whether_the_order_was_accepted() {
    let world = World::start().await;
    let fault = |processed: bool| json!({ "server_error": { "status": 502, "processed": processed, "times": 1 } });
    world.faults(fault(true)).await;
    let done = world.rest("done").await;
    world.faults(fault(false)).await;
    let undone = world.rest("undone").await;
    assert_eq!((done.error(), done.json), (undone.error(), undone.json.clone()));
    assert_eq!(undone.error().0, 502);
    assert_eq!(world.query("done").await.ok()["status"], "NEW");
    assert_eq!(world.query("undone").await.error(), (400, -2013));
    let accepted: Vec<_> = world.posts().iter().map(|post| post.accepted).collect();
    assert_eq!(accepted, [true, false], "both are recorded");
    assert_eq!(world.fired().server_error, 2);
}

#[tokio::test]
async fn a_limit_refuses_and_says_when_to_come_back() {
    let world = World::start().await;
    for (status, retry_after) in [(429, 7_u32), (418, 130)] {
        world
            .faults(json!({ "limit": { "status": status, "retry_after": retry_after, "on": "all", "times": 1 } }))
            .await;
        let refused = world.get("account", &[]).await;
        assert_eq!((refused.error(), refused.header("retry-after")), ((status, -1003), Some(retry_after)));
        world.get("account", &[]).await.ok();
    }
    assert_eq!(world.fired().limit, 2);
}

#[tokio::test]
async fn a_rejection_has_the_code_that_was_asked_for() {
    let world = World::start().await;
    world.faults(json!({ "reject": { "code": -1013, "reason": "Filter failure: LOT_SIZE", "times": 1 } })).await;
    let refused = world.rest("no").await;
    assert_eq!((refused.error(), &refused.json["msg"]), ((400, -1013), &json!("Filter failure: LOT_SIZE")));
    assert!(!world.posts()[0].accepted);
    assert_eq!(world.fired().reject, 1);
}

#[tokio::test]
async fn an_accepted_order_can_be_called_a_duplicate() {
    let world = World::start().await;
    world.faults(json!({ "say_duplicate": { "times": 1 } })).await;
    let answer = world.rest("twin").await;
    assert_eq!((answer.error(), &answer.json["msg"]), ((400, -2010), &json!("Duplicate order sent.")));
    assert_eq!(world.query("twin").await.ok()["status"], "NEW");
    assert_eq!(world.fired().say_duplicate, 1);
}

#[tokio::test]
async fn a_hidden_order_is_found_by_no_search_however_thorough() {
    let world = World::start().await;
    world.rest("hidden").await.ok();
    world.faults(json!({ "query_says_none": {} })).await;
    assert_eq!(world.query("hidden").await.error(), (400, -2013));
    assert_eq!(world.get("openOrders", &[]).await.ok(), json!([]));
    assert_eq!(world.get("allOrders", &[("symbol", "BTCUSDT")]).await.ok(), json!([]));
    assert_eq!(world.fired().query_says_none, 3);
    world.faults(json!({})).await;
    assert_eq!(world.query("hidden").await.ok()["status"], "NEW");
    assert_eq!(world.get("openOrders", &[]).await.ok().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn withheld_fills_come_later_by_stream_and_by_query() {
    let world = World::start().await;
    let mut socket = world.user_stream().await;
    world.faults(json!({ "withhold_fills": { "ms": 400, "times": 1 } })).await;
    let answer = world.buy("m").await.ok();
    assert_eq!((&answer["status"], &answer["fills"]), (&json!("FILLED"), &json!([])));
    assert_eq!(world.get("myTrades", &[("symbol", "BTCUSDT")]).await.ok(), json!([]));
    assert_eq!(socket.event().await["x"], "NEW");
    assert_eq!(socket.event().await["e"], "outboundAccountPosition");
    assert_eq!(socket.event().await["x"], "TRADE");
    assert_eq!(world.get("myTrades", &[("symbol", "BTCUSDT")]).await.ok()[0]["id"], 1);
    assert_eq!(world.fired().withhold_fills, 1);
}

#[tokio::test]
async fn a_cut_stream_breaks_and_can_be_had_again_after_a_while() {
    let world = World::start().await;
    let mut socket = world.user_stream().await;
    world.faults(json!({ "cut_stream": { "ms": 300, "times": 1 } })).await;
    world.rest("unheard").await.ok();
    assert_eq!(socket.next().await.unwrap_err(), End::Broken);
    let mut refused = 0;
    let mut again = eventually(async || {
        let mut socket = world.socket("/ws-api/v3").await;
        socket.send(world.subscription(1)).await;
        let up = socket.next().await.is_ok();
        refused += usize::from(!up);
        up.then_some(socket)
    })
    .await;
    assert!(refused > 0, "it was not down");
    world.rest("heard").await.ok();
    assert_eq!(again.event().await["c"], "heard");
    assert_eq!(world.fired().cut_stream, 1);
}

#[tokio::test]
async fn a_gap_in_the_stream_is_not_announced() {
    let world = World::start().await;
    let mut socket = world.user_stream().await;
    world.faults(json!({ "stream_gap": { "times": 2 } })).await;
    world.rest("lost").await.ok();
    world.rest("heard").await.ok();
    let event: Value = socket.event().await;
    assert_eq!(
        (&event["c"], &event["x"]),
        (&json!("heard"), &json!("NEW")),
        "the report and the balances before it are lost"
    );
    assert_eq!(world.fired().stream_gap, 2);
}

#[tokio::test]
async fn a_disconnect_breaks_the_connection_with_the_next_event() {
    let world = World::start().await;
    let mut socket = world.user_stream().await;
    world.faults(json!({ "disconnect": { "times": 1 } })).await;
    world.rest("unheard").await.ok();
    assert_eq!(socket.next().await.unwrap_err(), End::Broken, "without a Close");
    let mut again = world.user_stream().await;
    world.rest("heard").await.ok();
    assert_eq!(again.event().await["c"], "heard");
    assert_eq!(world.fired().disconnect, 1);
}

#[tokio::test]
async fn a_wrong_clock_refuses_what_was_right() {
    let world = World::start().await;
    for skew in [3_600_000_i64, -3_600_000] {
        let right = crate::support::now_ms().to_string();
        world.faults(json!({ "clock_skew_ms": skew })).await;
        let shown = world.public("time").await.ok()["serverTime"].as_i64().unwrap();
        assert!((shown - crate::support::now_ms() - skew).abs() < 60_000);
        let pairs = [&resting("skewed")[..], &[("timestamp", right.as_str())]].concat();
        assert_eq!(world.signed(Method::POST, "order", &pairs).await.error(), (400, -1021), "{skew}");
        world.faults(json!({})).await;
    }
    assert!(world.fired().clock_skew_ms >= 2);
    assert_eq!(world.posts().len(), 2);
}
