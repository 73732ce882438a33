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
//! 3. Only committed events are told: owners tell them after the commit, whether by [`Hub::publish`] here or by the bus from
//!    elsewhere ([`Hub::hear`], [`Hub::announce`]). What comes from elsewhere may come late, twice or not at all; it never
//!    takes the window back.
//! 4. What a listener has got it says after each round ([`Subscription::handed`]); one that never did waits for nothing.
//! 5. The lock of the window and the one of the listeners are never held together, and neither across an await.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use trading::event::{Event, Recorded};
use trading::ids::{AccountId, Seq};

use super::protocol::Reply;
use super::wire;
use crate::bus::{Alone, Bus, Message};
use crate::notice::NoticeOut;

/// Distributes committed events to sessions. One per process; share it in an [`Arc`].
#[derive(Debug)]
pub struct Hub {
    window: usize,
    bus: Arc<dyn Bus>,
    feeds: RwLock<BTreeMap<AccountId, Arc<Feed>>>,
    next_listener: AtomicU64,
    /// The frame that says which notices are current, if any is.
    notices: watch::Sender<Option<Utf8Bytes>>,
}

impl Hub {
    /// A hub that keeps the newest `window` events of each account in memory, of the only instance.
    pub fn new(window: usize) -> Self {
        Self::with_bus(window, Arc::new(Alone::default()))
    }

    /// The same, of one instance of several: what is published here is told to the others by the bus.
    pub fn with_bus(window: usize, bus: Arc<dyn Bus>) -> Self {
        Self {
            window,
            bus,
            feeds: RwLock::default(),
            next_listener: AtomicU64::new(0),
            notices: watch::Sender::new(None),
        }
    }

    /// Offers events to the sessions that follow `account`, here and by the bus elsewhere. Called after each commit, in
    /// order, by the one driver of the account. It never waits for a session, and serialises nothing: the first session
    /// that reads a batch does that for all.
    pub fn publish(&self, account: AccountId, events: Arc<[Recorded]>) {
        self.take(account, Arc::clone(&events), Source::Here);
        if !events.is_empty() {
            self.bus.publish(Message::Events { account, events });
        }
    }

    /// Offers committed events that another instance told. Those that are known already are ignored.
    pub fn hear(&self, account: AccountId, events: Arc<[Recorded]>) {
        self.take(account, events, Source::Elsewhere);
    }

    /// Tells that the account's history has grown up to this event at least: sessions find it in the store.
    pub fn announce(&self, account: AccountId, head: Seq) {
        let feed = self.feed(account);
        let grown = feed.window().announce(head);
        if grown {
            feed.wake();
        }
    }

    /// Tells every session which notices are current, if they are others than before.
    pub(crate) fn notify(&self, current: Vec<NoticeOut>) {
        let frame = (!current.is_empty()).then(|| Reply::Notices { items: current }.text());
        let changed = self.notices.send_if_modified(|told| {
            let changed = *told != frame;
            *told = frame;
            changed
        });
        if changed {
            // Who follows nothing finds it at its next ping.
            self.feeds.read().unwrap_or_else(PoisonError::into_inner).values().for_each(|feed| feed.wake());
        }
    }

    /// Which notices are current: changed from the first, if any is.
    pub(super) fn notices(&self) -> watch::Receiver<Option<Utf8Bytes>> {
        let mut notices = self.notices.subscribe();
        if notices.borrow().is_some() {
            notices.mark_changed();
        }
        notices
    }

    /// The accounts that somebody here follows.
    pub fn followed(&self) -> Vec<AccountId> {
        let feeds = self.feeds.read().unwrap_or_else(PoisonError::into_inner);
        feeds.iter().filter(|(_, feed)| !feed.listeners().is_empty()).map(|(account, _)| *account).collect()
    }

    /// Listens to an account from now on, without a session.
    pub fn tail(&self, account: AccountId) -> Tail {
        let wake = Arc::new(Notify::new());
        let subscription = self.subscribe(account, Arc::clone(&wake));
        let cursor = subscription.head();
        Tail { subscription, wake, cursor }
    }

