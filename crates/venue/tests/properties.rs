//! What holds for every sequence of requests and market events.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use rust_decimal::Decimal;
use trading::exchange::{Fill, NewOrder, OrderKind, Side, TimeInForce, VenueBalance, VenueStatus};
use trading::ids::ClientOrderId;
use trading::market::{Asset, Market, PublicTrade, Quote, Symbol, SymbolInfo};
use trading::money::{Amount, Price, Qty};
use trading::time::Timestamp;
use venue::exchange::{Exchange, Settings};
use venue::ledger::{self, Ledger};
use venue::state::State;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const ACCOUNTS: [&str; 2] = ["a", "b"];

/// One thing that happens. Prices and quantities are whole numbers of ticks and lots.
#[derive(Debug, Clone)]
enum Op {
    Submit { account: usize, buy: bool, kind: Kind, tif: TimeInForce, qty: u32 },
    Cancel { account: usize, number: usize },
    Quote { bid: u32, bid_qty: u32, spread: u32, ask_qty: u32 },
    Trade { price: u32, qty: u32 },
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Market,
    Limit(u32),
    PostOnly(u32),
    Stop { stop: u32, limit: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    let price = 90..110_u32;
    let kind = prop_oneof![
        1 => Just(Kind::Market),
        4 => price.clone().prop_map(Kind::Limit),
        2 => price.clone().prop_map(Kind::PostOnly),
        2 => (price.clone(), price.clone()).prop_map(|(stop, limit)| Kind::Stop { stop, limit }),
    ];
    let tif = prop_oneof![3 => Just(TimeInForce::Gtc), 1 => Just(TimeInForce::Ioc), 1 => Just(TimeInForce::Fok)];
    prop_oneof![
        5 => (0..2_usize, any::<bool>(), kind, tif, 1..20_u32)
            .prop_map(|(account, buy, kind, tif, qty)| Op::Submit { account, buy, kind, tif, qty }),
        1 => (0..2_usize, 0..40_usize).prop_map(|(account, number)| Op::Cancel { account, number }),
        3 => (price.clone(), 1..25_u32, 1..4_u32, 1..25_u32)
            .prop_map(|(bid, bid_qty, spread, ask_qty)| Op::Quote { bid, bid_qty, spread, ask_qty }),
        3 => (price, 1..25_u32).prop_map(|(price, qty)| Op::Trade { price, qty }),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(), 1..120)
}

fn symbol() -> Symbol {
    "BTCUSDT".parse().unwrap()
}

/// Ticks of 0.5.
fn price(ticks: u32) -> Price {
    Price::new(Decimal::from(ticks) * Decimal::new(5, 1))
}

/// Lots of 0.001.
fn qty(lots: u32) -> Qty {
    Qty::new(Decimal::from(lots) * Decimal::new(1, 3))
}

fn exchange(opening: u32) -> Exchange {
    let info = SymbolInfo {
        symbol: symbol(),
        base: Asset::new("BTC"),
        quote: Asset::new("USDT"),
        tick: price(1),
        lot: qty(1),
        min_qty: qty(1),
        min_notional: Amount::ZERO,
        max_open_orders: 1000,
    };
    let settings =
        Settings { symbols: vec![info], maker_fee_bps: 7, taker_fee_bps: 13, recv_window: Duration::from_secs(5) };
    let mut exchange = Exchange::new(settings, State::default());
    let balance = |asset, scale| VenueBalance {
        asset: Asset::new(asset),
        total: Amount::new(Decimal::new(i64::from(opening), scale)),
    };
    for label in ACCOUNTS {
        exchange.open_account(label, &[balance("BTC", 3), balance("USDT", 1)], NOW).unwrap();
    }
    exchange
}

fn client_id(number: usize) -> ClientOrderId {
    ClientOrderId::from_venue(format!("o{number}"))
}

/// Does `op` as the `number`-th one. Returns whether it was accepted.
fn perform(exchange: &mut Exchange, number: usize, op: &Op) -> bool {
    match *op {
        Op::Submit { account, buy, kind, tif, qty: lots } => {
            let kind = match kind {
                Kind::Market => OrderKind::Market,
                Kind::Limit(at) => OrderKind::Limit { price: price(at) },
                Kind::PostOnly(at) => OrderKind::PostOnly { price: price(at) },
                Kind::Stop { stop, limit } => OrderKind::StopLimit { stop_price: price(stop), price: price(limit) },
            };
            let order = NewOrder {
                client_id: client_id(number),
                symbol: symbol(),
                side: if buy { Side::Buy } else { Side::Sell },
                kind,
                tif,
                qty: qty(lots),
                timestamp: NOW,
            };
            exchange.submit(ACCOUNTS[account], &order, NOW).is_ok()
        }
        Op::Cancel { account, number } => {
            exchange.cancel(ACCOUNTS[account], &symbol(), &client_id(number), NOW).is_ok()
        }
        Op::Quote { bid, bid_qty, spread, ask_qty } => {
            let quote = Quote {
                symbol: symbol(),
                bid: price(bid),
                bid_qty: qty(bid_qty),
                ask: price(bid + spread),
                ask_qty: qty(ask_qty),
                at: NOW,
            };
            exchange.on_market(&Market::Quote(quote), NOW);
            true
        }
        Op::Trade { price: at, qty: lots } => {
            let trade =
                PublicTrade { symbol: symbol(), price: price(at), qty: qty(lots), buyer_is_maker: true, at: NOW };
            exchange.on_market(&Market::Trade(trade), NOW);
            true
        }
    }
}

fn all_fills(exchange: &Exchange) -> Vec<Fill> {
    let fills = |label| exchange.fills(label, &symbol(), None, usize::MAX).unwrap();
    let mut all: Vec<Fill> = ACCOUNTS.into_iter().flat_map(fills).collect();
    all.sort_by_key(|fill| fill.trade_id);
    all
}

/// The rules of matching, written again in the most naive way: one list, searched from end to end.
#[derive(Default)]
struct Oracle {
    orders: Vec<Naive>,
    /// bid, its quantity, ask, its quantity.
    quote: Option<(u32, u32, u32, u32)>,
    arrivals: usize,
    /// Order, price, quantity, maker.
    fills: Vec<(usize, u32, u32, bool)>,
}

#[expect(clippy::struct_excessive_bools, reason = "as plain as can be")]
struct Naive {
    number: usize,
    account: usize,
    buy: bool,
    limit: Option<u32>,
    stop: Option<u32>,
    rests: bool,
    all_or_none: bool,
    left: u32,
    open: bool,
    arrival: usize,
}

impl Oracle {
    fn perform(&mut self, number: usize, op: &Op) -> bool {
        match *op {
            Op::Submit { account, buy, kind, tif, qty } => self.submit(number, account, buy, kind, tif, qty),
            Op::Cancel { account, number } => {
                let order = self.orders.iter_mut().find(|o| o.number == number && o.account == account && o.open);
                order.map(|order| order.open = false).is_some()
            }
            Op::Quote { bid, bid_qty, spread, ask_qty } => {
                let ask = bid + spread;
                let ask_left = self.serve(true, ask_qty, |limit| ask <= limit);
                let bid_left = self.serve(false, bid_qty, |limit| bid >= limit);
                self.quote = Some((bid, bid_left, ask, ask_left));
                self.trigger(true, ask);
                self.trigger(false, bid);
                true
            }
            Op::Trade { price, qty } => {
                let left = self.serve(true, qty, |limit| price < limit);
                self.serve(false, left, |limit| price > limit);
                self.trigger(true, price);
                self.trigger(false, price);
                true
            }
        }
    }

