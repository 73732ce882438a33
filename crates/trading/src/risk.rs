//! Risk: what an order must pass before it may be sent. Pure: everything it judges by is in a [`Check`].
//!
//! On a spot account a sell can only reduce what is held, because a sell above it is denied. So "entry" means buy and "exit"
//! means sell: limits on value, the kill switch and the wait for unknown orders hold back entries only.

use std::collections::VecDeque;
use std::fmt;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::exchange::{OrderKind, Side, TimeInForce};
use crate::market::{Asset, Quote, SymbolInfo};
use crate::money::{Amount, Price, Qty};
use crate::order::Order;
use crate::position::Position;
use crate::robot::OrderSpec;
use crate::time::Timestamp;

/// How far through the market a limit price may be when no limit says otherwise, in percent.
pub const DEFAULT_MAX_PRICE_DEVIATION_PERCENT: u32 = 20;
/// A market buy reserves the ask times this: the ask may rise before it trades.
pub const MARKET_HEADROOM: Decimal = Decimal::from_parts(102, 0, 0, false, 2);
/// A buy must leave room for a fee that is taken in the quote asset.
pub const FEE_HEADROOM: Decimal = Decimal::from_parts(1_002, 0, 0, false, 3);

/// Limits of a robot or an account. An absent limit does not limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The largest price x quantity of one buy, in the quote asset.
    pub max_order_notional: Option<Amount>,
    /// The largest value of what is held and being bought, in the quote asset.
    pub max_position_notional: Option<Amount>,
    /// How many orders may be live at once.
    pub max_open_orders: Option<usize>,
    /// How many orders may be sent in any minute.
    pub max_orders_per_minute: Option<usize>,
    /// How far through the market a limit price may be, in percent of the best ask (buy) or bid (sell).
    /// [`DEFAULT_MAX_PRICE_DEVIATION_PERCENT`] if neither robot nor account says; otherwise the narrower of the two.
    pub max_price_deviation_percent: Option<u32>,
}

/// Which orders may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All that keep the rules.
    #[default]
    Normal,
    /// The kill switch is on: only orders that reduce the position.
    ReduceOnly,
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The robot's.
    Robot,
    /// The account's.
    Account,
    /// The venue's, for the symbol.
    Symbol,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Robot => "the robot",
            Scope::Account => "the account",
            Scope::Symbol => "the symbol",
        })
    }
}

