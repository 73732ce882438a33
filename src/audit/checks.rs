//! The checks. Pure: the same input gives the same report.

use std::collections::{BTreeMap, HashMap, HashSet};

use trading::command::Outcome;
use trading::exchange::{Fill, VenueStatus};
use trading::ids::{ClientOrderId, Epoch, RobotId};
use trading::money::Qty;
use trading::order::{Order, Status};
use trading::time::Timestamp;
use venue::ledger::{AccountImage, OrderImage};

use super::data::{AccountData, AuditInput, Key};
use super::{AuditReport, Counts, Finding, Severity, money};

/// Compares everything; see the [module](super).
pub fn check(input: &AuditInput) -> AuditReport {
    let mut findings = Vec::new();
    let mut counts = Counts::default();
    let (no_venue, no_rows) = (AccountImage::default(), AccountData::default());
    let labels = input.venue.accounts.keys().chain(input.accounts.keys());
    for label in labels.collect::<std::collections::BTreeSet<_>>() {
        let venue = input.venue.accounts.get(label).unwrap_or(&no_venue);
        let ours = input.accounts.get(label).unwrap_or(&no_rows);
        counts.orders += ours.orders.len();
        counts.fills += ours.fills.len();
        counts.signals += ours.signals.len();
        counts.events += ours.history.events;
        let mut account = Account { label, venue, ours, findings: &mut findings };
        account.orders();
        account.unwitnessed();
        account.fills();
        account.states();
        account.signals();
        account.decisions();
        account.posts();
        if input.accounts.contains_key(label) {
            for what in money::check(venue, ours) {
                account.find(8, what);
            }
        }
        account.history();
        account.epochs();
    }
    answered(input, &mut findings);
    AuditReport::new(findings, counts)
}

fn finding(check: u8, what: String) -> Finding {
    let severity = match check {
        1..=5 | 8 => Severity::Lost,
        6 | 7 => Severity::Doubled,
        _ => Severity::Other,
    };
    Finding { check, severity, what }
}

/// C5, as far as it is about those who were told that their signal was taken.
fn answered(input: &AuditInput, findings: &mut Vec<Finding>) {
    for signal in input.answered.iter().flatten() {
        let key = (signal.source.clone(), signal.dedup_key.clone());
        if !input.accounts.values().any(|account| account.signals.contains_key(&key)) {
            let what = format!("signal `{}` of `{}` was answered and has no outcome", signal.dedup_key, signal.source);
            findings.push(finding(5, what));
        }
    }
}

struct Account<'a> {
    label: &'a str,
    venue: &'a AccountImage,
    ours: &'a AccountData,
    findings: &'a mut Vec<Finding>,
}

