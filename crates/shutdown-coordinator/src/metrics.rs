//! Numbers for a recorder of the `metrics` facade. Behind the feature `metrics`.
//!
//! | name | type | labels | meaning |
//! |---|---|---|---|
//! | `shutdown_started_total` | counter | `reason` | shutdowns begun |
//! | `shutdown_forced_total` | counter | | shutdowns forced |
//! | `shutdown_aborted_total` | counter | | shutdowns called off |
//! | `shutdown_started_timestamp_seconds` | gauge | | when the shutdown under way began, in seconds since 1970; 0 when there is none |
//! | `shutdown_deadline_timestamp_seconds` | gauge | | when it has to be over; 0 when there is none |
//! | `shutdown_phase_duration_seconds` | histogram | `phase`, `status` | how long phases took |
//! | `shutdown_work_total` | counter | `phase`, `kind`, `outcome` | how hooks, gates and tasks stood when their phase ended |
//! | `shutdown_duration_seconds` | histogram | `clean` | from the trigger to the end of the last phase |
//! | `shutdown_in_flight` | gauge | `phase`, `gate` | guards held; as of the last [`publish_metrics`] |
//!
//! | label | values |
//! |---|---|
//! | `reason` | `signal`, `manual`, `upgrade`, `error`, `rehearsal` |
//! | `phase` | the names of the phases |
//! | `gate` | the names of the gates, each from its last `/` on: `orders` for `engine:42/orders`, so that gates of many scopes are one |
//! | `status` | `completed`, `timed_out`, `forced` |
//! | `kind` | `hook`, `blocking_hook`, `gate`, `task`, `scope` |
//! | `outcome` | `ok`, `failed`, `panicked`, `timed_out`, `leaked`, `skipped`, `cancelled` |
//! | `clean` | `true`, `false` |
//!
//! The name of a guard, a hook, a task or a scope is never a label.
//!
//! Time since the trigger is `time() - shutdown_started_timestamp_seconds`, time left is
//! `shutdown_deadline_timestamp_seconds - time()`, each `and shutdown_started_timestamp_seconds > 0`. They are timestamps so that
//! nobody has to keep them up to date; nothing is decided by the wall clock.
//!
//! Counted at the end of each phase and not only in the report, so that a scrape in the middle of a shutdown shows what
//! has gone wrong. Hence what was `leaked` when its phase ended can be late in the report.
//!
//! Install the recorder before [`Builder::build`](crate::Builder::build), which describes the metrics. Two coordinators
//! in one process share them.
//!
//! [`publish_metrics`]: crate::ShutdownHandle::publish_metrics

use std::{collections::BTreeMap, time::Duration};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{
    reason::Reason,
    record::{Outcome, WorkKind},
    report::{PhaseStatus, Report},
    shared::Shared,
};

const STARTED: &str = "shutdown_started_total";
const FORCED: &str = "shutdown_forced_total";
const ABORTED: &str = "shutdown_aborted_total";
const STARTED_AT: &str = "shutdown_started_timestamp_seconds";
const DEADLINE_AT: &str = "shutdown_deadline_timestamp_seconds";
const PHASE_DURATION: &str = "shutdown_phase_duration_seconds";
const WORK: &str = "shutdown_work_total";
const DURATION: &str = "shutdown_duration_seconds";
const IN_FLIGHT: &str = "shutdown_in_flight";

/// Says what each metric means, and starts those that have a value before any shutdown.
pub(crate) fn describe() {
    describe_counter!(STARTED, Unit::Count, "Shutdowns begun, by reason");
    describe_counter!(FORCED, Unit::Count, "Shutdowns forced");
    describe_counter!(ABORTED, Unit::Count, "Shutdowns called off");
    describe_gauge!(STARTED_AT, Unit::Seconds, "When the shutdown under way began, since 1970; 0 when there is none");
    describe_gauge!(DEADLINE_AT, Unit::Seconds, "When the shutdown under way has to be over; 0 when there is none");
    describe_histogram!(PHASE_DURATION, Unit::Seconds, "How long phases took");
    describe_counter!(WORK, Unit::Count, "Hooks, gates and tasks, by how they stood when their phase ended");
    describe_histogram!(DURATION, Unit::Seconds, "From the trigger to the end of the last phase");
    describe_gauge!(IN_FLIGHT, Unit::Count, "Guards held, by gate");
    counter!(FORCED).increment(0);
    counter!(ABORTED).increment(0);
    set_timestamps(Duration::ZERO, Duration::ZERO);
}

