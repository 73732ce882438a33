//! Commands: every wish from outside that changes an account, with one rule for repeats and one for answers.
//!
//! A command is named by `(source, dedup_key)`. Its outcome is committed together with what it causes; the same name gets
//! the same outcome again, for ever.

use serde::{Deserialize, Serialize};

use crate::ids::{ClientOrderId, RobotId};
use crate::market::Symbol;
use crate::risk::Limits;
use crate::robot::{RobotConfig, StopPolicy};
use crate::signal::Signal;
use crate::time::Timestamp;

/// A named wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Who: `webhook:<robot>`, `key:<id>` .. Keys of different sources never meet.
    pub source: String,
    /// The sender's own name for this wish.
    pub dedup_key: String,
    /// What is wished.
    pub wish: Wish,
}

/// What can be wished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub enum Wish {
    /// Trade.
    Signal(Signal),
    /// Make a robot.
    CreateRobot(NewRobot),
    /// Let a robot trade (again); also lifts its halt or quarantine.
    StartRobot {
        /// Which.
        robot: RobotId,
    },
    /// Stop a robot, carrying out its stop policy or this one.
    StopRobot {
        /// Which.
        robot: RobotId,
        /// Instead of the robot's own policy.
        policy: Option<StopPolicy>,
    },
    /// A robot's kill switch: no entries; cancels and reducing orders only.
    HaltRobot {
        /// Which.
        robot: RobotId,
        /// Why, for those who look.
        reason: String,
    },
    /// The account's kill switch: halts every robot and cancels what only adds.
    Kill {
        /// Why, for those who look.
        reason: String,
    },
    /// Cancel one order.
    CancelOrder {
        /// Which.
        order: ClientOrderId,
    },
}

/// A robot to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRobot {
    /// What people call it.
    pub name: String,
    /// The pair it trades.
    pub symbol: Symbol,
    /// Its strategy and settings.
    pub config: RobotConfig,
    /// Its limits.
    pub limits: Limits,
    /// What happens to its orders at a stop.
    pub stop_policy: StopPolicy,
    /// Whether it trades at once.
    pub start: bool,
    /// SHA-256 of its webhook secret, in hex.
    pub webhook_hash: Option<String>,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It was done, or set going: these orders were planned.
    Done {
        /// The robot it was about, or that it made.
        robot: Option<RobotId>,
        /// The orders it planned, in legs' order.
        orders: Vec<ClientOrderId>,
    },
    /// Risk refused every order of it.
    Denied {
        /// Which rule.
        reason: String,
    },
    /// It was understood and not acted upon.
    Skipped {
        /// Why.
        reason: String,
    },
    /// It makes no sense here: no such robot, settings that do not fit.
    Invalid {
        /// Which field of the wish.
        field: String,
        /// What was given and what is accepted.
        reason: String,
    },
    /// There is no such thing.
    NotFound {
        /// What.
        what: String,
    },
}

/// A command with its outcome. This is the row of `hg_trading_signal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The command.
    #[serde(flatten)]
    pub command: Command,
    /// When it was decided.
    pub received_at: Timestamp,
    /// What became of it.
    pub outcome: Outcome,
}