/// Why an order may not be sent: the rule, the value and the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The kill switch is on and the order is an entry.
    #[error("halted: only orders that reduce the position may pass")]
    Halted,
    /// Orders whose state at the venue is unknown hold back entries of their robot and symbol.
    #[error("unknown orders: {count} must be resolved before the next entry")]
    UnknownOrders {
        /// How many.
        count: usize,
    },
    /// A price is zero or below, or no multiple of the tick.
    #[error("tick: {field} {price} is not a positive multiple of {tick}")]
    Tick {
        /// `price` or `stop_price`.
        field: &'static str,
        /// What was wanted.
        price: Price,
        /// The venue's tick.
        tick: Price,
    },
    /// The quantity is zero or below, or no multiple of the lot.
    #[error("lot: quantity {qty} is not a positive multiple of {lot}")]
    Lot {
        /// What was wanted.
        qty: Qty,
        /// The venue's lot.
        lot: Qty,
    },
    /// The quantity is below the venue's minimum.
    #[error("min_qty: quantity {qty} is below {limit}")]
    MinQty {
        /// What was wanted.
        qty: Qty,
        /// The venue's minimum.
        limit: Qty,
    },
    /// Price x quantity is below the venue's minimum.
    #[error("min_notional: value {value} is below {limit}")]
    MinNotional {
        /// What was wanted.
        value: Amount,
        /// The venue's minimum.
        limit: Amount,
    },
    /// There was no best bid and ask since the start, so an entry cannot be judged.
    #[error("no quote: an entry is judged by the best bid and ask, and there is none yet")]
    NoQuote,
    /// The limit price is too far through the market.
    #[error("price band: price {price} is beyond {limit}, {percent} % through the market")]
    PriceBand {
        /// What was wanted.
        price: Price,
        /// The worst price that passes.
        limit: Price,
        /// The width of the band.
        percent: u32,
    },
    /// One order is worth too much.
    #[error("max_order_notional of {scope}: value {value} is above {limit}")]
    MaxOrderNotional {
        /// Whose limit.
        scope: Scope,
        /// What the order is worth.
        value: Amount,
        /// The limit.
        limit: Amount,
    },
    /// What is held and being bought would be worth too much.
    #[error("max_position_notional of {scope}: value {value} is above {limit}")]
    MaxPositionNotional {
        /// Whose limit.
        scope: Scope,
        /// What it would be worth with this order.
        value: Amount,
        /// The limit.
        limit: Amount,
    },
    /// Too many live orders.
    #[error("max_open_orders of {scope}: {open} are open, the limit is {limit}")]
    MaxOpenOrders {
        /// Whose limit.
        scope: Scope,
        /// How many are live without this one.
        open: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many orders in the last minute.
    #[error("max_orders_per_minute of {scope}: {sent} were sent, the limit is {limit}")]
    MaxOrdersPerMinute {
        /// Whose limit.
        scope: Scope,
        /// How many were sent in the last minute without this one.
        sent: usize,
        /// The limit.
        limit: usize,
    },
    /// More would be sold than the robot holds beyond what its live sells reserve.
    #[error("position: quantity {qty} is above the {available} that are held and not being sold")]
    Position {
        /// What was wanted.
        qty: Qty,
        /// What may be sold.
        available: Amount,
    },
    /// The account lacks the funds.
    #[error("funds: {needed} {asset} needed, {free} free")]
    Funds {
        /// Of which asset.
        asset: Asset,
        /// What the order would reserve, with headroom.
        needed: Amount,
        /// What is not reserved yet.
        free: Amount,
    },
}

/// One order and everything it is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Check<'a> {
    /// The order.
    pub spec: &'a OrderSpec,
    /// The symbol's filters.
    pub symbol: &'a SymbolInfo,
    /// The last best bid and ask, if there was one since the start.
    pub quote: Option<&'a Quote>,
    /// The robot's limits.
    pub robot_limits: &'a Limits,
    /// The account's limits.
    pub account_limits: &'a Limits,
    /// Whether a kill switch is on: the robot's, the account's, or the server's.
    pub mode: Mode,
    /// What the robot holds.
    pub position: &'a Position,
    /// What of the robot's base asset its live sells reserve: the sum of [`reserved`] over them.
    pub robot_reserved_base: Amount,
    /// The robot's live orders.
    pub robot_open_orders: usize,
    /// The account's live orders.
    pub account_open_orders: usize,
    /// The account's live orders in this symbol.
    pub symbol_open_orders: usize,
    /// How many orders of this robot or in this symbol are UNKNOWN.
    pub unknown_orders: usize,
    /// The value of the robot's live buys, in the quote asset: the sum of [`reserved`] over them.
    pub robot_exposure: Amount,
    /// The value of what all the account's robots hold and are buying, in this quote asset.
    pub account_exposure: Amount,
    /// What of the quote asset is not reserved by live orders of the account.
    pub free_quote: Amount,
    /// What of the base asset is not reserved by live orders of the account.
    pub free_base: Amount,
    /// How many orders the robot sent in the last minute: see [`Rate`].
    pub robot_rate: usize,
    /// How many orders the account sent in the last minute.
    pub account_rate: usize,
}

