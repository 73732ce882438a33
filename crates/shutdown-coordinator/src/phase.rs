//! Phases: their settings, their order, and the time they owe each other.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    builder::BuildError,
    gate::{Gate, Name},
    run::ABORT_WAIT,
    sync::{later, lock},
    task::TaskTable,
};

/// A phase of one coordinator; every other coordinator refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PhaseId {
    pub(crate) of: CoordinatorId,
    pub(crate) index: usize,
}

/// Tells the ids of one coordinator from those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CoordinatorId(u64);

impl CoordinatorId {
    /// Unlike all others, as far as 64 bits go: the standard library seeds each of its hashers differently.
    pub(crate) fn new() -> Self {
        Self(RandomState::new().hash_one(()))
    }
}

/// What follows when something in a phase fails, panics or is late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailurePolicy {
    /// The next phases run all the same.
    #[default]
    Continue,
    /// Phases that come after this one are skipped, except those with a reserve. Other branches are not concerned.
    AbortRest,
}

/// The settings of one phase. `after` holds indices below its own, so the order of the list is a valid order.
#[derive(Clone, Debug)]
pub(crate) struct PhaseConfig {
    pub(crate) name: Name,
    pub(crate) after: Vec<usize>,
    /// Whether it was said to come after a phase of another coordinator.
    pub(crate) after_foreign: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) reserve: Duration,
    pub(crate) hold: Duration,
    pub(crate) sequential: bool,
    pub(crate) point_of_no_return: bool,
    pub(crate) on_failure: FailurePolicy,
}

impl PhaseConfig {
    pub(crate) fn new(name: Name) -> Self {
        Self {
            name,
            after: Vec::new(),
            after_foreign: false,
            timeout: None,
            reserve: Duration::ZERO,
            hold: Duration::ZERO,
            sequential: false,
            point_of_no_return: false,
            on_failure: FailurePolicy::Continue,
        }
    }
}

/// A phase as the coordinator keeps it for its whole life.
pub(crate) struct Phase {
    pub(crate) config: PhaseConfig,
    /// The reserves still to be spent after this phase, on the longest path.
    pub(crate) owed: Duration,
    /// Notified when something this phase waits for may have ended.
    pub(crate) drained: Arc<Notify>,
    pub(crate) tasks: Arc<TaskTable>,
}

impl Phase {
    fn new(config: PhaseConfig, owed: Duration) -> Self {
        let drained = Arc::new(Notify::new());
        let tasks = Arc::new(TaskTable::new(Arc::clone(&drained)));
        Self { config, owed, drained, tasks }
    }

    /// When a phase that starts now must end: at its own timeout, or when the reserves owed downstream begin, whichever
    /// comes first; but never before its own reserve is spent. A forced shutdown leaves the reserve alone.
    pub(crate) fn deadline(&self, start: Instant, global: Instant, forced: bool) -> Instant {
        let floor = later(start, self.config.reserve);
        if forced {
            return floor;
        }
        let latest = global.checked_sub(self.owed).unwrap_or(start);
        let own = self.config.timeout.map(|timeout| later(start, timeout));
        own.map_or(latest, |own| own.min(latest)).max(floor)
    }
}

/// A phase during one run.
pub(crate) struct PhaseRun {
    pub(crate) name: Name,
    pub(crate) started: Instant,
    deadline: std::sync::Mutex<Instant>,
    grace: Duration,
    /// Cancelled at the deadline.
    pub(crate) expiring: CancellationToken,
    /// Cancelled when the grace after the deadline is over.
    pub(crate) abort: CancellationToken,
    /// One guard per hook that runs.
    pub(crate) hooks: Gate,
    /// One guard per hook that has not been polled.
    pub(crate) unpolled: Gate,
    /// Which step of the run its start was.
    pub(crate) first_step: u64,
    steps: Arc<AtomicU64>,
}

impl PhaseRun {
    pub(crate) fn new(
        phase: &Phase,
        started: Instant,
        deadline: Instant,
        grace: Duration,
        steps: &Arc<AtomicU64>,
    ) -> Self {
        Self {
            name: phase.config.name.clone(),
            started,
            deadline: std::sync::Mutex::new(deadline),
            grace,
            expiring: CancellationToken::new(),
            abort: CancellationToken::new(),
            hooks: Gate::single(Name::Borrowed("hooks"), Arc::clone(&phase.drained)),
            unpolled: Gate::single(Name::Borrowed("unpolled"), Arc::clone(&phase.drained)),
            first_step: next_step(steps),
            steps: Arc::clone(steps),
        }
    }

