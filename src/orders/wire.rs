//! Orders, fills, positions and balances as clients see them.

use serde::Serialize;
use trading::exchange::{Fill, OrderKind, Side};
use trading::order::Order;
use trading::position::{Balance, Position};
use utoipa::ToSchema;

use crate::signals::{OrderTypeWire, TifWire};
use crate::store::StoredFill;

/// Buy or sell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Side)]
pub enum SideWire {
    /// Buy.
    Buy,
    /// Sell.
    Sell,
}

impl From<Side> for SideWire {
    fn from(side: Side) -> Self {
        match side {
            Side::Buy => Self::Buy,
            Side::Sell => Self::Sell,
        }
    }
}

/// An order and all we know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Order)]
pub struct OrderOut {
    /// Our id; the venue repeats it.
    #[schema(example = "h0123456789abcdefghjkmnpqr0")]
    pub client_id: String,
    /// Whose funds.
    #[schema(example = 1)]
    pub account: i64,
    /// Which robot decided it.
    #[schema(example = 10001)]
    pub robot: i64,
    /// Which of the robot's decisions.
    pub decision: i64,
    /// Which order of that decision.
    pub leg: i32,
    /// Grows only after the one before was proven absent.
    pub generation: i32,
    /// The pair.
    #[schema(example = "BTCUSDT")]
    pub symbol: String,
    /// Buy or sell.
    pub side: SideWire,
    /// How it is priced.
    pub r#type: OrderTypeWire,
    /// The limit price, if it has one.
    #[schema(example = "60000")]
    pub price: Option<String>,
    /// The trigger, if it has one.
    pub stop_price: Option<String>,
    /// How long it lives at the venue.
    pub tif: TifWire,
    /// Quantity of the base asset.
    #[schema(example = "0.001")]
    pub qty: String,
    /// What the booked fills sum up to.
    #[schema(example = "0.0004")]
    pub filled: String,
    /// What the booked fills cost or brought, in the quote asset.
    #[schema(example = "24")]
    pub filled_quote: String,
    /// What the venue says is filled. Above `filled` while fills are still to be fetched.
    #[schema(example = "0.0004")]
    pub reported: String,
    /// `INTENT`, `SENDING`, `UNKNOWN`, `OPEN`, `PARTIAL`; ended: `FILLED`, `CANCELED`, `EXPIRED`, `REJECTED`, `ABSENT`,
    /// `DENIED`, `SKIPPED`.
    #[schema(example = "PARTIAL")]
    pub status: &'static str,
    /// `NONE`, `REQUESTED`, `SENT`, `DONE`, `REJECTED`, `UNKNOWN`.
    #[schema(example = "NONE")]
    pub cancel: &'static str,
    /// How many times it was sent: 0 or 1, ever.
    pub attempt: i32,
    /// The lease epoch under which it was sent.
    pub epoch: i64,
    /// The venue's number.
    pub venue_id: Option<i64>,
    /// Why it was refused, denied, skipped, or is unknown.
    pub reason: Option<String>,
    /// When it was sent.
    pub sent_at_us: Option<i64>,
    /// From here on the venue's "no such order" means something.
    pub deadline_us: Option<i64>,
    /// After this it is not sent.
    pub expires_at_us: Option<i64>,
    /// When it was decided.
    pub created_at_us: i64,
    /// When it last changed.
    pub updated_at_us: i64,
    /// Grows by one with every change.
    pub version: i64,
}

impl From<&Order> for OrderOut {
    fn from(order: &Order) -> Self {
        let (r#type, stop_price) = match order.kind {
            OrderKind::Market => (OrderTypeWire::Market, None),
            OrderKind::Limit { .. } => (OrderTypeWire::Limit, None),
            OrderKind::PostOnly { .. } => (OrderTypeWire::PostOnly, None),
            OrderKind::StopLimit { stop_price, .. } => (OrderTypeWire::StopLimit, Some(stop_price)),
        };
        Self {
            client_id: order.client_id.to_string(),
            account: order.account.0,
            robot: order.robot.0,
            decision: order.key.decision,
            leg: order.key.leg,
            generation: order.generation,
            symbol: order.symbol.to_string(),
            side: order.side.into(),
            r#type,
            price: order.kind.price().map(|price| price.to_string()),
            stop_price: stop_price.map(|price| price.to_string()),
            tif: order.tif.into(),
            qty: order.qty.to_string(),
            filled: order.filled.to_string(),
            filled_quote: order.filled_quote.to_string(),
            reported: order.reported.to_string(),
            status: order.status.as_str(),
            cancel: order.cancel.as_str(),
            attempt: order.attempt,
            epoch: order.epoch.0,
            venue_id: order.venue_id.map(|id| id.0),
            reason: order.reason.clone(),
            sent_at_us: order.sent_at.map(trading::time::Timestamp::micros),
            deadline_us: order.deadline.map(trading::time::Timestamp::micros),
            expires_at_us: order.expires_at.map(trading::time::Timestamp::micros),
            created_at_us: order.created_at.micros(),
            updated_at_us: order.updated_at.micros(),
            version: order.version,
        }
    }
}

