//! Tasks that belong to a phase.

use std::{
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    thread,
};

use futures_util::FutureExt as _;
use slab::Slab;
use tokio::{runtime::Handle, sync::Notify, task::JoinHandle};

use crate::{
    gate::{Gate, Guard, Name},
    record::{Outcome, Record},
    sync::{lock, panic_message},
};

/// The tasks of one phase.
///
/// Tasks end on many threads at once, so they are spread over several lists with a lock each.
pub(crate) struct TaskTable {
    gate: Gate,
    lists: [Mutex<Slab<Arc<Record>>>; LISTS],
    /// The number of the next task.
    next: AtomicU64,
}

const LISTS: usize = 16;

/// A task that was spawned with [`ShutdownHandle::spawn`](crate::ShutdownHandle::spawn).
///
/// Awaiting it gives its output. Dropping it changes nothing: the phase still waits for the task.
#[derive(Debug)]
pub struct Task<T> {
    handle: JoinHandle<Result<T, TaskError>>,
}

/// Why a task has no output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// It panicked, and said this.
    #[error("the task panicked: {0}")]
    Panicked(String),
    /// It was aborted: by its phase's deadline, by [`Task::abort`], or with its runtime.
    #[error("the task was aborted")]
    Aborted,
}

/// A hook was not registered, or a task not spawned. Here it is back: the hook never called, the future never polled.
#[derive(thiserror::Error)]
#[error("refused: {cause}")]
#[non_exhaustive]
pub struct Rejected<W> {
    /// Behind a lock nobody ever takes: so this error can be shared between threads though the work cannot.
    work: Mutex<W>,
    /// Why.
    pub cause: RejectCause,
}

impl<W> Rejected<W> {
    pub(crate) fn new(work: W, cause: RejectCause) -> Self {
        Self { work: Mutex::new(work), cause }
    }

    /// The hook or future as it was given.
    pub fn into_work(self) -> W {
        self.work.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a hook was not registered, or a task not spawned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RejectCause {
    /// Its phase has started.
    #[error("its phase has started")]
    PhaseStarted,
    /// Its scope is to stop.
    #[error("its scope is to stop")]
    ScopeStopped,
    /// Its phase belongs to another coordinator.
    #[error("its phase belongs to another coordinator")]
    ForeignPhase,
    /// The caller is outside of a tokio runtime.
    #[error("there is no tokio runtime here")]
    NoRuntime,
}

impl<W> fmt::Debug for Rejected<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("cause", &self.cause).finish_non_exhaustive()
    }
}

impl<T> Task<T> {
    /// Ends the task at its next await.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(self.handle.poll_unpin(cx)).unwrap_or_else(|error| {
            Err(error
                .try_into_panic()
                .map_or(TaskError::Aborted, |payload| TaskError::Panicked(panic_message(payload))))
        }))
    }
}

impl TaskTable {
    pub(crate) fn new(drained: Arc<Notify>) -> Self {
        Self { gate: Gate::new(Name::Borrowed("tasks"), drained), lists: Default::default(), next: AtomicU64::new(0) }
    }

