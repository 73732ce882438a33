//! What the coordinator, its handles and its threads share.
//!
//! One mutex guards the course of the shutdown. No code of the user runs while it is held. Locks are taken in this order:
//! the state, then a task table or a gate's names or a phase's deadline, then the progress channel.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    gate::{Gate, Name, wait_until},
    hook::{HookSlot, Work},
    phase::{self, CoordinatorId, Phase, PhaseId, PhaseRun},
    plan::{Plan, PlannedPhase, PlannedWork},
    progress::{Blocker, PhaseProgress, PhaseStage, Progress, RunStage},
    reason::{Reason, Trigger},
    record::{Record, WorkKind},
    report::{Note, PhaseStatus},
    signal::SignalRules,
    sync::{later, lock},
    task::{RejectCause, Rejected},
    watchdog::Alarm,
};

/// The shutdown is past the point where it could be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shutdown is past its point of no return")]
#[non_exhaustive]
pub struct PastPointOfNoReturn;

/// Limits of the whole shutdown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) deadline: Duration,
    pub(crate) grace: Duration,
    pub(crate) watchdog_margin: Option<Duration>,
}

pub(crate) struct Shared {
    pub(crate) id: CoordinatorId,
    pub(crate) phases: Vec<Phase>,
    pub(crate) limits: Limits,
    pub(crate) reloads: watch::Sender<u64>,
    /// Cancelled when nobody needs the coordinator any more.
    pub(crate) gone: CancellationToken,
    shutting_down: AtomicBool,
    state: Mutex<State>,
    triggered: Notify,
    progress: watch::Sender<Progress>,
    alarm: Option<Alarm>,
    /// What signals do; `None` where nobody listens to them.
    #[cfg_attr(not(feature = "testkit"), expect(dead_code, reason = "for the test kit"))]
    pub(crate) signals: Option<Arc<SignalRules>>,
}

/// One shutdown, from its trigger to its end or abort.
pub(crate) struct RunCx {
    pub(crate) reason: Reason,
    pub(crate) triggered: Instant,
    pub(crate) triggered_unix_ms: u64,
    pub(crate) deadline: Instant,
    pub(crate) force: CancellationToken,
    /// Why and when it was forced.
    pub(crate) forced_by: OnceLock<(Reason, Instant)>,
    /// Cancelled when the shutdown is aborted.
    pub(crate) abandon: CancellationToken,
    pub(crate) notes: Mutex<Vec<Note>>,
    /// Counts starts and ends, so that their order is known also where the clock stands still.
    pub(crate) steps: Arc<AtomicU64>,
}

struct State {
    run: Option<Arc<RunCx>>,
    /// Whether the coordinator or its run was dropped.
    abandoned: bool,
    past_no_return: bool,
    begun: CancellationToken,
    force: CancellationToken,
    phases: Vec<PhaseState>,
    last_hook_id: u64,
}

#[derive(Default)]
struct PhaseState {
    stage: Stage,
    token: CancellationToken,
    hooks: Vec<HookSlot>,
    gates: Vec<Gate>,
    /// Of every hook that was registered and not taken back.
    records: Vec<Arc<Record>>,
}

#[derive(Default)]
enum Stage {
    #[default]
    Waiting,
    Running(Arc<PhaseRun>),
    Over,
}

/// A phase that has just been started.
pub(crate) struct StartedPhase {
    pub(crate) run: Arc<PhaseRun>,
    pub(crate) hooks: Vec<HookSlot>,
    pub(crate) gates: Vec<Gate>,
}

