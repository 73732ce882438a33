//! The one place that names every concrete type: it wires the parts and ties each to its phase of the shutdown.

mod data_dir;
mod demo;
mod hooks;
mod limits;
mod paper;
mod parts;
mod phases;
mod redis;
mod reload;
mod slot;
mod store;
mod venue;
mod venues;
mod views;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use shutdown_coordinator::serve::{InheritError, Inherited, inherited};
use shutdown_coordinator::systemd::{Systemd, SystemdError};
use shutdown_coordinator::{BuildError, Report, block_on};
use tokio::time::timeout;

use crate::admin::AdminError;
use crate::config::{Config, StoreFault};
use crate::gateway::paper::PaperError;
use crate::market::MarketError;
use crate::redis::RedisSetupError;
use crate::store::{StoreError, sqlite::OpenError};

pub use data_dir::DataDir;
pub use phases::{Phases, build as build_phases};
pub use reload::Reload;
pub use venue::{VenueOptions, venue};

/// What `main http` was asked for besides its configuration.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Trade a demo account with three robots.
    pub demo: bool,
    /// Hold the market back until the demo's robots are made, and stop when the replay has ended.
    pub replay: bool,
    /// Which build this is.
    pub build_id: String,
    /// What SIGHUP reads. Without it SIGHUP does nothing.
    pub reload: Option<Reload>,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The data directory cannot be made or written.
    #[error("data_dir = {}: cannot be written", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has the data directory.
    #[error("data_dir = {}: another server uses it", .0.display())]
    DataDirInUse(PathBuf),
    /// The address cannot be listened on.
    #[error("server.bind = {address}: cannot listen there")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The database cannot be opened.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The database failed while the server started.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The paper venue cannot be opened.
    #[error(transparent)]
    Venue(#[from] PaperError),
    /// The market feed cannot be opened.
    #[error(transparent)]
    Market(#[from] MarketError),
    /// Redis cannot be used as configured.
    #[error(transparent)]
    Redis(#[from] RedisSetupError),
    /// What systemd, or whoever started this process, passed as a listener cannot be used.
    #[error(transparent)]
    Inherited(#[from] InheritError),
    /// The private listener cannot be opened.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The threads that everything runs on cannot be started.
    #[error("the runtime could not be started")]
    Runtime(#[source] std::io::Error),
    /// The phases do not fit.
    #[error(transparent)]
    Phases(#[from] BuildError),
    /// What systemd put into the environment cannot be used.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A setting that the configuration's own checks let through does not hold.
    #[error("{key}: {problem}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The shutdown began before the server was up. Not a failure.
    #[error("stopped while it started")]
    Stopped,
}

impl From<StoreFault> for BootError {
    fn from(StoreFault { key, problem }: StoreFault) -> Self {
        BootError::Setting { key, problem }
    }
}

/// How long a thread or blocking task that never ends is waited for at the exit.
const LEAK_TIMEOUT: Duration = Duration::from_millis(200);

/// How long systemd is kept waiting for accounts that do not come up: it would kill a server that serves everything else.
const UP: Duration = Duration::from_mins(1);
const UP_POLL: Duration = Duration::from_millis(10);

/// The last shutdown's report, in the data directory.
const LAST_SHUTDOWN: &str = "last-shutdown.json";

/// Runs the server until it is told to stop. The report of the shutdown is printed, and written to `last-shutdown.json`,
/// and drawn in `last-shutdown.svg`.
///
/// # Errors
/// What kept it from starting.
pub fn http(config: Config, options: HttpOptions, metrics: PrometheusHandle) -> Result<Report, BootError> {
    // Before there are threads, since it changes the environment.
    let listeners = inherited()?;
    block_on(LEAK_TIMEOUT, Box::pin(serve(config, options, listeners, metrics))).map_err(BootError::Runtime)?
}

async fn serve(
    config: Config,
    options: HttpOptions,
    listeners: Vec<Inherited>,
    metrics: PrometheusHandle,
) -> Result<Report, BootError> {
    // Signals are caught from here on: one that arrives while the server starts is not lost.
    let (coordinator, handle, phases) = phases::build(&config.shutdown, true)?;
    let systemd = Systemd::from_env(&handle)?;
    let Ok(data_dir) = handle.until_shutdown(DataDir::open(&config.data_dir, config.instance.share)).await else {
        return Ok(systemd.watch(coordinator.run()).await);
    };
    let data_dir = data_dir?;
    let report_path = data_dir.path().join(LAST_SHUTDOWN);
    let start = async {
        let given = parts::Given { options: &options, data_dir: &data_dir, listeners };
        let (address, registry) = parts::start(&config, given, &handle, phases, &systemd, metrics).await?;
        if systemd.is_connected() && timeout(UP, registry.up(UP_POLL)).await.is_err() {
            tracing::warn!("some accounts are not up yet");
        }
        Ok(address)
    };
    let failed = match handle.until_shutdown(start).await {
        Ok(Ok(address)) => {
            systemd.ready(format!("listening on http://{address}"));
            None
        }
        Ok(Err(BootError::Stopped)) | Err(_) => None,
        Ok(Err(error)) => Some(error),
    };
    if let Some(error) = failed {
        handle.trigger(shutdown_coordinator::Reason::Error(error.to_string()));
        let _report = systemd.watch(coordinator.run()).await;
        return Err(error);
    }
    let report = systemd.watch(coordinator.run()).await;
    tell(&report, &report_path);
    drop(data_dir);
    Ok(report)
}

/// The outcome of the shutdown: for people on stdout, for machines in a file.
#[expect(clippy::print_stdout, reason = "this table is what `main http` prints last")]
fn tell(report: &Report, path: &std::path::Path) {
    println!("{report}");
    tracing::info!(clean = report.is_clean(), exit_code = report.exit_code(), "stopped");
    if let Err(error) = std::fs::write(path, report.to_json()) {
        tracing::warn!(%error, path = %path.display(), "the shutdown report was not written");
    }
    let picture = path.with_extension("svg");
    if let Err(error) = std::fs::write(&picture, report.to_svg()) {
        tracing::warn!(%error, path = %picture.display(), "the picture of the shutdown was not written");
    }
}
