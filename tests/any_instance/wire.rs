//! A bus within the process, which can be made to lose messages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hotgo::bus::{Alone, Bus, Message};
use tokio::sync::broadcast;

/// What tells an instance of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A bus.
    Told,
    /// Nothing but the database.
    Polling,
}

pub const BOTH: [How; 2] = [How::Told, How::Polling];

#[derive(Debug, Default)]
pub struct Wire {
    members: Mutex<Vec<(u64, broadcast::Sender<Arc<Message>>)>>,
    next: AtomicU64,
    /// How many of a hundred messages are lost.
    pub losses_percent: AtomicU64,
    dice: AtomicU64,
}

impl Wire {
    /// A place on the wire, or none.
    pub fn bus(self: &Arc<Self>, how: How) -> Arc<dyn Bus> {
        if how == How::Polling {
            return Arc::new(Alone::default());
        }
        let (id, sender) = (self.next.fetch_add(1, Ordering::SeqCst), broadcast::Sender::new(64));
        self.members.lock().unwrap().push((id, sender.clone()));
        Arc::new(Member { id, sender, wire: Arc::clone(self) })
    }

    /// Whether this message is lost.
    fn loses(&self) -> bool {
        let n = self.dice.fetch_add(1, Ordering::SeqCst).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (n >> 33) % 100 < self.losses_percent.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Member {
    id: u64,
    sender: broadcast::Sender<Arc<Message>>,
    wire: Arc<Wire>,
}

#[async_trait::async_trait]
impl Bus for Member {
    fn publish(&self, message: Message) {
        let message = Arc::new(message);
        for (id, sender) in self.wire.members.lock().unwrap().iter() {
            if *id != self.id && !self.wire.loses() {
                // Nobody may listen there.
                let _unheard = sender.send(Arc::clone(&message));
            }
        }
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Message>> {
        self.sender.subscribe()
    }

    async fn flush(&self) {}
}
