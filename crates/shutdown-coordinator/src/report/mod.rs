//! What a shutdown did.

mod digest;
mod json;
#[cfg(test)]
mod schema;
mod svg;
mod table;
pub(crate) mod text;

use std::{
    fmt,
    process::{ExitCode, Termination},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    progress::Blocker,
    reason::Reason,
    record::{Outcome, Steps, WorkKind},
};

pub(crate) use self::json::{Version, ms, optional_ms};
pub use self::table::ReportTable;

/// Exit code of a shutdown in which everything ended well and in time.
pub const EXIT_CLEAN: u8 = 0;
/// Exit code when something failed, was late, leaked, or was declared unclean by a hook (`EX_TEMPFAIL`).
pub const EXIT_UNCLEAN: u8 = 75;
/// Exit code of a process that its watchdog ended (`EX_SOFTWARE`).
pub const EXIT_WATCHDOG: u8 = 70;

/// What a shutdown did. Returned from `main`, it gives the process its exit code.
///
/// For a person there is [`Report::table`], which `Display` uses too, and [`Report::to_svg`]; for a program
/// [`Report::to_json`], which [`Deserialize`] reads back.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Report {
    #[serde(rename = "version")]
    pub(crate) version: Version,
    /// Why it was started.
    pub reason: Reason,
    /// Why it was forced, if it was.
    pub forced_by: Option<Reason>,
    /// When it was forced, counted from the trigger, if it was.
    #[serde(rename = "forced_after_ms", with = "optional_ms")]
    pub forced_after: Option<Duration>,
    /// When it was triggered, in milliseconds since 1970-01-01 UTC, by the wall clock.
    pub started_unix_ms: u64,
    /// When everything had to be over, counted from the trigger.
    #[serde(rename = "deadline_ms", with = "ms")]
    pub deadline: Duration,
    /// From the trigger to the end of the last phase.
    #[serde(rename = "took_ms", with = "ms")]
    pub took: Duration,
    /// Every phase, in order.
    pub phases: Vec<PhaseReport>,
    /// What hooks had to say.
    pub notes: Vec<Note>,
}

/// What one phase did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// The phases that had to be over before it.
    pub after: Vec<String>,
    /// How it ended.
    pub status: PhaseStatus,
    /// When it started, counted from the trigger.
    #[serde(rename = "started_after_ms", with = "ms")]
    pub started_after: Duration,
    /// How long it took.
    #[serde(rename = "took_ms", with = "ms")]
    pub took: Duration,
    /// How long it could have taken, as it was known at its start: a forced shutdown leaves it only its reserve.
    #[serde(rename = "budget_ms", with = "ms")]
    pub budget: Duration,
    /// The time that was kept for it, whatever happened before it.
    #[serde(rename = "reserve_ms", with = "ms")]
    pub reserve: Duration,
    /// How long it was to last at least.
    #[serde(rename = "hold_ms", with = "ms")]
    pub hold: Duration,
    /// Every hook, gate and task of the phase, once.
    pub entries: Vec<Entry>,
    /// What the phase still waited for at its deadline.
    pub survivors: Vec<Blocker>,
    #[serde(skip)]
    pub(crate) steps: Steps,
}

/// What became of one hook, gate or task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Entry {
    /// What it is.
    pub kind: WorkKind,
    /// Its name.
    pub name: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// When it started, counted from the trigger: 0 for a task that ran before, `None` for what never started. A gate
    /// starts to be waited for with its phase.
    #[serde(rename = "started_after_ms", with = "optional_ms")]
    pub started_after: Option<Duration>,
    /// When it ended, counted from the trigger: `None` for what never started and for what was still there when the
    /// report was made.
    #[serde(rename = "ended_after_ms", with = "optional_ms")]
    pub ended_after: Option<Duration>,
    /// How long it took, for a task since it was spawned; for a gate, how long the phase waited for it.
    #[serde(rename = "took_ms", with = "ms")]
    pub took: Duration,
    #[serde(skip)]
    pub(crate) steps: Steps,
}

/// How a phase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PhaseStatus {
    /// Everything was over in time.
    Completed,
    /// Something was not over at the deadline.
    TimedOut,
    /// Something was not over when the shutdown was forced.
    Forced,
    /// It was left out, after a failure under [`FailurePolicy::AbortRest`](crate::FailurePolicy::AbortRest).
    Skipped,
}

/// A line that a hook added to the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Note {
    /// The phase of the hook.
    pub phase: String,
    /// The name of the hook.
    pub hook: String,
    /// The line.
    pub text: String,
    /// Whether it makes the exit code non-zero.
    pub unclean: bool,
}

impl Report {
    /// Whether everything in it ended well and in time, whatever the reason for it was.
    pub fn is_clean(&self) -> bool {
        let phases_clean = self.phases.iter().all(|phase| {
            phase.status == PhaseStatus::Completed && phase.entries.iter().all(|entry| entry.outcome.is_ok())
        });
        phases_clean && !self.notes.iter().any(|note| note.unclean)
    }

    /// Everything that a phase still waited for at its deadline.
    pub fn survivors(&self) -> impl Iterator<Item = &Blocker> {
        self.phases.iter().flat_map(|phase| &phase.survivors)
    }

    /// The code the process should exit with.
    ///
    /// - forced by signal `n`, or forced otherwise after having been started by signal `n`: `128 + n`
    /// - not clean, started because of an error, or forced without any signal: [`EXIT_UNCLEAN`]
    /// - clean: [`EXIT_CLEAN`]
    pub fn exit_code(&self) -> u8 {
        let Some(forced_by) = &self.forced_by else {
            let well = self.is_clean() && !matches!(self.reason, Reason::Error(_));
            return if well { EXIT_CLEAN } else { EXIT_UNCLEAN };
        };
        let signal = forced_by.signal().or(self.reason.signal()).and_then(|number| u8::try_from(number).ok());
        signal.and_then(|number| number.checked_add(128)).unwrap_or(EXIT_UNCLEAN)
    }

    /// The report as a table for a terminal.
    pub fn table(&self) -> ReportTable<'_> {
        ReportTable::new(self)
    }

    /// The report as one line of JSON.
    #[doc = ""]
    #[doc = include_str!("../../docs/report.md")]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }).to_string())
    }

    /// The report as a picture: where the time went, and who was waited for. `examples/timeline.rs` makes one.
    ///
    /// The time axis counts from the trigger. Each phase has a lane: behind, dashed, what it could have taken; in front
    /// what it took; below its hooks, gates and tasks, with what held it up at its deadline. What went wrong differs in
    /// colour, shape and label. Of many entries the worst and longest are shown, and the others counted.
    ///
    /// The picture is a complete SVG 1.1 document without scripts, links and fonts of its own; dark where the viewer
    /// prefers dark. All text is escaped. The same report always gives the same picture.
    pub fn to_svg(&self) -> String {
        svg::draw(self)
    }
}

impl Termination for Report {
    fn report(self) -> ExitCode {
        ExitCode::from(self.exit_code())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table().fmt(f)
    }
}

impl fmt::Display for PhaseStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Completed => "completed",
            Self::TimedOut => "timed out",
            Self::Forced => "forced",
            Self::Skipped => "skipped",
        })
    }
}
