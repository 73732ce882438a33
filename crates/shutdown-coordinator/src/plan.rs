//! What a shutdown would do.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{
    phase::FailurePolicy,
    record::WorkKind,
    report::{
        self,
        text::{cell, clean, human, wrap},
    },
};

/// What a shutdown would do if it were triggered now: the rehearsal.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// When everything must be over, counted from the trigger.
    #[serde(rename = "deadline_ms", with = "report::ms")]
    pub deadline: Duration,
    /// How long what was told of its expiry may take to end. Each phase that overruns can add this to the total.
    #[serde(rename = "grace_ms", with = "report::ms")]
    pub grace: Duration,
    /// How much longer than the deadline a shutdown can take at worst, if phases run into their graces.
    #[serde(rename = "overrun_ms", with = "report::ms")]
    pub overrun: Duration,
    /// How long after the deadline the watchdog ends the process.
    #[serde(rename = "watchdog_margin_ms", with = "report::optional_ms")]
    pub watchdog_margin: Option<Duration>,
    /// Every phase, in order.
    pub phases: Vec<PlannedPhase>,
}

/// One phase of a [`Plan`].
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PlannedPhase {
    /// Its name.
    pub name: String,
    /// The phases that must be over before it.
    pub after: Vec<String>,
    /// Its own limit.
    #[serde(rename = "timeout_ms", with = "report::optional_ms")]
    pub timeout: Option<Duration>,
    /// The time that is kept for it.
    #[serde(rename = "reserve_ms", with = "report::ms")]
    pub reserve: Duration,
    /// How long it lasts at least.
    #[serde(rename = "hold_ms", with = "report::ms")]
    pub hold: Duration,
    /// When it ends at the latest, counted from the trigger: the deadline less the reserves owed after it.
    #[serde(rename = "latest_end_ms", with = "report::ms")]
    pub latest_end: Duration,
    /// Whether its hooks run one after the other.
    pub sequential: bool,
    /// Whether its start is the point of no return.
    pub point_of_no_return: bool,
    /// What follows its failure.
    pub on_failure: FailurePolicy,
    /// What it would run and wait for.
    pub work: Vec<PlannedWork>,
    /// How many tasks it would tell to stop.
    pub tasks: usize,
}

impl Plan {
    /// When the shutdown is over at worst, counted from the trigger: at the deadline and the margin of the watchdog, or,
    /// without one, at what phases may overrun by. What a supervisor grants should be above this and whatever the process
    /// does after its shutdown.
    pub fn worst_case(&self) -> Duration {
        self.deadline.saturating_add(self.watchdog_margin.unwrap_or(self.overrun))
    }
}

/// A hook or gate of a [`PlannedPhase`], in the order of registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PlannedWork {
    /// What it is.
    pub kind: WorkKind,
    /// Its name.
    pub name: String,
}

/// A table of at most 100 columns: the times of each phase, and below it what it waits for and what it would run.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deadline {}, grace {}, watchdog ", human(self.deadline), human(self.grace))?;
        match self.watchdog_margin {
            Some(margin) => writeln!(f, "{} after the deadline", human(margin))?,
            None => writeln!(f, "off")?,
        }
        row(f, "phase", ["timeout", "reserve", "hold", "ends by"].map(str::to_owned))?;
        self.phases.iter().try_for_each(|phase| phase.fmt(f))
    }
}

/// One phase as the table of a [`Plan`] shows it.
impl fmt::Display for PlannedPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = |time: Duration| if time.is_zero() { "-".to_owned() } else { human(time) };
        let timeout = self.timeout.map_or_else(|| "-".to_owned(), human);
        row(f, &self.name, [timeout, some(self.reserve), some(self.hold), human(self.latest_end)])?;
        if !self.after.is_empty() {
            details(f, &format!("after {}", self.after.join(", ")))?;
        }
        if self.point_of_no_return {
            details(f, "no way back from here")?;
        }
        if self.on_failure == FailurePolicy::AbortRest {
            details(f, "its failure skips what comes after it")?;
        }
        if self.sequential {
            details(f, "one after the other, from the last to the first:")?;
        }
        for work in &self.work {
            details(f, &format!("{} {}", work.kind, work.name))?;
        }
        match self.tasks {
            0 => Ok(()),
            1 => details(f, "1 task"),
            tasks => details(f, &format!("{tasks} tasks")),
        }
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, [timeout, reserve, hold, end]: [String; 4]) -> fmt::Result {
    writeln!(f, "{}  {timeout:>11} {reserve:>11} {hold:>11} {end:>11}", cell(name, 50))
}

fn details(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    wrap(&clean(text), 96).iter().try_for_each(|line| writeln!(f, "    {line}"))
}
