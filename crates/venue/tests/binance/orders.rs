//! Orders, account, general endpoints.

use reqwest::Method;
use serde_json::json;

use crate::support::{Pairs, World, but, market, now_ms, resting};

#[tokio::test]
async fn the_general_endpoints_answer_as_documented() {
    let world = World::start().await;
    assert_eq!(world.public("ping").await.ok(), json!({}));
    let time = world.public("time").await.ok()["serverTime"].as_i64().unwrap();
    assert!((now_ms() - time).abs() < 60_000);
    let info = world.public("exchangeInfo").await.ok();
    assert_eq!(info["symbols"].as_array().unwrap().len(), 2);
    let info = world.public("exchangeInfo?symbol=BTCUSDT").await.ok();
    let symbol = &info["symbols"][0];
    assert_eq!(
        (&symbol["symbol"], &symbol["baseAsset"], &symbol["quoteAsset"]),
        (&json!("BTCUSDT"), &json!("BTC"), &json!("USDT"))
    );
    let filter = |name: &str| {
        symbol["filters"].as_array().unwrap().iter().find(|filter| filter["filterType"] == name).unwrap().clone()
    };
    assert_eq!(filter("PRICE_FILTER")["tickSize"], "0.01000000");
    assert_eq!(filter("LOT_SIZE")["stepSize"], "0.00100000");
    assert_eq!(filter("NOTIONAL")["minNotional"], "5.00000000");
    assert_eq!(filter("MAX_NUM_ORDERS")["maxNumOrders"], 100);
    assert_eq!(world.public("exchangeInfo?symbols=%5B%22ETHUSDT%22%5D").await.ok()["symbols"][0]["symbol"], "ETHUSDT");
    assert_eq!(world.public("exchangeInfo?symbol=XRPUSDT").await.error(), (400, -1121));
    assert_eq!(world.public("ping?a=1").await.error(), (400, -1104));
    assert_eq!(world.public("depth?symbol=BTCUSDT").await.status, 404);
    assert_eq!(world.raw(Method::PUT, "order", None, String::new()).await.status, 404);
}

#[tokio::test]
async fn an_order_is_placed_found_listed_and_cancelled() {
    let world = World::start().await;
    let placed = world.rest("mine").await;
    assert_eq!(placed.header("x-mbx-order-count-10s"), Some(1));
    let placed = placed.ok();
    for (name, value) in [
        ("symbol", "BTCUSDT"),
        ("clientOrderId", "mine"),
        ("status", "NEW"),
        ("type", "LIMIT"),
        ("side", "BUY"),
        ("timeInForce", "GTC"),
        ("price", "90.00000000"),
        ("origQty", "0.10000000"),
        ("executedQty", "0.00000000"),
        ("cummulativeQuoteQty", "0.00000000"),
    ] {
        assert_eq!(placed[name], value, "{name}");
    }
    assert_eq!(placed["fills"], json!([]));
    let found = world.query("mine").await.ok();
    assert_eq!(
        (&found["orderId"], &found["status"], &found["isWorking"]),
        (&placed["orderId"], &json!("NEW"), &json!(true))
    );
    let id = placed["orderId"].to_string();
    assert_eq!(world.get("order", &[("symbol", "BTCUSDT"), ("orderId", &id)]).await.ok(), found);
    assert_eq!(world.get("openOrders", &[]).await.ok(), json!([found]));
    assert_eq!(world.get("openOrders", &[("symbol", "ETHUSDT")]).await.ok(), json!([]));
    assert_eq!(world.query("none").await.error(), (400, -2013));
    assert_eq!(world.cancel("none").await.error(), (400, -2011));
    assert_eq!(world.rest("mine").await.error(), (400, -2010));
    let cancelled = world.cancel("mine").await.ok();
    assert_eq!((&cancelled["status"], &cancelled["origClientOrderId"]), (&json!("CANCELED"), &json!("mine")));
    assert_ne!(cancelled["clientOrderId"], "mine", "a cancellation has an id of its own");
    assert_eq!(world.cancel("mine").await.error(), (400, -2011));
    assert_eq!(world.get("openOrders", &[]).await.ok(), json!([]));
    let all = world.get("allOrders", &[("symbol", "BTCUSDT")]).await.ok();
    assert_eq!((all.as_array().unwrap().len(), &all[0]["status"]), (1, &json!("CANCELED")));
}

