//! Signals, on a thread of their own.
//!
//! The thread has its own small runtime, so that a second signal is heard while hooks block every worker of the main one.
//! What a signal does is decided by [`SignalRules`], for the real ones and for those that a test simulates.

use std::{
    io,
    sync::{Arc, Mutex, Weak, mpsc},
    thread,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    reason::{Reason, Trigger},
    shared::Shared,
    sync::lock,
};

/// What signals do.
///
/// SIGTERM and SIGINT trigger the shutdown, and force it when it is under way. SIGHUP never ends the process. Handlers
/// are installed by [`Builder::build`](crate::Builder::build) and stay for the life of the process.
///
/// ```no_run
/// # use std::time::Duration;
/// # use shutdown_coordinator::{Hangup, Quit, ShutdownCoordinator, SignalPolicy};
/// let policy = SignalPolicy::default().hangup(Hangup::Ignore).quit(Quit::System).debounce(Duration::from_millis(200));
/// let (coordinator, handle) = ShutdownCoordinator::builder().signals(policy).build()?;
/// # Ok::<(), shutdown_coordinator::BuildError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "give it to `Builder::signals`"]
pub struct SignalPolicy {
    hangup: Hangup,
    pub(crate) quit: Quit,
    debounce: Duration,
}

/// What SIGHUP does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hangup {
    /// It is counted by [`ShutdownHandle::reloads`](crate::ShutdownHandle::reloads).
    #[default]
    Reload,
    /// Nothing.
    Ignore,
}

/// What SIGQUIT does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quit {
    /// It forces the shutdown at once.
    #[default]
    Force,
    /// The same as SIGTERM.
    Trigger,
    /// Nothing.
    Ignore,
    /// It is left to the operating system, which ends the process with a core dump.
    System,
}

impl Default for SignalPolicy {
    fn default() -> Self {
        Self { hangup: Hangup::default(), quit: Quit::default(), debounce: Duration::ZERO }
    }
}

impl SignalPolicy {
    /// What SIGHUP does.
    pub fn hangup(mut self, hangup: Hangup) -> Self {
        self.hangup = hangup;
        self
    }

    /// What SIGQUIT does.
    pub fn quit(mut self, quit: Quit) -> Self {
        self.quit = quit;
        self
    }

    /// A second SIGTERM or SIGINT within this time of the first does not force: terminals and supervisors like to send
    /// two at once. Zero by default.
    pub fn debounce(mut self, debounce: Duration) -> Self {
        self.debounce = debounce;
        self
    }
}

/// The numbers POSIX fixes, the same on every Unix that tokio supports.
const SIGHUP: i32 = 1;
const SIGQUIT: i32 = 3;

/// What a signal did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(not(feature = "testkit"), expect(unreachable_pub, reason = "the test kit shows it"))]
pub enum Reaction {
    /// It started the shutdown.
    Triggered,
    /// It forced the shutdown, starting it if need be.
    Forced,
    /// It came within the debounce window of the one that started the shutdown, and did nothing.
    Debounced,
    /// It was counted as a reload.
    Reloaded,
    /// Nothing.
    Ignored,
    /// There is nobody to run a shutdown, so a real one ends the process, with the exit code 128 + its number.
    Abandoned,
}

/// Decides what each signal does.
pub(crate) struct SignalRules {
    policy: SignalPolicy,
    /// When a signal started the shutdown.
    started: Mutex<Option<Instant>>,
}

impl SignalRules {
    pub(crate) fn new(policy: SignalPolicy) -> Self {
        Self { policy, started: Mutex::default() }
    }

    pub(crate) fn policy(&self) -> &SignalPolicy {
        &self.policy
    }