    /// Counts a start or an end.
    pub(crate) fn step(&self) -> u64 {
        next_step(&self.steps)
    }

    pub(crate) fn deadline(&self) -> Instant {
        *lock(&self.deadline)
    }

    pub(crate) fn has_no_time(&self) -> bool {
        self.deadline() <= self.started
    }

    /// By how much a hook that ends now is late. Told of its expiry it is late, even where paused time stands still. Where
    /// there was no time at all hooks are polled once, and what ends by that is in time.
    pub(crate) fn late_by(&self, now: Instant, in_first_poll: bool) -> Option<Duration> {
        let deadline = self.deadline();
        if in_first_poll && self.has_no_time() && now <= later(self.started, self.grace + ABORT_WAIT) {
            return None;
        }
        let late = now > deadline || (now == deadline && self.expiring.is_cancelled());
        late.then(|| now - deadline)
    }

    pub(crate) fn shorten(&self, latest: Instant) {
        let mut deadline = lock(&self.deadline);
        *deadline = (*deadline).min(latest);
    }
}

/// Checks the settings and works out what each phase owes.
pub(crate) fn prepare(configs: Vec<PhaseConfig>, deadline: Duration) -> Result<Vec<Phase>, BuildError> {
    for (index, config) in configs.iter().enumerate() {
        if configs.iter().take(index).any(|other| other.name == config.name) {
            return Err(BuildError::DuplicatePhase(config.name.to_string()));
        }
        if config.name.is_empty() {
            return Err(BuildError::NamelessPhase);
        }
        if config.after_foreign {
            return Err(BuildError::ForeignPhase { phase: config.name.to_string() });
        }
    }
    let paths = longest_paths(&configs);
    if let Some(path) = paths.iter().max_by_key(|path| path.from_here)
        && path.from_here > deadline
    {
        let names = path.names.iter().map(ToString::to_string).collect();
        return Err(BuildError::ReservesAboveDeadline { path: names, reserves: path.from_here, deadline });
    }
    Ok(configs.into_iter().zip(paths).map(|(config, path)| Phase::new(config, path.owed)).collect())
}

/// How much longer than its deadline a shutdown can take: each phase of the longest path may use its grace, and then the time
/// in which what was aborted goes.
pub(crate) fn overrun(phases: &[Phase], grace: Duration) -> Duration {
    let mut lengths: Vec<u32> = Vec::new();
    for phase in phases {
        let before = phase.config.after.iter().filter_map(|index| lengths.get(*index)).max();
        lengths.push(before.map_or(1, |length| length + 1));
    }
    (grace + ABORT_WAIT).saturating_mul(lengths.into_iter().max().unwrap_or(0))
}

/// For one phase, the path after it with the largest sum of reserves.
#[derive(Clone, Default)]
struct Path {
    /// Reserves of the phases on the path that have one, without this phase's own.
    owed: Duration,
    /// With this phase's own.
    from_here: Duration,
    /// This phase and those after it that have a reserve.
    names: Vec<Name>,
}

fn longest_paths(configs: &[PhaseConfig]) -> Vec<Path> {
    let mut paths: Vec<Path> = Vec::new();
    paths.resize_with(configs.len(), Path::default);
    // Backwards: whoever comes after a phase has its path already.
    for (index, config) in configs.iter().enumerate().rev() {
        let next = configs
            .iter()
            .zip(&paths)
            .filter(|(later, _)| later.after.contains(&index))
            .map(|(_, path)| path)
            .max_by_key(|path| path.from_here)
            .cloned()
            .unwrap_or_default();
        let mut names = next.names;
        if !config.reserve.is_zero() {
            names.insert(0, config.name.clone());
        }
        if let Some(path) = paths.get_mut(index) {
            *path = Path { owed: next.from_here, from_here: next.from_here.saturating_add(config.reserve), names };
        }
    }
    paths
}

fn next_step(steps: &AtomicU64) -> u64 {
    steps.fetch_add(1, Ordering::SeqCst) + 1
}
