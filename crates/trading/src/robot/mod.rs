//! Robots: what they are, what they may see, and what they may ask for.
//!
//! A strategy is a pure function from its state and an event to a new state and intents. It never mutates in place, so one
//! that panics leaves its last committed state behind; the engine catches the panic and quarantines the robot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::exchange::{OrderKind, Side, TimeInForce};
use crate::ids::{AccountId, ClientOrderId, OrderKey, RobotId};
use crate::market::{Quote, Symbol, SymbolInfo};
use crate::money::{Amount, MAX_VALUE, Qty};
use crate::order::Order;
use crate::position::Position;
use crate::risk::Limits;
use crate::signal::Signal;
use crate::time::Timestamp;

pub mod dca;
pub mod follower;
pub mod grid;

/// What happens to a robot's orders and position when it is stopped, or the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopPolicy {
    /// Resting orders stay at the venue.
    #[default]
    Keep,
    /// Resting orders are cancelled.
    Cancel,
    /// Resting orders are cancelled and the position is sold at market.
    Flatten,
}

/// What its owner wants of a robot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    /// Trade.
    Running,
    /// Do not trade; the stop policy was carried out.
    Stopped,
}

/// What a robot is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Trading.
    Running,
    /// Carrying out its stop policy.
    Stopping,
    /// Not trading.
    Stopped,
    /// Its kill switch is on: no entries; cancels and reducing orders only.
    Halted,
    /// It panicked or a contradiction was found; somebody must look and start it again.
    Quarantined,
}

/// A robot. This is the row of `hg_trading_robot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Robot {
    /// Its number.
    pub id: RobotId,
    /// Whose funds it trades.
    pub account: AccountId,
    /// What people call it.
    pub name: String,
    /// The pair it trades.
    pub symbol: Symbol,
    /// Its strategy and settings.
    pub config: RobotConfig,
    /// Its own limits.
    pub limits: Limits,
    /// What its owner wants.
    pub desired: DesiredState,
    /// What it is doing.
    pub run: RunState,
    /// Why it is halted or quarantined.
    pub reason: Option<String>,
    /// What happens to its orders at a stop.
    pub stop_policy: StopPolicy,
    /// The last decision it made; the next one is one more.
    pub decision_seq: i64,
    /// SHA-256 of the webhook secret in hex, if it has a webhook. The secret itself is shown once and kept nowhere.
    pub webhook_hash: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Grows by one with every change.
    pub version: i64,
}

/// Which strategy, with its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RobotConfig {
    /// Does what signals say.
    Follower(follower::Config),
    /// Rests buys below and sells above on a ladder of prices.
    Grid(grid::Config),
    /// Buys a little at fixed intervals.
    Dca(dca::Config),
}

impl RobotConfig {
    /// `follower`, `grid` or `dca`.
    pub fn kind(&self) -> &'static str {
        match self {
            RobotConfig::Follower(_) => "follower",
            RobotConfig::Grid(_) => "grid",
            RobotConfig::Dca(_) => "dca",
        }
    }
}

/// What a strategy remembers between events. This is the row of `hg_trading_strategy_state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StrategyState {
    /// The follower remembers nothing.
    Follower,
    /// See [`grid::State`].
    Grid(grid::State),
    /// See [`dca::State`].
    Dca(dca::State),
}

impl StrategyState {
    /// What a new robot remembers.
    pub fn initial(config: &RobotConfig) -> Self {
        match config {
            RobotConfig::Follower(_) => StrategyState::Follower,
            RobotConfig::Grid(_) => StrategyState::Grid(grid::State::default()),
            RobotConfig::Dca(_) => StrategyState::Dca(dca::State::default()),
        }
    }
}

/// What a strategy is told.
#[derive(Debug, Clone, Copy)]
pub enum Occasion<'a> {
    /// It starts, or starts again after a stop or a restart of the server. Its live orders are in the view.
    Start,
    /// Somebody wants something.
    Signal(&'a Signal),
    /// Best bid or ask changed; it is in the view.
    Quote,
    /// One of its orders changed (filled in part or whole, ended, was refused ..).
    Order(&'a Order),
    /// The time it asked for has come.
    Timer,
}

/// What a strategy may see.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Now.
    pub now: Timestamp,
    /// The robot.
    pub robot: &'a Robot,
    /// Its symbol's filters.
    pub symbol: &'a SymbolInfo,
    /// The last best bid and ask, if there was one since the start.
    pub quote: Option<&'a Quote>,
    /// What the robot holds.
    pub position: &'a Position,
    /// Its orders that have not ended, and ended ones whose fills are not all booked ([`Order::lacks_fills`]), by id.
    pub live: &'a BTreeMap<ClientOrderId, Order>,
    /// The number that a decision made now would have.
    pub decision: i64,
    /// What of the quote asset is not reserved by open orders of the account.
    pub free_quote: Amount,
    /// What of the base asset is not reserved by open orders of the account.
    pub free_base: Amount,
}