impl Account<'_> {
    fn find(&mut self, check: u8, what: impl std::fmt::Display) {
        self.findings.push(finding(check, format!("{}: {what}", self.label)));
    }

    /// C1: every venue order of ours has its row.
    fn orders(&mut self) {
        for (venue_id, theirs) in &self.venue.orders {
            let id = &theirs.client_id;
            match self.ours.orders.get(id) {
                None if id.has_our_shape() => self.find(1, format!("the venue's order {venue_id} ({id}) has no row")),
                None => {}
                Some(ours) => {
                    if let Some(field) = difference(ours, theirs) {
                        self.find(1, format!("order {id} ({venue_id} at the venue) has another {field} there"));
                    }
                }
            }
        }
    }

    /// C1, of those orders that the venue refused because it looked for their rows when they arrived and found none. A row
    /// that came later does not help: a crash in between would have lost the order.
    fn unwitnessed(&mut self) {
        for post in self.venue.posts.iter().filter(|post| post.is_unwitnessed()) {
            self.find(1, format!("order {} was sent before its row was committed", post.client_id));
        }
    }

    /// C2: the fills are the same. Those of other people's orders are theirs.
    fn fills(&mut self) {
        let mut at_venue = HashSet::with_capacity(self.venue.fills.len());
        for theirs in &self.venue.fills {
            let key = (theirs.symbol.clone(), theirs.trade_id);
            match self.ours.fills.get(&key) {
                None if theirs.client_id.has_our_shape() || self.ours.orders.contains_key(&theirs.client_id) => {
                    self.find(2, format!("trade {} of {} ({}) is not booked", key.1, key.0, theirs.client_id));
                }
                Some((_, ours)) if money_of(ours) != money_of(theirs) || ours.client_id != theirs.client_id => {
                    self.find(2, format!("trade {} of {} is booked differently", key.1, key.0));
                }
                _ => {}
            }
            at_venue.insert(key);
        }
        for key in self.ours.fills.keys().filter(|key| !at_venue.contains(*key)) {
            self.find(2, format!("trade {} of {} is booked, but not at the venue", key.1, key.0));
        }
    }

    /// C3 and C4: status and filled quantity.
    fn states(&mut self) {
        let mut sums = HashMap::<&ClientOrderId, Qty>::with_capacity(self.ours.orders.len());
        for (_, fill) in self.ours.fills.values() {
            *sums.entry(&fill.client_id).or_default() += fill.qty;
        }
        let at_venue: HashMap<&ClientOrderId, &OrderImage> =
            self.venue.orders.values().map(|order| (&order.client_id, order)).collect();
        for (id, ours) in &self.ours.orders {
            let sum = sums.get(id).copied().unwrap_or_default();
            if sum != ours.filled {
                self.find(3, format!("order {id} has {} filled, but its fills make {sum}", ours.filled));
            }
            if ours.status.is_unresolved() {
                // Without the status: it is as unresolved whether SENDING or UNKNOWN.
                self.find(4, format!("order {id} is unresolved"));
                continue;
            }
            let status = ours.status.as_str();
            match at_venue.get(id) {
                Some(theirs) if expected(theirs.status) != ours.status => {
                    self.find(3, format!("order {id} is {status} here and {:?} at the venue", theirs.status));
                }
                Some(theirs) if theirs.executed != ours.filled => {
                    let (here, there) = (ours.filled, theirs.executed);
                    self.find(3, format!("order {id} has {here} filled here and {there} at the venue"));
                }
                None if is_at_venue(ours.status) => {
                    self.find(3, format!("order {id} is {status} here, but the venue does not have it"));
                }
                _ => {}
            }
        }
    }

    /// C5: every command has its one outcome.
    fn signals(&mut self) {
        for ((source, dedup_key), record) in &self.ours.signals {
            let name = format!("signal `{dedup_key}` of `{source}`");
            match &record.outcome {
                Outcome::Done { orders, .. } => {
                    for id in orders.iter().filter(|id| !self.ours.orders.contains_key(*id)) {
                        self.find(5, format!("{name} planned order {id}, which does not exist"));
                    }
                }
                Outcome::Denied { reason } | Outcome::Skipped { reason } if reason.is_empty() => {
                    self.find(5, format!("{name} was turned down without a reason"));
                }
                _ => {}
            }
        }
    }

    /// C6: one venue order for each leg of each decision.
    fn decisions(&mut self) {
        let mut legs = BTreeMap::<(RobotId, i64, i32), Vec<String>>::new();
        let mut ids = HashMap::<&ClientOrderId, usize>::new();
        for (venue_id, theirs) in &self.venue.orders {
            if let Some(ours) = self.ours.orders.get(&theirs.client_id) {
                legs.entry((ours.robot, ours.key.decision, ours.key.leg)).or_default().push(venue_id.to_string());
            } else if theirs.client_id.has_our_shape() {
                *ids.entry(&theirs.client_id).or_default() += 1;
            }
        }
        for ((robot, decision, leg), venue_ids) in legs.iter().filter(|(_, venue_ids)| venue_ids.len() > 1) {
            let venue_ids = venue_ids.join(", ");
            self.find(6, format!("robot {robot}, decision {decision}, leg {leg}: venue orders {venue_ids}"));
        }
        for (id, count) in ids.into_iter().filter(|(_, count)| *count > 1) {
            self.find(6, format!("client id {id} has {count} venue orders"));
        }
    }

    /// C7: one request for each client id.
    fn posts(&mut self) {
        let mut requests = HashMap::<&ClientOrderId, usize>::with_capacity(self.venue.posts.len());
        for post in &self.venue.posts {
            *requests.entry(&post.client_id).or_default() += 1;
        }
        for (id, count) in requests.into_iter().filter(|(_, count)| *count > 1) {
            if id.has_our_shape() || self.ours.orders.contains_key(id) {
                self.find(7, format!("the venue received {count} requests for order {id}"));
            }
        }
    }

    /// C9: the events are complete, and the tables are what they add up to.
    fn history(&mut self) {
        let history = &self.ours.history;
        for (before, after) in &history.gaps {
            self.find(9, format!("event {before} is followed by {after}"));
        }
        for key in &history.repeated {
            self.find(9, format!("{key:?} was written twice"));
        }
        let mut matched = 0;
        for (key, digest) in self.ours.rows() {
            match history.rows.get(&key) {
                Some(replayed) if *replayed == digest => matched += 1,
                Some(_) => {
                    matched += 1;
                    self.find(9, format!("{key:?} is not what its events add up to"));
                }
                None => self.find(9, format!("{key:?} has no event")),
            }
        }
        if matched < history.rows.len() {
            let missing: Vec<&Key> = history.rows.keys().filter(|key| !self.ours.has(key)).collect();
            for key in missing {
                self.find(9, format!("{key:?} has events but no row"));
            }
        }
    }

    /// C10: nothing is sent under an old epoch.
    fn epochs(&mut self) {
        let history = &self.ours.history;
        for (id, epoch, newest) in &history.stale {
            self.find(10, format!("order {id} was attempted under epoch {epoch} after epoch {newest} had begun"));
        }
        let began_after = |epoch: Epoch| -> Option<(Epoch, Timestamp)> {
            history.epochs.iter().filter(|(newer, _)| *newer > epoch).min_by_key(|(_, at)| *at).copied()
        };
        for post in &self.venue.posts {
            let Some(order) = self.ours.orders.get(&post.client_id) else { continue };
            if let Some((newer, at)) = began_after(order.epoch).filter(|(_, at)| post.timestamp > *at) {
                let late = post.timestamp.since(at);
                let (id, epoch) = (&post.client_id, order.epoch);
                self.find(10, format!("order {id} of epoch {epoch} was sent {late:?} after epoch {newer} had begun"));
            }
        }
    }
}

fn difference(ours: &Order, theirs: &OrderImage) -> Option<&'static str> {
    if ours.symbol != theirs.symbol {
        Some("symbol")
    } else if ours.side != theirs.side {
        Some("side")
    } else if ours.qty != theirs.qty {
        Some("quantity")
    } else if ours.kind != theirs.kind {
        Some("kind or price")
    } else {
        None
    }
}

fn money_of(fill: &Fill) -> impl PartialEq {
    (fill.side, fill.price, fill.qty, fill.fee, fill.fee_asset.clone())
}

/// What our status must be when the venue's is this one and all its fills are booked.
fn expected(status: VenueStatus) -> Status {
    match status {
        VenueStatus::New => Status::Open,
        VenueStatus::PartiallyFilled => Status::Partial,
        VenueStatus::Filled => Status::Filled,
        VenueStatus::Canceled => Status::Canceled,
        VenueStatus::Rejected => Status::Rejected,
        VenueStatus::Expired => Status::Expired,
    }
}

fn is_at_venue(status: Status) -> bool {
    matches!(status, Status::Open | Status::Partial | Status::Filled | Status::Canceled | Status::Expired)
}
