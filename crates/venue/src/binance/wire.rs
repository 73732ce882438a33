//! Numbers and words as Binance writes them (`enums.md`): decimals are strings with eight digits after the point.

use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use trading::exchange::{Fill, OrderKind, Side, TimeInForce, VenueStatus};
use trading::money::Price;

use crate::state::Order;

/// A decimal on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(pub(super) Decimal);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.8}", self.0))
    }
}

pub(super) const ZERO: Number = Number(Decimal::ZERO);

pub(super) fn side(side: Side) -> &'static str {
    match side {
        Side::Buy => "BUY",
        Side::Sell => "SELL",
    }
}

pub(super) fn kind(kind: OrderKind) -> &'static str {
    match kind {
        OrderKind::Market => "MARKET",
        OrderKind::Limit { .. } => "LIMIT",
        OrderKind::PostOnly { .. } => "LIMIT_MAKER",
        OrderKind::StopLimit { .. } => "STOP_LOSS_LIMIT",
    }
}

pub(super) fn tif(tif: TimeInForce) -> &'static str {
    match tif {
        TimeInForce::Gtc => "GTC",
        TimeInForce::Ioc => "IOC",
        TimeInForce::Fok => "FOK",
    }
}

pub(super) fn status(status: VenueStatus) -> &'static str {
    match status {
        VenueStatus::New => "NEW",
        VenueStatus::PartiallyFilled => "PARTIALLY_FILLED",
        VenueStatus::Filled => "FILLED",
        VenueStatus::Canceled => "CANCELED",
        VenueStatus::Rejected => "REJECTED",
        VenueStatus::Expired => "EXPIRED",
    }
}

pub(super) fn price(kind: OrderKind) -> Number {
    Number(kind.price().unwrap_or(Price::ZERO).get())
}

pub(super) fn stop_price(kind: OrderKind) -> Option<Number> {
    match kind {
        OrderKind::StopLimit { stop_price, .. } => Some(Number(stop_price.get())),
        OrderKind::Market | OrderKind::Limit { .. } | OrderKind::PostOnly { .. } => None,
    }
}

/// Why an order expired, if it did.
pub(super) fn expiry_reason(order: &Order) -> Option<&'static str> {
    (order.status == VenueStatus::Expired).then_some(match (order.new.kind, order.new.tif) {
        (OrderKind::Market, _) => "INSUFFICIENT_LIQUIDITY",
        (_, TimeInForce::Fok) => "UNFILLED_FOK_ORDER_EXPIRED",
        (_, TimeInForce::Gtc | TimeInForce::Ioc) => "UNFILLED_IOC_QUANTITY_EXPIRED",
    })
}

/// What all answers about an order have in common.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OrderBody {
    symbol: String,
    order_id: i64,
    order_list_id: i64,
    client_order_id: String,
    price: Number,
    orig_qty: Number,
    executed_qty: Number,
    orig_quote_order_qty: Number,
    // The misspelling is Binance's.
    cummulative_quote_qty: Number,
    status: &'static str,
    time_in_force: &'static str,
    r#type: &'static str,
    side: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_price: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_time: Option<i64>,
    self_trade_prevention_mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry_reason: Option<&'static str>,
}

impl From<&Order> for OrderBody {
    fn from(order: &Order) -> Self {
        Self {
            symbol: order.new.symbol.to_string(),
            order_id: order.venue_id.0,
            order_list_id: -1,
            client_order_id: order.new.client_id.to_string(),
            price: price(order.new.kind),
            orig_qty: Number(order.new.qty.get()),
            executed_qty: Number(order.executed.get()),
            orig_quote_order_qty: ZERO,
            cummulative_quote_qty: Number(order.executed_quote.get()),
            status: status(order.status),
            time_in_force: tif(order.new.tif),
            r#type: kind(order.new.kind),
            side: side(order.new.side),
            stop_price: stop_price(order.new.kind),
            working_time: order.working_at.map(trading::time::Timestamp::millis),
            self_trade_prevention_mode: "NONE",
            expiry_reason: expiry_reason(order),
        }
    }
}

/// The answer to a new order (`FULL`).
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlacedBody {
    #[serde(flatten)]
    order: OrderBody,
    transact_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fills: Option<Vec<FillBody>>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct FillBody {
    price: Number,
    qty: Number,
    commission: Number,
    commission_asset: String,
    trade_id: i64,
}

impl PlacedBody {
    /// `fills` are left out of a `RESULT`.
    pub(super) fn new(order: &Order, fills: Option<&[Fill]>) -> Self {
        let fill = |fill: &Fill| FillBody {
            price: Number(fill.price.get()),
            qty: Number(fill.qty.get()),
            commission: Number(fill.fee.get()),
            commission_asset: fill.fee_asset.to_string(),
            trade_id: fill.trade_id.0,
        };
        Self {
            order: order.into(),
            transact_time: order.updated_at.millis(),
            fills: fills.map(|fills| fills.iter().map(fill).collect()),
        }
    }
}

/// The answer to a new order (`ACK`).
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AckBody {
    symbol: String,
    order_id: i64,
    order_list_id: i64,
    client_order_id: String,
    transact_time: i64,
}

impl From<&Order> for AckBody {
    fn from(order: &Order) -> Self {
        Self {
            symbol: order.new.symbol.to_string(),
            order_id: order.venue_id.0,
            order_list_id: -1,
            client_order_id: order.new.client_id.to_string(),
            transact_time: order.created_at.millis(),
        }
    }
}

/// An order that is asked for.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QueriedBody {
    #[serde(flatten)]
    order: OrderBody,
    iceberg_qty: Number,
    time: i64,
    update_time: i64,
    is_working: bool,
}

impl From<&Order> for QueriedBody {
    fn from(order: &Order) -> Self {
        let mut body = OrderBody::from(order);
        // Here it is always there.
        body.stop_price = body.stop_price.or(Some(ZERO));
        body.working_time = body.working_time.or(Some(-1));
        Self {
            order: body,
            iceberg_qty: ZERO,
            time: order.created_at.millis(),
            update_time: order.updated_at.millis(),
            is_working: order.working_at.is_some(),
        }
    }
}

/// An order that was cancelled. The cancellation has a client id of its own.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CanceledBody {
    #[serde(flatten)]
    order: OrderBody,
    orig_client_order_id: String,
    transact_time: i64,
}

impl CanceledBody {
    pub(super) fn new(order: &Order, cancel_id: &str) -> Self {
        let mut body = OrderBody::from(order);
        cancel_id.clone_into(&mut body.client_order_id);
        body.working_time = None;
        Self {
            order: body,
            orig_client_order_id: order.new.client_id.to_string(),
            transact_time: order.updated_at.millis(),
        }
    }
}
