//! The checks. Pure: the same input gives the same report.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trading::exchange::{Fill, OrderKind, Side, VenueStatus};
use trading::ids::{ClientOrderId, Epoch, VenueOrderId};
use trading::order::Status;
use trading::time::Timestamp;
use venue::ledger::{AccountImage, Image, OrderImage, Post};

use super::data::AuditInput;
use super::ours::{OurFill, OurOrder, Ours};
use super::read::{self, Drift};
use super::report::{AuditReport, Counts, Findings};
use super::{Answered, Key, money};

/// Compares everything; see the [module](super).
pub fn check(input: &AuditInput) -> AuditReport {
    let accounts = input.accounts.iter().map(|(label, data)| {
        let ours = Ours::from(data);
        let drifts = ours.odd().map(|(key, seq)| Drift { key, seq, fields: Vec::new() }).collect();
        (label.clone(), read::Account { ours, drifts })
    });
    compare(&input.venue, &accounts.collect(), input.answered.as_deref().unwrap_or_default())
}

pub(super) fn compare(venue: &Image, accounts: &BTreeMap<String, read::Account>, answered: &[Answered]) -> AuditReport {
    let mut findings = Findings::default();
    let mut counts = Counts::default();
    let (no_venue, no_rows) = (AccountImage::default(), read::Account::default());
    let labels = venue.accounts.keys().chain(accounts.keys());
    for label in labels.collect::<BTreeSet<_>>() {
        let theirs = venue.accounts.get(label).unwrap_or(&no_venue);
        let read::Account { ours, drifts } = accounts.get(label).unwrap_or(&no_rows);
        counts.add(theirs, ours);
        findings.account(label);
        let mut account = Account { venue: theirs, ours, met: Met::of(theirs, ours), findings: &mut findings };
        account.orders();
        account.unwitnessed();
        account.fills();
        account.states();
        account.commands();
        account.decisions();
        account.posts();
        if accounts.contains_key(label) {
            money::check(theirs, ours, &mut findings);
        }
        history(ours, drifts, &mut findings);
        epochs(theirs, ours, &mut findings);
    }
    findings.account("");
    // C5, as far as it is about those who were told that their signal was taken.
    for Answered { source, dedup_key } in answered {
        if !accounts.values().any(|account| account.ours.has_signal(source, dedup_key)) {
            let what = format!("signal `{dedup_key}` of `{source}` was answered and has no outcome here");
            findings.find(5, what, "tell its sender that it had no effect, and keep the database: a commit was lost");
        }
    }
    AuditReport::new(findings, counts)
}

/// C9 alone, without a word from the venue.
pub(super) fn histories(accounts: &BTreeMap<String, read::Account>) -> AuditReport {
    let (mut findings, mut counts) = (Findings::default(), Counts::default());
    for (label, read::Account { ours, drifts }) in accounts {
        counts.add(&AccountImage::default(), ours);
        findings.account(label);
        history(ours, drifts, &mut findings);
    }
    AuditReport::new(findings, counts)
}

/// Our orders beside the venue's: for each of ours, where the venue has it and how often.
struct Met<'a> {
    orders: Vec<Option<(VenueOrderId, &'a OrderImage)>>,
    posts: Vec<u32>,
}

impl<'a> Met<'a> {
    fn of(venue: &'a AccountImage, ours: &Ours) -> Self {
        let mut met = Self { orders: vec![None; ours.orders.len()], posts: vec![0; ours.orders.len()] };
        for (venue_id, order) in &venue.orders {
            if let Some(place) = ours.orders.place(order.client_id.as_str()).and_then(|at| met.orders.get_mut(at)) {
                *place = Some((*venue_id, order));
            }
        }
        for post in &venue.posts {
            if let Some(count) = ours.orders.place(post.client_id.as_str()).and_then(|at| met.posts.get_mut(at)) {
                *count += 1;
            }
        }
        met
    }
}

struct Account<'a> {
    venue: &'a AccountImage,
    ours: &'a Ours,
    met: Met<'a>,
    findings: &'a mut Findings,
}

