//! Robots as clients see them.

use serde::{Deserialize, Serialize};
use trading::command::NewRobot;
use trading::market::Symbol;
use trading::money::{Amount, Qty};
use trading::risk::Limits;
use trading::robot::{DesiredState, Robot, RobotConfig, RunState, StopPolicy, StrategyState, dca, follower, grid};
use trading::time::Timestamp;
use utoipa::ToSchema;

use crate::auth::Secret;
use crate::http::{Object, Problem, Text, text};

/// What happens to a robot's orders and position when it is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StopPolicy)]
pub enum StopPolicyWire {
    /// Resting orders stay at the venue.
    #[default]
    Keep,
    /// Resting orders are cancelled.
    Cancel,
    /// Resting orders are cancelled and the position is sold at market.
    Flatten,
}

impl From<StopPolicyWire> for StopPolicy {
    fn from(policy: StopPolicyWire) -> Self {
        match policy {
            StopPolicyWire::Keep => Self::Keep,
            StopPolicyWire::Cancel => Self::Cancel,
            StopPolicyWire::Flatten => Self::Flatten,
        }
    }
}

impl From<StopPolicy> for StopPolicyWire {
    fn from(policy: StopPolicy) -> Self {
        match policy {
            StopPolicy::Keep => Self::Keep,
            StopPolicy::Cancel => Self::Cancel,
            StopPolicy::Flatten => Self::Flatten,
        }
    }
}

/// Which strategy, with its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[schema(as = RobotConfig)]
pub enum ConfigOut {
    /// Does what signals say.
    Follower {
        /// How much to trade when a signal does not say.
        #[schema(example = "0.001")]
        default_qty: String,
    },
    /// Rests buys below and sells above on a ladder of prices.
    Grid {
        /// The lowest price of the ladder.
        #[schema(example = "50000")]
        lower: String,
        /// The highest price of the ladder.
        #[schema(example = "70000")]
        upper: String,
        /// How many prices the ladder has, both ends included: 2 to 100.
        levels: usize,
        /// Quantity of each order.
        #[schema(example = "0.001")]
        qty: String,
    },
    /// Buys a little at fixed intervals.
    Dca {
        /// How much of the quote asset to spend at each step.
        #[schema(example = "25")]
        quote_per_step: String,
        /// Time between steps.
        interval_ms: u64,
        /// How many steps in all; 0 means without end.
        max_steps: u32,
    },
}

