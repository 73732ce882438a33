//! Events as clients see them, over HTTP and in the stream alike.

use serde::Serialize;
use trading::event::{Event, Recorded};
use trading::ids::AccountId;
use utoipa::ToSchema;

use super::wire::{BalanceOut, FillOut, OrderOut, PositionOut};
use crate::robots::{RobotOut, StateOut};
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
        /// All of it.
        state: StateOut,
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
            Event::Strategy { robot, state } => FactOut::Strategy { robot: robot.0, state: state.into() },
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    /// What a client gets for an event given in its stored form.
    fn shown(mut stored: Value) -> Value {
        stored["seq"] = json!(7);
        stored["at"] = json!(1_000);
        let recorded: Recorded = from_value(stored).unwrap();
        let out = serde_json::to_value(EventOut::new(AccountId(1), &recorded)).unwrap();
        let kind = recorded.event.kind();
        assert_eq!((&out["seq"], &out["at_us"], &out["event"]), (&json!(7), &json!(1_000), &json!(kind)));
        assert_eq!(out.as_object().unwrap().len(), 4);
        out["data"].clone()
    }

    #[test]
    fn an_order_is_as_in_the_list_of_orders() {
        let order = json!({
            "event": "order", "client_id": "h1", "account": 1, "robot": 10_001, "decision": 3, "leg": 1, "generation": 0,
            "symbol": "BTCUSDT", "side": "buy", "kind": "stop_limit", "stop_price": "9", "price": "10.5", "tif": "gtc",
            "qty": "0.015", "status": "PARTIAL", "cancel": "REQUESTED", "attempt": 1, "epoch": 4, "sent_at": 1,
            "deadline": 2, "expires_at": null, "venue_id": 77, "filled": "0.005", "filled_quote": "0.0525",
            "reported": "0.005", "reason": null, "created_at": 1, "updated_at": 2, "version": 5,
        });
        let expected = json!({
            "client_id": "h1", "account": 1, "robot": 10_001, "decision": 3, "leg": 1, "generation": 0,
            "symbol": "BTCUSDT", "side": "buy", "type": "stop_limit", "price": "10.5", "stop_price": "9", "tif": "gtc",
            "qty": "0.015", "status": "PARTIAL", "cancel": "REQUESTED", "attempt": 1, "epoch": 4, "filled": "0.005",
            "filled_quote": "0.0525", "reported": "0.005", "reason": null, "venue_id": 77, "sent_at_us": 1,
            "deadline_us": 2, "expires_at_us": null, "created_at_us": 1, "updated_at_us": 2, "version": 5,
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
        let data = shown(fill);
        let fill = &data["fill"];
        assert_eq!((&fill["trade_id"], &fill["at_us"], &fill["robot"]), (&json!(5), &json!(9), &json!(10_001)));
        assert_eq!(data["position"]["realized"], "-1");
        assert_eq!(data["balances"][0]["total"], "109.99");
    }

    #[test]
    fn a_webhook_hash_is_never_shown() {
        let robot = json!({
            "event": "robot", "id": 10_001, "account": 1, "name": "n", "symbol": "BTCUSDT",
            "config": {"kind": "grid", "lower": "1", "upper": "2", "levels": 3, "qty": "1"}, "limits": {},
            "desired": "running", "run": "quarantined", "reason": "panicked", "stop_policy": "flatten",
            "decision_seq": 4, "webhook_hash": "5ec7e7", "created_at": 1, "version": 2,
        });
        let data = shown(robot.clone());
        assert_eq!((&data["config"]["kind"], &data["config"]["levels"]), (&json!("grid"), &json!(3)));
        assert_eq!((&data["webhook"], &data["run"]), (&json!(true), &json!("quarantined")));
        assert!(!data.to_string().contains("5ec7e7"));

        let create = json!({
            "event": "command", "source": "key:a", "dedup_key": "b", "received_at": 1,
            "wish": {
                "wish": "create_robot", "name": "n", "symbol": "BTCUSDT", "config": robot["config"], "limits": {},
                "stop_policy": "keep", "start": true, "webhook_hash": "5ec7e7",
            },
            "outcome": {"outcome": "done", "robot": 10_001, "orders": []},
        });
        let data = shown(create);
        assert_eq!((&data["wish"], &data["robot"]), (&json!("create_robot"), &json!(10_001)));
        assert!(!data.to_string().contains("5ec7e7"));
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
        assert_eq!((&done["wish"], &done["robot"]), (&json!("signal"), &json!(10_001)));
        assert_eq!((&done["outcome"], &done["orders"]), (&json!("done"), &json!(["h1", "h2"])));
        let denied = command(signal, json!({"outcome": "denied", "reason": "too large"}));
        assert_eq!((&denied["outcome"], &denied["reason"]), (&json!("denied"), &json!("too large")));
        let cancel = json!({"wish": "cancel_order", "order": "h1"});
        let not_found = command(cancel, json!({"outcome": "not_found", "what": "order h1"}));
        assert_eq!((&not_found["outcome"], &not_found["reason"]), (&json!("not_found"), &json!("order h1")));
        let invalid =
            command(json!({"wish": "kill", "reason": "r"}), json!({"outcome": "invalid", "field": "f", "reason": "g"}));
        assert_eq!((&invalid["field"], &invalid["reason"]), (&json!("f"), &json!("g")));
    }

    #[test]
    fn what_a_strategy_remembers_is_shown() {
        let grid = json!({"kind": "grid", "levels": [
            {"order": {"key": {"decision": 3, "leg": 1}, "side": "buy", "counted": "0", "ended": false}, "held": "0", "retry_at": null},
            {"order": null, "held": "0.1", "retry_at": 9},
        ]});
        let levels = json!([
            {"order": {"decision": 3, "leg": 1}, "held": "0", "retry_at_us": null},
            {"order": null, "held": "0.1", "retry_at_us": 9},
        ]);
        for (stored, expected) in [
            (json!({"kind": "follower"}), json!({"kind": "follower"})),
            (json!({"kind": "dca", "steps": 4, "next_at": 5}), json!({"kind": "dca", "steps": 4, "next_at_us": 5})),
            (grid, json!({"kind": "grid", "levels": levels})),
        ] {
            let data = shown(json!({"event": "strategy", "robot": 2, "state": stored}));
            assert_eq!(data, json!({"robot": 2, "state": expected}));
        }
    }

    #[test]
    fn the_other_kinds_are_as_documented() {
        let balance = json!({"event": "opening", "asset": "USDT", "total": "1", "opening": "1", "version": 1});
        assert_eq!(shown(balance), json!({"asset": "USDT", "total": "1", "opening": "1", "version": 1}));
        assert_eq!(
            shown(json!({"event": "alarm", "message": "m", "order": "h1", "robot": 2})),
            json!({"message": "m", "order": "h1", "robot": 2})
        );
        assert_eq!(shown(json!({"event": "started", "epoch": 3})), json!({"epoch": 3}));
        assert_eq!(
            shown(json!({"event": "stopped", "epoch": 3, "unresolved": 1})),
            json!({"epoch": 3, "unresolved": 1})
        );
    }
}