#[tokio::test]
async fn a_market_order_is_answered_with_its_fills_and_the_books_agree() {
    let world = World::start().await;
    let bought = world.buy("m").await.ok();
    assert_eq!((&bought["status"], &bought["cummulativeQuoteQty"]), (&json!("FILLED"), &json!("10.10000000")));
    let fill = json!({
        "price": "101.00000000", "qty": "0.10000000", "commission": "0.00020000", "commissionAsset": "BTC", "tradeId": 1,
    });
    assert_eq!(bought["fills"], json!([fill]));
    world.buy("n").await.ok();
    world.buy("o").await.ok();
    let trades = world.get("myTrades", &[("symbol", "BTCUSDT")]).await.ok();
    let ids = |trades: &serde_json::Value| -> Vec<i64> {
        trades.as_array().unwrap().iter().map(|trade| trade["id"].as_i64().unwrap()).collect()
    };
    assert_eq!(ids(&trades), [1, 2, 3]);
    assert_eq!(
        (&trades[0]["quoteQty"], &trades[0]["isBuyer"], &trades[0]["isMaker"]),
        (&json!("10.10000000"), &json!(true), &json!(false))
    );
    let page = |pairs: &'static [(&str, &str)]| world.get("myTrades", pairs);
    assert_eq!(ids(&page(&[("symbol", "BTCUSDT"), ("fromId", "2")]).await.ok()), [2, 3], "from the trade on");
    assert_eq!(ids(&page(&[("symbol", "BTCUSDT"), ("fromId", "1"), ("limit", "2")]).await.ok()), [1, 2], "the oldest");
    assert_eq!(ids(&page(&[("symbol", "BTCUSDT"), ("limit", "2")]).await.ok()), [2, 3], "the newest");
    let account = world.get("account", &[("omitZeroBalances", "true")]).await.ok();
    assert_eq!(
        account["balances"],
        json!([
            { "asset": "BTC", "free": "10.29940000", "locked": "0.00000000" },
            { "asset": "USDT", "free": "99969.70000000", "locked": "0.00000000" },
        ])
    );
    assert_eq!(account["commissionRates"]["taker"], "0.00200000");
}

#[tokio::test]
async fn every_kind_of_order_is_taken_and_ends_as_it_should() {
    let world = World::start().await;
    let limit = resting("x");
    let place = async |changes: &[(&str, &str)]| {
        world.signed(Method::POST, "order", &but(&limit, &[changes, &[("newOrderRespType", "RESULT")]].concat())).await
    };
    let ioc = place(&[("timeInForce", "IOC")]).await.ok();
    assert_eq!((&ioc["status"], &ioc["expiryReason"]), (&json!("EXPIRED"), &json!("UNFILLED_IOC_QUANTITY_EXPIRED")));
    assert_eq!(place(&[("timeInForce", "FOK"), ("price", "101"), ("quantity", "2")]).await.ok()["status"], "EXPIRED");
    let partly = place(&[("price", "101"), ("quantity", "3"), ("newClientOrderId", "partly")]).await.ok();
    assert_eq!((&partly["status"], &partly["executedQty"]), (&json!("PARTIALLY_FILLED"), &json!("1.00000000")));
    let maker = [("type", "LIMIT_MAKER"), ("timeInForce", "")];
    world.quote("1").await;
    assert_eq!(place(&[&maker[..], &[("price", "102")]].concat()).await.error(), (400, -2010));
    assert_eq!(place(&[&maker[..], &[("newClientOrderId", "maker")]].concat()).await.ok()["type"], "LIMIT_MAKER");
    let stop = [("type", "STOP_LOSS_LIMIT"), ("stopPrice", "105"), ("price", "106"), ("newClientOrderId", "stop")];
    assert_eq!(place(&[("type", "STOP_LOSS_LIMIT"), ("stopPrice", "99")]).await.error(), (400, -2010));
    let stop = place(&stop).await.ok();
    assert_eq!((&stop["stopPrice"], stop.get("workingTime")), (&json!("105.00000000"), None));
    assert_eq!(world.query("stop").await.ok()["isWorking"], false);
    world.quote_at("104", "105", "1").await;
    let triggered = world.query("stop").await.ok();
    assert_eq!((&triggered["isWorking"], &triggered["status"]), (&json!(true), &json!("FILLED")));
    let ack = world.signed(Method::POST, "order", &but(&limit, &[("newOrderRespType", "ACK")])).await.ok();
    assert_eq!(ack.as_object().unwrap().len(), 5, "{ack}");
}