impl<'a> Account<'a> {
    fn order(&self, id: &ClientOrderId) -> Option<&'a OurOrder> {
        self.ours.orders.get(id.as_str())
    }

    /// C1: every venue order of ours has its row.
    fn orders(&mut self) {
        for (venue_id, theirs) in &self.venue.orders {
            let id = &theirs.client_id;
            match self.order(id) {
                None if id.has_our_shape() => {
                    let what = format!(
                        "the venue has order {venue_id} under our id {id} ({}), and there is no such row here",
                        terms(theirs.side, &theirs.qty, &theirs.symbol, theirs.kind)
                    );
                    let next =
                        "do not trade this account: the database is older than the venue's ledger, or not its own";
                    self.findings.find(1, what, next);
                }
                None => {}
                Some(ours) if is_same_order(ours, theirs) => {}
                Some(ours) => {
                    let (here, there) = (
                        terms(ours.side, &ours.qty, &ours.symbol, ours.kind),
                        terms(theirs.side, &theirs.qty, &theirs.symbol, theirs.kind),
                    );
                    let what = format!(
                        "order {id} of robot {} is to {here} here, and to {there} at the venue, as its order {venue_id}",
                        ours.robot
                    );
                    self.findings.find(1, what, "halt the robot and cancel the order: the venue acts on its own word");
                }
            }
        }
    }

    /// C1, of those orders that the venue refused because it looked for their rows when they arrived and found none. A row
    /// that came later does not help: a crash in between would have lost the order.
    fn unwitnessed(&mut self) {
        for post in self.venue.posts.iter().filter(|post| post.is_unwitnessed()) {
            let what = format!("order {} was sent before its row was committed", post.client_id);
            self.findings.find(
                1,
                what,
                "stop this server and go back to the version before: it sends before it commits",
            );
        }
    }

    /// C2: the fills are the same. Those of other people's orders are theirs.
    fn fills(&mut self) {
        let mut at_venue = vec![false; self.ours.fills.len()];
        for theirs in &self.venue.fills {
            let (trade, symbol, id) = (theirs.trade_id, &theirs.symbol, &theirs.client_id);
            let there = || deal(theirs.side, &theirs.qty, &theirs.price, &theirs.fee, &theirs.fee_asset);
            let Some(place) = self.ours.fills.place(&(symbol.clone(), trade.0)) else {
                let order = self.order(id);
                if id.has_our_shape() || order.is_some() {
                    let whose = order.map_or_else(String::new, |order| format!(" of robot {}", order.robot));
                    let what = format!(
                        "trade {trade} of {symbol} for order {id}{whose} is at the venue ({}) and not booked here",
                        there()
                    );
                    self.findings.find(2, what, "restart the server: it fetches at its start the trades that it lacks");
                }
                continue;
            };
            if let Some(seen) = at_venue.get_mut(place) {
                *seen = true;
            }
            let Some(ours) = self.ours.fills.at(place) else { continue };
            let our_id = self.id_of(ours);
            if !is_same_deal(ours, theirs) || our_id != id.as_str() {
                let what = format!(
                    "trade {trade} of {symbol} is booked for order {our_id} of robot {} ({}), and is at the venue for \
                     order {id} ({})",
                    ours.robot,
                    deal(ours.side, &ours.qty, &ours.price, &ours.fee, &ours.fee_asset),
                    there()
                );
                self.findings.find(2, what, "halt the robot: its position is not what it holds at the venue");
            }
        }
        for (ours, _) in self.ours.fills.iter().zip(&at_venue).filter(|(_, seen)| !**seen) {
            let what = format!(
                "trade {} of {} is booked for order {} of robot {} ({}), and the venue does not have it",
                ours.trade_id,
                ours.symbol,
                self.id_of(ours),
                ours.robot,
                deal(ours.side, &ours.qty, &ours.price, &ours.fee, &ours.fee_asset)
            );
            self.findings.find(
                2,
                what,
                "see that this ledger belongs to this database, and that it is not an old copy",
            );
        }
    }

    fn id_of(&self, fill: &OurFill) -> &'a str {
        fill.order.and_then(|place| self.ours.orders.at(place)).map_or("(unknown)", |order| &order.id)
    }

    /// C3 and C4: status and filled quantity.
    fn states(&mut self) {
        let next =
            "restart the server: it asks the venue for every order that has not ended; if this stays, halt the robot";
        for (place, ours) in self.ours.orders.iter().enumerate() {
            let theirs = self.met.orders.get(place).copied().flatten();
            let (id, robot, filled, booked) = (&ours.id, ours.robot, ours.filled, ours.booked);
            if booked != filled {
                let what = format!(
                    "order {id} of robot {robot} says that {filled} is filled, but its fills here make {booked}"
                );
                self.findings.find(3, what, "halt the robot: its position may be wrong by the difference");
            }
            if ours.status.is_unresolved() {
                // What moves is apart, so that it is found again while it moves.
                let what =
                    format!("order {id} of robot {robot} is unresolved: it is not known here whether the venue has it");
                let there = theirs.map_or_else(
                    || "the venue does not have it".to_owned(),
                    |(venue_id, theirs)| {
                        let status = venue_word(theirs.status);
                        format!("the venue has it as order {venue_id}, {status}, {} filled", theirs.executed)
                    },
                );
                let now = format!("{} since epoch {}; {there}", ours.status.as_str(), ours.epoch);
                let next = "let the server run: it asks the venue until it is known; if this stays, look for the id in its log";
                self.findings.find_now(4, what, now, next);
                continue;
            }
            let status = ours.status.as_str();
            match theirs {
                Some((venue_id, theirs)) if expected(theirs.status) != ours.status => {
                    let what = format!(
                        "order {id} of robot {robot} is {status} here ({filled} filled), and {} at the venue as its order \
                         {venue_id} ({} filled)",
                        venue_word(theirs.status),
                        theirs.executed
                    );
                    self.findings.find(3, what, next);
                }
                Some((venue_id, theirs)) if theirs.executed != filled => {
                    let what = format!(
                        "order {id} of robot {robot} has {filled} filled here, and {} at the venue as its order {venue_id}",
                        theirs.executed
                    );
                    self.findings.find(3, what, next);
                }
                None if is_at_venue(ours.status) => {
                    let named = ours.venue_id.map_or_else(String::new, |id| format!(" as the venue's order {id}"));
                    let what =
                        format!("order {id} of robot {robot} is {status} here{named}, but the venue does not have it");
                    let next = "see that this ledger belongs to this database, and that it is not an old copy";
                    self.findings.find(3, what, next);
                }
                _ => {}
            }
        }
    }

    /// C5: every command has its one outcome.
    fn commands(&mut self) {
        for what in &self.ours.commands {
            self.findings.find(5, what.clone(), "tell its sender, and look for the signal's key in the log");
        }
    }

    /// C6: one venue order for each leg of each decision.
    fn decisions(&mut self) {
        let next = "halt the robot and cancel or close all but one of them";
        let mut legs = Vec::with_capacity(self.venue.orders.len());
        let mut ids = BTreeMap::<&ClientOrderId, Vec<VenueOrderId>>::new();
        for (venue_id, theirs) in &self.venue.orders {
            if let Some(ours) = self.order(&theirs.client_id) {
                legs.push((ours.robot, ours.key, *venue_id));
            } else if theirs.client_id.has_our_shape() {
                ids.entry(&theirs.client_id).or_default().push(*venue_id);
            }
        }
        legs.sort_unstable();
        for leg in legs.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).filter(|leg| leg.len() > 1) {
            let Some((robot, key, _)) = leg.first() else { continue };
            let orders: Vec<String> = leg.iter().map(|(_, _, venue_id)| self.described(*venue_id)).collect();
            let what = format!(
                "leg {} of decision {} of robot {robot} has {} orders at the venue: {}",
                key.leg,
                key.decision,
                leg.len(),
                orders.join(", ")
            );
            self.findings.find(6, what, next);
        }
        for (id, venue_ids) in ids.into_iter().filter(|(_, venue_ids)| venue_ids.len() > 1) {
            let orders: Vec<String> = venue_ids.iter().map(ToString::to_string).collect();
            let what =
                format!("our id {id}, of which there is no row here, has the venue's orders {}", orders.join(", "));
            self.findings.find(6, what, next);
        }
    }

    /// One of the venue's orders, in words.
    fn described(&self, venue_id: VenueOrderId) -> String {
        let Some(theirs) = self.venue.orders.get(&venue_id) else { return venue_id.to_string() };
        let generation = self.order(&theirs.client_id).map_or(0, |ours| ours.generation);
        let (id, status) = (&theirs.client_id, venue_word(theirs.status));
        format!("{venue_id} ({id}, generation {generation}, {status}, {} {} filled)", theirs.executed, theirs.symbol)
    }

    /// C7: one request for each client id.
    fn posts(&mut self) {
        let next = "halt the account: something sends twice; see at the venue what the second request did";
        for (ours, count) in self.ours.orders.iter().zip(&self.met.posts).filter(|(_, count)| **count > 1) {
            let what = format!(
                "the venue received {count} requests for order {} of robot {} (epoch {}), and each is sent once",
                ours.id, ours.robot, ours.epoch
            );
            self.findings.find(7, what, next);
        }
        let mut others = BTreeMap::<&ClientOrderId, usize>::new();
        for post in &self.venue.posts {
            if post.client_id.has_our_shape() && self.order(&post.client_id).is_none() {
                *others.entry(&post.client_id).or_default() += 1;
            }
        }
        for (id, count) in others.into_iter().filter(|(_, count)| *count > 1) {
            let what = format!("the venue received {count} requests for our id {id}, of which there is no row here");
            self.findings.find(7, what, next);
        }
    }
}

