//! Symbols, their filters, and market data.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::money::{Amount, Price, Qty};
use crate::time::Timestamp;

/// A tradable pair, such as `BTCUSDT`: 3 to 20 characters of `[A-Z0-9]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Symbol(Arc<str>);

/// The text is not 3 to 20 characters of `[A-Z0-9]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a symbol: 3 to 20 characters of A-Z and 0-9, such as BTCUSDT")]
pub struct ParseSymbolError(String);

impl Symbol {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Symbol {
    type Err = ParseSymbolError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (3..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if fits { Ok(Self(text.into())) } else { Err(ParseSymbolError(text.chars().take(40).collect())) }
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An asset, such as `BTC` or `USDT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Asset(Arc<str>);

impl Asset {
    /// Names an asset.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a venue says about a symbol: its assets and its filters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolInfo {
    /// The pair.
    pub symbol: Symbol,
    /// What is bought and sold.
    pub base: Asset,
    /// What it is paid in.
    pub quote: Asset,
    /// Prices are multiples of this.
    pub tick: Price,
    /// Quantities are multiples of this.
    pub lot: Qty,
    /// The smallest quantity of an order.
    pub min_qty: Qty,
    /// The smallest price x quantity of an order, in the quote asset.
    pub min_notional: Amount,
    /// How many orders one account may have open in this symbol.
    pub max_open_orders: usize,
}

/// Best bid and ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// The pair.
    pub symbol: Symbol,
    /// Best bid.
    pub bid: Price,
    /// Quantity at the best bid.
    pub bid_qty: Qty,
    /// Best ask.
    pub ask: Price,
    /// Quantity at the best ask.
    pub ask_qty: Qty,
    /// When, by the venue's clock.
    pub at: Timestamp,
}

/// A trade between others, as the public feed shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicTrade {
    /// The pair.
    pub symbol: Symbol,
    /// Price.
    pub price: Price,
    /// Quantity.
    pub qty: Qty,
    /// Whether the buyer's order was resting, so that the seller was the aggressor.
    pub buyer_is_maker: bool,
    /// When, by the venue's clock.
    pub at: Timestamp,
}

/// One market data event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Market {
    /// Best bid and ask changed.
    Quote(Quote),
    /// A public trade.
    Trade(PublicTrade),
}

impl Market {
    /// The pair it is about.
    pub fn symbol(&self) -> &Symbol {
        match self {
            Market::Quote(quote) => &quote.symbol,
            Market::Trade(trade) => &trade.symbol,
        }
    }

    /// When it happened, by the venue's clock.
    pub fn at(&self) -> Timestamp {
        match self {
            Market::Quote(quote) => quote.at,
            Market::Trade(trade) => trade.at,
        }
    }
}