    fn submit(&mut self, number: usize, account: usize, buy: bool, kind: Kind, tif: TimeInForce, qty: u32) -> bool {
        let touch = self.quote.map(|(bid, _, ask, _)| if buy { ask } else { bid });
        let crosses = |limit: u32| touch.is_some_and(|touch| if buy { touch <= limit } else { touch >= limit });
        let triggers = |stop: u32| touch.is_some_and(|touch| if buy { touch >= stop } else { touch <= stop });
        let (limit, stop, rests) = match kind {
            Kind::Market if touch.is_none() => return false,
            Kind::PostOnly(at) if crosses(at) => return false,
            Kind::Stop { stop, .. } if triggers(stop) => return false,
            Kind::Market => (None, None, false),
            Kind::Limit(at) => (Some(at), None, tif == TimeInForce::Gtc),
            Kind::PostOnly(at) => (Some(at), None, true),
            Kind::Stop { stop, limit } => (Some(limit), Some(stop), tif == TimeInForce::Gtc),
        };
        let all_or_none = limit.is_some() && tif == TimeInForce::Fok && !matches!(kind, Kind::PostOnly(_));
        self.arrivals += 1;
        let arrival = self.arrivals;
        self.orders.push(Naive {
            number,
            account,
            buy,
            limit,
            stop,
            rests,
            all_or_none,
            left: qty,
            open: true,
            arrival,
        });
        if stop.is_none() {
            self.take(self.orders.len() - 1);
        }
        true
    }

