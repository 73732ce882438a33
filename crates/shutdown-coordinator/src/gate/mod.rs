//! Gates and guards: counting what is still in use, and refusing more of it.
//!
//! The counting, and why no guard is lost, is in `count.rs`. Here are the names.

mod count;
mod primitives;

use std::{
    borrow::Cow,
    cell::Cell,
    collections::BTreeMap,
    fmt,
    num::NonZeroU64,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use tokio::{sync::Notify, time::Instant};

use crate::sync::lock;
use count::{Counter, Permit, Wake};

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
    counter: Counter<Core>,
}

struct Core {
    name: Name,
    drained: Arc<Notify>,
    named: Mutex<Named>,
}

impl Wake for Core {
    fn wake(&self) {
        self.drained.notify_waiters();
    }
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
    id: Option<NonZeroU64>,
    permit: Permit<Core>,
}

impl Gate {
    /// A gate whose last guard wakes `drained`.
    pub(crate) fn new(name: Name, drained: Arc<Notify>) -> Self {
        // Several times as many as threads run at a time, so that few of them share one.
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self::with_shards((4 * threads).next_power_of_two().min(64), name, drained)
    }

    /// A gate for few guards.
    pub(crate) fn single(name: Name, drained: Arc<Notify>) -> Self {
        Self::with_shards(1, name, drained)
    }

    fn with_shards(count: usize, name: Name, drained: Arc<Notify>) -> Self {
        Self { counter: Counter::new(count, Core { name, drained, named: Mutex::default() }) }
    }

    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.counter.common().name
    }

    /// Takes a guard, unless the gate is closed. Two atomic operations with its release, and no allocation.
    #[inline]
    pub fn enter(&self) -> Result<Guard, Closed> {
        let permit = self.counter.enter(thread_slot()).ok_or(Closed)?;
        Ok(Guard { id: None, permit })
    }

    /// Takes a guard that shows up under this name, with its age, where the shutdown has to wait for it.
    ///
    /// Costs a clock reading and a lock more than [`Gate::enter`]. The name should tell one piece of work from another, as
    /// `"order 17"` does: it is what somebody reads who wants to know why the service does not stop.
    pub fn enter_named(&self, name: impl Into<Cow<'static, str>>) -> Result<Guard, Closed> {
        self.enter_labelled(Label::Fixed(name.into()))
    }

    pub(crate) fn enter_labelled(&self, label: Label) -> Result<Guard, Closed> {
        let mut guard = self.enter()?;
        guard.id = self.counter.common().add_label(label);
        Ok(guard)
    }

    /// Whether [`Gate::enter`] fails.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.counter.is_closed()
    }

    /// How many guards are held. Exact only when nobody enters or leaves meanwhile.
    pub fn held(&self) -> usize {
        self.counter.held()
    }

    pub(crate) fn close(&self) {
        self.counter.close();
    }

    pub(crate) fn reopen(&self) {
        self.counter.reopen();
    }

    /// For a closed gate: whether the last guard is gone.
    pub(crate) fn is_drained(&self) -> bool {
        self.counter.is_drained()
    }

    /// Whether nobody but its `owners`, who only keep it, can ever use this gate again.
    pub(crate) fn is_orphan(&self, owners: usize) -> bool {
        self.counter.is_orphan(owners)
    }

    pub(crate) fn held_by_name(&self) -> Vec<Held> {
        let named = lock(&self.counter.common().named);
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

    fn remove_label(&self, id: NonZeroU64) {
        // Dropped outside the lock: a live label may own anything.
        let label = lock(&self.named).guards.remove(&id);
        drop(label);
    }
}

impl Guard {
    /// A second guard, allowed even when the gate is closed, since this one keeps it from being drained.
    ///
    /// The fork of a named guard has the same name and an age of its own.
    pub fn fork(&self) -> Self {
        let core = &self.permit.common;
        let label = self.id.and_then(|id| lock(&core.named).guards.get(&id).map(|(label, _)| label.clone()));
        Self { id: label.and_then(|label| core.add_label(label)), permit: Arc::clone(&self.permit) }
    }

    /// A fork with a label of its own.
    #[cfg(feature = "axum")]
    pub(crate) fn fork_labelled(&self, label: Label) -> Self {
        Self { id: self.permit.common.add_label(label), permit: Arc::clone(&self.permit) }
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.permit.common.remove_label(id);
        }
        // The permit goes last: whoever is woken by it finds the name gone.
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

/// A number of this thread's own.
#[inline]
fn thread_slot() -> usize {
    const NONE: usize = usize::MAX;
    /// Threads are numbered in turn: by chance, two of them would often share a shard.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static SLOT: Cell<usize> = const { Cell::new(NONE) });
    let slot = SLOT.try_with(|slot| {
        if slot.get() == NONE {
            slot.set(NEXT.fetch_add(1, Relaxed));
        }
        slot.get()
    });
    // Only a thread that is being torn down has no slot.
    slot.unwrap_or(0)
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("name", &self.name())
            .field("closed", &self.is_closed())
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("gate", &self.permit.common.name).finish_non_exhaustive()
    }
}
