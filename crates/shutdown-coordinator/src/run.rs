//! Running a shutdown.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

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
    record::{Outcome, Record, Steps, Verdict, WorkKind},
    report::{Entry, PhaseReport, PhaseStatus, Report, Version},
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
        let forced = run.forced_by.get();
        let report = Report {
            version: Version,
            reason: run.reason.clone(),
            forced_by: forced.map(|(reason, _)| reason.clone()),
            forced_after: forced.map(|(_, moment)| moment.saturating_duration_since(run.triggered)),
            started_unix_ms: run.triggered_unix_ms,
            deadline: self.shared.limits.deadline,
            took: run.triggered.elapsed(),
            phases: phases
                .map(|(index, (phase, end))| phase_report(&self.shared, index, phase, run, end.as_ref()))
                .collect(),
            notes: lock(&run.notes).clone(),
        };
        #[cfg(feature = "metrics")]
        crate::metrics::over(&report);
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
    steps: Steps,
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
            steps: Steps::default(),
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

    // The last guard of each gate wakes this phase, so that the end of each is seen when it comes.
    let gate_ends: Vec<_> = gates.iter().map(|_| OnceLock::new()).collect();
    let see_ends = || gates.iter().zip(&gate_ends).filter(|(gate, end)| has_ended(gate, end)).count() == gates.len();
    let all_over = || see_ends() && phase_run.hooks.is_drained() && phase.tasks.is_drained();
    let in_time = tokio::select! {
        biased;
        () = run.abandon.cancelled() => false,
        _ = join(wait_until(&phase.drained, all_over), hold(run, phase, &phase_run)) => true,
        () = expiry(shared, run, index, phase, &phase_run) => {
            if phase_run.has_no_time() {
                first_polls(phase, &phase_run).await;
            }
            all_over()
        }
    };
    // The runtime may have been blocked: what counts is the clock, not that we saw the end before the deadline.
    let late = phase_run.late_by(Instant::now(), true).is_some();
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
        () if in_time && !late => PhaseStatus::Completed,
        () if run.force.is_cancelled() => PhaseStatus::Forced,
        () => PhaseStatus::TimedOut,
    };
    shared.end_phase(run, index, status);
    let took = phase_run.started.elapsed();
    tracing::info!(phase = %phase.config.name, %status, ?took, "phase is over");
    let late_gate = |index: usize| late_gates.get(index).copied().unwrap_or(false);
    see_ends();
    let ends = gate_ends.iter().map(|end| end.get().copied());
    let gates = gates.iter().zip(ends).enumerate();
    let gates = gates.map(|(index, (gate, end))| gate_end(gate, end, late_gate(index), &phase_run));
    let gates: Vec<_> = gates.collect();
    #[cfg(feature = "metrics")]
    if !run.abandon.is_cancelled() {
        let mut counts = crate::metrics::Counts::default();
        let deadline = phase_run.deadline();
        let mut count = |record: &Record| counts.add(record.kind, &record.verdict(deadline).outcome);
        for record in shared.hook_records(index) {
            count(&record);
        }
        phase.tasks.for_each(count);
        for (_, outcome, _) in &gates {
            counts.add(WorkKind::Gate, outcome);
        }
        counts.publish(&phase.config.name, status, took);
    }
    let (started, deadline) = (phase_run.started, phase_run.deadline());
    let steps = Steps { first: Some(phase_run.first_step), last: Some(phase_run.step()) };
    Some(PhaseEnd { status, started, took, budget, deadline, gates, survivors, steps })
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
        let (guard, unpolled) = (phase_run.hooks.enter().ok()?, phase_run.unpolled.enter().ok()?);
        Some(run_hook(slot, Arc::clone(run), Arc::clone(phase_run), guard, unpolled))
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
    phase_run.unpolled.close();
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

/// Without any time, hooks are polled once all the same: until they have been, which a blocked thread may keep from being.
async fn first_polls(phase: &Phase, phase_run: &PhaseRun) {
    tokio::select! {
        biased;
        () = wait_until(&phase.drained, || phase_run.unpolled.is_drained()) => {}
        () = sleep_until(later(Instant::now(), ABORT_WAIT)) => {}
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

/// Whether the gate is drained, of which the first moment is kept.
fn has_ended(gate: &Gate, end: &OnceLock<Instant>) -> bool {
    let drained = gate.is_drained();
    if drained {
        end.get_or_init(Instant::now);
    }
    drained
}

/// When it ended, if it did.
fn ended(verdict: &Verdict) -> Option<Instant> {
    let over = verdict.outcome != Outcome::Leaked;
    verdict.since.filter(|_| over).map(|since| since + verdict.took)
}

fn gate_end(gate: &Gate, end: Option<Instant>, late: bool, phase_run: &PhaseRun) -> (String, Outcome, Duration) {
    let outcome = match (late, end) {
        (false, _) => Outcome::Ok,
        (true, end) => {
            Outcome::TimedOut { late_by: end.map(|end| end.saturating_duration_since(phase_run.deadline())) }
        }
    };
    let took = end.unwrap_or_else(Instant::now).saturating_duration_since(phase_run.started);
    (gate.name().to_owned(), outcome, took)
}

fn phase_report(shared: &Shared, index: usize, phase: &Phase, run: &RunCx, end: Option<&PhaseEnd>) -> PhaseReport {
    let after = |moment: Instant| moment.saturating_duration_since(run.triggered);
    let skipped = PhaseEnd::skipped();
    let end = end.unwrap_or(&skipped);
    let entry = |record: &Record| {
        let verdict = record.verdict(end.deadline);
        Entry {
            kind: record.kind,
            name: record.name.to_string(),
            started_after: verdict.since.map(after),
            ended_after: ended(&verdict).map(after),
            took: verdict.took,
            outcome: verdict.outcome,
            steps: verdict.steps,
        }
    };
    let mut tasks = Vec::with_capacity(phase.tasks.len());
    phase.tasks.for_each(|record| tasks.push((record.number, entry(record))));
    // Each of the lists is nearly in order.
    tasks.sort_by_key(|(number, _)| *number);
    let hooks = shared.hook_records(index);
    let works = hooks.iter().map(|record| entry(record)).chain(tasks.into_iter().map(|(_, entry)| entry));
    let gates = end.gates.iter().map(|(name, outcome, took)| Entry {
        kind: WorkKind::Gate,
        name: name.clone(),
        started_after: Some(after(end.started)),
        ended_after: (*outcome != Outcome::TimedOut { late_by: None }).then(|| after(end.started + *took)),
        took: *took,
        outcome: outcome.clone(),
        steps: end.steps,
    });
    PhaseReport {
        name: phase.config.name.to_string(),
        after: shared.names(&phase.config.after),
        status: end.status,
        started_after: after(end.started),
        took: end.took,
        budget: end.budget,
        reserve: phase.config.reserve,
        hold: phase.config.hold,
        entries: works.chain(gates).collect(),
        survivors: end.survivors.clone(),
        steps: end.steps,
    }
}
