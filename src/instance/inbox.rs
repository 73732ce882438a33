//! The owner's side of the inbox: commands that other instances stored for accounts that are traded here.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use trading::command::{Command, Record};
use trading::ids::AccountId;

use crate::bus::{Bus, Message};
use crate::clock::Clock;
use crate::engines::{Engines, SubmitError};
use crate::signals::Commands;
use crate::store::{Store, Waiting};

/// How late a command is looked for at most that the bus did not tell of.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Commands that are in an engine's hands at the same time.
const BATCH: usize = 64;
/// Commands that one look reads, of all accounts.
const PAGE: u32 = 512;

/// Decides what waits for the accounts that are ready here.
#[derive(Debug)]
pub struct Inbox {
    /// Where commands wait.
    pub store: Arc<dyn Store>,
    /// Which accounts are ready here.
    pub engines: Arc<dyn Engines>,
    /// Who decides.
    pub commands: Commands,
    /// Who tells that something waits.
    pub bus: Arc<dyn Bus>,
    /// Now.
    pub clock: Clock,
}

/// What is under way.
#[derive(Default)]
struct Turns {
    running: JoinSet<(AccountId, bool)>,
    /// Accounts with a turn that runs, and how many commands it has.
    taken: BTreeMap<AccountId, usize>,
    /// Rows that this binary cannot read. Each is told once, and leaves the page to the others.
    unreadable: BTreeSet<i64>,
}

impl Inbox {
    /// Decides until it is stopped. What is in an engine's hands then is decided all the same.
    ///
    /// Cancel safe.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.pump()).await;
    }

    async fn pump(&self) {
        let mut told = self.bus.subscribe();
        let mut turns = Turns::default();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let look = tokio::select! {
                _ = tick.tick() => true,
                () = woken(&mut told) => true,
                Some(ended) = turns.running.join_next() => turns.ended(ended),
            };
            if look {
                self.look(&mut turns).await;
            }
        }
    }

    async fn look(&self, turns: &mut Turns) {
        let status = self.engines.status();
        let ready = status.into_iter().filter(|engine| engine.ready).map(|engine| engine.account);
        let free: Vec<AccountId> = ready.filter(|account| !turns.taken.contains_key(account)).collect();
        if free.is_empty() {
            return;
        }
        let limit = PAGE.saturating_add(u32::try_from(turns.unreadable.len()).unwrap_or(u32::MAX));
        let page = match self.store.waiting_commands(&free, limit).await {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(%error, "the inbox was not read; looking again");
                return;
            }
        };
        let under_way: usize = turns.taken.values().sum();
        gauge(under_way.saturating_add(page.len()));
        let mut accounts: BTreeMap<AccountId, Vec<(Waiting, Command)>> = BTreeMap::new();
        for waiting in page {
            if let Some(command) = turns.read(&waiting) {
                accounts.entry(waiting.account).or_default().push((waiting, command));
            }
        }
        for (account, commands) in accounts {
            turns.taken.insert(account, commands.len());
            turns.running.spawn(turn(self.commands.clone(), self.clock, account, commands));
        }
    }
}

fn gauge(waiting: usize) {
    metrics::gauge!("hotgo_inbox_waiting").set(f64::from(u32::try_from(waiting).unwrap_or(u32::MAX)));
}

/// Waits until the bus tells of something that waits, or may have.
async fn woken(told: &mut Receiver<Arc<Message>>) {
    loop {
        match told.recv().await.as_deref() {
            Ok(Message::Wake { .. }) | Err(RecvError::Lagged(_)) => return,
            Ok(_) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Turns {
    /// Whether it is worth to look again at once.
    fn ended(&mut self, ended: Result<(AccountId, bool), tokio::task::JoinError>) -> bool {
        match ended {
            Ok((account, all)) => {
                self.taken.remove(&account);
                all
            }
            Err(error) => {
                // Which account it was is not known: all that still run are merely looked at too early.
                tracing::error!(%error, "a turn of the inbox broke off");
                self.taken.clear();
                false
            }
        }
    }

    fn read(&mut self, waiting: &Waiting) -> Option<Command> {
        let Waiting { id, account, source, dedup_key, wish, .. } = waiting;
        match wish {
            Ok(wish) => Some(Command { source: source.clone(), dedup_key: dedup_key.clone(), wish: wish.clone() }),
            Err(error) => {
                if self.unreadable.insert(*id) {
                    tracing::error!(id, %account, source, error, "a waiting command cannot be read by this version; it stays");
                }
                None
            }
        }
    }
}

type Deciding = Pin<Box<dyn Future<Output = Result<Record, SubmitError>> + Send>>;

/// Decides an account's commands in their order. Ends at the first that the engine does not take, so that none overtakes
/// it. Returns whether all were decided.
async fn turn(
    decide: Commands,
    clock: Clock,
    account: AccountId,
    commands: Vec<(Waiting, Command)>,
) -> (AccountId, bool) {
    let mut commands = commands.into_iter().peekable();
    while commands.peek().is_some() {
        let mut taken: Vec<Deciding> = Vec::new();
        let mut refused = None;
        for (waiting, command) in commands.by_ref().take(BATCH) {
            let decide = decide.clone();
            let mut deciding: Deciding = Box::pin(async move {
                let record = decide.decide_waiting(account, command).await;
                if record.is_ok() {
                    let took = clock.now().since(waiting.received_at);
                    metrics::histogram!("hotgo_inbox_decided_seconds").record(took);
                }
                record
            });
            // The engine takes or refuses a command at once: so they stand in its queue in their order.
            match poll_fn(|cx| Poll::Ready(deciding.as_mut().poll(cx))).await {
                Poll::Ready(Err(error)) => {
                    refused = Some(error);
                    break;
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => taken.push(deciding),
            }
        }
        let failed = join_all(taken).await.into_iter().find_map(Result::err);
        if let Some(error) = refused.or(failed) {
            tracing::debug!(%account, %error, "waiting commands were not decided; trying again");
            return (account, false);
        }
    }
    (account, true)
}