    /// Does what the policy says about this signal.
    pub(crate) fn hear(&self, number: i32, shared: &Shared) -> Reaction {
        match (number, self.policy.hangup, self.policy.quit) {
            (SIGHUP, Hangup::Reload, _) => {
                shared.reloads.send_modify(|count| *count += 1);
                Reaction::Reloaded
            }
            (SIGQUIT, _, Quit::Force) if !shared.is_abandoned() => {
                shared.force(Reason::Signal(number));
                Reaction::Forced
            }
            (SIGHUP, Hangup::Ignore, _) | (SIGQUIT, _, Quit::Ignore | Quit::System) => Reaction::Ignored,
            _ => self.terminate(Reason::Signal(number), shared),
        }
    }

    fn terminate(&self, reason: Reason, shared: &Shared) -> Reaction {
        let mut started = lock(&self.started);
        match shared.trigger(reason.clone()) {
            Trigger::Started => {
                *started = Some(Instant::now());
                return Reaction::Triggered;
            }
            Trigger::Abandoned => return Reaction::Abandoned,
            Trigger::AlreadyRunning(_) => {}
        }
        if started.is_some_and(|started| started.elapsed() < self.policy.debounce) {
            return Reaction::Debounced;
        }
        shared.force(reason);
        Reaction::Forced
    }
}

/// Installs the handlers and starts the thread. When this returns, no signal is lost any more.
pub(crate) fn install(rules: Arc<SignalRules>, shared: &Arc<Shared>) -> io::Result<()> {
    let (installed, result) = mpsc::sync_channel(1);
    let gone = shared.gone.clone();
    let weak = Arc::downgrade(shared);
    thread::Builder::new().name("shutdown-signals".to_owned()).spawn(move || {
        let listening = listen(rules.policy());
        let (runtime, signals) = match listening {
            Ok(listening) => listening,
            Err(error) => {
                installed.send(Err(error)).ok();
                return;
            }
        };
        installed.send(Ok(())).ok();
        runtime.block_on(async {
            tokio::select! {
                () = gone.cancelled() => {}
                () = signals.deliver(&rules, weak) => {}
            }
        });
    })?;
    result.recv().unwrap_or_else(|_| Err(io::Error::other("the signal thread died")))
}

fn listen(policy: &SignalPolicy) -> io::Result<(tokio::runtime::Runtime, Signals)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let signals = Signals::install(policy)?;
    drop(entered);
    Ok((runtime, signals))
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    quit: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn install(policy: &SignalPolicy) -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: if policy.quit == Quit::System { None } else { Some(signal(SignalKind::quit())?) },
        })
    }

    async fn next(&mut self) -> i32 {
        use tokio::signal::unix::SignalKind;
        let kind = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.hangup.recv() => SignalKind::hangup(),
            Some(()) = async { self.quit.as_mut()?.recv().await } => SignalKind::quit(),
        };
        kind.as_raw_value()
    }
}

#[cfg(not(unix))]
struct Signals {
    interrupt: tokio::signal::windows::CtrlC,
    stop: tokio::signal::windows::CtrlBreak,
    close: tokio::signal::windows::CtrlClose,
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(not(unix))]
impl Signals {
    fn install(_: &SignalPolicy) -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Self { interrupt: ctrl_c()?, stop: ctrl_break()?, close: ctrl_close()?, shutdown: ctrl_shutdown()? })
    }

    /// The C runtime's numbers: SIGINT is 2, SIGTERM is 15, SIGBREAK is 21.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.stop.recv() => 21,
            _ = self.close.recv() => 15,
            _ = self.shutdown.recv() => 15,
        }
    }
}

/// As the signal would have done without our handler, which cannot be taken away again.
#[expect(clippy::disallowed_methods, reason = "there is no shutdown that could be skipped")]
fn end_process(number: i32) {
    std::process::exit(128_i32.saturating_add(number));
}

impl Signals {
    async fn deliver(mut self, rules: &SignalRules, shared: Weak<Shared>) {
        loop {
            let number = self.next().await;
            let Some(shared) = shared.upgrade() else { return };
            if rules.hear(number, &shared) == Reaction::Abandoned {
                tracing::error!(number, "a signal came, and the coordinator was dropped: the process ends at once");
                end_process(number);
            }
        }
    }
}
