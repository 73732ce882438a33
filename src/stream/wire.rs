//! How events look to clients: flat JSON objects with a `kind`, apart from the domain types that they are made from.
//!
//! Prices, quantities and amounts are decimal strings; times are microseconds since the Unix epoch; what is absent is
//! `null`. A robot's webhook hash and an order's lease epoch are not shown.

use axum::extract::ws::Utf8Bytes;
use serde::Serialize;
use trading::command::{Outcome, Record, Wish};
use trading::event::{Event, Recorded};
use trading::exchange::{Fill, OrderKind, Side, TimeInForce};
use trading::ids::{AccountId, ClientOrderId};
use trading::money::{Amount, Price, Qty};
use trading::order::Order;
use trading::position::{Balance, Position};
use trading::robot::{DesiredState, Robot, RobotConfig, RunState, StopPolicy, StrategyState};
use trading::signal::Action;
use trading::time::Timestamp;

/// One event of an account, as clients see it: `{"seq", "at_us", "event": {"kind", ..}}`.
#[derive(Debug, Serialize)]
pub struct EventWire<'a> {
    /// Its number in the account, without gaps.
    pub seq: i64,
    /// When it was decided.
    pub at_us: i64,
    /// What happened.
    pub event: Body<'a>,
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body<'a> {
    /// A command was decided upon.
    Command(CommandBody<'a>),
    /// A robot was made or changed.
    Robot(RobotBody<'a>),
    /// What a strategy remembers changed.
    Strategy(StrategyBody),
    /// An order was made or changed.
    Order(OrderBody<'a>),
    /// A fill was booked.
    Fill(FillBody<'a>),
    /// The account was adopted with this balance.
    Opening(BalanceBody<'a>),
    /// Something that a person must look at.
    Alarm {
        /// In words.
        message: &'a str,
        /// The order it is about.
        client_id: Option<&'a str>,
        /// The robot it is about.
        robot: Option<i64>,
    },
    /// The engine took the account.
    Started {
        /// The lease's number.
        epoch: i64,
    },
    /// The engine gave the account up.
    Stopped {
        /// The lease's number.
        epoch: i64,
        /// How many orders it left with an unknown outcome.
        unresolved: usize,
    },
}

/// A command with its outcome.
#[derive(Debug, Serialize)]
pub struct CommandBody<'a> {
    source: &'a str,
    dedup_key: &'a str,
    wish: &'static str,
    /// `buy`, `sell` or `close`, if the wish is a signal.
    action: Option<&'static str>,
    /// The robot that the outcome names, else the one that the wish names.
    robot: Option<i64>,
    /// The order that the wish names.
    client_id: Option<&'a str>,
    received_at_us: i64,
    outcome: &'static str,
    /// The orders that it planned.
    orders: Vec<&'a str>,
    /// Why it was denied, skipped or invalid; what was not found.
    reason: Option<&'a str>,
    /// Which field was invalid.
    field: Option<&'a str>,
}

/// A robot.
#[derive(Debug, Serialize)]
pub struct RobotBody<'a> {
    robot: i64,
    name: &'a str,
    symbol: &'a str,
    #[serde(flatten)]
    strategy: Strategy,
    limits: LimitsBody,
    desired: &'static str,
    run: &'static str,
    reason: Option<&'a str>,
    stop_policy: &'static str,
    decision_seq: i64,
    has_webhook: bool,
    created_at_us: i64,
    version: i64,
}

/// A strategy with its settings.
#[derive(Debug, Serialize)]
#[serde(tag = "strategy", content = "settings", rename_all = "snake_case")]
enum Strategy {
    Follower { default_qty: Qty },
    Grid { lower: Price, upper: Price, levels: usize, qty: Qty },
    Dca { quote_per_step: Amount, interval_ms: u64, max_steps: u32 },
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the keys that clients see")]
struct LimitsBody {
    max_order_notional: Option<Amount>,
    max_position_notional: Option<Amount>,
    max_open_orders: Option<usize>,
    max_orders_per_minute: Option<usize>,
}

/// What a strategy remembers.
#[derive(Debug, Serialize)]
pub struct StrategyBody {
    robot: i64,
    #[serde(flatten)]
    state: StrategyMemory,
}

#[derive(Debug, Serialize)]
#[serde(tag = "strategy", rename_all = "snake_case")]
enum StrategyMemory {
    Follower,
    /// Which level holds the order of which decision and leg.
    Grid {
        levels: Vec<Option<Key>>,
    },
    Dca {
        steps: u32,
        next_at_us: Option<i64>,
    },
}

#[derive(Debug, Serialize)]
struct Key {
    decision: i64,
    leg: i32,
}

/// An order.
#[derive(Debug, Serialize)]
pub struct OrderBody<'a> {
    client_id: &'a str,
    robot: i64,
    decision: i64,
    leg: i32,
    generation: i32,
    symbol: &'a str,
    side: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    price: Option<Price>,
    stop_price: Option<Price>,
    tif: &'static str,
    qty: Qty,
    status: &'static str,
    cancel: &'static str,
    filled: Qty,
    filled_quote: Amount,
    reason: Option<&'a str>,
    venue_id: Option<i64>,
    created_at_us: i64,
    updated_at_us: i64,
    version: i64,
}

/// A fill with the position and the balances after it.
#[derive(Debug, Serialize)]
pub struct FillBody<'a> {
    trade_id: i64,
    client_id: &'a str,
    venue_id: i64,
    symbol: &'a str,
    side: &'static str,
    price: Price,
    qty: Qty,
    fee: Amount,
    fee_asset: &'a str,
    maker: bool,
    /// By the venue's clock.
    filled_at_us: i64,
    position: PositionBody<'a>,
    balances: Vec<BalanceBody<'a>>,
}

#[derive(Debug, Serialize)]
struct PositionBody<'a> {
    robot: i64,
    symbol: &'a str,
    qty: Amount,
    cost: Amount,
    realized: Amount,
    fees: Amount,
    version: i64,
}

