//! What an account's stream says (`user-data-stream.md`).

use serde::Serialize;
use serde_json::{Value, json};
use trading::exchange::{Fill, VenueStatus};
use trading::time::Timestamp;

use super::wire::{Number, ZERO, expiry_reason, kind, price, side, status, stop_price, tif};
use crate::state::Holding;
use crate::updates::{Change, Execution, Update};

/// `executionReport`. The fields are in the order and under the letters of the documentation.
#[derive(Debug, Serialize)]
struct ExecutionReport<'a> {
    e: &'static str,
    #[serde(rename = "E")]
    event_time: i64,
    s: &'a str,
    c: &'a str,
    #[serde(rename = "S")]
    side: &'static str,
    o: &'static str,
    f: &'static str,
    q: Number,
    p: Number,
    #[serde(rename = "P")]
    stop_price: Number,
    #[serde(rename = "F")]
    iceberg_qty: Number,
    g: i64,
    #[serde(rename = "C")]
    original_client_id: &'a str,
    x: &'static str,
    #[serde(rename = "X")]
    status: &'static str,
    r: &'static str,
    i: i64,
    l: Number,
    z: Number,
    #[serde(rename = "L")]
    last_price: Number,
    n: Number,
    #[serde(rename = "N")]
    fee_asset: Option<&'a str>,
    #[serde(rename = "T")]
    transaction_time: i64,
    t: i64,
    #[serde(rename = "I")]
    execution_id: i64,
    w: bool,
    m: bool,
    #[serde(rename = "M")]
    ignored: bool,
    #[serde(rename = "O")]
    created_at: i64,
    #[serde(rename = "Z")]
    executed_quote: Number,
    #[serde(rename = "Y")]
    last_quote: Number,
    #[serde(rename = "Q")]
    quote_order_qty: Number,
    #[serde(rename = "W", skip_serializing_if = "Option::is_none")]
    working_at: Option<i64>,
    #[serde(rename = "V")]
    self_trade_prevention: &'static str,
    #[serde(rename = "eR", skip_serializing_if = "Option::is_none")]
    expiry_reason: Option<&'static str>,
}

fn execution_type(change: &Change) -> &'static str {
    match change {
        // A stop order that begins to work is told as new once more, now on the book.
        Change::New | Change::Triggered => "NEW",
        Change::Trade(_) => "TRADE",
        Change::Canceled => "CANCELED",
        Change::Expired => "EXPIRED",
    }
}

impl<'a> ExecutionReport<'a> {
    fn new(execution: &'a Execution, now: Timestamp) -> Self {
        let Execution { order, change, at, cancel_id } = execution;
        let fill = match change {
            Change::Trade(fill) => Some(fill),
            _ => None,
        };
        let open = matches!(order.status, VenueStatus::New | VenueStatus::PartiallyFilled);
        // A cancellation has an id of its own, which takes the place of the order's.
        let (client_id, original) = match cancel_id.as_deref() {
            Some(cancel_id) => (cancel_id, order.new.client_id.as_str()),
            None => (order.new.client_id.as_str(), ""),
        };
        Self {
            e: "executionReport",
            event_time: now.millis(),
            s: order.new.symbol.as_str(),
            c: client_id,
            side: side(order.new.side),
            o: kind(order.new.kind),
            f: tif(order.new.tif),
            q: Number(order.new.qty.get()),
            p: price(order.new.kind),
            stop_price: stop_price(order.new.kind).unwrap_or(ZERO),
            iceberg_qty: ZERO,
            g: -1,
            original_client_id: original,
            x: execution_type(change),
            status: status(order.status),
            r: "NONE",
            i: order.venue_id.0,
            l: fill.map_or(ZERO, |fill| Number(fill.qty.get())),
            z: Number(order.executed.get()),
            last_price: fill.map_or(ZERO, |fill| Number(fill.price.get())),
            n: fill.map_or(ZERO, |fill| Number(fill.fee.get())),
            fee_asset: fill.map(|fill| fill.fee_asset.as_str()),
            transaction_time: at.millis(),
            t: fill.map_or(-1, |fill| fill.trade_id.0),
            execution_id: at.micros(),
            w: open && order.working_at.is_some(),
            m: fill.is_some_and(|fill| fill.maker),
            ignored: false,
            created_at: order.created_at.millis(),
            executed_quote: Number(order.executed_quote.get()),
            last_quote: fill.map_or(ZERO, |fill: &Fill| Number(fill.price.notional(fill.qty).get())),
            quote_order_qty: ZERO,
            working_at: order.working_at.map(Timestamp::millis),
            self_trade_prevention: "NONE",
            expiry_reason: expiry_reason(order),
        }
    }
}

/// An update as an event.
pub(super) fn event(update: &Update, now: Timestamp) -> Value {
    match update {
        Update::Order(execution) => serde_json::to_value(ExecutionReport::new(execution, now)).unwrap_or_default(),
        Update::Balances { holdings, at } => {
            let balance = |asset: &str, held: &Holding| json!({ "a": asset, "f": Number(held.free().get()), "l": Number(held.locked.get()) });
            let balances: Vec<_> = holdings.iter().map(|(asset, held)| balance(asset.as_str(), held)).collect();
            json!({ "e": "outboundAccountPosition", "E": now.millis(), "u": at.millis(), "B": balances })
        }
    }
}

/// A subscription is over.
pub(super) fn terminated(now: Timestamp) -> Value {
    json!({ "e": "eventStreamTerminated", "E": now.millis() })
}

/// The venue stops.
pub(super) fn server_shutdown(now: Timestamp) -> Value {
    json!({ "e": "serverShutdown", "E": now.millis() })
}
