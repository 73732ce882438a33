//! Written after the examples of the venue's documentation.

use super::*;

fn order_row(text: &str) -> OrderRow {
    serde_json::from_str(text).unwrap()
}

const OURS: &str = "h0123456789abcdefghjkmnpqrs";

#[test]
fn a_full_answer_to_a_market_order_carries_its_fills() {
    let row = order_row(
        r#"{"symbol":"BTCUSDT","orderId":28,"orderListId":-1,"clientOrderId":"6gCrw2kRUAF9CvJDGP16IP",
        "transactTime":1507725176595,"price":"0.00000000","origQty":"10.00000000","executedQty":"6.00000000",
        "origQuoteOrderQty":"0.000000","cummulativeQuoteQty":"10.00000000","status":"EXPIRED","timeInForce":"GTC",
        "type":"MARKET","side":"SELL","workingTime":1507725176595,"selfTradePreventionMode":"NONE","fills":[
        {"price":"4000.00000000","qty":"1.00000000","commission":"4.00000000","commissionAsset":"USDT","tradeId":56},
        {"price":"3999.00000000","qty":"5.00000000","commission":"0.00000000","commissionAsset":"BNB","tradeId":57}]}"#,
    );
    let report = row.report().unwrap();
    assert_eq!((report.status, report.executed.to_string()), (VenueStatus::Expired, "6".to_owned()));
    assert_eq!(report.venue_id, VenueOrderId(28));
    let [first, second] = &report.fills[..] else { panic!("two fills") };
    assert_eq!((first.trade_id, first.side, first.maker), (TradeId(56), Side::Sell, false));
    assert_eq!((first.price.to_string(), first.fee.to_string()), ("4000".to_owned(), "4".to_owned()));
    assert_eq!((second.fee, second.fee_asset.as_str()), (Amount::ZERO, "BNB"));
    assert_eq!(first.at, Timestamp::from_millis(1_507_725_176_595));
}

#[test]
fn a_cancelled_order_is_known_by_its_own_id_under_whatever_id_it_is_shown() {
    let ours = ClientOrderId::from_venue(OURS);
    assert!(ours.has_our_shape());
    assert_eq!(client_id(OURS), ours);
    assert_eq!(client_id(&cancel_id(&ours)), ours);
    for foreign in ["web_1", "cweb_1", "", "c", "ch"] {
        assert_eq!(client_id(foreign).as_str(), foreign);
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    for bad in ["", "-1", "NaN", "1e5", "0x1", " 1"] {
        assert!(unsigned("x", bad).is_err(), "{bad}");
    }
    assert_eq!(unsigned("x", "0.00000000").unwrap(), Decimal::ZERO);
    assert!(status("SOMETHING_NEW").is_err());
}

fn listed(client_id: &str, symbol: &str, executed: &str) -> OrderRow {
    order_row(&format!(
        r#"{{"symbol":"{symbol}","orderId":1,"clientOrderId":"{client_id}","executedQty":"{executed}","status":"NEW",
        "side":"BUY","type":"LIMIT"}}"#
    ))
}

#[test]
fn a_foreign_order_that_cannot_be_read_is_left_out_and_one_of_ours_spoils_the_list() {
    let rows = [listed("web_1", "１２３", "0"), listed("web_2", "BTCUSDT", "1.5"), listed(OURS, "BTCUSDT", "0.0")];
    assert_eq!(reports(&rows).unwrap().len(), 2);
    assert!(reports(&[listed(OURS, "BTCUSDT", "?")]).is_err());
}

