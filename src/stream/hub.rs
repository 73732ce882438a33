//! The hub: the newest committed events of every account, in memory, for all sessions together.
//!
//! Nothing is queued per session. An account's feed is one bounded window of its newest events; a session is a cursor into
//! the account's sequence, and a place in the list of those to wake. So memory does not depend on how slow a session is:
//! one that falls out of the window reads the store from its own cursor until it is back in it. And there is no seam
//! between the store and what is live that could gap or double: both are read after the same cursor.
//!
//! Invariants
//! 1. A window holds consecutive events that end with the newest one, at most `window` of them.
//! 2. The newest event is in the window before anybody is woken for it, and a wake-up is kept until it is used: a session
//!    that has registered and then finds nothing new will be woken for what comes next.
//! 3. The lock of the window and the one of the listeners are never held together, and neither across an await.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use axum::extract::ws::Utf8Bytes;
use tokio::sync::Notify;
use trading::event::Recorded;
use trading::ids::{AccountId, Seq};

use super::wire;

/// Distributes committed events to sessions. One per process; share it in an [`Arc`].
#[derive(Debug)]
pub struct Hub {
    window: usize,
    feeds: RwLock<BTreeMap<AccountId, Arc<Feed>>>,
    next_listener: AtomicU64,
}

impl Hub {
    /// A hub that keeps the newest `window` events of each account in memory.
    pub fn new(window: usize) -> Self {
        Self { window, feeds: RwLock::default(), next_listener: AtomicU64::new(0) }
    }

    /// Offers events to the sessions that follow `account`. Called after each commit, in order, by the one driver of the
    /// account. It never waits for a session, and serialises nothing: the first session that reads a batch does that for
    /// all.
    pub fn publish(&self, account: AccountId, events: Arc<[Recorded]>) {
        let (Some(first), Some(last)) = (events.first().map(|e| e.seq.0), events.last().map(|e| e.seq.0)) else {
            return;
        };
        let feed = self.feed(account);
        feed.window().push(Arc::new(Batch { account, first, events, frames: OnceLock::new() }), last, self.window);
        for wake in feed.listeners().values() {
            wake.notify_one();
        }
    }

    /// Follows an account: from now on `wake` is notified of every batch, until the subscription is dropped.
    pub(super) fn subscribe(&self, account: AccountId, wake: Arc<Notify>) -> Subscription {
        let feed = self.feed(account);
        let id = self.next_listener.fetch_add(1, Ordering::Relaxed);
        feed.listeners().insert(id, wake);
        let rewinds = feed.window().rewinds;
        Subscription { feed, id, rewinds }
    }

    fn feed(&self, account: AccountId) -> Arc<Feed> {
        let known = self.feeds.read().unwrap_or_else(PoisonError::into_inner).get(&account).map(Arc::clone);
        known.unwrap_or_else(|| {
            Arc::clone(self.feeds.write().unwrap_or_else(PoisonError::into_inner).entry(account).or_default())
        })
    }
}

#[derive(Debug, Default)]
struct Feed {
    window: Mutex<Window>,
    listeners: Mutex<BTreeMap<u64, Arc<Notify>>>,
}

impl Feed {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Window {
    batches: VecDeque<Arc<Batch>>,
    /// How many events the batches hold.
    held: usize,
    /// The newest event; 0 before the first.
    head: i64,
    /// How often the sequence went back.
    rewinds: u64,
}

impl Window {
    fn push(&mut self, batch: Arc<Batch>, last: i64, limit: usize) {
        if self.head != 0 && batch.first != self.head.saturating_add(1) {
            // A gap is filled from the store. A step back means another ledger.
            if batch.first <= self.head {
                self.rewinds = self.rewinds.saturating_add(1);
            }
            self.batches.clear();
            self.held = 0;
        }
        self.head = last;
        self.held = self.held.saturating_add(batch.events.len());
        self.batches.push_back(batch);
        while self.held > limit {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.held = self.held.saturating_sub(oldest.events.len());
        }
    }
}

/// The events of one commit, serialised at most once.
#[derive(Debug)]
pub(super) struct Batch {
    account: AccountId,
    first: i64,
    events: Arc<[Recorded]>,
    frames: OnceLock<Box<[Utf8Bytes]>>,
}

impl Batch {
    /// The frames of the events after `cursor`, in order.
    pub(super) fn frames_after(&self, cursor: Seq) -> &[Utf8Bytes] {
        let frames =
            self.frames.get_or_init(|| self.events.iter().map(|e| wire::event_frame(self.account, e)).collect());
        let sent = usize::try_from(cursor.0.saturating_add(1).saturating_sub(self.first)).unwrap_or(0);
        frames.get(sent..).unwrap_or_default()
    }

    fn last(&self) -> i64 {
        self.events.last().map_or(self.first, |event| event.seq.0)
    }
}

/// What comes after a cursor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing. The subscription's `wake` is notified when that changes.
    Nothing,
    /// The batches that were appended; the first one holds the event after the cursor.
    Live,
    /// Something that only the store has.
    Stored,
    /// The sequence went back since the subscription: the cursor means nothing any more.
    Rewound,
}