/// A balance.
#[derive(Debug, Serialize)]
pub struct BalanceBody<'a> {
    asset: &'a str,
    total: Amount,
    opening: Amount,
    version: i64,
}

impl<'a> From<&'a Recorded> for EventWire<'a> {
    fn from(recorded: &'a Recorded) -> Self {
        Self { seq: recorded.seq.0, at_us: recorded.at.micros(), event: Body::from(&recorded.event) }
    }
}

impl<'a> From<&'a Event> for Body<'a> {
    fn from(event: &'a Event) -> Self {
        match event {
            Event::Command(record) => Body::Command(record.into()),
            Event::Robot(robot) => Body::Robot(robot.into()),
            Event::Strategy { robot, state } => Body::Strategy(StrategyBody { robot: robot.0, state: state.into() }),
            Event::Order(order) => Body::Order(order.into()),
            Event::Fill { fill, position, balances } => Body::Fill(fill_body(fill, position, balances)),
            Event::Opening(balance) => Body::Opening(balance.into()),
            Event::Alarm { message, order, robot } => Body::Alarm {
                message,
                client_id: order.as_ref().map(ClientOrderId::as_str),
                robot: robot.map(|id| id.0),
            },
            Event::Started { epoch } => Body::Started { epoch: epoch.0 },
            Event::Stopped { epoch, unresolved } => Body::Stopped { epoch: epoch.0, unresolved: *unresolved },
        }
    }
}

impl<'a> From<&'a Record> for CommandBody<'a> {
    fn from(record: &'a Record) -> Self {
        let mut body = Self {
            source: &record.command.source,
            dedup_key: &record.command.dedup_key,
            wish: "",
            action: None,
            robot: None,
            client_id: None,
            received_at_us: record.received_at.micros(),
            outcome: "",
            orders: Vec::new(),
            reason: None,
            field: None,
        };
        body.set_wish(&record.command.wish);
        body.set_outcome(&record.outcome);
        body
    }
}

impl<'a> CommandBody<'a> {
    fn set_wish(&mut self, wish: &'a Wish) {
        self.wish = match wish {
            Wish::Signal(signal) => {
                self.robot = Some(signal.robot.0);
                self.action = Some(match signal.action {
                    Action::Buy { .. } => "buy",
                    Action::Sell { .. } => "sell",
                    Action::Close => "close",
                });
                "signal"
            }
            Wish::CreateRobot(_) => "create_robot",
            Wish::StartRobot { robot } => {
                self.robot = Some(robot.0);
                "start_robot"
            }
            Wish::StopRobot { robot, .. } => {
                self.robot = Some(robot.0);
                "stop_robot"
            }
            Wish::HaltRobot { robot, .. } => {
                self.robot = Some(robot.0);
                "halt_robot"
            }
            Wish::Kill { .. } => "kill",
            Wish::CancelOrder { order } => {
                self.client_id = Some(order.as_str());
                "cancel_order"
            }
        };
    }