#[test]
fn filters_and_limits_are_read_from_exchange_info() {
    let info: ExchangeInfo = serde_json::from_str(
        r#"{"timezone":"UTC","serverTime":1565246363776,"rateLimits":[
        {"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":6000},
        {"rateLimitType":"ORDERS","interval":"SECOND","intervalNum":10,"limit":100},
        {"rateLimitType":"ORDERS","interval":"DAY","intervalNum":1,"limit":200000},
        {"rateLimitType":"RAW_REQUESTS","interval":"MINUTE","intervalNum":5,"limit":61000}],
        "exchangeFilters":[],"symbols":[
        {"symbol":"ETHBTC","status":"TRADING","baseAsset":"ETH","baseAssetPrecision":8,"quoteAsset":"BTC",
        "quotePrecision":8,"orderTypes":["LIMIT"],"filters":[
        {"filterType":"PRICE_FILTER","minPrice":"0.00000100","maxPrice":"100000.00000000","tickSize":"0.00000100"},
        {"filterType":"LOT_SIZE","minQty":"0.00100000","maxQty":"100000.00000000","stepSize":"0.00100000"},
        {"filterType":"NOTIONAL","minNotional":"10.00000000","applyMinToMarket":false,"maxNotional":"10000.00000000",
        "applyMaxToMarket":false,"avgPriceMins":5},
        {"filterType":"MAX_NUM_ORDERS","maxNumOrders":25},
        {"filterType":"A_FILTER_OF_NEXT_YEAR","x":1}]},
        {"symbol":"OTHER1","baseAsset":"O","quoteAsset":"X","filters":[]}]}"#,
    )
    .unwrap();
    assert_eq!(info.weight_limit(), Some(6_000));
    let seconds = |seconds, limit| OrderLimit { interval: Duration::from_secs(seconds), limit };
    assert_eq!(info.order_limits(), [seconds(10, 100), seconds(86_400, 200_000)]);
    let symbols = info.symbols(&[symbol("ETHBTC").unwrap(), symbol("NOTHERE").unwrap()]).unwrap();
    let [eth] = &symbols[..] else { panic!("one symbol") };
    assert_eq!((eth.tick.to_string(), eth.lot.to_string()), ("0.000001".to_owned(), "0.001".to_owned()));
    assert_eq!((eth.min_notional.to_string(), eth.max_open_orders), ("10".to_owned(), 25));
}

#[test]
fn balances_are_free_and_locked_together_and_dust_of_nothing_is_left_out() {
    let account: Account = serde_json::from_str(
        r#"{"makerCommission":15,"balances":[{"asset":"BTC","free":"1.50000000","locked":"0.50000000"},
        {"asset":"LTC","free":"0.00000000","locked":"0.00000000"},{"asset":"USDT","free":"0.00","locked":"0.00"}]}"#,
    )
    .unwrap();
    let balances = account.balances(&[Asset::new("USDT")]).unwrap();
    let shown: Vec<String> = balances.iter().map(|b| format!("{} {}", b.asset, b.total)).collect();
    assert_eq!(shown, ["BTC 2", "USDT 0"]);
}

#[test]
fn a_trade_of_the_account_becomes_a_fill() {
    let row: TradeRow = serde_json::from_str(
        r#"{"symbol":"BNBBTC","id":28457,"orderId":100234,"orderListId":-1,"price":"4.00000100","qty":"12.00000000",
        "quoteQty":"48.000012","commission":"10.10000000","commissionAsset":"BNB","time":1499865549590,"isBuyer":true,
        "isMaker":true,"isBestMatch":true}"#,
    )
    .unwrap();
    let fill = row.fill(&symbol("BNBBTC").unwrap(), ClientOrderId::from_venue("x")).unwrap();
    assert_eq!((fill.trade_id, fill.venue_id, fill.side), (TradeId(28_457), VenueOrderId(100_234), Side::Buy));
    assert_eq!((fill.price.to_string(), fill.fee.to_string()), ("4.000001".to_owned(), "10.1".to_owned()));
    assert!(fill.maker);
}

fn execution(changes: &str) -> String {
    let base = format!(
        r#"{{"e":"executionReport","E":1499405658658,"s":"ETHBTC","c":"{OURS}","S":"BUY","o":"LIMIT","f":"GTC",
        "q":"1.00000000","p":"0.10264410","P":"0.00000000","F":"0.00000000","g":-1,"C":"","x":"NEW","X":"NEW","r":"NONE",
        "i":4293153,"l":"0.00000000","z":"0.00000000","L":"0.00000000","n":"0","N":null,"T":1499405658657,"t":-1,
        "I":8641984,"w":true,"m":false,"M":false,"O":1499405658657,"Z":"0.00000000","Y":"0.00000000","Q":"0.00000000",
        "V":"NONE"}}"#
    );
    let mut event: serde_json::Value = serde_json::from_str(&base).unwrap();
    let changes: serde_json::Value = serde_json::from_str(changes).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        event[name] = value.clone();
    }
    serde_json::json!({"subscriptionId": 0, "event": event}).to_string()
}

