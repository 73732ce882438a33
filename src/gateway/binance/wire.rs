//! The venue's JSON, and its translation into what the core knows. Only the fields that are used.

use std::str::FromStr;
use std::time::Duration;

use rust_decimal::Decimal;
use serde::Deserialize;
use trading::exchange::{Fill, NewOrder, OrderKind, OrderReport, Side, TimeInForce, VenueBalance, VenueStatus};
use trading::ids::{ClientOrderId, TradeId, VenueOrderId};
use trading::market::{Asset, Symbol, SymbolInfo};
use trading::money::{Amount, Price, Qty};
use trading::time::Timestamp;

use super::limiter::OrderLimit;

/// A cancel request has an id of its own, and the venue may show a cancelled order under it. Ours is this and the order's.
const CANCEL_PREFIX: &str = "c";
/// The venue's own bound ("maxNumOrders") where a symbol names none.
const DEFAULT_OPEN_ORDERS: usize = 200;

/// The answer makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unreadable {what}: {text:?}")]
pub(super) struct Unreadable {
    what: &'static str,
    text: String,
}

fn unreadable(what: &'static str, text: &str) -> Unreadable {
    Unreadable { what, text: text.chars().take(60).collect() }
}

/// A number that is zero or above, as text.
fn unsigned(what: &'static str, text: &str) -> Result<Decimal, Unreadable> {
    Decimal::from_str_exact(text)
        .ok()
        .filter(|value| !value.is_sign_negative() || value.is_zero())
        .map(|value| value.normalize())
        .ok_or_else(|| unreadable(what, text))
}

fn positive<T: FromStr>(what: &'static str, text: &str) -> Result<T, Unreadable> {
    text.parse().map_err(|_| unreadable(what, text))
}

pub(super) fn symbol(text: &str) -> Result<Symbol, Unreadable> {
    positive("symbol", text)
}

/// The id under which a cancel is sent.
pub(super) fn cancel_id(order: &ClientOrderId) -> String {
    format!("{CANCEL_PREFIX}{order}")
}

/// The order's id, also where the venue shows it under the id of the cancel.
pub(super) fn client_id(shown: &str) -> ClientOrderId {
    let ours = shown.strip_prefix(CANCEL_PREFIX).map(ClientOrderId::from_venue).filter(ClientOrderId::has_our_shape);
    ours.unwrap_or_else(|| ClientOrderId::from_venue(shown))
}

fn status(text: &str) -> Result<VenueStatus, Unreadable> {
    Ok(match text {
        "NEW" | "PENDING_NEW" => VenueStatus::New,
        "PARTIALLY_FILLED" => VenueStatus::PartiallyFilled,
        "FILLED" => VenueStatus::Filled,
        "CANCELED" => VenueStatus::Canceled,
        "REJECTED" => VenueStatus::Rejected,
        "EXPIRED" | "EXPIRED_IN_MATCH" => VenueStatus::Expired,
        _ => return Err(unreadable("order status", text)),
    })
}

fn side(text: &str) -> Result<Side, Unreadable> {
    match text {
        "BUY" => Ok(Side::Buy),
        "SELL" => Ok(Side::Sell),
        _ => Err(unreadable("side", text)),
    }
}

/// The parameters of a new order, without time and signature.
pub(super) fn order_params(order: &NewOrder) -> Vec<(&'static str, String)> {
    let side = match order.side {
        Side::Buy => "BUY",
        Side::Sell => "SELL",
    };
    let tif = match order.tif {
        TimeInForce::Gtc => "GTC",
        TimeInForce::Ioc => "IOC",
        TimeInForce::Fok => "FOK",
    };
    let (kind, tif, stop) = match order.kind {
        OrderKind::Market => ("MARKET", None, None),
        OrderKind::Limit { .. } => ("LIMIT", Some(tif), None),
        OrderKind::PostOnly { .. } => ("LIMIT_MAKER", None, None),
        OrderKind::StopLimit { stop_price, .. } => ("STOP_LOSS_LIMIT", Some(tif), Some(stop_price)),
    };
    let mut params = vec![("symbol", order.symbol.to_string()), ("side", side.to_owned()), ("type", kind.to_owned())];
    params.extend(tif.map(|tif| ("timeInForce", tif.to_owned())));
    params.push(("quantity", order.qty.to_string()));
    params.extend(order.kind.price().map(|price| ("price", price.to_string())));
    params.extend(stop.map(|stop| ("stopPrice", stop.to_string())));
    params.push(("newClientOrderId", order.client_id.to_string()));
    params.push(("newOrderRespType", "FULL".to_owned()));
    params
}

