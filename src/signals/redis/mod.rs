//! Intake of signals from a Redis stream with a consumer group.
//!
//! An entry is acknowledged after its outcome is durable and never before. What cannot be decided now is tried again, with each
//! robot's entries in their order; what cannot be decided at all goes to the dead letters with the reason, so that the stream
//! moves on. An entry that comes twice, whatever happened to Redis or to us in between, is recognised by the store.

mod entry;
mod stream;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use redis::Pipeline;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use trading::command::{Command, Wish};
use trading::ids::RobotId;

use self::entry::Entry;
use self::stream::{Reader, Stream};
use super::{CommandError, Commands, IntakeGate};
use crate::clock::Clock;
use crate::config::RedisSignalsConfig;
use crate::engines::SubmitError;
use crate::redis::Redis;

/// Entries held at once; no more are read meanwhile.
const MAX_HELD: usize = 256;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(2);
/// How often an entry that is done with is tried to be taken off. Left there, it comes again and is recognised.
const TAKE_OFF_TRIES: u32 = 4;

/// What the intake needs.
#[derive(Debug, Clone)]
pub struct StreamIntakeDeps {
    /// The server.
    pub redis: Redis,
    /// The stream.
    pub config: RedisSignalsConfig,
    /// This instance, unique per process start.
    pub instance: Arc<str>,
    /// The way to the engines.
    pub commands: Commands,
    /// Whether signals are taken.
    pub gate: IntakeGate,
    /// The one clock.
    pub clock: Clock,
    /// How long a signal that names no expiry lives.
    pub ttl: Duration,
    /// How long, once it is stopped, entries that are being decided are waited for.
    pub finish: Duration,
}

/// The intake.
#[derive(Debug)]
pub struct StreamIntake {
    redis: Redis,
    stream: Stream,
    max_tries: u32,
    commands: Commands,
    gate: IntakeGate,
    clock: Clock,
    ttl: Duration,
    finish: Duration,
}

/// What came of an entry.
enum Verdict {
    /// Its outcome is durable.
    Decided,
    /// It never will be, for this reason.
    Dead(String),
    /// The server stops: somebody else will take it.
    Left,
}

/// The robot whose entries stay in order; those without one have a lane of their own.
type Lane = Option<RobotId>;
/// An entry, and what it asks for, or why it asks for nothing.
type Waiting = (Entry, Result<Command, String>);

/// Entries that were read and are not done with.
#[derive(Default)]
struct Held {
    ids: HashSet<String>,
    /// The entries that wait for the one before them. A lane is here as long as one of its entries is being worked on.
    lanes: HashMap<Lane, VecDeque<Waiting>>,
    working: JoinSet<()>,
    /// Whose each task is; a task that panics cannot say so itself.
    worked_on: HashMap<Id, (Lane, String)>,
}

impl StreamIntake {
    /// Over this.
    pub fn new(deps: StreamIntakeDeps) -> Self {
        let StreamIntakeDeps { redis, config, instance, commands, gate, clock, ttl, finish } = deps;
        metrics::describe_counter!(
            "hotgo_stream_entries_total",
            "Entries of the signal stream, by what became of them"
        );
        let stream = Stream::new(&config, &instance);
        Self { redis, stream, max_tries: config.max_tries, commands, gate, clock, ttl, finish }
    }

    /// Takes signals until it is stopped. Then nothing more is read; what is being decided is finished, as far as it takes no
    /// longer than allowed, and everything else is left on the stream.
    pub async fn run(self, stop: CancellationToken) {
        let reader = Reader { redis: self.redis.clone(), stream: self.stream.clone() };
        let (out, entries) = mpsc::channel(1);
        let intake = Arc::new(self);
        tokio::join!(reader.run(out, stop.clone()), intake.work(entries, stop));
    }

