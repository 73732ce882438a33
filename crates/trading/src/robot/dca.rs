//! Dollar cost averaging: buys a little at fixed intervals.
//!
//! A step is counted in the same answer, and so in the same commit, that places its order: no crash can repeat it. Steps that
//! were due while nobody ran are not made up for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Answer, ConfigError, Intent, Occasion, OrderSpec, StrategyState, View, refuse};
use crate::exchange::{OrderKind, Side, TimeInForce};
use crate::market::SymbolInfo;
use crate::money::{Amount, MAX_VALUE, Qty};
use crate::time::Timestamp;

/// The shortest interval, in milliseconds.
pub const MIN_INTERVAL_MS: u64 = 100;
/// The longest interval, in milliseconds: a day.
pub const MAX_INTERVAL_MS: u64 = 86_400_000;

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
    /// When the next one is due. Absent: as soon as there is a quote.
    pub next_at: Option<Timestamp>,
}

impl State {
    pub(super) fn wake_at(&self, config: &Config) -> Option<Timestamp> {
        if self.is_done(config) { None } else { self.next_at }
    }

    fn is_done(&self, config: &Config) -> bool {
        config.max_steps > 0 && self.steps >= config.max_steps
    }
}

impl Config {
    pub(super) fn validate(&self, symbol: &SymbolInfo) -> Result<(), ConfigError> {
        let min = symbol.min_notional;
        if self.quote_per_step <= Amount::ZERO || self.quote_per_step < min {
            return refuse("quote_per_step", self.quote_per_step, format!("at least the venue's minimum {min}"));
        }
        if self.quote_per_step.get() >= MAX_VALUE {
            return refuse("quote_per_step", self.quote_per_step, format!("below {MAX_VALUE}"));
        }
        if !(MIN_INTERVAL_MS..=MAX_INTERVAL_MS).contains(&self.interval_ms) {
            return refuse("interval_ms", self.interval_ms, format!("{MIN_INTERVAL_MS} to {MAX_INTERVAL_MS}"));
        }
        Ok(())
    }
}

pub(super) fn decide(config: &Config, state: &State, view: &View<'_>, occasion: Occasion<'_>) -> Answer {
    match occasion {
        Occasion::Signal(_) => Answer { skip: Some("a DCA robot takes no signals".into()), ..Answer::default() },
        Occasion::Order(_) => Answer::default(),
        Occasion::Start | Occasion::Quote | Occasion::Timer => {
            let due = state.next_at.is_none_or(|at| at <= view.now);
            if due && !state.is_done(config) { step(config, state, view) } else { Answer::default() }
        }
    }
}

fn step(config: &Config, state: &State, view: &View<'_>) -> Answer {
    let Some(quote) = view.quote.filter(|quote| !quote.ask.is_zero()) else {
        // Without a price there is no quantity: the next quote brings the step, not a timer that is already over.
        let waiting = State { next_at: None, ..state.clone() };
        let state = (waiting != *state).then_some(StrategyState::Dca(waiting));
        return Answer { state, ..Answer::default() };
    };
    let next_at = Some(view.now.after(Duration::from_millis(config.interval_ms)));
    let qty = Qty::new(config.quote_per_step.get() / quote.ask.get()).floor_to(view.symbol.lot);
    if qty <= Qty::ZERO {
        // Not even a lot for that money: no order, so no step.
        let state = Some(StrategyState::Dca(State { next_at, ..state.clone() }));
        return Answer { state, ..Answer::default() };
    }
    let spec = OrderSpec { side: Side::Buy, kind: OrderKind::Market, tif: TimeInForce::Gtc, qty };
    Answer {
        state: Some(StrategyState::Dca(State { steps: state.steps.saturating_add(1), next_at })),
        intents: vec![Intent::Place(spec)],
        skip: None,
    }
}