    fn set_outcome(&mut self, outcome: &'a Outcome) {
        self.outcome = match outcome {
            Outcome::Done { robot, orders } => {
                self.robot = robot.map(|id| id.0).or(self.robot);
                self.orders = orders.iter().map(ClientOrderId::as_str).collect();
                "done"
            }
            Outcome::Denied { reason } => {
                self.reason = Some(reason);
                "denied"
            }
            Outcome::Skipped { reason } => {
                self.reason = Some(reason);
                "skipped"
            }
            Outcome::Invalid { field, reason } => {
                self.field = Some(field);
                self.reason = Some(reason);
                "invalid"
            }
            Outcome::NotFound { what } => {
                self.reason = Some(what);
                "not_found"
            }
        };
    }
}

impl<'a> From<&'a Robot> for RobotBody<'a> {
    fn from(robot: &'a Robot) -> Self {
        let limits = &robot.limits;
        Self {
            robot: robot.id.0,
            name: &robot.name,
            symbol: robot.symbol.as_str(),
            strategy: (&robot.config).into(),
            limits: LimitsBody {
                max_order_notional: limits.max_order_notional,
                max_position_notional: limits.max_position_notional,
                max_open_orders: limits.max_open_orders,
                max_orders_per_minute: limits.max_orders_per_minute,
            },
            desired: match robot.desired {
                DesiredState::Running => "running",
                DesiredState::Stopped => "stopped",
            },
            run: match robot.run {
                RunState::Running => "running",
                RunState::Stopping => "stopping",
                RunState::Stopped => "stopped",
                RunState::Halted => "halted",
                RunState::Quarantined => "quarantined",
            },
            reason: robot.reason.as_deref(),
            stop_policy: match robot.stop_policy {
                StopPolicy::Keep => "keep",
                StopPolicy::Cancel => "cancel",
                StopPolicy::Flatten => "flatten",
            },
            decision_seq: robot.decision_seq,
            has_webhook: robot.webhook_hash.is_some(),
            created_at_us: robot.created_at.micros(),
            version: robot.version,
        }
    }
}

impl From<&RobotConfig> for Strategy {
    fn from(config: &RobotConfig) -> Self {
        match config {
            RobotConfig::Follower(config) => Strategy::Follower { default_qty: config.default_qty },
            RobotConfig::Grid(config) => {
                Strategy::Grid { lower: config.lower, upper: config.upper, levels: config.levels, qty: config.qty }
            }
            RobotConfig::Dca(config) => Strategy::Dca {
                quote_per_step: config.quote_per_step,
                interval_ms: config.interval_ms,
                max_steps: config.max_steps,
            },
        }
    }
}

impl From<&StrategyState> for StrategyMemory {
    fn from(state: &StrategyState) -> Self {
        match state {
            StrategyState::Follower => StrategyMemory::Follower,
            StrategyState::Grid(state) => StrategyMemory::Grid {
                levels: state
                    .levels
                    .iter()
                    .map(|level| level.order.as_ref().map(|it| Key { decision: it.key.decision, leg: it.key.leg }))
                    .collect(),
            },
            StrategyState::Dca(state) => {
                StrategyMemory::Dca { steps: state.steps, next_at_us: state.next_at.map(Timestamp::micros) }
            }
        }
    }
}

impl<'a> From<&'a Order> for OrderBody<'a> {
    fn from(order: &'a Order) -> Self {
        let (kind, stop_price) = match order.kind {
            OrderKind::Market => ("market", None),
            OrderKind::Limit { .. } => ("limit", None),
            OrderKind::PostOnly { .. } => ("post_only", None),
            OrderKind::StopLimit { stop_price, .. } => ("stop_limit", Some(stop_price)),
        };
        Self {
            client_id: order.client_id.as_str(),
            robot: order.robot.0,
            decision: order.key.decision,
            leg: order.key.leg,
            generation: order.generation,
            symbol: order.symbol.as_str(),
            side: side(order.side),
            kind,
            price: order.kind.price(),
            stop_price,
            tif: match order.tif {
                TimeInForce::Gtc => "gtc",
                TimeInForce::Ioc => "ioc",
                TimeInForce::Fok => "fok",
            },
            qty: order.qty,
            status: order.status.as_str(),
            cancel: order.cancel.as_str(),
            filled: order.filled,
            filled_quote: order.filled_quote,
            reason: order.reason.as_deref(),
            venue_id: order.venue_id.map(|id| id.0),
            created_at_us: order.created_at.micros(),
            updated_at_us: order.updated_at.micros(),
            version: order.version,
        }
    }
}

