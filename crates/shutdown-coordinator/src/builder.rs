//! Describing a shutdown: phases, deadline, watchdog, signals.

use std::{borrow::Cow, collections::BTreeMap, io, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    handle::ShutdownHandle,
    phase::{self, CoordinatorId, FailurePolicy, PhaseConfig, PhaseId},
    run::ShutdownCoordinator,
    shared::{Limits, Shared},
    signal::{self, SignalPolicy, SignalRules},
    watchdog,
};

/// The whole shutdown must be over after this long, unless the builder is told otherwise.
///
/// Kubernetes kills a pod after 30 s unless it is told otherwise, too: set a lower deadline, or grant the pod more.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(25);

/// How long a hook that was told of its expiry may take to end by itself, unless the builder is told otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_millis(100);

/// Why a shutdown could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A phase has no name.
    #[error("a phase has no name")]
    NamelessPhase,
    /// Two phases have the same name.
    #[error("two phases are called {0:?}")]
    DuplicatePhase(String),
    /// The reserves on one path cannot all be kept.
    #[error("the reserves of {} add up to {reserves:?}, above the deadline of {deadline:?}", path.join(" -> "))]
    ReservesAboveDeadline {
        /// The phases with a reserve on that path, in order.
        path: Vec<String>,
        /// The sum of their reserves.
        reserves: Duration,
        /// The deadline of the whole shutdown.
        deadline: Duration,
    },
    /// The watchdog would end a shutdown that keeps to its rules.
    #[error(
        "the watchdog's margin of {margin:?} is below the {overrun:?} by which graces can add up: raise the margin, or \
         lower the grace"
    )]
    WatchdogTooSoon {
        /// What was given.
        margin: Duration,
        /// The least that is accepted, see [`Plan::overrun`](crate::Plan::overrun).
        overrun: Duration,
    },
    /// A phase comes after one that does not exist.
    #[error("phase {phase:?} comes after {unknown:?}, which does not exist")]
    UnknownPhase {
        /// The phase with the faulty setting.
        phase: String,
        /// The name nobody has.
        unknown: String,
    },
    /// A phase comes after one of another coordinator.
    #[error("phase {phase:?} comes after a phase of another coordinator")]
    ForeignPhase {
        /// The phase with the faulty setting.
        phase: String,
    },
    /// Phases wait for each other.
    #[error("phases wait for each other: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
    /// A signal handler could not be installed.
    #[error("signal handlers could not be installed")]
    Signals(#[source] io::Error),
    /// The watchdog's thread could not be started.
    #[error("the watchdog could not be started")]
    Watchdog(#[source] io::Error),
}

/// One phase as a configuration file gives it. All times are in milliseconds.
///
/// In code, fill in the rest from the default, so that a field that comes later changes nothing:
///
/// ```
/// # use shutdown_coordinator::{Builder, PhaseSpec};
/// let drain = PhaseSpec { name: "drain".into(), timeout_ms: Some(10_000), ..PhaseSpec::default() };
/// let save = PhaseSpec { name: "save".into(), after: vec!["drain".into()], reserve_ms: 2_000, ..PhaseSpec::default() };
/// let (_coordinator, handle) = Builder::from_specs([save, drain])?.build()?;
/// assert!(handle.phase("save").is_some());
/// # Ok::<(), shutdown_coordinator::BuildError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PhaseSpec {
    /// Its name, unique in the graph.
    pub name: String,
    /// The names of the phases that must be over before it starts.
    pub after: Vec<String>,
    /// See [`PhaseBuilder::timeout`].
    pub timeout_ms: Option<u64>,
    /// See [`PhaseBuilder::reserve`].
    pub reserve_ms: u64,
    /// See [`PhaseBuilder::hold`].
    pub hold_ms: u64,
    /// See [`PhaseBuilder::sequential`].
    pub sequential: bool,
    /// See [`PhaseBuilder::point_of_no_return`].
    pub point_of_no_return: bool,
    /// See [`PhaseBuilder::on_failure`].
    pub on_failure: FailurePolicy,
}

