//! What the core knows of a venue: what is asked of it and what it answers. Gateways translate to and from these.

use serde::{Deserialize, Serialize};

use crate::ids::{ClientOrderId, TradeId, VenueOrderId};
use crate::market::{Asset, Symbol};
use crate::money::{Amount, Price, Qty};
use crate::time::Timestamp;

/// Buy or sell the base asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Buy.
    Buy,
    /// Sell.
    Sell,
}

/// How an order is priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OrderKind {
    /// At the best price available, at once.
    Market,
    /// At this price or better.
    Limit {
        /// The worst acceptable price.
        price: Price,
    },
    /// At this price, and refused if it would trade at once.
    PostOnly {
        /// The resting price.
        price: Price,
    },
    /// Becomes a limit order once the market trades at `stop_price` (buy: at or above, sell: at or below).
    StopLimit {
        /// The trigger.
        stop_price: Price,
        /// The worst acceptable price after the trigger.
        price: Price,
    },
}

impl OrderKind {
    /// The limit price, if it has one.
    pub fn price(&self) -> Option<Price> {
        match self {
            OrderKind::Market => None,
            OrderKind::Limit { price } | OrderKind::PostOnly { price } | OrderKind::StopLimit { price, .. } => {
                Some(*price)
            }
        }
    }
}

/// How long an order lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeInForce {
    /// Good till cancelled.
    #[default]
    Gtc,
    /// Immediate or cancel: what does not fill at once expires.
    Ioc,
    /// Fill or kill: all at once or nothing.
    Fok,
}

/// An order as it is sent to a venue, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewOrder {
    /// Our id; the venue repeats it.
    pub client_id: ClientOrderId,
    /// The pair.
    pub symbol: Symbol,
    /// Buy or sell.
    pub side: Side,
    /// How it is priced.
    #[serde(flatten)]
    pub kind: OrderKind,
    /// How long it lives. Meaningless for market orders.
    pub tif: TimeInForce,
    /// Quantity of the base asset.
    pub qty: Qty,
    /// The request's time. The venue refuses it after `timestamp + recv_window`, which is what makes absence provable.
    pub timestamp: Timestamp,
}

/// What a venue says an order's state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VenueStatus {
    /// Resting (or waiting for its stop price), nothing filled.
    New,
    /// Resting, partly filled.
    PartiallyFilled,
    /// Done: all filled.
    Filled,
    /// Done: cancelled on request.
    Canceled,
    /// Done: refused after it was accepted.
    Rejected,
    /// Done: ended by its own terms (IOC, FOK, post-only) or by the venue.
    Expired,
}

/// A venue's report of one of the account's orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderReport {
    /// The id that its sender gave it; foreign orders have foreign ids.
    pub client_id: ClientOrderId,
    /// The venue's number.
    pub venue_id: VenueOrderId,
    /// The pair.
    pub symbol: Symbol,
    /// Its state now.
    pub status: VenueStatus,
    /// How much is filled in all.
    pub executed: Qty,
    /// The fills that came with this report. May be empty although `executed` is not; then they are fetched.
    pub fills: Vec<Fill>,
}

/// One fill of one of the account's orders (a "trade" in the venue's words).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// The venue's number of the trade, growing per symbol.
    pub trade_id: TradeId,
    /// The order it belongs to.
    pub client_id: ClientOrderId,
    /// The order it belongs to, by the venue's number.
    pub venue_id: VenueOrderId,
    /// The pair.
    pub symbol: Symbol,
    /// Buy or sell.
    pub side: Side,
    /// Price.
    pub price: Price,
    /// Quantity.
    pub qty: Qty,
    /// The fee, zero or above, in `fee_asset`.
    pub fee: Amount,
    /// What the fee is paid in: usually what was received (base for a buy, quote for a sell).
    pub fee_asset: Asset,
    /// Whether our order was resting.
    pub maker: bool,
    /// When, by the venue's clock.
    pub at: Timestamp,
}

/// The end of one POST. It is never repeated, whatever it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendResult {
    /// The venue has it.
    Accepted(OrderReport),
    /// The venue definitely does not have it and never will.
    Refused {
        /// The venue's error code, or 0.
        code: i32,
        /// In words.
        reason: String,
    },
    /// Nobody knows: time-out, reset, 5xx, unreadable answer, "duplicate". Only asking helps.
    Unknown {
        /// In words.
        reason: String,
    },
    /// It never left this process.
    NotSent {
        /// In words.
        reason: String,
    },
}

/// The end of one cancel request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelResult {
    /// Cancelled; the report is the order's final state.
    Canceled(OrderReport),
    /// "Unknown order": it may be filled, cancelled or not there yet. Query it.
    UnknownOrder,
    /// Refused for another reason; the order lives on.
    Refused {
        /// In words.
        reason: String,
    },
    /// Nobody knows. Query it.
    Unknown {
        /// In words.
        reason: String,
    },
}

/// The end of one query by client id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryResult {
    /// The venue has it.
    Found(OrderReport),
    /// The venue says it has no such order. `thorough` means that it is also in neither its open nor its past orders.
    NotFound {
        /// Whether open and past orders were searched too.
        thorough: bool,
    },
    /// No answer.
    Failed {
        /// In words.
        reason: String,
    },
}

/// An asset and how much the account has of it, free and locked together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VenueBalance {
    /// The asset.
    pub asset: Asset,
    /// Free and locked together.
    pub total: Amount,
}

/// What arrives on the account's own stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// An order changed.
    Report(OrderReport),
    /// The stream is up. Everything from now on arrives; what came before must be fetched.
    Up,
    /// The stream was lost: events may be missing until the next [`StreamEvent::Up`].
    Down,
}
