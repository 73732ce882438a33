//! Running a shutdown.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join, stream::FuturesUnordered};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    builder::Builder,
    gate::{Gate, wait_until},
    hook::run_hook,
    phase::{FailurePolicy, Phase, PhaseRun},
    progress::Blocker,
    record::{Outcome, WorkKind},
    report::{Entry, PhaseReport, PhaseStatus, Report},
    shared::{RunCx, Shared, StartedPhase},
    sync::{later, lock},
};

/// How long an aborted hook may take to be dropped before it is given up as leaked. Only one that blocks its thread
/// needs more.
pub(crate) const ABORT_WAIT: Duration = Duration::from_millis(50);

/// Owns the shutdown. There is one, and [`ShutdownCoordinator::run`] consumes it.
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use shutdown_coordinator::{Reason, ShutdownCoordinator};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut builder = ShutdownCoordinator::builder();
/// let drain = builder.phase("drain").timeout(Duration::from_secs(10)).id();
/// let persist = builder.phase("persist").after(&[drain]).reserve(Duration::from_secs(2)).id();
/// let (coordinator, handle) = builder.deadline(Duration::from_secs(15)).build()?;
///
/// let orders = handle.gate(drain, "orders");
/// handle.on(persist, "save", |cx| async move {
///     cx.note(format!("{:?} were left", cx.remaining()));
///     Ok::<(), Infallible>(())
/// })?;
///
/// let guard = orders.enter()?;
/// handle.trigger(Reason::Manual("example".into()));
/// drop(guard);
/// let report = coordinator.run().await;
/// assert_eq!(report.exit_code(), 0);
/// assert!(orders.enter().is_err());
/// # Ok(())
/// # }
/// ```
#[must_use = "without `run` no shutdown ever happens"]
pub struct ShutdownCoordinator {
    shared: Arc<Shared>,
    /// Whether dropping this leaves something undone.
    pending: bool,
}

impl ShutdownCoordinator {
    /// Describes a shutdown.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, pending: true }
    }

    /// Waits for a trigger, then runs every phase and reports. An abort makes it wait for the next trigger.
    ///
    /// Not cancel safe: dropping the future midway aborts the hooks that run, starts nothing more, and leaves the
    /// watchdog armed.
    pub async fn run(mut self) -> Report {
        loop {
            let run = self.shared.next_run().await;
            let phases = run_phases(&self.shared, &run).await;
            if self.shared.finish(&run) {
                self.pending = false;
                return self.report(&run, &phases);
            }
        }
    }

    fn report(&self, run: &RunCx, ends: &[Option<PhaseEnd>]) -> Report {
        let phases = self.shared.phases.iter().zip(ends).enumerate();
        let report = Report {
            reason: run.reason.clone(),
            forced_by: run.forced_by.get().cloned(),
            started_unix_ms: run.triggered_unix_ms,
            deadline: self.shared.limits.deadline,
            took: run.triggered.elapsed(),
            phases: phases
                .map(|(index, (phase, end))| phase_report(&self.shared, index, phase, run, end.as_ref()))
                .collect(),
            notes: lock(&run.notes).clone(),
        };
        tracing::info!(exit_code = report.exit_code(), took = ?report.took, clean = report.is_clean(), "shutdown is over");
        report
    }
}

impl Drop for ShutdownCoordinator {
    fn drop(&mut self) {
        if self.pending {
            if self.shared.is_shutting_down() {
                tracing::error!("a shutdown was dropped midway: what has not run will not run");
            } else {
                tracing::warn!("the shutdown coordinator was dropped: no shutdown will happen");
            }
            self.shared.abandon();
        }
    }
}

impl fmt::Debug for ShutdownCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownCoordinator").finish_non_exhaustive()
    }
}

/// What is known of a phase when it is over. Hooks and tasks that were late may still change in the report.
struct PhaseEnd {
    status: PhaseStatus,
    started: Instant,
    took: Duration,
    budget: Duration,
    /// When it had to be over, at its end.
    deadline: Instant,
    /// Their outcomes, and how long the phase waited for each.
    gates: Vec<(String, Outcome, Duration)>,
    survivors: Vec<Blocker>,
}

