//! The task that keeps this instance's row alive, looks at the leases, and tells each engine whose its account is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use trading::ids::AccountId;

use super::api::Seen;
use super::plan::{Desired, Looker, duty, is_in_charge, is_replaced, plan, successor_of};
use crate::bus::Message;
use crate::engines::{Duty, EngineRegistry};
use crate::store::{Instance, InstanceRow, LeaseRow, Store, StoreError};

/// How often the leases are looked at while some account is another's or may become so.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same while standing by: nobody trades an account between its owner's last word and the look that finds it handed over.
const LOOK_STANDING_BY: Duration = Duration::from_millis(20);
/// How often those that take over from each other tell each other how they stand.
const BEAT_BESIDE: Duration = Duration::from_millis(250);
/// How long an instance is waited for that was not heard of yet.
const INTRODUCTION: Duration = Duration::from_secs(2);
/// After a beat that failed.
const RETRY: Duration = Duration::from_millis(200);
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// What an instance says of itself.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its row. The service itself sets whether it drains, and to whom it hands its accounts over.
    pub row: InstanceRow,
    /// How long it counts as living without a beat; as its leases. It beats at a third of it.
    pub ttl: Duration,
    /// Another process of its name may take over from it.
    pub shares: bool,
    /// A lock proves that no other process uses the store: whoever else is in it is dead.
    pub alone: bool,
}

/// What an instance is up to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Course {
    draining: bool,
    standby: bool,
    successor: Option<Arc<str>>,
}

/// Why accounts are not handed over, or not taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// No living instance that takes accounts has this id.
    #[error("there is no such instance that takes accounts")]
    NoSuchInstance,
    /// It was started without an account that is traded here.
    #[error(
        "that instance is not configured for account {0}, which is traded here: stop this one to take an account away"
    )]
    NotAble(AccountId),
    /// Another instance has taken over from this one.
    #[error("another instance has taken over from this one")]
    Replaced,
    /// It hands its own accounts over to this one.
    #[error("that instance hands its accounts over to this one: let it take them back")]
    Circle,
    /// This one is shutting down.
    #[error("this instance is shutting down")]
    Draining,
}

/// What one look at the store showed, and what follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Who lives, by id. Empty before the first beat.
    pub living: Vec<Instance>,
    /// Who holds what.
    pub leases: BTreeMap<AccountId, LeaseRow>,
    /// Who should.
    pub desired: Desired,
}

/// This instance among the others. Clones are handles to the same one.
#[derive(Clone)]
pub struct Instances {
    settings: Arc<Settings>,
    store: Arc<dyn Store>,
    registry: Arc<EngineRegistry>,
    /// Tells the others to look.
    tell: Arc<dyn Fn() + Send + Sync>,
    asked: Arc<Notify>,
    course: Arc<watch::Sender<Course>>,
    view: Arc<watch::Sender<View>>,
    /// What the others were told last.
    told: Arc<watch::Sender<Option<InstanceRow>>>,
}

