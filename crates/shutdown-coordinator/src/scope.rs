//! Scopes: groups of tasks within a phase that can be stopped on their own.
//!
//! A scope's tasks are tasks of its phase, under names like `pool/worker 1`, so the phase tells them, waits for them, aborts
//! them and reports them as any other. What a scope adds is a token and a count of its own.

use std::{
    borrow::Cow,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    gate::{Gate, Guard, Name, wait_until},
    hook::{HookContext, HookOutput, Registration, Work},
    phase::PhaseId,
    reason::Reason,
    record::WorkKind,
    run::ABORT_WAIT,
    shared::Shared,
    sync::{later, lock, panic_message},
    task::{RejectCause, Rejected, Task},
};

/// How long the tasks of a scope may take to stop, unless its builder is told otherwise.
pub const DEFAULT_SCOPE_TIMEOUT: Duration = Duration::from_secs(10);

/// What follows when a task of a scope fails or panics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Escalation {
    /// Nothing but a line in the log, and in the [`ScopeEnd`]: the others go on.
    #[default]
    Continue,
    /// The scope stops.
    StopScope,
    /// The scope stops, and its parent treats that as a failure of its own. Outside of the outermost scope that is a
    /// shutdown, with [`Reason::Error`].
    Escalate,
}

/// Describes a scope. Made by [`ShutdownHandle::scope`](crate::ShutdownHandle::scope) and [`Scope::scope`].
#[derive(Debug)]
#[must_use = "a scope exists once it is opened"]
pub struct ScopeBuilder {
    shared: Arc<Shared>,
    phase: PhaseId,
    name: Name,
    timeout: Duration,
    escalation: Escalation,
    parent: Option<Arc<Core>>,
}

/// A group of tasks within a phase, which can be stopped on its own.
///
/// Its phase stops it when it starts, at the latest; then it has its own timeout, within the phase's deadline. Scopes nest:
/// a parent stops its children, and their deadlines are within its own. A clone is the same scope. Dropping it stops
/// nothing.
///
/// ```
/// # use std::time::Duration;
/// # use shutdown_coordinator::ShutdownCoordinator;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut builder = ShutdownCoordinator::builder();
/// let drain = builder.phase("drain").id();
/// let (_coordinator, handle) = builder.build()?;
///
/// let pool = handle.scope(drain, "pool").timeout(Duration::from_secs(2)).open()?;
/// let told = pool.token();
/// pool.spawn("worker 1", async move { told.cancelled().await })?;
///
/// let end = pool.stop().await;
/// assert!(end.is_clean());
/// assert!(!handle.is_shutting_down());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Scope {
    core: Arc<Core>,
}

/// How a scope ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScopeEnd {
    /// From the first word to stop until its last task was gone, or given up.
    pub took: Duration,
    /// How many of its tasks failed or panicked, ever; those that failed in a child that escalates count as one.
    pub failed: usize,
    /// The first of them, at most 16.
    pub failures: Vec<TaskFailure>,
    /// The tasks that had not ended in time, and so were aborted.
    pub aborted: Vec<String>,
}

/// A task of a scope that failed or panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskFailure {
    /// Its name, after that of its scope.
    pub task: String,
    /// Its error, or what its panic said.
    pub error: String,
}

impl ScopeEnd {
    /// Whether no task ever failed and none was aborted.
    pub fn is_clean(&self) -> bool {
        self.failed == 0 && self.aborted.is_empty()
    }
}

const FAILURES_KEPT: usize = 16;

struct Core {
    shared: Arc<Shared>,
    phase: PhaseId,
    /// With the names of its parents.
    name: String,
    timeout: Duration,
    escalation: Escalation,
    token: CancellationToken,
    /// One guard for each task, and for each child that is not over.
    members: Gate,
    parent: Option<Arc<Core>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    gates: Vec<Gate>,
    children: Vec<Weak<Core>>,
    stopping_since: Option<Instant>,
    failed: usize,
    failures: Vec<TaskFailure>,
    aborted: Vec<String>,
    end: Option<ScopeEnd>,
    /// Given up when the scope is over: the hook that stops it with its phase, and its guard of its parent.
    registration: Option<Registration>,
    in_parent: Option<Guard>,
}

