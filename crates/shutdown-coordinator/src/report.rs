//! What a shutdown did.

use std::{
    fmt,
    process::{ExitCode, Termination},
    time::Duration,
};

use serde::{Serialize, Serializer};

use crate::{
    progress::Blocker,
    reason::Reason,
    record::{Outcome, Steps, WorkKind},
};

/// Exit code of a shutdown in which everything ended well and in time.
pub const EXIT_CLEAN: u8 = 0;
/// Exit code when something failed, was late, leaked, or was declared unclean by a hook (`EX_TEMPFAIL`).
pub const EXIT_UNCLEAN: u8 = 75;
/// Exit code of a process that its watchdog ended (`EX_SOFTWARE`).
pub const EXIT_WATCHDOG: u8 = 70;

/// What a shutdown did. Returned from `main`, it gives the process its exit code.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Why it was started.
    pub reason: Reason,
    /// Why it was forced, if it was.
    pub forced_by: Option<Reason>,
    /// When it was triggered, in milliseconds since 1970-01-01 UTC, by the wall clock.
    pub started_unix_ms: u64,
    /// When everything had to be over, counted from the trigger.
    #[serde(rename = "deadline_ms", serialize_with = "ms")]
    pub deadline: Duration,
    /// From the trigger to the end of the last phase.
    #[serde(rename = "took_ms", serialize_with = "ms")]
    pub took: Duration,
    /// Every phase, in order.
    pub phases: Vec<PhaseReport>,
    /// What hooks had to say.
    pub notes: Vec<Note>,
}

/// What one phase did.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub status: PhaseStatus,
    /// When it started, counted from the trigger.
    #[serde(rename = "started_after_ms", serialize_with = "ms")]
    pub started_after: Duration,
    /// How long it took.
    #[serde(rename = "took_ms", serialize_with = "ms")]
    pub took: Duration,
    /// How long it could have taken.
    #[serde(rename = "budget_ms", serialize_with = "ms")]
    pub budget: Duration,
    /// Every hook, gate and task of the phase, once.
    pub entries: Vec<Entry>,
    /// What the phase still waited for at its deadline.
    pub survivors: Vec<Blocker>,
    #[serde(skip)]
    #[cfg_attr(not(feature = "testkit"), expect(dead_code, reason = "for the test kit"))]
    pub(crate) steps: Steps,
}

/// What became of one hook, gate or task.
#[derive(Clone, Debug, Serialize)]
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
    #[serde(rename = "started_after_ms", serialize_with = "optional_ms")]
    pub started_after: Option<Duration>,
    /// How long it took; for a gate, how long the phase waited for it.
    #[serde(rename = "took_ms", serialize_with = "ms")]
    pub took: Duration,
    #[serde(skip)]
    #[cfg_attr(not(feature = "testkit"), expect(dead_code, reason = "for the test kit"))]
    pub(crate) steps: Steps,
}

/// How a phase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// Whether everything ended well and in time.
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
    /// - not clean, or forced without any signal: [`EXIT_UNCLEAN`]
    /// - clean: [`EXIT_CLEAN`]
    pub fn exit_code(&self) -> u8 {
        if let Some(forced_by) = &self.forced_by {
            let signal = forced_by.signal().or(self.reason.signal());
            return signal.and_then(|number| u8::try_from(128 + number).ok()).unwrap_or(EXIT_UNCLEAN);
        }
        if self.is_clean() { EXIT_CLEAN } else { EXIT_UNCLEAN }
    }

    /// The report as one line of JSON, with the exit code as `exit_code`. Times are in milliseconds.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Whole<'a> {
            exit_code: u8,
            clean: bool,
            #[serde(flatten)]
            report: &'a Report,
        }
        let whole = Whole { exit_code: self.exit_code(), clean: self.is_clean(), report: self };
        serde_json::to_string(&whole)
            .unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }).to_string())
    }
}

impl Termination for Report {
    fn report(self) -> ExitCode {
        ExitCode::from(self.exit_code())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shutdown ({}) took {:.1?}, exit code {}", self.reason, self.took, self.exit_code())?;
        if let Some(forced_by) = &self.forced_by {
            write!(f, ", forced ({forced_by})")?;
        }
        writeln!(f)?;
        let names = self.phases.iter().flat_map(|phase| {
            std::iter::once(phase.name.len()).chain(phase.entries.iter().map(|entry| entry.name.len() + 2))
        });
        let width = names.max().unwrap_or(0).max(5);
        writeln!(f, "{:width$}  {:13}  {:>10}  {:>10}  {:>10}  result", "phase", "kind", "start", "took", "budget")?;
        for phase in &self.phases {
            let [start, took, budget] =
                [phase.started_after, phase.took, phase.budget].map(|time| format!("{time:.1?}"));
            let status = phase.status;
            writeln!(f, "{:width$}  {:13}  {start:>10}  {took:>10}  {budget:>10}  {status}", phase.name, "phase")?;
            for entry in &phase.entries {
                let took = format!("{:.1?}", entry.took);
                let name = format!("  {}", entry.name);
                writeln!(f, "{name:width$}  {:13}  {:>10}  {took:>10}  {:>10}  {}", entry.kind, "", "", entry.outcome)?;
            }
        }
        for survivor in self.survivors() {
            writeln!(f, "left over: {survivor}")?;
        }
        for note in &self.notes {
            let mark = if note.unclean { "unclean" } else { "note" };
            writeln!(f, "{mark}: {} ({}, {})", note.text, note.phase, note.hook)?;
        }
        Ok(())
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

pub(crate) fn ms<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde's signature")]
pub(crate) fn optional_ms<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => ms(time, serializer),
        None => serializer.serialize_none(),
    }
}