fn fill_body<'a>(fill: &'a Fill, position: &'a Position, balances: &'a [Balance]) -> FillBody<'a> {
    FillBody {
        trade_id: fill.trade_id.0,
        client_id: fill.client_id.as_str(),
        venue_id: fill.venue_id.0,
        symbol: fill.symbol.as_str(),
        side: side(fill.side),
        price: fill.price,
        qty: fill.qty,
        fee: fill.fee,
        fee_asset: fill.fee_asset.as_str(),
        maker: fill.maker,
        filled_at_us: fill.at.micros(),
        position: PositionBody {
            robot: position.robot.0,
            symbol: position.symbol.as_str(),
            qty: position.qty,
            cost: position.cost,
            realized: position.realized,
            fees: position.fees,
            version: position.version,
        },
        balances: balances.iter().map(BalanceBody::from).collect(),
    }
}

impl<'a> From<&'a Balance> for BalanceBody<'a> {
    fn from(balance: &'a Balance) -> Self {
        Self { asset: balance.asset.as_str(), total: balance.total, opening: balance.opening, version: balance.version }
    }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Buy => "buy",
        Side::Sell => "sell",
    }
}

/// The text frame of one event.
pub(super) fn event_frame(account: AccountId, recorded: &Recorded) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Frame<'a> {
        op: &'static str,
        account: i64,
        seq: i64,
        at_us: i64,
        event: Body<'a>,
    }
    let EventWire { seq, at_us, event } = EventWire::from(recorded);
    text(&Frame { op: "event", account: account.0, seq, at_us, event })
}