impl From<Order> for OrderOut {
    fn from(order: Order) -> Self {
        (&order).into()
    }
}

/// One fill of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Fill)]
pub struct FillOut {
    /// Whose funds.
    #[schema(example = 1)]
    pub account: i64,
    /// Whose order.
    #[schema(example = 10001)]
    pub robot: i64,
    /// The venue's number of the trade.
    pub trade_id: i64,
    /// The order.
    #[schema(example = "h0123456789abcdefghjkmnpqr0")]
    pub client_id: String,
    /// The order, by the venue's number.
    pub venue_id: i64,
    /// The pair.
    #[schema(example = "BTCUSDT")]
    pub symbol: String,
    /// Buy or sell.
    pub side: SideWire,
    /// Price.
    #[schema(example = "60000")]
    pub price: String,
    /// Quantity.
    #[schema(example = "0.0004")]
    pub qty: String,
    /// The fee, in `fee_asset`.
    #[schema(example = "0.0000004")]
    pub fee: String,
    /// What the fee is paid in.
    #[schema(example = "BTC")]
    pub fee_asset: String,
    /// Whether our order was resting.
    pub maker: bool,
    /// When, by the venue's clock.
    pub at_us: i64,
}

impl FillOut {
    pub(super) fn new(account: i64, robot: i64, fill: &Fill) -> Self {
        Self {
            account,
            robot,
            trade_id: fill.trade_id.0,
            client_id: fill.client_id.to_string(),
            venue_id: fill.venue_id.0,
            symbol: fill.symbol.to_string(),
            side: fill.side.into(),
            price: fill.price.to_string(),
            qty: fill.qty.to_string(),
            fee: fill.fee.to_string(),
            fee_asset: fill.fee_asset.to_string(),
            maker: fill.maker,
            at_us: fill.at.micros(),
        }
    }
}

impl From<StoredFill> for FillOut {
    fn from(stored: StoredFill) -> Self {
        Self::new(stored.account.0, stored.robot.0, &stored.fill)
    }
}

/// What a robot holds of a symbol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Position)]
pub struct PositionOut {
    /// The robot.
    #[schema(example = 10001)]
    pub robot: i64,
    /// The pair.
    #[schema(example = "BTCUSDT")]
    pub symbol: String,
    /// Base asset held, after fees taken in it.
    #[schema(example = "0.0003996")]
    pub qty: String,
    /// What the held quantity cost, in the quote asset.
    #[schema(example = "24")]
    pub cost: String,
    /// Profit of what was sold, in the quote asset, before fees.
    #[schema(example = "0")]
    pub realized: String,
    /// Fees, in the quote asset at the fill's price.
    #[schema(example = "0.024")]
    pub fees: String,
    /// Grows by one with every change.
    pub version: i64,
}

impl From<&Position> for PositionOut {
    fn from(position: &Position) -> Self {
        Self {
            robot: position.robot.0,
            symbol: position.symbol.to_string(),
            qty: position.qty.to_string(),
            cost: position.cost.to_string(),
            realized: position.realized.to_string(),
            fees: position.fees.to_string(),
            version: position.version,
        }
    }
}

impl From<Position> for PositionOut {
    fn from(position: Position) -> Self {
        (&position).into()
    }
}

/// An asset of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Balance)]
pub struct BalanceOut {
    /// The asset.
    #[schema(example = "USDT")]
    pub asset: String,
    /// Free and reserved together.
    #[schema(example = "99976")]
    pub total: String,
    /// What there was when the account was first adopted.
    #[schema(example = "100000")]
    pub opening: String,
    /// Grows by one with every change.
    pub version: i64,
}

impl From<&Balance> for BalanceOut {
    fn from(balance: &Balance) -> Self {
        Self {
            asset: balance.asset.to_string(),
            total: balance.total.to_string(),
            opening: balance.opening.to_string(),
            version: balance.version,
        }
    }
}

impl From<Balance> for BalanceOut {
    fn from(balance: Balance) -> Self {
        (&balance).into()
    }
}
