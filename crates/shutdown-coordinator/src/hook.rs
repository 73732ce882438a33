//! Hooks: what to do when a phase starts.

use std::{
    fmt,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Weak},
    task::Poll,
    thread,
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{runtime::Handle, sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    gate::{Guard, Name},
    phase::{PhaseId, PhaseRun},
    reason::Reason,
    record::{Outcome, Record},
    report::Note,
    shared::{RunCx, Shared},
    sync::{lock, panic_message},
};

/// What a hook may return: nothing, or a `Result` whose error goes into the report.
pub trait HookOutput {
    /// The text of the error, if any. The alternate form (`{:#}`) is used, so an `anyhow` chain is shown whole.
    fn into_result(self) -> Result<(), String>;
}

impl HookOutput for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: fmt::Display> HookOutput for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| format!("{error:#}"))
    }
}

/// What a hook knows about the shutdown it runs in.
#[derive(Clone)]
pub struct HookContext {
    run: Arc<RunCx>,
    phase: Arc<PhaseRun>,
    hook: Name,
}

impl HookContext {
    /// Why the shutdown was started.
    pub fn reason(&self) -> &Reason {
        &self.run.reason
    }

    /// The name of the phase.
    pub fn phase(&self) -> &str {
        &self.phase.name
    }

    /// When the phase ends. A forced shutdown moves it forward.
    pub fn deadline(&self) -> Instant {
        self.phase.deadline()
    }

    /// How long until [`HookContext::deadline`]; zero once it has passed.
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// Cancelled at the deadline. What the hook does not finish within the grace that follows is aborted.
    pub fn expiring(&self) -> &CancellationToken {
        &self.phase.expiring
    }

    /// Cancelled when the shutdown is forced.
    pub fn force_token(&self) -> &CancellationToken {
        &self.run.force
    }

    /// Adds a line to the report.
    pub fn note(&self, text: impl Into<String>) {
        self.add_note(text.into(), false);
    }

    /// Adds a line to the report and makes the exit code non-zero, for what is left undone though no hook failed.
    pub fn unclean(&self, text: impl Into<String>) {
        self.add_note(text.into(), true);
    }

    fn add_note(&self, text: String, unclean: bool) {
        let note = Note { phase: self.phase.name.to_string(), hook: self.hook.to_string(), text, unclean };
        lock(&self.run.notes).push(note);
    }
}

impl fmt::Debug for HookContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookContext")
            .field("phase", &self.phase.name)
            .field("hook", &self.hook)
            .field("reason", &self.run.reason)
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// A registered hook. Dropping this leaves the hook registered.
pub struct Registration {
    pub(crate) shared: Weak<Shared>,
    pub(crate) phase: PhaseId,
    pub(crate) id: u64,
}

impl Registration {
    /// Takes the hook back. `true` means that it will never run, `false` that its phase has started.
    pub fn cancel(self) -> bool {
        self.shared.upgrade().is_some_and(|shared| shared.remove_hook(self.phase, self.id))
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("phase", &self.phase).field("id", &self.id).finish_non_exhaustive()
    }
}

/// A hook that waits for its phase.
pub(crate) struct HookSlot {
    pub(crate) id: u64,
    pub(crate) record: Arc<Record>,
    pub(crate) work: Work,
}

type AsyncWork = Box<dyn FnOnce(HookContext) -> BoxFuture<'static, Result<(), String>> + Send>;
type BlockingWork = Box<dyn FnOnce(HookContext) -> Result<(), String> + Send>;

pub(crate) enum Work {
    Async(AsyncWork),
    Blocking(BlockingWork),
}

impl Work {
    pub(crate) fn new_async<F, Fut>(hook: F) -> Self
    where
        F: FnOnce(HookContext) -> Fut + Send + 'static,
        Fut: Future<Output: HookOutput> + Send + 'static,
    {
        Self::Async(Box::new(move |cx| async move { hook(cx).await.into_result() }.boxed()))
    }

