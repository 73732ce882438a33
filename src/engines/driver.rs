//! The driver: waits until an account is to be traded here, then does what its engine decides. A task per account.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};
use trading::exchange::StreamEvent;
use trading::market::SymbolInfo;
use trading::risk::Limits;

use super::registry::{Face, Leads, Stage, Submission};
use super::session::Session;
use super::{Duty, HANDING_OVER, STANDBY, SubmitError, TakeOver, UNOWNED};
use crate::clock::Clock;
use crate::failpoints;
use crate::gateway::{Gateway, GatewayError};
use crate::market::MarketHub;
use crate::store::{Account, CommitError, Lease, LeaseError, Store, StoreError};
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
    /// How long a planned hand-over waits for what is on the wire. What is unknown after that the successor resolves.
    pub hand_over: Duration,
    /// Whether this process holds the lock that only one living process can hold.
    pub predecessor_is_dead: bool,
}

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(2);
/// Attempts to give a lease up. If all fail they are made anew later, or the lease expires.
const GIVE_UP_ATTEMPTS: usize = 3;

/// How a driver took its leave.
#[derive(Debug, Default)]
pub struct Farewell {
    /// Orders left UNKNOWN; the next start resolves them.
    pub unresolved: Vec<String>,
    /// Why the last state was not persisted, if it was not.
    pub failure: Option<String>,
}

/// Why a session with one engine ended.
pub(super) enum End {
    /// The server stops; everything is persisted.
    Stopped,
    /// The account was handed over; everything is persisted.
    HandedOver,
    /// The engine must be built anew.
    Again(SessionError),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
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
    #[error("the account is to be another's before the engine was up")]
    Unwanted,
}

impl SessionError {
    /// Whether somebody else has the account now, or may have it.
    fn is_fenced(&self) -> bool {
        matches!(self, Self::Lease(LeaseError::Lost(_)) | Self::Commit(CommitError::Fenced(_)))
    }
}

/// What can be had of the venue before the account is.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) symbols: Vec<SymbolInfo>,
    pub(super) stream: mpsc::Receiver<StreamEvent>,
}

impl Prepared {
    pub(super) async fn of(gateway: &dyn Gateway) -> Result<Self, GatewayError> {
        Ok(Self { symbols: gateway.symbols().await?, stream: gateway.subscribe().await? })
    }
}

/// One account's engine and the task that drives it.
#[derive(Debug)]
pub struct Driver {
    pub(super) account: Account,
    pub(super) ports: Ports,
    pub(super) submissions: mpsc::Receiver<Submission>,
    pub(super) stage: watch::Receiver<Stage>,
    pub(super) limits: watch::Receiver<Option<Limits>>,
    pub(super) duty: watch::Receiver<Option<Duty>>,
    pub(super) changed: Arc<Notify>,
    pub(super) face: Arc<Face>,
    pub(super) prepared: Option<Prepared>,
    /// How the account came here is counted once, however often its engine starts anew.
    pub(super) counted: bool,
    /// Whether the account's lease was given up since an engine was last started here.
    pub(super) is_gone: bool,
}

impl Driver {
    pub(super) fn new(account: Account, ports: Ports, leads: Leads, face: Arc<Face>) -> Self {
        let Leads { submissions, stage, limits, duty, changed } = leads;
        let (prepared, counted, is_gone) = (None, false, false);
        Self { account, ports, submissions, stage, limits, duty, changed, face, prepared, counted, is_gone }
    }

    /// Which account it drives.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Drives the engine whenever the account is to be traded here, until the registry's stage is [`Stage::Stop`].
    pub async fn run(mut self) -> Farewell {
        let mut wait = RETRY_FIRST;
        let mut failure = None;
        while let Some(take_over) = self.parked().await {
            self.face.drained.send_replace(false);
            self.is_gone = false;
            let end = match Session::start(&mut self, take_over).await {
                Ok(session) => {
                    wait = RETRY_FIRST;
                    session.run().await
                }
                Err(error) => End::Again(error),
            };
            self.changed.notify_one();
            let error = match end {
                End::Stopped => break,
                End::HandedOver => continue,
                End::Again(error) => error,
            };
            let stopping = *self.stage.borrow() >= Stage::Stop;
            self.face.update(|status| (status.ready, status.state) = (false, "recovering"));
            self.refuse_waiting(&SubmitError::Unconfirmed);
            if stopping {
                // A start that was cut short has nothing to persist; but it may have the lease.
                let cut_short = matches!(error, SessionError::Stopping | SessionError::Unwanted);
                failure = (!cut_short).then(|| chain(&error));
                if cut_short {
                    self.let_go().await;
                }
                break;
            }
            if matches!(error, SessionError::Unwanted) {
                continue;
            }
            self.note(&error);
            let mut stage = self.stage.clone();
            let _stop_or_time = timeout(wait, stage.wait_for(|stage| *stage >= Stage::Stop)).await;
            wait = (wait * 2).min(RETRY_MOST);
        }
        self.refuse_waiting(&SubmitError::Stopping);
        self.face.update(|status| {
            (status.ready, status.lease_at) = (false, None);
            // What another instance has stays its own, and commands for it go on being sent there.
            if !matches!(status.state, STANDBY | HANDING_OVER) {
                status.state = "stopped";
            }
        });
        self.face.drained.send_replace(true);
        let unresolved = self.face.status().unresolved.into_iter().map(|(id, _)| id.to_string()).collect();
        Farewell { unresolved, failure }
    }

