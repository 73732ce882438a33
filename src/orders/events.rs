//! Events as clients see them.

use serde::Serialize;
use trading::event::{Event, Recorded};
use trading::ids::AccountId;
use utoipa::ToSchema;

use super::wire::{BalanceOut, FillOut, OrderOut, PositionOut};
use crate::robots::RobotOut;
use crate::signals::CommandOut;

/// One committed fact of an account, with the full image of what changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventOut {
    /// Its number in the account, without gaps.
    #[schema(example = 17)]
    pub seq: i64,
    /// When it was decided.
    pub at_us: i64,
    /// What happened.
    #[serde(flatten)]
    pub fact: FactOut,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
#[schema(as = Fact)]
pub enum FactOut {
    /// A signal or command was decided upon.
    Command(CommandOut),
    /// A robot was made or changed.
    Robot(RobotOut),
    /// What a strategy remembers changed.
    Strategy {
        /// The robot.
        robot: i64,
    },
    /// An order was made or changed.
    Order(OrderOut),
    /// A fill was booked.
    Fill {
        /// The fill.
        fill: FillOut,
        /// The robot's position after it.
        position: PositionOut,
        /// The balances that it changed, after it.
        balances: Vec<BalanceOut>,
    },
    /// The account was adopted with this balance.
    Opening(BalanceOut),
    /// Something that a person must look at.
    Alarm {
        /// What it is.
        message: String,
        /// The order it is about.
        order: Option<String>,
        /// The robot it is about.
        robot: Option<i64>,
    },
    /// The engine took the account.
    Started {
        /// Under this lease epoch.
        epoch: i64,
    },
    /// The engine gave the account up.
    Stopped {
        /// Under this lease epoch.
        epoch: i64,
        /// Orders left UNKNOWN.
        unresolved: usize,
    },
}

impl EventOut {
    /// An event of `account`.
    pub fn new(account: AccountId, recorded: &Recorded) -> Self {
        let fact = match &recorded.event {
            Event::Command(record) => FactOut::Command(record.into()),
            Event::Robot(robot) => FactOut::Robot(robot.into()),
            Event::Strategy { robot, .. } => FactOut::Strategy { robot: robot.0 },
            Event::Order(order) => FactOut::Order(order.into()),
            Event::Fill { fill, position, balances } => FactOut::Fill {
                fill: FillOut::new(account.0, position.robot.0, fill),
                position: position.into(),
                balances: balances.iter().map(BalanceOut::from).collect(),
            },
            Event::Opening(balance) => FactOut::Opening(balance.into()),
            Event::Alarm { message, order, robot } => FactOut::Alarm {
                message: message.clone(),
                order: order.as_ref().map(ToString::to_string),
                robot: robot.map(|robot| robot.0),
            },
            Event::Started { epoch } => FactOut::Started { epoch: epoch.0 },
            Event::Stopped { epoch, unresolved } => FactOut::Stopped { epoch: epoch.0, unresolved: *unresolved },
        };
        Self { seq: recorded.seq.0, at_us: recorded.at.micros(), fact }
    }
}
