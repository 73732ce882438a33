//! The signal follower: it does what signals say.

use serde::{Deserialize, Serialize};

use super::{Answer, ConfigError, Intent, Occasion, OrderSpec, View, check_qty, sellable};
use crate::exchange::{OrderKind, Side, TimeInForce};
use crate::market::SymbolInfo;
use crate::money::{Price, Qty};
use crate::risk::prices;
use crate::signal::Action;

/// Settings of a signal follower.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How much to trade when a signal does not say.
    pub default_qty: Qty,
}

impl Config {
    pub(super) fn validate(&self, symbol: &SymbolInfo) -> Result<(), ConfigError> {
        check_qty("default_qty", self.default_qty, symbol)
    }
}

pub(super) fn decide(config: &Config, view: &View<'_>, occasion: Occasion<'_>) -> Answer {
    let Occasion::Signal(signal) = occasion else { return Answer::default() };
    match plan(config, view, &signal.action) {
        Ok(spec) => Answer { intents: vec![Intent::Place(spec)], ..Answer::default() },
        Err(reason) => Answer { skip: Some(reason), ..Answer::default() },
    }
}

/// The one order that an action asks for, or why there is none.
fn plan(config: &Config, view: &View<'_>, action: &Action) -> Result<OrderSpec, String> {
    let (side, kind, tif, wanted) = match *action {
        Action::Buy { qty, order, tif } => (Side::Buy, order, tif, qty.unwrap_or(config.default_qty)),
        Action::Sell { qty, order, tif } => (Side::Sell, order, tif, qty.unwrap_or(config.default_qty)),
        Action::Close => (Side::Sell, OrderKind::Market, TimeInForce::Gtc, sellable(view)),
    };
    for (field, price) in prices(kind) {
        let tick = view.symbol.tick;
        if price <= Price::ZERO || price.floor_to(tick) != price {
            return Err(format!("{field}: {price} is not a positive multiple of the tick {tick}"));
        }
    }
    let wanted = if side == Side::Sell { wanted.min(sellable(view)) } else { wanted };
    if side == Side::Sell && wanted <= Qty::ZERO {
        let held = view.position.qty;
        return Err(format!("nothing to sell: {held} held, and what is not below a lot is being sold already"));
    }
    let qty = wanted.floor_to(view.symbol.lot);
    check_size(view, side, kind, wanted, qty)?;
    Ok(OrderSpec { side, kind, tif, qty })
}

fn check_size(view: &View<'_>, side: Side, kind: OrderKind, wanted: Qty, qty: Qty) -> Result<(), String> {
    let SymbolInfo { lot, min_qty, min_notional, .. } = *view.symbol;
    if qty <= Qty::ZERO {
        return Err(format!("qty: {wanted} is below the lot {lot}"));
    }
    if qty < min_qty {
        return Err(format!("qty: {qty} is below the venue's minimum {min_qty}"));
    }
    let market = view.quote.map(|quote| if side == Side::Buy { quote.ask } else { quote.bid });
    match kind.price().or(market).map(|price| price.notional(qty)) {
        Some(value) if value < min_notional => {
            Err(format!("qty: {qty} is worth {value}, below the venue's minimum {min_notional}"))
        }
        _ => Ok(()),
    }
}