    fn take(&mut self, index: usize) {
        let order = &mut self.orders[index];
        if let Some((bid, bid_qty, ask, ask_qty)) = &mut self.quote {
            let (touch, quoted) = if order.buy { (*ask, ask_qty) } else { (*bid, bid_qty) };
            let reached = order.limit.is_none_or(|limit| if order.buy { touch <= limit } else { touch >= limit });
            let qty = if order.limit.is_none() { order.left } else { order.left.min(*quoted) };
            if reached && qty > 0 && (qty == order.left || !order.all_or_none) {
                *quoted = quoted.saturating_sub(qty);
                order.left -= qty;
                self.fills.push((order.number, touch, qty, false));
            }
        }
        order.open = order.left > 0 && order.rests;
    }

    fn serve(&mut self, buy: bool, mut available: u32, reached: impl Fn(u32) -> bool) -> u32 {
        loop {
            let candidates = self.orders.iter_mut().filter(|o| o.open && o.buy == buy && o.stop.is_none());
            let best = candidates.filter(|o| reached(o.limit.unwrap())).min_by_key(|o| {
                let limit = i64::from(o.limit.unwrap());
                (if buy { -limit } else { limit }, o.arrival)
            });
            let Some(order) = best.filter(|_| available > 0) else { return available };
            let qty = order.left.min(available);
            order.left -= qty;
            order.open = order.left > 0;
            available -= qty;
            self.fills.push((order.number, order.limit.unwrap(), qty, true));
        }
    }

