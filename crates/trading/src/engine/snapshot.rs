//! What an engine starts from: an account as the store last committed it.

use crate::ids::{AccountId, RobotId, Seq, TradeId};
use crate::market::Symbol;
use crate::order::Order;
use crate::position::{Balance, Position};
use crate::robot::{Robot, StrategyState};

/// An account as the store last committed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The account.
    pub account: AccountId,
    /// The number of its last event; 0 if there is none.
    pub last_seq: Seq,
    /// Its robots.
    pub robots: Vec<Robot>,
    /// What their strategies remember.
    pub states: Vec<(RobotId, StrategyState)>,
    /// Its orders that have not ended, and ended ones that lack fills ([`Order::lacks_fills`]).
    pub orders: Vec<Order>,
    /// What its robots hold.
    pub positions: Vec<Position>,
    /// Its assets.
    pub balances: Vec<Balance>,
    /// The trades booked last, up to [`RECENT_TRADES`] per symbol, so that one is never booked twice.
    pub recent_trades: Vec<(Symbol, TradeId)>,
}

/// How many booked trades per symbol an engine remembers. The store's unique key stands behind it.
pub const RECENT_TRADES: usize = 10_000;