pub(crate) fn started(reason: &Reason, unix: Duration, deadline: Duration) {
    counter!(STARTED, "reason" => reason_label(reason)).increment(1);
    set_timestamps(unix, unix.saturating_add(deadline));
}

pub(crate) fn forced() {
    counter!(FORCED).increment(1);
}

pub(crate) fn aborted() {
    counter!(ABORTED).increment(1);
    set_timestamps(Duration::ZERO, Duration::ZERO);
}

fn set_timestamps(started: Duration, deadline: Duration) {
    gauge!(STARTED_AT).set(started.as_secs_f64());
    gauge!(DEADLINE_AT).set(deadline.as_secs_f64());
}

/// How many of each kind ended how in one phase.
#[derive(Default)]
pub(crate) struct Counts(BTreeMap<(&'static str, &'static str), u64>);

impl Counts {
    pub(crate) fn add(&mut self, kind: WorkKind, outcome: &Outcome) {
        *self.0.entry((kind_label(kind), outcome_label(outcome))).or_default() += 1;
    }

    pub(crate) fn publish(self, phase: &str, status: PhaseStatus, took: Duration) {
        histogram!(PHASE_DURATION, "phase" => phase.to_owned(), "status" => status_label(status)).record(took);
        for ((kind, outcome), count) in self.0 {
            counter!(WORK, "phase" => phase.to_owned(), "kind" => kind, "outcome" => outcome).increment(count);
        }
    }
}

pub(crate) fn over(report: &Report) {
    let clean = if report.is_clean() { "true" } else { "false" };
    histogram!(DURATION, "clean" => clean).record(report.took);
}

pub(crate) fn publish(shared: &Shared) {
    for (index, phase) in shared.phases.iter().enumerate() {
        // Gates may share a name.
        let mut held = BTreeMap::<_, usize>::new();
        for gate in shared.gates(index) {
            let name = gate.name().rsplit('/').next().unwrap_or_default();
            *held.entry(name.to_owned()).or_default() += gate.held();
        }
        for (gate, held) in held {
            let held = u32::try_from(held).unwrap_or(u32::MAX);
            gauge!(IN_FLIGHT, "phase" => phase.config.name.to_string(), "gate" => gate).set(held);
        }
    }
}

const fn reason_label(reason: &Reason) -> &'static str {
    match reason {
        Reason::Signal(_) => "signal",
        Reason::Manual(_) => "manual",
        Reason::Upgrade => "upgrade",
        Reason::Error(_) => "error",
        Reason::Rehearsal => "rehearsal",
    }
}

const fn status_label(status: PhaseStatus) -> &'static str {
    match status {
        PhaseStatus::Completed => "completed",
        PhaseStatus::TimedOut => "timed_out",
        PhaseStatus::Forced => "forced",
        PhaseStatus::Skipped => "skipped",
    }
}

const fn kind_label(kind: WorkKind) -> &'static str {
    match kind {
        WorkKind::Hook => "hook",
        WorkKind::BlockingHook => "blocking_hook",
        WorkKind::Gate => "gate",
        WorkKind::Task => "task",
        WorkKind::Scope => "scope",
    }
}

const fn outcome_label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Failed { .. } => "failed",
        Outcome::Panicked { .. } => "panicked",
        Outcome::TimedOut { .. } => "timed_out",
        Outcome::Leaked => "leaked",
        Outcome::Skipped => "skipped",
        Outcome::Cancelled => "cancelled",
    }
}
