//! Positions and candles against naive recomputation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{amount, at, price, qty, symbol};
use proptest::prelude::*;
use rust_decimal::Decimal;
use trading::candle::{Added, Candles};
use trading::exchange::{Fill, Side};
use trading::market::{Asset, PublicTrade};
use trading::money::{Amount, Price, Qty};
use trading::position::{Position, balance_changes};

#[derive(Debug, Clone, Copy)]
enum FeeIn {
    Base,
    Quote,
    Third,
}

fn fill(side: Side, price: i64, qty: i64, fee: i64, fee_in: FeeIn) -> Fill {
    let asset = match fee_in {
        FeeIn::Base => symbol().base,
        FeeIn::Quote => symbol().quote,
        FeeIn::Third => Asset::new("BNB"),
    };
    let (price, qty) = (Price::new(Decimal::new(price, 2)), Qty::new(Decimal::new(qty, 5)));
    common::fill(side, price, qty, Amount::new(Decimal::new(fee, 8)), &asset)
}

fn any_fill() -> impl Strategy<Value = Fill> {
    let side = prop::sample::select(vec![Side::Buy, Side::Buy, Side::Sell]);
    let fee_in = prop::sample::select(vec![FeeIn::Base, FeeIn::Quote, FeeIn::Third]);
    (side, 1..10_000_000_i64, 1..1_000_000_i64, 0..900_i64, fee_in)
        .prop_map(|(side, price, qty, fee, fee_in)| fill(side, price, qty, fee, fee_in))
}

fn book(fills: &[Fill]) -> Position {
    let mut position = Position::empty(common::ROBOT, symbol().symbol);
    for fill in fills {
        position.book(fill, &symbol());
    }
    position
}

fn total(fills: &[Fill], of: impl Fn(&Fill) -> Decimal) -> Decimal {
    fills.iter().map(of).sum()
}

fn signed(fill: &Fill, value: Decimal) -> Decimal {
    if fill.side == Side::Buy { value } else { -value }
}

fn base_fee(fill: &Fill) -> Decimal {
    if fill.fee_asset == symbol().base { fill.fee.get() } else { Decimal::ZERO }
}

/// An exact fraction, for the oracle.
#[derive(Debug, Clone, Copy)]
struct Ratio(i128, i128);

impl Ratio {
    fn new(n: i128, d: i128) -> Self {
        let (mut a, mut b) = (n.abs(), d.abs());
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Ratio(n / a.max(1), d / a.max(1))
    }

