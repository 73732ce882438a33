//! Every risk rule, once kept and once broken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{amount, at, limit, market, price, qty, quote, symbol};
use proptest::prelude::*;
use trading::exchange::{OrderKind, Side, TimeInForce};
use trading::ids::OrderKey;
use trading::market::{Quote, SymbolInfo};
use trading::money::{Amount, Qty};
use trading::order::{OrderEvent, Status};
use trading::position::Position;
use trading::risk::{AssetKind, Check, Limits, Mode, Rate, reserved};
use trading::robot::OrderSpec;

/// A world in which everything passes, to be spoiled in one place by each test.
struct World {
    symbol: SymbolInfo,
    quote: Quote,
    robot: Limits,
    account: Limits,
    position: Position,
}

impl World {
    fn new() -> Self {
        Self {
            symbol: symbol(),
            quote: quote(price("100"), at(0)),
            robot: Limits::default(),
            account: Limits::default(),
            position: common::holding(qty("1")),
        }
    }

    fn check<'a>(&'a self, spec: &'a OrderSpec) -> Check<'a> {
        Check {
            spec,
            symbol: &self.symbol,
            quote: Some(&self.quote),
            robot_limits: &self.robot,
            account_limits: &self.account,
            mode: Mode::Normal,
            position: &self.position,
            robot_reserved_base: Amount::ZERO,
            robot_open_orders: 3,
            account_open_orders: 5,
            symbol_open_orders: 4,
            unknown_orders: 0,
            robot_exposure: amount("200"),
            account_exposure: amount("500"),
            free_quote: amount("1000"),
            free_base: amount("10"),
            robot_rate: 3,
            account_rate: 6,
        }
    }

