//! Risk limits: what an order must pass before it may be sent.

use serde::{Deserialize, Serialize};

use crate::money::Amount;

/// Limits of a robot or an account. An absent limit does not limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The largest price x quantity of one order, in the quote asset.
    pub max_order_notional: Option<Amount>,
    /// The largest value of what is held and being bought, in the quote asset.
    pub max_position_notional: Option<Amount>,
    /// How many orders may be live at once.
    pub max_open_orders: Option<usize>,
    /// How many orders may be sent in any minute.
    pub max_orders_per_minute: Option<usize>,
}
