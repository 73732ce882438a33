//! Telling systemd how the service is: ready, reloading, stopping, alive, and why it takes so long.
//!
//! ```no_run
//! # use shutdown_coordinator::{ShutdownCoordinator, systemd::{Systemd, SystemdError}};
//! # async fn start() -> &'static str { "listening" }
//! # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
//! # let (coordinator, handle) = ShutdownCoordinator::builder().build()?;
//! let systemd = Systemd::from_env(&handle)?;
//! let address = start().await;
//! systemd.ready(format!("serving on {address}"));
//! let report = systemd.watch(coordinator.run()).await;
//! # Ok(())
//! # }
//! ```
//!
//! | message | when |
//! |---|---|
//! | `READY=1` | [`Systemd::ready`]; at the end of a reload; after a shutdown was aborted |
//! | `RELOADING=1`, `MONOTONIC_USEC` | [`Systemd::reloading`] (`Type=notify-reload` wants both) |
//! | `STOPPING=1` | when the first phase that is a point of no return starts, or, without one, when the shutdown is over. Not at the trigger: systemd knows no way back from it |
//! | `STATUS` | [`Systemd::ready`], [`Systemd::status`]; in a shutdown, every second and at every step: the time left, the phase, what it has waited for longest |
//! | `EXTEND_TIMEOUT_USEC` | with each `STATUS` of a shutdown, so that `TimeoutStopSec` may be shorter than the drain |
//! | `WATCHDOG=1` | twice per `WatchdogSec`, by a timer of the runtime; and with each `EXTEND_TIMEOUT_USEC` |
//!
//! # How far the time is extended
//!
//! To the global deadline and the margin of the coordinator's own watchdog, which ends the process then; without that
//! watchdog, to the deadline and the graces that phases can run into. On top comes a second for the exit itself. A process that is hung
//! cannot get more: each message names the time that is left until that one moment.
//!
//! systemd moves the end of its watchdog along with an extension, so each comes with a ping, which moves it back.
//!
//! A `systemctl daemon-reload` makes systemd forget extensions: a service that is past its `TimeoutStopSec` is killed then
//! (seen with 252 and 254). So set `TimeoutStopSec` to the deadline and its margin where you can, and take the extension for
//! what saves a unit whose author did not.
//!
//! # What a ping proves
//!
//! That a worker of the runtime got round to its timers, which it does when it is idle or between tasks, and that
//! [`Systemd::watch`] was polled. When every worker is blocked, or the thread that awaits `watch`, pings stop and systemd
//! ends the process (`Result=watchdog`). One worker that still runs is enough for a ping. Set `WatchdogSec` to some times
//! the longest pause that is normal.
//!
//! # The environment
//!
//! Without `NOTIFY_SOCKET`, or with an empty one, everything here does nothing. One that cannot be used is an error:
//! the unit would only fail later, at `TimeoutStartSec`, and without a reason. `WATCHDOG_PID` is respected. The
//! variables are left in the environment for child processes to see (only `unsafe` code could remove them); units have `NotifyAccess=main` by default, which ignores
//! children. Messages that cannot be sent later on are logged and do no harm.
//!
//! The module exists on Unix; only Linux has abstract sockets, and systemd.

mod socket;

use std::{
    convert::Infallible,
    env,
    ffi::OsStr,
    fmt,
    future::{Future, pending},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep};

use crate::{
    handle::ShutdownHandle,
    plan::Plan,
    progress::{Progress, RunStage},
    sync::lock,
};

use socket::{Message, NotifySocket};

/// How often systemd is told what a shutdown waits for, and its timeout extended.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// What the process may take to exit when its shutdown is over.
const EXIT_TIME: Duration = Duration::from_secs(1);

/// The environment that systemd set cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemdError {
    /// There is no socket that takes messages.
    #[error("NOTIFY_SOCKET={address} cannot be used")]
    Socket {
        /// The value.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A number is expected.
    #[error("{variable}={value} is not a number above 0")]
    Number {
        /// The variable's name.
        variable: &'static str,
        /// Its value.
        value: String,
    },
}

/// Speaks to systemd for one coordinator. See the [module](self).
///
/// Cheap to clone: whoever reloads or has a status to tell may have one. Every method may be called from any thread.
#[derive(Clone)]
#[must_use = "systemd learns of a shutdown only while `watch` is awaited"]
pub struct Systemd {
    notifier: Option<Arc<Notifier>>,
}