    /// `pass` or the denial's words.
    fn judge(&self, spec: &OrderSpec, spoil: impl FnOnce(&mut Check<'_>)) -> String {
        let mut check = self.check(spec);
        spoil(&mut check);
        check.check().err().map_or("pass".into(), |denial| denial.to_string())
    }
}

fn buy(at: &str, q: &str) -> OrderSpec {
    limit(Side::Buy, price(at), qty(q))
}

fn sell(at: &str, q: &str) -> OrderSpec {
    limit(Side::Sell, price(at), qty(q))
}

#[test]
fn the_filters_of_the_venue_are_kept() {
    let world = World::new();
    let judge = |spec: OrderSpec| world.judge(&spec, |_| {});
    assert_eq!(judge(buy("99.99", "0.1")), "pass");
    assert_eq!(judge(buy("99.995", "0.1")), "tick: price 99.995 is not a positive multiple of 0.01");
    assert_eq!(judge(buy("99", "0.1005")), "lot: quantity 0.1005 is not a positive multiple of 0.001");
    assert_eq!(judge(buy("99", "0.001")), "min_qty: quantity 0.001 is below 0.002");
    assert_eq!(judge(buy("99", "0.05")), "min_notional: value 4.95 is below 5");
    assert_eq!(judge(sell("101", "0.04")), "min_notional: value 4.04 is below 5");
    assert_eq!(judge(market(Side::Buy, qty("0.049"))), "min_notional: value 4.90049 is below 5");
    assert_eq!(judge(market(Side::Buy, Qty::ZERO)), "lot: quantity 0 is not a positive multiple of 0.001");
    let stop = OrderKind::StopLimit { stop_price: price("110.001"), price: price("111") };
    let spec = OrderSpec { side: Side::Buy, kind: stop, tif: TimeInForce::Gtc, qty: qty("0.1") };
    assert_eq!(judge(spec), "tick: stop_price 110.001 is not a positive multiple of 0.01");
}

#[test]
fn a_price_far_through_the_market_is_denied_and_one_far_from_it_is_not() {
    let mut world = World::new();
    assert_eq!(world.judge(&buy("120.01", "0.1"), |_| {}), "pass");
    let denied = "price band: price 120.02 is beyond 120.012, 20 % through the market";
    assert_eq!(world.judge(&buy("120.02", "0.1"), |_| {}), denied);
    assert_eq!(world.judge(&sell("80", "0.1"), |_| {}), "pass");
    assert!(world.judge(&sell("79.99", "0.1"), |_| {}).starts_with("price band"));
    assert_eq!(world.judge(&buy("10", "0.5"), |_| {}), "pass");
    assert_eq!(world.judge(&sell("1000", "0.1"), |_| {}), "pass");
    world.account.max_price_deviation_percent = Some(5);
    world.robot.max_price_deviation_percent = Some(10);
    assert!(world.judge(&buy("105.1", "0.1"), |_| {}).starts_with("price band"));
    let stop = OrderKind::StopLimit { stop_price: price("50"), price: price("49") };
    let loss = OrderSpec { side: Side::Sell, kind: stop, tif: TimeInForce::Gtc, qty: qty("1") };
    assert_eq!(world.judge(&loss, |_| {}), "pass");
}

#[test]
fn an_entry_without_a_quote_is_denied_and_an_exit_is_not() {
    let world = World::new();
    assert!(world.judge(&buy("99", "0.1"), |c| c.quote = None).starts_with("no quote"));
    assert!(world.judge(&market(Side::Buy, qty("0.1")), |c| c.quote = None).starts_with("no quote"));
    assert_eq!(world.judge(&market(Side::Sell, qty("0.1")), |c| c.quote = None), "pass");
}

#[test]
fn the_kill_switch_and_unknown_orders_hold_back_entries_only() {
    let world = World::new();
    assert!(world.judge(&buy("99", "0.1"), |c| c.mode = Mode::ReduceOnly).starts_with("halted"));
    assert!(world.judge(&buy("99", "0.1"), |c| c.unknown_orders = 1).starts_with("unknown orders: 1"));
    let both = |c: &mut Check<'_>| (c.mode, c.unknown_orders) = (Mode::ReduceOnly, 2);
    assert_eq!(world.judge(&sell("101", "1"), both), "pass");
    assert_eq!(world.judge(&market(Side::Sell, qty("1")), both), "pass");
}

#[test]
fn more_than_the_robot_holds_and_is_not_selling_yet_is_never_sold() {
    let world = World::new();
    let words = "position: quantity 1.001 is above the 1 that are held and not being sold";
    assert_eq!(world.judge(&sell("101", "1.001"), |_| {}), words);
    let reserved = |c: &mut Check<'_>| c.robot_reserved_base = amount("0.6");
    assert_eq!(world.judge(&sell("101", "0.4"), reserved), "pass");
    assert!(world.judge(&market(Side::Sell, qty("0.401")), reserved).starts_with("position"));
}

#[test]
fn funds_must_suffice_with_headroom_for_fees_and_a_rising_ask() {
    let world = World::new();
    let free = |text: &'static str| move |c: &mut Check<'_>| c.free_quote = amount(text);
    assert_eq!(world.judge(&buy("100", "1"), free("100.2")), "pass");
    assert_eq!(world.judge(&buy("100", "1"), free("100.19")), "funds: 100.2 USDT needed, 100.19 free");
    assert_eq!(
        world.judge(&market(Side::Buy, qty("1")), free("102.214")),
        "funds: 102.2142204 USDT needed, 102.214 free"
    );
    assert_eq!(world.judge(&sell("101", "1"), |c| c.free_base = amount("0.9")), "funds: 1 BTC needed, 0.9 free");
}

#[test]
fn limits_of_robot_and_account_hold_for_entries() {
    let mut world = World::new();
    world.robot.max_order_notional = Some(amount("50"));
    assert_eq!(world.judge(&buy("100", "0.501"), |_| {}), "max_order_notional of the robot: value 50.1 is above 50");
    assert_eq!(world.judge(&buy("100", "0.5"), |_| {}), "pass");
    assert_eq!(world.judge(&market(Side::Sell, qty("1")), |_| {}), "pass", "a large position can be left");
    // 100 held, 200 being bought.
    world.robot.max_position_notional = Some(amount("310"));
    assert_eq!(world.judge(&buy("100", "0.1"), |_| {}), "pass");
    let words = "max_position_notional of the robot: value 310.1 is above 310";
    assert_eq!(world.judge(&buy("100", "0.101"), |_| {}), words);
    world.account.max_position_notional = Some(amount("505"));
    assert!(world.judge(&buy("100", "0.06"), |_| {}).starts_with("max_position_notional of the account: value 506"));
}

#[test]
fn counts_of_open_and_sent_orders_hold_for_all_but_the_market_sell() {
    let mut world = World::new();
    let resting = buy("99", "0.1");
    world.symbol.max_open_orders = 4;
    assert_eq!(world.judge(&resting, |_| {}), "max_open_orders of the symbol: 4 are open, the limit is 4");
    assert_eq!(world.judge(&market(Side::Buy, qty("0.1")), |_| {}), "pass", "it never rests");
    world.account.max_open_orders = Some(5);
    assert!(world.judge(&resting, |_| {}).starts_with("max_open_orders of the account"));
    world.robot.max_open_orders = Some(3);
    assert!(world.judge(&resting, |_| {}).starts_with("max_open_orders of the robot"));
    world.account.max_orders_per_minute = Some(6);
    let words = "max_orders_per_minute of the account: 6 were sent, the limit is 6";
    assert_eq!(world.judge(&market(Side::Buy, qty("0.1")), |_| {}), words);
    assert_eq!(world.judge(&market(Side::Sell, qty("0.1")), |_| {}), "pass");
}

#[test]
fn a_live_order_reserves_what_may_still_be_filled() {
    let key = OrderKey { decision: 1, leg: 0 };
    let mut order = common::order(&buy("100", "1"), key, at(0));
    assert_eq!(reserved(&order, None), (AssetKind::Quote, amount("100")));
    order.apply(&OrderEvent::Fill { qty: qty("0.4"), notional: amount("40") }, at(1));
    assert_eq!(reserved(&order, None), (AssetKind::Quote, amount("60")));
    order.status = Status::Canceled;
    assert_eq!(reserved(&order, None), (AssetKind::Quote, amount("0")));
    order.reported = qty("0.5");
    assert_eq!(reserved(&order, None), (AssetKind::Quote, amount("10")), "a fill is still to be booked");
    let sale = common::order(&sell("100", "1"), key, at(0));
    assert_eq!(reserved(&sale, None), (AssetKind::Base, amount("1")));
    let at_market = common::order(&market(Side::Buy, qty("1")), key, at(0));
    assert_eq!(reserved(&at_market, Some(price("100"))), (AssetKind::Quote, amount("102")));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rate_never_counts_too_little_and_at_most_a_second_too_much(
        gaps in prop::collection::vec(0..5_000_i64, 1..200),
        later in 0..90_000_i64,
    ) {
        let (mut rate, mut times, mut now) = (Rate::default(), Vec::new(), 1_000_000_i64);
        for gap in gaps {
            now += gap;
            rate.record(at(now));
            times.push(now);
        }
        now += later;
        let within = |ms: i64| times.iter().filter(|t| now - **t < ms).count();
        let counted = rate.count(at(now));
        prop_assert!(within(60_000) <= counted && counted <= within(61_000), "{counted}");
        prop_assert!(format!("{rate:?}").matches("), (").count() <= 61, "memory is bounded");
    }
}