#[tokio::test]
async fn a_wrong_parameter_has_its_documented_code_and_makes_no_order() {
    let world = World::start().await;
    let (limit, market) = (resting("x"), market("y"));
    let cases: &[(Pairs<'_>, Pairs<'_>, i64)] = &[
        (&limit, &[("symbol", "")], -1102),
        (&limit, &[("symbol", "btcusdt")], -1121),
        (&limit, &[("symbol", "XRPUSDT")], -1121),
        (&limit, &[("side", "HOLD")], -1117),
        (&limit, &[("type", "STOP")], -1116),
        (&limit, &[("type", "TAKE_PROFIT")], -1014),
        (&limit, &[("timeInForce", "GTX")], -1115),
        (&limit, &[("timeInForce", "")], -1102),
        (&limit, &[("price", "")], -1102),
        (&limit, &[("price", "1e3")], -1100),
        (&limit, &[("price", "90.005")], -1013),
        (&limit, &[("price", "90.000000001")], -1111),
        (&limit, &[("price", "0")], -1013),
        (&limit, &[("price", "99999999999")], -1108),
        (&limit, &[("quantity", "")], -1102),
        (&limit, &[("quantity", "0.0001")], -1013),
        (&limit, &[("quantity", "0.01")], -1013),
        (&limit, &[("quantity", "5000")], -2010),
        (&limit, &[("stopPrice", "95")], -1106),
        (&limit, &[("newClientOrderId", "no spaces")], -1100),
        (&limit, &[("newClientOrderId", "0123456789012345678901234567890123456")], -1100),
        (&limit, &[("newOrderRespType", "ALL")], -1130),
        (&limit, &[("icebergQty", "1")], -2010),
        (&limit, &[("recvWindow", "60001")], -1102),
        (&limit, &[("recvWindow", "1.2345")], -1130),
        (&limit, &[("surprise", "1")], -1104),
        (&market, &[("price", "100")], -1106),
        (&market, &[("timeInForce", "GTC")], -1106),
        (&market, &[("quantity", ""), ("quoteOrderQty", "10")], -2010),
    ];
    for (pairs, changes, code) in cases {
        let answer = world.signed(Method::POST, "order", &but(pairs, changes)).await;
        assert_eq!(answer.error(), (400, *code), "{changes:?}: {}", answer.json);
    }
    assert_eq!(world.get("order", &[("symbol", "BTCUSDT")]).await.error(), (400, -1102));
    assert_eq!(world.get("myTrades", &[("symbol", "BTCUSDT"), ("limit", "1001")]).await.error(), (400, -1130));
    assert_eq!(world.get("allOrders", &[]).await.error(), (400, -1102));
    let ledger = world.ledger();
    assert!(ledger.orders.is_empty());
    assert_eq!(ledger.posts.len(), cases.len(), "each of them is recorded all the same");
}
