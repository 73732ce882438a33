//! The grid: buys rest below the price, sells above it.
//!
//! A ladder of `n` prices has `n - 1` levels. Level `i` buys at price `i` and, once it holds base, sells that at price
//! `i + 1`; then it buys again. A level has at most one order. A price has at most one order too: level `i` does not buy
//! at its price while the level below holds what is to be sold there.

use std::collections::BTreeMap;
use std::time::Duration;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::{
    Answer, ConfigError, Intent, Occasion, OrderSpec, RunState, StrategyState, View, check_qty, refuse, sellable,
};
use crate::exchange::{OrderKind, Side, TimeInForce};
use crate::ids::OrderKey;
use crate::market::SymbolInfo;
use crate::money::{MAX_VALUE, Price, Qty};
use crate::order::{Order, Status};
use crate::risk::FEE_HEADROOM;
use crate::time::Timestamp;

/// How many prices a ladder may have.
pub const MAX_LEVELS: usize = 100;
/// How many orders one decision places at most; the rest follow [`PAUSE`] later.
pub const MAX_PLACES: usize = 10;
/// How long after a full decision the next orders follow.
pub const PAUSE: Duration = Duration::from_secs(1);
/// How long a level waits after its order ended in any other way than by being filled.
pub const RETRY: Duration = Duration::from_secs(30);

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
    /// The levels from the lowest, one fewer than the ladder has prices.
    pub levels: Vec<Level>,
}

/// What a grid remembers of one level.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Level {
    /// Its order.
    pub order: Option<Resting>,
    /// Base that it bought and has not sold yet.
    pub held: Qty,
    /// It places nothing before this.
    pub retry_at: Option<Timestamp>,
}

/// An order of a level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resting {
    /// Which.
    pub key: OrderKey,
    /// Buying at the level's price, or selling at the next.
    pub side: Side,
    /// How much of what it filled is in [`Level::held`] already.
    pub counted: Qty,
    /// It has ended, but not all of its fills are booked.
    pub ended: bool,
}

impl Config {
    pub(super) fn validate(&self, symbol: &SymbolInfo) -> Result<(), ConfigError> {
        let tick = symbol.tick;
        if !(2..=MAX_LEVELS).contains(&self.levels) {
            return refuse("levels", self.levels, format!("2 to {MAX_LEVELS}"));
        }
        if self.levels - 1 > symbol.max_open_orders {
            let most = symbol.max_open_orders;
            return refuse("levels", self.levels, format!("one more than the venue's {most} open orders at most"));
        }
        if self.lower <= Price::ZERO || self.lower < tick {
            return refuse("lower", self.lower, format!("above zero and at least the tick {tick}"));
        }
        if self.upper <= self.lower || self.upper.get() >= MAX_VALUE {
            return refuse("upper", self.upper, format!("above lower ({}) and below {MAX_VALUE}", self.lower));
        }
        let steps = Decimal::from(self.levels - 1);
        if self.upper.get() - self.lower.get() < tick.get() * steps {
            let most = "so few that two neighbours are at least a tick apart";
            return refuse("levels", self.levels, format!("{most} ({tick} between {} and {})", self.lower, self.upper));
        }
        check_qty("qty", self.qty, symbol)?;
        let (lowest, min) = (self.lower.floor_to(tick), symbol.min_notional);
        if lowest.notional(self.qty) < min {
            return refuse("qty", self.qty, format!("worth at least the venue's minimum {min} at the price {lowest}"));
        }
        Ok(())
    }

    /// The ladder from the lowest price, in whole ticks.
    pub fn prices(&self, tick: Price) -> Vec<Price> {
        let steps = Decimal::from(self.levels.saturating_sub(1).max(1));
        let span = self.upper.get() - self.lower.get();
        let price = |i: usize| Price::new(self.lower.get() + span * Decimal::from(i) / steps).floor_to(tick);
        (0..self.levels.min(MAX_LEVELS)).map(price).collect()
    }
}

impl State {
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.levels.iter().filter_map(|level| level.retry_at).min()
    }

    /// Takes over what one of the grid's orders has become.
    fn note(&mut self, order: &Order, now: Timestamp) {
        let ours = |level: &&mut Level| level.order.as_ref().is_some_and(|resting| resting.key == order.key);
        if let Some(level) = self.levels.iter_mut().find(ours) {
            level.note(order, now);
        }
    }

    /// Forgets orders that ended without the grid being told, as when it was stopped meanwhile.
    ///
    /// What they bought or sold shows in the position: whatever it holds beyond the other levels belongs to these. The price
    /// passes levels in order, so the highest of them hold: buys fill from the top, sells from the bottom.
    fn forget_lost(&mut self, config: &Config, view: &View<'_>, starting: bool) {
        let live: BTreeMap<OrderKey, &Order> = view.live.values().map(|order| (order.key, order)).collect();
        let (mut lost, mut kept) = (Vec::new(), Qty::ZERO);
        for level in &mut self.levels {
            match level.order.as_ref().map(|resting| (live.get(&resting.key), resting.ended)) {
                Some((None, ended)) if starting || !ended => lost.push(level),
                Some((Some(order), _)) => {
                    level.note(order, view.now);
                    kept += level.held;
                }
                Some((None, _)) | None => kept += level.held,
            }
        }
        let mut rest = Qty::new(view.position.qty.get()) - kept;
        for level in lost.into_iter().rev() {
            level.order = None;
            level.held = rest.min(config.qty).max(Qty::ZERO);
            level.retry_at = (!starting).then(|| view.now.after(RETRY));
            rest = rest - level.held;
        }
    }

    fn is_bought_at(&self, i: usize) -> bool {
        self.levels.get(i).is_some_and(|level| level.order.as_ref().is_some_and(|resting| resting.side == Side::Buy))
    }

    fn is_sold_above(&self, i: usize) -> bool {
        self.levels.get(i).is_some_and(|level| {
            !level.held.is_zero() || level.order.as_ref().is_some_and(|resting| resting.side == Side::Sell)
        })
    }
}