impl From<&RobotConfig> for ConfigOut {
    fn from(config: &RobotConfig) -> Self {
        match config {
            RobotConfig::Follower(it) => Self::Follower { default_qty: it.default_qty.to_string() },
            RobotConfig::Grid(it) => Self::Grid {
                lower: it.lower.to_string(),
                upper: it.upper.to_string(),
                levels: it.levels,
                qty: it.qty.to_string(),
            },
            RobotConfig::Dca(it) => Self::Dca {
                quote_per_step: it.quote_per_step.to_string(),
                interval_ms: it.interval_ms,
                max_steps: it.max_steps,
            },
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindIn {
    Follower,
    Grid,
    Dca,
}

/// The settings of any kind: flat, so that each field can be refused by its own name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigIn {
    kind: KindIn,
    default_qty: Option<Text<Qty>>,
    lower: Option<Text<trading::money::Price>>,
    upper: Option<Text<trading::money::Price>>,
    levels: Option<usize>,
    qty: Option<Text<Qty>>,
    quote_per_step: Option<Text<Qty>>,
    interval_ms: Option<u64>,
    max_steps: Option<u32>,
}

impl ConfigIn {
    fn parse(self) -> Result<RobotConfig, Problem> {
        let mut given = [
            ("default_qty", self.default_qty.is_some()),
            ("lower", self.lower.is_some()),
            ("upper", self.upper.is_some()),
            ("levels", self.levels.is_some()),
            ("qty", self.qty.is_some()),
            ("quote_per_step", self.quote_per_step.is_some()),
            ("interval_ms", self.interval_ms.is_some()),
            ("max_steps", self.max_steps.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name));
        let (kind, takes): (_, &[&str]) = match self.kind {
            KindIn::Follower => ("follower", &["default_qty"]),
            KindIn::Grid => ("grid", &["lower", "upper", "levels", "qty"]),
            KindIn::Dca => ("dca", &["quote_per_step", "interval_ms", "max_steps"]),
        };
        if let Some(name) = given.find(|name| !takes.contains(name)) {
            return Err(Problem::invalid(format!("config.{name}"), format!("a {kind} takes {}", takes.join(", "))));
        }
        Ok(match self.kind {
            KindIn::Follower => {
                RobotConfig::Follower(follower::Config { default_qty: needed("default_qty", self.default_qty)?.0 })
            }
            KindIn::Grid => RobotConfig::Grid(grid::Config {
                lower: needed("lower", self.lower)?.0,
                upper: needed("upper", self.upper)?.0,
                levels: needed("levels", self.levels)?,
                qty: needed("qty", self.qty)?.0,
            }),
            KindIn::Dca => RobotConfig::Dca(dca::Config {
                quote_per_step: needed("quote_per_step", self.quote_per_step)?.0.amount(),
                interval_ms: needed("interval_ms", self.interval_ms)?,
                max_steps: self.max_steps.unwrap_or(0),
            }),
        })
    }
}

fn needed<T>(name: &str, value: Option<T>) -> Result<T, Problem> {
    value.ok_or_else(|| Problem::invalid(format!("config.{name}"), "it is needed for this kind of robot"))
}

/// Limits. An absent one does not limit.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewLimits)]
#[expect(clippy::struct_field_names, reason = "they are all upper limits")]
struct LimitsIn {
    /// The largest price x quantity of one order, in the quote asset.
    #[schema(value_type = Option<String>, example = "1000")]
    max_order_notional: Option<Text<Qty>>,
    /// The largest value of what is held and being bought, in the quote asset.
    #[schema(value_type = Option<String>, example = "5000")]
    max_position_notional: Option<Text<Qty>>,
    /// How many orders may be live at once.
    #[schema(example = 20)]
    max_open_orders: Option<usize>,
    /// How many orders may be sent in any minute.
    #[schema(example = 60)]
    max_orders_per_minute: Option<usize>,
    /// How far through the market a limit price may be, in percent.
    #[schema(example = 20)]
    max_price_deviation_percent: Option<u32>,
}

impl From<LimitsIn> for Limits {
    fn from(limits: LimitsIn) -> Self {
        Self {
            max_order_notional: limits.max_order_notional.map(|Text(it)| it.amount()),
            max_position_notional: limits.max_position_notional.map(|Text(it)| it.amount()),
            max_open_orders: limits.max_open_orders,
            max_orders_per_minute: limits.max_orders_per_minute,
            max_price_deviation_percent: limits.max_price_deviation_percent,
        }
    }
}

/// A robot to be made.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewRobot, example = json!({"name": "follower", "symbol": "BTCUSDT", "config": {"kind": "follower", "default_qty": "0.001"}, "limits": {"max_order_notional": "1000"}, "stop_policy": "keep", "start": true, "webhook": true}))]
pub(super) struct RobotIn {
    /// Whose funds it trades. May be absent if there is one account only.
    pub(super) account: Option<i64>,
    /// What people call it: 1 to 64 characters.
    name: String,
    /// The pair it trades.
    #[schema(value_type = String, example = "BTCUSDT")]
    symbol: Text<Symbol>,
    #[schema(value_type = ConfigOut)]
    config: Object<ConfigIn>,
    #[serde(default)]
    #[schema(value_type = LimitsIn, required = false)]
    limits: Object<LimitsIn>,
    #[serde(default)]
    stop_policy: StopPolicyWire,
    /// Whether it trades at once.
    #[serde(default)]
    start: bool,
    /// Whether it gets a webhook, whose secret is then shown once in the answer.
    #[serde(default)]
    webhook: bool,
}

impl RobotIn {
    /// As the core knows it, with the secret of its webhook.
    pub(super) fn parse(self) -> Result<(NewRobot, Option<Secret>), Problem> {
        text("name", &self.name, 64)?;
        let secret = self.webhook.then(|| Secret::random("whs_"));
        let robot = NewRobot {
            name: self.name,
            symbol: self.symbol.0,
            config: self.config.0.parse()?,
            limits: self.limits.0.into(),
            stop_policy: self.stop_policy.into(),
            start: self.start,
            webhook_hash: secret.as_ref().map(Secret::hash),
        };
        Ok((robot, secret))
    }
}

/// Limits. An absent one does not limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Limits)]
#[expect(clippy::struct_field_names, reason = "they are all upper limits")]
pub struct LimitsOut {
    max_order_notional: Option<String>,
    max_position_notional: Option<String>,
    max_open_orders: Option<usize>,
    max_orders_per_minute: Option<usize>,
    max_price_deviation_percent: Option<u32>,
}

impl From<&Limits> for LimitsOut {
    fn from(limits: &Limits) -> Self {
        let shown = |amount: &Option<Amount>| amount.map(|amount| amount.to_string());
        Self {
            max_order_notional: shown(&limits.max_order_notional),
            max_position_notional: shown(&limits.max_position_notional),
            max_open_orders: limits.max_open_orders,
            max_orders_per_minute: limits.max_orders_per_minute,
            max_price_deviation_percent: limits.max_price_deviation_percent,
        }
    }
}

/// What its owner wants of a robot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DesiredState)]
pub enum DesiredWire {
    /// Trade.
    Running,
    /// Do not trade.
    Stopped,
}

/// What a robot is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RunState)]
pub enum RunWire {
    /// Trading.
    Running,
    /// Carrying out its stop policy.
    Stopping,
    /// Not trading.
    Stopped,
    /// Its kill switch is on: cancels and reducing orders only.
    Halted,
    /// It failed; somebody must look and start it again.
    Quarantined,
}

/// A robot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Robot)]
pub struct RobotOut {
    /// Its number.
    #[schema(example = 10001)]
    pub id: i64,
    /// Whose funds it trades.
    #[schema(example = 1)]
    pub account: i64,
    /// What people call it.
    pub name: String,
    /// The pair it trades.
    #[schema(example = "BTCUSDT")]
    pub symbol: String,
    /// Which strategy, with its settings.
    pub config: ConfigOut,
    /// Its own limits.
    pub limits: LimitsOut,
    /// What its owner wants.
    pub desired: DesiredWire,
    /// What it is doing.
    pub run: RunWire,
    /// Why it is halted or quarantined.
    pub reason: Option<String>,
    /// What happens to its orders at a stop.
    pub stop_policy: StopPolicyWire,
    /// The last decision it made.
    pub decision_seq: i64,
    /// Whether it has a webhook.
    pub webhook: bool,
    /// When it was made.
    pub created_at_us: i64,
    /// Grows by one with every change.
    pub version: i64,
}

impl From<&Robot> for RobotOut {
    fn from(robot: &Robot) -> Self {
        Self {
            id: robot.id.0,
            account: robot.account.0,
            name: robot.name.clone(),
            symbol: robot.symbol.to_string(),
            config: (&robot.config).into(),
            limits: (&robot.limits).into(),
            desired: match robot.desired {
                DesiredState::Running => DesiredWire::Running,
                DesiredState::Stopped => DesiredWire::Stopped,
            },
            run: match robot.run {
                RunState::Running => RunWire::Running,
                RunState::Stopping => RunWire::Stopping,
                RunState::Stopped => RunWire::Stopped,
                RunState::Halted => RunWire::Halted,
                RunState::Quarantined => RunWire::Quarantined,
            },
            reason: robot.reason.clone(),
            stop_policy: robot.stop_policy.into(),
            decision_seq: robot.decision_seq,
            webhook: robot.webhook_hash.is_some(),
            created_at_us: robot.created_at.micros(),
            version: robot.version,
        }
    }
}

impl From<Robot> for RobotOut {
    fn from(robot: Robot) -> Self {
        (&robot).into()
    }
}

/// What a strategy remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[schema(as = StrategyState)]
pub enum StateOut {
    /// The follower remembers nothing.
    Follower,
    /// The grid's levels from the lowest.
    Grid {
        /// One fewer than the ladder has prices.
        levels: Vec<LevelOut>,
    },
    /// How far the DCA robot has come.
    Dca {
        /// How many steps it has taken.
        steps: u32,
        /// When the next one is due; absent: as soon as there is a price.
        next_at_us: Option<i64>,
    },
}

/// What a grid remembers of one level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = GridLevel)]
pub struct LevelOut {
    /// Its order, by the robot's decision and the leg of that.
    order: Option<LevelOrderOut>,
    /// Base that it bought and has not sold yet.
    #[schema(example = "0.001")]
    held: String,
    /// It places nothing before this.
    retry_at_us: Option<i64>,
}

/// Which order a grid's level has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = GridLevelOrder)]
struct LevelOrderOut {
    decision: i64,
    leg: i32,
}

impl From<&StrategyState> for StateOut {
    fn from(state: &StrategyState) -> Self {
        match state {
            StrategyState::Follower => Self::Follower,
            StrategyState::Grid(grid) => Self::Grid { levels: grid.levels.iter().map(LevelOut::from).collect() },
            StrategyState::Dca(dca) => Self::Dca { steps: dca.steps, next_at_us: dca.next_at.map(Timestamp::micros) },
        }
    }
}

impl From<&grid::Level> for LevelOut {
    fn from(level: &grid::Level) -> Self {
        Self {
            order: level.order.as_ref().map(|it| LevelOrderOut { decision: it.key.decision, leg: it.key.leg }),
            held: level.held.to_string(),
            retry_at_us: level.retry_at.map(Timestamp::micros),
        }
    }
}