impl ScopeBuilder {
    pub(crate) fn new(shared: Arc<Shared>, phase: PhaseId, name: Name) -> Self {
        Self { shared, phase, name, timeout: DEFAULT_SCOPE_TIMEOUT, escalation: Escalation::Continue, parent: None }
    }

    /// How long its tasks may take to stop before they are aborted, within the deadline of its parent or phase. 10 s by
    /// default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What follows when one of its tasks fails or panics. Nothing, by default.
    pub fn on_failure(mut self, escalation: Escalation) -> Self {
        self.escalation = escalation;
        self
    }

    /// Opens the scope.
    ///
    /// # Errors
    /// Its phase has started or belongs to another coordinator, or its parent is being stopped.
    pub fn open(self) -> Result<Scope, RejectCause> {
        let Self { shared, phase, name, timeout, escalation, parent } = self;
        let drained = shared.phase(phase).ok_or(RejectCause::ForeignPhase)?.drained.clone();
        let in_parent = match &parent {
            Some(parent) => Some(parent.members.enter().map_err(|_| RejectCause::ScopeStopped)?),
            None => None,
        };
        let (name, token) = match &parent {
            Some(parent) => (format!("{}/{name}", parent.name), parent.token.child_token()),
            None => (name.into_owned(), shared.token(phase).child_token()),
        };
        let members = Gate::single(Name::Borrowed("members"), drained);
        let nested = parent.clone();
        let state = Mutex::new(State { in_parent, ..State::default() });
        let core = Arc::new(Core { shared, phase, name, timeout, escalation, token, members, parent, state });
        if let Some(parent) = nested {
            parent.adopt(&core);
        } else {
            let registration = core.register()?;
            lock(&core.state).registration = Some(registration);
        }
        Ok(Scope { core })
    }
}

impl Scope {
    /// Its name, after those of its parents: `pool/child`.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Cancelled when the scope is to stop.
    pub fn token(&self) -> CancellationToken {
        self.core.token.clone()
    }

    /// Whether it has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.core.members.is_closed()
    }

    /// Spawns a task of the scope. Its name in the report follows that of the scope.
    ///
    /// What the task gives is its result; an error counts as a failure, see [`ScopeBuilder::on_failure`]. Once the scope is
    /// to stop, or its phase has started, or outside of a tokio runtime, the future comes back unpolled.
    pub fn spawn<F>(
        &self,
        name: impl Into<Cow<'static, str>>,
        future: F,
    ) -> Result<Task<Result<(), String>>, Rejected<F>>
    where
        F: Future<Output: HookOutput> + Send + 'static,
    {
        let Some(phase) = self.core.shared.phase(self.core.phase) else {
            return Err(Rejected::new(future, RejectCause::ForeignPhase));
        };
        let Ok(member) = self.core.members.enter() else {
            return Err(Rejected::new(future, RejectCause::ScopeStopped));
        };
        let name = format!("{}/{}", self.core.name, name.into());
        let (core, own_name) = (Arc::clone(&self.core), name.clone());
        let into_member = move |future: F| core.watch(own_name, future, member);
        phase.tasks.spawn_member(name.into(), self.core.id(), future, into_member)
    }

    /// A gate that closes when the scope stops; the scope waits for its guards. It is one of its phase, too, and named
    /// like the tasks. Made later than that it is closed.
    pub fn gate(&self, name: impl Into<Cow<'static, str>>) -> Gate {
        let name = format!("{}/{}", self.core.name, name.into());
        let gate = self.core.shared.add_gate(self.core.phase, name.into());
        let mut state = lock(&self.core.state);
        if state.stopping_since.is_some() {
            gate.close();
        }
        // As in the phase, which is the other owner.
        if state.gates.len() == state.gates.capacity() {
            state.gates.retain(|gate| !gate.is_orphan(2));
        }
        state.gates.push(gate.clone());
        gate
    }

    /// A scope within this one.
    pub fn scope(&self, name: impl Into<Cow<'static, str>>) -> ScopeBuilder {
        let builder = ScopeBuilder::new(Arc::clone(&self.core.shared), self.core.phase, name.into());
        ScopeBuilder { parent: Some(Arc::clone(&self.core)), ..builder }
    }

    /// Tells the scope to stop and returns at once: what a task of the scope itself may do.
    pub fn request_stop(&self) {
        self.core.request_stop();
    }

    /// Stops the scope and waits until its tasks are gone, at most for its timeout and the grace; what has not ended by then
    /// is aborted. Everybody who stops the same scope gets the same end.
    ///
    /// A task of the scope that waits for this waits for itself, until it is aborted: see [`Scope::request_stop`].
    ///
    /// Cancel safe in so far as dropping the future leaves the scope told to stop; nobody aborts its tasks then before its
    /// phase does, or this is called again.
    pub async fn stop(&self) -> ScopeEnd {
        let latest = later(Instant::now(), self.core.timeout);
        Arc::clone(&self.core).drive(latest).await
    }
}