/// An order, as new orders, queries, cancels and lists show it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OrderRow {
    symbol: String,
    order_id: i64,
    client_order_id: String,
    status: String,
    side: String,
    executed_qty: String,
    #[serde(default)]
    transact_time: i64,
    #[serde(default)]
    fills: Vec<FillRow>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FillRow {
    price: String,
    qty: String,
    commission: String,
    commission_asset: String,
    trade_id: i64,
}

impl OrderRow {
    /// The order's id.
    pub(super) fn client_id(&self) -> ClientOrderId {
        client_id(&self.client_order_id)
    }

    /// The venue's number.
    pub(super) fn number(&self) -> i64 {
        self.order_id
    }

    pub(super) fn report(&self) -> Result<OrderReport, Unreadable> {
        let fills = self.fills.iter().map(|fill| self.fill(fill)).collect::<Result<_, _>>()?;
        Ok(OrderReport {
            client_id: self.client_id(),
            venue_id: VenueOrderId(self.order_id),
            symbol: symbol(&self.symbol)?,
            status: status(&self.status)?,
            executed: Qty::new(unsigned("executedQty", &self.executed_qty)?),
            fills,
        })
    }

    /// What fills while an order arrives was taken from the book by it.
    fn fill(&self, row: &FillRow) -> Result<Fill, Unreadable> {
        Ok(Fill {
            trade_id: TradeId(row.trade_id),
            client_id: self.client_id(),
            venue_id: VenueOrderId(self.order_id),
            symbol: symbol(&self.symbol)?,
            side: side(&self.side)?,
            price: positive("price", &row.price)?,
            qty: positive("qty", &row.qty)?,
            fee: Amount::new(unsigned("commission", &row.commission)?),
            fee_asset: Asset::new(&row.commission_asset),
            maker: false,
            at: Timestamp::from_millis(self.transact_time),
        })
    }
}

/// The reports of a list of orders. Orders of others may be in symbols and sizes that mean nothing here: they are left out.
/// One of ours that cannot be read spoils the whole.
pub(super) fn reports(rows: &[OrderRow]) -> Result<Vec<OrderReport>, Unreadable> {
    let readable = rows.iter().map(|row| (row, row.report()));
    readable
        .filter(|(row, report)| report.is_ok() || row.client_id().has_our_shape())
        .map(|(_, report)| report)
        .collect()
}

/// `myTrades`: it names the order by the venue's number only.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TradeRow {
    id: i64,
    pub(super) order_id: i64,
    price: String,
    qty: String,
    commission: String,
    commission_asset: String,
    time: i64,
    is_buyer: bool,
    is_maker: bool,
}

impl TradeRow {
    /// When, by the venue's clock.
    pub(super) fn at(&self) -> Timestamp {
        Timestamp::from_millis(self.time)
    }