/// Starts each phase when its predecessors are over. Stops short when the shutdown is aborted.
async fn run_phases(shared: &Arc<Shared>, run: &Arc<RunCx>) -> Vec<Option<PhaseEnd>> {
    let mut ends: Vec<Option<PhaseEnd>> = shared.phases.iter().map(|_| None).collect();
    let mut failed = vec![false; shared.phases.len()];
    let mut waiting: Vec<usize> = (0..shared.phases.len()).collect();
    let mut running = FuturesUnordered::new();
    loop {
        // Indices are in a valid order, so one pass also passes over the successors of what it passes over.
        waiting.retain(|&index| {
            let Some(phase) = shared.phases.get(index) else { return false };
            let before = || phase.config.after.iter();
            if !before().all(|&other| ends.get(other).is_some_and(Option::is_some)) {
                return true;
            }
            let doomed = before().any(|&other| failed.get(other).copied().unwrap_or(false));
            if doomed && phase.config.reserve.is_zero() {
                shared.skip_phase(run, index);
                set(&mut ends, index, Some(PhaseEnd::skipped()));
                set(&mut failed, index, true);
            } else {
                // A reserved phase runs, but what comes after it is doomed no less.
                set(&mut failed, index, doomed);
                running.push(async move { (index, run_phase(shared, run, index, phase).await) });
            }
            false
        });
        let Some((index, end)) = running.next().await else { return ends };
        let policy = shared.phases.get(index).map(|phase| phase.config.on_failure);
        if policy == Some(FailurePolicy::AbortRest) && end.as_ref().is_some_and(|end| end.failed(shared, index)) {
            set(&mut failed, index, true);
        }
        set(&mut ends, index, end);
    }
}

fn set<T>(list: &mut [T], index: usize, value: T) {
    if let Some(slot) = list.get_mut(index) {
        *slot = value;
    }
}

impl PhaseEnd {
    fn skipped() -> Self {
        let now = Instant::now();
        Self {
            status: PhaseStatus::Skipped,
            started: now,
            deadline: now,
            took: Duration::ZERO,
            budget: Duration::ZERO,
            gates: Vec::new(),
            survivors: Vec::new(),
        }
    }

    fn failed(&self, shared: &Shared, index: usize) -> bool {
        let tasks = shared.phases.get(index).map(|phase| phase.tasks.records()).unwrap_or_default();
        let mut records = shared.hook_records(index).into_iter().chain(tasks);
        self.status != PhaseStatus::Completed || records.any(|record| !record.verdict(self.deadline).outcome.is_ok())
    }
}

/// Runs one phase. `None` when the shutdown was aborted before its start.
async fn run_phase(shared: &Arc<Shared>, run: &Arc<RunCx>, index: usize, phase: &Phase) -> Option<PhaseEnd> {
    let StartedPhase { run: phase_run, hooks, gates } = shared.start_phase(run, index)?;
    let budget = phase_run.deadline() - phase_run.started;
    let mut tasks = JoinSet::new();
    launch(&mut tasks, phase, run, &phase_run, hooks);

    let all_over = || phase_run.hooks.is_drained() && phase.tasks.is_drained() && gates.iter().all(Gate::is_drained);
    let in_time = tokio::select! {
        biased;
        () = run.abandon.cancelled() => false,
        _ = join(wait_until(&phase.drained, all_over), hold(run, phase, &phase_run)) => true,
        () = expiry(shared, run, index, phase, &phase_run) => all_over(),
    };
    // The runtime may have been blocked: what counts is the clock, not that we saw the end before the deadline.
    let overran = Instant::now().saturating_duration_since(phase_run.deadline());
    let mut survivors = Vec::new();
    let mut late_gates = Vec::new();
    if !in_time {
        survivors = shared.phase_blockers(index);
        late_gates = gates.iter().map(|gate| !gate.is_drained()).collect();
        report_survivors(phase, &survivors);
        phase_run.expiring.cancel();
        let grace = sleep_until(later(Instant::now(), shared.limits.grace));
        tokio::select! {
            biased;
            () = wait_until(&phase.drained, all_over) => {}
            () = grace => give_up(phase, &phase_run, run).await,
        }
    }
    let status = match () {
        () if in_time && overran.is_zero() => PhaseStatus::Completed,
        () if run.force.is_cancelled() => PhaseStatus::Forced,
        () => PhaseStatus::TimedOut,
    };
    shared.end_phase(run, index, status);
    let took = phase_run.started.elapsed();
    tracing::info!(phase = %phase.config.name, %status, ?took, "phase is over");
    let late = |index: usize| late_gates.get(index).copied().unwrap_or(false);
    let gates = gates.iter().enumerate().map(|(index, gate)| gate_end(gate, late(index), &phase_run)).collect();
    let (started, deadline) = (phase_run.started, phase_run.deadline());
    Some(PhaseEnd { status, started, took, budget, deadline, gates, survivors })
}

