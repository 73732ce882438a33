//! Queries and lists.

use hotgo::gateway::Gateway;
use trading::exchange::{CancelResult, QueryResult, VenueStatus};
use trading::ids::{ClientOrderId, TradeId};

use crate::wire::*;

fn row(id: i64, client_id: &str, status: &str) -> String {
    format!(
        r#"{{"symbol":"BTCUSDT","orderId":{id},"clientOrderId":"{client_id}","price":"1","origQty":"1","executedQty":"0.0",
        "status":"{status}","timeInForce":"GTC","type":"LIMIT","side":"BUY","time":1,"updateTime":1}}"#
    )
}

fn trade(id: i64, order: i64) -> String {
    format!(
        r#"{{"symbol":"BTCUSDT","id":{id},"orderId":{order},"price":"87000.0","qty":"0.1","quoteQty":"8700","commission":"0.1",
        "commissionAsset":"USDT","time":5,"isBuyer":false,"isMaker":true,"isBestMatch":true}}"#
    )
}

/// A trade of this minute.
fn fresh(id: i64, order: i64) -> String {
    trade(id, order).replace(r#""time":5"#, &format!(r#""time":{}"#, now().millis()))
}

async fn query(reply: fn(&Request) -> Option<Reply>, thorough: bool) -> (QueryResult, Vec<String>) {
    let server = Server::start(reply).await;
    let rig = Rig::to(&server).await;
    let before = server.requests().len();
    let result = rig.gateway.query(&order().symbol, &order().client_id, thorough).await;
    let paths = server.requests()[before..].iter().map(|r| r.line.split('?').next().unwrap().to_owned()).collect();
    (result, paths)
}

fn none() -> Reply {
    error(400, -2013, "Order does not exist.")
}

#[tokio::test]
async fn an_order_is_found_by_our_id_whatever_id_the_venue_shows() {
    let server = Server::start(|request| {
        request.is("GET /api/v3/order?").then(|| ok(row(9, "x-the-cancels-own-id", "CANCELED")))
    })
    .await;
    let rig = Rig::to(&server).await;
    let result = rig.gateway.query(&order().symbol, &order().client_id, false).await;
    let QueryResult::Found(report) = result else { panic!("{result:?}") };
    assert_eq!((report.client_id.as_str(), report.status), (OURS, VenueStatus::Canceled));
    assert_eq!(server.seen("GET /api/v3/order?")[0].param("origClientOrderId").unwrap(), OURS);
}

#[tokio::test]
async fn a_thorough_no_has_looked_everywhere_and_a_quick_one_has_not() {
    let everywhere = |request: &Request| match request.line.split('?').next().unwrap() {
        "GET /api/v3/openOrders" | "GET /api/v3/allOrders" => Some(ok(format!("[{}]", row(1, "web_1", "NEW")))),
        "GET /api/v3/order" => Some(none()),
        _ => None,
    };
    let (result, paths) = query(everywhere, true).await;
    assert_eq!(result, QueryResult::NotFound { thorough: true });
    assert_eq!(paths, ["GET /api/v3/order", "GET /api/v3/openOrders", "GET /api/v3/allOrders"]);
    let (result, paths) = query(everywhere, false).await;
    assert_eq!((result, paths.len()), (QueryResult::NotFound { thorough: false }, 1));
}

#[tokio::test]
async fn an_order_that_only_the_lists_show_is_found() {
    let listed = |request: &Request| match request.line.split('?').next().unwrap() {
        "GET /api/v3/openOrders" => Some(ok("[]")),
        "GET /api/v3/allOrders" => Some(ok(format!("[{},{}]", row(1, "web_1", "NEW"), row(2, OURS, "FILLED")))),
        "GET /api/v3/order" => Some(none()),
        _ => None,
    };
    let (result, _) = query(listed, true).await;
    assert!(matches!(result, QueryResult::Found(report) if report.client_id.as_str() == OURS));
}

/// A restart asks for hundreds of orders in the same moment. A list for each of them would be 26 of a minute's 6,000 weights.
#[tokio::test]
async fn who_asks_at_the_same_time_shares_the_lists_and_who_asks_later_reads_them_again() {
    let everywhere = |request: &Request| match request.line.split('?').next().unwrap() {
        "GET /api/v3/openOrders" | "GET /api/v3/allOrders" => Some(ok("[]")),
        "GET /api/v3/order" => Some(none()),
        _ => None,
    };
    let server = Server::start(everywhere).await;
    let rig = Rig::to(&server).await;
    let order = order();
    let ids: Vec<ClientOrderId> = (0..100).map(|n| ClientOrderId::from_venue(format!("lost-{n}"))).collect();
    let asking = ids.iter().map(|id| rig.gateway.query(&order.symbol, id, true));
    for result in futures_util::future::join_all(asking).await {
        assert_eq!(result, QueryResult::NotFound { thorough: true });
    }
    let together = server.seen("GET /api/v3/allOrders").len();
    assert!(together < 50, "{together} lists for 100 orders");
    for later in 1..=2 {
        rig.gateway.query(&order.symbol, &ids[0], true).await;
        assert_eq!(server.seen("GET /api/v3/allOrders").len(), together + later, "an old list proves nothing new");
    }
}

#[tokio::test]
async fn a_list_that_could_not_be_read_proves_no_absence() {
    let failing = |request: &Request| match request.line.split('?').next().unwrap() {
        "GET /api/v3/openOrders" => Some(ok("[]")),
        "GET /api/v3/order" => Some(none()),
        "GET /api/v3/time" => None,
        _ => Some(error(503, -1008, "Server is currently overloaded.")),
    };
    let (result, _) = query(failing, true).await;
    assert!(matches!(result, QueryResult::Failed { .. }), "{result:?}");
}

#[tokio::test]
async fn a_cancel_names_itself_after_its_order() {
    let server = Server::start(|request| request.is("DELETE ").then(|| ok(row(9, "cancel", "CANCELED")))).await;
    let rig = Rig::to(&server).await;
    let result = rig.gateway.cancel(&order().symbol, &order().client_id).await;
    let CancelResult::Canceled(report) = result else { panic!("{result:?}") };
    assert_eq!(report.client_id.as_str(), OURS);
    let cancel = &server.seen("DELETE ")[0];
    assert_eq!(cancel.param("origClientOrderId").unwrap(), OURS);
    assert_eq!(cancel.param("newClientOrderId").unwrap(), format!("c{OURS}"));
}

#[tokio::test]
async fn fills_are_paged_from_the_trade_after_and_get_their_orders_ids() {
    let server = Server::start(|request| match request.line.split('?').next().unwrap() {
        "GET /api/v3/myTrades" => Some(ok(format!("[{},{},{}]", trade(41, 7), trade(42, 9), trade(43, 11)))),
        // The middle one is shown under the id of its cancel; the last one, long ago, is known nowhere any more.
        "GET /api/v3/allOrders" => {
            Some(ok(format!("[{},{}]", row(7, "web_1", "FILLED"), row(9, &format!("c{OURS}"), "CANCELED"))))
        }
        "GET /api/v3/order" => Some(error(400, -2013, "Order does not exist.")),
        _ => None,
    })
    .await;
    let rig = Rig::to(&server).await;
    let fills = rig.gateway.fills(&order().symbol, Some(TradeId(40)), 500).await.unwrap();
    let names: Vec<&str> = fills.iter().map(|fill| fill.client_id.as_str()).collect();
    assert_eq!(names, ["web_1", OURS, "order-11"]);
    assert!(!ClientOrderId::from_venue(names[2]).has_our_shape());
    let trades = &server.seen("GET /api/v3/myTrades")[0];
    assert_eq!((trades.param("fromId").unwrap(), trades.param("limit").unwrap()), ("41".to_owned(), "500".to_owned()));
    assert_eq!(server.seen("GET /api/v3/allOrders")[0].param("orderId").unwrap(), "7");
    rig.gateway.fills(&order().symbol, None, 5_000).await.unwrap();
    let trades = &server.seen("GET /api/v3/myTrades")[1];
    assert_eq!((trades.param("fromId").unwrap(), trades.param("limit").unwrap()), ("0".to_owned(), "1000".to_owned()));
}

/// The lists of orders may lag behind the trades.
#[tokio::test]
async fn the_order_of_a_trade_that_is_not_listed_yet_is_asked_for() {
    let server = Server::start(|request| match request.line.split('?').next().unwrap() {
        "GET /api/v3/myTrades" => Some(ok(format!("[{}]", fresh(41, 7)))),
        "GET /api/v3/allOrders" => Some(ok("[]")),
        "GET /api/v3/order" => Some(ok(row(7, OURS, "FILLED"))),
        _ => None,
    })
    .await;
    let rig = Rig::to(&server).await;
    let fills = rig.gateway.fills(&order().symbol, None, 500).await.unwrap();
    assert_eq!(fills[0].client_id.as_str(), OURS);
    assert_eq!(server.seen("GET /api/v3/order?")[0].param("orderId").unwrap(), "7");
}

/// Taken for a foreign one it would be passed over for ever.
#[tokio::test]
async fn a_trade_of_now_whose_order_the_venue_does_not_know_is_no_page() {
    let server = Server::start(|request| match request.line.split('?').next().unwrap() {
        "GET /api/v3/myTrades" => Some(ok(format!("[{}]", fresh(41, 7)))),
        "GET /api/v3/allOrders" => Some(ok("[]")),
        "GET /api/v3/order" => Some(error(400, -2013, "Order does not exist.")),
        _ => None,
    })
    .await;
    let rig = Rig::to(&server).await;
    assert!(rig.gateway.fills(&order().symbol, None, 500).await.is_err());
}

#[tokio::test]
async fn a_fills_page_that_cannot_be_read_as_a_whole_is_no_page() {
    let server = Server::start(|request| match request.line.split('?').next().unwrap() {
        "GET /api/v3/myTrades" => Some(ok(format!("[{}]", trade(41, 7).replace("87000.0", "0")))),
        "GET /api/v3/allOrders" => Some(ok("[]")),
        _ => None,
    })
    .await;
    let rig = Rig::to(&server).await;
    assert!(rig.gateway.fills(&order().symbol, None, 500).await.is_err());
}