impl Core {
    /// Unlike that of every scope that exists at the same time.
    fn id(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    fn adopt(&self, child: &Arc<Self>) {
        let mut state = lock(&self.state);
        if state.children.len() == state.children.capacity() {
            state.children.retain(|child| child.strong_count() > 0);
        }
        state.children.push(Arc::downgrade(child));
        let stopping = state.stopping_since.is_some();
        drop(state);
        // It was told while the child was being made.
        if stopping {
            child.request_stop();
        }
    }

    /// The hook that stops it with its phase.
    fn register(self: &Arc<Self>) -> Result<Registration, RejectCause> {
        let weak = Arc::downgrade(self);
        let stop = move |cx: HookContext| async move {
            let Some(core) = weak.upgrade() else { return Ok(()) };
            let end = core.drive(cx.deadline()).await;
            match end.failures.first() {
                None => Ok(()),
                Some(TaskFailure { task, error }) if end.failed == 1 => Err(format!("{task}: {error}")),
                Some(TaskFailure { task, error }) => Err(format!("{} tasks, first {task}: {error}", end.failed)),
            }
        };
        let added = self.shared.add_hook(self.phase, self.name.clone().into(), WorkKind::Scope, stop, Work::new_async);
        let id = added.map_err(|rejected| rejected.cause)?;
        Ok(Registration { shared: Arc::downgrade(&self.shared), phase: self.phase, id })
    }

    fn request_stop(&self) {
        let mut state = lock(&self.state);
        if state.stopping_since.is_some() {
            return;
        }
        state.stopping_since = Some(Instant::now());
        self.members.close();
        state.gates.iter().for_each(Gate::close);
        let children = state.children();
        drop(state);
        self.token.cancel();
        for child in children {
            child.request_stop();
        }
    }

    /// Stops the scope by the earlier of `latest` and its own timeout. May run several times at once; the first to see
    /// the end says what it was.
    fn drive(self: Arc<Self>, latest: Instant) -> BoxFuture<'static, ScopeEnd> {
        async move {
            self.request_stop();
            let (since, children, gates) = {
                let state = lock(&self.state);
                (state.stopping_since.unwrap_or_else(Instant::now), state.children(), state.gates.clone())
            };
            let deadline = latest.min(later(since, self.timeout));
            let children = join_all(children.into_iter().map(|child| child.drive(deadline)));
            let over = || self.members.is_drained() && gates.iter().all(Gate::is_drained);
            let Some(phase) = self.shared.phase(self.phase) else { return ScopeEnd::default() };
            let own = async {
                let expired = later(deadline, self.shared.limits.grace);
                tokio::select! {
                    biased;
                    () = wait_until(&phase.drained, over) => return,
                    () = sleep_until(expired) => {}
                }
                let aborted = phase.tasks.abort_members(self.id());
                lock(&self.state).aborted.extend(aborted);
                tokio::select! {
                    biased;
                    () = wait_until(&phase.drained, over) => {}
                    () = sleep_until(later(Instant::now(), ABORT_WAIT)) => {}
                }
            };
            tokio::join!(children, own);
            self.finish(since)
        }
        .boxed()
    }