/// A session's place among the listeners of an account. Dropping it leaves.
#[derive(Debug)]
pub(super) struct Subscription {
    feed: Arc<Feed>,
    id: u64,
    rewinds: u64,
}

impl Subscription {
    /// Looks for what comes after `cursor`, and appends up to `limit` batches of it to `batches`.
    pub(super) fn next(&self, cursor: Seq, batches: &mut Vec<Arc<Batch>>, limit: usize) -> Next {
        let window = self.feed.window();
        if window.rewinds != self.rewinds {
            return Next::Rewound;
        }
        if cursor.0 >= window.head {
            return Next::Nothing;
        }
        let from = window.batches.partition_point(|batch| batch.last() <= cursor.0);
        match window.batches.get(from) {
            Some(batch) if batch.first <= cursor.0.saturating_add(1) => {
                batches.extend(window.batches.iter().skip(from).take(limit).map(Arc::clone));
                Next::Live
            }
            _ => Next::Stored,
        }
    }

    /// The newest event that was published; 0 if there was none since the start.
    pub(super) fn head(&self) -> Seq {
        Seq(self.feed.window().head)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let left = self.feed.listeners().remove(&self.id);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use trading::event::Event;
    use trading::ids::Epoch;
    use trading::time::Timestamp;

    use super::*;

    const ACCOUNT: AccountId = AccountId(1);

    fn events(seqs: std::ops::RangeInclusive<i64>) -> Arc<[Recorded]> {
        seqs.map(|seq| Recorded {
            seq: Seq(seq),
            at: Timestamp::from_micros(seq),
            event: Event::Started { epoch: Epoch(1) },
        })
        .collect()
    }

    fn seqs_after(subscription: &Subscription, cursor: i64) -> (Next, usize) {
        let mut batches = Vec::new();
        let next = subscription.next(Seq(cursor), &mut batches, usize::MAX);
        (next, batches.iter().map(|batch| batch.frames_after(Seq(cursor)).len()).sum())
    }

    #[test]
    fn a_cursor_finds_exactly_what_comes_after_it() {
        let hub = Hub::new(10);
        let subscription = hub.subscribe(ACCOUNT, Arc::default());
        assert_eq!(seqs_after(&subscription, 0), (Next::Nothing, 0));
        hub.publish(ACCOUNT, events(1..=3));
        hub.publish(ACCOUNT, events(4..=4));
        hub.publish(ACCOUNT, events(5..=9));
        for cursor in 0..9 {
            assert_eq!(seqs_after(&subscription, cursor), (Next::Live, usize::try_from(9 - cursor).unwrap()));
        }
        assert_eq!(seqs_after(&subscription, 9), (Next::Nothing, 0));
        // Read from the store before it was published here.
        assert_eq!(seqs_after(&subscription, 10), (Next::Nothing, 0));
    }

    #[test]
    fn a_window_never_holds_more_than_its_limit_and_the_rest_is_in_the_store() {
        let hub = Hub::new(10);
        let subscription = hub.subscribe(ACCOUNT, Arc::default());
        for first in (1..=991).step_by(5) {
            hub.publish(ACCOUNT, events(first..=first + 4));
            assert!(subscription.feed.window().held <= 10);
        }
        assert_eq!(seqs_after(&subscription, 984), (Next::Stored, 0));
        assert_eq!(seqs_after(&subscription, 985), (Next::Live, 10));
        hub.publish(ACCOUNT, events(996..=1100));
        assert_eq!(subscription.feed.window().held, 0, "a commit larger than the window is not kept");
        assert_eq!(seqs_after(&subscription, 995), (Next::Stored, 0));
        assert_eq!(seqs_after(&subscription, 1100), (Next::Nothing, 0));
    }

    #[test]
    fn a_gap_is_left_to_the_store_and_a_step_back_is_told() {
        let hub = Hub::new(10);
        let subscription = hub.subscribe(ACCOUNT, Arc::default());
        hub.publish(ACCOUNT, events(1..=3));
        hub.publish(ACCOUNT, events(6..=7));
        assert_eq!(seqs_after(&subscription, 3), (Next::Stored, 0));
        assert_eq!(seqs_after(&subscription, 5), (Next::Live, 2));
        hub.publish(ACCOUNT, events(2..=2));
        assert_eq!(seqs_after(&subscription, 7), (Next::Rewound, 0));
        let anew = hub.subscribe(ACCOUNT, Arc::default());
        assert_eq!(seqs_after(&anew, 1), (Next::Live, 1));
    }

    #[test]
    fn a_dropped_subscription_is_not_woken_and_not_kept() {
        let hub = Hub::new(10);
        let wake = Arc::new(Notify::new());
        let subscription = hub.subscribe(ACCOUNT, Arc::clone(&wake));
        let feed = Arc::clone(&subscription.feed);
        drop(subscription);
        assert!(feed.listeners().is_empty());
        assert_eq!(Arc::strong_count(&wake), 1);
    }
}
