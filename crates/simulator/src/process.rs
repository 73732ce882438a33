//! A process with an engine, driven as `hotgo::engines::Driver` drives it: take what waits, step, `Tick`, one commit,
//! then the effects; after a failed commit the engine is thrown away and built anew from the store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hotgo::store::{Commit, CommitError, Lease};
use trading::command::Command;
use trading::engine::{Effect, Engine, Input, Settings, Snapshot, Step};
use trading::event::Recorded;
use trading::exchange::{SendResult, StreamEvent};
use trading::market::Market;

use crate::Break;
use crate::counts::{Fault, State};
use crate::database::DbOp;
use crate::network::{Ask, Request};
use crate::plan::{ACCOUNT, MS, SECOND, Who};
use crate::world::{ABSENCE_MARGIN, Event, LEASE_TTL, RECV_WINDOW, World};

const BACKOFF_FIRST: i64 = 50 * MS;
const BACKOFF_MOST: i64 = 2 * SECOND;

/// How far a shutdown has come. The same as `hotgo::engines::Stage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Run,
    NoEntries,
    Drain,
    Stop,
}

pub(crate) struct Process {
    pub(crate) up: bool,
    /// Counts its lives. A message to an earlier life reaches nobody.
    pub(crate) life: u32,
    /// Names its current start or session. What belongs to an earlier one is dropped.
    pub(crate) token: u32,
    pub(crate) owner: Arc<str>,
    /// How far its wall clock is ahead.
    pub(crate) skew: i64,
    pub(crate) paused_until: i64,
    pub(crate) stage: Stage,
    pub(crate) starting: Option<Starting>,
    pub(crate) session: Option<Session>,
    /// It is not started again.
    pub(crate) retired: bool,
    backoff: i64,
    /// How many lives in a row ended before they were ready.
    pub(crate) falls: u32,
    pub(crate) was_ready: bool,
}

/// What is known before there is an engine.
#[derive(Debug, Default)]
pub(crate) struct Starting {
    pub(crate) asked: i64,
    pub(crate) lease: Option<Lease>,
    pub(crate) early: Vec<StreamEvent>,
}

/// One engine under one lease.
pub(crate) struct Session {
    pub(crate) engine: Engine,
    pub(crate) lease: Lease,
    /// Until when the lease is certainly ours, by the monotonic clock.
    pub(crate) lease_until: i64,
    renew_at: i64,
    jobs: VecDeque<Input>,
    stream: VecDeque<StreamEvent>,
    submissions: VecDeque<(usize, Command)>,
    market: VecDeque<Market>,
    /// What is to be done once the commit under way is durable.
    doing: Option<Vec<Effect>>,
    /// The commit under way is the last one.
    pub(crate) last: bool,
    pub(crate) tickets: BTreeMap<u64, usize>,
    next_ticket: u64,
    seen: Stage,
    turn_planned: bool,
    wake_at: i64,
}

impl Process {
    pub(crate) fn new(who: Who) -> Self {
        Self {
            up: false,
            life: 0,
            token: 0,
            owner: format!("{who:?}0").into(),
            skew: 0,
            paused_until: 0,
            stage: Stage::Run,
            starting: None,
            session: None,
            retired: false,
            backoff: BACKOFF_FIRST,
            falls: 0,
            was_ready: false,
        }
    }

    /// Whether its engine takes commands.
    pub(crate) fn is_ready(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.engine.is_ready())
    }
}