impl fmt::Debug for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instances").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Instances {
    /// This instance, over this store, telling these engines whose their accounts are. `tell` is called when the others
    /// should look at once; it must not block, and what it does may be lost.
    pub fn new(
        settings: Settings,
        store: Arc<dyn Store>,
        registry: Arc<EngineRegistry>,
        tell: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let course = Course { draining: false, standby: settings.row.standby, successor: None };
        Self {
            settings: Arc::new(settings),
            store,
            registry,
            tell: Arc::new(tell),
            asked: Arc::default(),
            course: Arc::new(watch::Sender::new(course)),
            view: Arc::new(watch::Sender::new(View::default())),
            told: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Unique per process start.
    pub fn id(&self) -> &Arc<str> {
        &self.settings.row.id
    }

    /// Who is here and who has what, as last seen.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// What the routes show.
    pub fn seen(&self) -> Seen {
        Seen { id: Arc::clone(self.id()), view: self.view() }
    }

    /// Looks at once who lives and who has what: another instance said that something has changed.
    pub fn wake(&self) {
        self.asked.notify_one();
    }

    /// Wakes at what others say on the bus, until `stop`.
    pub async fn hear(self, mut told: broadcast::Receiver<Arc<Message>>, stop: CancellationToken) {
        loop {
            match stop.run_until_cancelled(told.recv()).await {
                Some(Ok(message)) if *message == Message::Instances => self.wake(),
                Some(Ok(_)) => {}
                // What was missed may have been such a message.
                Some(Err(RecvError::Lagged(_))) => self.wake(),
                Some(Err(RecvError::Closed)) | None => return,
            }
        }
    }

    /// Takes no account from now on, and hands those it has to others that can have them. Returns once the others know and
    /// the engines are told; at once if nobody else is here. Cancel safe: what is begun goes on.
    pub async fn drain(&self) {
        self.course.send_modify(|course| course.draining = true);
        self.wake();
        let mut view = self.view.subscribe();
        let told = |view: &View| {
            let others = view.living.iter().any(|it| it.row.id != *self.id());
            !others || view.living.iter().any(|it| it.row.id == *self.id() && it.row.draining)
        };
        // An error means that the task is gone; then the leases expire.
        let _gone = view.wait_for(told).await.is_err();
    }

    /// From now on all accounts that the instance `to` is able to trade are to be its own: idle ones at once, busy ones when
    /// what is on the wire is settled. To say it again changes nothing. It ends by itself when that instance dies. Cancel safe.
    ///
    /// # Errors
    /// See [`HandOverError`]. Then nothing has changed.
    pub async fn hand_over(&self, to: &str) -> Result<(), HandOverError> {
        let takes = |it: &&Instance| &*it.row.id == to && to != &**self.id() && !it.row.draining;
        let mut views = self.view.subscribe();
        // It may have come a moment ago.
        self.wake();
        let view = timeout(INTRODUCTION, views.wait_for(|view| view.living.iter().any(|it| takes(&it)))).await;
        let Ok(Ok(view)) = view else { return Err(HandOverError::NoSuchInstance) };
        let heir = view.living.iter().find(takes).ok_or(HandOverError::NoSuchInstance)?;
        if heir.row.successor.as_ref() == Some(self.id()) {
            return Err(HandOverError::Circle);
        }
        // The paper venue's ledger goes with all its accounts or stays with all of them.
        let mine = view.leases.values().filter(|lease| lease.owner == *self.id() && !lease.remaining.is_zero());
        if let Some(left) = mine.map(|lease| lease.account).find(|account| !heir.row.accounts.contains(account)) {
            return Err(HandOverError::NotAble(left));
        }
        self.steer(|course| course.successor = Some(Arc::clone(&heir.row.id)))
    }

    /// Hands nothing over any more, and wants back what was. To say it again changes nothing.
    ///
    /// # Errors
    /// [`HandOverError::Draining`], [`HandOverError::Replaced`].
    pub fn take_back(&self) -> Result<(), HandOverError> {
        if self.course.borrow().standby {
            return Err(HandOverError::Replaced);
        }
        self.steer(|course| course.successor = None)
    }

    /// To whom accounts are handed over.
    pub fn successor(&self) -> Option<Arc<str>> {
        self.course.borrow().successor.clone()
    }

    /// Whether all accounts are traded by others that live and go on, however they came to have them.
    pub fn is_handed_over(&self) -> bool {
        let view = self.view.borrow();
        let goes_on = |id: &Arc<str>| {
            view.living.iter().any(|it| it.row.id == *id && it.row.id != *self.id() && !it.row.draining)
        };
        let has_owner = |account: &AccountId| {
            view.leases.get(account).is_some_and(|lease| !lease.remaining.is_zero() && goes_on(&lease.owner))
        };
        !self.settings.row.accounts.is_empty() && self.settings.row.accounts.iter().all(has_owner)
    }

    fn steer(&self, change: impl FnOnce(&mut Course)) -> Result<(), HandOverError> {
        let mut result = Err(HandOverError::Draining);
        self.course.send_if_modified(|course| {
            let before = course.clone();
            if !course.draining {
                result = Ok(());
                change(course);
            }
            *course != before
        });
        self.wake();
        result
    }

    fn row(&self) -> InstanceRow {
        let Course { draining, standby, successor } = self.course.borrow().clone();
        InstanceRow { draining, standby, successor, ..self.settings.row.clone() }
    }

    /// Beats and looks until `stop`, then leaves. A beat that fails changes nothing: whoever loses a lease is told so by the
    /// lease itself.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.serve()).await;
        match timeout(LEAVE_TIMEOUT, self.store.leave(self.id())).await {
            Ok(Ok(())) => (self.tell)(),
            Ok(Err(error)) => tracing::warn!(%error, "this instance is not taken off the list; its row expires"),
            Err(_) => tracing::warn!("this instance is not taken off the list; its row expires"),
        }
    }

    async fn serve(&self) {
        let mut next_beat = Instant::now();
        loop {
            let result = if Instant::now() >= next_beat { self.beat().await } else { self.look().await };
            match result {
                Ok(Some(beat_again)) => next_beat = beat_again,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "this instance does not know how the others stand");
                    next_beat = Instant::now() + RETRY.min(self.settings.ttl / 3);
                }
            }
            let until = match self.looks_every() {
                Some(pause) => next_beat.min(Instant::now() + pause),
                None => next_beat,
            };
            tokio::select! {
                () = self.asked.notified() => next_beat = Instant::now(),
                () = self.registry.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// How often to look because an account may become this one's at any moment.
    fn looks_every(&self) -> Option<Duration> {
        let view = self.view.borrow();
        let mine = |account: &AccountId| view.leases.get(account).is_some_and(|lease| lease.owner == *self.id());
        match view.living.len() > 1 || !self.settings.row.accounts.iter().all(mine) {
            true if self.course.borrow().standby => Some(LOOK_STANDING_BY),
            true => Some(LOOK_EVERY),
            false => None,
        }
    }

    /// Says that this instance lives, and plans anew. Returns when to do so again.
    async fn beat(&self) -> Result<Option<Instant>, StoreError> {
        let row = self.row();
        let started = Instant::now();
        let mut living = self.bounded(self.store.beat(&row, self.settings.ttl)).await?;
        if self.settings.alone {
            living.retain(|instance| instance.row.id == *self.id());
        }
        self.settle(&row, &mut living);
        let leases = self.leases().await?;
        // One that dies is noticed when its row expires, and not a beat later.
        let others = living.iter().filter(|instance| instance.row.id != *self.id());
        let next_death = others.map(|instance| instance.remaining).min().unwrap_or(self.settings.ttl);
        let desired = plan(&owners(&leases), &living);
        let in_slots = living.iter().any(|it| {
            it.row.id != row.id && it.row.name == row.name && (it.row.standby || row.standby || row.successor.is_some())
        });
        self.publish(View { living, leases, desired });
        if self.told.send_replace(Some(row.clone())).as_ref() != Some(&row) {
            (self.tell)();
        }
        let most = if in_slots { BEAT_BESIDE } else { self.settings.ttl };
        Ok(Some(started + (self.settings.ttl / 3).min(next_death.max(LOOK_EVERY)).min(most)))
    }

    /// What follows for this instance's own course from who lives: told to the others with the next beat, which is at once.
    fn settle(&self, row: &InstanceRow, living: &mut [Instance]) {
        let gone = row.successor.as_ref().filter(|_| !row.draining && successor_of(row, living).is_none());
        let takes_charge = row.standby && is_in_charge(row, living);
        let was_replaced = self.settings.shares && !row.standby && is_replaced(row, living);
        let changed = self.course.send_if_modified(|course| {
            let is_gone = gone.is_some() && course.successor.as_ref() == gone;
            if is_gone {
                tracing::warn!(successor = ?course.successor, "the successor is gone; its accounts are taken back");
                course.successor = None;
            }
            if takes_charge {
                tracing::info!("this instance stands by no more");
                course.standby = false;
            }
            if was_replaced {
                tracing::warn!("another instance took over from this one, which now stands by");
                course.standby = true;
            }
            is_gone || takes_charge || was_replaced
        });
        if changed {
            let row = self.row();
            living.iter_mut().filter(|it| it.row.id == row.id).for_each(|it| it.row = row.clone());
            self.wake();
        }
    }

    /// Looks at the leases. Who lives is not asked anew unless some engine would be told something else: nothing is decided on
    /// an old answer.
    async fn look(&self) -> Result<Option<Instant>, StoreError> {
        let leases = self.leases().await?;
        let living = self.view.borrow().living.clone();
        let desired = plan(&owners(&leases), &living);
        let view = View { living, leases, desired };
        if !self.duties(&view).all(|(account, duty)| self.registry.is_assigned(account, &duty)) {
            return self.beat().await;
        }
        self.publish(view);
        Ok(None)
    }

    /// What this view means for each engine here.
    fn duties<'a>(&'a self, view: &'a View) -> impl Iterator<Item = (AccountId, Duty)> + 'a {
        let standby = self.course.borrow().standby;
        let Settings { ttl, alone, .. } = *self.settings;
        let me = Looker { id: self.id(), ttl, alone, standby, now: Instant::now() };
        let of = move |account| duty(view.leases.get(&account), view.desired.get(&account), me);
        self.registry.accounts().map(move |account| (account, of(account)))
    }

    fn publish(&self, view: View) {
        for (account, duty) in self.duties(&view) {
            self.registry.assign(account, duty);
        }
        let mine = view.leases.values().filter(|it| it.owner == *self.id() && !it.remaining.is_zero()).count();
        metrics::gauge!("hotgo_accounts_owned").set(f64::from(u32::try_from(mine).unwrap_or(u32::MAX)));
        self.view.send_replace(view);
    }

    /// Reads the leases. If one of this instance went to another since the last look, that one is told to look.
    async fn leases(&self) -> Result<BTreeMap<AccountId, LeaseRow>, StoreError> {
        let rows = self.bounded(self.store.leases()).await?;
        let was_mine =
            |row: &LeaseRow| self.view.borrow().leases.get(&row.account).is_some_and(|lease| lease.owner == *self.id());
        if rows.iter().any(|row| row.owner != *self.id() && was_mine(row)) {
            (self.tell)();
        }
        Ok(rows.into_iter().map(|row| (row.account, row)).collect())
    }

    /// A store that takes longer than a beat may take is one that does not answer.
    async fn bounded<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let answer = timeout(self.settings.ttl / 3, work).await;
        answer.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())))
    }
}

/// Who holds what at this moment.
fn owners(leases: &BTreeMap<AccountId, LeaseRow>) -> BTreeMap<AccountId, Arc<str>> {
    let held = leases.values().filter(|lease| !lease.remaining.is_zero());
    held.map(|lease| (lease.account, Arc::clone(&lease.owner))).collect()
}
