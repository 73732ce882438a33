//! Keys, signatures, time, limits, and what is noted of requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use reqwest::Method;
use serde_json::{Value, json};
use trading::ids::ClientOrderId;
use venue::binance::Limits;
use venue::ledger;
use venue::witness::{Blind, Witness};

use crate::support::{KEY, OTHER_KEY, World, but, form, hmac_hex, now_ms, resting};

#[tokio::test]
async fn a_signature_is_over_exactly_what_was_sent() {
    let world = World::start().await;
    let now = now_ms();
    // Encoded needlessly, and in query and body: there is nothing between the two.
    let query = "symbol=BTC%55SDT&side=BUY&type=LIMIT";
    let body = format!("timeInForce=GTC&quantity=0.1&price=90&timestamp={now}");
    let signature = hmac_hex(&format!("{query}{body}"));
    let answer =
        world.raw(Method::POST, &format!("order?{query}"), Some(KEY), format!("{body}&signature={signature}")).await;
    assert_eq!(answer.ok()["symbol"], "BTCUSDT");
    let decoded = hmac_hex(&format!("symbol=BTCUSDT&side=BUY&type=LIMIT{body}"));
    let answer =
        world.raw(Method::POST, &format!("order?{query}"), Some(KEY), format!("{body}&signature={decoded}")).await;
    assert_eq!(answer.error(), (400, -1022));
    let text = format!("omitZeroBalances=true&timestamp={now}");
    let upper = hmac_hex(&text).to_uppercase();
    world.raw(Method::GET, &format!("account?{text}&signature={upper}"), Some(KEY), String::new()).await.ok();
    let twice = format!("timestamp={now}&timestamp={now}");
    let answer = world
        .raw(Method::GET, &format!("account?{twice}&signature={}", hmac_hex(&twice)), Some(KEY), String::new())
        .await;
    assert_eq!(answer.error(), (400, -1101));
}

#[tokio::test]
async fn an_ed25519_key_signs_in_base64() {
    let world = World::start().await;
    let text = format!("omitZeroBalances=true&timestamp={}", now_ms());
    let signature = world.ed25519_base64(&text);
    let get = async |signature: &str| {
        let path = format!("account?{text}&{}", form(&[("signature", signature)]));
        world.raw(Method::GET, &path, Some(OTHER_KEY), String::new()).await
    };
    assert_eq!(get(&signature).await.ok()["canTrade"], true);
    assert_eq!(get(&hmac_hex(&text)).await.error(), (400, -1022), "another key's kind of signature");
    assert_eq!(get(&world.ed25519_base64("something else")).await.error(), (400, -1022));
}

#[tokio::test]
async fn without_a_good_key_nothing_is_told() {
    let world = World::start().await;
    let text = world.sign(&[]);
    let get = async |key| world.raw(Method::GET, &format!("account?{text}"), key, String::new()).await;
    assert_eq!(get(None).await.error(), (401, -2014));
    assert_eq!(get(Some("")).await.error(), (401, -2014));
    assert_eq!(get(Some("no-key")).await.error(), (401, -2014));
    assert_eq!(get(Some("NoSuchKey")).await.error(), (401, -2015));
    assert_eq!(get(Some(OTHER_KEY)).await.error(), (400, -1022));
    let answer = world.raw(Method::GET, &format!("account?timestamp={}", now_ms()), Some(KEY), String::new()).await;
    assert_eq!(answer.error(), (400, -1102), "no signature");
    let answer = world.raw(Method::GET, &format!("account?signature={}", hmac_hex("")), Some(KEY), String::new()).await;
    assert_eq!(answer.error(), (400, -1102), "no timestamp");
}

