//! The way to the store and back: every call takes time, and may fail.

use hotgo::store::{Commit, CommitError, Lease, LeaseError, StoreError};
use trading::command::Outcome;
use trading::engine::{Input, Snapshot};
use trading::event::{Event as Fact, Recorded};
use trading::ids::ClientOrderId;
use trading::order::{CancelState, Status};
use trading::robot::StrategyState;

use crate::counts::{Fault, State};
use crate::plan::{MS, SECOND, Who};
use crate::store::Fate;
use crate::world::{Event, World};

/// The driver gives up waiting for a commit after this.
const COMMIT_TIMEOUT: i64 = 10 * SECOND;

/// What is asked of the store.
#[derive(Debug)]
pub(crate) enum DbOp {
    Acquire,
    Load,
    Renew { lease: Lease, asked: i64 },
    Release(Lease),
    Commit(Commit),
    Recall(ClientOrderId),
}

/// A call on its way to the store.
#[derive(Debug)]
pub(crate) struct Db {
    who: Who,
    token: u32,
    /// Of the process: an embedded store does nothing for one that is gone.
    life: u32,
    /// Of the store: a call does not survive its end.
    store_life: u32,
    op: DbOp,
    fate: Fate,
    /// Whether its caller has stopped waiting.
    late: bool,
}

/// What the store says.
#[derive(Debug)]
pub(crate) enum DbDone {
    Acquired(Result<Lease, LeaseError>),
    Loaded(Result<Box<Snapshot>, StoreError>),
    Renewed { asked: i64, result: Result<(), LeaseError> },
    Released(Result<(), LeaseError>),
    Committed(Result<(), CommitError>),
    Recalled(ClientOrderId, Result<Option<Box<trading::order::Order>>, StoreError>),
}