/// An order that a strategy wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderSpec {
    /// Buy or sell.
    pub side: Side,
    /// How it is priced.
    pub kind: OrderKind,
    /// How long it lives.
    pub tif: TimeInForce,
    /// Quantity of the base asset, already a multiple of the lot.
    pub qty: Qty,
}

/// What a strategy asks for. The `n`-th [`Intent::Place`] of an answer becomes the order with
/// `OrderKey { decision: view.decision, leg: n }`, so a strategy can remember the order before it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// Place an order.
    Place(OrderSpec),
    /// Cancel one of the robot's live orders.
    Cancel(ClientOrderId),
}

/// A strategy's answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// What it remembers from now on, if that changed.
    pub state: Option<StrategyState>,
    /// What it wants done.
    pub intents: Vec<Intent>,
    /// Why a signal is not acted upon. Only for [`Occasion::Signal`].
    pub skip: Option<String>,
}

/// Asks the robot's strategy. Pure; may panic only by a bug in a strategy, which the engine contains.
pub fn decide(view: &View<'_>, state: &StrategyState, occasion: Occasion<'_>) -> Answer {
    match (&view.robot.config, state) {
        (RobotConfig::Follower(config), StrategyState::Follower) => follower::decide(config, view, occasion),
        (RobotConfig::Grid(config), StrategyState::Grid(state)) => grid::decide(config, state, view, occasion),
        (RobotConfig::Dca(config), StrategyState::Dca(state)) => dca::decide(config, state, view, occasion),
        _ => Answer { skip: Some("the robot's state belongs to another strategy".into()), ..Answer::default() },
    }
}

/// When the robot wants to be woken by [`Occasion::Timer`], if at all.
pub fn wake_at(config: &RobotConfig, state: &StrategyState) -> Option<Timestamp> {
    match (config, state) {
        (RobotConfig::Grid(_), StrategyState::Grid(state)) => state.wake_at(),
        (RobotConfig::Dca(config), StrategyState::Dca(state)) => state.wake_at(config),
        _ => None,
    }
}

/// What is wrong with a robot's settings, by field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// The setting, such as `levels`.
    pub field: &'static str,
    /// What was given and what is accepted.
    pub problem: String,
}

impl RobotConfig {
    /// Checks the settings against themselves and the symbol's filters.
    ///
    /// # Errors
    /// The first field that does not fit, with what was given and what is accepted.
    pub fn validate(&self, symbol: &SymbolInfo) -> Result<(), ConfigError> {
        match self {
            RobotConfig::Follower(config) => config.validate(symbol),
            RobotConfig::Grid(config) => config.validate(symbol),
            RobotConfig::Dca(config) => config.validate(symbol),
        }
    }
}

/// The order that a key names, among live orders.
pub fn find_live(live: &BTreeMap<ClientOrderId, Order>, key: OrderKey) -> Option<&Order> {
    live.values().find(|order| order.key == key)
}

/// What of the position the robot may sell: what it holds, less what its own sells may still take, in whole lots.
pub(crate) fn sellable(view: &View<'_>) -> Qty {
    let reserved: Qty = view.live.values().filter(|order| order.side == Side::Sell).map(Order::outstanding).sum();
    let free = Qty::new(view.position.qty.get()) - reserved;
    if free <= Qty::ZERO { Qty::ZERO } else { free.floor_to(view.symbol.lot) }
}

fn refuse(
    field: &'static str,
    given: impl std::fmt::Display,
    accepted: impl std::fmt::Display,
) -> Result<(), ConfigError> {
    Err(ConfigError { field, problem: format!("{given} given, accepted: {accepted}") })
}

/// A quantity for orders of this symbol: a multiple of the lot, not below the venue's minimum.
fn check_qty(field: &'static str, qty: Qty, symbol: &SymbolInfo) -> Result<(), ConfigError> {
    let SymbolInfo { lot, min_qty, .. } = *symbol;
    if qty <= Qty::ZERO || qty < min_qty || qty.get() >= MAX_VALUE {
        return refuse(field, qty, format!("above zero, at least {min_qty}, below {MAX_VALUE}"));
    }
    if qty.floor_to(lot) != qty {
        return refuse(field, qty, format!("a multiple of the lot {lot}"));
    }
    Ok(())
}
