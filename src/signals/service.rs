//! Commands: decided once, answered the same for ever.

use std::fmt;
use std::sync::Arc;

use trading::command::{Command, Record, Wish};
use trading::ids::AccountId;
use trading::time::Timestamp;

use super::remote::Remote;
use crate::engines::{Engines, SubmitError};
use crate::failpoints;
use crate::store::{Store, StoreError};

/// Holding this keeps the shutdown's phase `stop-new-signals` from ending.
#[must_use = "a guard that is dropped at once guards nothing"]
pub struct IntakeGuard {
    _held: Box<dyn Send>,
}

impl IntakeGuard {
    /// Holds `guard`, whose drop is the release.
    pub fn new(guard: impl Send + 'static) -> Self {
        Self { _held: Box::new(guard) }
    }
}

impl fmt::Debug for IntakeGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntakeGuard").finish_non_exhaustive()
    }
}

/// New signals are not taken any more: the server is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("new signals are not taken any more")]
pub struct IntakeClosed;

/// Whether new signals are taken.
#[derive(Clone)]
pub struct IntakeGate(Arc<dyn Fn() -> Result<IntakeGuard, IntakeClosed> + Send + Sync>);

impl IntakeGate {
    /// Asks `enter` before each signal. It must not block.
    pub fn new(enter: impl Fn() -> Result<IntakeGuard, IntakeClosed> + Send + Sync + 'static) -> Self {
        Self(Arc::new(enter))
    }

    /// Lets one signal in, unless intake is closed.
    pub fn enter(&self) -> Result<IntakeGuard, IntakeClosed> {
        (self.0)()
    }
}

impl fmt::Debug for IntakeGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntakeGate").finish_non_exhaustive()
    }
}

/// Why a command has no outcome to show.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommandError {
    /// The engine did not decide, or did not say.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// What was decided earlier could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name belongs to an earlier, different wish.
    #[error("this name was used for a different wish")]
    KeyReused,
}

/// What became of a command so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It has its outcome.
    Decided(Decided),
    /// It is stored and will be decided by the instance that owns its account.
    Pending(Pending),
}

impl Decision {
    /// Whether it was known before this call.
    pub fn is_replayed(&self) -> bool {
        match self {
            Self::Decided(decided) => decided.replayed,
            Self::Pending(pending) => pending.replayed,
        }
    }
}

/// A command with its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Both, as stored.
    pub record: Record,
    /// Whether it was decided before this call.
    pub replayed: bool,
}

/// A command that waits for the owner of its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// As stored.
    pub command: Command,
    /// When it was stored.
    pub received_at: Timestamp,
    /// Whether it was stored before this call.
    pub replayed: bool,
}

/// The way of a command: looked up, otherwise decided by its account's engine, here or where its owner is.
#[derive(Debug, Clone)]
pub struct Commands {
    pub(super) store: Arc<dyn Store>,
    engines: Arc<dyn Engines>,
    remote: Option<Remote>,
}

impl Commands {
    /// Over this store and these engines. Commands for accounts that are not here are refused.
    pub fn new(store: Arc<dyn Store>, engines: Arc<dyn Engines>) -> Self {
        Self { store, engines, remote: None }
    }

    /// Sends commands for accounts that are not here to their owners.
    #[must_use]
    pub fn with_remote(mut self, remote: Remote) -> Self {
        self.remote = Some(remote);
        self
    }

    /// The outcome of a command that was decided before, if it was.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn decided(&self, command: &Command) -> Result<Option<Record>, StoreError> {
        self.store.find_command(&command.source, &command.dedup_key).await
    }

    /// The outcome of a command: of an earlier one with its name, or of this one. If the account is traded elsewhere, its
    /// owner is waited for, bounded.
    ///
    /// Cancel safety: a command whose caller goes away is decided all the same; asking again gives the same answer.
    ///
    /// # Errors
    /// See [`CommandError`]. After any but [`CommandError::KeyReused`], asking again is safe.
    pub async fn decide(&self, account: AccountId, command: Command) -> Result<Decision, CommandError> {
        failpoints::hit("p1").await;
        if let Some(earlier) = self.store.find_command(&command.source, &command.dedup_key).await? {
            return decided(earlier, &command.wish, true);
        }
        let Some(remote) = &self.remote else {
            let wish = command.wish.clone();
            let record = self.engines.submit(account, command).await?;
            return decided(record, &wish, false);
        };
        let first = self.first_of_its_name(&command).await?;
        match self.engines.submit(account, first).await {
            Ok(record) => decided(record, &command.wish, false),
            Err(SubmitError::NotHere { .. }) => self.decide_elsewhere(remote, account, command).await,
            // It may be known elsewhere.
            Err(SubmitError::UnknownAccount) if self.exists(account).await? => {
                self.decide_elsewhere(remote, account, command).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Decides a command of the inbox: of those that wait, none was decided.
    ///
    /// # Errors
    /// What kept the engine from it: the command goes on waiting.
    pub async fn decide_waiting(&self, account: AccountId, command: Command) -> Result<Record, SubmitError> {
        self.engines.submit(account, command).await
    }

    async fn exists(&self, account: AccountId) -> Result<bool, StoreError> {
        Ok(self.store.accounts().await?.iter().any(|known| known.id == account))
    }

    /// A new webhook's secret was shown to whoever asked for it first. So if that command still waits, it is what counts.
    async fn first_of_its_name(&self, command: &Command) -> Result<Command, CommandError> {
        let mut first = command.clone();
        if matches!(&command.wish, Wish::CreateRobot(new) if new.webhook_hash.is_some())
            && let Some(waiting) = self.store.waiting_command(&command.source, &command.dedup_key).await?
        {
            match waiting.wish {
                Ok(wish) if same_request(&wish, &command.wish) => first.wish = wish,
                _ => return Err(CommandError::KeyReused),
            }
        }
        Ok(first)
    }
}

/// The answer to a wish, from the record of its name. `found`: it was there before.
pub(super) fn decided(record: Record, wish: &Wish, found: bool) -> Result<Decision, CommandError> {
    if !same_request(&record.command.wish, wish) {
        return Err(CommandError::KeyReused);
    }
    // Of two that raced, the engine decided one and gave its record to both; the other's wish differs in what is made
    // anew for each request.
    let replayed = found || record.command.wish != *wish;
    Ok(Decision::Decided(Decided { record, replayed }))
}

/// Whether both come from the same request. What the server adds to each request differs all the same: a signal's expiry,
/// which is counted from its arrival, and the secret of a new webhook.
pub(super) fn same_request(one: &Wish, other: &Wish) -> bool {
    match (one, other) {
        (Wish::Signal(one), Wish::Signal(other)) => one.robot == other.robot && one.action == other.action,
        (Wish::CreateRobot(one), Wish::CreateRobot(other)) => {
            let mut alike = other.clone();
            alike.webhook_hash.clone_from(&one.webhook_hash);
            *one == alike && one.webhook_hash.is_some() == other.webhook_hash.is_some()
        }
        (one, other) => one == other,
    }
}
