//! What became of each hook, gate and task.

use std::{fmt, sync::Mutex, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use crate::{gate::Name, phase::PhaseRun, sync::lock};

/// What kind of thing a phase waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
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
}

impl fmt::Display for WorkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hook => "hook",
            Self::BlockingHook => "blocking hook",
            Self::Gate => "gate",
            Self::Task => "task",
        })
    }
}

/// How a hook, gate or task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
        #[serde(rename = "late_by_ms", serialize_with = "crate::report::optional_ms")]
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
    life: Mutex<Life>,
}

#[derive(Clone)]
enum Life {
    Waiting,
    Running { since: Instant, first_step: u64 },
    Ended { since: Option<Instant>, took: Duration, outcome: Outcome, steps: Steps },
}

/// Which steps of the run the start and the end were: their order, also where the clock stands still. Step 0 is before
/// the shutdown; `None` has not happened.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(not(feature = "testkit"), expect(dead_code, reason = "for the test kit"))]
pub(crate) struct Steps {
    pub(crate) first: Option<u64>,
    pub(crate) last: Option<u64>,
}

/// What is to be said of a hook or task.
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// When it started, if it did.
    pub(crate) since: Option<Instant>,
    pub(crate) took: Duration,
    pub(crate) steps: Steps,
}

impl Record {
    pub(crate) fn new(name: Name, kind: WorkKind) -> Self {
        Self { name, kind, life: Mutex::new(Life::Waiting) }
    }

    /// Notes the start. Step 0 is before the shutdown.
    pub(crate) fn start(&self, first_step: u64) {
        *lock(&self.life) = Life::Running { since: Instant::now(), first_step };
    }

    /// Notes the end. What ended well but after its deadline is late, never [`Outcome::Ok`].
    pub(crate) fn finish(&self, outcome: Outcome, phase: &PhaseRun) {
        let (now, deadline) = (Instant::now(), phase.deadline());
        let outcome = match outcome {
            Outcome::Ok if now > deadline => Outcome::TimedOut { late_by: Some(now - deadline) },
            outcome => outcome,
        };
        let mut life = lock(&self.life);
        let (since, first) = match &*life {
            Life::Running { since, first_step } => (Some(*since), Some(*first_step)),
            Life::Waiting => (None, None),
            Life::Ended { .. } => return,
        };
        let steps = Steps { first, last: Some(phase.step()) };
        *life = Life::Ended { since, took: since.map_or(Duration::ZERO, |since| now - since), outcome, steps };
    }

    /// Since when it has been running, if it is.
    pub(crate) fn running_since(&self) -> Option<Instant> {
        match &*lock(&self.life) {
            Life::Running { since, .. } => Some(*since),
            Life::Waiting | Life::Ended { .. } => None,
        }
    }

    /// How it ended and how long it took, if the report were made now.
    pub(crate) fn verdict(&self) -> Verdict {
        match &*lock(&self.life) {
            Life::Waiting => {
                Verdict { outcome: Outcome::Skipped, since: None, took: Duration::ZERO, steps: Steps::default() }
            }
            Life::Running { since, first_step } => Verdict {
                outcome: Outcome::Leaked,
                since: Some(*since),
                took: since.elapsed(),
                steps: Steps { first: Some(*first_step), last: None },
            },
            Life::Ended { since, took, outcome, steps } => {
                Verdict { outcome: outcome.clone(), since: *since, took: *took, steps: *steps }
            }
        }
    }
}