/// Describes a shutdown. Made by [`ShutdownCoordinator::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    id: CoordinatorId,
    phases: Vec<PhaseConfig>,
    limits: Limits,
    signals: Option<SignalPolicy>,
    /// Off where a test simulates the signals.
    install_handlers: bool,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let limits = Limits { deadline: DEFAULT_DEADLINE, grace: DEFAULT_GRACE, watchdog_margin: None };
        Self { id: CoordinatorId::new(), phases: Vec::new(), limits, signals: None, install_handlers: true }
    }

    /// A builder with the phases of a configuration file, which may come in any order.
    ///
    /// Fails with [`BuildError::DuplicatePhase`], [`BuildError::UnknownPhase`] or [`BuildError::Cycle`].
    pub fn from_specs(specs: impl IntoIterator<Item = PhaseSpec>) -> Result<Self, BuildError> {
        let mut builder = Self::new();
        builder.phases = in_order(specs.into_iter().collect())?;
        Ok(builder)
    }

    /// Adds a phase. End the chain with [`PhaseBuilder::id`] to name the phase elsewhere.
    pub fn phase(&mut self, name: impl Into<Cow<'static, str>>) -> PhaseBuilder<'_> {
        let id = PhaseId { of: self.id, index: self.phases.len() };
        self.phases.push(PhaseConfig::new(name.into()));
        PhaseBuilder { builder: self, id }
    }

    /// When the whole shutdown must be over, counted from the trigger.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.limits.deadline = deadline;
        self
    }

    /// How long hooks and tasks that were told of their expiry may take to end before they are aborted.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.limits.grace = grace;
        self
    }

    /// Ends the process with [`EXIT_WATCHDOG`](crate::EXIT_WATCHDOG) when the shutdown is not over this long after its
    /// deadline, even when every thread of the runtime is blocked. Without this call there is no watchdog.
    ///
    /// Each phase on a path may overrun by its grace, so the margin has a least value,
    /// [`Plan::overrun`](crate::Plan::overrun); a smaller one fails the build.
    pub fn watchdog(mut self, margin: Duration) -> Self {
        self.limits.watchdog_margin = Some(margin);
        self
    }

    /// Listens to signals. Without this call no signal handler is installed.
    pub fn signals(mut self, policy: SignalPolicy) -> Self {
        self.signals = Some(policy);
        self
    }

    /// Keeps the policy of [`Builder::signals`] and installs no handler: signals come from
    /// [`testkit::Drill::signal`](crate::testkit::Drill::signal) only, and Ctrl-C still ends the test run.
    #[cfg(feature = "testkit")]
    pub fn simulated_signals(mut self) -> Self {
        self.install_handlers = false;
        self
    }

    /// Checks the description, installs the signal handlers and starts the watchdog's thread.
    ///
    /// Signals are safe from here on: they are kept until [`ShutdownCoordinator::run`]. No runtime is needed.
    pub fn build(self) -> Result<(ShutdownCoordinator, ShutdownHandle), BuildError> {
        let phases = phase::prepare(self.phases, self.limits.deadline)?;
        let overrun = phase::overrun(&phases, self.limits.grace);
        if let Some(margin) = self.limits.watchdog_margin.filter(|margin| *margin < overrun) {
            return Err(BuildError::WatchdogTooSoon { margin, overrun });
        }
        #[cfg(feature = "metrics")]
        crate::metrics::describe();
        let alarm = self.limits.watchdog_margin.map(|_| watchdog::Alarm::default());
        let rules = self.signals.map(|policy| Arc::new(SignalRules::new(policy)));
        let shared = Arc::new(Shared::new(self.id, phases, self.limits, alarm.clone(), rules.clone()));
        if let Some(alarm) = alarm {
            watchdog::start(alarm, Arc::downgrade(&shared)).map_err(BuildError::Watchdog)?;
        }
        if let Some(rules) = rules.filter(|_| self.install_handlers) {
            signal::install(rules, &shared).map_err(BuildError::Signals)?;
        }
        Ok((ShutdownCoordinator::new(Arc::clone(&shared)), ShutdownHandle::new(shared)))
    }
}

/// Settings of one phase. The phase exists already; the methods change it, and their result may be dropped.
#[derive(Debug)]
pub struct PhaseBuilder<'a> {
    builder: &'a mut Builder,
    id: PhaseId,
}