    /// Stops the scope though nobody waits for it: a task of the phase sees to its timeout. Once the phase has started its
    /// own hook does.
    fn stop_by_itself(self: Arc<Self>) {
        self.request_stop();
        let Some(phase) = self.shared.phase(self.phase) else { return };
        let name = format!("stop of {}", self.name);
        let latest = later(Instant::now(), self.timeout);
        phase.tasks.spawn(name.into(), Arc::clone(&self).drive(latest)).map(drop).ok();
    }

    fn finish(&self, since: Instant) -> ScopeEnd {
        let mut state = lock(&self.state);
        if let Some(end) = &state.end {
            return end.clone();
        }
        let (failures, aborted) = (state.failures.clone(), state.aborted.clone());
        let end = ScopeEnd { took: since.elapsed(), failed: state.failed, failures, aborted };
        state.end = Some(end.clone());
        let (registration, in_parent) = (state.registration.take(), state.in_parent.take());
        drop(state);
        // Before its phase nothing is left to stop; afterwards the hook stays, and is reported.
        registration.map(Registration::cancel);
        drop(in_parent);
        end
    }

    /// The future of a task: the user's, and what follows its failure.
    async fn watch<F: Future<Output: HookOutput>>(
        self: Arc<Self>,
        name: String,
        future: F,
        member: Guard,
    ) -> Result<(), String> {
        let result = AssertUnwindSafe(future).catch_unwind().await;
        let (error, panicked) = match result.map(HookOutput::into_result) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => (error, false),
            Err(payload) => (panic_message(payload), true),
        };
        tracing::error!(task = name, error, panicked, "a task of a scope failed");
        if let Some(scope) = self.escalate(&name, &error) {
            scope.stop_by_itself();
        }
        drop(member);
        if panicked {
            resume_unwind(Box::new(error));
        }
        Err(error)
    }

    /// Notes the failure here and upwards as far as it is escalated. Gives the scope that has to stop.
    fn escalate(self: &Arc<Self>, name: &str, error: &str) -> Option<Arc<Self>> {
        let mut to_stop = None;
        let mut current = Some(self);
        while let Some(scope) = current {
            let mut state = lock(&scope.state);
            let stopping = state.stopping_since.is_some();
            state.failed += 1;
            if state.failures.len() < FAILURES_KEPT {
                state.failures.push(TaskFailure { task: name.to_owned(), error: error.to_owned() });
            }
            drop(state);
            // Whoever stops it learns of the failure by its end.
            if stopping {
                break;
            }
            if scope.escalation != Escalation::Continue {
                to_stop = Some(Arc::clone(scope));
            }
            current = (scope.escalation == Escalation::Escalate).then_some(scope.parent.as_ref()).flatten();
            if scope.escalation == Escalation::Escalate && scope.parent.is_none() {
                self.shared.trigger(Reason::Error(format!("{name}: {error}")));
            }
        }
        to_stop
    }
}

impl State {
    fn children(&self) -> Vec<Arc<Core>> {
        self.children.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Nobody can add to it any more, and nothing in it runs.
        if let Some(registration) = lock(&self.state).registration.take() {
            registration.cancel();
        }
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("name", &self.name)
            .field("stopping", &self.members.is_closed())
            .field("members", &self.members.held())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}