impl Level {
    fn note(&mut self, order: &Order, now: Timestamp) {
        let Some(resting) = &mut self.order else { return };
        let news = order.filled - resting.counted;
        if news > Qty::ZERO {
            resting.counted = order.filled;
            self.held = match resting.side {
                Side::Buy => self.held + news,
                Side::Sell => (self.held - news).max(Qty::ZERO),
            };
        }
        resting.ended = order.status.is_terminal();
        if resting.ended && !order.lacks_fills() {
            self.order = None;
            if order.status != Status::Filled {
                self.retry_at = Some(now.after(RETRY));
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.order.is_none() && self.retry_at.is_none()
    }
}

pub(super) fn decide(config: &Config, state: &State, view: &View<'_>, occasion: Occasion<'_>) -> Answer {
    let mut next = state.clone();
    next.levels.resize_with(config.levels.min(MAX_LEVELS).saturating_sub(1), Level::default);
    match occasion {
        Occasion::Signal(_) => return Answer { skip: Some("a grid takes no signals".into()), ..Answer::default() },
        Occasion::Order(order) => next.note(order, view.now),
        Occasion::Start => next.forget_lost(config, view, true),
        Occasion::Quote | Occasion::Timer => next.forget_lost(config, view, false),
    }
    for level in &mut next.levels {
        level.retry_at = level.retry_at.filter(|at| *at > view.now);
    }
    let mut plan = Plan { view, prices: config.prices(view.symbol.tick), intents: Vec::new() };
    let run = view.robot.run;
    if matches!(run, RunState::Running | RunState::Halted) {
        plan.sells(&mut next);
    }
    if run == RunState::Running {
        plan.buys(config, &mut next);
    }
    let Plan { intents, .. } = plan;
    let state = (next != *state).then_some(StrategyState::Grid(next));
    Answer { state, intents, skip: None }
}

/// The orders of one decision.
struct Plan<'a> {
    view: &'a View<'a>,
    prices: Vec<Price>,
    intents: Vec<Intent>,
}

impl Plan<'_> {
    /// Sells what levels hold, from the lowest price.
    fn sells(&mut self, state: &mut State) {
        let mut available = sellable(self.view);
        for i in 0..state.levels.len() {
            let blocked = state.is_bought_at(i + 1);
            let (Some(level), Some(price)) = (state.levels.get_mut(i), self.prices.get(i + 1).copied()) else { return };
            if !level.is_idle() || level.held.is_zero() {
                continue;
            }
            let SymbolInfo { lot, min_qty, min_notional, .. } = *self.view.symbol;
            let qty = level.held.min(available).floor_to(lot);
            if qty.is_zero() || qty < min_qty || price.notional(qty) < min_notional {
                // Dust that no venue takes, such as what a fee in the base asset leaves. It stays in the position.
                level.held = Qty::ZERO;
            } else if !blocked && self.place(level, Side::Sell, price, qty) {
                available = available - qty;
            }
        }
    }

    /// Buys below the price, from the highest price, as far as the funds reach.
    fn buys(&mut self, config: &Config, state: &mut State) {
        let Some(quote) = self.view.quote else { return };
        let mut free = self.view.free_quote;
        for i in (0..state.levels.len()).rev() {
            let blocked = i > 0 && state.is_sold_above(i - 1);
            let (Some(level), Some(price)) = (state.levels.get_mut(i), self.prices.get(i).copied()) else { return };
            let cost = price.notional(config.qty);
            let affordable = cost.get() * FEE_HEADROOM <= free.get();
            let wanted = level.is_idle() && level.held.is_zero() && price < quote.ask;
            if wanted && !blocked && affordable && self.place(level, Side::Buy, price, config.qty) {
                free = free - cost;
            }
        }
    }

    /// Plans one order, unless this decision has enough of them.
    fn place(&mut self, level: &mut Level, side: Side, price: Price, qty: Qty) -> bool {
        let leg = self.intents.len();
        let (Ok(leg), true) = (i32::try_from(leg), leg < MAX_PLACES) else {
            level.retry_at = Some(self.view.now.after(PAUSE));
            return false;
        };
        let key = OrderKey { decision: self.view.decision, leg };
        level.order = Some(Resting { key, side, counted: Qty::ZERO, ended: false });
        let kind = OrderKind::Limit { price };
        self.intents.push(Intent::Place(OrderSpec { side, kind, tif: TimeInForce::Gtc, qty }));
        true
    }
}