struct Notifier {
    handle: ShutdownHandle,
    socket: NotifySocket,
    /// How often a ping is due.
    ping_interval: Option<Duration>,
    /// How long after its deadline a shutdown may be over and the process gone.
    margin: Duration,
    said: Mutex<Said>,
}

/// What systemd knows. Locked while a message is sent, so that none overtakes another.
#[derive(Default)]
struct Said {
    ready: bool,
    /// The service's own status, which that of a shutdown hides for a while.
    status: String,
    /// How many reloads are under way.
    reloads: usize,
    /// The last message was about a shutdown.
    shutting_down: bool,
    stopping: bool,
}

impl Systemd {
    /// Takes the socket and the watchdog's interval from the environment.
    pub fn from_env(handle: &ShutdownHandle) -> Result<Self, SystemdError> {
        let Some(address) = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return Ok(Self { notifier: None });
        };
        let watched = number("WATCHDOG_PID")?.is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC")?.filter(|_| watched).map(Duration::from_micros);
        Self::connect(handle, address, watchdog)
    }

    /// The same with an address given (a path, or `@` and the name of an abstract socket) and the interval of the
    /// watchdog, if there is one.
    pub fn connect(
        handle: &ShutdownHandle,
        address: impl AsRef<OsStr>,
        watchdog: Option<Duration>,
    ) -> Result<Self, SystemdError> {
        let address = address.as_ref();
        let socket = NotifySocket::connect(address)
            .map_err(|source| SystemdError::Socket { address: address.display().to_string(), source })?;
        let notifier = Notifier {
            handle: handle.clone(),
            socket,
            ping_interval: watchdog.map(|interval| interval / 2),
            margin: margin(&handle.plan()),
            said: Mutex::default(),
        };
        Ok(Self { notifier: Some(Arc::new(notifier)) })
    }

    /// Whether there is a systemd to speak to.
    pub fn is_connected(&self) -> bool {
        self.notifier.is_some()
    }

    /// The service is up. Await [`Systemd::watch`] soon: systemd's watchdog runs from now on.
    pub fn ready(&self, status: impl Into<String>) {
        let Some(notifier) = &self.notifier else { return };
        let mut said = lock(&notifier.said);
        said.ready = true;
        said.status = status.into();
        notifier.say_ready(&said);
    }

    /// A line for `systemctl status`. While the service shuts down, what that waits for is shown instead.
    pub fn status(&self, status: impl Into<String>) {
        let Some(notifier) = &self.notifier else { return };
        let mut said = lock(&notifier.said);
        said.status = status.into();
        if !notifier.handle.is_shutting_down() {
            notifier.socket.send(&Message::new().status(&said.status));
        }
    }

    /// The service reloads its configuration until this is dropped, whether or not that succeeds.
    ///
    /// Under `Type=notify-reload`, `systemctl reload` sends SIGHUP and waits for both ends of this. Call it for each change
    /// of [`ShutdownHandle::reloads`], and tell what came of it by [`Systemd::status`] before the drop.
    pub fn reloading(&self) -> Reloading {
        let Some(notifier) = &self.notifier else { return Reloading { notifier: None } };
        let mut said = lock(&notifier.said);
        // Before READY=1 a start is under way, and the READY=1 at the end would end it.
        if !said.ready || said.stopping {
            return Reloading { notifier: None };
        }
        said.reloads += 1;
        let mut message = Message::new().line("RELOADING=1");
        match clock_gettime(ClockId::CLOCK_MONOTONIC) {
            Ok(now) => message = message.line(format!("MONOTONIC_USEC={}", Duration::from(now).as_micros())),
            Err(error) => tracing::warn!(%error, "no clock for systemd"),
        }
        notifier.socket.send(&message);
        Reloading { notifier: Some(Arc::clone(notifier)) }
    }

    /// Awaits `future`, normally [`ShutdownCoordinator::run`](crate::ShutdownCoordinator::run), and tells systemd
    /// meanwhile how the shutdown goes and that the runtime is alive. The last word is sent before this returns.
    ///
    /// Cancel safe if `future` is.
    pub async fn watch<F: Future>(&self, future: F) -> F::Output {
        let Some(notifier) = &self.notifier else { return future.await };
        let output = tokio::select! {
            biased;
            output = future => output,
            never = notifier.speak() => match never {},
        };
        notifier.tell(&notifier.handle.progress().borrow().clone(), false);
        output
    }
}

/// A reload is under way. See [`Systemd::reloading`].
#[must_use = "dropping this tells systemd that the reload is over"]
pub struct Reloading {
    notifier: Option<Arc<Notifier>>,
}

