//! What a raw writer has to write: the rows of each table, made beforehand, in as few transactions as the rule "durable before
//! it is sent" allows.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::Value;
use serde::Serialize;
use trading::command::{Record, Wish};
use trading::event::{Event, Recorded};
use trading::ids::{AccountId, ClientOrderId};
use trading::order::Status;

/// A table: its columns with the field of the image that each holds, its key, and what an update changes.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [(&'static str, &'static str)],
    key: &'static str,
    updated: &'static [&'static str],
}

const ROBOT: Table = Table {
    name: "hg_trading_robot",
    columns: &[
        ("id", "id"),
        ("account", "account"),
        ("name", "name"),
        ("kind", "kind"),
        ("symbol", "symbol"),
        ("config", "config"),
        ("limits", "limits"),
        ("desired_state", "desired"),
        ("run_state", "run"),
        ("reason", "reason"),
        ("stop_policy", "stop_policy"),
        ("decision_seq", "decision_seq"),
        ("webhook_hash", "webhook_hash"),
        ("created_at", "created_at"),
        ("version", "version"),
    ],
    key: "id",
    updated: &["desired_state", "run_state", "reason", "decision_seq", "version"],
};
const SIGNAL: Table = Table {
    name: "hg_trading_signal",
    columns: &[
        ("source", "source"),
        ("dedup_key", "dedup_key"),
        ("account", "account"),
        ("robot", "robot"),
        ("payload", "wish"),
        ("received_at", "received_at"),
        ("expires_at", "expires_at"),
        ("outcome", "kind"),
        ("detail", "outcome"),
    ],
    key: "",
    updated: &[],
};
const ORDER: Table = Table {
    name: "hg_trading_order",
    columns: &[
        ("client_id", "client_id"),
        ("account", "account"),
        ("robot", "robot"),
        ("decision", "decision"),
        ("leg", "leg"),
        ("generation", "generation"),
        ("symbol", "symbol"),
        ("side", "side"),
        ("kind", "kind"),
        ("price", "price"),
        ("stop_price", "stop_price"),
        ("tif", "tif"),
        ("qty", "qty"),
        ("status", "status"),
        ("cancel_state", "cancel"),
        ("attempt", "attempt"),
        ("epoch", "epoch"),
        ("sent_at", "sent_at"),
        ("deadline", "deadline"),
        ("expires_at", "expires_at"),
        ("venue_id", "venue_id"),
        ("filled", "filled"),
        ("filled_quote", "filled_quote"),
        ("reported", "reported"),
        ("reason", "reason"),
        ("created_at", "created_at"),
        ("updated_at", "updated_at"),
        ("version", "version"),
    ],
    key: "client_id, account",
    updated: &[
        "status",
        "cancel_state",
        "attempt",
        "epoch",
        "sent_at",
        "deadline",
        "expires_at",
        "venue_id",
        "filled",
        "filled_quote",
        "reported",
        "reason",
        "updated_at",
        "version",
    ],
};
const FILL: Table = Table {
    name: "hg_trading_fill",
    columns: &[
        ("account", "account"),
        ("robot", "robot"),
        ("client_id", "client_id"),
        ("venue_id", "venue_id"),
        ("symbol", "symbol"),
        ("trade_id", "trade_id"),
        ("side", "side"),
        ("price", "price"),
        ("qty", "qty"),
        ("fee", "fee"),
        ("fee_asset", "fee_asset"),
        ("maker", "maker"),
        ("at", "at"),
    ],
    key: "",
    updated: &[],
};
const POSITION: Table = Table {
    name: "hg_trading_position",
    columns: &[
        ("robot", "robot"),
        ("symbol", "symbol"),
        ("account", "account"),
        ("qty", "qty"),
        ("cost", "cost"),
        ("realized", "realized"),
        ("fees", "fees"),
        ("version", "version"),
    ],
    key: "robot, symbol",
    updated: &["qty", "cost", "realized", "fees", "version"],
};
const BALANCE: Table = Table {
    name: "hg_trading_balance",
    columns: &[
        ("account", "account"),
        ("asset", "asset"),
        ("total", "total"),
        ("opening", "opening"),
        ("version", "version"),
    ],
    key: "account, asset",
    updated: &["total", "opening", "version"],
};
const EVENT: Table = Table {
    name: "hg_trading_event",
    columns: &[("account", ""), ("seq", ""), ("at", ""), ("kind", ""), ("payload", "")],
    key: "",
    updated: &[],
};
/// In the order of their foreign keys.
pub(crate) const TABLES: [&Table; 7] = [&ROBOT, &SIGNAL, &ORDER, &FILL, &POSITION, &BALANCE, &EVENT];

impl Table {
    /// An INSERT of these rows, which updates those that are there.
    pub(crate) fn insert(&self, rows: &str) -> String {
        let columns: Vec<&str> = self.columns.iter().map(|(column, _)| *column).collect();
        let mut sql = format!("INSERT INTO {} ({}) {rows}", self.name, columns.join(","));
        if !self.key.is_empty() {
            let updates: Vec<String> = self.updated.iter().map(|c| format!("{c} = excluded.{c}")).collect();
            sql.push_str(&format!(" ON CONFLICT ({}) DO UPDATE SET {}", self.key, updates.join(",")));
        }
        sql
    }

