//! What the ledger keeps: facts, from which the exchange's state follows.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trading::exchange::{Fill, NewOrder, VenueBalance, VenueStatus};
use trading::ids::VenueOrderId;
use trading::market::Asset;
use trading::time::Timestamp;

use crate::ledger::Post;

/// What an account is called.
pub type Label = Arc<str>;

/// All records of one operation: they are in the ledger together or not at all.
pub type Entry = Vec<Record>;

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The first line of every ledger.
    Format {
        /// What the lines after it look like.
        version: u32,
        /// This ledger's own, made with it. Older ledgers have none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    /// An account was opened.
    Account {
        /// What it is called.
        label: Label,
        /// What it begins with.
        opening: Vec<VenueBalance>,
        /// When.
        at: Timestamp,
    },
    /// A request for a new order arrived.
    Post {
        /// Whose.
        account: Label,
        /// What was asked, and whether it was accepted.
        post: Post,
    },
    /// An order was accepted.
    Order {
        /// Whose.
        account: Label,
        /// Its number here.
        venue_id: VenueOrderId,
        /// What is bought or sold. The ledger stays readable when the symbol is no longer configured.
        base: Asset,
        /// What it is paid in.
        quote: Asset,
        /// The order as it was sent.
        order: Box<NewOrder>,
        /// When it was accepted.
        at: Timestamp,
    },
    /// A stop order's price was reached: it is a limit order from now on.
    Trigger {
        /// Whose.
        account: Label,
        /// Which order.
        venue_id: VenueOrderId,
        /// When.
        at: Timestamp,
    },
    /// An order was filled, in part or in full.
    Fill {
        /// Whose.
        account: Label,
        /// The fill.
        fill: Box<Fill>,
    },
    /// An order ended before it was filled.
    End {
        /// Whose.
        account: Label,
        /// Which order.
        venue_id: VenueOrderId,
        /// [`VenueStatus::Canceled`] or [`VenueStatus::Expired`].
        status: VenueStatus,
        /// When.
        at: Timestamp,
    },
}
