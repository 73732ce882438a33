//! What instances tell each other so that things happen sooner. Never a source of truth: every message may be lost, and whoever
//! needs what it was about finds it in the database.

mod redis;

use std::fmt;
use std::sync::Arc;

use tokio::sync::broadcast;
use trading::event::Recorded;
use trading::ids::{AccountId, Seq};

pub use self::redis::{Listener, Publisher, RedisBus};

/// What instances tell each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The account has these events more: consecutive, and committed.
    Events {
        /// Whose.
        account: AccountId,
        /// In order; never empty.
        events: Arc<[Recorded]>,
    },
    /// The account's history has grown up to this event, by more than a message holds: read the database.
    Head {
        /// Whose.
        account: AccountId,
        /// The number of its last event.
        seq: Seq,
    },
    /// Something waits for the account's owner: a command in its inbox, or the account itself.
    Wake {
        /// Which.
        account: AccountId,
    },
    /// An instance came, went or began to drain: read who lives.
    Instances,
}

/// Between instances. A message reaches no one, some or all of the others, never its sender.
#[async_trait::async_trait]
pub trait Bus: Send + Sync + fmt::Debug {
    /// Tells the others. Never waits: a full queue or a broken connection drops the message.
    fn publish(&self, message: Message);
    /// What others tell from now on, each sender's messages in its order. A receiver that falls behind loses the oldest.
    fn subscribe(&self) -> broadcast::Receiver<Arc<Message>>;
    /// Waits until what was published before is sent or lost; half a second at most.
    async fn flush(&self);
}

/// The only instance: nobody to tell, and nothing to hear.
#[derive(Debug)]
pub struct Alone {
    silence: broadcast::Sender<Arc<Message>>,
}

impl Default for Alone {
    fn default() -> Self {
        Self { silence: broadcast::Sender::new(1) }
    }
}

#[async_trait::async_trait]
impl Bus for Alone {
    fn publish(&self, _message: Message) {}

    fn subscribe(&self) -> broadcast::Receiver<Arc<Message>> {
        self.silence.subscribe()
    }

    async fn flush(&self) {}
}
