//! What is committed: events with full images. The tables are the last image of each key, so replaying an account's events
//! gives its tables, and a client that reads events needs nothing else.

use serde::{Deserialize, Serialize};

use crate::command::Record;
use crate::exchange::Fill;
use crate::ids::{ClientOrderId, Epoch, RobotId, Seq};
use crate::order::Order;
use crate::position::{Balance, Position};
use crate::robot::{Robot, StrategyState};
use crate::time::Timestamp;

/// One committed fact of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A signal or command was decided upon. Row of `hg_trading_signal`, written once.
    Command(Record),
    /// A robot was made or changed. Row of `hg_trading_robot`.
    Robot(Robot),
    /// What a strategy remembers changed. Row of `hg_trading_strategy_state`.
    Strategy {
        /// The robot.
        robot: RobotId,
        /// What it remembers now.
        state: StrategyState,
    },
    /// An order was made or changed. Row of `hg_trading_order`.
    Order(Order),
    /// A fill was booked. Rows of `hg_trading_fill`, `hg_trading_position` and `hg_trading_balance`. The order's own change
    /// is the [`Event::Order`] before it, in the same commit.
    Fill {
        /// The fill, never booked before.
        fill: Fill,
        /// The robot's position after it.
        position: Position,
        /// The balances that it changed, after it.
        balances: Vec<Balance>,
    },
    /// The account was adopted with this balance. Row of `hg_trading_balance`.
    Opening(Balance),
    /// Something that a person must look at. No row.
    Alarm {
        /// What it is, in words.
        message: String,
        /// The order it is about.
        order: Option<ClientOrderId>,
        /// The robot it is about.
        robot: Option<RobotId>,
    },
    /// The engine took the account. No row.
    Started {
        /// Under this lease epoch.
        epoch: Epoch,
    },
    /// The engine gave the account up, with this many orders unresolved. No row.
    Stopped {
        /// Under this lease epoch.
        epoch: Epoch,
        /// Orders left UNKNOWN.
        unresolved: usize,
    },
}

impl Event {
    /// The kind, as stored and shown: `command`, `order`, `fill` ..
    pub fn kind(&self) -> &'static str {
        match self {
            Event::Command(_) => "command",
            Event::Robot(_) => "robot",
            Event::Strategy { .. } => "strategy",
            Event::Order(_) => "order",
            Event::Fill { .. } => "fill",
            Event::Opening(_) => "opening",
            Event::Alarm { .. } => "alarm",
            Event::Started { .. } => "started",
            Event::Stopped { .. } => "stopped",
        }
    }
}

/// An event with its place in the account's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Its number in the account, without gaps.
    pub seq: Seq,
    /// When it was decided.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
