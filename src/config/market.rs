//! `market`: where prices come from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trading::money::{Amount, Price, Qty};

/// `market`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarketConfig {
    /// Synthetic, replayed, or live.
    pub source: MarketSource,
    /// Seeds the synthetic feed.
    pub seed: u64,
    /// How many quotes a second the synthetic feed makes, per symbol.
    pub quotes_per_second: u32,
    /// The replayed files.
    pub replay: Option<ReplayConfig>,
    /// What can be traded.
    pub symbols: Vec<SymbolConfig>,
}

/// Where prices come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarketSource {
    /// A seeded random walk.
    Synthetic,
    /// Recorded files.
    Replay,
    /// The public streams of `venue.binance.ws_stream_url`.
    Binance,
}

/// `market.replay`: public Binance files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayConfig {
    /// Which symbol the files are of.
    pub symbol: String,
    /// A `trades` CSV file.
    pub trades: Option<PathBuf>,
    /// A `bookTicker` CSV file.
    pub book: Option<PathBuf>,
    /// 1 is real time, 60 a minute in a second, 0 as fast as possible.
    pub speed: u32,
}

/// A symbol with its filters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SymbolConfig {
    /// Such as `BTCUSDT`.
    pub symbol: String,
    /// Such as `BTC`.
    pub base: String,
    /// Such as `USDT`.
    pub quote: String,
    /// Prices are multiples of this.
    pub tick: Price,
    /// Quantities are multiples of this.
    pub lot: Qty,
    /// The smallest quantity.
    pub min_qty: Qty,
    /// The smallest price x quantity.
    pub min_notional: Amount,
    /// How many orders an account may have open.
    pub max_open_orders: usize,
    /// Where the synthetic feed starts.
    pub start_price: Price,
}
