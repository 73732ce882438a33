//! A signal: somebody's wish that a robot trade.

use serde::{Deserialize, Serialize};

use crate::exchange::{OrderKind, TimeInForce};
use crate::ids::RobotId;
use crate::money::Qty;
use crate::time::Timestamp;

/// What a signal asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Buy this much.
    Buy {
        /// How much; the robot's own default if absent.
        qty: Option<Qty>,
        /// How it is priced.
        order: OrderKind,
        /// How long it lives.
        tif: TimeInForce,
    },
    /// Sell this much.
    Sell {
        /// How much; the robot's own default if absent.
        qty: Option<Qty>,
        /// How it is priced.
        order: OrderKind,
        /// How long it lives.
        tif: TimeInForce,
    },
    /// Sell the robot's whole position at market.
    Close,
}

/// A signal for one robot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// The robot that should act.
    pub robot: RobotId,
    /// What it should do.
    #[serde(flatten)]
    pub action: Action,
    /// After this it is not acted upon any more.
    pub expires_at: Option<Timestamp>,
}