impl World<'_> {
    pub(crate) fn ask_db(&mut self, who: Who, op: DbOp) {
        let mut fate = Fate::Confirmed;
        let mut late = false;
        if let DbOp::Commit(_) = op {
            fate = self.draw_fate();
            late = self.fault(Fault::CommitLate);
        }
        let process = self.process(who);
        let (token, life, store_life) = (process.token, process.life, self.db_life);
        let mut delay = self.dice.delay.between(100, 3_000);
        if late {
            delay = COMMIT_TIMEOUT + self.dice.delay.between(-300, 600) * MS;
            late = delay >= COMMIT_TIMEOUT;
        }
        if late {
            let gone = CommitError::Unknown("no answer in time".into());
            self.after(COMMIT_TIMEOUT, Event::DbDone(who, token, Box::new(DbDone::Committed(Err(gone)))));
        }
        self.after(delay, Event::Db(Box::new(Db { who, token, life, store_life, op, fate, late })));
    }

    fn draw_fate(&mut self) -> Fate {
        let faults = [
            (Fault::CommitUnconfirmed, Fate::WrittenUnconfirmed),
            (Fault::CommitLost, Fate::LostUnconfirmed),
            (Fault::DiskFull, Fate::Full),
            (Fault::SyncFails, Fate::SyncFails),
        ];
        faults.into_iter().find(|(fault, _)| self.fault(*fault)).map_or(Fate::Confirmed, |(_, fate)| fate)
    }

    /// A call arrives at the store.
    pub(crate) fn db(&mut self, db: Db) {
        let Db { who, token, life, store_life, op, fate, late } = db;
        let process = self.process(who);
        if self.plan.single && process.life == life && process.paused_until > self.now {
            // The store is part of the process, and frozen with it.
            let until = process.paused_until;
            self.push(until, Event::Db(Box::new(Db { who, token, life, store_life, op, fate, late })));
            return;
        }
        let gone = store_life != self.db_life || (self.plan.single && process.life != life);
        if gone {
            // Nobody answers; a caller that lives on in spite of that learns it by and by.
            self.answer_db(who, token, DbDone::broken(op), SECOND);
            return;
        }
        let now = self.time();
        let done = match op {
            DbOp::Acquire => DbDone::Acquired(self.acquire(who)),
            DbOp::Load => DbDone::Loaded(self.store.load(Self::account(), now).map(Box::new)),
            DbOp::Renew { lease, asked } => {
                let lost = self.fault(Fault::RenewalLost);
                let result = if lost {
                    Err(LeaseError::Store(StoreError::Unavailable("no answer".into())))
                } else {
                    self.store.renew_lease(&lease, Self::ttl(), now)
                };
                if matches!(result, Err(LeaseError::Lost(_))) {
                    self.reach(State::RenewalRefused);
                }
                DbDone::Renewed { asked, result }
            }
            DbOp::Release(lease) => DbDone::Released(self.store.release_lease(&lease, now)),
            DbOp::Commit(commit) => {
                let result = self.write(who, &commit, fate);
                if late {
                    return;
                }
                DbDone::Committed(result)
            }
            DbOp::Recall(id) => {
                let order = self.store.order(&id, now).map(|order| order.map(Box::new));
                DbDone::Recalled(id, order)
            }
        };
        let delay = self.dice.delay.between(50, 2_000);
        self.answer_db(who, token, done, delay);
    }

    fn answer_db(&mut self, who: Who, token: u32, done: DbDone, delay: i64) {
        self.after(delay, Event::DbDone(who, token, Box::new(done)));
    }

    fn acquire(&mut self, who: Who) -> Result<Lease, LeaseError> {
        let other = if who == Who::A { Who::B } else { Who::A };
        let before = self.store.holder(Self::account());
        let owner = self.process(who).owner.clone();
        // With an embedded store there is one process, and it holds the lock that says so.
        let lease = self.store.acquire_lease(Self::account(), &owner, Self::ttl(), self.plan.single, self.time())?;
        self.epoch_began = self.now;
        self.note(|| format!("{who:?} takes the lease: epoch {}", lease.epoch));
        let there = self.process(other);
        let (frozen, up) = (there.paused_until > self.now, there.up);
        let handed_over = self.released_by.take() == Some(other);
        if handed_over {
            self.reach(State::HandOver);
        } else if before.is_some_and(|before| *before == *self.process(other).owner && up && frozen) {
            self.reach(State::TakeoverFrozen);
        } else if !up && !self.plan.single && lease.epoch.0 > 1 {
            self.reach(State::TakeoverDead);
        }
        Ok(lease)
    }

    fn write(&mut self, who: Who, commit: &Commit, fate: Fate) -> Result<(), CommitError> {
        let now = self.time();
        let result = self.store.commit(commit, fate, now);
        if matches!(result, Ok(()) | Err(CommitError::Unknown(_))) && fate != Fate::Confirmed {
            self.unconfirmed = Some(fate != Fate::LostUnconfirmed);
        }
        let written = result.is_ok() || (fate == Fate::WrittenUnconfirmed && !self.store.is_broken());
        if written {
            for recorded in commit.events.iter() {
                self.observe_fact(recorded);
            }
        }
        self.note(|| {
            let kinds: Vec<String> = commit.events.iter().map(summary).collect();
            let said = result.as_ref().map_or_else(ToString::to_string, |()| "ok".into());
            format!("{who:?} commits {} [{}]: {said}", commit.lease.epoch, kinds.join(", "))
        });
        if fate == Fate::SyncFails && self.store.is_broken() {
            let delay = self.dice.delay.between(300, 3_000) * MS;
            self.after(delay, Event::DbReopen);
        }
        result
    }

    /// The store's server, or with an embedded store the process, is started again after its disk failed.
    pub(crate) fn db_reopen(&mut self) {
        if !self.store.is_broken() {
            return;
        }
        self.note(|| "the store is opened again".into());
        self.db_life += 1;
        if self.store.crash() {
            self.reach(State::UnsyncedLost);
        }
        if self.plan.single {
            self.crash(Who::A);
        }
    }

    /// The store's answer arrives.
    pub(crate) fn db_done(&mut self, who: Who, done: DbDone) {
        match done {
            DbDone::Acquired(Ok(lease)) => {
                let token = self.process(who).token;
                if let Some(starting) = &mut self.process_mut(who).starting {
                    starting.lease = Some(lease);
                }
                let delay = self.hop() + self.hop();
                if self.fault(Fault::RequestLost) {
                    self.begin_again(who, "the venue did not answer");
                } else {
                    self.after(delay, Event::Subscribed(who, token));
                }
            }
            DbDone::Loaded(Ok(snapshot)) => self.loaded(who, *snapshot),
            DbDone::Loaded(Err(error)) => self.begin_again(who, &error.to_string()),
            DbDone::Renewed { asked, result: Ok(()) } => self.renewed(who, asked),
            DbDone::Renewed { result: Err(LeaseError::Store(_)), .. } => {}
            DbDone::Acquired(Err(error)) | DbDone::Renewed { result: Err(error), .. } => {
                self.begin_again(who, &error.to_string());
            }
            DbDone::Released(result) => self.released(who, result.is_ok()),
            DbDone::Committed(result) => self.committed(who, result),
            DbDone::Recalled(client_id, Ok(order)) => {
                let order = order.map(|order| *order);
                self.answer(who, Input::Recalled { client_id, order });
            }
            DbDone::Recalled(client_id, Err(_)) => {
                // The driver asks again until it is told: silence is no answer.
                self.ask_db(who, DbOp::Recall(client_id));
            }
        }
    }

    /// What a commit may be refused for.
    pub(crate) fn judge_commit_error(&mut self, who: Who, error: &CommitError) {
        let newest = self.store.epoch(Self::account());
        let overtaken = self.process(who).session.as_ref().is_some_and(|session| session.lease.epoch < newest);
        match error {
            // It was late, read rows of its successor, and decided on both: refused is refused.
            CommitError::Conflict { .. } if overtaken => self.reach(State::FencedCommit),
            CommitError::Fenced(_) => self.reach(State::FencedCommit),
            CommitError::Conflict { detail, .. } if detail.contains("UNIQUE signal") => self.reach(State::KeyRace),
            CommitError::Conflict { detail, .. } => {
                self.violate("C9", format!("a commit contradicts what is stored: {detail}"));
            }
            CommitError::Full | CommitError::Unknown(_) | CommitError::Closed => {}
        }
    }

    /// Notices what is rare among facts that were just written.
    fn observe_fact(&mut self, recorded: &Recorded) {
        match &recorded.event {
            Fact::Order(order) => {
                let state = match order.status {
                    Status::Open if order.attempt == 1 => Some(State::Acknowledged),
                    Status::Absent => Some(State::ProvenAbsent),
                    Status::Sending if order.generation > 0 => Some(State::NextGeneration),
                    Status::Partial => Some(State::PartialFill),
                    Status::Expired => Some(State::EndedByTerms),
                    Status::Canceled => Some(State::Canceled),
                    Status::Rejected => Some(State::RefusedByVenue),
                    Status::Intent => Some(State::IntentWaited),
                    Status::Denied => Some(State::Denied),
                    Status::Skipped if order.reason.as_deref().is_some_and(|r| r.starts_with("expired")) => {
                        Some(State::ExpiredSkipped)
                    }
                    _ => None,
                };
                if let Some(state) = state {
                    self.reach(state);
                }
                if order.cancel == CancelState::Unknown {
                    self.reach(State::CancelLost);
                }
                if order.status.is_terminal() && self.said_duplicate.remove(&order.client_id) {
                    self.reach(State::DuplicateAdopted);
                }
                if order.status == Status::Filled
                    && matches!(order.kind, trading::exchange::OrderKind::StopLimit { .. })
                {
                    self.reach(State::StopTriggered);
                }
            }
            Fact::Fill { fill, .. } if self.was_withheld.contains(&fill.trade_id) => self.reach(State::WithheldBooked),
            Fact::Alarm { message, .. } => self.judge_alarm(message),
            Fact::Stopped { unresolved: 0, .. } => self.reach(State::CleanStop),
            Fact::Stopped { .. } => self.reach(State::GaveUp),
            Fact::Command(record) => match &record.outcome {
                Outcome::Skipped { reason } if reason.contains("expired") => self.reach(State::ExpiredSkipped),
                _ => {}
            },
            Fact::Strategy { state: StrategyState::Dca(state), .. }
                if state.steps > 1 && self.db_life + self.a.life > 1 =>
            {
                self.reach(State::DcaStep);
            }
            _ => {}
        }
    }

    /// Alarms call a person. In a world in which the venue is honest there is nothing to call for.
    fn judge_alarm(&mut self, message: &str) {
        // A clock that is wrong by an hour voids the margins that absence is proven with.
        let excused = self.clock_lied && message == "the venue has an order that was taken for absent";
        if !excused {
            self.violate("no alarm", message.to_owned());
        }
    }
}