#[tokio::test]
async fn a_request_is_good_for_its_own_window_only() {
    let world = World::start().await;
    let at = async |offset_ms: i64, window: &str| {
        let timestamp = (now_ms() + offset_ms).to_string();
        world.get("account", &[("recvWindow", window), ("timestamp", &timestamp)]).await
    };
    assert_eq!(at(-30_000, "60000").await.status, 200);
    assert_eq!(at(-30_000, "20000").await.error(), (400, -1021));
    assert_eq!(at(60_000, "60000").await.error(), (400, -1021), "ahead of the venue's clock");
    assert_eq!(at(-30_000, "59999.999").await.status, 200);
    let micros = (now_ms() * 1000).to_string();
    assert_eq!(world.get("account", &[("timestamp", &micros)]).await.status, 200, "in microseconds");
    for bad in ["-1", "soon", "99999999999999999999"] {
        assert_eq!(world.get("account", &[("timestamp", bad)]).await.error(), (400, -1100), "{bad}");
    }
    let old = (now_ms() - 30_000).to_string();
    let late = world.signed(Method::POST, "order", &but(&resting("late"), &[("timestamp", &old)])).await;
    assert_eq!(late.error(), (400, -1021));
    assert!(world.posts()[0].reason.as_ref().unwrap().starts_with("-1021"));
}

#[tokio::test]
async fn every_post_is_in_the_ledger_whatever_became_of_it() {
    let world = World::with(Limits { orders_per_10s: 1, ..Limits::default() }, None).await;
    world.rest("accepted").await.ok();
    // The interval may be over by now; it is only counted in.
    let limited = async || {
        let mut n = 0;
        loop {
            let id = format!("limited{n}");
            if world.rest(&id).await.status == 429 {
                return id;
            }
            n += 1;
        }
    };
    let limited = limited().await;
    let unsigned = form(&but(&resting("unsigned"), &[("timestamp", "1"), ("signature", "00")]));
    assert_eq!(world.raw(Method::POST, "order", Some(KEY), unsigned).await.error(), (400, -1022));
    assert_eq!(world.raw(Method::POST, "order", Some(KEY), "price=1&price=2".into()).await.error(), (400, -1101));
    let stranger = world.sign(&resting("stranger"));
    assert_eq!(world.raw(Method::POST, "order", Some("Stranger"), stranger).await.error(), (401, -2015));
    let posts = world.posts();
    let reason = |id: &str| {
        let post = posts.iter().find(|post| post.client_id.as_str() == id).unwrap_or_else(|| panic!("{id}: {posts:?}"));
        post.reason.as_ref().map(|reason| reason.split(' ').next().unwrap().to_owned())
    };
    assert_eq!(reason("accepted"), None);
    assert_eq!(reason(&limited).as_deref(), Some("-1015"));
    assert_eq!(reason("unsigned").as_deref(), Some("-1022"));
    assert!(
        posts.iter().any(|post| post.reason.as_ref().is_some_and(|reason| reason.starts_with("-1101"))),
        "unreadable"
    );
    let all = ledger::read(world.host.ledger()).unwrap();
    assert!(!all.accounts.values().flat_map(|a| &a.posts).any(|post| post.client_id.as_str() == "stranger"));
}

