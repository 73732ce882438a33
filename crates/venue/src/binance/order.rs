//! `order`, `openOrders`, `allOrders`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use trading::exchange::{Fill, NewOrder, OrderKind, Side, TimeInForce};
use trading::ids::{ClientOrderId, VenueOrderId};
use trading::market::Symbol;
use trading::money::{Price, Qty};

use super::account::page;
use super::error::ApiError;
use super::params::{Params, Validity};
use super::wire::{AckBody, CanceledBody, PlacedBody, QueriedBody};
use super::{App, json};
use crate::exchange::Refusal;
use crate::host::Core;
use crate::record::Label;
use crate::state::{Account, Order};
use crate::witness::unwitnessed;

/// How much an answer to a new order says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    Ack,
    Result,
    Full,
}

/// A request for a new order that may be handed to the exchange.
#[derive(Debug)]
pub(super) struct Placement {
    order: NewOrder,
    recv_window: Duration,
    detail: Detail,
}

/// An order that was accepted, with the fills that came at once.
#[derive(Debug)]
pub(super) struct Placed {
    order: Order,
    fills: Vec<Fill>,
    detail: Detail,
}

/// An id for a request that names none.
pub(super) fn make_id() -> ClientOrderId {
    ClientOrderId::from_venue(format!("x{:032x}", rand::random::<u128>()))
}

/// Reads a request for a new order. `id` is used if it names none.
pub(super) fn parse(mut params: Params, validity: Validity, id: ClientOrderId) -> Result<Placement, ApiError> {
    let symbol = params.symbol()?;
    let side = match params.required("side")?.as_str() {
        "BUY" => Side::Buy,
        "SELL" => Side::Sell,
        _ => return Err(ApiError::bad(-1117, "Invalid side.")),
    };
    let (kind, tif) = kind(&mut params)?;
    for (name, msg) in [
        ("quoteOrderQty", "Quote order qty market orders are not support for this symbol."),
        ("icebergQty", "Iceberg orders are not supported for this symbol."),
        ("trailingDelta", "Trailing stop orders are not supported for this symbol."),
        ("pegPriceType", "Pegged orders are not supported for this symbol."),
    ] {
        if params.peek(name).is_some() {
            return Err(ApiError::bad(-2010, msg));
        }
    }
    let qty: Qty = params.decimal("quantity")?.ok_or_else(|| ApiError::missing("quantity"))?;
    let client_id = params.client_id("newClientOrderId")?.unwrap_or(id);
    let detail = match (params.text("newOrderRespType")?.as_deref(), kind) {
        (Some("ACK"), _) | (None, OrderKind::PostOnly { .. } | OrderKind::StopLimit { .. }) => Detail::Ack,
        (Some("RESULT"), _) => Detail::Result,
        (Some("FULL"), _) | (None, OrderKind::Market | OrderKind::Limit { .. }) => Detail::Full,
        (Some(_), _) => return Err(ApiError::invalid("newOrderRespType")),
    };
    if params.text("selfTradePreventionMode")?.is_some_and(|mode| mode != "NONE") {
        return Err(ApiError::invalid("selfTradePreventionMode"));
    }
    params.finish()?;
    let order = NewOrder { client_id, symbol, side, kind, tif, qty, timestamp: validity.timestamp };
    Ok(Placement { order, recv_window: validity.recv_window, detail })
}

fn kind(params: &mut Params) -> Result<(OrderKind, TimeInForce), ApiError> {
    let kind = params.required("type")?;
    let needs_price = match kind.as_str() {
        "LIMIT" | "LIMIT_MAKER" | "STOP_LOSS_LIMIT" => true,
        "MARKET" => false,
        "STOP_LOSS" | "TAKE_PROFIT" | "TAKE_PROFIT_LIMIT" => {
            return Err(ApiError::bad(-1014, "Unsupported order combination."));
        }
        _ => return Err(ApiError::bad(-1116, "Invalid orderType.")),
    };
    let superfluous = |name: &str| ApiError::bad(-1106, format!("Parameter '{name}' sent when not required."));
    if !needs_price && params.peek("price").is_some() {
        return Err(superfluous("price"));
    }
    if kind != "STOP_LOSS_LIMIT" && params.peek("stopPrice").is_some() {
        return Err(superfluous("stopPrice"));
    }
    let takes_tif = matches!(kind.as_str(), "LIMIT" | "STOP_LOSS_LIMIT");
    let tif = match (takes_tif, params.text("timeInForce")?.as_deref()) {
        (true, Some("GTC")) | (false, None) => TimeInForce::Gtc,
        (true, Some("IOC")) => TimeInForce::Ioc,
        (true, Some("FOK")) => TimeInForce::Fok,
        (true, Some(_)) => return Err(ApiError::bad(-1115, "Invalid timeInForce.")),
        (true, None) => return Err(ApiError::missing("timeInForce")),
        (false, Some(_)) => return Err(superfluous("timeInForce")),
    };
    let mut price = |name: &str| params.decimal::<Price>(name)?.ok_or_else(|| ApiError::missing(name));
    let kind = match kind.as_str() {
        "LIMIT" => OrderKind::Limit { price: price("price")? },
        "LIMIT_MAKER" => OrderKind::PostOnly { price: price("price")? },
        "STOP_LOSS_LIMIT" => OrderKind::StopLimit { stop_price: price("stopPrice")?, price: price("price")? },
        _ => OrderKind::Market,
    };
    Ok((kind, tif))
}