impl Drop for Reloading {
    fn drop(&mut self) {
        let Some(notifier) = &self.notifier else { return };
        let mut said = lock(&notifier.said);
        said.reloads -= 1;
        notifier.say_ready(&said);
    }
}

impl Notifier {
    /// Tells every change, and every so often that the runtime is alive and what a shutdown waits for.
    async fn speak(&self) -> Infallible {
        let mut progress = self.handle.progress();
        let mut alive = false;
        loop {
            let now = progress.borrow_and_update().clone();
            self.tell(&now, alive);
            let shutting_down = now.stage == RunStage::ShuttingDown;
            let interval = [self.ping_interval, shutting_down.then_some(STATUS_INTERVAL)].into_iter().flatten().min();
            let tick = async {
                match interval {
                    Some(interval) => sleep(interval).await,
                    None => pending().await,
                }
            };
            alive = tokio::select! {
                biased;
                () = tick => true,
                Ok(()) = progress.changed() => false,
            };
        }
    }

    /// `alive`: a timer fired, so a ping is due.
    fn tell(&self, progress: &Progress, alive: bool) {
        let mut message = Message::new();
        let mut said = lock(&self.said);
        match progress.stage {
            RunStage::Serving if said.shutting_down => {
                said.shutting_down = false;
                if said.ready && said.reloads == 0 {
                    message = message.line("READY=1");
                }
                message = message.status(&said.status);
            }
            RunStage::Serving => {}
            RunStage::ShuttingDown | RunStage::Over | RunStage::Abandoned => {
                said.shutting_down = true;
                if progress.past_no_return && !said.stopping {
                    said.stopping = true;
                    message = message.line("STOPPING=1");
                }
                message = message.status(&self.shutdown_status(progress));
            }
        }
        let left = time_left(progress, self.margin).filter(|_| progress.stage == RunStage::ShuttingDown);
        if let Some(left) = left {
            message = message.line(format!("EXTEND_TIMEOUT_USEC={}", left.as_micros()));
        }
        if self.ping_interval.is_some() && (alive || left.is_some()) {
            message = message.line("WATCHDOG=1");
        }
        self.socket.send(&message);
    }

    /// There is no way back from STOPPING=1, and the status belongs to a shutdown while there is one.
    fn say_ready(&self, said: &Said) {
        if said.stopping || said.reloads > 0 {
            return;
        }
        let message = Message::new().line("READY=1");
        let aborting = said.shutting_down || self.handle.is_shutting_down();
        self.socket.send(&if aborting { message } else { message.status(&said.status) });
    }

    fn shutdown_status(&self, progress: &Progress) -> String {
        let reason = progress.reason.as_ref().map(ToString::to_string).unwrap_or_default();
        let forced = if progress.forced { ", forced" } else { "" };
        match progress.stage {
            RunStage::Over => return format!("stopped ({reason}{forced})"),
            RunStage::Abandoned => return "the shutdown was dropped midway".to_owned(),
            RunStage::Serving | RunStage::ShuttingDown => {}
        }
        let left = time_left(progress, Duration::ZERO).unwrap_or_default().as_secs();
        let blockers = self.handle.blockers();
        let waits = match blockers.iter().max_by_key(|blocker| blocker.age) {
            Some(oldest) => match blockers.iter().map(|blocker| blocker.count).sum::<usize>() - oldest.count {
                0 => oldest.to_string(),
                more => format!("{oldest}, and {more} more"),
            },
            None => progress.running().map(|phase| &*phase.name).collect::<Vec<_>>().join(", "),
        };
        format!("shutting down ({reason}{forced}), {left} s left: {waits}")
    }
}

/// How long until `margin` after the deadline; `None` when that has passed.
fn time_left(progress: &Progress, margin: Duration) -> Option<Duration> {
    let left = progress.deadline?.checked_add(margin)?.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

fn margin(plan: &Plan) -> Duration {
    plan.watchdog_margin.unwrap_or(plan.overrun) + EXIT_TIME
}

fn number(variable: &'static str) -> Result<Option<u64>, SystemdError> {
    let Some(value) = env::var_os(variable) else { return Ok(None) };
    match value.to_str().and_then(|value| value.parse().ok()).filter(|number| *number > 0) {
        Some(number) => Ok(Some(number)),
        None => Err(SystemdError::Number { variable, value: value.display().to_string() }),
    }
}

impl fmt::Debug for Systemd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Systemd").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").finish_non_exhaustive()
    }
}
