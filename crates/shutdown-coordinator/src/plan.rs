//! What a shutdown would do.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{phase::FailurePolicy, record::WorkKind, report};

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

/// A hook or gate of a [`PlannedPhase`], in the order of registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PlannedWork {
    /// What it is.
    pub kind: WorkKind,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deadline {:?}, grace {:?}, watchdog ", self.deadline, self.grace)?;
        match self.watchdog_margin {
            Some(margin) => writeln!(f, "{margin:?} after the deadline")?,
            None => writeln!(f, "off")?,
        }
        let width = self.phases.iter().map(|phase| phase.name.len()).max().unwrap_or(0).max(5);
        writeln!(
            f,
            "{:width$}  {:>10}  {:>10}  {:>10}  {:>10}  after",
            "phase", "timeout", "reserve", "hold", "latest"
        )?;
        for phase in &self.phases {
            let timeout = phase.timeout.map_or_else(|| "-".to_owned(), |timeout| format!("{timeout:?}"));
            let [reserve, hold, latest] = [phase.reserve, phase.hold, phase.latest_end].map(|time| format!("{time:?}"));
            let after = phase.after.join(", ");
            writeln!(f, "{:width$}  {timeout:>10}  {reserve:>10}  {hold:>10}  {latest:>10}  {after}", phase.name)?;
            for work in &phase.work {
                writeln!(f, "    {} {}", work.kind, work.name)?;
            }
            if phase.tasks > 0 {
                writeln!(f, "    {} tasks", phase.tasks)?;
            }
            if phase.point_of_no_return {
                writeln!(f, "    no way back from here")?;
            }
        }
        Ok(())
    }
}