fn report_of(text: &str) -> (OrderReport, Option<Qty>) {
    match stream_message(text) {
        Ok(StreamMessage::Report { report, last }) => (report, last),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_execution_report_becomes_a_report_and_a_trade_a_fill() {
    let (report, last) = report_of(&execution("{}"));
    assert_eq!((report.status, report.client_id.as_str(), last), (VenueStatus::New, OURS, None));
    assert!(report.fills.is_empty());
    let (report, last) = report_of(&execution(
        r#"{"x":"TRADE","X":"PARTIALLY_FILLED","l":"0.25","z":"0.75","L":"0.1","n":"0.00025","N":"ETH","t":77,"m":true}"#,
    ));
    assert_eq!((report.status, report.executed.to_string()), (VenueStatus::PartiallyFilled, "0.75".to_owned()));
    assert_eq!(last.unwrap().to_string(), "0.25");
    let fill = &report.fills[0];
    assert_eq!((fill.trade_id, fill.maker, fill.fee_asset.as_str()), (TradeId(77), true, "ETH"));
    assert_eq!((fill.fee.to_string(), fill.side), ("0.00025".to_owned(), Side::Buy));
}

#[test]
fn a_cancel_is_reported_under_the_id_of_the_order() {
    let (report, _) = report_of(&execution(&format!(r#"{{"x":"CANCELED","X":"CANCELED","c":"other","C":"{OURS}"}}"#)));
    assert_eq!((report.status, report.client_id.as_str()), (VenueStatus::Canceled, OURS));
}

#[test]
fn a_report_that_cannot_be_read_is_an_error_only_if_it_is_of_our_order() {
    assert!(stream_message(&execution(r#"{"z":"?"}"#)).is_err());
    assert!(stream_message(&execution(&format!(r#"{{"X":"?","c":"x","C":"{OURS}"}}"#))).is_err());
    assert_eq!(stream_message(&execution(r#"{"z":"?","c":"web"}"#)), Ok(StreamMessage::Other));
}

#[test]
fn answers_endings_and_everything_else_are_told_apart() {
    let ok = r#"{"id":"d3","status":200,"result":{"subscriptionId":0},"rateLimits":[]}"#;
    assert!(matches!(stream_message(ok), Ok(StreamMessage::Answer { status: 200, code: None, .. })));
    let refused = r#"{"id":"d3","status":400,"error":{"code":-1021,"msg":"Timestamp"}}"#;
    assert!(matches!(stream_message(refused), Ok(StreamMessage::Answer { status: 400, code: Some(-1021), .. })));
    let terminated = r#"{"subscriptionId":0,"event":{"e":"eventStreamTerminated","E":1728973001334}}"#;
    assert_eq!(stream_message(terminated), Ok(StreamMessage::Terminated));
    for shutdown in [r#"{"event":{"e":"serverShutdown","E":1}}"#, r#"{"e":"serverShutdown","E":1}"#] {
        assert_eq!(stream_message(shutdown), Ok(StreamMessage::Shutdown));
    }
    let position = r#"{"subscriptionId":0,"event":{"e":"outboundAccountPosition","E":1,"B":[]}}"#;
    assert_eq!(stream_message(position), Ok(StreamMessage::Other));
    assert!(stream_message("not json").is_err());
}

fn params(order: &NewOrder) -> String {
    let pairs = order_params(order).into_iter().map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join("&")
}

#[test]
fn each_kind_of_order_has_its_own_parameters() {
    let order = |kind, tif| NewOrder {
        client_id: ClientOrderId::from_venue(OURS),
        symbol: symbol("BTCUSDT").unwrap(),
        side: Side::Sell,
        kind,
        tif,
        qty: "0.0010".parse().unwrap(),
        timestamp: Timestamp::from_millis(1),
    };
    let (price, stop_price) = ("87000.50".parse().unwrap(), "88000".parse().unwrap());
    let tail = format!("newClientOrderId={OURS}&newOrderRespType=FULL");
    assert_eq!(
        params(&order(OrderKind::Market, TimeInForce::Gtc)),
        format!("symbol=BTCUSDT&side=SELL&type=MARKET&quantity=0.001&{tail}")
    );
    assert_eq!(
        params(&order(OrderKind::Limit { price }, TimeInForce::Ioc)),
        format!("symbol=BTCUSDT&side=SELL&type=LIMIT&timeInForce=IOC&quantity=0.001&price=87000.5&{tail}")
    );
    assert_eq!(
        params(&order(OrderKind::PostOnly { price }, TimeInForce::Gtc)),
        format!("symbol=BTCUSDT&side=SELL&type=LIMIT_MAKER&quantity=0.001&price=87000.5&{tail}")
    );
    assert_eq!(
        params(&order(OrderKind::StopLimit { stop_price, price }, TimeInForce::Gtc)),
        format!(
            "symbol=BTCUSDT&side=SELL&type=STOP_LOSS_LIMIT&timeInForce=GTC&quantity=0.001&price=87000.5&stopPrice=88000&{tail}"
        )
    );
}
