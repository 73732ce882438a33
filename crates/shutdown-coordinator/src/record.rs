//! What became of each hook, gate and task.

use std::{
    fmt,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{task::AbortHandle, time::Instant};

use crate::{gate::Name, phase::PhaseRun, sync::lock};

/// What kind of thing a phase waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkKind {
    /// An async hook.
    Hook,
    /// A hook on a thread of its own.
    BlockingHook,
    /// A gate, or one of its guards.
    Gate,
    /// A spawned task.
    Task,
    /// A scope; its tasks and gates are listed too, as `scope/name`.
    Scope,
}

impl fmt::Display for WorkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hook => "hook",
            Self::BlockingHook => "blocking hook",
            Self::Gate => "gate",
            Self::Task => "task",
            Self::Scope => "scope",
        })
    }
}

/// How a hook, gate or task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
#[non_exhaustive]
pub enum Outcome {
    /// In time and without an error.
    Ok,
    /// It returned an error.
    Failed {
        /// The error's text.
        error: String,
    },
    /// It panicked.
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// It was not over at the deadline of its phase.
    TimedOut {
        /// How late it ended by itself; `None` where it was aborted, or, for a gate, never ended.
        #[serde(rename = "late_by_ms", with = "crate::report::optional_ms", default)]
        late_by: Option<Duration>,
    },
    /// It could not be ended: it was still running when the report was made.
    Leaked,
    /// It never started.
    Skipped,
    /// It was stopped because the shutdown was aborted.
    Cancelled,
}

impl Outcome {
    /// Whether nothing is to be said against it.
    pub const fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Failed { error } => write!(f, "failed: {error}"),
            Self::Panicked { message } => write!(f, "panicked: {message}"),
            Self::TimedOut { late_by: Some(late_by) } => write!(f, "late by {late_by:.1?}"),
            Self::TimedOut { late_by: None } => f.write_str("timed out"),
            Self::Leaked => f.write_str("leaked"),
            Self::Skipped => f.write_str("skipped"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// The life of one hook or task.
pub(crate) struct Record {
    pub(crate) name: Name,
    pub(crate) kind: WorkKind,
    /// Its place in the order of registration, among its kind.
    pub(crate) number: u64,
    life: Mutex<Life>,
    /// The id of the scope of a task, or 0.
    pub(crate) scope: usize,
    /// Of a task that was spawned.
    abort: OnceLock<AbortHandle>,
    /// Whether it was aborted by its phase or scope.
    aborted: AtomicBool,
}

enum Life {
    Waiting,
    Running {
        since: Instant,
    },
    /// With [`Outcome::Ok`], as nearly all end.
    Ok {
        since: Instant,
        at: Instant,
    },
    // Behind a pointer, since there may be very many records.
    Ended(Box<End>),
}

#[derive(Clone)]
struct End {
    since: Option<Instant>,
    at: Instant,
    /// `None` for a task whose future was dropped unfinished.
    outcome: Option<Outcome>,
}

/// What is to be said of a hook or task.
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// When it started, if it did.
    pub(crate) since: Option<Instant>,
    pub(crate) took: Duration,
}

impl Record {
    /// Of a hook that waits for its phase.
    pub(crate) fn waiting(name: Name, kind: WorkKind, number: u64) -> Self {
        Self::new(name, kind, number, 0, Life::Waiting)
    }

    /// Of a task that starts now.
    pub(crate) fn running(name: Name, number: u64, scope: usize) -> Self {
        Self::new(name, WorkKind::Task, number, scope, Life::Running { since: Instant::now() })
    }

    fn new(name: Name, kind: WorkKind, number: u64, scope: usize, life: Life) -> Self {
        let (life, abort, aborted) = (Mutex::new(life), OnceLock::new(), AtomicBool::new(false));
        Self { name, kind, number, life, scope, abort, aborted }
    }

    pub(crate) fn start(&self) {
        *lock(&self.life) = Life::Running { since: Instant::now() };
    }

    /// How a task can be aborted; done at once if it should have been already.
    pub(crate) fn set_abort(&self, handle: AbortHandle) {
        self.abort.set(handle).ok();
        if self.aborted.load(SeqCst) {
            self.abort();
        }
    }

    /// Ends a task at its next await, unless it has ended.
    pub(crate) fn abort(&self) {
        self.aborted.store(true, SeqCst);
        if let Some(handle) = self.abort.get() {
            handle.abort();
        }
    }

    /// Notes the end of a hook. What ended well but after its deadline is late, never [`Outcome::Ok`].
    pub(crate) fn finish(&self, outcome: Outcome, phase: &PhaseRun, in_first_poll: bool) {
        let now = Instant::now();
        let outcome = match (outcome, phase.late_by(now, in_first_poll)) {
            (Outcome::Ok, late_by @ Some(_)) => Outcome::TimedOut { late_by },
            (outcome, _) => outcome,
        };
        self.end_at(now, Some(outcome));
    }

    /// Notes the end of a task, which is judged when its phase is over: most end long before they have a deadline.
    pub(crate) fn end(&self, outcome: Outcome) {
        self.end_at(Instant::now(), Some(outcome));
    }

    /// Notes that a task was dropped, unless it has ended before.
    pub(crate) fn end_dropped(&self) {
        if self.running_since().is_some() {
            self.end_at(Instant::now(), None);
        }
    }

    fn end_at(&self, at: Instant, outcome: Option<Outcome>) {
        let mut life = lock(&self.life);
        let since = match &*life {
            Life::Running { since } => Some(*since),
            Life::Waiting => None,
            Life::Ok { .. } | Life::Ended(_) => return,
        };
        *life = match (since, outcome) {
            (Some(since), Some(Outcome::Ok)) => Life::Ok { since, at },
            (since, outcome) => Life::Ended(Box::new(End { since, at, outcome })),
        };
    }

    /// Since when it has been running, if it is.
    pub(crate) fn running_since(&self) -> Option<Instant> {
        match &*lock(&self.life) {
            Life::Running { since } => Some(*since),
            Life::Waiting | Life::Ok { .. } | Life::Ended(_) => None,
        }
    }

    /// How it ended and how long it took, if the report were made now. `deadline` is that of its phase.
    pub(crate) fn verdict(&self, deadline: Instant) -> Verdict {
        let end = match &*lock(&self.life) {
            Life::Waiting => return Verdict { outcome: Outcome::Skipped, since: None, took: Duration::ZERO },
            Life::Running { since } => {
                return Verdict { outcome: Outcome::Leaked, since: Some(*since), took: since.elapsed() };
            }
            Life::Ok { since, at } => End { since: Some(*since), at: *at, outcome: Some(Outcome::Ok) },
            Life::Ended(end) => End::clone(end),
        };
        let late_by = end.at.saturating_duration_since(deadline);
        let outcome = match end.outcome {
            Some(Outcome::Ok) if self.kind == WorkKind::Task && !late_by.is_zero() => {
                Outcome::TimedOut { late_by: Some(late_by) }
            }
            Some(outcome) => outcome,
            // Dropped by its owner, which is an end like another.
            None if end.at < deadline && !self.aborted.load(SeqCst) => Outcome::Ok,
            None => Outcome::TimedOut { late_by: None },
        };
        Verdict { outcome, since: end.since, took: end.since.map_or(Duration::ZERO, |since| end.at - since) }
    }
}
