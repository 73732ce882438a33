//! One engine under one lease.
//!
//! One turn takes everything that waits, steps the engine through it, commits all events in one go, and only then carries
//! the effects out. No timer delays a lone input. After any failed commit the engine is thrown away and built anew from the
//! store, so memory is never ahead of what is durable.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use trading::command::Record;
use trading::engine::{Effect, Engine, Input, Settings, Step};
use trading::event::Recorded;
use trading::exchange::{SendResult, StreamEvent};
use trading::market::Market;
use trading::order::CancelState;
use trading::risk::Limits;

use super::driver::{Driver, End, Ports, Prepared, SessionError, chain};
use super::registry::{Stage, Submission};
use super::{Duty, EngineStatus, HANDING_OVER, SubmitError, TakeOver};
use crate::failpoints;
use crate::gateway::GatewayError;
use crate::store::{Commit, CommitError, Lease, LeaseError, Store};

/// Inputs stepped before a commit, at most.
const TURN: usize = 2_048;
/// Fills a page.
const PAGE: u32 = 1_000;
/// Longer than the store's own bounds: only a broken adapter meets it.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_millis(50);
const RECALL_RETRY: Duration = Duration::from_secs(2);

/// What a job that an effect started came to.
enum Done {
    Input(Box<Input>),
    Renewed { asked: Instant, result: Result<(), LeaseError> },
}

/// One engine under one lease.
pub(super) struct Session<'a> {
    driver: &'a mut Driver,
    engine: Engine,
    lease: Lease,
    /// Until when the lease is certainly ours, by the monotonic clock.
    lease_until: Instant,
    renew_at: Instant,
    jobs: JoinSet<Done>,
    stream: mpsc::Receiver<StreamEvent>,
    market: broadcast::Receiver<Arc<Market>>,
    waiting: HashMap<u64, oneshot::Sender<Result<Record, SubmitError>>>,
    next_ticket: u64,
    seen: Stage,
    /// How long a hand-over waits yet for what is on the wire, once it has begun.
    leave_by: Option<Instant>,
    /// How the account came here, until that is counted.
    take_over: Option<TakeOver>,
    /// When a change that was not shown yet is shown.
    status_at: Instant,
    status_is_old: bool,
}

