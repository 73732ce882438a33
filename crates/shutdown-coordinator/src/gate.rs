//! Gates and guards: counting what is still in use, and refusing more of it.
//!
//! # Why no guard is lost
//!
//! A gate keeps one counter per shard and one `closed` flag. All accesses are sequentially consistent, so they have one
//! total order in which:
//!
//! 1. `enter` adds to its shard, *then* reads `closed`. If it reads `true` it takes the addition back and fails.
//! 2. `close` writes `closed`, *then* the waiter reads the shards.
//! 3. So a successful `enter` read `false` before the write, its addition is before that read, and the waiter sees it.
//!    An `enter` that starts after `close` has returned reads `true`.
//! 4. A guard is given back to the shard it came from, and `fork` adds to its parent's shard while the parent is held.
//!    Hence, once closed, a shard that was seen at zero holds no guard ever again, and reading the shards one after
//!    the other is as good as reading them at once.
//! 5. Dropping a guard subtracts, *then* reads `closed`; the waiter registers for the wake-up before it reads. Either
//!    the waiter saw the subtraction or the drop sees `closed` and wakes it.

use std::{
    borrow::Cow,
    cell::Cell,
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    num::NonZeroU64,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use tokio::{sync::Notify, time::Instant};

use crate::sync::lock;

/// A name that costs nothing when it is a literal.
pub(crate) type Name = Cow<'static, str>;

/// What a named guard is called: fixed, or read at the moment somebody asks.
#[derive(Clone)]
pub(crate) enum Label {
    Fixed(Name),
    #[cfg(feature = "axum")]
    Live(Arc<dyn fmt::Display + Send + Sync>),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(name) => f.write_str(name),
            #[cfg(feature = "axum")]
            Self::Live(live) => live.fmt(f),
        }
    }
}

/// Counts what is in use and refuses more once its phase has started.
///
/// Made by [`ShutdownHandle::gate`](crate::ShutdownHandle::gate). The gate closes when its phase starts, and the phase
/// waits until every [`Guard`] is released. An abort of the shutdown opens it again.
#[derive(Clone)]
pub struct Gate {
    shards: Arc<[Arc<Shard>]>,
    core: Arc<Core>,
}

/// On a cache line of its own, so that threads do not contend.
#[repr(align(128))]
struct Shard {
    held: AtomicUsize,
    core: Arc<Core>,
}

struct Core {
    name: Name,
    closed: AtomicBool,
    drained: Arc<Notify>,
    named: Mutex<Named>,
}

#[derive(Default)]
struct Named {
    last_id: u64,
    guards: BTreeMap<NonZeroU64, (Label, Instant)>,
}

/// A named guard that is held: what it is called and since when.
pub(crate) struct Held {
    pub(crate) label: Label,
    pub(crate) since: Instant,
}

/// The gate is closed: its phase has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gate is closed: shutdown has reached its phase")]
#[non_exhaustive]
pub struct Closed;

/// Holding this keeps the gate's phase from ending.
///
/// Not `Clone`: a clone made by accident is a drain that never ends, so the word for it is [`Guard::fork`].
#[must_use = "a guard that is dropped at once guards nothing"]
pub struct Guard {
    shard: Arc<Shard>,
    id: Option<NonZeroU64>,
}

