//! What is checked before an order is accepted, in the words and codes of Binance's spot API (`errors.md`, `filters.md`).

use std::time::Duration;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use trading::exchange::{NewOrder, OrderKind, Side, VenueBalance};
use trading::market::{Quote, SymbolInfo};
use trading::money::{MAX_VALUE, Price};
use trading::time::Timestamp;

use crate::state::{Account, Order, crosses};

/// How far a request's timestamp may be ahead of the venue's clock.
pub const MAX_AHEAD: Duration = Duration::from_secs(1);

/// A venue's "no", with its code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code} {reason}")]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// Binance's code.
    pub code: i32,
    /// Binance's words.
    pub reason: String,
}

impl Refusal {
    /// A refusal with these words.
    pub fn new(code: i32, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    pub(crate) fn duplicate() -> Self {
        Self::new(-2010, "Duplicate order sent.")
    }

    /// Whether it proves that the order is not at the venue and never will be. A duplicate proves the opposite, and
    /// -1000 to -1008 are the venue's own troubles.
    pub fn is_definitive(&self) -> bool {
        match self.code {
            -1000 | -1001 | -1006 | -1007 | -1008 => false,
            -2010 => !self.reason.starts_with("Duplicate order"),
            _ => true,
        }
    }
}

fn filter(name: &str) -> Refusal {
    Refusal::new(-1013, format!("Filter failure: {name}"))
}

/// Whether a request of this time is accepted now. Refuses with -1021.
pub fn check_time(timestamp: Timestamp, recv_window: Duration, now: Timestamp) -> Result<(), Refusal> {
    if now > timestamp.after(recv_window) {
        return Err(Refusal::new(-1021, "Timestamp for this request is outside of the recvWindow."));
    }
    if timestamp > now.after(MAX_AHEAD) {
        return Err(Refusal::new(-1021, "Timestamp for this request was 1000ms ahead of the server's time."));
    }
    Ok(())
}

/// Price, quantity, value and number of orders. `quote` is the market now.
pub(crate) fn check_filters(
    order: &NewOrder,
    info: &SymbolInfo,
    account: &Account,
    quote: Option<&Quote>,
) -> Result<(), Refusal> {
    let stop_price = match order.kind {
        OrderKind::StopLimit { stop_price, .. } => Some(stop_price),
        _ => None,
    };
    for price in order.kind.price().into_iter().chain(stop_price) {
        let in_range = price > Price::ZERO && price.get() < MAX_VALUE;
        if !in_range || price.floor_to(info.tick) != price {
            return Err(filter("PRICE_FILTER"));
        }
    }
    let in_range = !order.qty.is_zero() && order.qty >= info.min_qty && order.qty.get() < MAX_VALUE;
    if !in_range || order.qty.get().is_sign_negative() || order.qty.floor_to(info.lot) != order.qty {
        return Err(filter("LOT_SIZE"));
    }
    let price = match (order.kind.price(), quote) {
        (Some(price), _) => price,
        (None, Some(quote)) => taker_price(order.side, quote),
        (None, None) => return Err(Refusal::new(-2010, "Market is closed.")),
    };
    if price.notional(order.qty) < info.min_notional {
        return Err(filter("NOTIONAL"));
    }
    let open = account.open_orders().filter(|open| open.new.symbol == order.symbol).count();
    if open >= info.max_open_orders {
        return Err(filter("MAX_NUM_ORDERS"));
    }
    Ok(())
}

/// Duplicates, prices that contradict the kind of order, and funds.
pub(crate) fn check_order(
    order: &NewOrder,
    info: &SymbolInfo,
    account: &Account,
    quote: Option<&Quote>,
) -> Result<(), Refusal> {
    if account.by_client(&order.client_id).is_some_and(Order::is_open) {
        return Err(Refusal::duplicate());
    }
    if let Some(quote) = quote {
        match order.kind {
            OrderKind::PostOnly { price } if crosses(order.side, Some(price), taker_price(order.side, quote)) => {
                return Err(Refusal::new(-2010, "Order would immediately match and take."));
            }
            OrderKind::StopLimit { stop_price, .. }
                if triggers(order.side, stop_price, taker_price(order.side, quote)) =>
            {
                return Err(Refusal::new(-2010, "Order would trigger immediately."));
            }
            _ => {}
        }
    }
    let price = order.kind.price().or(quote.map(|quote| taker_price(order.side, quote))).unwrap_or_default();
    let (asset, needed) = match order.side {
        Side::Buy => (&info.quote, price.notional(order.qty)),
        Side::Sell => (&info.base, order.qty.amount()),
    };
    if account.holding(asset).free() < needed {
        return Err(Refusal::new(-2010, "Account has insufficient balance for requested action."));
    }
    Ok(())
}

/// What an aggressor of this side pays or gets.
pub(crate) fn taker_price(side: Side, quote: &Quote) -> Price {
    match side {
        Side::Buy => quote.ask,
        Side::Sell => quote.bid,
    }
}

/// Whether a market at `price` sets off a stop.
pub(crate) fn triggers(side: Side, stop_price: Price, price: Price) -> bool {
    match side {
        Side::Buy => price >= stop_price,
        Side::Sell => price <= stop_price,
    }
}

/// Refuses opening balances that are negative, or have more than twelve digits before the point or eight after it: within
/// that, everything is computed exactly.
pub fn check_opening(opening: &[VenueBalance]) -> Result<(), Refusal> {
    let exact = |amount: Decimal| amount.normalize().scale() <= 8 && amount.trunc().mantissa() < 1_000_000_000_000;
    match opening.iter().find(|b| b.total.get().is_sign_negative() || !exact(b.total.get())) {
        Some(balance) => Err(Refusal::new(-1100, format!("Illegal opening balance of {}.", balance.asset))),
        None => Ok(()),
    }
}