    fn take(&self, account: AccountId, events: Arc<[Recorded]>, source: Source) {
        let (Some(first), Some(last)) = (events.first().map(|e| e.seq.0), events.last().map(|e| e.seq.0)) else {
            return;
        };
        let feed = self.feed(account);
        let batch = Arc::new(Batch { account, first, events, told_at: Instant::now(), frames: OnceLock::new() });
        feed.window().push(batch, last, self.window, source);
        feed.wake();
    }

    /// Follows an account: from now on `wake` is notified of every batch, until the subscription is dropped.
    pub(super) fn subscribe(&self, account: AccountId, wake: Arc<Notify>) -> Subscription {
        let feed = self.feed(account);
        let id = self.next_listener.fetch_add(1, Ordering::Relaxed);
        let handed = Arc::new(AtomicI64::new(i64::MAX));
        feed.listeners().insert(id, Listener { wake, handed: Arc::clone(&handed), since: Instant::now() });
        let rewinds = feed.window().rewinds;
        Subscription { feed, id, handed, rewinds }
    }

    /// For how long the event has waited that a session waits for longest: since it was told here, or since the session
    /// followed the account if that was later. A lower bound where an event is in no window any more; zero if none waits.
    pub fn lag(&self) -> Duration {
        let feeds: Vec<_> = self.feeds.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        feeds.iter().filter_map(|feed| feed.waiting_since()).min().map_or(Duration::ZERO, |since| since.elapsed())
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
    listeners: Mutex<BTreeMap<u64, Listener>>,
}

/// Whom to wake.
#[derive(Debug)]
struct Listener {
    wake: Arc<Notify>,
    /// The last event that it has got.
    handed: Arc<AtomicI64>,
    since: Instant,
}

impl Feed {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        for listener in self.listeners().values() {
            listener.wake.notify_one();
        }
    }

    fn waiting_since(&self) -> Option<Instant> {
        let listeners = self.listeners();
        let cursors: Vec<_> = listeners.values().map(|it| (it.handed.load(Ordering::Relaxed), it.since)).collect();
        drop(listeners);
        let window = self.window();
        cursors.into_iter().filter_map(|(cursor, since)| Some(window.told_after(cursor)?.max(since))).min()
    }

    fn listeners(&self) -> MutexGuard<'_, BTreeMap<u64, Listener>> {
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
    /// The newest event that was published here; 0 before the first.
    own: i64,
    /// When the head was last told of.
    head_at: Option<Instant>,
    /// How often the sequence went back.
    rewinds: u64,
}

impl Window {
    /// Where the first batch after `cursor` begins.
    fn after(&self, cursor: i64) -> usize {
        self.batches.partition_point(|batch| batch.last() <= cursor)
    }

    /// When the first event after `cursor` was told of, or a later one if that one is in the window no more.
    fn told_after(&self, cursor: i64) -> Option<Instant> {
        let told = || self.batches.get(self.after(cursor)).map(|batch| batch.told_at).or(self.head_at);
        if cursor < self.head { told() } else { None }
    }

    fn push(&mut self, batch: Arc<Batch>, last: i64, limit: usize, source: Source) {
        // The one driver here commits in order: its step back means another ledger. Whatever else is not newer was told
        // from elsewhere already.
        let rewound = source == Source::Here && batch.first <= self.own;
        if source == Source::Here {
            self.own = last;
        }
        if rewound {
            self.rewinds = self.rewinds.saturating_add(1);
        } else if last <= self.head {
            return;
        }
        if self.head != 0 && batch.first != self.head.saturating_add(1) {
            // A gap is filled from the store.
            self.clear();
        }
        (self.head, self.head_at) = (last, Some(batch.told_at));
        self.held = self.held.saturating_add(batch.events.len());
        self.batches.push_back(batch);
        while self.held > limit {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.held = self.held.saturating_sub(oldest.events.len());
        }
    }

