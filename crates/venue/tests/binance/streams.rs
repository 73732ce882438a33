//! The account's stream and the market streams.

use serde_json::{Value, json};

use crate::support::{End, KEY, World, hmac_hex, now_ms, resting};

#[tokio::test]
async fn an_order_is_told_change_by_change() {
    let world = World::start().await;
    let mut socket = world.user_stream().await;
    world.rest("mine").await.ok();
    let new = socket.event().await;
    for (name, value) in [
        ("e", json!("executionReport")),
        ("s", json!("BTCUSDT")),
        ("c", json!("mine")),
        ("C", json!("")),
        ("S", json!("BUY")),
        ("o", json!("LIMIT")),
        ("f", json!("GTC")),
        ("q", json!("0.10000000")),
        ("p", json!("90.00000000")),
        ("x", json!("NEW")),
        ("X", json!("NEW")),
        ("i", json!(1)),
        ("l", json!("0.00000000")),
        ("z", json!("0.00000000")),
        ("N", json!(null)),
        ("t", json!(-1)),
        ("w", json!(true)),
    ] {
        assert_eq!(new[name], value, "{name}");
    }
    let position = socket.event().await;
    assert_eq!(position["e"], "outboundAccountPosition");
    assert_eq!(position["B"][1], json!({ "a": "USDT", "f": "99991.00000000", "l": "9.00000000" }));
    // A trade through the price fills a part of it, another one the rest.
    world.trade("89", "0.04").await;
    let trade = socket.event().await;
    for (name, value) in [
        ("x", json!("TRADE")),
        ("X", json!("PARTIALLY_FILLED")),
        ("l", json!("0.04000000")),
        ("L", json!("90.00000000")),
        ("z", json!("0.04000000")),
        ("Y", json!("3.60000000")),
        ("Z", json!("3.60000000")),
        ("n", json!("0.00004000")),
        ("N", json!("BTC")),
        ("t", json!(1)),
        ("m", json!(true)),
    ] {
        assert_eq!(trade[name], value, "{name}");
    }
    assert_eq!(socket.event().await["e"], "outboundAccountPosition");
    let cancelled = world.cancel("mine").await.ok();
    let event = socket.event().await;
    assert_eq!((&event["x"], &event["X"]), (&json!("CANCELED"), &json!("CANCELED")));
    assert_eq!((&event["C"], &event["c"]), (&json!("mine"), &cancelled["clientOrderId"]), "the cancellation's own id");
    assert_eq!((&event["z"], &event["w"]), (&json!("0.04000000"), &json!(false)));
    assert_eq!(socket.event().await["B"][1]["l"], "0.00000000");
}

#[tokio::test]
async fn what_happens_at_once_is_told_in_order_with_sums_as_they_were_in_between() {
    let world = World::start().await;
    let mut socket = world.user_stream().await;
    let stop = [
        ("symbol", "BTCUSDT"),
        ("side", "BUY"),
        ("type", "STOP_LOSS_LIMIT"),
        ("timeInForce", "IOC"),
        ("quantity", "0.5"),
        ("price", "110"),
        ("stopPrice", "105"),
        ("newClientOrderId", "stop"),
    ];
    world.signed(reqwest::Method::POST, "order", &stop).await.ok();
    world.quote_at("104", "106", "0.2").await;
    let mut told = Vec::new();
    while told.len() < 4 {
        let event = socket.event().await;
        if event["e"] == "executionReport" {
            told.push(json!([event["x"], event["X"], event["z"], event["w"], event.get("eR")]));
        }
    }
    assert_eq!(
        told,
        [
            json!(["NEW", "NEW", "0.00000000", false, null]),
            json!(["NEW", "NEW", "0.00000000", true, null]),
            json!(["TRADE", "PARTIALLY_FILLED", "0.20000000", true, null]),
            json!(["EXPIRED", "EXPIRED", "0.20000000", false, "UNFILLED_IOC_QUANTITY_EXPIRED"]),
        ]
    );
}

#[tokio::test]
async fn a_subscription_begins_once_and_ends_on_request() {
    let world = World::start().await;
    let mut socket = world.socket("/ws-api/v3").await;
    let first = socket.ask(world.subscription(7)).await;
    assert_eq!(
        (&first["id"], &first["status"], &first["result"]),
        (&json!(7), &json!(200), &json!({ "subscriptionId": 0 }))
    );
    assert_eq!(first["rateLimits"][0]["rateLimitType"], "REQUEST_WEIGHT");
    assert_eq!(socket.ask(world.subscription(8)).await["error"]["code"], -2035);
    let mut other = world.user_stream().await;
    let list = socket.ask(json!({ "id": null, "method": "session.subscriptions" })).await;
    assert_eq!(list["result"], json!([{ "subscriptionId": 0 }]));
    let over = socket
        .ask(json!({ "id": "u", "method": "userDataStream.unsubscribe", "params": { "subscriptionId": 0 } }))
        .await;
    assert_eq!((&over["id"], &over["result"]), (&json!("u"), &json!({})));
    assert_eq!(socket.event().await["e"], "eventStreamTerminated");
    assert_eq!(socket.ask(json!({ "id": 1, "method": "userDataStream.unsubscribe" })).await["error"]["code"], -2036);
    world.rest("mine").await.ok();
    assert_eq!(other.event().await["c"], "mine");
    let next = socket.ask(json!({ "id": 2, "method": "ping" })).await;
    assert_eq!(next["id"], 2, "nothing came before it: {next}");
    assert_eq!(socket.ask(world.subscription(9)).await["result"], json!({ "subscriptionId": 1 }));
}

