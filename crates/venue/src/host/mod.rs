//! The exchange as something that runs: a thread of its own, a queue in front of it, and a ledger behind it.
//!
//! The [`Driver`] is the thread: it drains a bounded queue, applies everything that waits, makes the ledger durable once,
//! and only then answers. A [`Host`] is the handle to it: the in-process gateway and the [`crate::binance`] server both
//! have one. Faults of the venue itself (refusals, withheld fills, late processing, a wrong clock) are applied here; those
//! of the network between it and its customers are applied by whoever stands there for the network.
//!
//! When the ledger cannot be written, the venue is like one that is down: nothing is answered until it is opened anew.

mod driver;
mod streams;
mod users;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use trading::market::{Market, SymbolInfo};
use trading::time::Timestamp;

use self::driver::{Answer, Message};
pub use self::driver::{Core, Driver, system_now};
pub use self::users::Delivery;
use crate::exchange::{Exchange, Settings};
use crate::faults::{Faults, Fired, Injector};
use crate::ledger::{Ledger, LedgerError, ReadAhead, Torn};

/// How many requests and market events may wait for the venue's thread.
const QUEUE: usize = 4096;
/// How many market events a listener may be behind.
const EVENTS: usize = 4096;

/// The venue is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the venue is closed")]
pub struct Closed;

/// A market event with a number that grows, also over restarts.
#[derive(Debug, Clone)]
pub struct Published {
    /// The number.
    pub id: u64,
    /// The event.
    pub market: Arc<Market>,
}

/// A handle to the venue. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: mpsc::Sender<Message>,
    stop: CancellationToken,
    injector: Arc<Mutex<Injector>>,
    held: watch::Sender<bool>,
    market: broadcast::Sender<Published>,
    last_market: AtomicU64,
    settings: Settings,
    ledger: PathBuf,
    ledger_id: String,
}

fn lock(injector: &Mutex<Injector>) -> MutexGuard<'_, Injector> {
    injector.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    /// Opens the venue with its ledger. Nothing is answered until the driver runs. Also says what was torn off the ledger.
    ///
    /// Reads the whole ledger: call it where blocking is allowed.
    pub fn open(ledger: &Path, settings: Settings) -> Result<(Self, Driver, Option<Torn>), LedgerError> {
        Self::open_after(ledger, &mut ReadAhead::default(), settings)
    }

    /// The same, and reads only what was not read ahead.
    pub fn open_after(
        ledger: &Path,
        ahead: &mut ReadAhead,
        settings: Settings,
    ) -> Result<(Self, Driver, Option<Torn>), LedgerError> {
        let opened = Ledger::open_after(ledger, ahead)?;
        let (queue, messages) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        let injector = Arc::new(Mutex::new(Injector::default()));
        let core = Core::new(Exchange::new(settings.clone(), opened.state), Arc::clone(&injector));
        let driver = Driver::new(core, opened.ledger, messages, stop.clone());
        let shared = Shared {
            queue,
            stop,
            injector,
            held: watch::Sender::new(false),
            market: broadcast::Sender::new(EVENTS),
            last_market: AtomicU64::new(u64::try_from(system_now().micros()).unwrap_or_default()),
            settings,
            ledger: ledger.to_owned(),
            ledger_id: opened.id,
        };
        Ok((Self { shared: Arc::new(shared) }, driver, opened.torn))
    }

    /// Has the venue's thread do `work`, after `delay` if there is one. What comes back resolves to the result once the
    /// ledger has it, or to an error when the venue is down.
    ///
    /// Waits while the queue is full. Cancel safety: the work is handed over as a whole or not at all.
    pub async fn ask<T: Send + 'static>(
        &self,
        delay: Option<Duration>,
        work: impl FnOnce(&mut Core, Timestamp) -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, Closed> {
        let permit = self.shared.queue.reserve().await.map_err(|_| Closed)?;
        let (reply, answer) = oneshot::channel();
        let work = Box::new(move |core: &mut Core, now| -> Answer {
            let result = work(core, now);
            // Nobody may be waiting any more, which is no concern of the venue's.
            Box::new(move || drop(reply.send(result)))
        });
        permit.send(Message::Work { work, delay });
        Ok(answer)
    }

    /// Hands a market event to the venue, then to the listeners. Waits while the queue is full, so that a fast feed is held
    /// back and not dropped.
    ///
    /// Cancel safety: the venue gets the event as a whole or not at all.
    pub async fn on_market(&self, market: Arc<Market>) -> Result<(), Closed> {
        self.shared.queue.send(Message::Market(Arc::clone(&market))).await.map_err(|_| Closed)?;
        let id = self.shared.last_market.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        // Nobody may be listening, which is fine.
        drop(self.shared.market.send(Published { id, market }));
        Ok(())
    }

    /// All market events from now on. Who falls behind loses the oldest and is told how many.
    pub fn market(&self) -> broadcast::Receiver<Published> {
        self.shared.market.subscribe()
    }

    /// Replaces all faults. Answers that were held back go out once the new faults do not hold them.
    pub fn set_faults(&self, faults: Faults) {
        let held = faults.hold_answers.is_some();
        self.injector().set(faults);
        self.shared.held.send_replace(held);
    }

    /// The faults that are set, with the times that they have left, and how often each fired.
    pub fn faults(&self) -> (Faults, Fired) {
        let injector = self.injector();
        (injector.faults().clone(), injector.fired())
    }

    /// The faults, for whoever applies those of the network. Held for a moment only: the venue's thread needs it too.
    pub fn injector(&self) -> MutexGuard<'_, Injector> {
        lock(&self.shared.injector)
    }

    /// Waits until no answer is to be held back.
    pub async fn released(&self) {
        // The sender lives in `self`, so this ends with a release only.
        drop(self.shared.held.subscribe().wait_for(|held| !held).await);
    }

    /// The venue's clock.
    pub fn now(&self) -> Timestamp {
        self.injector().skewed(system_now())
    }

    /// What the exchange is like.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// What can be traded.
    pub fn symbols(&self) -> &[SymbolInfo] {
        &self.shared.settings.symbols
    }

    /// Tells the ledger from every other, for as long as it exists.
    pub fn ledger_id(&self) -> &str {
        &self.shared.ledger_id
    }

    /// Where the ledger is.
    pub fn ledger(&self) -> &Path {
        &self.shared.ledger
    }

    /// Lets the driver end: it takes nothing new, answers what is queued, and returns. Requests whose processing is delayed
    /// by a fault are lost.
    pub fn close(&self) {
        self.shared.stop.cancel();
    }
}
