//! The order machine: one documented transition for every event that can befall an order.
//!
//! `status` and `cancel` are orthogonal: an order that is being cancelled is still open until the venue says otherwise.
//! Every pair of state and event that is not listed changes nothing and says so ([`Transition::Ignored`]).

use serde::{Deserialize, Serialize};

use crate::exchange::{Fill, NewOrder, OrderKind, OrderReport, Side, TimeInForce, VenueStatus};
use crate::ids::{AccountId, ClientOrderId, Epoch, OrderKey, RobotId, VenueOrderId};
use crate::market::Symbol;
use crate::money::{Amount, Qty};
use crate::time::Timestamp;

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Decided, not sent.
    Intent,
    /// An attempt is committed; the POST may be on its way.
    Sending,
    /// Nobody knows whether the venue has it. Its funds stay reserved; it is asked for until that is known.
    Unknown,
    /// Resting at the venue, nothing filled.
    Open,
    /// Resting at the venue, partly filled.
    Partial,
    /// Terminal: all filled.
    Filled,
    /// Terminal: cancelled.
    Canceled,
    /// Terminal: ended by its own terms.
    Expired,
    /// Terminal: refused by the venue.
    Rejected,
    /// Terminal: proven never to have reached the venue.
    Absent,
    /// Terminal: refused by our own risk rules, never sent.
    Denied,
    /// Terminal: expired or stopped before it was sent.
    Skipped,
}

impl Status {
    /// Whether the order's life is over. Late fills are booked all the same.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Status::Intent | Status::Sending | Status::Unknown | Status::Open | Status::Partial)
    }

    /// Whether it is not known what the venue has. These hold up a shutdown; resting orders do not.
    pub fn is_unresolved(self) -> bool {
        matches!(self, Status::Sending | Status::Unknown)
    }

    /// The name as stored and shown, such as `PARTIAL`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Intent => "INTENT",
            Status::Sending => "SENDING",
            Status::Unknown => "UNKNOWN",
            Status::Open => "OPEN",
            Status::Partial => "PARTIAL",
            Status::Filled => "FILLED",
            Status::Canceled => "CANCELED",
            Status::Expired => "EXPIRED",
            Status::Rejected => "REJECTED",
            Status::Absent => "ABSENT",
            Status::Denied => "DENIED",
            Status::Skipped => "SKIPPED",
        }
    }
}

/// Where an order's cancellation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CancelState {
    /// Nobody asked for it.
    #[default]
    None,
    /// Decided and committed; it is sent once the order is at the venue.
    Requested,
    /// On its way.
    Sent,
    /// The venue cancelled it.
    Done,
    /// The venue refused; the order lives on.
    Rejected,
    /// Nobody knows; the order is queried.
    Unknown,
}

impl CancelState {
    /// The name as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            CancelState::None => "NONE",
            CancelState::Requested => "REQUESTED",
            CancelState::Sent => "SENT",
            CancelState::Done => "DONE",
            CancelState::Rejected => "REJECTED",
            CancelState::Unknown => "UNKNOWN",
        }
    }
}

/// An order and all we know of it. This is the row of `hg_trading_order`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Our id, unique per account.
    pub client_id: ClientOrderId,
    /// Whose funds.
    pub account: AccountId,
    /// Which robot decided it.
    pub robot: RobotId,
    /// Which of the robot's decisions, and which order of it.
    #[serde(flatten)]
    pub key: OrderKey,
    /// Grows only after the one before is [`Status::Absent`].
    pub generation: i32,
    /// The pair.
    pub symbol: Symbol,
    /// Buy or sell.
    pub side: Side,
    /// How it is priced.
    #[serde(flatten)]
    pub kind: OrderKind,
    /// How long it lives at the venue.
    pub tif: TimeInForce,
    /// Quantity of the base asset.
    pub qty: Qty,
    /// Where it stands.
    pub status: Status,
    /// Where its cancellation stands.
    pub cancel: CancelState,
    /// How many POSTs were committed: 0 or 1, ever.
    pub attempt: i32,
    /// The lease epoch under which the attempt was committed.
    pub epoch: Epoch,
    /// The request's time, once there is an attempt.
    pub sent_at: Option<Timestamp>,
    /// From here on "no such order" means something: request time + recvWindow + margin.
    pub deadline: Option<Timestamp>,
    /// After this it is not sent (again).
    pub expires_at: Option<Timestamp>,
    /// The venue's number.
    pub venue_id: Option<VenueOrderId>,
    /// What the booked fills sum up to.
    pub filled: Qty,
    /// What the booked fills cost or brought, in the quote asset.
    pub filled_quote: Amount,
    /// What the venue says is filled. Above `filled` while fills are still to be fetched.
    pub reported: Qty,
    /// Why it was refused, denied, skipped, or is unknown.
    pub reason: Option<String>,
    /// When it was decided.
    pub created_at: Timestamp,
    /// When this row last changed.
    pub updated_at: Timestamp,
    /// Grows by one with every change.
    pub version: i64,
}