/// C9: the events are complete, and the tables are what they add up to.
fn history(ours: &Ours, drifts: &[Drift], findings: &mut Findings) {
    let next = "stop the server and keep the file: somebody changed it, or it is damaged; `main check` tells which";
    for (before, after) in &ours.gaps {
        let what = match after.checked_sub(*before) {
            Some(2) => format!("event {} is missing: event {before} is followed by event {after}", before + 1),
            Some(step) if step > 2 => {
                let (first, last) = (before + 1, after - 1);
                format!("events {first} to {last} are missing: event {before} is followed by event {after}")
            }
            _ => format!("event {before} is followed by event {after}"),
        };
        findings.find(9, what, next);
    }
    for (key, seq) in &ours.repeated {
        findings.find(9, format!("{key} is written once, but event {seq} writes it again"), next);
    }
    for Drift { key, seq, fields } in drifts {
        let what = match (seq, fields.as_slice()) {
            (0, _) => format!("{key} is in its table, but no event tells of it"),
            (seq, []) => format!("{key} is not in its table what event {seq} says, which is its last"),
            (seq, fields) => {
                format!("{key} is not in its table what event {seq} says, which is its last: {}", fields.join("; "))
            }
        };
        findings.find(9, what, next);
    }
    for (key, seq) in &ours.rowless {
        findings.find(9, format!("{key} is told of by event {seq}, but is not in its table"), next);
    }
}

