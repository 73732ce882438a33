// The README's programs need axum, so they are tested with the feature only.
#![cfg_attr(any(not(doctest), feature = "axum"), doc = include_str!("../README.md"))]
//!
//! ## Where to look
//!
//! | to | see |
//! |---|---|
//! | describe a shutdown | [`ShutdownCoordinator::builder`], [`Builder`], [`PhaseBuilder`], [`PhaseId`], [`FailurePolicy`], [`SignalPolicy`] |
//! | read it from a configuration file | [`PhaseSpec`], [`Builder::from_specs`], [`BuildError`], [`ShutdownHandle::phase`] |
//! | run it | [`ShutdownCoordinator::run`], [`run_main`], [`block_on`] |
//! | begin, force or call it off | [`ShutdownHandle::trigger`], [`ShutdownHandle::force`], [`ShutdownHandle::abort`], [`Reason`] |
//! | run code in it | [`ShutdownHandle::on`], [`ShutdownHandle::on_blocking`], [`HookContext`], [`HookOutput`], [`Registration::cancel`] |
//! | let work in, and wait for it | [`ShutdownHandle::gate`], [`Gate::enter`], [`Gate::enter_named`], [`Guard::fork`] |
//! | have tasks stopped and waited for | [`ShutdownHandle::spawn`], [`ShutdownHandle::token`], [`Task`] |
//! | stop some tasks earlier than the rest | [`ShutdownHandle::scope`], [`Scope`], [`Escalation`], [`ScopeEnd`] |
//! | know that it has begun | [`ShutdownHandle::is_shutting_down`], [`ShutdownHandle::begun`], [`ShutdownHandle::until_shutdown`] |
//! | reload on SIGHUP | [`ShutdownHandle::reloads`], [`ShutdownHandle::reload`] |
//! | see what it would do | [`ShutdownHandle::plan`], [`Plan`] |
//! | watch it | [`ShutdownHandle::progress`], [`ShutdownHandle::blockers`], [`ShutdownHandle::deadline`] |
//! | know what it did | [`Report`], [`ReportTable`], [`Outcome`], [`PhaseStatus`], [`EXIT_CLEAN`], [`EXIT_UNCLEAN`], [`EXIT_WATCHDOG`] |
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod builder;
mod gate;
#[cfg(any(doc, doctest))]
pub mod guide;
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
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod metrics;
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub mod serve;
#[cfg(all(feature = "systemd", unix))]
#[cfg_attr(docsrs, doc(cfg(feature = "systemd")))]
pub mod systemd;
#[cfg(feature = "testkit")]
#[cfg_attr(docsrs, doc(cfg(feature = "testkit")))]
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
pub use scope::{DEFAULT_SCOPE_TIMEOUT, Escalation, Scope, ScopeBuilder, ScopeEnd, TaskFailure};
pub use shared::PastPointOfNoReturn;
pub use signal::{Hangup, Quit, SignalPolicy};
pub use task::{RejectCause, Rejected, Task, TaskError};
pub use tokio_util::sync::CancellationToken;