impl Check<'_> {
    /// Judges the order.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self) -> Result<(), Denial> {
        self.filters()?;
        match self.spec.side {
            Side::Buy => self.entry()?,
            Side::Sell => self.exit()?,
        }
        self.counts()
    }

    /// The venue's filters.
    fn filters(&self) -> Result<(), Denial> {
        let SymbolInfo { tick, lot, min_qty, min_notional, .. } = *self.symbol;
        let qty = self.spec.qty;
        for (field, price) in prices(self.spec.kind) {
            if price <= Price::ZERO || price.floor_to(tick) != price {
                return Err(Denial::Tick { field, price, tick });
            }
        }
        if qty <= Qty::ZERO || qty.floor_to(lot) != qty {
            return Err(Denial::Lot { qty, lot });
        }
        if qty < min_qty {
            return Err(Denial::MinQty { qty, limit: min_qty });
        }
        match self.reference().map(|price| price.notional(qty)) {
            Some(value) if value < min_notional => Err(Denial::MinNotional { value, limit: min_notional }),
            _ => Ok(()),
        }
    }

    fn entry(&self) -> Result<(), Denial> {
        if self.mode == Mode::ReduceOnly {
            return Err(Denial::Halted);
        }
        if self.unknown_orders > 0 {
            return Err(Denial::UnknownOrders { count: self.unknown_orders });
        }
        let quote = self.quote.ok_or(Denial::NoQuote)?;
        self.price_band(quote)?;
        let (_, value) = requirement(Side::Buy, self.spec.kind, self.spec.qty, Some(quote.ask));
        let held = Amount::new(self.position.qty.get().max(Decimal::ZERO) * quote.bid.get());
        let exposures =
            [(Scope::Robot, held + self.robot_exposure + value), (Scope::Account, self.account_exposure + value)];
        for (scope, exposure) in exposures {
            let limits = self.limits(scope);
            if let Some(limit) = limits.max_order_notional.filter(|limit| value > *limit) {
                return Err(Denial::MaxOrderNotional { scope, value, limit });
            }
            if let Some(limit) = limits.max_position_notional.filter(|limit| exposure > *limit) {
                return Err(Denial::MaxPositionNotional { scope, value: exposure, limit });
            }
        }
        let needed = Amount::new(value.get() * FEE_HEADROOM);
        if needed > self.free_quote {
            return Err(Denial::Funds { asset: self.symbol.quote.clone(), needed, free: self.free_quote });
        }
        Ok(())
    }

    fn exit(&self) -> Result<(), Denial> {
        let qty = self.spec.qty;
        let available = self.position.qty - self.robot_reserved_base;
        if qty.amount() > available {
            return Err(Denial::Position { qty, available });
        }
        if qty.amount() > self.free_base {
            let (needed, free) = (qty.amount(), self.free_base);
            return Err(Denial::Funds { asset: self.symbol.base.clone(), needed, free });
        }
        self.quote.map_or(Ok(()), |quote| self.price_band(quote))
    }

    /// A price far through the market is a typing error more often than a wish.
    fn price_band(&self, quote: &Quote) -> Result<(), Denial> {
        let Some(price) = self.spec.kind.price() else { return Ok(()) };
        let percent = [self.robot_limits, self.account_limits]
            .iter()
            .filter_map(|limits| limits.max_price_deviation_percent)
            .min()
            .unwrap_or(DEFAULT_MAX_PRICE_DEVIATION_PERCENT);
        let width = Decimal::new(i64::from(percent), 2);
        // A stop-limit order meets the market where it is triggered.
        let (ask, bid) = match self.spec.kind {
            OrderKind::StopLimit { stop_price, .. } => (stop_price, stop_price),
            _ => (quote.ask, quote.bid),
        };
        let (limit, through) = match self.spec.side {
            Side::Buy => {
                let limit = Price::new(ask.get() * (Decimal::ONE + width));
                (limit, price > limit)
            }
            Side::Sell => {
                let limit = Price::new(bid.get() * (Decimal::ONE - width));
                (limit, price < limit)
            }
        };
        if through { Err(Denial::PriceBand { price, limit, percent }) } else { Ok(()) }
    }

    /// How many orders may rest and how many may be sent. A market sell is the way out: our own counts do not bar it.
    fn counts(&self) -> Result<(), Denial> {
        if self.spec.side == Side::Sell && self.spec.kind == OrderKind::Market {
            return Ok(());
        }
        let rests = self.spec.kind != OrderKind::Market && self.spec.tif == TimeInForce::Gtc;
        let open = [
            (Scope::Robot, self.robot_open_orders, self.robot_limits.max_open_orders),
            (Scope::Account, self.account_open_orders, self.account_limits.max_open_orders),
            (Scope::Symbol, self.symbol_open_orders, Some(self.symbol.max_open_orders)),
        ];
        for (scope, open, limit) in open {
            if let Some(limit) = limit.filter(|limit| rests && open >= *limit) {
                return Err(Denial::MaxOpenOrders { scope, open, limit });
            }
        }
        for (scope, sent) in [(Scope::Robot, self.robot_rate), (Scope::Account, self.account_rate)] {
            if let Some(limit) = self.limits(scope).max_orders_per_minute.filter(|limit| sent >= *limit) {
                return Err(Denial::MaxOrdersPerMinute { scope, sent, limit });
            }
        }
        Ok(())
    }

    fn limits(&self, scope: Scope) -> &Limits {
        if scope == Scope::Robot { self.robot_limits } else { self.account_limits }
    }

    /// What the order's value is reckoned by.
    fn reference(&self) -> Option<Price> {
        self.spec.kind.price().or_else(|| {
            self.quote.map(|quote| match self.spec.side {
                Side::Buy => quote.ask,
                Side::Sell => quote.bid,
            })
        })
    }
}

