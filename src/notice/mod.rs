//! What users are told about releases: stored by `POST /notices` on the private socket, shown by `GET /api/notices`, and pushed to
//! every websocket session of every instance.
//!
//! A notice is current until a day after what it is about, or after it was told if that has happened already. Each instance
//! looks into the database every few seconds, so it does not matter which of them was told, and a session is told what is
//! current whenever that changes, and at its beginning.

mod api;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use trading::time::Timestamp;

pub(crate) use api::{NoticeOut, NoticesState, private_routes, routes};

use crate::clock::Clock;
use crate::store::{Notice, Store, StoreError};
use crate::stream::Hub;

const LOOK_EVERY: Duration = Duration::from_secs(5);
const CURRENT: Duration = Duration::from_hours(24);

/// Since when a notice is current.
fn since(now: Timestamp) -> Timestamp {
    now.before(CURRENT)
}

/// Stores notices, and tells the sessions here.
#[derive(Debug, Clone)]
pub struct Notices {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    clock: Clock,
    /// One looks at a time, so that none tells what is old.
    looking: Arc<Mutex<()>>,
}

impl Notices {
    /// Of this store, for the sessions of this hub.
    pub fn new(store: Arc<dyn Store>, hub: Arc<Hub>, clock: Clock) -> Self {
        Self { store, hub, clock, looking: Arc::default() }
    }

    /// Stores a notice unless a current one says the same, and tells the sessions here. Whether it was stored.
    ///
    /// # Errors
    /// The store failed. Doing it again is safe.
    pub async fn add(&self, notice: &Notice) -> Result<bool, StoreError> {
        let stored = self.store.add_notice(notice, since(self.clock.now())).await?;
        self.look().await?;
        Ok(stored)
    }

    /// Tells the sessions here what is current, if that has changed.
    ///
    /// # Errors
    /// The store failed.
    pub async fn look(&self) -> Result<(), StoreError> {
        let _alone = self.looking.lock().await;
        let current = self.store.notices(since(self.clock.now())).await?;
        self.hub.notify(current.into_iter().map(NoticeOut::from).collect());
        Ok(())
    }

    /// Looks every few seconds until it is stopped. Cancel safe.
    pub async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if let Some(Err(error)) = stop.run_until_cancelled(self.look()).await {
                tracing::debug!(%error, "notices were not read");
            }
        }
    }
}
