//! The driver: does what an engine decides. A task per account.
//!
//! One turn takes everything that waits, steps the engine through it, commits all events in one go, and only then carries
//! the effects out. No timer delays a lone input. After any failed commit the engine is thrown away and built anew from the
//! store, so memory is never ahead of what is durable.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use trading::command::Record;
use trading::engine::{Effect, Engine, Input, Settings, Step};
use trading::event::Recorded;
use trading::exchange::{SendResult, StreamEvent};
use trading::market::Market;
use trading::risk::Limits;

use super::registry::{Face, Stage, Submission};
use super::{EngineStatus, SubmitError};
use crate::clock::Clock;
use crate::failpoints;
use crate::gateway::{Gateway, GatewayError};
use crate::market::MarketHub;
use crate::store::{Account, Commit, CommitError, Lease, LeaseError, Store, StoreError};
use crate::stream::Hub;

/// What a driver needs of the world.
#[derive(Debug, Clone)]
pub struct Ports {
    /// The durable store.
    pub store: Arc<dyn Store>,
    /// The account's venue.
    pub gateway: Arc<dyn Gateway>,
    /// Market data. Falling behind is fine: only the newest quotes matter.
    pub market: MarketHub,
    /// Where committed events go.
    pub hub: Arc<Hub>,
    /// The one clock.
    pub clock: Clock,
    /// See [`trading::engine::Settings::namespace`].
    pub namespace: String,
    /// Limits of the account as a whole.
    pub limits: Limits,
    /// Unique per process start.
    pub owner: Arc<str>,
    /// How long a lease lasts without renewal.
    pub lease_ttl: Duration,
    /// Whether this process holds the lock that only one living process can hold.
    pub predecessor_is_dead: bool,
}

/// Inputs stepped before a commit, at most.
const TURN: usize = 2_048;
/// Fills a page.
const PAGE: u32 = 1_000;
/// Longer than the store's own bounds: only a broken adapter meets it.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_millis(50);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// How a driver took its leave.
#[derive(Debug, Default)]
pub struct Farewell {
    /// Orders left UNKNOWN; the next start resolves them.
    pub unresolved: Vec<String>,
    /// Why the last state was not persisted, if it was not.
    pub failure: Option<String>,
}

