//! What other instances commit: told by the bus, and looked for in the store in case the bus lost it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Hub;
use crate::bus::{Bus, Message};
use crate::engines::Engines;
use crate::store::Store;

/// How late an event is at most that the bus lost.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Brings the hub what other instances commit, until it is stopped. Cancel safe.
pub async fn follow_others(
    hub: Arc<Hub>,
    bus: Arc<dyn Bus>,
    store: Arc<dyn Store>,
    engines: Arc<dyn Engines>,
    stop: CancellationToken,
) {
    let both = async { tokio::join!(listen(&hub, &*bus), look(&hub, &*store, &*engines)) };
    stop.run_until_cancelled(both).await;
}

async fn listen(hub: &Hub, bus: &dyn Bus) {
    let mut told = bus.subscribe();
    loop {
        match told.recv().await.as_deref() {
            Ok(Message::Events { account, events }) => hub.hear(*account, Arc::clone(events)),
            Ok(Message::Head { account, seq }) => hub.announce(*account, *seq),
            // What was missed is found by looking.
            Ok(Message::Wake { .. } | Message::Instances) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

async fn look(hub: &Hub, store: &dyn Store, engines: &dyn Engines) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let mut accounts = hub.followed();
        if accounts.is_empty() {
            continue;
        }
        let engines = engines.status();
        accounts.retain(|account| !engines.iter().any(|engine| engine.account == *account && engine.ready));
        if accounts.is_empty() {
            continue;
        }
        match store.heads(&accounts).await {
            Ok(heads) => heads.iter().for_each(|head| hub.announce(head.account, head.seq)),
            Err(error) => tracing::debug!(%error, "the heads of other instances' accounts were not read"),
        }
    }
}
