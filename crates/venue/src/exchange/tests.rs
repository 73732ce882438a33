use trading::exchange::{OrderKind, Side, TimeInForce};
use trading::market::{Asset, Market, PublicTrade};
use trading::money::{Amount, Price, Qty};

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn price(text: &str) -> Price {
    text.parse().unwrap()
}

fn qty(text: &str) -> Qty {
    text.parse().unwrap()
}

fn symbol() -> Symbol {
    "BTCUSDT".parse().unwrap()
}

/// An exchange with two accounts of 10000 USDT and 10 BTC, without a market yet.
fn closed() -> Exchange {
    let info = SymbolInfo {
        symbol: symbol(),
        base: Asset::new("BTC"),
        quote: Asset::new("USDT"),
        tick: price("0.5"),
        lot: qty("0.01"),
        min_qty: qty("0.02"),
        min_notional: "5".parse().unwrap(),
        max_open_orders: 3,
    };
    let settings =
        Settings { symbols: vec![info], maker_fee_bps: 10, taker_fee_bps: 20, recv_window: Duration::from_secs(5) };
    let mut exchange = Exchange::new(settings, State::default());
    let opening = [("BTC", "10"), ("USDT", "10000")]
        .map(|(asset, total)| VenueBalance { asset: Asset::new(asset), total: total.parse().unwrap() });
    for label in ["a", "b"] {
        exchange.open_account(label, &opening, NOW).unwrap();
    }
    exchange
}

fn quote(exchange: &mut Exchange, bid: &str, bid_qty: &str, ask: &str, ask_qty: &str) {
    let (bid, bid_qty, ask, ask_qty) = (price(bid), qty(bid_qty), price(ask), qty(ask_qty));
    exchange.on_market(&Market::Quote(Quote { symbol: symbol(), bid, bid_qty, ask, ask_qty, at: NOW }), NOW);
}

fn trade(exchange: &mut Exchange, at: &str, quantity: &str) {
    let trade = PublicTrade { symbol: symbol(), price: price(at), qty: qty(quantity), buyer_is_maker: true, at: NOW };
    exchange.on_market(&Market::Trade(trade), NOW);
}

/// An exchange whose market is 100 / 101 with a quantity of 2 on each side.
fn open() -> Exchange {
    let mut exchange = closed();
    quote(&mut exchange, "100", "2", "101", "2");
    exchange
}

fn order(id: &str, side: Side, kind: OrderKind, tif: TimeInForce, quantity: &str) -> NewOrder {
    let client_id = ClientOrderId::from_venue(id);
    NewOrder { client_id, symbol: symbol(), side, kind, tif, qty: qty(quantity), timestamp: NOW }
}

fn limit(id: &str, side: Side, at: &str, quantity: &str) -> NewOrder {
    order(id, side, OrderKind::Limit { price: price(at) }, TimeInForce::Gtc, quantity)
}

fn market(id: &str, side: Side, quantity: &str) -> NewOrder {
    order(id, side, OrderKind::Market, TimeInForce::Gtc, quantity)
}

fn find(exchange: &Exchange, account: &str, id: &str) -> OrderReport {
    exchange.query(account, &symbol(), &ClientOrderId::from_venue(id)).unwrap()
}

fn fills(exchange: &Exchange, account: &str) -> Vec<(String, String, String, bool)> {
    let fills = exchange.fills(account, &symbol(), None, 1000).unwrap();
    fills.iter().map(|f| (f.client_id.to_string(), f.price.to_string(), f.qty.to_string(), f.maker)).collect()
}

fn balance(exchange: &Exchange, account: &str, asset: &str) -> (String, String) {
    let holding = exchange.state().account(account).unwrap().holding(&Asset::new(asset));
    (holding.total.to_string(), holding.locked.to_string())
}

fn refusal(exchange: &mut Exchange, order: &NewOrder) -> Refusal {
    exchange.submit("a", order, NOW).unwrap_err()
}

