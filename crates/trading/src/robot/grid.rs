//! The grid: buys rest below the price, sells above it.

use serde::{Deserialize, Serialize};

use super::{Answer, ConfigError, Occasion, View};
use crate::ids::OrderKey;
use crate::market::SymbolInfo;
use crate::money::{Price, Qty};
use crate::time::Timestamp;

/// Settings of a grid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The lowest price of the ladder.
    pub lower: Price,
    /// The highest price of the ladder.
    pub upper: Price,
    /// How many prices the ladder has, both ends included: 2 to 100.
    pub levels: usize,
    /// Quantity of each order.
    pub qty: Qty,
}

/// What a grid remembers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// The orders that rest, by level.
    pub levels: Vec<Option<OrderKey>>,
}

impl State {
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        None
    }
}

impl Config {
    pub(super) fn validate(&self, _symbol: &SymbolInfo) -> Result<(), ConfigError> {
        Ok(())
    }
}

pub(super) fn decide(_config: &Config, _state: &State, _view: &View<'_>, _occasion: Occasion<'_>) -> Answer {
    Answer::default()
}