impl DbDone {
    /// The answer to a call whose store went away.
    fn broken(op: DbOp) -> Self {
        let gone = || StoreError::Unavailable("the connection broke".into());
        match op {
            DbOp::Acquire => DbDone::Acquired(Err(gone().into())),
            DbOp::Load => DbDone::Loaded(Err(gone())),
            DbOp::Renew { asked, .. } => DbDone::Renewed { asked, result: Err(gone().into()) },
            DbOp::Release(_) => DbDone::Released(Err(gone().into())),
            DbOp::Commit(_) => DbDone::Committed(Err(CommitError::Unknown("the connection broke".into()))),
            DbOp::Recall(id) => DbDone::Recalled(id, Err(gone())),
        }
    }
}

/// An event in a few words, for the trace.
fn summary(recorded: &Recorded) -> String {
    match &recorded.event {
        Fact::Order(order) => {
            let id = order.client_id.as_str().get(..7).unwrap_or_default();
            let cancel = if order.cancel == CancelState::None { "" } else { order.cancel.as_str() };
            let (g, status) = (order.generation, order.status.as_str());
            format!("order {id}.{g} {status} {cancel}{}/{}", order.filled, order.qty)
        }
        Fact::Fill { fill, .. } => format!("fill {}", fill.trade_id),
        Fact::Command(record) => format!("command {} {:?}", record.command.dedup_key, record.outcome),
        Fact::Robot(robot) => format!("robot {} {:?}", robot.id, robot.run),
        Fact::Strategy { robot, .. } => format!("strategy {robot}"),
        Fact::Alarm { message, .. } => format!("ALARM {message}"),
        other => other.kind().to_owned(),
    }
}