/// How much two measurements of the difference of two clocks may differ.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// C10: nothing is sent under an old epoch.
fn epochs(venue: &AccountImage, ours: &Ours, findings: &mut Findings) {
    let next = "see that only one server trades this account, and compare the logs of both around that time";
    let began = Began::of(&ours.epochs);
    for order in ours.orders.iter() {
        let Some((seq, epoch)) = order.attempt else { continue };
        if let Some((first, newer)) = began.after(epoch).map(|(first, _)| first).filter(|(first, _)| *first < seq) {
            let what = format!(
                "order {} of robot {} was attempted in event {seq} under epoch {epoch}, although epoch {newer} had begun in \
                 event {first}",
                order.id, order.robot
            );
            findings.find(10, what, next);
        }
    }
    // Requests carry the venue's time: by as much more than our own as the two clocks differ, which is measured now and then.
    let mut clocks: BTreeMap<Epoch, i64> = BTreeMap::new();
    let sent: Vec<_> = venue.posts.iter().filter_map(|post| Sent::of(post, ours)).collect();
    for Sent { order, ahead, .. } in &sent {
        clocks.entry(order.epoch).and_modify(|least| *least = (*least).min(*ahead)).or_insert(*ahead);
    }
    for Sent { post, order, .. } in sent {
        let clocks_differ = clocks.get(&order.epoch).copied().unwrap_or_default();
        let by_our_clock = Timestamp::from_micros(post.timestamp.micros().saturating_sub(clocks_differ));
        let newer = began.after(order.epoch).map(|(_, time)| time);
        if let Some((at, newer)) = newer.filter(|(at, _)| by_our_clock > at.after(CLOCK_TOLERANCE)) {
            let what = format!(
                "order {} of robot {} was sent to the venue under epoch {}, {:?} after epoch {newer} had begun",
                order.id,
                order.robot,
                order.epoch,
                by_our_clock.since(at)
            );
            findings.find(10, what, next);
        }
    }
}