impl World<'_> {
    /// The process is started, with a clock that may be wrong.
    pub(crate) fn boot(&mut self, who: Who) {
        if self.process(who).up || self.process(who).retired {
            return;
        }
        let mut skew = 0;
        if self.fault(Fault::ClockJump) {
            skew = self.dice.delay.pick(3_600, &[-3_600]) * SECOND;
            self.clock_lied = true;
        } else if self.fault(Fault::Skew) {
            skew = self.dice.delay.between(-4_000, 3_000) * MS;
        }
        self.clock_differed |= skew != 0;
        let process = self.process_mut(who);
        process.up = true;
        process.life += 1;
        process.owner = format!("{who:?}{}", process.life).into();
        process.skew = skew;
        process.paused_until = 0;
        process.stage = Stage::Run;
        process.backoff = BACKOFF_FIRST;
        process.was_ready = false;
        self.note(|| format!("{who:?} boots, its clock ahead by {} ms", skew / MS));
        self.begin(who, 0);
    }

    /// Plans the next start of a session.
    fn begin(&mut self, who: Who, delay: i64) {
        self.next_token += 1;
        let token = self.next_token;
        let process = self.process_mut(who);
        process.token = token;
        process.starting = None;
        self.after(delay, Event::Start(who, token));
    }

    pub(crate) fn start(&mut self, who: Who) {
        let asked = self.now;
        self.process_mut(who).starting = Some(Starting { asked, ..Starting::default() });
        self.ask_db(who, DbOp::Acquire);
    }

    /// The session ended, or never began: everything is forgotten and begun anew, unless the process stops.
    pub(crate) fn begin_again(&mut self, who: Who, why: &str) {
        self.note(|| format!("{who:?} starts anew: {why}"));
        self.drop_session(who);
        if self.process(who).stage >= Stage::Stop {
            self.end_process(who);
            self.plan_boot(who);
            return;
        }
        let process = self.process_mut(who);
        let delay = process.backoff;
        process.backoff = (delay * 2).min(BACKOFF_MOST);
        self.begin(who, delay);
    }

    /// Callers that wait are told that nobody knows.
    fn drop_session(&mut self, who: Who) {
        self.venue.subscriptions.retain(|subscription| subscription.who != who);
        let Some(session) = self.process_mut(who).session.take() else { return };
        let waiting = session.tickets.into_values().chain(session.submissions.into_iter().map(|(client, _)| client));
        for client in waiting {
            self.client_failed(client);
        }
    }

    pub(crate) fn loaded(&mut self, who: Who, snapshot: Snapshot) {
        let Some(Starting { asked, lease: Some(lease), early }) = self.process_mut(who).starting.take() else { return };
        let settings = Settings {
            namespace: "simulated".into(),
            limits: self.plan.limits.clone(),
            recv_window: RECV_WINDOW,
            absence_margin: ABSENCE_MARGIN,
        };
        self.note(|| format!("{who:?} recovers under epoch {} from event {}", lease.epoch, snapshot.last_seq));
        if snapshot.orders.iter().any(|order| order.status == trading::order::Status::Sending) {
            self.reach(State::SendingAtStart);
        }
        match self.unconfirmed.take() {
            Some(true) => self.reach(State::WrittenUnconfirmed),
            Some(false) => self.reach(State::LostUnconfirmed),
            None => {}
        }
        let other = if who == Who::A { Who::B } else { Who::A };
        if self.process(other).session.is_some() {
            self.reach(State::TwoEngines);
        }
        let now = self.wall(who);
        let (engine, first) = Engine::recover(settings, snapshot, lease.epoch, self.plan.symbols.clone(), now);
        let session = Session {
            engine,
            lease,
            lease_until: asked + LEASE_TTL,
            renew_at: asked + LEASE_TTL / 3,
            jobs: VecDeque::new(),
            stream: early.into(),
            submissions: VecDeque::new(),
            market: VecDeque::new(),
            doing: None,
            last: false,
            tickets: BTreeMap::new(),
            next_ticket: 0,
            seen: Stage::Run,
            turn_planned: false,
            wake_at: i64::MAX,
        };
        self.process_mut(who).session = Some(session);
        self.process_mut(who).backoff = BACKOFF_FIRST;
        self.finish(who, vec![first], false);
    }

    /// Something waits for the driver.
    fn rouse(&mut self, who: Who) {
        let process = self.process_mut(who);
        let token = process.token;
        let Some(session) = &mut process.session else { return };
        if session.doing.is_some() || std::mem::replace(&mut session.turn_planned, true) {
            return;
        }
        // Now and then the scheduler is slow, so that more comes together.
        let delay = if self.dice.delay.chance(150) { self.dice.delay.between(0, 30_000) } else { 20 };
        self.after(delay, Event::Turn(who, token));
    }

    pub(crate) fn answer(&mut self, who: Who, input: Input) {
        self.observe_input(who, &input);
        let Some(session) = &mut self.process_mut(who).session else { return };
        let is_answer = if let Input::Market(market) = input {
            session.market.push_back(market);
            false
        } else {
            session.jobs.push_back(input);
            true
        };
        if is_answer && self.falls_at_boundary(who, State::CrashWithAnswer) {
            return;
        }
        self.rouse(who);
    }

    pub(crate) fn stream(&mut self, who: Who, event: StreamEvent) {
        self.observe_stream(&event);
        let process = self.process_mut(who);
        if let Some(session) = &mut process.session {
            session.stream.push_back(event);
            self.rouse(who);
        } else if let Some(starting) = &mut process.starting {
            starting.early.push(event);
        }
    }

    pub(crate) fn submit(&mut self, who: Who, client: usize, command: Command) {
        if let Some(session) = &mut self.process_mut(who).session {
            session.submissions.push_back((client, command));
            self.rouse(who);
        }
    }

    /// The driver's own alarm: the lease, or the engine's time.
    pub(crate) fn wake(&mut self, who: Who) {
        let now = self.now;
        let Some(session) = &mut self.process_mut(who).session else { return };
        if now < session.wake_at {
            return;
        }
        session.wake_at = i64::MAX;
        if session.doing.is_some() {
            return;
        }
        let renew = now >= session.renew_at;
        if renew {
            session.renew_at = now + LEASE_TTL / 3;
            let lease = session.lease.clone();
            self.ask_db(who, DbOp::Renew { lease, asked: now });
        }
        self.rouse(who);
    }

    pub(crate) fn renewed(&mut self, who: Who, asked: i64) {
        if let Some(session) = &mut self.process_mut(who).session {
            session.lease_until = asked + LEASE_TTL;
        }
    }

    /// One turn: take what waits, decide, commit.
    pub(crate) fn turn(&mut self, who: Who) {
        let now = self.wall(who);
        let process = self.process_mut(who);
        let stage = process.stage;
        let Some(session) = &mut process.session else { return };
        session.turn_planned = false;
        if session.doing.is_some() {
            return;
        }
        let mut admitted = Vec::new();
        let mut inputs: Vec<Input> = session.jobs.pop_front().into_iter().collect();
        let path = [(Stage::NoEntries, Input::StopEntries), (Stage::Drain, Input::Drain), (Stage::Stop, Input::GiveUp)];
        let seen = std::mem::replace(&mut session.seen, stage);
        inputs.extend(path.into_iter().filter(|(at, _)| *at > seen && *at <= stage).map(|(_, input)| input));
        for (client, command) in session.submissions.drain(..) {
            session.next_ticket += 1;
            session.tickets.insert(session.next_ticket, client);
            admitted.push(client);
            inputs.push(Input::Command { ticket: session.next_ticket, command });
        }
        inputs.extend(session.stream.drain(..).map(Input::Stream));
        inputs.extend(session.jobs.drain(..));
        inputs.extend(session.market.drain(..).map(Input::Market));
        inputs.push(Input::Tick);
        let mut steps: Vec<Step> = inputs.into_iter().map(|input| session.engine.step(input, now)).collect();
        if stage >= Stage::Stop {
            steps.push(session.engine.stopped(now));
        }
        self.finish(who, steps, stage >= Stage::Stop);
    }

    /// Commits what the steps decided, then does it.
    fn finish(&mut self, who: Who, steps: Vec<Step>, last: bool) {
        let (mut events, mut effects): (Vec<Recorded>, Vec<Effect>) = (Vec::new(), Vec::new());
        for step in steps {
            events.extend(step.events);
            effects.extend(step.effects);
        }
        if events.is_empty() {
            self.carry_out_all(who, effects, last);
            return;
        }
        if self.falls_at_boundary(who, State::CrashBeforeCommit) {
            return;
        }
        match self.broken {
            Some(Break::EffectsFirst) => {
                for effect in std::mem::take(&mut effects) {
                    self.carry_out(who, effect);
                }
            }
            Some(Break::AnswersFirst) => {
                let (replies, rest) = effects.into_iter().partition(|effect| matches!(effect, Effect::Reply { .. }));
                effects = rest;
                let replies: Vec<Effect> = replies;
                for effect in replies {
                    self.carry_out(who, effect);
                }
            }
            _ => {}
        }
        let Some(session) = &mut self.process_mut(who).session else { return };
        session.doing = Some(effects);
        session.last = last;
        let commit = Commit { lease: session.lease.clone(), events: events.into() };
        self.ask_db(who, DbOp::Commit(commit));
        let _fell = self.falls_at_boundary(who, State::CrashInCommit);
    }

    pub(crate) fn committed(&mut self, who: Who, result: Result<(), CommitError>) {
        let Some(session) = &mut self.process_mut(who).session else { return };
        let (effects, last) = (session.doing.take().unwrap_or_default(), session.last);
        match result {
            Ok(()) => {
                if !self.falls_at_boundary(who, State::CrashAfterCommit) {
                    self.carry_out_all(who, effects, last);
                }
            }
            Err(error) => {
                self.judge_commit_error(who, &error);
                self.begin_again(who, &error.to_string());
            }
        }
    }

    fn carry_out_all(&mut self, who: Who, effects: Vec<Effect>, last: bool) {
        for (n, effect) in effects.into_iter().enumerate() {
            if n > 0 && self.falls_at_boundary(who, State::CrashBetweenEffects) {
                return;
            }
            self.carry_out(who, effect);
        }
        self.after_turn(who, last);
    }

    fn after_turn(&mut self, who: Who, last: bool) {
        if last {
            if let Some(session) = &self.process(who).session {
                let lease = session.lease.clone();
                self.ask_db(who, DbOp::Release(lease));
            }
            return;
        }
        let ready = self.process(who).is_ready();
        let process = self.process_mut(who);
        if ready && !std::mem::replace(&mut process.was_ready, true) {
            process.falls = 0;
            self.note(|| format!("{who:?} is ready"));
        }
        let process = self.process(who);
        let (life, stage) = (process.life, process.stage);
        let Some(session) = &process.session else { return };
        let drained = stage == Stage::Drain && session.engine.is_drained();
        let wake = session.engine.next_wake().map(|at| self.world_time(who, at));
        let wants = wake.into_iter().chain([session.renew_at]).min().unwrap_or(i64::MAX).max(self.now);
        let has_more = !session.jobs.is_empty()
            || !session.stream.is_empty()
            || !session.submissions.is_empty()
            || !session.market.is_empty()
            || session.seen < stage;
        let (token, planned) = (process.token, session.wake_at);
        if drained {
            self.after(0, Event::Stage(who, life, Stage::Stop));
        }
        if wants < planned {
            if let Some(session) = &mut self.process_mut(who).session {
                session.wake_at = wants;
            }
            self.push(wants, Event::Wake(who, token));
        }
        if has_more {
            self.rouse(who);
        }
    }

    fn carry_out(&mut self, who: Who, effect: Effect) {
        let token = self.process(who).token;
        let Some(session) = &mut self.process_mut(who).session else { return };
        let epoch = session.lease.epoch;
        let ask = match effect {
            Effect::Reply { ticket, record } => {
                if let Some(client) = session.tickets.remove(&ticket) {
                    self.reply(client, &record);
                }
                return;
            }
            Effect::Recall(client_id) => {
                self.ask_db(who, DbOp::Recall(client_id));
                return;
            }
            Effect::Send(order) => {
                let lease_left = session.lease_until - self.now;
                if lease_left < LEASE_TTL / 3 {
                    self.reach(State::LeaseTooShort);
                    let result = SendResult::NotSent { reason: "the account's lease is about to end".into() };
                    let input = Input::Sent { client_id: order.client_id, result };
                    self.after(10, Event::Answer(who, token, Box::new(input)));
                    return;
                }
                Ask::Post(order)
            }
            Effect::Cancel { symbol, client_id } => Ask::Cancel(symbol, client_id),
            Effect::Query { symbol, client_id, thorough } => Ask::Query { symbol, client_id, thorough },
            Effect::FetchFills { symbol, after } => Ask::Fills { symbol, after },
            Effect::ListOpenOrders => Ask::OpenOrders,
            Effect::ListBalances => Ask::Balances,
        };
        let delay = self.dice.delay.between(10, 800);
        self.after(delay, Event::Depart(who, token, Box::new(Request { ask, epoch })));
    }

    /// The process is killed: what it knew is gone, what it sent is on its way.
    pub(crate) fn crash(&mut self, who: Who) {
        if !self.process(who).up {
            return;
        }
        self.faults.add(Fault::Crash);
        self.note(|| format!("{who:?} is killed"));
        self.end_process(who);
        self.check_after_crash();
        self.plan_boot(who);
    }

    pub(crate) fn plan_boot(&mut self, who: Who) {
        let delay = if self.dice.delay.chance(300) { 20_000 } else { 1_500 };
        let delay = self.dice.delay.between(30, delay) * MS;
        self.after(delay, Event::Boot(who));
    }

    pub(crate) fn end_process(&mut self, who: Who) {
        let process = self.process(who);
        if (process.session.is_some() || process.starting.is_some()) && !process.was_ready {
            let falls = process.falls + 1;
            self.process_mut(who).falls = falls;
            if falls > 1 {
                self.reach(if falls == 2 { State::CrashInRecovery } else { State::CrashInSecondRecovery });
            }
        } else {
            self.process_mut(who).falls = 1;
        }
        self.drop_session(who);
        self.next_token += 1;
        let token = self.next_token;
        let process = self.process_mut(who);
        process.up = false;
        process.starting = None;
        process.token = token;
        process.life += 1;
    }

    pub(crate) fn power_loss(&mut self) {
        self.faults.add(Fault::PowerLoss);
        self.note(|| "power is lost".into());
        self.db_life += 1;
        if self.store.crash() {
            self.reach(State::UnsyncedLost);
        }
        for who in [Who::A, Who::B] {
            if self.process(who).up {
                self.end_process(who);
                self.plan_boot(who);
            }
        }
        self.check_after_crash();
    }

    pub(crate) fn shut_down(&mut self, who: Who, hold: i64, drain: i64) {
        let Process { up: true, stage: Stage::Run, life, .. } = *self.process(who) else { return };
        self.faults.add(Fault::Shutdown);
        let drain = if self.fault(Fault::SecondSignal) { drain.min(300 * MS) } else { drain };
        self.note(|| format!("{who:?} is asked to stop"));
        self.after(0, Event::Stage(who, life, Stage::NoEntries));
        self.after(hold, Event::Stage(who, life, Stage::Drain));
        self.after(hold + drain, Event::Stage(who, life, Stage::Stop));
    }

    pub(crate) fn advance(&mut self, who: Who, life: u32, stage: Stage) {
        let now = self.now;
        let process = self.process_mut(who);
        if process.life != life || !process.up || process.stage >= stage {
            return;
        }
        if process.paused_until > now {
            let until = process.paused_until;
            self.push(until, Event::Stage(who, life, stage));
            return;
        }
        process.stage = stage;
        if process.session.is_none() && stage >= Stage::Stop {
            self.end_process(who);
            self.plan_boot(who);
            return;
        }
        self.rouse(who);
    }

    /// The lease was given up, or not: the process ends in any case.
    pub(crate) fn released(&mut self, who: Who, done: bool) {
        if done {
            self.released_by = Some(who);
        }
        self.note(|| format!("{who:?} has stopped"));
        self.process_mut(who).was_ready = true;
        self.end_process(who);
        self.process_mut(who).falls = 0;
        self.plan_boot(who);
    }

    pub(crate) fn ttl() -> Duration {
        Duration::from_micros(u64::try_from(LEASE_TTL).unwrap_or(0))
    }

    pub(crate) fn account() -> trading::ids::AccountId {
        ACCOUNT
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("lease", &self.lease).finish_non_exhaustive()
    }
}