/// What can befall an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderEvent {
    /// An attempt is about to be committed.
    Attempt {
        /// Under which lease epoch.
        epoch: Epoch,
        /// From when on "no such order" means something.
        deadline: Timestamp,
    },
    /// Our own rules refuse it.
    Deny(String),
    /// It expired, or its robot was stopped, before it was sent.
    Skip(String),
    /// The venue definitely refused it, or it never left the process.
    Refuse(String),
    /// The outcome of the POST is unknown.
    Lose(String),
    /// The venue reports its state. Its fills are separate events.
    Report {
        /// The venue's number.
        venue_id: VenueOrderId,
        /// Its state.
        status: VenueStatus,
        /// How much is filled in all.
        executed: Qty,
    },
    /// A fill that was not booked before.
    Fill {
        /// Quantity.
        qty: Qty,
        /// Price x quantity.
        notional: Amount,
    },
    /// It is proven that the venue never got it.
    ProveAbsent,
    /// Somebody wants it cancelled.
    RequestCancel,
    /// The cancel request is about to be sent.
    SendCancel,
    /// The venue refused the cancellation.
    RefuseCancel(String),
    /// The outcome of the cancellation is unknown, or the venue does not know the order: query it.
    LoseCancel(String),
}

/// What an event did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// The order changed.
    Changed,
    /// The order changed in a way that somebody must look at.
    Alarm(&'static str),
    /// This event means nothing in this state; the order is as it was.
    Ignored,
}

impl Order {
    /// Applies one event. Time is only recorded, never compared.
    pub fn apply(&mut self, event: &OrderEvent, now: Timestamp) -> Transition {
        let transition = match event {
            OrderEvent::Attempt { epoch, deadline } => self.attempt(*epoch, *deadline, now),
            OrderEvent::Deny(reason) => self.end_unsent(Status::Denied, reason),
            OrderEvent::Skip(reason) => self.end_unsent(Status::Skipped, reason),
            OrderEvent::Refuse(reason) => self.refuse(reason),
            OrderEvent::Lose(reason) => self.lose(reason),
            OrderEvent::Report { venue_id, status, executed } => self.report(*venue_id, *status, *executed),
            OrderEvent::Fill { qty, notional } => self.fill(*qty, *notional),
            OrderEvent::ProveAbsent => self.prove_absent(),
            OrderEvent::RequestCancel => self.request_cancel(),
            OrderEvent::SendCancel => self.send_cancel(),
            OrderEvent::RefuseCancel(reason) => {
                let moved = self.move_cancel(&[CancelState::Sent], CancelState::Rejected);
                self.reason_if(&moved, reason)
            }
            OrderEvent::LoseCancel(reason) => {
                let moved = self.move_cancel(&[CancelState::Sent], CancelState::Unknown);
                self.reason_if(&moved, reason)
            }
        };
        if transition != Transition::Ignored {
            self.settle_cancel();
            self.version += 1;
            self.updated_at = now;
        }
        transition
    }

    /// With the order's end its cancellation ends too: it was cancelled, or there was nothing left to cancel.
    fn settle_cancel(&mut self) {
        if self.status.is_terminal() && self.cancel != CancelState::None {
            self.cancel = if self.status == Status::Canceled { CancelState::Done } else { CancelState::Rejected };
        }
    }

    fn attempt(&mut self, epoch: Epoch, deadline: Timestamp, now: Timestamp) -> Transition {
        if self.status != Status::Intent {
            return Transition::Ignored;
        }
        self.status = Status::Sending;
        self.attempt += 1;
        self.epoch = epoch;
        self.sent_at = Some(now);
        self.deadline = Some(deadline);
        Transition::Changed
    }

    fn end_unsent(&mut self, status: Status, reason: &str) -> Transition {
        if self.status != Status::Intent {
            return Transition::Ignored;
        }
        self.status = status;
        self.reason = Some(reason.to_owned());
        Transition::Changed
    }

    fn refuse(&mut self, reason: &str) -> Transition {
        // A refusal answers our one POST. Once the stream has shown the order at the venue, the venue knows better.
        if !matches!(self.status, Status::Sending | Status::Unknown) {
            return Transition::Ignored;
        }
        self.status = Status::Rejected;
        self.reason = Some(reason.to_owned());
        Transition::Changed
    }

    fn lose(&mut self, reason: &str) -> Transition {
        if self.status != Status::Sending {
            return Transition::Ignored;
        }
        self.status = Status::Unknown;
        self.reason = Some(reason.to_owned());
        Transition::Changed
    }

    fn prove_absent(&mut self) -> Transition {
        if self.status != Status::Unknown {
            return Transition::Ignored;
        }
        self.status = Status::Absent;
        Transition::Changed
    }

    /// Whether we hold that the venue does not have this order. [`Status::Rejected`] counts while no venue number is known:
    /// then the POST was refused; otherwise the venue itself ended an order that it had.
    fn is_held_absent(&self) -> bool {
        match self.status {
            Status::Intent | Status::Absent | Status::Denied | Status::Skipped => true,
            Status::Rejected => self.venue_id.is_none(),
            _ => false,
        }
    }

