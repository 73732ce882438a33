//! Counting what is in use, and learning when the last of it is gone.
//!
//! A permit is a strong reference to one of several **shards**; the count is that of [`Arc`] itself. So taking a permit
//! costs one atomic operation and giving it back another, each on a cache line that few threads share, and nothing is
//! ever allocated. While the counter is open it keeps a reference of its own to each shard, the **keeper**; closing gives
//! the keepers up. A shard is dropped with its last permit, and its `Drop` wakes who waits.
//!
//! # Why no permit is lost
//!
//! 1. `close` writes `closed` and gives the keepers up; `enter` reads `closed`, then upgrades a weak reference. An `enter`
//!    that begins after `close` has returned reads `true`. One that overlaps with it either upgrades while somebody is
//!    inside, and is counted like everybody who came before, or finds a count of zero and is refused.
//! 2. A permit that was given out is a strong reference: until it is dropped its shard's count is not zero. A shard whose
//!    count is zero can never be upgraded again. So once closed, zero is final, and reading the shards one after the other
//!    is as good as reading them at once.
//! 3. A shard is dropped after its count has become zero, exactly once, whoever drops the last reference; and a waiter
//!    registers before it reads the counts. Either it reads the zero, or it is woken.
//!
//! Opening again, after an aborted shutdown, starts a new **generation** of shards; permits of earlier ones go on being
//! counted. `enter` walks along the generations, one read for each abort there ever was.
//!
//! `tests/loom.rs` tries every interleaving of this file.

use super::primitives::{Acquire, Arc, AtomicBool, Mutex, OnceLock, SeqCst, Weak, fence, lock};

/// What all shards have in common. Told when a shard of a closed counter has lost its last permit.
pub(super) trait Wake {
    fn wake(&self);
}

pub(super) struct Counter<T: Wake> {
    /// The newest generation when this was made.
    from: Arc<Generation<T>>,
    lever: Arc<Lever<T>>,
}

/// Something is in use as long as this lives.
pub(super) type Permit<T> = Arc<Shard<T>>;

/// On a cache line of its own, and so are the counts beside it.
#[repr(align(128))]
pub(super) struct Shard<T: Wake> {
    pub(super) common: Arc<T>,
}

impl<T: Wake> Drop for Shard<T> {
    fn drop(&mut self) {
        self.common.wake();
    }
}

struct Generation<T: Wake> {
    shards: Box<[Weak<Shard<T>>]>,
    closed: AtomicBool,
    next: OnceLock<Arc<Generation<T>>>,
}

/// Opens and closes. Dropped with the last clone of the counter, which gives up the keepers too.
struct Lever<T: Wake> {
    common: Arc<T>,
    state: Mutex<State<T>>,
}

struct State<T: Wake> {
    /// One for each shard while open, none once closed.
    keepers: Vec<Arc<Shard<T>>>,
    current: Arc<Generation<T>>,
    /// Closed ones that still had permits when they were last looked at.
    earlier: Vec<Arc<Generation<T>>>,
}

impl<T: Wake> Generation<T> {
    fn new(shards: usize, common: &Arc<T>) -> (Arc<Self>, Vec<Arc<Shard<T>>>) {
        let keepers: Vec<_> = (0..shards).map(|_| Arc::new(Shard { common: Arc::clone(common) })).collect();
        let shards = keepers.iter().map(Arc::downgrade).collect();
        (Arc::new(Self { shards, closed: AtomicBool::new(false), next: OnceLock::new() }), keepers)
    }

    /// The last of those that followed this one.
    #[inline]
    fn newest(this: &Arc<Self>) -> &Arc<Self> {
        let mut newest = this;
        while let Some(next) = newest.next.get() {
            newest = next;
        }
        newest
    }

    fn references(&self) -> usize {
        self.shards.iter().map(Weak::strong_count).sum()
    }
}

impl<T: Wake> Counter<T> {
    /// An open counter. `shards` is a power of two.
    pub(super) fn new(shards: usize, common: T) -> Self {
        let common = Arc::new(common);
        let (current, keepers) = Generation::new(shards, &common);
        let from = Arc::clone(&current);
        let state = State { keepers, current, earlier: Vec::new() };
        Self { from, lever: Arc::new(Lever { common, state: Mutex::new(state) }) }
    }

    /// What the shards have in common.
    pub(super) fn common(&self) -> &T {
        &self.lever.common
    }

    /// A permit, unless closed. `slot` chooses the shard: threads with different numbers do not contend.
    #[inline]
    pub(super) fn enter(&self, slot: usize) -> Option<Permit<T>> {
        let generation = Generation::newest(&self.from);
        if generation.closed.load(SeqCst) {
            return None;
        }
        generation.shards.get(slot & (generation.shards.len() - 1))?.upgrade()
    }

    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        Generation::newest(&self.from).closed.load(SeqCst)
    }

    /// Refuses more permits. Does nothing when closed.
    pub(super) fn close(&self) {
        let keepers = {
            let mut state = lock(&self.lever.state);
            state.current.closed.store(true, SeqCst);
            std::mem::take(&mut state.keepers)
        };
        // Outside the lock, since the last of a shard wakes.
        drop(keepers);
    }

    /// Gives permits again. Does nothing when open.
    pub(super) fn reopen(&self) {
        let mut state = lock(&self.lever.state);
        if !state.keepers.is_empty() {
            return;
        }
        let (next, keepers) = Generation::new(self.from.shards.len(), &self.lever.common);
        state.earlier.retain(|generation| generation.references() > 0);
        let closed = std::mem::replace(&mut state.current, Arc::clone(&next));
        state.keepers = keepers;
        // There is no other writer: the lock is held.
        closed.next.set(next).ok();
        if closed.references() > 0 {
            state.earlier.push(closed);
        }
    }

    /// How many permits there are. Exact only when nobody enters or leaves meanwhile.
    pub(super) fn held(&self) -> usize {
        let state = lock(&self.lever.state);
        let generations = state.earlier.iter().chain([&state.current]);
        let references: usize = generations.map(|generation| generation.references()).sum();
        references.saturating_sub(state.keepers.len())
    }

    /// For a closed counter: whether the last permit is gone. What its holder did before is then seen by the caller.
    pub(super) fn is_drained(&self) -> bool {
        let state = lock(&self.lever.state);
        let mut generations = state.earlier.iter().chain([&state.current]);
        let drained = state.keepers.is_empty() && generations.all(|generation| generation.references() == 0);
        fence(Acquire);
        drained
    }

    /// Whether nobody but its `owners`, who only keep it, can ever use this counter again.
    pub(super) fn is_orphan(&self, owners: usize) -> bool {
        Arc::strong_count(&self.lever) <= owners && self.held() == 0
    }
}

impl<T: Wake> Clone for Counter<T> {
    fn clone(&self) -> Self {
        Self { from: Arc::clone(Generation::newest(&self.from)), lever: Arc::clone(&self.lever) }
    }
}