impl<'a> Session<'a> {
    /// Takes the lease, loads the account, and starts its recovery.
    pub(super) async fn start(driver: &'a mut Driver, take_over: TakeOver) -> Result<Session<'a>, SessionError> {
        let (mut stage, ports, account) = (driver.stage.clone(), driver.ports.clone(), driver.account.id);
        let prepared = driver.prepared.take().filter(|prepared| !prepared.stream.is_closed());
        let owner = Some(Arc::clone(&ports.owner));
        driver.face.update(|status| (status.ready, status.state, status.owner) = (false, "recovering", owner));
        let preparations = async {
            let asked = Instant::now();
            let lease =
                ports.store.acquire_lease(account, &ports.owner, ports.lease_ttl, ports.predecessor_is_dead).await?;
            failpoints::hit("u6").await;
            let (prepared, up) = match prepared {
                Some(mut prepared) => {
                    let up = skip_what_is_old(&mut prepared.stream);
                    (prepared, up)
                }
                None => (Prepared::of(&*ports.gateway).await?, None),
            };
            let snapshot = ports.store.load(account).await?;
            Ok::<_, SessionError>((asked, lease, prepared, up, snapshot))
        };
        let mut duty = driver.duty.clone();
        let (asked, lease, Prepared { symbols, stream }, up, snapshot) = tokio::select! {
            ready = preparations => ready?,
            _ = stage.wait_for(|stage| *stage >= Stage::Stop) => return Err(SessionError::Stopping),
            _ = duty.wait_for(|duty| !matches!(duty, Some(Duty::Run(_)))) => return Err(SessionError::Unwanted),
        };
        let settings = settings(&ports, driver.limits.borrow_and_update().clone());
        tracing::info!(
            account = %driver.account.label, epoch = %lease.epoch, events = %snapshot.last_seq,
            live_orders = snapshot.orders.len(), robots = snapshot.robots.len(), "account taken"
        );
        let (engine, first) = Engine::recover(settings, snapshot, lease.epoch, symbols, ports.clock.now());
        #[cfg(feature = "failpoints")]
        let engine = {
            let mut engine = engine;
            engine.set_strategy(failpoints::strategy);
            engine
        };
        let mut session = Session {
            engine,
            lease,
            lease_until: asked + ports.lease_ttl,
            renew_at: asked + ports.lease_ttl / 3,
            jobs: JoinSet::new(),
            stream,
            market: ports.market.subscribe(),
            waiting: HashMap::new(),
            next_ticket: 0,
            seen: Stage::Run,
            leave_by: None,
            take_over: Some(take_over).filter(|_| !driver.counted),
            status_at: Instant::now(),
            status_is_old: true,
            driver,
        };
        session.driver.counted = true;
        session.driver.changed.notify_one();
        let mut steps = vec![first];
        steps.extend(up.map(|up| session.engine.step(Input::Stream(up), ports.clock.now())));
        let market = session.driver.ports.market.quotes();
        steps.extend(
            market.iter().map(|quote| session.engine.step(Input::Market((**quote).clone()), ports.clock.now())),
        );
        session.finish(steps).await?;
        Ok(session)
    }

    pub(super) async fn run(mut self) -> End {
        loop {
            match self.turn().await {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(error) => {
                    for (_, reply) in self.waiting.drain() {
                        let _gone = reply.send(Err(SubmitError::Unconfirmed));
                    }
                    // A send that has not begun must not begin once somebody else may have the lease.
                    self.jobs.shutdown().await;
                    return End::Again(error);
                }
            }
        }
    }

    /// One turn: take what waits, decide, commit, do. An end once everything is persisted and nothing is done here any more.
    async fn turn(&mut self) -> Result<Option<End>, SessionError> {
        let mut steps = Vec::new();
        let mut inputs = self.wait().await?;
        // Every turn, not only those that a timer begins: under load none does.
        self.renew();
        inputs.extend(self.begin_to_leave());
        let stage = *self.driver.stage.borrow_and_update();
        if stage != self.seen {
            inputs.extend(self.stage_inputs(stage));
        }
        self.take_waiting(&mut inputs);
        // An error means that the registry is gone, and with it whoever could change limits.
        if self.driver.limits.has_changed().unwrap_or(false)
            && let Some(limits) = self.driver.limits.borrow_and_update().clone()
        {
            self.engine.set_limits(limits);
        }
        inputs.push(Input::Tick);
        for input in inputs {
            steps.push(self.engine.step(input, self.driver.ports.clock.now()));
        }
        let ends = stage >= Stage::Stop || self.has_settled();
        if ends {
            // Not GiveUp: that begins with the robots' stop policies. What is on the wire is unknown to the successor anyway.
            steps.push(self.engine.stopped(self.driver.ports.clock.now()));
        }
        self.finish(steps).await?;
        if ends {
            self.report(true);
            // A send that has not begun must not begin once somebody else may have the lease.
            self.jobs.shutdown().await;
            self.driver.give_up(&self.lease).await;
            return Ok(Some(if stage >= Stage::Stop { End::Stopped } else { End::HandedOver }));
        }
        let drained = stage >= Stage::Drain && self.engine.is_drained();
        if drained {
            self.driver.face.drained.send_replace(true);
        }
        self.report(drained);
        Ok(None)
    }

    /// Begins a hand-over, if there is one to begin: no command is taken any more, no entry is sent.
    fn begin_to_leave(&mut self) -> Option<Input> {
        let Some(Duty::HandOver { to }) = self.driver.duty.borrow_and_update().clone() else { return None };
        if self.leave_by.is_some() {
            return None;
        }
        self.leave_by = Some(Instant::now() + self.driver.ports.hand_over);
        tracing::info!(account = %self.driver.account.label, %to, "handing the account over");
        self.driver.face.update(|status| {
            (status.ready, status.state, status.owner) = (false, HANDING_OVER, Some(to));
            // It may come back before this one has stood by.
            status.awaited = true;
        });
        Some(Input::StopEntries)
    }

    /// Whether a hand-over has nothing left to wait for, or has waited for long enough.
    fn has_settled(&self) -> bool {
        let on_the_wire = || {
            let cancels = self.engine.live_orders().any(|order| order.cancel == CancelState::Sent);
            cancels || self.engine.unresolved().next().is_some()
        };
        self.leave_by.is_some_and(|leave_by| Instant::now() >= leave_by || !on_the_wire())
    }

    /// The inputs that lead the engine from the stage it has seen to this one.
    fn stage_inputs(&mut self, stage: Stage) -> Vec<Input> {
        if self.leave_by.is_some() {
            // Its robots go on elsewhere: their stop policies are not for this.
            self.seen = stage;
            return Vec::new();
        }
        let path = [(Stage::NoEntries, Input::StopEntries), (Stage::Drain, Input::Drain), (Stage::Stop, Input::GiveUp)];
        let inputs =
            path.into_iter().filter(|(at, _)| *at > self.seen && *at <= stage).map(|(_, input)| input).collect();
        self.seen = stage;
        inputs
    }

    /// Waits for the first input of a turn. Every branch is cancel safe.
    async fn wait(&mut self) -> Result<Vec<Input>, SessionError> {
        let wake = self.engine.next_wake().map(|at| {
            let ahead = at.since(self.driver.ports.clock.now());
            Instant::now() + ahead
        });
        let status = self.status_is_old.then_some(self.status_at);
        let next =
            wake.into_iter().chain(status).chain(self.leave_by).chain([self.renew_at]).min().unwrap_or(self.renew_at);
        tokio::select! {
            biased;
            _ = self.driver.stage.changed() => Ok(Vec::new()),
            Ok(()) = self.driver.duty.changed() => Ok(Vec::new()),
            Some(done) = self.jobs.join_next() => self.done(done).map(|input| input.into_iter().collect()),
            event = self.stream.recv() => Ok(vec![self.stream_input(event).await?]),
            Some(submission) = self.driver.submissions.recv() => Ok(self.admit(submission).into_iter().collect()),
            market = self.market.recv() => Ok(market.ok().map(|market| Input::Market((*market).clone())).into_iter().collect()),
            () = sleep_until(next) => Ok(Vec::new()),
        }
    }

    /// Takes everything else that waits, up to a bound.
    fn take_waiting(&mut self, inputs: &mut Vec<Input>) {
        while inputs.len() < TURN {
            if let Ok(submission) = self.driver.submissions.try_recv() {
                inputs.extend(self.admit(submission));
            } else if let Ok(event) = self.stream.try_recv() {
                inputs.push(Input::Stream(event));
            } else {
                break;
            }
        }
        while inputs.len() < TURN {
            let Some(done) = self.jobs.try_join_next() else { break };
            match self.done(done) {
                Ok(input) => inputs.extend(input),
                // A lost lease shows again at the commit.
                Err(_) => break,
            }
        }
        while let Ok(market) = self.market.try_recv() {
            inputs.push(Input::Market((*market).clone()));
            if inputs.len() >= TURN {
                break;
            }
        }
    }

    fn admit(&mut self, submission: Submission) -> Option<Input> {
        if self.leave_by.is_some() {
            let owner = self.driver.face.status().owner;
            let _gone = submission.reply.send(Err(SubmitError::NotHere { owner }));
            return None;
        }
        self.next_ticket += 1;
        self.waiting.insert(self.next_ticket, submission.reply);
        Some(Input::Command { ticket: self.next_ticket, command: submission.command })
    }

    /// A stream that ended is subscribed to again.
    async fn stream_input(&mut self, event: Option<StreamEvent>) -> Result<Input, SessionError> {
        if let Some(event) = event {
            return Ok(Input::Stream(event));
        }
        self.stream = self.driver.ports.gateway.subscribe().await?;
        Ok(Input::Stream(StreamEvent::Down))
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) -> Result<Option<Input>, SessionError> {
        match done {
            Ok(Done::Input(input)) => Ok(Some(*input)),
            Ok(Done::Renewed { asked, result: Ok(()) }) => {
                self.lease_until = asked + self.driver.ports.lease_ttl;
                Ok(None)
            }
            Ok(Done::Renewed { result: Err(LeaseError::Store(error)), .. }) => {
                tracing::warn!(error = %chain(&error), "the lease was not renewed");
                Ok(None)
            }
            Ok(Done::Renewed { result: Err(error), .. }) => Err(error.into()),
            // A job that panicked is a bug in a gateway: start anew, and ask the venue what became of it.
            Err(error) => Err(GatewayError::Unavailable(error.to_string()).into()),
        }
    }

    /// Commits what the steps decided, then does it.
    async fn finish(&mut self, steps: Vec<Step>) -> Result<(), SessionError> {
        let mut effects = Vec::new();
        let mut events: Vec<Recorded> = Vec::new();
        for step in steps {
            events.extend(step.events);
            effects.extend(step.effects);
        }
        if !events.is_empty() {
            let (planned, ended) = what_it_is_about(&events);
            if planned {
                failpoints::hit("p2").await;
            }
            let events: Arc<[Recorded]> = events.into();
            let commit = Commit { lease: self.lease.clone(), events: Arc::clone(&events) };
            match timeout(COMMIT_TIMEOUT, self.driver.ports.store.commit(commit)).await {
                Ok(result) => result?,
                Err(_) => return Err(CommitError::Unknown("no answer in time".into()).into()),
            }
            self.driver.ports.hub.publish(self.driver.account.id, events);
            if planned {
                failpoints::hit("p3").await;
            }
            if ended {
                failpoints::hit("p7").await;
            }
        }
        for effect in effects {
            self.carry_out(effect);
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect) {
        let gateway = Arc::clone(&self.driver.ports.gateway);
        match effect {
            Effect::Reply { ticket, record } => {
                if let Some(reply) = self.waiting.remove(&ticket) {
                    // A caller that has gone away can ask again.
                    let _gone = reply.send(Ok(*record));
                }
            }
            Effect::Send(order) => {
                // A successor may take over when the lease ends: a request must be at the venue before that.
                let last_moment = self.lease_until.checked_sub(self.driver.ports.lease_ttl / 3);
                self.spawn(async move {
                    failpoints::hit("p4").await;
                    let client_id = order.client_id.clone();
                    // Asked right here: the process may have been frozen since the commit.
                    let result = if last_moment.is_some_and(|last| Instant::now() <= last) {
                        gateway.send(&order).await
                    } else {
                        SendResult::NotSent { reason: "the account's lease is about to end".into() }
                    };
                    failpoints::hit("p6").await;
                    Input::Sent { client_id, result }
                });
            }
            Effect::Cancel { symbol, client_id } => self.spawn(async move {
                let result = gateway.cancel(&symbol, &client_id).await;
                Input::CancelEnded { client_id, result }
            }),
            Effect::Query { symbol, client_id, thorough } => self.spawn(async move {
                let result = gateway.query(&symbol, &client_id, thorough).await;
                Input::Queried { client_id, result }
            }),
            Effect::FetchFills { symbol, after } => self.spawn(async move {
                let fills = gateway.fills(&symbol, after, PAGE).await.ok();
                let more = fills.as_ref().is_some_and(|fills| u32::try_from(fills.len()).is_ok_and(|n| n >= PAGE));
                Input::Fetched { symbol, fills, more }
            }),
            Effect::ListOpenOrders => self.spawn(async move { Input::OpenOrders(gateway.open_orders().await.ok()) }),
            Effect::ListBalances => self.spawn(async move { Input::Balances(gateway.balances().await.ok()) }),
            Effect::Recall(client_id) => {
                let store = Arc::clone(&self.driver.ports.store);
                self.spawn(async move { recall(&*store, client_id).await });
            }
        }
    }

    fn spawn(&mut self, job: impl Future<Output = Input> + Send + 'static) {
        self.jobs.spawn(async move { Done::Input(Box::new(job.await)) });
    }

    fn renew(&mut self) {
        let now = Instant::now();
        if now < self.renew_at {
            return;
        }
        self.renew_at = now + self.driver.ports.lease_ttl / 3;
        let (store, lease, ttl) =
            (Arc::clone(&self.driver.ports.store), self.lease.clone(), self.driver.ports.lease_ttl);
        self.jobs.spawn(async move { Done::Renewed { asked: now, result: store.renew_lease(&lease, ttl).await } });
    }

    /// Shows how the engine stands; at most every [`STATUS_EVERY`], since counting costs more than a small turn.
    fn report(&mut self, at_once: bool) {
        let now = Instant::now();
        let engine = &self.engine;
        let ready = engine.is_ready() && self.leave_by.is_none();
        let became_ready = ready && !self.driver.face.status().ready;
        if !at_once && !became_ready && now < self.status_at {
            self.status_is_old = true;
            return;
        }
        self.status_is_old = false;
        self.status_at = now + STATUS_EVERY;
        let time = self.driver.ports.clock.now();
        let unresolved =
            engine.unresolved().map(|(order, since)| (order.client_id.clone(), time.since(since))).collect();
        let state = match (engine.quarantine(), self.seen) {
            _ if self.leave_by.is_some() => HANDING_OVER,
            (Some(_), _) => "quarantined",
            (None, Stage::Drain | Stage::Stop) => "draining",
            (None, _) if engine.is_ready() => "running",
            (None, _) => "recovering",
        };
        if let Some(reason) = engine.quarantine()
            && self.driver.face.status().reason.as_deref() != Some(reason)
        {
            tracing::error!(alarm = true, account = %self.driver.account.label, reason, "account quarantined");
        }
        self.driver.face.update(|status| {
            *status = EngineStatus {
                ready,
                state,
                reason: engine.quarantine().map(str::to_owned),
                epoch: Some(engine.epoch()),
                lease_at: self.lease_until.checked_sub(self.driver.ports.lease_ttl),
                robots_running: engine.running_robots(),
                live_orders: engine.live_orders().count(),
                unresolved,
                awaited: status.awaited && !ready && engine.quarantine().is_none(),
                ..status.clone()
            };
        });
        if became_ready {
            tracing::info!(account = %self.driver.account.label, "account ready");
            if let Some(take_over) = self.take_over.take() {
                count(take_over);
            }
        }
    }
}

fn count(take_over: TakeOver) {
    let kind = match take_over {
        TakeOver::First => return,
        TakeOver::Planned { since } => {
            metrics::histogram!("hotgo_account_unowned_seconds").record(since.elapsed());
            "planned"
        }
        TakeOver::Forced => "forced",
    };
    metrics::counter!("hotgo_account_takeovers_total", "kind" => kind).increment(1);
}

fn settings(ports: &Ports, limits: Option<Limits>) -> Settings {
    let window = ports.gateway.window();
    Settings {
        namespace: ports.namespace.clone(),
        limits: limits.unwrap_or_else(|| ports.limits.clone()),
        recv_window: window.recv_window,
        absence_margin: window.absence_margin,
    }
}

/// Drops what a stream said before the account was taken: all of that is in the lists that a recovery asks for. What remains
/// is whether it is up.
fn skip_what_is_old(stream: &mut mpsc::Receiver<StreamEvent>) -> Option<StreamEvent> {
    let mut up = None;
    while let Ok(event) = stream.try_recv() {
        match event {
            StreamEvent::Up => up = Some(StreamEvent::Up),
            StreamEvent::Down => up = None,
            StreamEvent::Report(_) => {}
        }
    }
    up
}

async fn recall(store: &dyn Store, client_id: trading::ids::ClientOrderId) -> Input {
    // "No such row" has consequences, so it must be the store's word and not its silence.
    loop {
        match store.order(&client_id).await {
            Ok(order) => return Input::Recalled { client_id, order },
            Err(error) => {
                tracing::warn!(order = %client_id, error = %chain(&error), "order not read; trying again");
                sleep(RECALL_RETRY).await;
            }
        }
    }
}

/// Whether events plan something for a caller, and whether they hold a venue's answer: what the failpoints P2, P3 and P7 tell
/// apart.
fn what_it_is_about(events: &[Recorded]) -> (bool, bool) {
    use trading::event::Event;
    use trading::order::Status;
    let planned = events.iter().any(|recorded| matches!(recorded.event, Event::Command(_)));
    let ended = events.iter().any(|recorded| match &recorded.event {
        Event::Order(order) => order.attempt > 0 && order.status != Status::Sending,
        _ => false,
    });
    (planned, ended)
}
