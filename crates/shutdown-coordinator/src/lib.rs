//! Phased graceful shutdown for tokio services.
//!
//! A service stops in an order: first it says that it is going, then it takes no new work, then it finishes the work it
//! has, then it writes down what it must not lose, then it closes its stores. A tree of cancellation tokens cannot say
//! that. Here a shutdown is a graph of **phases**, and everything that must happen or end belongs to one of them:
//!
//! - a **hook** is run when its phase starts ([`ShutdownHandle::on`], [`ShutdownHandle::on_blocking`]);
//! - a **gate** lets work in until its phase starts, and each [`Guard`] it gave out is waited for ([`ShutdownHandle::gate`]);
//! - a **task** is told by the phase's token to stop, and is waited for ([`ShutdownHandle::spawn`],
//!   [`ShutdownHandle::token`]).
//!
//! A phase is over when all of these are, or at its deadline; the next one starts regardless.
//!
//! # Time
//!
//! The whole has one deadline, counted from the trigger. A phase may have a **timeout**, a ceiling, and a **reserve**, a
//! floor that nothing before it can use up: a phase ends at the earlier of its timeout and the global deadline less the
//! reserves still owed after it on the longest path, but never before its own reserve is spent. Time that is not used
//! flows onward. At its deadline a hook is told (`expiring`), has a short grace, and is then aborted. A phase that runs
//! into its grace can end that much after its deadline; the phases after it have their reserves all the same.
//!
//! # Reliability
//!
//! Signals are heard on a thread of their own, and a second one forces: waiting ends, reserved phases still run. A
//! watchdog thread ends the process when the runtime is starved. What was late, leaked, failed or panicked is in the
//! [`Report`], by name, and makes the exit code non-zero. With `panic = "abort"` a panic in a hook ends the process at
//! once, as it does anywhere else.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use shutdown_coordinator::{Reason, ShutdownCoordinator};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut builder = ShutdownCoordinator::builder();
//! let drain = builder.phase("drain").timeout(Duration::from_secs(10)).id();
//! let persist = builder.phase("persist").after(&[drain]).reserve(Duration::from_secs(2)).id();
//! let (coordinator, handle) = builder.deadline(Duration::from_secs(15)).build()?;
//!
//! let orders = handle.gate(drain, "orders");
//! handle.on(persist, "save", |cx| async move {
//!     cx.note(format!("{:?} were left", cx.remaining()));
//!     Ok::<(), Infallible>(())
//! })?;
//!
//! let guard = orders.enter()?;
//! handle.trigger(Reason::Manual("example".into()));
//! drop(guard);
//! let report = coordinator.run().await;
//! assert_eq!(report.exit_code(), 0);
//! assert!(orders.enter().is_err());
//! # Ok(())
//! # }
//! ```
//!
//! # The whole API
//!
//! ```text
//! ShutdownCoordinator::builder() -> Builder            Builder::from_specs(specs) -> Result<Builder, BuildError>
//! Builder: phase(name) -> PhaseBuilder, deadline(d), grace(d), watchdog(margin), signals(SignalPolicy),
//!          build() -> Result<(ShutdownCoordinator, ShutdownHandle), BuildError>
//! PhaseBuilder: after(&[id]), timeout(d), reserve(d), hold(d), sequential(), point_of_no_return(),
//!               on_failure(FailurePolicy), id() -> PhaseId
//! ShutdownCoordinator: run(self).await -> Report
//! ShutdownHandle: trigger(Reason) -> Trigger           force(Reason)      abort() -> Result<(), PastPointOfNoReturn>
//!                 is_shutting_down() -> bool           reason() -> Option<Reason>       phase(name) -> Option<PhaseId>
//!                 on(phase, name, |cx| async {..}) -> Result<Registration, Rejected<F>>     on_blocking(phase, name, |cx| ..)
//!                 gate(phase, name) -> Gate            spawn(phase, name, future) -> Result<Task<T>, Rejected<F>>
//!                 token(phase), begun(), force_token() -> CancellationToken
//!                 until_shutdown(future).await -> Result<T, Reason>
//!                 reloads() -> watch::Receiver<u64>    reload()
//!                 progress() -> watch::Receiver<Progress>    blockers() -> Vec<Blocker>    plan() -> Plan
//! HookContext: reason(), phase(), deadline(), remaining(), expiring(), force(), note(text), unclean(text)
//! Registration: cancel() -> bool
//! Gate: enter(), enter_named(name) -> Result<Guard, Closed>, is_closed(), held(), name()      Guard: fork()
//! Report: exit_code() -> u8, is_clean(), survivors(), to_json(), to_svg() -> String, table() -> ReportTable,
//!         Display, Termination, Serialize, Deserialize
//! run_main(timeout, future) -> ExitCode      block_on(timeout, future) -> io::Result<T>
//! systemd::Systemd: from_env(&handle), ready(status), status(text), reloading(), watch(future).await
//! metrics: ShutdownHandle::publish_metrics()
//! ```
//!
//! A hook returns `()` or a `Result` whose error can be displayed.
//!
//! # What is deliberately absent
//!
//! Weak guards (one upgraded after the close is not waited for), waiting for the run from a handle (a hook could wait
//! for itself), and ending a blocking hook (the operating system has no way to do it).
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod builder;
mod gate;
mod handle;
mod hook;
mod main_helper;
mod phase;
mod plan;
pub mod points;
mod progress;
mod reason;
mod record;
mod report;
mod run;
mod scope;
mod shared;
mod signal;
mod sync;
mod task;
mod watchdog;

#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "axum")]
pub mod serve;
#[cfg(all(feature = "systemd", unix))]
pub mod systemd;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use builder::{BuildError, Builder, DEFAULT_DEADLINE, DEFAULT_GRACE, PhaseBuilder, PhaseSpec};
pub use gate::{Closed, Gate, Guard};
pub use handle::ShutdownHandle;
pub use hook::{HookContext, HookOutput, Registration};
pub use main_helper::{block_on, run_main};
pub use phase::{FailurePolicy, PhaseId};
pub use plan::{Plan, PlannedPhase, PlannedWork};
pub use progress::{Blocker, PhaseProgress, PhaseStage, Progress, RunStage};
pub use reason::{Reason, Trigger};
pub use record::{Outcome, WorkKind};
pub use report::{EXIT_CLEAN, EXIT_UNCLEAN, EXIT_WATCHDOG, Entry, Note, PhaseReport, PhaseStatus, Report, ReportTable};
pub use run::ShutdownCoordinator;
pub use scope::{DEFAULT_SCOPE_TIMEOUT, Escalation, Scope, ScopeBuilder, ScopeEnd};
pub use shared::PastPointOfNoReturn;
pub use signal::{Hangup, Quit, SignalPolicy};
pub use task::{RejectCause, Rejected, Task, TaskError};