    /// The venue's word on the order's state. Reports may be repeated or late: a state that the venue ended is never left,
    /// and what is filled never shrinks.
    fn report(&mut self, venue_id: VenueOrderId, status: VenueStatus, executed: Qty) -> Transition {
        if self.venue_id.is_some_and(|known| known != venue_id) {
            return Transition::Alarm("the venue has two orders under one client id");
        }
        let before = (self.status, self.venue_id, self.reported);
        // A refused POST that the venue also reports as rejected is no contradiction.
        let agreed = self.status == Status::Rejected && status == VenueStatus::Rejected;
        let contradicted = self.is_held_absent() && !agreed;
        let executed = if status == VenueStatus::Filled { executed.max(self.qty) } else { executed };
        self.venue_id = Some(venue_id);
        self.reported = self.reported.max(executed);
        if contradicted || !self.status.is_terminal() {
            self.status = match status {
                VenueStatus::New | VenueStatus::PartiallyFilled if self.filled.is_zero() => Status::Open,
                VenueStatus::New | VenueStatus::PartiallyFilled => Status::Partial,
                VenueStatus::Filled => Status::Filled,
                VenueStatus::Canceled => Status::Canceled,
                VenueStatus::Rejected => Status::Rejected,
                VenueStatus::Expired => Status::Expired,
            };
        }
        if contradicted {
            Transition::Alarm("the venue has an order that was taken for absent")
        } else if before == (self.status, self.venue_id, self.reported) {
            Transition::Ignored
        } else {
            Transition::Changed
        }
    }

    /// A fill is always booked. Fills that a report announced come after the end of an order without an alarm.
    fn fill(&mut self, qty: Qty, notional: Amount) -> Transition {
        let contradicted = self.is_held_absent();
        self.filled += qty;
        self.filled_quote += notional;
        let late = self.status.is_terminal() && self.filled > self.reported;
        self.reported = self.reported.max(self.filled);
        if self.filled >= self.qty {
            self.status = Status::Filled;
        } else if contradicted || !self.status.is_terminal() {
            self.status = Status::Partial;
        }
        if self.filled > self.qty {
            Transition::Alarm("filled more than was ordered")
        } else if contradicted {
            Transition::Alarm("the venue has an order that was taken for absent")
        } else if late {
            Transition::Alarm("a fill after the order had ended")
        } else {
            Transition::Changed
        }
    }

    fn request_cancel(&mut self) -> Transition {
        if self.status.is_terminal() || !matches!(self.cancel, CancelState::None | CancelState::Rejected) {
            return Transition::Ignored;
        }
        self.cancel = CancelState::Requested;
        Transition::Changed
    }

    /// Only what may be at the venue can be cancelled there. After an unknown outcome it may be tried again: cancelling twice
    /// does no harm.
    fn send_cancel(&mut self) -> Transition {
        if matches!(self.status, Status::Intent | Status::Sending) {
            return Transition::Ignored;
        }
        self.move_cancel(&[CancelState::Requested, CancelState::Unknown], CancelState::Sent)
    }

    fn move_cancel(&mut self, from: &[CancelState], to: CancelState) -> Transition {
        if self.status.is_terminal() || !from.contains(&self.cancel) {
            return Transition::Ignored;
        }
        self.cancel = to;
        Transition::Changed
    }

    fn reason_if(&mut self, moved: &Transition, reason: &str) -> Transition {
        if *moved == Transition::Changed {
            self.reason = Some(reason.to_owned());
        }
        moved.clone()
    }

    /// What is still to be filled.
    pub fn remaining(&self) -> Qty {
        if self.filled >= self.qty { Qty::ZERO } else { self.qty - self.filled }
    }

    /// What may still be filled, or is filled and not booked yet: the funds for it are not free.
    pub fn outstanding(&self) -> Qty {
        if !self.status.is_terminal() {
            self.remaining()
        } else if self.lacks_fills() {
            self.reported - self.filled
        } else {
            Qty::ZERO
        }
    }

    /// Whether the venue reported fills that are not booked yet.
    pub fn lacks_fills(&self) -> bool {
        self.reported > self.filled
    }

    /// The request that the one POST of this order carries.
    pub fn to_request(&self) -> NewOrder {
        NewOrder {
            client_id: self.client_id.clone(),
            symbol: self.symbol.clone(),
            side: self.side,
            kind: self.kind,
            tif: self.tif,
            qty: self.qty,
            timestamp: self.sent_at.unwrap_or(self.created_at),
        }
    }
}

impl From<&OrderReport> for OrderEvent {
    fn from(report: &OrderReport) -> Self {
        OrderEvent::Report { venue_id: report.venue_id, status: report.status, executed: report.executed }
    }
}

impl From<&Fill> for OrderEvent {
    fn from(fill: &Fill) -> Self {
        OrderEvent::Fill { qty: fill.qty, notional: fill.price.notional(fill.qty) }
    }
}