#[test]
fn a_market_order_fills_as_a_whole_at_the_quote_and_pays_its_fee_from_what_it_receives() {
    let mut exchange = open();
    let report = exchange.submit("a", &market("1", Side::Buy, "5"), NOW).unwrap();
    assert_eq!((report.status, report.executed, report.fills.len()), (VenueStatus::Filled, qty("5"), 1));
    let fill = &report.fills[0];
    assert_eq!((fill.price, fill.qty, fill.maker), (price("101"), qty("5"), false));
    assert_eq!((fill.fee.to_string(), fill.fee_asset.as_str()), ("0.01".into(), "BTC"));
    assert_eq!(balance(&exchange, "a", "BTC"), ("14.99".into(), "0".into()));
    assert_eq!(balance(&exchange, "a", "USDT"), ("9495".into(), "0".into()));
    let report = exchange.submit("a", &market("2", Side::Sell, "1"), NOW).unwrap();
    assert_eq!((report.fills[0].fee.to_string(), report.fills[0].fee_asset.as_str()), ("0.2".into(), "USDT"));
    assert_eq!(balance(&exchange, "a", "USDT").0, "9594.8");
}

#[test]
fn a_crossing_limit_order_takes_what_is_quoted_and_rests_with_the_remainder() {
    let mut exchange = open();
    let report = exchange.submit("a", &limit("1", Side::Buy, "102", "3"), NOW).unwrap();
    assert_eq!((report.status, report.executed), (VenueStatus::PartiallyFilled, qty("2")));
    assert_eq!(report.fills[0].price, price("101"));
    assert_eq!(balance(&exchange, "a", "USDT"), ("9798".into(), "102".into()));
    let report = exchange.submit("b", &limit("1", Side::Buy, "102", "1"), NOW).unwrap();
    assert_eq!(report.status, VenueStatus::New, "what one takes is gone for the next");
    quote(&mut exchange, "100", "2", "101.5", "1.5");
    assert_eq!(
        fills(&exchange, "a")[1],
        ("1".into(), "102".into(), "1".into(), true),
        "a resting order at its own price"
    );
    assert_eq!(fills(&exchange, "b"), [("1".into(), "102".into(), "0.5".into(), true)]);
}

#[test]
fn resting_orders_are_served_by_price_and_then_by_arrival_within_the_traded_quantity() {
    let mut exchange = open();
    exchange.submit("a", &limit("low", Side::Buy, "98", "1"), NOW).unwrap();
    exchange.submit("a", &limit("first", Side::Buy, "99", "1"), NOW).unwrap();
    exchange.submit("b", &limit("second", Side::Buy, "99", "1"), NOW).unwrap();
    trade(&mut exchange, "99", "9");
    assert!(fills(&exchange, "a").is_empty(), "a trade at the price does not go through it");
    trade(&mut exchange, "98.5", "1.5");
    assert_eq!(fills(&exchange, "a"), [("first".into(), "99".into(), "1".into(), true)]);
    assert_eq!(fills(&exchange, "b"), [("second".into(), "99".into(), "0.5".into(), true)]);
    trade(&mut exchange, "90", "1");
    assert_eq!(find(&exchange, "b", "second").status, VenueStatus::Filled);
    assert_eq!(find(&exchange, "a", "low").executed, qty("0.5"));
}

#[test]
fn a_sell_rests_and_fills_like_a_buy() {
    let mut exchange = open();
    exchange.submit("a", &limit("1", Side::Sell, "103", "4"), NOW).unwrap();
    assert_eq!(balance(&exchange, "a", "BTC"), ("10".into(), "4".into()));
    trade(&mut exchange, "103.5", "1");
    quote(&mut exchange, "103", "2", "104", "2");
    assert_eq!(find(&exchange, "a", "1").executed, qty("3"));
    assert_eq!(balance(&exchange, "a", "BTC"), ("7".into(), "1".into()));
    assert_eq!(balance(&exchange, "a", "USDT").0, "10308.691");
}

#[test]
fn immediate_orders_never_rest() {
    let mut exchange = open();
    let kind = OrderKind::Limit { price: price("101") };
    let ioc = exchange.submit("a", &order("ioc", Side::Buy, kind, TimeInForce::Ioc, "3"), NOW).unwrap();
    assert_eq!((ioc.status, ioc.executed), (VenueStatus::Expired, qty("2")));
    quote(&mut exchange, "100", "2", "101", "2");
    let fok = exchange.submit("a", &order("fok", Side::Buy, kind, TimeInForce::Fok, "3"), NOW).unwrap();
    assert_eq!((fok.status, fok.executed), (VenueStatus::Expired, Qty::ZERO));
    let fok = exchange.submit("a", &order("fok2", Side::Buy, kind, TimeInForce::Fok, "2"), NOW).unwrap();
    assert_eq!(fok.status, VenueStatus::Filled);
    assert_eq!(exchange.open_orders("a").unwrap(), []);
    assert_eq!(balance(&exchange, "a", "USDT").1, "0", "nothing stays locked");
}

