//! Tasks that belong to a phase.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use futures_util::FutureExt as _;
use tokio::{
    runtime::Handle,
    sync::Notify,
    task::{AbortHandle, JoinHandle},
    time::Instant,
};

use crate::{
    gate::{Gate, Guard, Name},
    phase::PhaseRun,
    record::{Outcome, Record, WorkKind},
    sync::{lock, panic_message},
};

/// The tasks of one phase.
pub(crate) struct TaskTable {
    gate: Gate,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    last_id: u64,
    by_id: HashMap<u64, Entry>,
    /// Set while the phase runs: from then on an ended task stays in the table, for the report.
    run: Option<Arc<PhaseRun>>,
}

struct Entry {
    record: Arc<Record>,
    /// Unknown for the instant between registration and spawn.
    abort: Option<AbortHandle>,
}

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

/// A task was not spawned; here is its future, never polled.
#[derive(thiserror::Error)]
#[error("the task was not spawned: {cause}")]
pub struct Rejected<F> {
    /// The future as it was given.
    pub future: F,
    /// Why.
    pub cause: RejectCause,
}

/// Why a task was not spawned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RejectCause {
    /// Its phase has started.
    #[error("its phase has started")]
    PhaseStarted,
    /// The caller is outside of a tokio runtime.
    #[error("there is no tokio runtime here")]
    NoRuntime,
}

impl<F> fmt::Debug for Rejected<F> {
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
        Self { gate: Gate::new(Name::Borrowed("tasks"), drained), entries: Mutex::default() }
    }

    pub(crate) fn spawn<F>(self: &Arc<Self>, name: Name, future: F) -> Result<Task<F::Output>, Rejected<F>>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else {
            return Err(Rejected { future, cause: RejectCause::NoRuntime });
        };
        let Ok(guard) = self.gate.enter() else {
            return Err(Rejected { future, cause: RejectCause::PhaseStarted });
        };
        let ticket = self.register(name, guard);
        let id = ticket.id;
        // A runtime that is shutting down drops the future right here, and the ticket with it: so no lock is held.
        let handle = runtime.spawn(with_ticket(ticket, future));
        if let Some(entry) = lock(&self.entries).by_id.get_mut(&id) {
            entry.abort = Some(handle.abort_handle());
        }
        Ok(Task { handle })
    }

    fn register(self: &Arc<Self>, name: Name, guard: Guard) -> Ticket {
        let record = Arc::new(Record::new(name, WorkKind::Task));
        record.start(0);
        let mut entries = lock(&self.entries);
        entries.last_id += 1;
        let id = entries.last_id;
        entries.by_id.insert(id, Entry { record, abort: None });
        Ticket { table: Arc::clone(self), id, outcome: None, _guard: guard }
    }

    /// Refuses more tasks and keeps the present ones for the report.
    pub(crate) fn close(&self, run: &Arc<PhaseRun>) {
        self.gate.close();
        lock(&self.entries).run = Some(Arc::clone(run));
    }

    /// Undoes [`TaskTable::close`].
    pub(crate) fn reopen(&self) {
        let mut entries = lock(&self.entries);
        entries.run = None;
        entries.by_id.retain(|_, entry| entry.record.running_since().is_some());
        drop(entries);
        self.gate.reopen();
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.gate.is_drained()
    }

    pub(crate) fn abort_all(&self) {
        let handles: Vec<_> = lock(&self.entries).by_id.values().filter_map(|entry| entry.abort.clone()).collect();
        for handle in handles {
            handle.abort();
        }
    }

    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        let entries = lock(&self.entries);
        let mut ids: Vec<_> = entries.by_id.iter().collect();
        ids.sort_unstable_by_key(|(id, _)| **id);
        ids.into_iter().map(|(_, entry)| Arc::clone(&entry.record)).collect()
    }
}

async fn with_ticket<F: Future>(mut ticket: Ticket, future: F) -> Result<F::Output, TaskError> {
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(output) => {
            ticket.outcome = Some(Outcome::Ok);
            Ok(output)
        }
        Err(payload) => {
            let message = panic_message(payload);
            tracing::error!(task = ticket.name(), message, "a task panicked");
            ticket.outcome = Some(Outcome::Panicked { message: message.clone() });
            Err(TaskError::Panicked(message))
        }
    }
}

/// Travels with a task's future, so that the table learns of its end however it ends.
struct Ticket {
    table: Arc<TaskTable>,
    id: u64,
    outcome: Option<Outcome>,
    /// Released last.
    _guard: Guard,
}

impl Ticket {
    fn name(&self) -> String {
        lock(&self.table.entries).by_id.get(&self.id).map(|entry| entry.record.name.to_string()).unwrap_or_default()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut entries = lock(&self.table.entries);
        match entries.run.clone() {
            Some(run) => {
                // Dropped unfinished: before the deadline by its owner, which is an end like another; later by us.
                let aborted =
                    if Instant::now() < run.deadline() { Outcome::Ok } else { Outcome::TimedOut { late_by: None } };
                if let Some(entry) = entries.by_id.get(&self.id) {
                    entry.record.finish(self.outcome.take().unwrap_or(aborted), &run);
                }
            }
            None => {
                entries.by_id.remove(&self.id);
            }
        }
    }
}