/// A value as the text of a frame.
pub(super) fn text(value: &impl Serialize) -> Utf8Bytes {
    match serde_json::to_string(value) {
        Ok(text) => text.into(),
        Err(error) => {
            // Only maps with keys that are no strings can fail, and there are none. A client that sees this resumes.
            tracing::error!(%error, "a frame could not be serialised");
            Utf8Bytes::from_static(r#"{"op":"error","code":"internal","detail":"a frame could not be serialised"}"#)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    /// What a client gets for an event given in its stored form.
    fn shown(event: Value) -> Value {
        let recorded: Recorded = {
            let mut stored = event;
            stored["seq"] = json!(7);
            stored["at"] = json!(1_000);
            from_value(stored).unwrap()
        };
        let frame: Value = serde_json::from_str(&event_frame(AccountId(1), &recorded)).unwrap();
        let EventWire { seq, at_us, event } = EventWire::from(&recorded);
        let body = serde_json::to_value(event).unwrap();
        assert_eq!(frame, json!({"op": "event", "account": 1, "seq": seq, "at_us": at_us, "event": body}));
        assert_eq!(body["kind"], recorded.event.kind());
        body
    }

    #[test]
    fn an_order_is_flat_and_its_numbers_are_text() {
        let order = json!({
            "event": "order", "client_id": "h1", "account": 1, "robot": 10_001, "decision": 3, "leg": 1, "generation": 0,
            "symbol": "BTCUSDT", "side": "buy", "kind": "stop_limit", "stop_price": "9", "price": "10.5", "tif": "gtc",
            "qty": "0.015", "status": "PARTIAL", "cancel": "REQUESTED", "attempt": 1, "epoch": 4, "sent_at": 1,
            "deadline": 2, "expires_at": null, "venue_id": 77, "filled": "0.005", "filled_quote": "0.0525",
            "reported": "0.005", "reason": null, "created_at": 1, "updated_at": 2, "version": 5,
        });
        let expected = json!({
            "kind": "order", "client_id": "h1", "robot": 10_001, "decision": 3, "leg": 1, "generation": 0,
            "symbol": "BTCUSDT", "side": "buy", "type": "stop_limit", "price": "10.5", "stop_price": "9", "tif": "gtc",
            "qty": "0.015", "status": "PARTIAL", "cancel": "REQUESTED", "filled": "0.005", "filled_quote": "0.0525",
            "reason": null, "venue_id": 77, "created_at_us": 1, "updated_at_us": 2, "version": 5,
        });
        assert_eq!(shown(order), expected);
    }

    #[test]
    fn a_fill_carries_the_position_and_the_balances_after_it() {
        let fill = json!({
            "event": "fill",
            "fill": {
                "trade_id": 5, "client_id": "h1", "venue_id": 77, "symbol": "BTCUSDT", "side": "sell", "price": "10",
                "qty": "1", "fee": "0.01", "fee_asset": "USDT", "maker": true, "at": 9,
            },
            "position": {
                "robot": 10_001, "symbol": "BTCUSDT", "qty": "2", "cost": "20", "realized": "-1", "fees": "0.01",
                "version": 3,
            },
            "balances": [{"asset": "USDT", "total": "109.99", "opening": "100", "version": 2}],
        });
        let body = shown(fill);
        assert_eq!((&body["trade_id"], &body["filled_at_us"], &body["side"]), (&json!(5), &json!(9), &json!("sell")));
        assert_eq!(body["position"]["realized"], "-1");
        assert_eq!(body["balances"][0]["total"], "109.99");
    }

    #[test]
    fn a_webhook_hash_is_never_shown() {
        let robot = json!({
            "event": "robot", "id": 10_001, "account": 1, "name": "n", "symbol": "BTCUSDT",
            "config": {"kind": "grid", "lower": "1", "upper": "2", "levels": 3, "qty": "1"}, "limits": {},
            "desired": "running", "run": "quarantined", "reason": "panicked", "stop_policy": "flatten",
            "decision_seq": 4, "webhook_hash": "5ec7e7", "created_at": 1, "version": 2,
        });
        let body = shown(robot.clone());
        assert_eq!((&body["strategy"], &body["settings"]["levels"]), (&json!("grid"), &json!(3)));
        assert_eq!((&body["has_webhook"], &body["run"]), (&json!(true), &json!("quarantined")));
        assert!(!body.to_string().contains("5ec7e7"));

        let create = json!({
            "event": "command", "source": "key:a", "dedup_key": "b", "received_at": 1,
            "wish": {
                "wish": "create_robot", "name": "n", "symbol": "BTCUSDT", "config": robot["config"], "limits": {},
                "stop_policy": "keep", "start": true, "webhook_hash": "5ec7e7",
            },
            "outcome": {"outcome": "done", "robot": 10_001, "orders": []},
        });
        let body = shown(create);
        assert_eq!((&body["wish"], &body["robot"]), (&json!("create_robot"), &json!(10_001)));
        assert!(!body.to_string().contains("5ec7e7"));
    }

    #[test]
    fn a_command_says_what_was_wished_and_what_became_of_it() {
        let command = |wish: Value, outcome: Value| {
            shown(json!({
                "event": "command", "source": "key:a", "dedup_key": "b", "received_at": 1, "wish": wish,
                "outcome": outcome,
            }))
        };
        let signal = json!({
            "wish": "signal", "robot": 10_001, "action": "buy", "qty": null, "order": {"kind": "market"}, "tif": "ioc",
            "expires_at": null,
        });
        let done = command(signal.clone(), json!({"outcome": "done", "robot": null, "orders": ["h1", "h2"]}));
        assert_eq!((&done["action"], &done["robot"]), (&json!("buy"), &json!(10_001)));
        assert_eq!((&done["outcome"], &done["orders"]), (&json!("done"), &json!(["h1", "h2"])));
        let denied = command(signal, json!({"outcome": "denied", "reason": "too large"}));
        assert_eq!((&denied["outcome"], &denied["reason"]), (&json!("denied"), &json!("too large")));
        let cancel = json!({"wish": "cancel_order", "order": "h1"});
        let not_found = command(cancel, json!({"outcome": "not_found", "what": "order h1"}));
        assert_eq!((&not_found["client_id"], &not_found["reason"]), (&json!("h1"), &json!("order h1")));
        let invalid =
            command(json!({"wish": "kill", "reason": "r"}), json!({"outcome": "invalid", "field": "f", "reason": "g"}));
        assert_eq!((&invalid["field"], &invalid["reason"]), (&json!("f"), &json!("g")));
    }

    #[test]
    fn the_other_kinds_are_as_documented() {
        let balance = json!({"event": "opening", "asset": "USDT", "total": "1", "opening": "1", "version": 1});
        assert_eq!(
            shown(balance),
            json!({"kind": "opening", "asset": "USDT", "total": "1", "opening": "1", "version": 1})
        );
        assert_eq!(
            shown(json!({"event": "alarm", "message": "m", "order": "h1", "robot": 2})),
            json!({"kind": "alarm", "message": "m", "client_id": "h1", "robot": 2})
        );
        assert_eq!(shown(json!({"event": "started", "epoch": 3})), json!({"kind": "started", "epoch": 3}));
        assert_eq!(
            shown(json!({"event": "stopped", "epoch": 3, "unresolved": 1})),
            json!({"kind": "stopped", "epoch": 3, "unresolved": 1})
        );
        assert_eq!(
            shown(json!({"event": "strategy", "robot": 2, "state": {"kind": "dca", "steps": 4, "next_at": 5}})),
            json!({"kind": "strategy", "robot": 2, "strategy": "dca", "steps": 4, "next_at_us": 5})
        );
    }
}
