//! Dollar cost averaging: buys a little at fixed intervals.

use serde::{Deserialize, Serialize};

use super::{Answer, ConfigError, Occasion, View};
use crate::market::SymbolInfo;
use crate::money::Amount;
use crate::time::Timestamp;

/// Settings of a DCA robot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How much of the quote asset to spend at each step.
    pub quote_per_step: Amount,
    /// Time between steps.
    pub interval_ms: u64,
    /// How many steps in all; 0 means without end.
    pub max_steps: u32,
}

/// What a DCA robot remembers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// How many steps it has taken.
    pub steps: u32,
    /// When the next one is due.
    pub next_at: Option<Timestamp>,
}

impl State {
    pub(super) fn wake_at(&self, config: &Config) -> Option<Timestamp> {
        if config.max_steps > 0 && self.steps >= config.max_steps { None } else { self.next_at }
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
