//! The registry: finds an account's engine, tells each whose it is, and leads all of them through a shutdown.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use trading::command::{Command, Record};
use trading::ids::AccountId;
use trading::risk::Limits;

use super::driver::{Driver, Ports};
use super::{Duty, EngineStatus, Engines, SubmitError};
use crate::store::Account;

/// How long a caller waits for its command's commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How far the server's shutdown has come. Only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Trade.
    Run,
    /// Make no new entries.
    NoEntries,
    /// Carry out stop policies, resolve what is unknown.
    Drain,
    /// Persist and end.
    Stop,
}

/// A command on its way to an engine.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) command: Command,
    pub(super) reply: oneshot::Sender<Result<Record, SubmitError>>,
}

/// What leads a driver.
#[derive(Debug)]
pub(super) struct Leads {
    pub(super) submissions: mpsc::Receiver<Submission>,
    pub(super) stage: watch::Receiver<Stage>,
    /// The account's limits, once they were changed.
    pub(super) limits: watch::Receiver<Option<Limits>>,
    /// Whose the account is; `None` as long as nobody said.
    pub(super) duty: watch::Receiver<Option<Duty>>,
    pub(super) changed: Arc<Notify>,
}

/// An engine's public face, shared with its driver.
#[derive(Debug)]
pub(super) struct Face {
    pub(super) status: Mutex<EngineStatus>,
    /// Whether the drain has nothing left to wait for.
    pub(super) drained: watch::Sender<bool>,
}

impl Face {
    pub(super) fn status(&self) -> EngineStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut EngineStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[derive(Debug)]
struct Entry {
    intake: mpsc::Sender<Submission>,
    face: Arc<Face>,
    duty: watch::Sender<Option<Duty>>,
}

/// All engines of this process.
#[derive(Debug)]
pub struct EngineRegistry {
    entries: BTreeMap<AccountId, Entry>,
    stage: watch::Sender<Stage>,
    limits: watch::Sender<Option<Limits>>,
    changed: Arc<Notify>,
}

impl EngineRegistry {
    /// Makes an engine for each account. The returned drivers are futures that the caller runs and tracks; each ends after
    /// [`EngineRegistry::advance`]`(Stage::Stop)`. They wait until they are told whose the accounts are: see
    /// [`EngineRegistry::assign`] and [`EngineRegistry::take_all`].
    pub fn new(accounts: Vec<(Account, Ports)>, queue: usize) -> (Arc<Self>, Vec<Driver>) {
        let (stage, _) = watch::channel(Stage::Run);
        let (limits, _) = watch::channel(None);
        let changed = Arc::new(Notify::new());
        let (mut entries, mut drivers) = (BTreeMap::new(), Vec::new());
        for (account, ports) in accounts {
            let (intake, submissions) = mpsc::channel(queue.max(1));
            let status = EngineStatus {
                account: account.id,
                label: account.label.clone(),
                ready: false,
                state: "starting",
                reason: None,
                owner: None,
                epoch: None,
                lease_at: None,
                robots_running: 0,
                live_orders: 0,
                unresolved: Vec::new(),
                queued: 0,
                awaited: false,
            };
            let (drained, _) = watch::channel(false);
            let face = Arc::new(Face { status: Mutex::new(status), drained });
            let (duty, told) = watch::channel(None);
            entries.insert(account.id, Entry { intake, face: Arc::clone(&face), duty });
            let leads = Leads {
                submissions,
                stage: stage.subscribe(),
                limits: limits.subscribe(),
                duty: told,
                changed: Arc::clone(&changed),
            };
            drivers.push(Driver::new(account, ports, leads, face));
        }
        (Arc::new(Self { entries, stage, limits, changed }), drivers)
    }

    /// Tells the account's driver whose it is. To say the same again changes nothing.
    pub fn assign(&self, account: AccountId, duty: Duty) {
        let Some(entry) = self.entries.get(&account) else { return };
        entry.duty.send_if_modified(|current| {
            let is_new = !current.as_ref().is_some_and(|current| current.is_like(&duty));
            if is_new {
                *current = Some(duty);
            }
            is_new
        });
    }

    /// Whether the account's driver was told this last.
    pub fn is_assigned(&self, account: AccountId, duty: &Duty) -> bool {
        let told = self.entries.get(&account).map(|entry| entry.duty.borrow());
        told.is_none_or(|told| told.as_ref().is_some_and(|told| told.is_like(duty)))
    }

    /// Tells every driver that its account is to be traded here: for whoever is alone with the store.
    pub fn take_all(&self) {
        for account in self.entries.keys() {
            self.assign(*account, Duty::Run(super::TakeOver::First));
        }
    }

    /// Says of an account that this process is not able to trade why that is so.
    pub fn set_reason(&self, account: AccountId, reason: &str) {
        if let Some(entry) = self.entries.get(&account) {
            entry.face.update(|status| status.reason = Some(reason.to_owned()));
        }
    }

    /// Resolves when an account was taken, given up or lost since the last time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The accounts that there are engines for.
    pub fn accounts(&self) -> impl Iterator<Item = AccountId> {
        self.entries.keys().copied()
    }

    /// Moves every engine on to this stage of the shutdown; a stage that is already past changes nothing.
    pub fn advance(&self, stage: Stage) {
        self.stage.send_if_modified(|current| {
            let later = stage > *current;
            *current = stage.max(*current);
            later
        });
    }

    /// Gives every account other limits, in place of those of its [`Ports`]. Commands that come from now on meet them.
    pub fn set_limits(&self, limits: Limits) {
        self.limits.send_replace(Some(limits));
    }

    /// Waits until no engine has anything left to drain. Cancel safe.
    pub async fn drained(&self) {
        for entry in self.entries.values() {
            // An engine that is gone has nothing left to drain.
            let mut drained = entry.face.drained.subscribe();
            let _gone = drained.wait_for(|drained| *drained).await.is_err();
        }
    }

    /// Waits until no account's engine starts or recovers any more. Cancel safe.
    pub async fn up(&self, poll: Duration) {
        while self.status().iter().any(|engine| matches!(engine.state, "starting" | "recovering")) {
            tokio::time::sleep(poll).await;
        }
    }

    /// Waits until every account is in good hands: see [`EngineStatus::is_well`]. Cancel safe.
    pub async fn ready(&self, poll: Duration) {
        while !self.status().iter().all(EngineStatus::is_well) {
            tokio::time::sleep(poll).await;
        }
    }
}

#[async_trait::async_trait]
impl Engines for EngineRegistry {
    async fn submit(&self, account: AccountId, command: Command) -> Result<Record, SubmitError> {
        let entry = self.entries.get(&account).ok_or(SubmitError::UnknownAccount)?;
        let status = entry.face.status();
        if !status.ready && status.is_elsewhere() {
            return Err(SubmitError::NotHere { owner: status.owner });
        }
        if *self.stage.borrow() >= Stage::Stop {
            return Err(SubmitError::Stopping);
        }
        if !status.ready {
            return Err(SubmitError::NotReady);
        }
        let (reply, answer) = oneshot::channel();
        entry.intake.try_send(Submission { command, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SubmitError::Busy,
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopping,
        })?;
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(SubmitError::Unconfirmed),
        }
    }

    fn status(&self) -> Vec<EngineStatus> {
        let queued = |entry: &Entry| entry.intake.max_capacity() - entry.intake.capacity();
        self.entries.values().map(|entry| EngineStatus { queued: queued(entry), ..entry.face.status() }).collect()
    }
}