    /// The columns' values: the image's fields, overridden by `further`.
    fn row(&self, image: &impl Serialize, further: &[(&str, Value)]) -> Vec<Value> {
        let image = serde_json::to_value(image).unwrap();
        let given = |field: &str| further.iter().find(|(name, _)| *name == field).map(|(_, value)| value.clone());
        self.columns.iter().map(|(_, field)| given(field).unwrap_or_else(|| scalar(&image[*field]))).collect()
    }
}

fn scalar(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(yes) => Value::Integer(i64::from(*yes)),
        serde_json::Value::Number(number) => Value::Integer(number.as_i64().unwrap()),
        serde_json::Value::String(text) => Value::Text(text.clone()),
        other => Value::Text(other.to_string()),
    }
}

/// What one transaction writes: rows per table, the last image of each key only.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) rows: [Vec<Vec<Value>>; TABLES.len()],
    places: BTreeMap<(usize, String), usize>,
    /// Orders that are sent once this is durable.
    sending: BTreeSet<ClientOrderId>,
    /// Whether it holds a command: whether somebody waits for it.
    pub(crate) answers: bool,
    pub(crate) orders: usize,
}

impl Batch {
    fn put(&mut self, table: usize, key: Option<String>, row: Vec<Value>) {
        let rows = &mut self.rows[table];
        match key.and_then(|key| self.places.insert((table, key.clone()), rows.len()).map(|place| (key, place))) {
            Some((key, place)) => {
                rows[place] = row;
                self.places.insert((table, key), place);
            }
            None => rows.push(row),
        }
    }

    pub(crate) fn add(&mut self, account: AccountId, recorded: &Recorded) {
        let owner = ("account", Value::Integer(account.0));
        match &recorded.event {
            Event::Robot(robot) => {
                let kind = ("kind", Value::Text(robot.config.kind().to_owned()));
                self.put(0, Some(robot.id.to_string()), ROBOT.row(robot, &[kind]));
            }
            Event::Command(record) => {
                self.answers = true;
                self.orders += 1;
                self.put(1, None, signal(record, owner));
            }
            Event::Order(order) => {
                if order.status == Status::Sending {
                    self.sending.insert(order.client_id.clone());
                }
                let status = ("status", Value::Text(order.status.as_str().to_owned()));
                let cancel = ("cancel", Value::Text(order.cancel.as_str().to_owned()));
                self.put(2, Some(order.client_id.to_string()), ORDER.row(order, &[status, cancel]));
            }
            Event::Fill { fill, position, balances } => {
                let robot = ("robot", Value::Integer(position.robot.0));
                self.put(3, None, FILL.row(fill, &[owner.clone(), robot]));
                let key = format!("{} {}", position.robot, position.symbol);
                self.put(4, Some(key), POSITION.row(position, std::slice::from_ref(&owner)));
                for balance in balances {
                    let key = format!("{account} {}", balance.asset);
                    self.put(5, Some(key), BALANCE.row(balance, std::slice::from_ref(&owner)));
                }
            }
            Event::Opening(balance) => {
                self.put(5, Some(format!("{account} {}", balance.asset)), BALANCE.row(balance, &[owner]));
            }
            _ => {}
        }
        let event = vec![
            Value::Integer(account.0),
            Value::Integer(recorded.seq.0),
            Value::Integer(recorded.at.micros()),
            Value::Text(recorded.event.kind().to_owned()),
            Value::Text(serde_json::to_string(&recorded.event).unwrap()),
        ];
        self.put(6, None, event);
    }

    /// Whether adding this would commit an order's outcome together with its attempt: the attempt must be durable before
    /// the order is sent.
    fn would_be_too_early(&self, recorded: &Recorded) -> bool {
        match &recorded.event {
            Event::Order(order) => self.sending.contains(&order.client_id),
            _ => false,
        }
    }
}

fn signal(record: &Record, owner: (&'static str, Value)) -> Vec<Value> {
    let robot = match &record.command.wish {
        Wish::Signal(signal) => Value::Integer(signal.robot.0),
        _ => Value::Null,
    };
    SIGNAL.row(record, &[owner, ("robot", robot), ("kind", Value::Text("done".into()))])
}

/// An account's events in as few transactions as the rule allows, each with at most `orders` commands.
pub(crate) fn batches(account: AccountId, events: &[Recorded], orders: usize) -> Vec<Batch> {
    let (mut done, mut batch) = (Vec::new(), Batch::default());
    for recorded in events {
        let full = matches!(recorded.event, Event::Command(_)) && batch.orders >= orders;
        if full || batch.would_be_too_early(recorded) {
            done.push(std::mem::take(&mut batch));
        }
        batch.add(account, recorded);
    }
    done.push(batch);
    done
}