#[test]
fn a_post_only_order_rests_or_is_refused() {
    let mut exchange = open();
    let post = |id, at| order(id, Side::Buy, OrderKind::PostOnly { price: price(at) }, TimeInForce::Gtc, "1");
    let refused = refusal(&mut exchange, &post("1", "101"));
    assert_eq!((refused.code, refused.is_definitive()), (-2010, true));
    assert_eq!(exchange.submit("a", &post("2", "100.5"), NOW).unwrap().status, VenueStatus::New);
}

#[test]
fn a_stop_waits_for_its_price_and_then_arrives_as_a_limit_order() {
    let mut exchange = open();
    let stop = |id, side, stop: &str, at: &str, tif| {
        let kind = OrderKind::StopLimit { stop_price: price(stop), price: price(at) };
        order(id, side, kind, tif, "1")
    };
    assert_eq!(refusal(&mut exchange, &stop("now", Side::Buy, "101", "102", TimeInForce::Gtc)).code, -2010);
    exchange.submit("a", &stop("buy", Side::Buy, "103", "104", TimeInForce::Gtc), NOW).unwrap();
    exchange.submit("a", &stop("sell", Side::Sell, "95", "94", TimeInForce::Ioc), NOW).unwrap();
    assert_eq!(balance(&exchange, "a", "USDT").1, "104");
    trade(&mut exchange, "102", "1");
    assert!(fills(&exchange, "a").is_empty());
    trade(&mut exchange, "103", "1");
    assert_eq!(
        fills(&exchange, "a"),
        [("buy".into(), "101".into(), "1".into(), false)],
        "it takes the quote of the time"
    );
    quote(&mut exchange, "93", "1", "93.5", "1");
    let sell = find(&exchange, "a", "sell");
    assert_eq!((sell.status, sell.executed), (VenueStatus::Expired, Qty::ZERO), "the market is beyond its limit");
}

#[test]
fn filters_refuse_with_the_codes_of_binance() {
    let mut exchange = open();
    let cases = [
        (limit("1", Side::Buy, "100.3", "1"), -1013, "PRICE_FILTER"),
        (limit("1", Side::Buy, "100", "0.025"), -1013, "LOT_SIZE"),
        (limit("1", Side::Buy, "100", "0.01"), -1013, "LOT_SIZE"),
        (limit("1", Side::Buy, "100", "0.02"), -1013, "NOTIONAL"),
        (market("1", Side::Sell, "0.04"), -1013, "NOTIONAL"),
        (limit("1", Side::Buy, "100", "101"), -2010, "insufficient balance"),
        (market("1", Side::Sell, "10.01"), -2010, "insufficient balance"),
        (NewOrder { symbol: "ETHUSDT".parse().unwrap(), ..limit("1", Side::Buy, "1", "1") }, -1121, "Invalid symbol"),
        (NewOrder { qty: Qty::new((-1).into()), ..limit("1", Side::Buy, "100", "1") }, -1013, "LOT_SIZE"),
        (order("1", Side::Buy, OrderKind::Limit { price: Price::ZERO }, TimeInForce::Gtc, "1"), -1013, "PRICE_FILTER"),
    ];
    for (order, code, words) in cases {
        let refused = refusal(&mut exchange, &order);
        assert_eq!(refused.code, code, "{refused}");
        assert!(refused.reason.contains(words) && refused.is_definitive(), "{refused}");
    }
    for id in ["1", "2", "3"] {
        exchange.submit("a", &limit(id, Side::Buy, "50", "1"), NOW).unwrap();
    }
    assert!(refusal(&mut exchange, &limit("4", Side::Buy, "50", "1")).reason.contains("MAX_NUM_ORDERS"));
    assert_eq!(closed().submit("a", &market("1", Side::Buy, "1"), NOW).unwrap_err().code, -2010);
    assert_eq!(exchange.submit("nobody", &limit("4", Side::Buy, "50", "1"), NOW).unwrap_err().code, -2015);
}

#[test]
fn locked_funds_cannot_be_spent_twice_and_come_back_with_a_cancel() {
    let mut exchange = open();
    exchange.submit("a", &limit("1", Side::Buy, "100", "60"), NOW).unwrap();
    assert_eq!(refusal(&mut exchange, &limit("2", Side::Buy, "100", "60")).code, -2010);
    exchange.submit("b", &limit("1", Side::Buy, "100", "60"), NOW).unwrap();
    let report = exchange.cancel("a", &symbol(), &ClientOrderId::from_venue("1"), NOW).unwrap();
    assert_eq!(report.status, VenueStatus::Canceled);
    exchange.submit("a", &limit("2", Side::Buy, "100", "60"), NOW).unwrap();
}