    fn note(&self, error: &SessionError) {
        if error.is_fenced() {
            metrics::counter!("hotgo_account_fenced_total").increment(1);
        }
        if let SessionError::Lease(LeaseError::Held { owner, .. }) = error {
            let owner: Arc<str> = owner.as_str().into();
            tracing::info!(account = %self.account.label, %owner, "the account is another's");
            self.face.update(|status| (status.state, status.owner) = (STANDBY, Some(owner)));
            // Nothing of it is here.
            self.face.drained.send_replace(true);
        } else {
            tracing::error!(account = %self.account.label, error = %chain(error), "engine starts anew");
        }
    }

    /// Waits until the account is to be traded here. `None` once the server stops.
    async fn parked(&mut self) -> Option<TakeOver> {
        let mut tried = false;
        // What it was told while it gave the account up counts as told anew: the account may have come back since.
        let mut anew = !self.is_gone || self.duty.has_changed().unwrap_or(true);
        loop {
            if *self.stage.borrow_and_update() >= Stage::Stop {
                return None;
            }
            let mut expected = false;
            let duty = self.duty.borrow_and_update().clone();
            match duty {
                Some(Duty::Run(take_over)) => return Some(take_over),
                Some(Duty::Standby { owner, heir }) => {
                    expected = heir.as_ref() == Some(&self.ports.owner);
                    self.stand_by(owner, heir);
                }
                // It was handed over a moment ago; or the lease came here, and no engine ever ran under it.
                Some(Duty::HandOver { to }) => {
                    if anew {
                        self.let_go().await;
                    }
                    self.stand_by(Some(to), None);
                }
                None => {}
            }
            let again = !self.is_gone && matches!(&*self.duty.borrow(), Some(Duty::HandOver { .. }));
            if !expected {
                (self.prepared, tried) = (None, false);
            }
            self.face.drained.send_replace(true);
            anew = false;
            tokio::select! {
                told = self.duty.changed() => {
                    told.ok()?;
                    anew = true;
                }
                _ = self.stage.changed() => {}
                () = sleep(RETRY_MOST), if again => anew = true,
                Some(submission) = self.submissions.recv() => {
                    let owner = self.face.status().owner;
                    // A caller that has gone away needs no answer.
                    let _gone = submission.reply.send(Err(SubmitError::NotHere { owner }));
                }
                made = Prepared::of(&*self.ports.gateway), if expected && !tried => {
                    // What fails here is tried again when the account is taken.
                    self.prepared = made.ok();
                    tried = true;
                }
            }
        }
    }

    /// Gives up a lease under which no engine runs here.
    async fn let_go(&mut self) {
        self.is_gone = false;
        let Ports { store, owner, lease_ttl, .. } = &self.ports;
        match store.acquire_lease(self.account.id, owner, *lease_ttl, false).await {
            Ok(lease) => self.give_up(&lease).await,
            // It is another's.
            Err(LeaseError::Held { .. }) => self.is_gone = true,
            Err(error) => tracing::warn!(error = %chain(&error), "the lease was not given up; it expires"),
        }
        self.changed.notify_one();
    }

    /// Hands the lease over to whoever should have it, or gives it up. The last event under it is committed, and nothing of the
    /// account is on the wire.
    pub(super) async fn give_up(&mut self, lease: &Lease) {
        for attempt in 1..=GIVE_UP_ATTEMPTS {
            let to = match &*self.duty.borrow() {
                Some(Duty::HandOver { to }) => Some(Arc::clone(to)),
                _ => None,
            };
            failpoints::hit("u1").await;
            let Ports { store, lease_ttl, .. } = &self.ports;
            let result = match &to {
                Some(to) => store.transfer_lease(lease, to, *lease_ttl).await,
                None => store.release_lease(lease).await,
            };
            match result {
                Ok(()) => {
                    self.is_gone = true;
                    let to = to.as_deref().unwrap_or("nobody");
                    tracing::info!(account = %self.account.label, epoch = %lease.epoch, to, "account given up");
                    failpoints::hit("u2").await;
                    return;
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "the lease was not given up; it expires");
                    if !matches!(error, LeaseError::Store(_)) || *self.stage.borrow() >= Stage::Stop {
                        return;
                    }
                }
            }
            if attempt < GIVE_UP_ATTEMPTS {
                sleep(RETRY_FIRST * 2).await;
            }
        }
    }

    fn stand_by(&mut self, owner: Option<Arc<str>>, heir: Option<Arc<str>>) {
        self.counted = false;
        let state = if owner.is_some() || heir.is_some() { STANDBY } else { UNOWNED };
        let was_here = self.face.status().state == HANDING_OVER;
        self.face.update(|status| {
            (status.ready, status.state, status.owner, status.epoch) = (false, state, owner.or(heir), None);
            status.lease_at = None;
            status.awaited = state == STANDBY;
            (status.robots_running, status.live_orders, status.unresolved) = (0, 0, Vec::new());
            if was_here {
                status.reason = None;
            }
        });
        let owner = self.face.status().owner;
        self.refuse_waiting(&SubmitError::NotHere { owner });
    }

    fn refuse_waiting(&mut self, error: &SubmitError) {
        while let Ok(submission) = self.submissions.try_recv() {
            let _gone = submission.reply.send(Err(error.clone()));
        }
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
