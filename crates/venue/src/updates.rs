//! What happened, change by change, as the account's owner is told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trading::exchange::{Fill, OrderKind, VenueStatus};
use trading::ids::VenueOrderId;
use trading::market::Asset;
use trading::money::Qty;
use trading::time::Timestamp;

use crate::book::OrderRef;
use crate::exchange::Exchange;
use crate::record::{Entry, Label, Record};
use crate::state::{Holding, Order};

/// Something that an account's owner is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// An order changed.
    Order(Box<Execution>),
    /// These assets may have changed; this is what there is of them now.
    Balances {
        /// Ordered by asset.
        holdings: Vec<(Asset, Holding)>,
        /// When.
        at: Timestamp,
    },
}

/// One change of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// The order right after this change, whatever happened to it since.
    pub order: Order,
    /// What changed.
    pub change: Change,
    /// When.
    pub at: Timestamp,
    /// The name of the cancellation, where it has one.
    pub cancel_id: Option<Arc<str>>,
}

/// What changed about an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was accepted.
    New,
    /// Its stop price was reached.
    Triggered,
    /// It was filled, in part or in full.
    Trade(Fill),
    /// It was cancelled.
    Canceled,
    /// It ended by its own terms.
    Expired,
}

impl Exchange {
    /// What `entries` changed, in the order in which it happened, with the balances after each operation.
    ///
    /// The entries are the newest ones: how an order was in between is computed back from how it is now.
    pub fn updates(&self, entries: &[Entry]) -> Vec<(Label, Update)> {
        let mut images = BTreeMap::new();
        let mut updates = Vec::new();
        for entry in entries.iter().rev() {
            let changes: Vec<_> = entry.iter().rev().filter_map(|record| self.undo(&mut images, record)).collect();
            let accounts: BTreeSet<&Label> = changes.iter().map(|(account, _)| account).collect();
            for account in accounts {
                let of_account = changes.iter().filter(|(owner, _)| owner == account).map(|(_, execution)| execution);
                if let Some(balances) = self.balances_after(account, of_account) {
                    updates.push((account.clone(), balances));
                }
            }
            updates.extend(changes.into_iter().map(|(account, e)| (account, Update::Order(Box::new(e)))));
        }
        updates.reverse();
        updates
    }

    /// The change that a record made, with the order as it was right after it; the image steps back behind it.
    fn undo(&self, images: &mut BTreeMap<VenueOrderId, Order>, record: &Record) -> Option<(Label, Execution)> {
        let (account, venue_id, change, at) = match record {
            Record::Order { account, venue_id, at, .. } => (account, *venue_id, Change::New, *at),
            Record::Trigger { account, venue_id, at } => (account, *venue_id, Change::Triggered, *at),
            Record::Fill { account, fill } => (account, fill.venue_id, Change::Trade(Fill::clone(fill)), fill.at),
            Record::End { account, venue_id, status, at } => {
                let canceled = *status == VenueStatus::Canceled;
                (account, *venue_id, if canceled { Change::Canceled } else { Change::Expired }, *at)
            }
            Record::Format { .. } | Record::Account { .. } | Record::Post { .. } => return None,
        };
        if let std::collections::btree_map::Entry::Vacant(vacant) = images.entry(venue_id) {
            let reference = OrderRef { account: account.clone(), venue_id };
            vacant.insert(self.state().order(&reference)?.clone());
        }
        let image = images.get_mut(&venue_id)?;
        image.updated_at = at;
        let execution = Execution { order: image.clone(), change, at, cancel_id: None };
        match record {
            Record::Fill { fill, .. } => {
                image.executed = image.executed - fill.qty;
                image.executed_quote = image.executed_quote - fill.price.notional(fill.qty);
            }
            Record::Trigger { .. } => {
                image.triggered = false;
                image.working_at = None;
            }
            _ => {}
        }
        image.status = if image.executed == Qty::ZERO { VenueStatus::New } else { VenueStatus::PartiallyFilled };
        Some((account.clone(), execution))
    }

    fn balances_after<'a>(
        &self,
        account: &Label,
        executions: impl Iterator<Item = &'a Execution> + Clone,
    ) -> Option<Update> {
        let at = executions.clone().map(|execution| execution.at).max()?;
        // An order that only waits in the book, and a market order, lock or move both assets at most.
        let moves = executions.filter(|e| e.change != Change::New || !matches!(e.order.new.kind, OrderKind::Market));
        let assets: BTreeSet<&Asset> = moves.flat_map(|e| [&e.order.base, &e.order.quote]).collect();
        let account = self.account(account).ok()?;
        let holdings: Vec<_> = assets.into_iter().map(|asset| (asset.clone(), account.holding(asset))).collect();
        (!holdings.is_empty()).then_some(Update::Balances { holdings, at })
    }
}