    fn decimal(self) -> Decimal {
        Decimal::from_i128_with_scale(self.0, 0) / Decimal::from_i128_with_scale(self.1, 0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_made_or_lost_by_booking(fills in prop::collection::vec(any_fill(), 0..40)) {
        let position = book(&fills);
        let held = total(&fills, |f| signed(f, f.qty.get()) - base_fee(f));
        prop_assert_eq!(position.qty.get(), held, "quantity = buys - sells - fees in base");
        let spent = total(&fills, |f| signed(f, f.price.get() * f.qty.get()));
        prop_assert_eq!((position.realized - position.cost).get(), -spent, "realized - cost = sold - bought");
        prop_assert_eq!(position.version, i64::try_from(fills.len()).unwrap());
        let mut balances = std::collections::BTreeMap::<Asset, Decimal>::new();
        for (asset, change) in fills.iter().flat_map(|f| balance_changes(f, &symbol())) {
            *balances.entry(asset).or_default() += change.get();
        }
        let fees = |asset: &Asset| total(&fills, |f| if f.fee_asset == *asset { f.fee.get() } else { Decimal::ZERO });
        let get = |asset: &Asset| balances.get(asset).copied().unwrap_or_default();
        prop_assert_eq!(get(&symbol().base), held);
        prop_assert_eq!(get(&symbol().quote), -spent - fees(&symbol().quote));
        prop_assert_eq!(get(&Asset::new("BNB")), -fees(&Asset::new("BNB")));
        if position.qty.is_zero() && fills.iter().all(|f| base_fee(f).is_zero()) {
            prop_assert!(position.cost.is_zero(), "nothing held costs nothing");
        }
    }

    #[test]
    fn the_cost_is_the_average_cost_by_exact_fractions(
        trades in prop::collection::vec((any::<bool>(), 1..20_i64, 1..10_i64), 1..7),
    ) {
        // Whole numbers, no fees: cost of what is held, as a fraction that never rounds.
        let (mut held, mut cost, mut fills) = (0_i128, Ratio(0, 1), Vec::new());
        for (buy, price, qty) in trades {
            let qty = if buy { qty } else { qty.min(i64::try_from(held).unwrap()) };
            if qty == 0 {
                continue;
            }
            fills.push(fill(if buy { Side::Buy } else { Side::Sell }, price * 100, qty * 100_000, 0, FeeIn::Quote));
            let (price, qty) = (i128::from(price), i128::from(qty));
            if buy {
                cost = Ratio::new(cost.0 + price * qty * cost.1, cost.1);
                held += qty;
            } else {
                cost = Ratio::new(cost.0 * (held - qty), cost.1 * held);
                held -= qty;
            }
        }
        let off = (book(&fills).cost.get() - cost.decimal()).abs();
        prop_assert!(off < Decimal::new(1, 12), "off by {off}");
    }

    #[test]
    fn candles_say_what_a_look_at_all_trades_of_the_minute_says(
        trades in prop::collection::vec((0..400_000_i64, 1..1_000_i64, 1..1_000_i64), 1..60),
        capacity in 1..5_usize,
    ) {
        let mut candles = Candles::new(capacity);
        let mut counted: Vec<PublicTrade> = Vec::new();
        for (ms, p, q) in trades {
            let trade = PublicTrade {
                symbol: symbol().symbol,
                price: Price::new(Decimal::from(p)),
                qty: Qty::new(Decimal::from(q)),
                buyer_is_maker: false,
                at: at(ms),
            };
            let late = counted.last().is_some_and(|last| ms / 60_000 < last.at.millis() / 60_000);
            prop_assert_eq!(candles.add(&trade) == Added::Late, late);
            if !late {
                counted.push(trade);
            }
            prop_assert!(candles.iter().len() <= capacity);
        }
        for candle in candles.iter() {
            let minute: Vec<_> = counted.iter().filter(|t| t.at.millis() / 60_000 == candle.open_at.millis() / 60_000).collect();
            prop_assert_eq!(candle.open_at.millis() % 60_000, 0);
            prop_assert_eq!(candle.open, minute[0].price);
            prop_assert_eq!(candle.close, minute[minute.len() - 1].price);
            prop_assert_eq!(Some(candle.high), minute.iter().map(|t| t.price).max());
            prop_assert_eq!(Some(candle.low), minute.iter().map(|t| t.price).min());
            prop_assert_eq!(candle.volume, minute.iter().map(|t| t.qty).sum());
            prop_assert_eq!(candle.quote_volume, minute.iter().map(|t| t.price.notional(t.qty)).sum());
            prop_assert_eq!(candle.trades, u64::try_from(minute.len()).unwrap());
        }
    }
}

#[test]
fn a_sale_booked_before_its_purchase_ends_with_the_same_profit() {
    let (buy, sell) =
        (fill(Side::Buy, 9_000, 100_000, 0, FeeIn::Quote), fill(Side::Sell, 10_000, 100_000, 0, FeeIn::Quote));
    for fills in [[buy.clone(), sell.clone()], [sell, buy]] {
        let position = book(&fills);
        assert_eq!((position.qty, position.cost, position.realized), (Amount::ZERO, Amount::ZERO, amount("10")));
    }
}

#[test]
fn fees_in_any_asset_are_counted_where_they_are_paid() {
    let position = book(&[
        fill(Side::Buy, 10_000, 100_000, 100_000, FeeIn::Base),
        fill(Side::Buy, 10_000, 100_000, 10_000_000, FeeIn::Quote),
        fill(Side::Buy, 10_000, 100_000, 5_000_000, FeeIn::Third),
    ]);
    assert_eq!((position.qty, position.cost, position.fees), (amount("2.999"), amount("300"), amount("0.2")));
}

#[test]
fn unrealized_profit_is_what_the_bid_brings_beyond_the_cost() {
    let position = common::holding(qty("2"));
    assert_eq!(position.unrealized(&common::quote(price("110"), at(0))), amount("20"));
}