    /// Whether the head is further than was known.
    fn announce(&mut self, head: Seq) -> bool {
        let grown = head.0 > self.head;
        if grown {
            self.clear();
            (self.head, self.head_at) = (head.0, Some(Instant::now()));
        }
        grown
    }

    fn clear(&mut self) {
        self.batches.clear();
        self.held = 0;
    }
}

/// Who tells of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The account's driver in this process.
    Here,
    /// Another instance.
    Elsewhere,
}

/// The events of one commit, serialised at most once.
#[derive(Debug)]
pub(super) struct Batch {
    account: AccountId,
    first: i64,
    events: Arc<[Recorded]>,
    told_at: Instant,
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
    handed: Arc<AtomicI64>,
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
        let from = window.after(cursor.0);
        match window.batches.get(from) {
            Some(batch) if batch.first <= cursor.0.saturating_add(1) => {
                batches.extend(window.batches.iter().skip(from).take(limit).map(Arc::clone));
                Next::Live
            }
            _ => Next::Stored,
        }
    }

    /// Says that the session has got everything up to `cursor`.
    pub(super) fn handed(&self, cursor: Seq) {
        self.handed.store(cursor.0, Ordering::Relaxed);
    }

    /// Goes on from the newest event, whatever came before. Returns its number.
    fn skip(&mut self) -> Seq {
        let window = self.feed.window();
        self.rewinds = window.rewinds;
        Seq(window.head)
    }

    /// The newest event that was published; 0 if there was none since the start.
    pub(super) fn head(&self) -> Seq {
        Seq(self.feed.window().head)
    }
}

/// Somebody who listens to an account for something that is about to happen.
#[derive(Debug)]
pub struct Tail {
    subscription: Subscription,
    wake: Arc<Notify>,
    cursor: Seq,
}