    pub(super) fn fill(&self, symbol: &Symbol, client_id: ClientOrderId) -> Result<Fill, Unreadable> {
        Ok(Fill {
            trade_id: TradeId(self.id),
            client_id,
            venue_id: VenueOrderId(self.order_id),
            symbol: symbol.clone(),
            side: if self.is_buyer { Side::Buy } else { Side::Sell },
            price: positive("price", &self.price)?,
            qty: positive("qty", &self.qty)?,
            fee: Amount::new(unsigned("commission", &self.commission)?),
            fee_asset: Asset::new(&self.commission_asset),
            maker: self.is_maker,
            at: Timestamp::from_millis(self.time),
        })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Account {
    balances: Vec<BalanceRow>,
}

#[derive(Debug, Deserialize)]
struct BalanceRow {
    asset: String,
    free: String,
    locked: String,
}

impl Account {
    /// What is there. Assets of which there is nothing are left out, save those in `named`.
    pub(super) fn balances(&self, named: &[Asset]) -> Result<Vec<VenueBalance>, Unreadable> {
        let mut balances = Vec::new();
        for row in &self.balances {
            let (free, locked) = (unsigned("free", &row.free)?, unsigned("locked", &row.locked)?);
            let total = free.checked_add(locked).ok_or_else(|| unreadable("balance", &row.free))?;
            let asset = Asset::new(&row.asset);
            if !total.is_zero() || named.contains(&asset) {
                balances.push(VenueBalance { asset, total: Amount::new(total) });
            }
        }
        Ok(balances)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServerTime {
    pub(super) server_time: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExchangeInfo {
    #[serde(default)]
    rate_limits: Vec<RateLimit>,
    symbols: Vec<SymbolRow>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RateLimit {
    #[serde(rename = "rateLimitType")]
    kind: String,
    interval: String,
    interval_num: u32,
    limit: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SymbolRow {
    symbol: String,
    base_asset: String,
    quote_asset: String,
    #[serde(default = "eight")]
    quote_precision: u32,
    #[serde(default)]
    filters: Vec<Filter>,
}

const fn eight() -> u32 {
    8
}

#[derive(Debug, Deserialize)]
#[serde(tag = "filterType")]
enum Filter {
    #[serde(rename = "PRICE_FILTER", rename_all = "camelCase")]
    Price { tick_size: String },
    #[serde(rename = "LOT_SIZE", rename_all = "camelCase")]
    Lot { min_qty: String, step_size: String },
    #[serde(rename = "MIN_NOTIONAL", rename_all = "camelCase")]
    MinNotional { min_notional: String },
    #[serde(rename = "NOTIONAL", rename_all = "camelCase")]
    Notional { min_notional: String },
    #[serde(rename = "MAX_NUM_ORDERS", rename_all = "camelCase")]
    MaxNumOrders { max_num_orders: usize },
    #[serde(other)]
    Other,
}

impl ExchangeInfo {
    /// The weight of a minute, if the venue limits it.
    pub(super) fn weight_limit(&self) -> Option<u32> {
        let mut minute = self
            .rate_limits
            .iter()
            .filter(|limit| limit.kind == "REQUEST_WEIGHT" && limit.interval == "MINUTE" && limit.interval_num == 1);
        minute.next().map(|limit| limit.limit)
    }

    /// How many orders an account may make, by interval.
    pub(super) fn order_limits(&self) -> Vec<OrderLimit> {
        let orders = self.rate_limits.iter().filter(|limit| limit.kind == "ORDERS");
        orders
            .filter_map(|limit| {
                let interval = interval(limit.interval.chars().next()?, limit.interval_num)?;
                Some(OrderLimit { interval, limit: limit.limit })
            })
            .collect()
    }

    /// Those of `wanted` that the venue trades, with their filters.
    pub(super) fn symbols(&self, wanted: &[Symbol]) -> Result<Vec<SymbolInfo>, Unreadable> {
        let wanted = |row: &&SymbolRow| wanted.iter().any(|symbol| symbol.as_str() == row.symbol);
        self.symbols.iter().filter(wanted).map(SymbolRow::info).collect()
    }
}

impl SymbolRow {
    fn info(&self) -> Result<SymbolInfo, Unreadable> {
        let mut info = SymbolInfo {
            symbol: symbol(&self.symbol)?,
            base: Asset::new(&self.base_asset),
            quote: Asset::new(&self.quote_asset),
            tick: Price::new(Decimal::new(1, self.quote_precision.min(8))),
            lot: Qty::new(Decimal::new(1, 8)),
            min_qty: Qty::new(Decimal::new(1, 8)),
            min_notional: Amount::ZERO,
            max_open_orders: DEFAULT_OPEN_ORDERS,
        };
        for filter in &self.filters {
            match filter {
                // Zero switches a rule off.
                Filter::Price { tick_size } => {
                    let tick = unsigned("tickSize", tick_size)?;
                    if !tick.is_zero() {
                        info.tick = Price::new(tick);
                    }
                }
                Filter::Lot { min_qty, step_size } => {
                    (info.min_qty, info.lot) = (positive("minQty", min_qty)?, positive("stepSize", step_size)?);
                }
                Filter::MinNotional { min_notional } | Filter::Notional { min_notional } => {
                    let least = Amount::new(unsigned("minNotional", min_notional)?);
                    info.min_notional = info.min_notional.max(least);
                }
                Filter::MaxNumOrders { max_num_orders } => info.max_open_orders = *max_num_orders,
                Filter::Other => {}
            }
        }
        Ok(info)
    }
}

/// An interval such as 10 and `S`.
pub(super) fn interval(letter: char, count: u32) -> Option<Duration> {
    let seconds = match letter {
        'S' => 1,
        'M' => 60,
        'H' => 3_600,
        'D' => 86_400,
        _ => return None,
    };
    (count > 0).then(|| Duration::from_secs(seconds).saturating_mul(count))
}

/// An error's body.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorBody {
    pub(super) code: i32,
    #[serde(default)]
    pub(super) msg: String,
}

/// What arrives on the account's stream, in or out of an envelope.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StreamMessage {
    /// An order changed; with the quantity that was just filled, if that is why.
    Report { report: OrderReport, last: Option<Qty> },
    /// The subscription has ended.
    Terminated,
    /// The server is about to close the connection.
    Shutdown,
    /// The answer to a request: an error's code and words if it failed.
    Answer { status: u16, code: Option<i32>, message: String },
    /// Nothing that matters here.
    Other,
}

#[derive(Deserialize)]
struct Frame {
    event: Option<serde_json::Value>,
    e: Option<String>,
    status: Option<u16>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct Execution {
    s: String,
    c: String,
    #[serde(rename = "C", default)]
    original: Option<String>,
    #[serde(rename = "S")]
    side: String,
    x: String,
    #[serde(rename = "X")]
    status: String,
    i: i64,
    l: String,
    z: String,
    #[serde(rename = "L")]
    last_price: String,
    n: Option<String>,
    #[serde(rename = "N")]
    fee_asset: Option<String>,
    #[serde(rename = "T")]
    at: i64,
    t: i64,
    m: bool,
}

/// Reads one message. A report of a foreign order that cannot be read is [`StreamMessage::Other`]; of ours, an error.
pub(super) fn stream_message(text: &str) -> Result<StreamMessage, Unreadable> {
    let frame: Frame = serde_json::from_str(text).map_err(|_| unreadable("stream message", text))?;
    if let Some(status) = frame.status {
        let (code, message) = frame.error.map_or((None, String::new()), |error| (Some(error.code), error.msg));
        return Ok(StreamMessage::Answer { status, code, message });
    }
    let kind = frame.e.as_deref().or_else(|| frame.event.as_ref()?.get("e")?.as_str());
    match kind {
        Some("eventStreamTerminated") => Ok(StreamMessage::Terminated),
        Some("serverShutdown") => Ok(StreamMessage::Shutdown),
        Some("executionReport") => {
            let event = frame.event.unwrap_or_default();
            let ids = ["c", "C"].map(|name| event.get(name).and_then(serde_json::Value::as_str).map(client_id));
            let ours = ids.iter().flatten().any(ClientOrderId::has_our_shape);
            let read = Execution::deserialize(event).map_err(|_| unreadable("executionReport", text));
            match read.and_then(|execution| execution.message()) {
                Err(_) if !ours => Ok(StreamMessage::Other),
                result => result,
            }
        }
        _ => Ok(StreamMessage::Other),
    }
}

impl Execution {
    fn message(&self) -> Result<StreamMessage, Unreadable> {
        // On a cancel `c` is the cancel's own id and `C` the order's.
        let shown = self.original.as_deref().filter(|original| !original.is_empty()).unwrap_or(&self.c);
        let mut report = OrderReport {
            client_id: client_id(shown),
            venue_id: VenueOrderId(self.i),
            symbol: symbol(&self.s)?,
            status: status(&self.status)?,
            executed: Qty::new(unsigned("cumulative quantity", &self.z)?),
            fills: Vec::new(),
        };
        let mut last = None;
        if self.x == "TRADE" {
            let qty: Qty = positive("last quantity", &self.l)?;
            let fee = self.n.as_deref().unwrap_or("0");
            last = Some(qty);
            report.fills.push(Fill {
                trade_id: TradeId(self.t),
                client_id: report.client_id.clone(),
                venue_id: report.venue_id,
                symbol: report.symbol.clone(),
                side: side(&self.side)?,
                price: positive("last price", &self.last_price)?,
                qty,
                fee: Amount::new(unsigned("commission", fee)?),
                fee_asset: Asset::new(self.fee_asset.as_deref().unwrap_or_default()),
                maker: self.m,
                at: Timestamp::from_millis(self.at),
            });
        }
        Ok(StreamMessage::Report { report, last })
    }
}

#[cfg(test)]
mod tests;