/// The prices that an order names, with the name of each.
pub(crate) fn prices(kind: OrderKind) -> impl Iterator<Item = (&'static str, Price)> {
    let stop = match kind {
        OrderKind::StopLimit { stop_price, .. } => Some(("stop_price", stop_price)),
        OrderKind::Market | OrderKind::Limit { .. } | OrderKind::PostOnly { .. } => None,
    };
    stop.into_iter().chain(kind.price().map(|price| ("price", price)))
}

/// Which of a symbol's two assets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AssetKind {
    /// What is bought and sold.
    Base,
    /// What it is paid in.
    Quote,
}

/// What an order that has not ended keeps from being used again: a buy its price x quantity in the quote asset, a sell its
/// quantity in the base asset, both for what may still be filled or booked ([`Order::outstanding`]).
///
/// `ask` prices market buys. Without one they reserve nothing; no entry passes without a quote either.
pub fn reserved(order: &Order, ask: Option<Price>) -> (AssetKind, Amount) {
    requirement(order.side, order.kind, order.outstanding(), ask)
}

fn requirement(side: Side, kind: OrderKind, qty: Qty, ask: Option<Price>) -> (AssetKind, Amount) {
    match side {
        Side::Sell => (AssetKind::Base, qty.amount()),
        Side::Buy => {
            let price = kind.price().or_else(|| ask.map(|ask| Price::new(ask.get() * MARKET_HEADROOM)));
            (AssetKind::Quote, price.map_or(Amount::ZERO, |price| price.notional(qty)))
        }
    }
}

/// Seconds that a [`Rate`] looks back, the current one included: a minute, and the second that a minute ago lies in.
const WINDOW_S: i64 = 61;

/// Counts orders in a sliding minute, in at most 61 numbers: by the second, so it may count up to a second too much and never
/// too little.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rate {
    seconds: VecDeque<(i64, usize)>,
}

impl Rate {
    /// One order is sent. A time before the last one counts as the last one.
    pub fn record(&mut self, now: Timestamp) {
        let second = now.micros().div_euclid(1_000_000);
        match self.seconds.back_mut() {
            Some((last, count)) if *last >= second => *count = count.saturating_add(1),
            _ => self.seconds.push_back((second, 1)),
        }
        let newest = self.seconds.back().map_or(second, |(last, _)| *last);
        while self.seconds.front().is_some_and(|(first, _)| newest.saturating_sub(*first) >= WINDOW_S) {
            self.seconds.pop_front();
        }
    }

    /// How many orders were sent in the minute before `now`.
    pub fn count(&self, now: Timestamp) -> usize {
        let second = now.micros().div_euclid(1_000_000);
        let inside = self.seconds.iter().filter(|(at, _)| second.saturating_sub(*at) < WINDOW_S);
        inside.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}
