//! A seeded random walk. The same settings give the same events, in whole ticks and lots.

use std::collections::VecDeque;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use trading::market::{Market, PublicTrade, Quote, Symbol};
use trading::money::{Price, Qty};
use trading::time::Timestamp;

/// A symbol of the synthetic feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntheticSymbol {
    /// The pair.
    pub symbol: Symbol,
    /// Prices are multiples of this.
    pub tick: Price,
    /// Quantities are multiples of this.
    pub lot: Qty,
    /// Where the walk starts.
    pub start_price: Price,
}

/// What a quote offers at most, in the quote asset.
const QUOTED_VALUE: Decimal = Decimal::from_parts(100_000, 0, 0, false, 0);
/// A step of the walk is at most this part of the start price.
const STEP_DIVISOR: i64 = 10_000;

/// The endless feed. Every symbol gets one quote per interval, and every second quote on average is followed by a trade at
/// the touch. The walk stays between half and twice its start.
#[derive(Debug, Clone)]
pub struct Synthetic {
    walks: Vec<Walk>,
    random: ChaCha8Rng,
    next_at: Timestamp,
    interval: std::time::Duration,
    ready: VecDeque<Market>,
}

#[derive(Debug, Clone)]
struct Walk {
    of: SyntheticSymbol,
    /// The best bid, in ticks.
    bid: i64,
    lowest: i64,
    highest: i64,
    max_step: i64,
    max_lots: i64,
}

impl Synthetic {
    /// A feed that starts at `start` and makes this many quotes a second (at least one) for every symbol.
    pub fn new(symbols: Vec<SyntheticSymbol>, seed: u64, quotes_per_second: u32, start: Timestamp) -> Self {
        Self {
            walks: symbols.into_iter().map(Walk::new).collect(),
            random: ChaCha8Rng::seed_from_u64(seed),
            next_at: start,
            interval: std::time::Duration::from_secs(1) / quotes_per_second.max(1),
            ready: VecDeque::new(),
        }
    }
}

impl Iterator for Synthetic {
    type Item = Market;

    /// `None` only when there are no symbols.
    fn next(&mut self) -> Option<Market> {
        if self.ready.is_empty() {
            for walk in &mut self.walks {
                walk.step(&mut self.random, self.next_at, &mut self.ready);
            }
            self.next_at = self.next_at.after(self.interval);
        }
        self.ready.pop_front()
    }
}

fn whole(value: Option<Decimal>) -> i64 {
    value.and_then(|value| value.trunc().to_i64()).unwrap_or(1).max(1)
}

impl Walk {
    fn new(of: SyntheticSymbol) -> Self {
        let start = whole(of.start_price.get().checked_div(of.tick.get()));
        let lots = QUOTED_VALUE.checked_div(of.start_price.get()).and_then(|qty| qty.checked_div(of.lot.get()));
        Self {
            bid: start,
            lowest: (start / 2).max(1),
            highest: start.saturating_mul(2),
            max_step: (start / STEP_DIVISOR).max(1),
            max_lots: whole(lots).max(100),
            of,
        }
    }

    fn step(&mut self, random: &mut ChaCha8Rng, at: Timestamp, out: &mut VecDeque<Market>) {
        let step = random.random_range(-self.max_step..=self.max_step);
        self.bid = self.bid.saturating_add(step).clamp(self.lowest, self.highest);
        let spread = random.random_range(1..=(self.max_step / 5).max(1));
        let (bid, ask) = (self.price(self.bid), self.price(self.bid.saturating_add(spread)));
        let symbol = self.of.symbol.clone();
        let (bid_qty, ask_qty) = (self.qty(random), self.qty(random));
        out.push_back(Market::Quote(Quote { symbol: symbol.clone(), bid, bid_qty, ask, ask_qty, at }));
        if random.random_range(0..2) == 0 {
            let buyer_is_maker = random.random_range(0..2) == 0;
            let price = if buyer_is_maker { bid } else { ask };
            out.push_back(Market::Trade(PublicTrade { symbol, price, qty: self.qty(random), buyer_is_maker, at }));
        }
    }

    fn price(&self, ticks: i64) -> Price {
        Price::new(self.of.tick.get() * Decimal::from(ticks))
    }

    fn qty(&self, random: &mut ChaCha8Rng) -> Qty {
        Qty::new(self.of.lot.get() * Decimal::from(random.random_range(1..=self.max_lots)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(seed: u64) -> Synthetic {
        let symbol = |name: &str, start: &str| SyntheticSymbol {
            symbol: name.parse().unwrap(),
            tick: "0.01".parse().unwrap(),
            lot: "0.00001".parse().unwrap(),
            start_price: start.parse().unwrap(),
        };
        Synthetic::new(
            vec![symbol("BTCUSDT", "87000"), symbol("ETHUSDT", "2000.5")],
            seed,
            20,
            Timestamp::from_millis(1000),
        )
    }

    #[test]
    fn the_same_seed_gives_the_same_feed_and_another_seed_another_one() {
        let take = |seed| feed(seed).take(500).collect::<Vec<_>>();
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
    }

    #[test]
    fn every_event_is_in_ticks_and_lots_with_the_bid_below_the_ask() {
        let (tick, lot) = ("0.01".parse().unwrap(), "0.00001".parse().unwrap());
        let (mut quotes, mut trades) = (0, 0);
        for event in feed(1).take(20_000) {
            match event {
                Market::Quote(q) => {
                    quotes += 1;
                    assert!(Price::ZERO < q.bid && q.bid < q.ask, "{q:?}");
                    assert!(q.bid.floor_to(tick) == q.bid && q.ask.floor_to(tick) == q.ask, "{q:?}");
                    assert!(q.bid_qty.floor_to(lot) == q.bid_qty && Qty::ZERO < q.bid_qty, "{q:?}");
                }
                Market::Trade(t) => {
                    trades += 1;
                    assert!(t.price.floor_to(tick) == t.price && Qty::ZERO < t.qty, "{t:?}");
                }
            }
        }
        assert!(trades * 3 > quotes && trades < quotes, "{trades} trades, {quotes} quotes");
    }

    #[test]
    fn quotes_of_a_symbol_are_one_interval_apart() {
        let quotes = feed(1).filter(|m| matches!(m, Market::Quote(q) if q.symbol.as_str() == "ETHUSDT"));
        let times: Vec<i64> = quotes.take(3).map(|m| m.at().millis()).collect();
        assert_eq!(times, [1000, 1050, 1100]);
    }
}
