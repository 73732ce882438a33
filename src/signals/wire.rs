//! Signals and outcomes as clients see them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use trading::command::{Command, Outcome, Record, Wish};
use trading::exchange::{OrderKind, TimeInForce};
use trading::ids::RobotId;
use trading::money::{Price, Qty};
use trading::signal::{Action, Signal};
use trading::time::Timestamp;
use utoipa::ToSchema;

use super::service::{Decision, Pending};
use crate::http::{Object, Problem, Text};

/// A signal may wait at most this long: 30 days.
const MAX_EXPIRES_IN_MS: u64 = 30 * 24 * 3600 * 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Action)]
pub(super) enum ActionIn {
    /// Buy.
    Buy,
    /// Sell.
    Sell,
    /// Sell the robot's whole position at market.
    Close,
}

/// How an order is priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OrderType)]
pub enum OrderTypeWire {
    /// At the best price available, at once.
    Market,
    /// At `price` or better.
    Limit,
    /// At `price`, and refused if it would trade at once.
    PostOnly,
    /// Becomes a limit order at `price` once the market trades at `stop_price`.
    StopLimit,
}

/// How long an order lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TimeInForce)]
pub enum TifWire {
    /// Good till cancelled.
    Gtc,
    /// Immediate or cancel: what does not fill at once expires.
    Ioc,
    /// Fill or kill: all at once or nothing.
    Fok,
}

impl From<TifWire> for TimeInForce {
    fn from(tif: TifWire) -> Self {
        match tif {
            TifWire::Gtc => Self::Gtc,
            TifWire::Ioc => Self::Ioc,
            TifWire::Fok => Self::Fok,
        }
    }
}

impl From<TimeInForce> for TifWire {
    fn from(tif: TimeInForce) -> Self {
        match tif {
            TimeInForce::Gtc => Self::Gtc,
            TimeInForce::Ioc => Self::Ioc,
            TimeInForce::Fok => Self::Fok,
        }
    }
}

/// How the order is priced; at market if absent.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OrderPricing)]
pub(super) struct OrderIn {
    r#type: OrderTypeWire,
    /// For all but market orders.
    #[schema(value_type = Option<String>, example = "60000.5")]
    price: Option<Text<Price>>,
    /// For stop-limit orders.
    #[schema(value_type = Option<String>)]
    stop_price: Option<Text<Price>>,
}

/// A signal.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Signal, example = json!({"robot": 10001, "action": "buy", "qty": "0.001", "order": {"type": "limit", "price": "60000"}, "tif": "gtc"}))]
pub(super) struct SignalIn {
    /// The robot that should act.
    pub(super) robot: i64,
    action: ActionIn,
    /// How much of the base asset; the robot's own default if absent.
    #[schema(value_type = Option<String>, example = "0.001")]
    qty: Option<Text<Qty>>,
    #[schema(value_type = Option<OrderIn>)]
    order: Option<Object<OrderIn>>,
    /// `gtc` if absent. Not for market orders.
    tif: Option<TifWire>,
    /// After this time it is not acted upon any more.
    expires_in_ms: Option<u64>,
}

/// A signal on a stream: as over REST, and its name besides.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamedIn {
    /// Names this signal: the same id makes one order, however often it is sent.
    pub(super) id: String,
    robot: i64,
    action: ActionIn,
    qty: Option<Text<Qty>>,
    order: Option<Object<OrderIn>>,
    tif: Option<TifWire>,
    expires_in_ms: Option<u64>,
}

impl StreamedIn {
    /// As the core knows it. `ttl` holds if it names no expiry.
    pub(super) fn parse(self, now: Timestamp, ttl: Duration) -> Result<Signal, Problem> {
        let Self { robot, action, qty, order, tif, expires_in_ms, .. } = self;
        SignalIn { robot, action, qty, order, tif, expires_in_ms }.parse(now, ttl)
    }
}

/// A TradingView alert. Its `id` is its name: the same id makes one order, however often it is sent.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Alert, example = json!({"id": "Long-2026-11-23T01:00:00Z", "action": "buy", "qty": "0.001", "secret": "whs_.."}))]
pub(super) struct AlertIn {
    /// Names this alert: `{{strategy.order.id}}-{{timenow}}`. Needed.
    #[schema(required = true, nullable = false)]
    pub(super) id: Option<String>,
    action: ActionIn,
    /// How much of the base asset; the robot's own default if absent.
    #[schema(value_type = Option<String>)]
    qty: Option<Text<Qty>>,
    /// If absent: `limit` with a price, `market` without.
    r#type: Option<OrderTypeWire>,
    /// For all but market orders.
    #[schema(value_type = Option<String>)]
    price: Option<Text<Price>>,
    /// For stop-limit orders.
    #[schema(value_type = Option<String>)]
    stop_price: Option<Text<Price>>,
    /// `gtc` if absent. Not for market orders.
    tif: Option<TifWire>,
    /// After this time it is not acted upon any more.
    expires_in_ms: Option<u64>,
    /// The robot's webhook secret, if the path does not hold it.
    pub(super) secret: Option<String>,
}