impl Shared {
    pub(crate) fn new(
        id: CoordinatorId,
        phases: Vec<Phase>,
        limits: Limits,
        alarm: Option<Alarm>,
        signals: Option<Arc<SignalRules>>,
    ) -> Self {
        let waiting = |phase: &Phase| PhaseProgress { name: phase.config.name.to_string(), stage: PhaseStage::Waiting };
        let progress = Progress {
            stage: RunStage::Serving,
            reason: None,
            forced: false,
            past_no_return: false,
            deadline: None,
            phases: phases.iter().map(waiting).collect(),
        };
        let state = State {
            run: None,
            abandoned: false,
            past_no_return: false,
            begun: CancellationToken::new(),
            force: CancellationToken::new(),
            phases: phases.iter().map(|_| PhaseState::default()).collect(),
            last_hook_id: 0,
        };
        Self {
            id,
            phases,
            limits,
            reloads: watch::Sender::new(0),
            gone: CancellationToken::new(),
            shutting_down: AtomicBool::new(false),
            state: Mutex::new(state),
            triggered: Notify::new(),
            progress: watch::Sender::new(progress),
            alarm,
            signals,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Where the phase is in the lists; nowhere if it belongs to another coordinator.
    fn index(&self, phase: PhaseId) -> Option<usize> {
        if phase.of == self.id {
            return Some(phase.index);
        }
        tracing::error!(index = phase.index, "a phase of another coordinator was used");
        None
    }

    pub(crate) fn phase(&self, phase: PhaseId) -> Option<&Phase> {
        self.phases.get(self.index(phase)?)
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.state().abandoned
    }

    #[inline]
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Acquire)
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn begun(&self) -> CancellationToken {
        self.state().begun.clone()
    }

    pub(crate) fn force_token(&self) -> CancellationToken {
        self.state().force.clone()
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        self.state().run.as_ref().map(|run| run.reason.clone())
    }

    // --- the course of a shutdown ---

    pub(crate) fn trigger(&self, reason: Reason) -> Trigger {
        let mut state = self.state();
        if state.abandoned {
            return Trigger::Abandoned;
        }
        if let Some(run) = &state.run {
            return Trigger::AlreadyRunning(run.reason.clone());
        }
        tracing::info!(%reason, deadline = ?self.limits.deadline, "shutdown begins");
        let triggered = Instant::now();
        let run = Arc::new(RunCx {
            reason,
            triggered,
            triggered_unix_ms: unix_ms(),
            deadline: later(triggered, self.limits.deadline),
            force: state.force.clone(),
            forced_by: OnceLock::new(),
            abandon: CancellationToken::new(),
            notes: Mutex::default(),
            steps: Arc::default(),
        });
        if let (Some(alarm), Some(margin)) = (&self.alarm, self.limits.watchdog_margin) {
            alarm.arm(self.limits.deadline.saturating_add(margin));
        }
        self.progress.send_modify(|progress| {
            progress.stage = RunStage::ShuttingDown;
            progress.reason = Some(run.reason.clone());
            progress.deadline = Some(run.deadline);
        });
        state.run = Some(run);
        self.shutting_down.store(true, Ordering::Release);
        state.begun.cancel();
        self.triggered.notify_waiters();
        #[cfg(feature = "metrics")]
        if let Some(run) = state.run.clone() {
            drop(state);
            let unix = Duration::from_millis(run.triggered_unix_ms);
            crate::metrics::started(&run.reason, unix, self.limits.deadline);
        }
        Trigger::Started
    }

    /// Waits for the next trigger, or takes the one that has come. Cancel safe.
    pub(crate) async fn next_run(&self) -> Arc<RunCx> {
        let current = || self.state().run.clone();
        loop {
            wait_until(&self.triggered, || current().is_some()).await;
            // An abort may have come in between.
            if let Some(run) = current() {
                return run;
            }
        }
    }

    pub(crate) fn force(&self, reason: Reason) {
        if self.trigger(reason.clone()) == Trigger::Abandoned {
            return;
        }
        let state = self.state();
        let Some(run) = &state.run else { return };
        if run.forced_by.set((reason, Instant::now())).is_ok() {
            tracing::warn!(reason = ?run.forced_by.get().map(|(reason, _)| reason), "shutdown is forced");
            self.progress.send_modify(|progress| progress.forced = true);
            run.force.cancel();
            drop(state);
            #[cfg(feature = "metrics")]
            crate::metrics::forced();
        }
    }

    pub(crate) fn abort(&self) -> Result<(), PastPointOfNoReturn> {
        let mut state = self.state();
        if state.past_no_return {
            return Err(PastPointOfNoReturn);
        }
        let Some(run) = state.run.take() else { return Ok(()) };
        tracing::warn!(reason = %run.reason, "shutdown is aborted");
        state.begun = CancellationToken::new();
        state.force = CancellationToken::new();
        for (phase, live) in self.phases.iter().zip(&mut state.phases) {
            if !matches!(live.stage, Stage::Waiting) {
                live.stage = Stage::Waiting;
                live.token = CancellationToken::new();
                phase.tasks.reopen();
                live.gates.iter().for_each(Gate::reopen);
            }
        }
        run.abandon.cancel();
        if let Some(alarm) = &self.alarm {
            alarm.disarm();
        }
        self.shutting_down.store(false, Ordering::Release);
        self.progress.send_modify(|progress| {
            progress.stage = RunStage::Serving;
            progress.reason = None;
            progress.forced = false;
            progress.deadline = None;
            progress.phases.iter_mut().for_each(|phase| phase.stage = PhaseStage::Waiting);
        });
        drop(state);
        #[cfg(feature = "metrics")]
        crate::metrics::aborted();
        Ok(())
    }

    /// Ends the shutdown, unless it was aborted in the last moment.
    pub(crate) fn finish(&self, run: &Arc<RunCx>) -> bool {
        let mut state = self.state();
        if !state.is_current(run) {
            return false;
        }
        state.past_no_return = true;
        if let Some(alarm) = &self.alarm {
            alarm.disarm();
        }
        self.progress.send_modify(|progress| {
            progress.stage = RunStage::Over;
            progress.past_no_return = true;
        });
        true
    }

    pub(crate) fn abandon(&self) {
        self.state().abandoned = true;
        self.progress.send_modify(|progress| progress.stage = RunStage::Abandoned);
    }

    // --- the course of a phase ---

    /// Starts a phase: closes its gates, tells its tasks, takes its hooks. `None` once the shutdown was aborted.
    pub(crate) fn start_phase(&self, run: &Arc<RunCx>, index: usize) -> Option<StartedPhase> {
        let mut state = self.state();
        let phase = self.phases.get(index)?;
        if !state.is_current(run) {
            return None;
        }
        if phase.config.point_of_no_return {
            state.past_no_return = true;
            self.progress.send_modify(|progress| progress.past_no_return = true);
        }
        let live = state.phases.get_mut(index)?;
        let now = Instant::now();
        let deadline = phase.deadline(now, run.deadline, run.force.is_cancelled());
        let phase_run = Arc::new(PhaseRun::new(phase, now, deadline, self.limits.grace, &run.steps));
        tracing::info!(phase = %phase.config.name, budget = ?(deadline - now), "phase begins");
        live.stage = Stage::Running(Arc::clone(&phase_run));
        live.close(phase);
        self.set_stage(index, PhaseStage::Running { deadline });
        Some(StartedPhase { run: phase_run, hooks: std::mem::take(&mut live.hooks), gates: live.gates.clone() })
    }

    /// Passes over a phase: its gates close and its tasks are told, but no hook runs and nothing is waited for.
    pub(crate) fn skip_phase(&self, run: &Arc<RunCx>, index: usize) {
        let mut state = self.state();
        let (Some(phase), true) = (self.phases.get(index), state.is_current(run)) else { return };
        let Some(live) = state.phases.get_mut(index) else { return };
        live.close(phase);
        live.stage = Stage::Over;
        let hooks = std::mem::take(&mut live.hooks);
        self.set_stage(index, PhaseStage::Over(PhaseStatus::Skipped));
        drop(state);
        drop(hooks);
    }

    pub(crate) fn end_phase(&self, run: &Arc<RunCx>, index: usize, status: PhaseStatus) {
        let mut state = self.state();
        if state.is_current(run)
            && let Some(live) = state.phases.get_mut(index)
        {
            live.stage = Stage::Over;
            self.set_stage(index, PhaseStage::Over(status));
        }
    }

    /// Publishes a new deadline.
    pub(crate) fn shorten_phase(&self, run: &Arc<RunCx>, index: usize, phase_run: &PhaseRun, latest: Instant) {
        let state = self.state();
        phase_run.shorten(latest);
        if state.is_current(run) {
            self.set_stage(index, PhaseStage::Running { deadline: phase_run.deadline() });
        }
    }

    fn set_stage(&self, index: usize, stage: PhaseStage) {
        self.progress.send_modify(|progress| {
            if let Some(phase) = progress.phases.get_mut(index) {
                phase.stage = stage;
            }
        });
    }

    pub(crate) fn hook_records(&self, index: usize) -> Vec<Arc<Record>> {
        self.state().phases.get(index).map(|live| live.records.clone()).unwrap_or_default()
    }

    pub(crate) fn gates(&self, index: usize) -> Vec<Gate> {
        self.state().phases.get(index).map(|live| live.gates.clone()).unwrap_or_default()
    }

    // --- registration ---

    /// Registers a hook, or gives it back when the phase has started.
    pub(crate) fn add_hook<F>(
        &self,
        phase: PhaseId,
        name: Name,
        kind: WorkKind,
        hook: F,
        into_work: impl FnOnce(F) -> Work,
    ) -> Result<u64, Rejected<F>> {
        let mut state = self.state();
        let id = state.last_hook_id + 1;
        let live = match self.index(phase).and_then(|index| state.phases.get_mut(index)) {
            Some(live) if matches!(live.stage, Stage::Waiting) => live,
            Some(_) => return Err(Rejected::new(hook, RejectCause::PhaseStarted)),
            None => return Err(Rejected::new(hook, RejectCause::ForeignPhase)),
        };
        let record = Arc::new(Record::waiting(name, kind, id));
        live.records.push(Arc::clone(&record));
        live.hooks.push(HookSlot { id, record, work: into_work(hook) });
        state.last_hook_id = id;
        Ok(id)
    }

    pub(crate) fn remove_hook(&self, phase: PhaseId, id: u64) -> bool {
        let mut state = self.state();
        let Some(live) = self.index(phase).and_then(|index| state.phases.get_mut(index)) else { return false };
        let Some(position) = live.hooks.iter().position(|slot| slot.id == id) else { return false };
        let slot = live.hooks.remove(position);
        live.records.retain(|record| !Arc::ptr_eq(record, &slot.record));
        drop(state);
        drop(slot);
        true
    }

    /// A gate of the phase; a closed one when the phase has started.
    pub(crate) fn add_gate(&self, phase: PhaseId, name: Name) -> Gate {
        let drained = self.phase(phase).map(|phase| Arc::clone(&phase.drained)).unwrap_or_default();
        let gate = Gate::new(name, drained);
        let mut state = self.state();
        match self.index(phase).and_then(|index| state.phases.get_mut(index)) {
            Some(live) if matches!(live.stage, Stage::Waiting) => {
                // So that gates which come and go do not pile up; as dear as pushing, over all calls.
                if live.gates.len() == live.gates.capacity() {
                    live.gates.retain(|gate| !gate.is_orphan(1));
                }
                live.gates.push(gate.clone());
            }
            _ => gate.close(),
        }
        gate
    }

    pub(crate) fn token(&self, phase: PhaseId) -> CancellationToken {
        let index = self.index(phase);
        let state = self.state();
        index.and_then(|index| state.phases.get(index)).map_or_else(cancelled_token, |live| live.token.clone())
    }

    // --- looking ---

    pub(crate) fn running(&self, phase: PhaseId) -> Option<Arc<PhaseRun>> {
        self.running_at(self.index(phase)?)
    }

    fn running_at(&self, index: usize) -> Option<Arc<PhaseRun>> {
        match &self.state().phases.get(index)?.stage {
            Stage::Running(run) => Some(Arc::clone(run)),
            Stage::Waiting | Stage::Over => None,
        }
    }

    pub(crate) fn blockers(&self) -> Vec<Blocker> {
        (0..self.phases.len()).flat_map(|index| self.phase_blockers(index)).collect()
    }

    /// What the phase waits for, if it is running.
    pub(crate) fn phase_blockers(&self, index: usize) -> Vec<Blocker> {
        let (Some(phase), Some(run)) = (self.phases.get(index), self.running_at(index)) else {
            return Vec::new();
        };
        let now = Instant::now();
        let blocker = |kind, gate: Option<&str>, name: String, count, since| Blocker {
            phase: phase.config.name.to_string(),
            kind,
            gate: gate.map(str::to_owned),
            name,
            count,
            age: now.saturating_duration_since(since),
        };
        let records = self.hook_records(index).into_iter().chain(phase.tasks.records());
        let mut blockers: Vec<_> = records
            .filter_map(|record| Some((record.running_since()?, record)))
            .map(|(since, record)| blocker(record.kind, None, record.name.to_string(), 1, since))
            .collect();
        for gate in self.gates(index) {
            let held = gate.held();
            let named = gate.held_by_name();
            let nameless = held.saturating_sub(named.len());
            blockers.extend(
                named
                    .iter()
                    .map(|guard| blocker(WorkKind::Gate, Some(gate.name()), guard.label.to_string(), 1, guard.since)),
            );
            if nameless > 0 {
                let name = gate.name();
                blockers.push(blocker(WorkKind::Gate, Some(name), name.to_owned(), nameless, run.started));
            }
        }
        blockers
    }

    pub(crate) fn plan(&self) -> Plan {
        let state = self.state();
        let phases = self.phases.iter().zip(&state.phases).map(|(phase, live)| self.planned(phase, live)).collect();
        Plan {
            deadline: self.limits.deadline,
            grace: self.limits.grace,
            overrun: phase::overrun(&self.phases, self.limits.grace),
            watchdog_margin: self.limits.watchdog_margin,
            phases,
        }
    }

    /// The names of these phases.
    pub(crate) fn names(&self, indices: &[usize]) -> Vec<String> {
        indices.iter().filter_map(|&index| self.phases.get(index)).map(|phase| phase.config.name.to_string()).collect()
    }

    fn planned(&self, phase: &Phase, live: &PhaseState) -> PlannedPhase {
        let config = &phase.config;
        let hooks =
            live.hooks.iter().map(|slot| PlannedWork { kind: slot.record.kind, name: slot.record.name.to_string() });
        let gates = live.gates.iter().map(|gate| PlannedWork { kind: WorkKind::Gate, name: gate.name().to_owned() });
        PlannedPhase {
            name: config.name.to_string(),
            after: self.names(&config.after),
            timeout: config.timeout,
            reserve: config.reserve,
            hold: config.hold,
            latest_end: self.limits.deadline.saturating_sub(phase.owed),
            sequential: config.sequential,
            point_of_no_return: config.point_of_no_return,
            on_failure: config.on_failure,
            work: hooks.chain(gates).collect(),
            tasks: phase.tasks.len(),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.gone.cancel();
        if let Some(alarm) = &self.alarm {
            alarm.quit();
        }
    }
}

impl State {
    fn is_current(&self, run: &Arc<RunCx>) -> bool {
        self.run.as_ref().is_some_and(|current| Arc::ptr_eq(current, run))
    }
}

impl PhaseState {
    fn close(&self, phase: &Phase) {
        self.gates.iter().for_each(Gate::close);
        phase.tasks.close();
        self.token.cancel();
    }
}

fn cancelled_token() -> CancellationToken {
    let token = CancellationToken::new();
    token.cancel();
    token
}

#[expect(clippy::disallowed_methods, reason = "the report says when it happened; nothing is decided by it")]
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("shutting_down", &self.is_shutting_down()).finish_non_exhaustive()
    }
}
