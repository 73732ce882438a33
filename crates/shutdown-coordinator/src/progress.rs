//! Watching a shutdown while it runs.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{reason::Reason, record::WorkKind, report::PhaseStatus};

/// How far the shutdown is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Progress {
    /// Where the whole stands.
    pub stage: RunStage,
    /// Why the shutdown was started, once it was.
    pub reason: Option<Reason>,
    /// Whether it was forced.
    pub forced: bool,
    /// Whether it can no longer be aborted: the first phase that is a point of no return has started.
    pub past_no_return: bool,
    /// When it must be over, once it was started.
    pub deadline: Option<Instant>,
    /// Every phase, in order.
    pub phases: Vec<PhaseProgress>,
}

impl Progress {
    /// The phases that are running now.
    pub fn running(&self) -> impl Iterator<Item = &PhaseProgress> {
        self.phases.iter().filter(|phase| matches!(phase.stage, PhaseStage::Running { .. }))
    }

    /// The phases that are over.
    pub fn done(&self) -> impl Iterator<Item = &PhaseProgress> {
        self.phases.iter().filter(|phase| matches!(phase.stage, PhaseStage::Over(_)))
    }
}

/// Where the whole shutdown stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunStage {
    /// No shutdown has begun, or it was aborted.
    Serving,
    /// Triggered, not over.
    ShuttingDown,
    /// Every phase is over.
    Over,
    /// The coordinator, or its run, was dropped: nothing more will happen.
    Abandoned,
}

/// How far one phase is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PhaseProgress {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub stage: PhaseStage,
}

/// Where one phase stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PhaseStage {
    /// Not started.
    Waiting,
    /// Running.
    Running {
        /// When it ends at the latest.
        deadline: Instant,
    },
    /// Over.
    Over(PhaseStatus),
}

/// Something a running phase waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Blocker {
    /// The phase that waits.
    pub phase: String,
    /// What it waits for.
    pub kind: WorkKind,
    /// For a guard, the gate it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gate: Option<String>,
    /// The name of the hook, the task or the guard; for guards without a name, that of their gate.
    pub name: String,
    /// How many; above 1 only for guards without a name.
    pub count: usize,
    /// How long it has been running or held; for guards without a name, how long the phase has waited for them.
    #[serde(rename = "age_ms", with = "crate::report::ms")]
    pub age: Duration,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ", self.phase, self.kind)?;
        match &self.gate {
            Some(gate) if *gate != self.name => write!(f, "{gate:?}, {}", self.name)?,
            _ => write!(f, "{:?}", self.name)?,
        }
        if self.count != 1 {
            write!(f, " ({} guards)", self.count)?;
        }
        write!(f, ", for {:.1?}", self.age)
    }
}