#[test]
fn a_request_is_refused_once_its_window_has_passed_which_is_what_makes_absence_provable() {
    let mut exchange = open();
    let late = NOW.after(Duration::from_micros(5_000_001));
    let refused = exchange.submit("a", &limit("1", Side::Buy, "100", "1"), late).unwrap_err();
    assert_eq!((refused.code, refused.is_definitive()), (-1021, true));
    let early = NOW.before(Duration::from_micros(1_000_001));
    assert_eq!(exchange.submit("a", &limit("1", Side::Buy, "100", "1"), early).unwrap_err().code, -1021);
    let last = NOW.after(Duration::from_secs(5));
    assert!(exchange.submit("a", &limit("1", Side::Buy, "100", "1"), last).is_ok());
}

#[test]
fn a_client_id_is_a_duplicate_only_while_its_order_is_open() {
    let mut exchange = open();
    exchange.submit("a", &limit("1", Side::Buy, "90", "1"), NOW).unwrap();
    let refused = refusal(&mut exchange, &limit("1", Side::Buy, "90", "1"));
    assert_eq!((refused.code, refused.is_definitive()), (-2010, false), "a duplicate means: query it");
    assert!(
        exchange.submit("b", &limit("1", Side::Buy, "90", "1"), NOW).is_ok(),
        "other accounts have ids of their own"
    );
    let id = ClientOrderId::from_venue("1");
    exchange.cancel("a", &symbol(), &id, NOW).unwrap();
    assert_eq!(exchange.cancel("a", &symbol(), &id, NOW).unwrap_err().code, -2011);
    // The trap of the real venue: the id of an ended order buys again.
    exchange.submit("a", &market("1", Side::Buy, "1"), NOW).unwrap();
    exchange.submit("a", &market("1", Side::Buy, "1"), NOW).unwrap();
    assert_eq!(fills(&exchange, "a").len(), 2);
    assert_eq!(find(&exchange, "a", "1").status, VenueStatus::Filled, "a query finds the newest");
}

#[test]
fn every_post_is_recorded_with_its_outcome_as_one_entry_with_all_that_follows() {
    let mut exchange = open();
    exchange.take_entries();
    exchange.submit("a", &limit("1", Side::Buy, "101", "3"), NOW).unwrap();
    refusal(&mut exchange, &limit("2", Side::Buy, "101.2", "3"));
    let entries = exchange.take_entries();
    assert!(
        matches!(&entries[0][..], [Record::Post { post, .. }, Record::Order { .. }, Record::Fill { .. }] if post.accepted)
    );
    assert!(matches!(&entries[1][..], [Record::Post { post, .. }]
        if !post.accepted && post.reason.as_deref() == Some("-1013 Filter failure: PRICE_FILTER")));
    let reports = exchange.reports(&entries);
    assert_eq!(reports.len(), 1);
    assert_eq!((reports[0].1.executed, reports[0].1.fills.len()), (qty("2"), 1));
}

#[test]
fn fills_are_paged_by_trade_id() {
    let mut exchange = open();
    for id in ["1", "2", "3"] {
        exchange.submit("a", &market(id, Side::Buy, "1"), NOW).unwrap();
    }
    let page = exchange.fills("a", &symbol(), None, 2).unwrap();
    assert_eq!(page.len(), 2);
    let rest = exchange.fills("a", &symbol(), Some(page[1].trade_id), 2).unwrap();
    assert_eq!(rest.iter().map(|f| f.client_id.as_str()).collect::<Vec<_>>(), ["3"]);
}

#[test]
fn an_account_keeps_its_balances_when_it_is_opened_again_and_odd_openings_are_refused() {
    let mut exchange = open();
    let opening = |total: &str| [VenueBalance { asset: Asset::new("USDT"), total: total.parse::<Amount>().unwrap() }];
    exchange.open_account("a", &opening("1"), NOW).unwrap();
    assert_eq!(balance(&exchange, "a", "USDT").0, "10000");
    for bad in ["-1", "1000000000000", "0.000000001"] {
        assert!(exchange.open_account("c", &opening(bad), NOW).is_err(), "{bad}");
    }
}