#[tokio::test]
async fn requests_weigh_what_is_documented_and_too_many_are_refused() {
    let world = World::with(Limits { weight_per_minute: 300, ..Limits::default() }, None).await;
    // All in one minute of the venue's clock: it begins now.
    let into_minute = now_ms().rem_euclid(60_000);
    world.faults(json!({ "clock_skew_ms": -into_minute })).await;
    let mut used = 0;
    let mut weighs = |answer: crate::support::Answer, weight: u32, what: &str| {
        used += weight;
        assert_eq!(answer.header("x-mbx-used-weight-1m"), Some(used), "{what}");
    };
    weighs(world.public("ping").await, 1, "ping");
    weighs(world.public("time").await, 1, "time");
    weighs(world.public("exchangeInfo").await, 20, "exchangeInfo");
    weighs(world.rest("a").await, 1, "new order");
    weighs(world.query("a").await, 4, "query");
    weighs(world.get("openOrders", &[("symbol", "BTCUSDT")]).await, 6, "open orders of a symbol");
    weighs(world.get("openOrders", &[]).await, 80, "all open orders");
    weighs(world.get("allOrders", &[("symbol", "BTCUSDT")]).await, 20, "all orders");
    weighs(world.get("myTrades", &[("symbol", "BTCUSDT")]).await, 20, "trades");
    weighs(world.get("myTrades", &[("symbol", "BTCUSDT"), ("orderId", "1")]).await, 5, "trades of an order");
    weighs(world.get("account", &[]).await, 20, "account");
    weighs(world.cancel("a").await, 1, "cancel");
    weighs(world.get("openOrders", &[]).await, 80, "all open orders");
    let refused = world.get("openOrders", &[]).await;
    assert_eq!(refused.error(), (429, -1003));
    assert!((1..=60).contains(&refused.header("retry-after").unwrap()));
    assert_eq!(world.rest("b").await.error(), (429, -1003));
    assert!(world.posts().iter().any(|post| post.client_id.as_str() == "b" && !post.accepted));
    let mut last = refused;
    while last.status == 429 {
        last = world.public("ping").await;
    }
    assert_eq!(last.error(), (418, -1003), "who does not stop is banned");
    assert!((60..=121).contains(&last.header("retry-after").unwrap()));
    world.faults(json!({ "clock_skew_ms": 180_000 })).await;
    assert_eq!(world.public("ping").await.status, 200, "the ban is over");
}

#[tokio::test]
async fn every_request_is_noted_with_what_became_of_it() {
    let world = World::start().await;
    world.public("ping").await.ok();
    world.rest("mine").await.ok();
    assert_eq!(world.query("none").await.error(), (400, -2013));
    world.public("nothing").await;
    world.faults(json!({ "limit": { "status": 429, "retry_after": 3, "times": 1 } })).await;
    world.rest("limited").await;
    world.user_stream().await;
    let lines = world.lines(6).await;
    let shown: Vec<Value> = lines
        .iter()
        .map(|line| {
            json!([line["account"], line["method"], line["path"], line["client_id"], line["status"], line["code"]])
        })
        .collect();
    assert_eq!(
        shown,
        [
            json!([null, "GET", "/api/v3/ping", null, 200, null]),
            json!(["main", "POST", "/api/v3/order", "mine", 200, null]),
            json!(["main", "GET", "/api/v3/order", "none", 400, -2013]),
            json!([null, "GET", "/api/v3/nothing", null, 404, -1020]),
            json!(["main", "POST", "/api/v3/order", "limited", 429, -1003]),
            json!(["main", "WS", "userDataStream.subscribe.signature", null, 200, null]),
        ]
    );
    assert_eq!(lines[4]["faults"], json!(["limit"]));
    assert!(lines[1]["timestamp"].as_i64().unwrap() > 0 && lines[1]["at"].as_i64().unwrap() > 0);
}

/// Knows what it is told.
#[derive(Debug, Default)]
struct Told {
    blind: AtomicBool,
}

#[async_trait]
impl Witness for Told {
    async fn is_committed(&self, client_id: &ClientOrderId) -> Result<bool, Blind> {
        if self.blind.load(Ordering::Relaxed) {
            Err(Blind("locked".into()))
        } else {
            Ok(client_id.as_str() == "written")
        }
    }
}

#[tokio::test]
async fn an_order_that_was_not_written_down_first_is_refused_and_recorded() {
    let witness = Arc::new(Told::default());
    let looking: Arc<dyn Witness> = witness.clone();
    let world = World::with(Limits::default(), Some(looking)).await;
    world.rest("written").await.ok();
    assert_eq!(world.rest("forgotten").await.error(), (400, -9000));
    witness.blind.store(true, Ordering::Relaxed);
    assert_eq!(world.rest("unseen").await.error().0, 503, "who cannot look accuses nobody");
    let posts = world.posts();
    let flags: Vec<_> =
        posts.iter().map(|post| (post.client_id.as_str(), post.accepted, post.is_unwitnessed())).collect();
    assert_eq!(flags, [("written", true, false), ("forgotten", false, true), ("unseen", false, false)]);
    assert_eq!(world.ledger().orders.len(), 1);
}