/// What both say, with the name that the pricing fields have in each.
struct Trade {
    action: ActionIn,
    qty: Option<Text<Qty>>,
    order: Option<OrderIn>,
    tif: Option<TifWire>,
    expires_in_ms: Option<u64>,
    prefix: &'static str,
}

impl SignalIn {
    /// As the core knows it. `ttl` holds if it names no expiry.
    pub(super) fn parse(self, now: Timestamp, ttl: Duration) -> Result<Signal, Problem> {
        let Self { robot, action, qty, order, tif, expires_in_ms } = self;
        let order = order.map(|Object(order)| order);
        Trade { action, qty, order, tif, expires_in_ms, prefix: "order." }.parse(RobotId(robot), now, ttl)
    }
}

impl AlertIn {
    /// As the core knows it. `ttl` holds if it names no expiry.
    pub(super) fn parse(self, robot: RobotId, now: Timestamp, ttl: Duration) -> Result<Signal, Problem> {
        let Self { action, qty, price, stop_price, tif, expires_in_ms, .. } = self;
        let order = match (self.r#type, price.is_some() || stop_price.is_some()) {
            (Some(r#type), _) => Some(OrderIn { r#type, price, stop_price }),
            (None, true) => Some(OrderIn { r#type: OrderTypeWire::Limit, price, stop_price }),
            (None, false) => None,
        };
        Trade { action, qty, order, tif, expires_in_ms, prefix: "" }.parse(robot, now, ttl)
    }
}

impl Trade {
    fn parse(self, robot: RobotId, now: Timestamp, ttl: Duration) -> Result<Signal, Problem> {
        let lives = match self.expires_in_ms {
            None => ttl,
            Some(ms @ 1..=MAX_EXPIRES_IN_MS) => Duration::from_millis(ms),
            Some(ms) => return Err(Problem::out_of_range("expires_in_ms", &ms, format!("1 to {MAX_EXPIRES_IN_MS}"))),
        };
        let action = match self.action {
            ActionIn::Close => self.close()?,
            ActionIn::Buy => Action::Buy { qty: self.qty(), order: self.kind()?, tif: self.tif()? },
            ActionIn::Sell => Action::Sell { qty: self.qty(), order: self.kind()?, tif: self.tif()? },
        };
        Ok(Signal { robot, action, expires_at: Some(now.after(lives)) })
    }

    fn close(&self) -> Result<Action, Problem> {
        let refuse = |field: &str| {
            Err(Problem::invalid(field, "`close` sells the whole position at market: it takes no such field"))
        };
        match (self.qty, self.order, self.tif) {
            (None, None, None) => Ok(Action::Close),
            (Some(_), ..) => refuse("qty"),
            (_, Some(_), _) => refuse(if self.prefix.is_empty() { "price" } else { "order" }),
            (.., Some(_)) => refuse("tif"),
        }
    }

    fn qty(&self) -> Option<Qty> {
        self.qty.map(|Text(qty)| qty)
    }

    fn kind(&self) -> Result<OrderKind, Problem> {
        let Some(OrderIn { r#type, price, stop_price }) = self.order else { return Ok(OrderKind::Market) };
        let needed = |name: &str, value: Option<Text<Price>>| match value {
            Some(Text(value)) => Ok(value),
            None => Err(Problem::invalid(format!("{}{name}", self.prefix), "it is needed for this order type")),
        };
        let refused = |name: &str, value: Option<Text<Price>>| match value {
            None => Ok(()),
            Some(_) => Err(Problem::invalid(format!("{}{name}", self.prefix), "this order type does not take it")),
        };
        match r#type {
            OrderTypeWire::Market => {
                refused("price", price)?;
                refused("stop_price", stop_price)?;
                Ok(OrderKind::Market)
            }
            OrderTypeWire::Limit => {
                refused("stop_price", stop_price)?;
                Ok(OrderKind::Limit { price: needed("price", price)? })
            }
            OrderTypeWire::PostOnly => {
                refused("stop_price", stop_price)?;
                Ok(OrderKind::PostOnly { price: needed("price", price)? })
            }
            OrderTypeWire::StopLimit => Ok(OrderKind::StopLimit {
                stop_price: needed("stop_price", stop_price)?,
                price: needed("price", price)?,
            }),
        }
    }

    fn tif(&self) -> Result<TimeInForce, Problem> {
        let r#type = self.order.map_or(OrderTypeWire::Market, |order| order.r#type);
        match (r#type, self.tif) {
            (_, None) => Ok(TimeInForce::Gtc),
            (OrderTypeWire::Market, Some(_)) => Err(Problem::invalid("tif", "a market order does not take it")),
            (OrderTypeWire::PostOnly, Some(TifWire::Ioc | TifWire::Fok)) => {
                Err(Problem::out_of_range("tif", "ioc or fok", "a post-only order rests: gtc"))
            }
            (_, Some(tif)) => Ok(tif.into()),
        }
    }
}

/// What was wished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Wish)]
pub enum WishWire {
    /// To trade.
    Signal,
    /// To make a robot.
    CreateRobot,
    /// To start one.
    StartRobot,
    /// To stop one.
    StopRobot,
    /// To halt one.
    HaltRobot,
    /// To halt an account.
    Kill,
    /// To cancel an order.
    CancelOrder,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Outcome)]
pub enum OutcomeWire {
    /// It was done, or set going.
    Done,
    /// Risk refused it.
    Denied,
    /// It was understood and not acted upon.
    Skipped,
    /// It made no sense.
    Invalid,
    /// There was no such thing.
    NotFound,
    /// It is stored and will be decided: ask again with the same key.
    Pending,
}

/// A command and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Command)]
pub struct CommandOut {
    /// Who wished it.
    #[schema(example = "key:6b1f0a2c3d4e5f60")]
    pub source: String,
    /// Their name for it.
    #[schema(example = "order-42")]
    pub key: String,
    /// What was wished.
    pub wish: WishWire,
    /// When it was decided; when it was stored, if it is pending.
    pub received_at_us: i64,
    /// What became of it.
    pub outcome: OutcomeWire,
    /// The robot it was about, or that it made.
    #[schema(example = 10001)]
    pub robot: Option<i64>,
    /// The orders it planned.
    pub orders: Vec<String>,
    /// Why it was denied or skipped, or made no sense.
    pub reason: Option<String>,
    /// The field that made no sense.
    pub field: Option<String>,
}

impl CommandOut {
    /// A command without an outcome.
    fn pending(command: &Command, received_at: Timestamp) -> Self {
        let (wish, about) = match &command.wish {
            Wish::Signal(signal) => (WishWire::Signal, Some(signal.robot)),
            Wish::CreateRobot(_) => (WishWire::CreateRobot, None),
            Wish::StartRobot { robot } => (WishWire::StartRobot, Some(*robot)),
            Wish::StopRobot { robot, .. } => (WishWire::StopRobot, Some(*robot)),
            Wish::HaltRobot { robot, .. } => (WishWire::HaltRobot, Some(*robot)),
            Wish::Kill { .. } => (WishWire::Kill, None),
            Wish::CancelOrder { .. } => (WishWire::CancelOrder, None),
        };
        Self {
            source: command.source.clone(),
            key: command.dedup_key.clone(),
            wish,
            received_at_us: received_at.micros(),
            outcome: OutcomeWire::Pending,
            robot: about.map(|robot| robot.0),
            orders: Vec::new(),
            reason: None,
            field: None,
        }
    }
}

impl From<&Pending> for CommandOut {
    fn from(pending: &Pending) -> Self {
        Self::pending(&pending.command, pending.received_at)
    }
}

impl From<&Decision> for CommandOut {
    fn from(decision: &Decision) -> Self {
        match decision {
            Decision::Decided(decided) => (&decided.record).into(),
            Decision::Pending(pending) => pending.into(),
        }
    }
}

impl From<&Record> for CommandOut {
    fn from(record: &Record) -> Self {
        let mut out = Self::pending(&record.command, record.received_at);
        match &record.outcome {
            Outcome::Done { robot, orders } => {
                out.outcome = OutcomeWire::Done;
                out.robot = robot.map(|robot| robot.0).or(out.robot);
                out.orders = orders.iter().map(ToString::to_string).collect();
            }
            Outcome::Denied { reason } => {
                out.outcome = OutcomeWire::Denied;
                out.reason = Some(reason.clone());
            }
            Outcome::Skipped { reason } => {
                out.outcome = OutcomeWire::Skipped;
                out.reason = Some(reason.clone());
            }
            Outcome::Invalid { field, reason } => {
                out.outcome = OutcomeWire::Invalid;
                out.field = Some(field.clone());
                out.reason = Some(reason.clone());
            }
            Outcome::NotFound { what } => {
                out.outcome = OutcomeWire::NotFound;
                out.reason = Some(what.clone());
            }
        }
        out
    }
}