#[tokio::test]
async fn what_is_no_good_request_is_answered_with_its_code() {
    let world = World::start().await;
    let mut socket = world.socket("/ws-api/v3?returnRateLimits=false").await;
    let time = socket.ask(json!({ "id": 1, "method": "v3/time" })).await;
    assert!(time["result"]["serverTime"].as_i64().unwrap() > 0 && time.get("rateLimits").is_none(), "{time}");
    let shown = socket.ask(json!({ "id": 1, "method": "time", "params": { "returnRateLimits": true } })).await;
    assert_eq!(shown["rateLimits"][0]["limit"], 6000);
    let code = |answer: &Value| (answer["status"].as_i64().unwrap(), answer["error"]["code"].as_i64().unwrap());
    assert_eq!(code(&socket.ask(json!({ "id": 1, "method": "order.place" })).await), (400, -1020));
    assert_eq!(code(&socket.ask(json!("hello")).await), (400, -1135));
    let subscribe =
        |params: Value| json!({ "id": 1, "method": "userDataStream.subscribe.signature", "params": params });
    assert_eq!(code(&socket.ask(subscribe(json!({}))).await), (400, -1102));
    let now = now_ms();
    let with = |key: &str, timestamp: i64, signature: String| {
        subscribe(json!({ "apiKey": key, "timestamp": timestamp, "signature": signature }))
    };
    let sign = |timestamp: i64| hmac_hex(&format!("apiKey={KEY}&timestamp={timestamp}"));
    assert_eq!(code(&socket.ask(with("Nobody", now, sign(now))).await), (401, -2015));
    assert_eq!(code(&socket.ask(with(KEY, now, sign(1))).await), (400, -1022));
    assert_eq!(code(&socket.ask(with(KEY, now - 60_000, sign(now - 60_000))).await), (400, -1021));
    assert_eq!(socket.ask(with(KEY, now, sign(now))).await["status"], 200);
}

#[tokio::test]
async fn prices_come_raw_or_combined() {
    let world = World::start().await;
    let mut raw = world.socket("/ws/btcusdt@bookTicker").await;
    let mut combined = world.socket("/stream?streams=btcusdt@trade/btcusdt@bookTicker").await;
    world.quote("2").await;
    world.trade("100.5", "0.25").await;
    let quote = raw.next().await.unwrap();
    let u = quote["u"].as_u64().unwrap();
    assert_eq!(
        quote,
        json!({
            "u": u, "s": "BTCUSDT", "b": "100.00000000", "B": "1.00000000", "a": "101.00000000", "A": "2.00000000",
        })
    );
    assert_eq!(combined.next().await.unwrap(), json!({ "stream": "btcusdt@bookTicker", "data": quote }));
    let trade = combined.next().await.unwrap();
    assert_eq!(
        trade,
        json!({ "stream": "btcusdt@trade", "data": {
            "e": "trade", "E": 7, "s": "BTCUSDT", "t": u + 1, "p": "100.50000000", "q": "0.25000000", "T": 7, "m": true, "M": true,
        }})
    );
    assert_eq!(
        raw.ask(json!({ "method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 3 })).await,
        json!({ "result": null, "id": 3 })
    );
    let list = raw.ask(json!({ "method": "LIST_SUBSCRIPTIONS", "id": 4 })).await;
    assert_eq!(list["result"], json!(["btcusdt@bookTicker", "btcusdt@trade"]));
    raw.ask(json!({ "method": "UNSUBSCRIBE", "params": ["btcusdt@bookTicker"], "id": 5 })).await;
    world.quote("3").await;
    world.trade("100.5", "0.5").await;
    assert_eq!(raw.next().await.unwrap()["q"], "0.50000000", "the quote is no longer for it");
    assert_eq!(raw.ask(json!({ "method": "DANCE", "id": 6 })).await["code"], 2);
}

#[tokio::test]
async fn a_server_that_stops_says_so_and_closes_every_websocket() {
    let world = World::start().await;
    let mut user = world.user_stream().await;
    let mut market = world.socket("/stream?streams=btcusdt@trade").await;
    world.binance.close();
    assert_eq!(user.next().await.unwrap()["event"]["e"], "serverShutdown");
    assert_eq!(user.next().await.unwrap_err(), End::Closed(Some(1001)));
    assert_eq!(market.next().await.unwrap()["stream"], "!serverShutdown");
    assert_eq!(market.next().await.unwrap_err(), End::Closed(Some(1001)));
    drop((user, market));
    tokio::time::timeout(crate::support::LIMIT, world.binance.closed()).await.unwrap();
}

#[tokio::test]
async fn one_account_hears_nothing_of_another() {
    let world = World::start().await;
    let mut socket = world.socket("/ws-api/v3").await;
    let now = now_ms();
    let payload = format!("apiKey={}&timestamp={now}", crate::support::OTHER_KEY);
    let signature = world.ed25519_base64(&payload);
    let params = json!({ "apiKey": crate::support::OTHER_KEY, "timestamp": now, "signature": signature });
    let answer = socket.ask(json!({ "id": 1, "method": "userDataStream.subscribe.signature", "params": params })).await;
    assert_eq!(answer["status"], 200, "{answer}");
    let mut own = world.user_stream().await;
    world.signed(reqwest::Method::POST, "order", &resting("mine")).await.ok();
    assert_eq!(own.event().await["c"], "mine");
    assert_eq!(socket.ask(json!({ "id": 2, "method": "ping" })).await["id"], 2, "nothing came before it");
}