/// A request that the venue received, and its order's row.
struct Sent<'a> {
    post: &'a Post,
    order: &'a OurOrder,
    /// How far the request's time is ahead of the row's, in microseconds.
    ahead: i64,
}

impl<'a> Sent<'a> {
    fn of(post: &'a Post, ours: &'a Ours) -> Option<Self> {
        let order = ours.orders.get(post.client_id.as_str())?;
        let ahead = post.timestamp.micros().saturating_sub(order.sent_at?.micros());
        Some(Self { post, order, ahead })
    }
}

/// When the first epoch beyond another one began: by event and by time.
type First = ((i64, Epoch), (Timestamp, Epoch));

/// For each epoch, ordered, the first beginning of it or a later one.
struct Began(Vec<(Epoch, First)>);

impl Began {
    fn of(epochs: &[(i64, Epoch, Timestamp)]) -> Self {
        let mut began: Vec<(Epoch, First)> =
            epochs.iter().map(|(seq, epoch, at)| (*epoch, ((*seq, *epoch), (*at, *epoch)))).collect();
        began.sort_unstable();
        let mut later: Option<First> = None;
        for (_, first) in began.iter_mut().rev() {
            let (by_event, by_time) = later.unwrap_or(*first);
            *first = (first.0.min(by_event), first.1.min(by_time));
            later = Some(*first);
        }
        Self(began)
    }

    fn after(&self, epoch: Epoch) -> Option<First> {
        let place = self.0.partition_point(|(began, _)| *began <= epoch);
        self.0.get(place).map(|(_, first)| *first)
    }
}

/// An order's terms in words: what two equal orders have in common.
fn terms(side: Side, qty: &impl std::fmt::Display, symbol: &impl std::fmt::Display, kind: OrderKind) -> String {
    let side = side_word(side);
    match kind {
        OrderKind::Market => format!("{side} {qty} {symbol} at market"),
        OrderKind::Limit { price } => format!("{side} {qty} {symbol} at {price}"),
        OrderKind::PostOnly { price } => format!("{side} {qty} {symbol} at {price}, post-only"),
        OrderKind::StopLimit { stop_price, price } => {
            format!("{side} {qty} {symbol} at {price} once {stop_price} is reached")
        }
    }
}

fn is_same_order(ours: &OurOrder, theirs: &OrderImage) -> bool {
    (ours.side, ours.qty, ours.kind) == (theirs.side, theirs.qty, theirs.kind) && ours.symbol == theirs.symbol
}

fn deal(
    side: Side,
    qty: &impl std::fmt::Display,
    price: &impl std::fmt::Display,
    fee: &impl std::fmt::Display,
    fee_asset: &impl std::fmt::Display,
) -> String {
    format!("{} {qty} at {price}, fee {fee} {fee_asset}", side_word(side))
}

fn is_same_deal(ours: &OurFill, theirs: &Fill) -> bool {
    (ours.side, ours.price, ours.qty, ours.fee) == (theirs.side, theirs.price, theirs.qty, theirs.fee)
        && ours.fee_asset == theirs.fee_asset
}

fn side_word(side: Side) -> &'static str {
    match side {
        Side::Buy => "buy",
        Side::Sell => "sell",
    }
}

fn venue_word(status: VenueStatus) -> &'static str {
    match status {
        VenueStatus::New => "new",
        VenueStatus::PartiallyFilled => "partially filled",
        VenueStatus::Filled => "filled",
        VenueStatus::Canceled => "canceled",
        VenueStatus::Rejected => "rejected",
        VenueStatus::Expired => "expired",
    }
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

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Order(id) => write!(f, "order {id}"),
            Key::Fill(symbol, trade_id) => write!(f, "trade {trade_id} of {symbol}"),
            Key::Signal(source, dedup_key) => write!(f, "signal `{dedup_key}` of `{source}`"),
            Key::Robot(robot) => write!(f, "robot {robot}"),
            Key::State(robot) => write!(f, "the strategy state of robot {robot}"),
            Key::Position(robot, symbol) => write!(f, "the position of robot {robot} in {symbol}"),
            Key::Balance(asset) => write!(f, "the balance of {asset}"),
        }
    }
}
