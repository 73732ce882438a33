//! A ledger as the checker sees it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trading::exchange::{Fill, OrderKind, Side, TimeInForce, VenueBalance, VenueStatus};
use trading::ids::{ClientOrderId, VenueOrderId};
use trading::market::Symbol;
use trading::money::Qty;
use trading::time::Timestamp;

/// All that a ledger file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// The accounts by their label.
    pub accounts: BTreeMap<String, AccountImage>,
}

/// One account of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccountImage {
    /// What it began with, ordered by asset.
    pub opening: Vec<VenueBalance>,
    /// What it has, free and locked together, ordered by asset.
    pub balances: Vec<VenueBalance>,
    /// Every order that was ever accepted.
    pub orders: BTreeMap<VenueOrderId, OrderImage>,
    /// Every fill, oldest first.
    pub fills: Vec<Fill>,
    /// Every POST that arrived, in the order of arrival, accepted or not.
    pub posts: Vec<Post>,
}

/// One order of a ledger, with its state at the end of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderImage {
    /// The id that its sender gave it.
    pub client_id: ClientOrderId,
    /// The pair.
    pub symbol: Symbol,
    /// Buy or sell.
    pub side: Side,
    /// How it is priced.
    pub kind: OrderKind,
    /// How long it lives.
    pub tif: TimeInForce,
    /// The quantity that was ordered.
    pub qty: Qty,
    /// Its state.
    pub status: VenueStatus,
    /// The quantity that is filled.
    pub executed: Qty,
}

/// One request for a new order, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Post {
    /// The id that its sender gave it.
    pub client_id: ClientOrderId,
    /// The request's own time.
    pub timestamp: Timestamp,
    /// When it arrived, by the venue's clock.
    pub received_at: Timestamp,
    /// Whether it became an order.
    pub accepted: bool,
    /// Why not, such as `-1013 Filter failure: LOT_SIZE`. Absent when it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Post {
    /// Whether it was refused because its sender had not written it down: see [`crate::witness`].
    pub fn is_unwitnessed(&self) -> bool {
        let code = self.reason.as_deref().and_then(|reason| reason.split(' ').next());
        code.and_then(|code| code.parse().ok()) == Some(crate::witness::UNWITNESSED)
    }
}
