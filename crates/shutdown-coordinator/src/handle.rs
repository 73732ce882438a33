//! The handle: everything but running.

use std::{borrow::Cow, fmt, future::Future, sync::Arc};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    gate::Gate,
    hook::{HookContext, HookOutput, Registration, Work},
    phase::PhaseId,
    plan::Plan,
    progress::{Blocker, Progress},
    reason::{Reason, Trigger},
    record::WorkKind,
    scope::ScopeBuilder,
    shared::{PastPointOfNoReturn, Shared},
    task::{RejectCause, Rejected, Task},
};

/// Starts, forces, aborts and watches the shutdown, and registers what it has to do.
///
/// Cheap to clone. It cannot wait for the run, so no hook can wait for itself. Every method may be called from any
/// thread, with or without a runtime, except that [`ShutdownHandle::spawn`] needs one.
#[derive(Clone)]
pub struct ShutdownHandle {
    shared: Arc<Shared>,
}

impl ShutdownHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Starts the shutdown. Its deadline counts from here, and a trigger before the run is remembered.
    ///
    /// The first trigger wins; later ones, also those from inside a hook, change nothing and get its reason back.
    pub fn trigger(&self, reason: Reason) -> Trigger {
        self.shared.trigger(reason)
    }

    /// Ends all waiting, starting the shutdown if need be.
    ///
    /// Phases that run now and those still to come end at once, apart from a reserve of theirs, which they keep. The
    /// report is made all the same.
    pub fn force(&self, reason: Reason) {
        self.shared.force(reason);
    }

    /// Calls the shutdown off. Does nothing when there is none.
    ///
    /// Gates open, tokens are renewed, and [`ShutdownHandle::is_shutting_down`] is `false` again when this returns. A
    /// token that was cancelled stays so, and a hook that has started is told by its `expiring` token, then aborted; it
    /// does not run again in a later shutdown.
    pub fn abort(&self) -> Result<(), PastPointOfNoReturn> {
        self.shared.abort()
    }

    /// Whether a shutdown has begun. One atomic load.
    #[inline]
    pub fn is_shutting_down(&self) -> bool {
        self.shared.is_shutting_down()
    }

    /// Why the shutdown was started, once it was.
    pub fn reason(&self) -> Option<Reason> {
        self.shared.reason()
    }

    /// The phase with this name.
    pub fn phase(&self, name: &str) -> Option<PhaseId> {
        let index = self.shared.phases.iter().position(|phase| phase.config.name == name)?;
        Some(PhaseId { of: self.shared.id, index })
    }

    /// Registers a hook. Its phase calls it when it starts, and waits for it.
    ///
    /// It returns `()`, or a `Result` whose error goes into the report; that and a panic make the exit code non-zero. At its
    /// deadline it is told by [`HookContext::expiring`], after the grace it is aborted. Hooks of a phase run at the same time,
    /// unless the phase is [sequential](crate::PhaseBuilder::sequential).
    ///
    /// ```
    /// # use shutdown_coordinator::ShutdownCoordinator;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut builder = ShutdownCoordinator::builder();
    /// # let drain = builder.phase("drain").id();
    /// # let (_coordinator, handle) = builder.build()?;
    /// handle.on(drain, "tell the peers", |cx| async move {
    ///     let told = async { Ok::<(), std::io::Error>(()) }; // connects, sends
    ///     tokio::time::timeout_at(cx.deadline(), told).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on<F, Fut>(
        &self,
        phase: PhaseId,
        name: impl Into<Cow<'static, str>>,
        hook: F,
    ) -> Result<Registration, Rejected<F>>
    where
        F: FnOnce(HookContext) -> Fut + Send + 'static,
        Fut: Future<Output: HookOutput> + Send + 'static,
    {
        self.register(phase, name.into(), WorkKind::Hook, hook, Work::new_async)
    }

    /// Registers a hook that blocks. It gets a thread of its own, inside the runtime's context, which cannot be ended:
    /// past its deadline it is reported as leaked. Under tokio's paused clock it races with time, which does not wait
    /// for threads.
    ///
    /// ```
    /// # use shutdown_coordinator::ShutdownCoordinator;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut builder = ShutdownCoordinator::builder();
    /// # let drain = builder.phase("drain").id();
    /// # let (_coordinator, handle) = builder.build()?;
    /// handle.on_blocking(drain, "sync the journal", |_| std::fs::File::open("/")?.sync_all())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_blocking<F, R>(
        &self,
        phase: PhaseId,
        name: impl Into<Cow<'static, str>>,
        hook: F,
    ) -> Result<Registration, Rejected<F>>
    where
        F: FnOnce(HookContext) -> R + Send + 'static,
        R: HookOutput,
    {
        self.register(phase, name.into(), WorkKind::BlockingHook, hook, Work::new_blocking)
    }

    fn register<F>(
        &self,
        phase: PhaseId,
        name: Cow<'static, str>,
        kind: WorkKind,
        hook: F,
        into_work: impl FnOnce(F) -> Work,
    ) -> Result<Registration, Rejected<F>> {
        let id = self.shared.add_hook(phase, name, kind, hook, into_work)?;
        Ok(Registration { shared: Arc::downgrade(&self.shared), phase, id })
    }

    /// A gate that closes when the phase starts; the phase waits for its guards. Made later than that, or for a phase of
    /// another coordinator, it is closed.
    ///
    /// ```
    /// # use shutdown_coordinator::ShutdownCoordinator;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut builder = ShutdownCoordinator::builder();
    /// # let drain = builder.phase("drain").id();
    /// # let (_coordinator, handle) = builder.build()?;
    /// let orders = handle.gate(drain, "orders");
    /// let Ok(order) = orders.enter() else { return Ok(()) }; // the shutdown has reached the phase: refuse the order
    /// // ... work on it; the phase waits until this is dropped:
    /// drop(order);
    /// # Ok(())
    /// # }
    /// ```
    pub fn gate(&self, phase: PhaseId, name: impl Into<Cow<'static, str>>) -> Gate {
        self.shared.add_gate(phase, name.into())
    }

    /// Spawns a task that the phase waits for, and aborts when its time is over.
    ///
    /// The task learns of the start of its phase by [`ShutdownHandle::token`]. Once the phase has started, or outside of
    /// a tokio runtime, the future comes back unpolled. For tasks that are to end before their phase, see
    /// [`ShutdownHandle::scope`].
    ///
    /// The output is for whoever awaits the [`Task`]: an error in it is no failure of the shutdown. A panic that comes before
    /// the phase starts is logged; a later one is in the report.
    ///
    /// ```
    /// # use shutdown_coordinator::ShutdownCoordinator;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut builder = ShutdownCoordinator::builder();
    /// # let drain = builder.phase("drain").id();
    /// # let (_coordinator, handle) = builder.build()?;
    /// let stop = handle.token(drain);
    /// let poll = std::future::pending::<()>(); // works for ever
    /// handle.spawn(drain, "poller", stop.run_until_cancelled_owned(poll))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn spawn<F>(
        &self,
        phase: PhaseId,
        name: impl Into<Cow<'static, str>>,
        future: F,
    ) -> Result<Task<F::Output>, Rejected<F>>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        match self.shared.phase(phase) {
            Some(phase) => phase.tasks.spawn(name.into(), future),
            None => Err(Rejected::new(future, RejectCause::ForeignPhase)),
        }
    }

    /// A group of tasks of the phase that can be stopped on its own, for instance `"engine:42"`.
    pub fn scope(&self, phase: PhaseId, name: impl Into<Cow<'static, str>>) -> ScopeBuilder {
        ScopeBuilder::new(Arc::clone(&self.shared), phase, name.into())
    }

    /// When the phase ends at the latest; known while it runs. A forced shutdown moves it forward.
    pub fn deadline(&self, phase: PhaseId) -> Option<Instant> {
        self.shared.running(phase).map(|run| run.deadline())
    }

    /// Cancelled when the phase starts; that of another coordinator's phase is cancelled. After an abort, ask again for a
    /// fresh one.
    pub fn token(&self, phase: PhaseId) -> CancellationToken {
        self.shared.token(phase)
    }

    /// Cancelled when a shutdown begins, before its first phase and any `hold`: the moment to stop being ready. After an
    /// abort, ask again for a fresh one.
    pub fn begun(&self) -> CancellationToken {
        self.shared.begun()
    }

    /// Cancelled when the shutdown is forced.
    pub fn force_token(&self) -> CancellationToken {
        self.shared.force_token()
    }

    /// Runs `future` to its end unless a shutdown begins first; then it is dropped, and the reason returned. Meant for
    /// start-up. Cancel safe if `future` is.
    ///
    /// ```
    /// # use shutdown_coordinator::ShutdownCoordinator;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut builder = ShutdownCoordinator::builder();
    /// # let drain = builder.phase("drain").id();
    /// # let (_coordinator, handle) = builder.build()?;
    /// let warm_up = async { "warm" }; // takes a minute
    /// match handle.until_shutdown(warm_up).await {
    ///     Ok(state) => assert_eq!(state, "warm"),
    ///     Err(reason) => println!("start-up was cancelled by {reason}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn until_shutdown<F: Future>(&self, future: F) -> Result<F::Output, Reason> {
        let begun = self.begun();
        tokio::select! {
            biased;
            () = begun.cancelled() => Err(self.reason().unwrap_or_else(|| Reason::Manual("aborted".to_owned()))),
            output = future => Ok(output),
        }
    }

    /// How many times SIGHUP, or [`ShutdownHandle::reload`], has asked for a reload.
    ///
    /// ```
    /// # use shutdown_coordinator::ShutdownCoordinator;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut builder = ShutdownCoordinator::builder();
    /// # let drain = builder.phase("drain").id();
    /// # let (_coordinator, handle) = builder.build()?;
    /// let mut reloads = handle.reloads();
    /// handle.reload();
    /// reloads.changed().await?; // a task waits for this in a loop, and reads its configuration again
    /// # Ok(())
    /// # }
    /// ```
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.shared.reloads.subscribe()
    }

    /// Asks for a reload, as SIGHUP does.
    pub fn reload(&self) {
        self.shared.reloads.send_modify(|count| *count += 1);
    }

    /// How far the shutdown is.
    ///
    /// A borrow of the value holds up the shutdown, as with any `watch` channel: clone it rather than keep it.
    ///
    /// ```
    /// # use shutdown_coordinator::ShutdownCoordinator;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut builder = ShutdownCoordinator::builder();
    /// # let drain = builder.phase("drain").id();
    /// # let (_coordinator, handle) = builder.build()?;
    /// let mut progress = handle.progress();
    /// handle.trigger(shutdown_coordinator::Reason::Upgrade);
    /// let now = progress.wait_for(|progress| progress.reason.is_some()).await?.clone();
    /// assert_eq!(now.running().count(), 0, "nobody has called `run` yet");
    /// # Ok(())
    /// # }
    /// ```
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress()
    }

    /// What the running phases wait for, by name and age.
    pub fn blockers(&self) -> Vec<Blocker> {
        self.shared.blockers()
    }

    /// What a shutdown would do now.
    pub fn plan(&self) -> Plan {
        self.shared.plan()
    }

    /// Sets the gauges that change with every guard. Call it before metrics are rendered. See [`metrics`](crate::metrics).
    #[cfg(feature = "metrics")]
    pub fn publish_metrics(&self) {
        crate::metrics::publish(&self.shared);
    }

    #[cfg(any(feature = "axum", feature = "testkit"))]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl fmt::Debug for ShutdownHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownHandle").field("shutting_down", &self.is_shutting_down()).finish_non_exhaustive()
    }
}