#[expect(clippy::return_self_not_must_use, reason = "each method has changed the phase already")]
impl PhaseBuilder<'_> {
    fn set(self, change: impl FnOnce(&mut PhaseConfig)) -> Self {
        if let Some(config) = self.builder.phases.get_mut(self.id.index) {
            change(config);
        }
        self
    }

    /// The phase starts when all of these are over. Ids exist only for earlier phases, so no cycle can be written; one of
    /// another coordinator fails the build.
    pub fn after(self, phases: &[PhaseId]) -> Self {
        let own = self.id.of;
        self.set(|config| {
            config.after.extend(phases.iter().filter(|id| id.of == own).map(|id| id.index));
            config.after_foreign |= phases.iter().any(|id| id.of != own);
        })
    }

    /// The phase ends at the latest this long after its start. Zero means that its hooks are polled once.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.timeout = Some(timeout))
    }

    /// Keeps this much time for the phase, whatever happens before it, a forced shutdown included.
    pub fn reserve(self, reserve: Duration) -> Self {
        self.set(|config| config.reserve = reserve)
    }

    /// The phase lasts at least this long, within its deadline, unless the shutdown is forced.
    pub fn hold(self, hold: Duration) -> Self {
        self.set(|config| config.hold = hold)
    }

    /// Hooks run one after the other, the last registered first, instead of all at once.
    pub fn sequential(self) -> Self {
        self.set(|config| config.sequential = true)
    }

    /// Once this phase has started, the shutdown can no longer be aborted.
    pub fn point_of_no_return(self) -> Self {
        self.set(|config| config.point_of_no_return = true)
    }

    /// What follows when something in this phase fails, panics or is late.
    pub fn on_failure(self, policy: FailurePolicy) -> Self {
        self.set(|config| config.on_failure = policy)
    }

    /// The phase's id.
    pub fn id(self) -> PhaseId {
        self.id
    }
}

/// Sorts specs so that each comes after those it waits for, otherwise keeping their order.
fn in_order(specs: Vec<PhaseSpec>) -> Result<Vec<PhaseConfig>, BuildError> {
    let mut names = BTreeMap::new();
    for spec in &specs {
        if names.insert(spec.name.clone(), None).is_some() {
            return Err(BuildError::DuplicatePhase(spec.name.clone()));
        }
    }
    for spec in &specs {
        if let Some(unknown) = spec.after.iter().find(|name| !names.contains_key(*name)) {
            return Err(BuildError::UnknownPhase { phase: spec.name.clone(), unknown: unknown.clone() });
        }
    }
    let mut placed: BTreeMap<String, Option<usize>> = names;
    let mut waiting = specs;
    let mut configs = Vec::new();
    while !waiting.is_empty() {
        let ready =
            waiting.iter().position(|spec| spec.after.iter().all(|name| placed.get(name).is_some_and(Option::is_some)));
        let Some(ready) = ready else { return Err(BuildError::Cycle(find_cycle(&waiting))) };
        let spec = waiting.remove(ready);
        let after = spec.after.iter().filter_map(|name| placed.get(name).copied().flatten()).collect();
        placed.insert(spec.name.clone(), Some(configs.len()));
        configs.push(PhaseConfig {
            name: spec.name.into(),
            after,
            after_foreign: false,
            timeout: spec.timeout_ms.map(Duration::from_millis),
            reserve: Duration::from_millis(spec.reserve_ms),
            hold: Duration::from_millis(spec.hold_ms),
            sequential: spec.sequential,
            point_of_no_return: spec.point_of_no_return,
            on_failure: spec.on_failure,
        });
    }
    Ok(configs)
}

/// Among specs that all wait for another of them, walking from one to its predecessor must come round.
fn find_cycle(stuck: &[PhaseSpec]) -> Vec<String> {
    let mut path: Vec<String> = Vec::new();
    let mut current = stuck.first();
    while let Some(spec) = current {
        if let Some(start) = path.iter().position(|name| *name == spec.name) {
            path.drain(..start);
            break;
        }
        path.push(spec.name.clone());
        current = spec.after.iter().find_map(|name| stuck.iter().find(|other| other.name == *name));
    }
    // Walked against the order; shown along it, and closed.
    path.reverse();
    path.extend(path.first().cloned());
    path
}