impl Placement {
    /// Refuses an order that its sender has not written down, or that is one too many.
    pub(super) async fn admit(&self, app: &App, account: &Label) -> Result<(), ApiError> {
        if let Some(witness) = &app.witness {
            match witness.is_committed(&self.order.client_id).await {
                Ok(true) => {}
                Ok(false) => return Err(unwitnessed(&self.order.client_id).into()),
                Err(blind) => {
                    tracing::warn!(order = %self.order.client_id, %blind, "an order was refused");
                    return Err(ApiError::down());
                }
            }
        }
        let now = app.host.now();
        app.usage().may_order(account, now)
    }

    /// Hands it to the exchange, which records it.
    pub(super) async fn submit(self, app: &App, account: Label) -> Result<Placed, ApiError> {
        let Self { order, recv_window, detail } = self;
        app.ask(move |core, now| {
            let report = core.submit(&account, &order, Some(recv_window), now)?;
            let order = core.exchange.account(&account)?.order(report.venue_id).cloned();
            let order = order.ok_or_else(|| Refusal::new(-1000, "An unknown error occurred."))?;
            Ok(Placed { order, fills: report.fills, detail })
        })
        .await
    }
}

impl Placed {
    pub(super) fn is_filled(&self) -> bool {
        !self.order.executed.is_zero()
    }

    pub(super) fn body(&self) -> Result<Value, ApiError> {
        match self.detail {
            Detail::Ack => json(AckBody::from(&self.order)),
            Detail::Result => json(PlacedBody::new(&self.order, None)),
            Detail::Full => json(PlacedBody::new(&self.order, Some(&self.fills))),
        }
    }
}

/// Which order is meant.
#[derive(Debug)]
struct Wanted {
    symbol: Symbol,
    order_id: Option<VenueOrderId>,
    client_id: Option<ClientOrderId>,
}

impl Wanted {
    fn parse(app: &App, params: &mut Params) -> Result<Self, ApiError> {
        let symbol = app.known(params.symbol()?)?;
        let (order_id, client_id) = (params.order_id()?, params.client_id("origClientOrderId")?);
        if order_id.is_none() && client_id.is_none() {
            let msg = "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!";
            return Err(ApiError::bad(-1102, msg));
        }
        Ok(Self { symbol, order_id, client_id })
    }

    fn find<'a>(&self, account: &'a Account) -> Option<&'a Order> {
        let order = match (self.order_id, &self.client_id) {
            (Some(id), _) => account.order(id),
            (None, Some(id)) => account.by_client(id),
            (None, None) => None,
        };
        order.filter(|order| {
            order.new.symbol == self.symbol && self.client_id.as_ref().is_none_or(|id| order.new.client_id == *id)
        })
    }
}

pub(super) async fn query(
    app: &App,
    account: Label,
    mut params: Params,
    validity: Validity,
) -> Result<QueriedBody, ApiError> {
    let wanted = Wanted::parse(app, &mut params)?;
    params.finish()?;
    app.read(validity, move |core, _| {
        let none = || Refusal::new(-2013, "Order does not exist.");
        if core.hides_order() {
            return Err(none());
        }
        wanted.find(core.exchange.account(&account)?).map(QueriedBody::from).ok_or_else(none)
    })
    .await
}

pub(super) async fn cancel(
    app: &App,
    account: Label,
    mut params: Params,
    validity: Validity,
) -> Result<CanceledBody, ApiError> {
    let wanted = Wanted::parse(app, &mut params)?;
    let cancel_id: Arc<str> = params.client_id("newClientOrderId")?.unwrap_or_else(make_id).as_str().into();
    params.finish()?;
    app.read(validity, move |core: &mut Core, now| {
        let unknown = || Refusal::new(-2011, "Unknown order sent.");
        let order = wanted.find(core.exchange.account(&account)?).ok_or_else(unknown)?;
        let (id, client_id) = (order.venue_id, order.new.client_id.clone());
        core.cancel(&account, &wanted.symbol, &client_id, Arc::clone(&cancel_id), now)?;
        let order = core.exchange.account(&account)?.order(id).ok_or_else(unknown)?;
        Ok(CanceledBody::new(order, &cancel_id))
    })
    .await
}

pub(super) async fn open_orders(
    app: &App,
    account: Label,
    mut params: Params,
    validity: Validity,
) -> Result<Vec<QueriedBody>, ApiError> {
    let symbol = params.symbol_if_sent()?.map(|symbol| app.known(symbol)).transpose()?;
    params.finish()?;
    app.read(validity, move |core, _| {
        let open = core.exchange.account(&account)?.open_orders();
        let open = open.filter(|order| symbol.as_ref().is_none_or(|symbol| order.new.symbol == *symbol));
        let open = open.cloned().collect();
        Ok(core.listed(open).iter().map(QueriedBody::from).collect())
    })
    .await
}

pub(super) async fn all_orders(
    app: &App,
    account: Label,
    mut params: Params,
    validity: Validity,
) -> Result<Vec<QueriedBody>, ApiError> {
    let symbol = app.known(params.symbol()?)?;
    let from = params.order_id()?;
    let (start, end) = (params.number("startTime")?, params.number("endTime")?);
    let limit = params.limit()?;
    params.finish()?;
    app.read(validity, move |core, _| {
        let wanted = core.exchange.account(&account)?.orders().filter(|order| {
            order.new.symbol == symbol
                && from.is_none_or(|from| order.venue_id >= from)
                && start.is_none_or(|start| order.created_at.millis() >= start)
                && end.is_none_or(|end| order.created_at.millis() <= end)
        });
        let wanted = page(wanted.cloned().collect(), limit, from.is_some() || start.is_some());
        Ok(core.listed(wanted).iter().map(QueriedBody::from).collect())
    })
    .await
}