    async fn work(self: Arc<Self>, mut entries: mpsc::Receiver<Vec<Entry>>, stop: CancellationToken) {
        let mut held = Held::default();
        let mut keep = interval(self.stream.keep_every());
        keep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = held.working.join_next_with_id() => self.next(&mut held, ended, &stop),
                _ = keep.tick(), if !held.ids.is_empty() => {
                    // Failing that, another consumer takes them over, and finds them decided.
                    let _lost = self.redis.query::<redis::Value>(&self.stream.keep(held.ids.iter())).await;
                }
                Some(batch) = entries.recv(), if held.ids.len() < MAX_HELD => {
                    for entry in batch {
                        self.take(&mut held, entry, &stop);
                    }
                }
            }
        }
        let finishing = async { while held.working.join_next().await.is_some() {} };
        if timeout(self.finish, finishing).await.is_err() {
            tracing::warn!(
                entries = held.working.len(),
                "entries are left on the stream undecided, or decided and not acknowledged"
            );
        }
        // Commands that are given up here are decided all the same, or not at all: whoever takes the entry finds out.
        held.working.shutdown().await;
    }

    /// Puts an entry into its robot's lane.
    fn take(self: &Arc<Self>, held: &mut Held, entry: Entry, stop: &CancellationToken) {
        // Taken over from ourselves, after a pause: it is being worked on.
        if !held.ids.insert(entry.id.clone()) {
            return;
        }
        let command = entry.command(&self.stream.source(), self.clock.now(), self.ttl);
        let lane = match command.as_ref().map(|command| &command.wish) {
            Ok(Wish::Signal(signal)) => Some(signal.robot),
            _ => None,
        };
        match held.lanes.entry(lane) {
            std::collections::hash_map::Entry::Occupied(mut waiting) => waiting.get_mut().push_back((entry, command)),
            std::collections::hash_map::Entry::Vacant(idle) => {
                idle.insert(VecDeque::new());
                self.start(held, lane, entry, command, stop);
            }
        }
    }

    /// An entry is done with: the next one of its lane has its turn.
    fn next(self: &Arc<Self>, held: &mut Held, ended: Result<(Id, ()), JoinError>, stop: &CancellationToken) {
        let task = match ended {
            Ok((task, ())) => task,
            Err(error) => {
                // It is delivered again, and again, and then it is a dead letter.
                tracing::error!(%error, "an entry's task failed");
                error.id()
            }
        };
        let Some((lane, id)) = held.worked_on.remove(&task) else { return };
        held.ids.remove(&id);
        match held.lanes.get_mut(&lane).and_then(VecDeque::pop_front) {
            Some((entry, command)) => self.start(held, lane, entry, command, stop),
            None => drop(held.lanes.remove(&lane)),
        }
    }

    fn start(
        self: &Arc<Self>,
        held: &mut Held,
        lane: Lane,
        entry: Entry,
        command: Result<Command, String>,
        stop: &CancellationToken,
    ) {
        let (intake, stop, id) = (Arc::clone(self), stop.clone(), entry.id.clone());
        let task = held.working.spawn(async move { intake.settle(&entry, command, &stop).await });
        held.worked_on.insert(task.id(), (lane, id));
    }

    /// Decides an entry and takes it off the stream.
    async fn settle(&self, entry: &Entry, command: Result<Command, String>, stop: &CancellationToken) {
        let verdict = match command {
            Ok(command) => self.decide(entry, &command, stop).await,
            Err(reason) => Verdict::Dead(reason),
        };
        let (outcome, pipeline) = match verdict {
            Verdict::Decided => ("decided", self.stream.acknowledge(entry)),
            Verdict::Dead(reason) => {
                tracing::warn!(entry = %entry.id, %reason, "an entry goes to the dead letters");
                ("dead", self.stream.bury(entry, &reason))
            }
            Verdict::Left => {
                metrics::counter!("hotgo_stream_entries_total", "outcome" => "left").increment(1);
                return;
            }
        };
        metrics::counter!("hotgo_stream_entries_total", "outcome" => outcome).increment(1);
        self.take_off(entry, &pipeline, stop).await;
    }

    async fn decide(&self, entry: &Entry, command: &Command, stop: &CancellationToken) -> Verdict {
        let mut wait = RETRY_FIRST;
        let mut tries = 0_u32;
        loop {
            let Ok(guard) = self.gate.enter() else { return Verdict::Left };
            let error = match self.attempt(entry, command).await {
                Ok(verdict) => return verdict,
                Err(error) => error,
            };
            drop(guard);
            tries = tries.saturating_add(1);
            if tries >= self.max_tries && self.is_hopeless(command, &error) {
                return Verdict::Dead(format!("{error}, also after {tries} tries"));
            }
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return Verdict::Left;
            }
            wait = (wait * 2).min(RETRY_MOST);
        }
    }

    /// One try. An error is one of the moment.
    async fn attempt(&self, entry: &Entry, command: &Command) -> Result<Verdict, CommandError> {
        let Wish::Signal(signal) = &command.wish else { return Ok(Verdict::Dead("it is no signal".to_owned())) };
        if entry.deliveries > self.max_tries && self.commands.decided(command).await?.is_none() {
            // Whoever took it before came to no end with it, or to one of its own.
            let times = entry.deliveries;
            return Ok(Verdict::Dead(format!("it was delivered {times} times and never decided")));
        }
        match self.commands.decide(signal.robot.account(), command.clone()).await {
            // One that is pending is durable too: in the inbox of the account's owner, who decides it.
            Ok(_) => Ok(Verdict::Decided),
            Err(CommandError::KeyReused) => Ok(Verdict::Dead(CommandError::KeyReused.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Whether nothing would come of trying on: there is no such account, or the signal's time is over.
    fn is_hopeless(&self, command: &Command, error: &CommandError) -> bool {
        let expired = match &command.wish {
            Wish::Signal(signal) => signal.expires_at.is_some_and(|at| at <= self.clock.now()),
            _ => false,
        };
        expired || matches!(error, CommandError::Submit(SubmitError::UnknownAccount))
    }

    async fn take_off(&self, entry: &Entry, pipeline: &Pipeline, stop: &CancellationToken) {
        let mut wait = RETRY_FIRST;
        for _ in 0..TAKE_OFF_TRIES {
            let taking =
                self.redis.run(|mut connection| async move { pipeline.query_async::<()>(&mut connection).await });
            let Err(failure) = taking.await else { return };
            tracing::debug!(entry = %entry.id, %failure, "an entry was not taken off the stream");
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
            wait = (wait * 2).min(RETRY_MOST);
        }
    }
}
