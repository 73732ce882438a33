//! Signals, on a thread of their own.
//!
//! The thread has its own small runtime, so that a second signal is heard while hooks block every worker of the main one.

use std::{
    io,
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    reason::{Reason, Trigger},
    shared::Shared,
};

/// What signals do.
///
/// SIGTERM and SIGINT trigger the shutdown, and force it when it is under way. SIGHUP never ends the process. Handlers
/// are installed by [`Builder::build`](crate::Builder::build) and stay for the life of the process.
///
/// ```no_run
/// # use std::time::Duration;
/// # use shutdown_coordinator::{Hangup, Quit, ShutdownCoordinator, SignalPolicy};
/// let policy = SignalPolicy::default().hangup(Hangup::Ignore).quit(Quit::Default).debounce(Duration::from_millis(200));
/// let (coordinator, handle) = ShutdownCoordinator::builder().signals(policy).build()?;
/// # Ok::<(), shutdown_coordinator::BuildError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "give it to `Builder::signals`"]
pub struct SignalPolicy {
    hangup: Hangup,
    quit: Quit,
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
    Default,
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

/// Installs the handlers and starts the thread. When this returns, no signal is lost any more.
pub(crate) fn install(policy: SignalPolicy, shared: &Arc<Shared>) -> io::Result<()> {
    let (installed, result) = mpsc::sync_channel(1);
    let gone = shared.gone.clone();
    let weak = Arc::downgrade(shared);
    thread::Builder::new().name("shutdown-signals".to_owned()).spawn(move || {
        let listening = listen(&policy);
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
                () = signals.deliver(policy, weak) => {}
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

/// Something arrived.
enum Event {
    /// SIGTERM, SIGINT or their like.
    Terminate(i32),
    Force(i32),
    Reload,
    Nothing,
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
            quit: if policy.quit == Quit::Default { None } else { Some(signal(SignalKind::quit())?) },
        })
    }

    async fn next(&mut self, policy: &SignalPolicy) -> Event {
        use tokio::signal::unix::SignalKind;
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        let quit = SignalKind::quit().as_raw_value();
        tokio::select! {
            _ = self.terminate.recv() => Event::Terminate(terminate.as_raw_value()),
            _ = self.interrupt.recv() => Event::Terminate(interrupt.as_raw_value()),
            _ = self.hangup.recv() => match policy.hangup {
                Hangup::Reload => Event::Reload,
                Hangup::Ignore => Event::Nothing,
            },
            Some(()) = async { self.quit.as_mut()?.recv().await } => match policy.quit {
                Quit::Force => Event::Force(quit),
                Quit::Trigger => Event::Terminate(quit),
                Quit::Ignore | Quit::Default => Event::Nothing,
            },
        }
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
    async fn next(&mut self, _: &SignalPolicy) -> Event {
        tokio::select! {
            _ = self.interrupt.recv() => Event::Terminate(2),
            _ = self.stop.recv() => Event::Terminate(21),
            _ = self.close.recv() => Event::Terminate(15),
            _ = self.shutdown.recv() => Event::Terminate(15),
        }
    }
}

impl Signals {
    async fn deliver(mut self, policy: SignalPolicy, shared: Weak<Shared>) {
        let mut first: Option<Instant> = None;
        loop {
            let event = self.next(&policy).await;
            let Some(shared) = shared.upgrade() else { return };
            match event {
                Event::Terminate(number) => {
                    let reason = Reason::Signal(number);
                    if let Trigger::AlreadyRunning(_) = shared.trigger(reason.clone()) {
                        let bounced = first.is_some_and(|first| first.elapsed() < policy.debounce);
                        if !bounced {
                            shared.force(reason);
                        }
                    } else {
                        first = Some(Instant::now());
                    }
                }
                Event::Force(number) => shared.force(Reason::Signal(number)),
                Event::Reload => shared.reloads.send_modify(|count| *count += 1),
                Event::Nothing => {}
            }
        }
    }
}