    pub(crate) fn spawn<F>(self: &Arc<Self>, name: Name, future: F) -> Result<Task<F::Output>, Rejected<F>>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.spawn_as(name, 0, future, |future| future, |_| Outcome::Ok)
    }

    /// A task of a scope. `into_member` makes its future from the one that is given back when it is refused.
    pub(crate) fn spawn_member<W, F>(
        self: &Arc<Self>,
        name: Name,
        scope: usize,
        work: W,
        into_member: impl FnOnce(W) -> F,
    ) -> Result<Task<Result<(), String>>, Rejected<W>>
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.spawn_as(name, scope, work, into_member, |result| match result {
            Ok(()) => Outcome::Ok,
            Err(error) => Outcome::Failed { error: error.clone() },
        })
    }

    fn spawn_as<W, F>(
        self: &Arc<Self>,
        name: Name,
        scope: usize,
        work: W,
        into_future: impl FnOnce(W) -> F,
        judge: impl FnOnce(&F::Output) -> Outcome + Send + 'static,
    ) -> Result<Task<F::Output>, Rejected<W>>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else {
            return Err(Rejected::new(work, RejectCause::NoRuntime));
        };
        let Ok(guard) = self.gate.enter() else {
            return Err(Rejected::new(work, RejectCause::PhaseStarted));
        };
        let ticket = self.register(name, scope, guard);
        let record = Arc::clone(&ticket.record);
        // Combinators rather than an async block, which would keep room for the future twice.
        let tracked = AssertUnwindSafe(into_future(work)).catch_unwind().map(move |result| ticket.end(result, judge));
        // A runtime that is shutting down drops the future right here, and the ticket with it: so no lock is held.
        let handle = runtime.spawn(tracked);
        record.set_abort(handle.abort_handle());
        Ok(Task { handle })
    }

    fn register(self: &Arc<Self>, name: Name, scope: usize, guard: Guard) -> Ticket {
        let number = self.next.fetch_add(1, Relaxed);
        let record = Arc::new(Record::running(name, number, scope));
        let key = lock(self.list(number)).insert(Arc::clone(&record));
        Ticket { table: Arc::clone(self), record, key, _guard: guard }
    }

    fn list(&self, number: u64) -> &Mutex<Slab<Arc<Record>>> {
        let [first, ..] = &self.lists;
        usize::try_from(number).ok().and_then(|number| self.lists.get(number % LISTS)).unwrap_or(first)
    }

    /// Refuses more tasks. From now on one that ends stays in the table, for the report.
    pub(crate) fn close(&self) {
        self.gate.close();
    }

    /// Undoes [`TaskTable::close`].
    pub(crate) fn reopen(&self) {
        // First the gate: a task that ended before, and so stays in the table, is then seen to have ended.
        self.gate.reopen();
        for list in &self.lists {
            lock(list).retain(|_, record| record.running_since().is_some());
        }
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.gate.is_drained()
    }

    pub(crate) fn abort_all(&self) {
        for record in self.records() {
            record.abort();
        }
    }

    /// Aborts what is left of a scope. Gives the names.
    pub(crate) fn abort_members(&self, scope: usize) -> Vec<String> {
        let mut left = self.records();
        left.retain(|record| record.scope == scope && record.running_since().is_some());
        for record in &left {
            record.abort();
        }
        left.iter().map(|record| record.name.to_string()).collect()
    }

    /// Shows all of them, in no particular order.
    pub(crate) fn for_each(&self, mut look: impl FnMut(&Record)) {
        for list in &self.lists {
            lock(list).iter().for_each(|(_, record)| look(record));
        }
    }

    /// In the order in which they were spawned.
    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        let mut records = Vec::new();
        for list in &self.lists {
            records.extend(lock(list).iter().map(|(_, record)| (record.number, Arc::clone(record))));
        }
        records.sort_unstable_by_key(|(number, _)| *number);
        records.into_iter().map(|(_, record)| record).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lists.iter().map(|list| lock(list).len()).sum()
    }
}

/// Travels with a task's future, so that the table learns of its end however it ends.
struct Ticket {
    table: Arc<TaskTable>,
    record: Arc<Record>,
    key: usize,
    /// Released last.
    _guard: Guard,
}

impl Ticket {
    fn end<T>(self, result: thread::Result<T>, judge: impl FnOnce(&T) -> Outcome) -> Result<T, TaskError> {
        match result {
            Ok(output) => {
                self.record.end(judge(&output));
                Ok(output)
            }
            Err(payload) => {
                let message = panic_message(payload);
                tracing::error!(task = %self.record.name, message, "a task panicked");
                self.record.end(Outcome::Panicked { message: message.clone() });
                Err(TaskError::Panicked(message))
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Without effect unless the future was dropped unfinished.
        self.record.end_dropped();
        if self.table.gate.is_closed() {
            return;
        }
        let mut list = lock(self.table.list(self.record.number));
        // After an abort of the shutdown somebody else may have its place.
        if list.get(self.key).is_some_and(|record| Arc::ptr_eq(record, &self.record)) {
            list.remove(self.key);
        }
    }
}
