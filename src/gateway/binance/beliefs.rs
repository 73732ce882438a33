//! What the account's stream has told us, to notice what it has not: a fill is missing when an order's total jumps by more
//! than its last fill; an event is missing when the venue's list of open orders keeps contradicting what the stream said.
//!
//! Pure. A list and the stream are never of the same instant, so one contradiction means nothing; the same one in two lists
//! does.

use std::collections::{BTreeMap, BTreeSet};

use trading::exchange::{OrderReport, VenueStatus};
use trading::ids::VenueOrderId;
use trading::market::Symbol;
use trading::money::Qty;

type Key = (Symbol, VenueOrderId);

/// A contradiction between a list and the stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contradiction {
    /// Open by the stream, and not in the list.
    Gone(Symbol, VenueOrderId),
    /// In the list, and unknown to the stream.
    Unheard(Symbol, VenueOrderId),
    /// The list shows more filled.
    Behind(Symbol, VenueOrderId),
}

/// Open orders and how much of each is filled, as the stream tells it since it is up.
#[derive(Debug, Default)]
pub(super) struct Beliefs {
    open: BTreeMap<Key, Qty>,
    /// Orders that ended before the first list: it may be older than their end.
    ended: BTreeSet<Key>,
    /// Whether the orders that were open when the stream came up are known.
    based: bool,
    suspected: BTreeSet<Contradiction>,
}

impl Beliefs {
    /// Takes a report. `last` is the quantity that was just filled. Returns whether a fill before it is missing.
    pub(super) fn heard(&mut self, report: &OrderReport, last: Option<Qty>) -> bool {
        let key = (report.symbol.clone(), report.venue_id);
        let before = self.open.get(&key).copied();
        let jumped = before.is_some_and(|before| report.executed > before + last.unwrap_or_default());
        if is_open(report.status) {
            self.open.insert(key, report.executed.max(before.unwrap_or_default()));
        } else {
            self.open.remove(&key);
            if !self.based {
                self.ended.insert(key);
            }
        }
        jumped
    }

    /// Takes a list of open orders. The first one is what was open before; later ones are compared. Returns what two lists
    /// in a row contradict.
    pub(super) fn listed(&mut self, list: &[OrderReport]) -> Option<Contradiction> {
        let listed: BTreeMap<Key, Qty> =
            list.iter().map(|report| ((report.symbol.clone(), report.venue_id), report.executed)).collect();
        if !self.based {
            self.based = true;
            let ended = std::mem::take(&mut self.ended);
            for (key, executed) in listed.into_iter().filter(|(key, _)| !ended.contains(key)) {
                self.open.entry(key).or_insert(executed);
            }
            return None;
        }
        let gone = self.open.keys().filter(|key| !listed.contains_key(*key));
        let mut found: BTreeSet<Contradiction> =
            gone.map(|(symbol, id)| Contradiction::Gone(symbol.clone(), *id)).collect();
        for ((symbol, id), executed) in &listed {
            match self.open.get(&(symbol.clone(), *id)) {
                None => found.insert(Contradiction::Unheard(symbol.clone(), *id)),
                Some(believed) => executed > believed && found.insert(Contradiction::Behind(symbol.clone(), *id)),
            };
        }
        let confirmed = found.intersection(&self.suspected).next().cloned();
        self.suspected = found;
        confirmed
    }

    /// Whether the orders that were open when the stream came up are known.
    pub(super) fn are_based(&self) -> bool {
        self.based
    }

    /// Whether a second list should follow soon.
    pub(super) fn suspects(&self) -> bool {
        !self.suspected.is_empty()
    }
}

fn is_open(status: VenueStatus) -> bool {
    matches!(status, VenueStatus::New | VenueStatus::PartiallyFilled)
}

#[cfg(test)]
mod tests {
    use VenueStatus::{Canceled, Filled, New, PartiallyFilled};
    use trading::ids::ClientOrderId;

    use super::*;

    fn qty(text: &str) -> Qty {
        if text == "0" { Qty::ZERO } else { text.parse().unwrap() }
    }

    fn report(id: i64, status: VenueStatus, executed: &str) -> OrderReport {
        OrderReport {
            client_id: ClientOrderId::from_venue(format!("order-{id}")),
            venue_id: VenueOrderId(id),
            symbol: "BTCUSDT".parse().unwrap(),
            status,
            executed: qty(executed),
            fills: Vec::new(),
        }
    }

    #[test]
    fn a_total_that_jumps_by_more_than_the_last_fill_shows_a_missing_one() {
        let mut beliefs = Beliefs::default();
        assert!(!beliefs.heard(&report(1, New, "0"), None));
        assert!(!beliefs.heard(&report(1, PartiallyFilled, "0.1"), Some(qty("0.1"))));
        assert!(!beliefs.heard(&report(1, PartiallyFilled, "0.1"), Some(qty("0.1"))), "a repeated report is no gap");
        assert!(beliefs.heard(&report(1, PartiallyFilled, "0.3"), Some(qty("0.1"))));
        assert!(beliefs.heard(&report(1, Canceled, "0.4"), None), "ended with more than was ever told");
        assert!(!beliefs.heard(&report(2, Filled, "5"), Some(qty("1"))), "nothing is known of what came before");
    }

    #[test]
    fn one_contradicting_list_means_nothing_and_two_do() {
        let mut beliefs = Beliefs::default();
        assert_eq!(beliefs.listed(&[report(1, New, "0")]), None);
        beliefs.heard(&report(2, New, "0"), None);
        // Order 2 is not in the list yet: lists are a little behind.
        assert_eq!(beliefs.listed(&[report(1, New, "0")]), None);
        assert!(beliefs.suspects());
        assert_eq!(beliefs.listed(&[report(1, New, "0"), report(2, New, "0")]), None);
        assert!(!beliefs.suspects());
        // Order 1 is gone and nobody told us.
        assert_eq!(beliefs.listed(&[report(2, New, "0")]), None);
        let gone = Contradiction::Gone("BTCUSDT".parse().unwrap(), VenueOrderId(1));
        assert_eq!(beliefs.listed(&[report(2, New, "0")]), Some(gone));
    }

    #[test]
    fn an_order_or_a_fill_that_the_stream_never_told_of_shows() {
        let (one, two) = ([report(1, New, "0")], [report(1, PartiallyFilled, "0.2"), report(7, New, "0")]);
        let mut beliefs = Beliefs::default();
        assert_eq!(beliefs.listed(&one), None);
        assert_eq!(beliefs.listed(&two), None);
        assert!(beliefs.listed(&two).is_some());
        beliefs.heard(&two[0], Some(qty("0.2")));
        beliefs.heard(&two[1], None);
        assert_eq!(beliefs.listed(&two), None);
        assert!(!beliefs.suspects());
    }

    #[test]
    fn an_order_that_ended_before_the_first_list_is_not_taken_from_it() {
        let mut beliefs = Beliefs::default();
        beliefs.heard(&report(1, Canceled, "0"), None);
        assert_eq!(beliefs.listed(&[report(1, New, "0")]), None);
        assert_eq!(beliefs.listed(&[]), None);
        assert!(!beliefs.suspects());
    }
}
