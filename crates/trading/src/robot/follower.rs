//! The signal follower: it does what signals say.

use serde::{Deserialize, Serialize};

use super::{Answer, ConfigError, Occasion, View};
use crate::market::SymbolInfo;
use crate::money::Qty;

/// Settings of a signal follower.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How much to trade when a signal does not say.
    pub default_qty: Qty,
}

impl Config {
    pub(super) fn validate(&self, _symbol: &SymbolInfo) -> Result<(), ConfigError> {
        Ok(())
    }
}

pub(super) fn decide(_config: &Config, _view: &View<'_>, _occasion: Occasion<'_>) -> Answer {
    Answer::default()
}
