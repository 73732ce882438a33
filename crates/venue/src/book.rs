//! The open orders of one symbol, in the order in which they are served.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use trading::exchange::Side;
use trading::ids::VenueOrderId;
use trading::money::Price;

use crate::record::Label;

/// Whose order, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRef {
    /// The account.
    pub account: Label,
    /// The venue's number.
    pub venue_id: VenueOrderId,
}

/// Counts arrivals: among orders of the same price, the lower number is served first.
pub type Priority = u64;

/// Open orders by price, then by arrival. Buys with the highest price come first, sells with the lowest. Stops that have
/// not been triggered are kept apart, ordered by how soon the market reaches them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Book {
    buys: BTreeMap<(Reverse<Price>, Priority), OrderRef>,
    sells: BTreeMap<(Price, Priority), OrderRef>,
    buy_stops: BTreeMap<(Price, Priority), OrderRef>,
    sell_stops: BTreeMap<(Reverse<Price>, Priority), OrderRef>,
}

impl Book {
    /// Adds a resting order.
    pub fn rest(&mut self, side: Side, price: Price, priority: Priority, order: OrderRef) {
        match side {
            Side::Buy => self.buys.insert((Reverse(price), priority), order),
            Side::Sell => self.sells.insert((price, priority), order),
        };
    }

    /// Removes a resting order.
    pub fn remove(&mut self, side: Side, price: Price, priority: Priority) {
        match side {
            Side::Buy => self.buys.remove(&(Reverse(price), priority)),
            Side::Sell => self.sells.remove(&(price, priority)),
        };
    }

    /// Adds a stop that waits for its trigger.
    pub fn wait(&mut self, side: Side, stop_price: Price, priority: Priority, order: OrderRef) {
        match side {
            Side::Buy => self.buy_stops.insert((stop_price, priority), order),
            Side::Sell => self.sell_stops.insert((Reverse(stop_price), priority), order),
        };
    }

    /// Removes a stop that waits for its trigger.
    pub fn unwait(&mut self, side: Side, stop_price: Price, priority: Priority) {
        match side {
            Side::Buy => self.buy_stops.remove(&(stop_price, priority)),
            Side::Sell => self.sell_stops.remove(&(Reverse(stop_price), priority)),
        };
    }

    /// The resting order that is served first on this side, with its price.
    pub fn best(&self, side: Side) -> Option<(Price, &OrderRef)> {
        match side {
            Side::Buy => self.buys.first_key_value().map(|((price, _), order)| (price.0, order)),
            Side::Sell => self.sells.first_key_value().map(|((price, _), order)| (*price, order)),
        }
    }

    /// The waiting stop that is triggered first on this side, with its stop price.
    pub fn next_stop(&self, side: Side) -> Option<(Price, &OrderRef)> {
        match side {
            Side::Buy => self.buy_stops.first_key_value().map(|((price, _), order)| (*price, order)),
            Side::Sell => self.sell_stops.first_key_value().map(|((price, _), order)| (price.0, order)),
        }
    }
}