/// Why a session with one engine ended.
enum End {
    /// The server stops; everything is persisted.
    Stopped,
    /// The engine must be built anew.
    Again(SessionError),
}

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("the lease is not to be had")]
    Lease(#[from] LeaseError),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the commit failed")]
    Commit(#[from] CommitError),
    #[error("the venue failed")]
    Venue(#[from] GatewayError),
    #[error("the server stops before the engine was up")]
    Stopping,
}

/// What a job that an effect started came to.
enum Done {
    Input(Box<Input>),
    Renewed { asked: Instant, result: Result<(), LeaseError> },
}

/// One account's engine and the task that drives it.
#[derive(Debug)]
pub struct Driver {
    account: Account,
    ports: Ports,
    submissions: mpsc::Receiver<Submission>,
    stage: watch::Receiver<Stage>,
    /// The account's limits, once they were changed.
    limits: watch::Receiver<Option<Limits>>,
    face: Arc<Face>,
}

/// One engine under one lease.
struct Session<'a> {
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
    /// When a change that was not shown yet is shown.
    status_at: Instant,
    status_is_old: bool,
}

impl Driver {
    pub(super) fn new(
        account: Account,
        ports: Ports,
        submissions: mpsc::Receiver<Submission>,
        stage: watch::Receiver<Stage>,
        limits: watch::Receiver<Option<Limits>>,
        face: Arc<Face>,
    ) -> Self {
        Self { account, ports, submissions, stage, limits, face }
    }

    /// Which account it drives.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Drives the engine until the registry's stage is [`Stage::Stop`].
    pub async fn run(mut self) -> Farewell {
        let mut wait = RETRY_FIRST;
        let mut failure = None;
        loop {
            let end = match Session::start(&mut self).await {
                Ok(session) => {
                    wait = RETRY_FIRST;
                    session.run().await
                }
                Err(error) => End::Again(error),
            };
            let End::Again(error) = end else { break };
            let stopping = *self.stage.borrow() >= Stage::Stop;
            self.face.update(|status| (status.ready, status.state) = (false, "recovering"));
            self.refuse_waiting(&SubmitError::Unconfirmed);
            if stopping {
                // A start that was cut short has nothing to persist.
                failure = (!matches!(error, SessionError::Stopping)).then(|| chain(&error));
                break;
            }
            tracing::error!(account = %self.account.label, error = %chain(&error), "engine starts anew");
            let mut stage = self.stage.clone();
            let _stop_or_time = timeout(wait, stage.wait_for(|stage| *stage >= Stage::Stop)).await;
            wait = (wait * 2).min(RETRY_MOST);
        }
        self.refuse_waiting(&SubmitError::Stopping);
        self.face.update(|status| (status.ready, status.state) = (false, "stopped"));
        self.face.drained.send_replace(true);
        let unresolved = self.face.status().unresolved.into_iter().map(|(id, _)| id.to_string()).collect();
        Farewell { unresolved, failure }
    }

    fn refuse_waiting(&mut self, error: &SubmitError) {
        while let Ok(submission) = self.submissions.try_recv() {
            // A caller that has gone away needs no answer.
            let _gone = submission.reply.send(Err(error.clone()));
        }
    }
}

impl<'a> Session<'a> {
    /// Takes the lease, loads the account, and starts its recovery.
    async fn start(driver: &'a mut Driver) -> Result<Session<'a>, SessionError> {
        let mut stage = driver.stage.clone();
        let ports = driver.ports.clone();
        let account = driver.account.id;
        driver.face.update(|status| (status.ready, status.state) = (false, "recovering"));
        let preparations = async {
            let asked = Instant::now();
            let lease =
                ports.store.acquire_lease(account, &ports.owner, ports.lease_ttl, ports.predecessor_is_dead).await?;
            let symbols = ports.gateway.symbols().await?;
            let stream = ports.gateway.subscribe().await?;
            let snapshot = ports.store.load(account).await?;
            Ok::<_, SessionError>((asked, lease, symbols, stream, snapshot))
        };
        let (asked, lease, symbols, stream, snapshot) = tokio::select! {
            ready = preparations => ready?,
            _ = stage.wait_for(|stage| *stage >= Stage::Stop) => return Err(SessionError::Stopping),
        };
        let window = ports.gateway.window();
        let settings = Settings {
            namespace: ports.namespace.clone(),
            limits: driver.limits.borrow_and_update().clone().unwrap_or_else(|| ports.limits.clone()),
            recv_window: window.recv_window,
            absence_margin: window.absence_margin,
        };
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
            status_at: Instant::now(),
            status_is_old: true,
            driver,
        };
        let mut steps = vec![first];
        let market = session.driver.ports.market.quotes();
        steps.extend(
            market.iter().map(|quote| session.engine.step(Input::Market((**quote).clone()), ports.clock.now())),
        );
        session.finish(steps).await?;
        Ok(session)
    }

    async fn run(mut self) -> End {
        loop {
            match self.turn().await {
                Ok(true) => {}
                Ok(false) => return End::Stopped,
                Err(error) => {
                    for (_, reply) in self.waiting.drain() {
                        let _gone = reply.send(Err(SubmitError::Unconfirmed));
                    }
                    return End::Again(error);
                }
            }
        }
    }

    /// One turn: take what waits, decide, commit, do. `false` once everything is persisted and the server stops.
    async fn turn(&mut self) -> Result<bool, SessionError> {
        let mut steps = Vec::new();
        let mut inputs = self.wait().await?;
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
        if stage >= Stage::Stop {
            steps.push(self.engine.stopped(self.driver.ports.clock.now()));
        }
        self.finish(steps).await?;
        if stage >= Stage::Stop {
            self.report(true);
            // A send that has not begun must not begin once somebody else may have the lease.
            self.jobs.shutdown().await;
            if let Err(error) = self.driver.ports.store.release_lease(&self.lease).await {
                tracing::warn!(error = %chain(&error), "the lease was not released; it expires");
            }
            return Ok(false);
        }
        let drained = stage >= Stage::Drain && self.engine.is_drained();
        if drained {
            self.driver.face.drained.send_replace(true);
        }
        self.report(drained);
        Ok(true)
    }

    /// The inputs that lead the engine from the stage it has seen to this one.
    fn stage_inputs(&mut self, stage: Stage) -> Vec<Input> {
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
        let next = wake.into_iter().chain(status).chain([self.renew_at]).min().unwrap_or(self.renew_at);
        tokio::select! {
            biased;
            _ = self.driver.stage.changed() => Ok(Vec::new()),
            Some(done) = self.jobs.join_next() => self.done(done).map(|input| input.into_iter().collect()),
            event = self.stream.recv() => Ok(vec![self.stream_input(event).await?]),
            Some(submission) = self.driver.submissions.recv() => Ok(vec![self.admit(submission)]),
            market = self.market.recv() => Ok(market.ok().map(|market| Input::Market((*market).clone())).into_iter().collect()),
            () = sleep_until(next) => {
                self.renew();
                Ok(Vec::new())
            }
        }
    }

    /// Takes everything else that waits, up to a bound.
    fn take_waiting(&mut self, inputs: &mut Vec<Input>) {
        while inputs.len() < TURN {
            if let Ok(submission) = self.driver.submissions.try_recv() {
                let input = self.admit(submission);
                inputs.push(input);
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

    fn admit(&mut self, submission: Submission) -> Input {
        self.next_ticket += 1;
        self.waiting.insert(self.next_ticket, submission.reply);
        Input::Command { ticket: self.next_ticket, command: submission.command }
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
        let became_ready = engine.is_ready() && !self.driver.face.status().ready;
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
            (Some(_), _) => "quarantined",
            (None, Stage::Drain | Stage::Stop) => "draining",
            (None, _) if engine.is_ready() => "running",
            (None, _) => "recovering",
        };
        self.driver.face.update(|status| {
            *status = EngineStatus {
                ready: engine.is_ready(),
                state,
                reason: engine.quarantine().map(str::to_owned),
                epoch: Some(engine.epoch()),
                robots_running: engine.running_robots(),
                live_orders: engine.live_orders().count(),
                unresolved,
                ..status.clone()
            };
        });
        if became_ready {
            tracing::info!(account = %self.driver.account.label, "account ready");
        }
    }
}

async fn recall(store: &dyn Store, client_id: trading::ids::ClientOrderId) -> Input {
    // "No such row" has consequences, so it must be the store's word and not its silence.
    loop {
        match store.order(&client_id).await {
            Ok(order) => return Input::Recalled { client_id, order },
            Err(error) => {
                tracing::warn!(order = %client_id, error = %chain(&error), "order not read; trying again");
                tokio::time::sleep(RETRY_MOST).await;
            }
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
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
