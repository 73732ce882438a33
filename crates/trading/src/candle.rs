//! One-minute candles from public trades.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::market::PublicTrade;
use crate::money::{Amount, Price, Qty};
use crate::time::Timestamp;

const MINUTE_US: i64 = 60_000_000;

/// What was traded in one minute, by the venue's clock. A minute without trades has no candle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candle {
    /// When the minute began.
    pub open_at: Timestamp,
    /// Price of the first trade.
    pub open: Price,
    /// Highest price.
    pub high: Price,
    /// Lowest price.
    pub low: Price,
    /// Price of the last trade.
    pub close: Price,
    /// Base asset traded.
    pub volume: Qty,
    /// Quote asset traded.
    pub quote_volume: Amount,
    /// How many trades.
    pub trades: u64,
}

/// The last candles of one symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candles {
    history: VecDeque<Candle>,
    capacity: usize,
}

/// What a trade did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The candle of the running minute changed.
    Updated,
    /// A new minute began; the candle before the newest is final.
    Opened,
    /// The trade belongs to a minute before the newest one, whose candle is final: nothing changed.
    Late,
}

impl Candles {
    /// Remembers up to `capacity` candles, one at least, the running minute included.
    pub fn new(capacity: usize) -> Self {
        Self { history: VecDeque::new(), capacity: capacity.max(1) }
    }

    /// Adds one trade.
    pub fn add(&mut self, trade: &PublicTrade) -> Added {
        let open_at = Timestamp::from_micros(trade.at.micros().saturating_sub(trade.at.micros().rem_euclid(MINUTE_US)));
        match self.history.back_mut() {
            Some(candle) if candle.open_at == open_at => {
                candle.add(trade);
                Added::Updated
            }
            Some(candle) if candle.open_at > open_at => Added::Late,
            _ => {
                if self.history.len() >= self.capacity {
                    self.history.pop_front();
                }
                self.history.push_back(Candle::first(open_at, trade));
                Added::Opened
            }
        }
    }

    /// The candles from the oldest; the last one may still change.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Candle> + ExactSizeIterator {
        self.history.iter()
    }
}

impl Candle {
    fn first(open_at: Timestamp, trade: &PublicTrade) -> Self {
        let price = trade.price;
        let quote_volume = price.notional(trade.qty);
        Self { open_at, open: price, high: price, low: price, close: price, volume: trade.qty, quote_volume, trades: 1 }
    }

    fn add(&mut self, trade: &PublicTrade) {
        self.high = self.high.max(trade.price);
        self.low = self.low.min(trade.price);
        self.close = trade.price;
        self.volume += trade.qty;
        self.quote_volume += trade.price.notional(trade.qty);
        self.trades = self.trades.saturating_add(1);
    }
}
