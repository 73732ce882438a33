//! Those who listen to an account's updates over a network.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::faults::Injector;
use crate::record::Label;
use crate::updates::Update;

/// An update, and which subscription it is for.
pub type Delivery = (u64, Arc<Update>);

/// All subscriptions. Nothing here ever waits: who falls behind is cut off, as a network would.
#[derive(Debug, Default)]
pub(super) struct Users {
    subscriptions: Vec<Subscription>,
    last_id: u64,
    /// Accounts whose stream is cut, and until when.
    down: BTreeMap<Label, Instant>,
}

#[derive(Debug)]
struct Subscription {
    id: u64,
    account: Label,
    events: mpsc::Sender<Delivery>,
    reset: CancellationToken,
}

impl Users {
    /// Adds a subscription and gives its number. `None` while the account's stream is cut.
    pub(super) fn subscribe(
        &mut self,
        account: Label,
        events: mpsc::Sender<Delivery>,
        reset: CancellationToken,
        now: Instant,
    ) -> Option<u64> {
        self.down.retain(|_, until| *until > now);
        if self.down.contains_key(&account) {
            return None;
        }
        self.last_id += 1;
        self.subscriptions.push(Subscription { id: self.last_id, account, events, reset });
        Some(self.last_id)
    }

    pub(super) fn unsubscribe(&mut self, id: u64) {
        self.subscriptions.retain(|subscription| subscription.id != id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    /// Tells the account's subscribers. A fault may lose the event, or the connections that it was for.
    pub(super) fn publish(&mut self, account: &Label, update: Update, injector: &mut Injector, now: Instant) {
        self.subscriptions.retain(|subscription| !subscription.events.is_closed());
        if !self.subscriptions.iter().any(|subscription| subscription.account == *account) {
            return;
        }
        if let Some(duration) = injector.cuts_stream() {
            self.down.insert(account.clone(), now + duration);
            return self.reset(account);
        }
        if injector.disconnects() {
            return self.reset(account);
        }
        if injector.loses_event() {
            return;
        }
        let update = Arc::new(update);
        self.subscriptions.retain(|subscription| {
            if subscription.account != *account {
                return true;
            }
            let delivered = subscription.events.try_send((subscription.id, Arc::clone(&update))).is_ok();
            if !delivered {
                subscription.reset.cancel();
            }
            delivered
        });
    }

    fn reset(&mut self, account: &Label) {
        self.subscriptions.retain(|subscription| {
            let stays = subscription.account != *account;
            if !stays {
                subscription.reset.cancel();
            }
            stays
        });
    }
}