    pub(crate) fn new_blocking<F, R>(hook: F) -> Self
    where
        F: FnOnce(HookContext) -> R + Send + 'static,
        R: HookOutput,
    {
        Self::Blocking(Box::new(move |cx| hook(cx).into_result()))
    }
}

/// Runs one hook to its end, or until the phase aborts it. Whatever happens is in its record before `guard` is released,
/// and that before `unpolled` where the first poll was the end.
pub(crate) async fn run_hook(slot: HookSlot, run: Arc<RunCx>, phase: Arc<PhaseRun>, guard: Guard, unpolled: Guard) {
    let cx = HookContext { run: Arc::clone(&run), phase: Arc::clone(&phase), hook: slot.record.name.clone() };
    slot.record.start(&phase);
    let ended_unpolled = match slot.work {
        Work::Async(work) => {
            let (outcome, unpolled) = run_async(work, cx, &run, &phase.abort, unpolled).await;
            slot.record.finish(outcome, &phase, unpolled.is_some());
            unpolled
        }
        Work::Blocking(work) => {
            drop(unpolled);
            run_blocking(work, cx, &slot.record, &phase).await;
            None
        }
    };
    drop(guard);
    drop(ended_unpolled);
}

/// Gives `unpolled` back if the first poll was the end.
async fn run_async(
    work: AsyncWork,
    cx: HookContext,
    run: &RunCx,
    abort: &CancellationToken,
    unpolled: Guard,
) -> (Outcome, Option<Guard>) {
    // The hook is asked first, so that it is polled at least once even when there is no time at all. The call that
    // makes the future and the drop of an unfinished one are inside, so that their panics are caught too.
    let bounded = async {
        tokio::select! {
            biased;
            result = async move { work(cx).await } => Some(result),
            () = abort.cancelled() => None,
        }
    };
    let mut bounded = pin!(AssertUnwindSafe(bounded).catch_unwind());
    let first = poll_fn(|cx| Poll::Ready(bounded.as_mut().poll(cx))).await;
    let (result, unpolled) = match first {
        Poll::Ready(result) => (result, Some(unpolled)),
        Poll::Pending => {
            drop(unpolled);
            (bounded.await, None)
        }
    };
    let outcome = match result {
        Ok(Some(result)) => from_result(result),
        Ok(None) if run.abandon.is_cancelled() => Outcome::Cancelled,
        Ok(None) => Outcome::TimedOut { late_by: None },
        Err(payload) => Outcome::Panicked { message: panic_message(payload) },
    };
    (outcome, unpolled)
}

async fn run_blocking(work: BlockingWork, cx: HookContext, record: &Arc<Record>, phase: &Arc<PhaseRun>) {
    let (ended, end) = oneshot::channel();
    let runtime = Handle::current();
    let thread = thread::Builder::new().name(format!("hook {}", record.name)).spawn({
        let (record, phase) = (Arc::clone(record), Arc::clone(phase));
        move || {
            // So that the hook may use the handle's timers and `Handle::block_on`.
            let _entered = runtime.enter();
            let outcome = match catch_unwind(AssertUnwindSafe(|| work(cx))) {
                Ok(result) => from_result(result),
                Err(payload) => Outcome::Panicked { message: panic_message(payload) },
            };
            record.finish(outcome, &phase, false);
            // Nobody listens any more when the phase has given this thread up.
            ended.send(()).ok();
        }
    });
    if let Err(error) = thread {
        record.finish(Outcome::Failed { error: format!("no thread for the hook: {error}") }, phase, false);
        return;
    }
    tokio::select! {
        biased;
        _ = end => {}
        () = phase.abort.cancelled() => {}
    }
}

fn from_result(result: Result<(), String>) -> Outcome {
    match result {
        Ok(()) => Outcome::Ok,
        Err(error) => Outcome::Failed { error },
    }
}