impl Tail {
    /// Waits for an event in which `wanted` finds something. `None`: events went by that only the store has.
    ///
    /// Cancel safe.
    pub async fn find<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> Option<T> {
        loop {
            let mut batches = Vec::new();
            match self.subscription.next(self.cursor, &mut batches, usize::MAX) {
                Next::Nothing => self.wake.notified().await,
                Next::Live => {
                    for recorded in batches.iter().flat_map(|batch| batch.events.iter()) {
                        if recorded.seq > self.cursor {
                            self.cursor = recorded.seq;
                            if let Some(found) = wanted(&recorded.event) {
                                return Some(found);
                            }
                        }
                    }
                }
                Next::Stored | Next::Rewound => {
                    self.cursor = self.subscription.skip();
                    return None;
                }
            }
        }
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
    fn what_is_told_from_elsewhere_continues_the_window_and_never_takes_it_back() {
        let hub = Hub::new(10);
        let subscription = hub.subscribe(ACCOUNT, Arc::default());
        hub.hear(ACCOUNT, events(1..=3));
        hub.hear(ACCOUNT, events(4..=5));
        for again in [events(1..=3), events(4..=5), events(2..=4)] {
            hub.hear(ACCOUNT, again);
        }
        assert_eq!(seqs_after(&subscription, 1), (Next::Live, 4));
        hub.hear(ACCOUNT, events(8..=9));
        assert_eq!(seqs_after(&subscription, 5), (Next::Stored, 0), "6 and 7 were lost on the way");
        assert_eq!(seqs_after(&subscription, 7), (Next::Live, 2));
        hub.hear(ACCOUNT, events(6..=7));
        assert_eq!(seqs_after(&subscription, 7), (Next::Live, 2));
        hub.hear(ACCOUNT, events(9..=11));
        assert_eq!(seqs_after(&subscription, 9), (Next::Live, 2), "half of it was known");
    }

    #[test]
    fn an_announced_head_is_read_from_the_store() {
        let hub = Hub::new(10);
        let wake = Arc::new(Notify::new());
        let subscription = hub.subscribe(ACCOUNT, Arc::clone(&wake));
        hub.hear(ACCOUNT, events(1..=3));
        hub.announce(ACCOUNT, Seq(2));
        assert_eq!(seqs_after(&subscription, 1), (Next::Live, 2));
        hub.announce(ACCOUNT, Seq(6));
        assert_eq!(seqs_after(&subscription, 1), (Next::Stored, 0));
        assert_eq!(seqs_after(&subscription, 6), (Next::Nothing, 0));
        hub.hear(ACCOUNT, events(4..=6));
        assert_eq!(seqs_after(&subscription, 6), (Next::Nothing, 0));
        hub.hear(ACCOUNT, events(7..=8));
        assert_eq!(seqs_after(&subscription, 6), (Next::Live, 2));
    }

    #[test]
    fn a_hand_over_is_no_step_back_whoever_tells_first() {
        let hub = Hub::new(10);
        let subscription = hub.subscribe(ACCOUNT, Arc::default());
        hub.publish(ACCOUNT, events(1..=5));
        // Another instance takes over; this one takes back, and the store tells of its first commit before it does.
        hub.hear(ACCOUNT, events(6..=8));
        hub.announce(ACCOUNT, Seq(9));
        hub.publish(ACCOUNT, events(9..=9));
        assert_eq!(seqs_after(&subscription, 8), (Next::Stored, 0));
        hub.publish(ACCOUNT, events(10..=12));
        // Late words of the old owner.
        hub.hear(ACCOUNT, events(6..=8));
        hub.announce(ACCOUNT, Seq(8));
        assert_eq!(seqs_after(&subscription, 9), (Next::Live, 3));
        assert_eq!(seqs_after(&subscription, 12), (Next::Nothing, 0));
    }

    #[tokio::test]
    async fn a_tail_finds_what_comes_after_it_was_made_or_says_that_the_store_has_it() {
        let hub = Hub::new(4);
        hub.publish(ACCOUNT, events(1..=3));
        let mut tail = hub.tail(ACCOUNT);
        let started = |event: &Event| matches!(event, Event::Started { .. }).then_some(());
        let early = tokio::time::timeout(std::time::Duration::ZERO, tail.find(started)).await;
        assert!(early.is_err(), "what came before is none of its business");
        hub.publish(ACCOUNT, events(4..=4));
        assert_eq!(tail.find(started).await, Some(()));
        hub.publish(ACCOUNT, events(9..=9));
        assert_eq!(tail.find(started).await, None);
        hub.publish(ACCOUNT, events(2..=2));
        assert_eq!(tail.find(started).await, None, "the sequence went back");
        hub.publish(ACCOUNT, events(3..=3));
        assert_eq!(tail.find(started).await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_lag_is_how_long_the_longest_waiting_event_has_waited_for_a_session() {
        let second = std::time::Duration::from_secs(1);
        let hub = Hub::new(4);
        let quick = hub.subscribe(ACCOUNT, Arc::default());
        let slow = hub.subscribe(ACCOUNT, Arc::default());
        let _tail = hub.tail(ACCOUNT);
        for session in [&quick, &slow] {
            session.handed(Seq(0));
        }
        tokio::time::advance(second).await;
        assert_eq!(hub.lag(), Duration::ZERO, "nothing has happened");
        hub.publish(ACCOUNT, events(1..=2));
        tokio::time::advance(second).await;
        hub.publish(ACCOUNT, events(3..=3));
        tokio::time::advance(second).await;
        quick.handed(Seq(3));
        assert_eq!(hub.lag(), second * 2);
        slow.handed(Seq(2));
        assert_eq!(hub.lag(), second);
        slow.handed(Seq(3));
        assert_eq!(hub.lag(), Duration::ZERO);
        hub.announce(ACCOUNT, Seq(9));
        tokio::time::advance(second).await;
        assert_eq!(hub.lag(), second, "only the store has them");
        let late = hub.subscribe(ACCOUNT, Arc::default());
        late.handed(Seq(0));
        drop((quick, slow));
        tokio::time::advance(second).await;
        assert_eq!(hub.lag(), second, "it waits since it came, however old the events are");
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