impl Gate {
    /// A gate whose last guard wakes `drained`.
    pub(crate) fn new(name: Name, drained: Arc<Notify>) -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self::with_shards(threads.next_power_of_two().min(64), name, drained)
    }

    /// A gate for few guards.
    pub(crate) fn single(name: Name, drained: Arc<Notify>) -> Self {
        Self::with_shards(1, name, drained)
    }

    /// `count` is a power of two.
    fn with_shards(count: usize, name: Name, drained: Arc<Notify>) -> Self {
        let core = Arc::new(Core { name, closed: AtomicBool::new(false), drained, named: Mutex::default() });
        let shards =
            (0..count).map(|_| Arc::new(Shard { held: AtomicUsize::new(0), core: Arc::clone(&core) })).collect();
        Self { shards, core }
    }

    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Takes a guard, unless the gate is closed.
    pub fn enter(&self) -> Result<Guard, Closed> {
        let Some(shard) = self.shards.get(thread_slot() & (self.shards.len() - 1)) else { return Err(Closed) };
        shard.held.fetch_add(1, SeqCst);
        let guard = Guard { shard: Arc::clone(shard), id: None };
        // A refused guard is dropped like any other, since a waiter may have seen it.
        if self.core.closed.load(SeqCst) { Err(Closed) } else { Ok(guard) }
    }

    /// Takes a guard that shows up under this name, with its age, where the shutdown has to wait for it.
    ///
    /// Costs a clock reading and a lock more than [`Gate::enter`].
    pub fn enter_named(&self, name: impl Into<Cow<'static, str>>) -> Result<Guard, Closed> {
        self.enter_labelled(Label::Fixed(name.into()))
    }

    pub(crate) fn enter_labelled(&self, label: Label) -> Result<Guard, Closed> {
        let mut guard = self.enter()?;
        guard.id = self.core.add_label(label);
        Ok(guard)
    }

    /// Whether [`Gate::enter`] fails.
    pub fn is_closed(&self) -> bool {
        self.core.closed.load(SeqCst)
    }

    /// How many guards are held. Exact only when nobody enters or leaves meanwhile.
    pub fn held(&self) -> usize {
        self.shards.iter().map(|shard| shard.held.load(SeqCst)).sum()
    }

    pub(crate) fn close(&self) {
        self.core.closed.store(true, SeqCst);
    }

    pub(crate) fn reopen(&self) {
        self.core.closed.store(false, SeqCst);
    }

    /// For a closed gate: whether the last guard is gone.
    pub(crate) fn is_drained(&self) -> bool {
        self.shards.iter().all(|shard| shard.held.load(SeqCst) == 0)
    }

    pub(crate) fn held_by_name(&self) -> Vec<Held> {
        let named = lock(&self.core.named);
        named.guards.values().map(|(label, since)| Held { label: label.clone(), since: *since }).collect()
    }
}

impl Core {
    fn add_label(&self, label: Label) -> Option<NonZeroU64> {
        let since = Instant::now();
        let mut named = lock(&self.named);
        named.last_id += 1;
        let id = NonZeroU64::new(named.last_id)?;
        named.guards.insert(id, (label, since));
        Some(id)
    }
}

impl Guard {
    /// A second guard, allowed even when the gate is closed, since this one keeps it from being drained.
    ///
    /// The fork of a named guard has the same name and an age of its own.
    pub fn fork(&self) -> Self {
        self.shard.held.fetch_add(1, SeqCst);
        let core = &self.shard.core;
        let label = self.id.and_then(|id| lock(&core.named).guards.get(&id).map(|(label, _)| label.clone()));
        Self { shard: Arc::clone(&self.shard), id: label.and_then(|label| core.add_label(label)) }
    }

    /// A fork with a label of its own.
    #[cfg(feature = "axum")]
    pub(crate) fn fork_labelled(&self, label: Label) -> Self {
        self.shard.held.fetch_add(1, SeqCst);
        Self { shard: Arc::clone(&self.shard), id: self.shard.core.add_label(label) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let core = &self.shard.core;
        if let Some(id) = self.id {
            // Dropped outside the lock: a live label may own anything.
            let label = lock(&core.named).guards.remove(&id);
            drop(label);
        }
        if self.shard.held.fetch_sub(1, SeqCst) == 1 && core.closed.load(SeqCst) {
            core.drained.notify_waiters();
        }
    }
}

/// Waits until `is_drained` says yes, asking again whenever `drained` is notified.
///
/// Cancel safe: it keeps no state.
pub(crate) async fn wait_until(drained: &Notify, is_drained: impl Fn() -> bool) {
    loop {
        let mut notified = pin!(drained.notified());
        notified.as_mut().enable();
        if is_drained() {
            return;
        }
        notified.await;
    }
}

/// A number of this thread's own, spread over the shards.
fn thread_slot() -> usize {
    thread_local!(static SLOT: Cell<Option<usize>> = const { Cell::new(None) });
    let slot = SLOT.try_with(|slot| {
        slot.get().unwrap_or_else(|| {
            let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(thread::current().id());
            let fresh = usize::try_from(hash & 0xffff).unwrap_or(0);
            slot.set(Some(fresh));
            fresh
        })
    });
    // Only a thread that is being torn down has no slot.
    slot.unwrap_or(0)
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("name", &self.core.name)
            .field("closed", &self.is_closed())
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("gate", &self.shard.core.name).finish_non_exhaustive()
    }
}