    fn trigger(&mut self, buy: bool, price: u32) {
        loop {
            let waiting = self.orders.iter().enumerate().filter(|(_, o)| o.open && o.buy == buy);
            let reached = waiting.filter(|(_, o)| o.stop.is_some_and(|s| if buy { price >= s } else { price <= s }));
            let next = reached.min_by_key(|(_, o)| {
                let stop = i64::from(o.stop.unwrap());
                (if buy { stop } else { -stop }, o.arrival)
            });
            let Some(index) = next.map(|(index, _)| index) else { return };
            self.arrivals += 1;
            self.orders[index].stop = None;
            self.orders[index].arrival = self.arrivals;
            self.take(index);
        }
    }
}

proptest! {
    #[test]
    fn the_exchange_fills_exactly_as_the_naive_oracle_does(ops in ops()) {
        let (mut exchange, mut oracle) = (exchange(1_000_000), Oracle::default());
        for (number, op) in ops.iter().enumerate() {
            prop_assert_eq!(perform(&mut exchange, number, op), oracle.perform(number, op), "{}: {:?}", number, op);
        }
        let fills: Vec<_> =
            all_fills(&exchange).into_iter().map(|f| (f.client_id, f.price, f.qty, f.maker)).collect();
        let expected: Vec<_> =
            oracle.fills.iter().map(|(n, p, q, maker)| (client_id(*n), price(*p), qty(*q), *maker)).collect();
        prop_assert_eq!(fills, expected);
        for (account, label) in ACCOUNTS.into_iter().enumerate() {
            let open: Vec<_> = exchange.open_orders(label).unwrap().into_iter().map(|o| o.client_id).collect();
            let expected = oracle.orders.iter().filter(|o| o.open && o.account == account);
            prop_assert_eq!(open, expected.map(|o| client_id(o.number)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn money_is_conserved_never_negative_and_locked_for_open_orders_alone(ops in ops(), opening in 0..3000_u32) {
        let mut exchange = exchange(opening);
        let first: BTreeMap<&str, Vec<VenueBalance>> =
            ACCOUNTS.into_iter().map(|label| (label, exchange.balances(label).unwrap())).collect();
        for (number, op) in ops.iter().enumerate() {
            perform(&mut exchange, number, op);
        }
        for label in ACCOUNTS {
            let account = exchange.state().account(label).unwrap();
            for VenueBalance { asset, total } in &first[label] {
                let mut expected = total.get();
                for fill in exchange.fills(label, &symbol(), None, usize::MAX).unwrap() {
                    let sign = if fill.side == Side::Buy { Decimal::ONE } else { -Decimal::ONE };
                    expected += match asset.as_str() {
                        "BTC" => sign * fill.qty.get(),
                        _ => -sign * fill.qty.get() * fill.price.get(),
                    };
                    if fill.fee_asset == *asset {
                        expected -= fill.fee.get();
                    }
                    prop_assert!(!fill.fee.get().is_sign_negative());
                }
                let held = account.holding(asset);
                prop_assert_eq!(held.total.get(), expected);
                let needed: Decimal = account.open_orders().map(|order| match (order.new.side, asset.as_str()) {
                    (Side::Buy, "USDT") => order.remaining().get() * order.new.kind.price().unwrap().get(),
                    (Side::Sell, "BTC") => order.remaining().get(),
                    _ => Decimal::ZERO,
                }).sum();
                prop_assert_eq!(held.locked.get(), needed);
                prop_assert!(Amount::ZERO <= held.locked && held.locked <= held.total, "{:?}", held);
            }
        }
    }

    #[test]
    fn no_fill_is_beyond_its_limit_price_or_its_quantity(ops in ops()) {
        let mut exchange = exchange(1_000_000);
        for (number, op) in ops.iter().enumerate() {
            perform(&mut exchange, number, op);
        }
        for label in ACCOUNTS {
            let account = exchange.state().account(label).unwrap();
            let mut filled: BTreeMap<_, Qty> = BTreeMap::new();
            for fill in exchange.fills(label, &symbol(), None, usize::MAX).unwrap() {
                let order = account.order(fill.venue_id).unwrap();
                if let Some(limit) = order.new.kind.price() {
                    let within = if fill.side == Side::Buy { fill.price <= limit } else { fill.price >= limit };
                    prop_assert!(within, "{:?} {:?}", fill, limit);
                }
                *filled.entry(fill.venue_id).or_default() += fill.qty;
            }
            for (venue_id, filled) in filled {
                let order = account.order(venue_id).unwrap();
                prop_assert_eq!(order.executed, filled);
                prop_assert!(filled <= order.new.qty);
                prop_assert_eq!(filled == order.new.qty, order.status == VenueStatus::Filled);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_ledger_rebuilds_the_exchange_exactly_and_a_torn_one_its_state_before(ops in ops(), cut in 0..1000_usize) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("venue.ledger");
        let mut ledger = Ledger::open(&path).unwrap().ledger;
        let mut exchange = exchange(100_000);
        let mut states = vec![State::default()];
        for entry in exchange.take_entries() {
            let mut state = states.last().unwrap().clone();
            for record in &entry {
                state.apply(record).unwrap();
            }
            states.push(state);
            ledger.append(&[entry]).unwrap();
        }
        let mut entries = Vec::new();
        for (number, op) in ops.iter().enumerate() {
            perform(&mut exchange, number, op);
            let new = exchange.take_entries();
            prop_assert!(new.len() <= 1, "one operation is one entry");
            states.extend(new.first().map(|_| exchange.state().clone()));
            entries.extend(new);
        }
        ledger.append(&entries).unwrap();
        drop(ledger);
        let opened = Ledger::open(&path).unwrap();
        prop_assert_eq!(&opened.state, exchange.state());
        prop_assert_eq!(opened.torn, None);
        drop(opened);
        let image = ledger::read(&path).unwrap();
        for label in ACCOUNTS {
            let posts = &image.accounts[label].posts;
            let accepted = posts.iter().filter(|post| post.accepted).count();
            prop_assert_eq!(image.accounts[label].orders.len(), accepted);
            prop_assert_eq!(&image.accounts[label].fills, &exchange.fills(label, &symbol(), None, usize::MAX).unwrap());
            prop_assert_eq!(&image.accounts[label].balances, &exchange.balances(label).unwrap());
        }

        let whole = std::fs::read(&path).unwrap();
        let length = whole.len() * cut / 1000;
        std::fs::write(&path, &whole[..length]).unwrap();
        let lines = whole[..length].split(|byte| *byte == b'\n').count() - 1;
        let opened = Ledger::open(&path).unwrap();
        prop_assert_eq!(&opened.state, &states[lines.saturating_sub(1)]);
    }
}