/// Starts the hooks: all at once, or one after the other, the last registered first.
fn launch(
    tasks: &mut JoinSet<()>,
    phase: &Phase,
    run: &Arc<RunCx>,
    phase_run: &Arc<PhaseRun>,
    hooks: Vec<crate::hook::HookSlot>,
) {
    let ready = hooks.into_iter().filter_map(|slot| {
        let guard = phase_run.hooks.enter().ok()?;
        Some(run_hook(slot, Arc::clone(run), Arc::clone(phase_run), guard))
    });
    if phase.config.sequential {
        let mut ready: Vec<_> = ready.collect();
        tasks.spawn(async move {
            while let Some(hook) = ready.pop() {
                hook.await;
            }
        });
    } else {
        for hook in ready {
            tasks.spawn(hook);
        }
    }
    phase_run.hooks.close();
}

/// Until the time a phase lasts at least is over, or the shutdown is forced.
async fn hold(run: &RunCx, phase: &Phase, phase_run: &PhaseRun) {
    if phase.config.hold.is_zero() {
        return;
    }
    tokio::select! {
        () = sleep_until(later(phase_run.started, phase.config.hold)) => {}
        () = run.force.cancelled() => {}
    }
}

/// Until the phase's deadline, which a forced shutdown moves to the end of its reserve.
async fn expiry(shared: &Shared, run: &Arc<RunCx>, index: usize, phase: &Phase, phase_run: &PhaseRun) {
    tokio::select! {
        biased;
        () = run.force.cancelled() => {
            let latest = later(Instant::now(), phase.config.reserve);
            shared.shorten_phase(run, index, phase_run, latest);
            sleep_until(phase_run.deadline()).await;
        }
        () = sleep_until(phase_run.deadline()) => {}
    }
}

fn report_survivors(phase: &Phase, survivors: &[Blocker]) {
    for blocker in survivors.iter().take(20) {
        tracing::warn!(%blocker, "left over at the deadline");
    }
    if survivors.len() > 20 {
        tracing::warn!(phase = %phase.config.name, count = survivors.len(), "more were left over at the deadline");
    }
}

/// Aborts what has not ended within the grace. What blocks its thread is left behind.
async fn give_up(phase: &Phase, phase_run: &PhaseRun, run: &RunCx) {
    phase_run.abort.cancel();
    // An aborted shutdown leaves tasks alone: their work goes on.
    if !run.abandon.is_cancelled() {
        phase.tasks.abort_all();
    }
    let aborted = || phase_run.hooks.is_drained() && phase.tasks.is_drained();
    tokio::select! {
        biased;
        () = wait_until(&phase.drained, aborted) => {}
        () = sleep_until(later(Instant::now(), ABORT_WAIT)) => {}
    }
}

fn gate_end(gate: &Gate, late: bool, phase_run: &PhaseRun) -> (String, Outcome, Duration) {
    let deadline = phase_run.deadline();
    let outcome = match (late, gate.is_drained()) {
        (false, _) => Outcome::Ok,
        (true, true) => Outcome::TimedOut { late_by: Some(deadline.elapsed()) },
        (true, false) => Outcome::TimedOut { late_by: None },
    };
    (gate.name().to_owned(), outcome, phase_run.started.elapsed())
}

fn phase_report(shared: &Shared, index: usize, phase: &Phase, run: &RunCx, end: Option<&PhaseEnd>) -> PhaseReport {
    let after = |moment: Instant| moment.saturating_duration_since(run.triggered);
    let skipped = PhaseEnd::skipped();
    let end = end.unwrap_or(&skipped);
    let records = shared.hook_records(index).into_iter().chain(phase.tasks.records());
    let works = records.map(|record| {
        let verdict = record.verdict(end.deadline);
        Entry {
            kind: record.kind,
            name: record.name.to_string(),
            started_after: verdict.since.map(after),
            took: verdict.took,
            outcome: verdict.outcome,
        }
    });
    let gates = end.gates.iter().map(|(name, outcome, took)| Entry {
        kind: WorkKind::Gate,
        name: name.clone(),
        started_after: Some(after(end.started)),
        took: *took,
        outcome: outcome.clone(),
    });
    PhaseReport {
        name: phase.config.name.to_string(),
        status: end.status,
        started_after: after(end.started),
        took: end.took,
        budget: end.budget,
        entries: works.chain(gates).collect(),
        survivors: end.survivors.clone(),
    }
}
