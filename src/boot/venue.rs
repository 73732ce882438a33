//! The simulated exchange as a process of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shutdown_coordinator::serve::Server;
use shutdown_coordinator::{PhaseId, Reason, Report, ShutdownCoordinator, ShutdownHandle, SignalPolicy, block_on};
use tokio::net::TcpListener;
use venue::binance::{Binance, Keys, Limits, Options, control};
use venue::host::Driver;
use venue::witness::Witness;

use super::hooks::late;
use super::parts::{announce, broken};
use super::{BootError, DataDir, LEAK_TIMEOUT};
use crate::admin::AdminSocket;
use crate::clock::Clock;
use crate::config::Config;
use crate::gateway::RequestWindow;
use crate::gateway::paper::PaperVenue;
use crate::market::{MarketRunner, symbols};
use crate::store::Database;
use crate::store::postgres::PostgresWitness;
use crate::store::sqlite::SqliteWitness;

const LEDGER_NAME: &str = "venue.ledger";
const REQUESTS_NAME: &str = "requests.jsonl";
const CONTROL_NAME: &str = "venue.sock";
/// Requests and websockets end by themselves once they are told to; a peer may take two seconds to say goodbye.
const STOP_ACCEPTING: Duration = Duration::from_secs(6);
const CLOSE_VENUE: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(10);
const WATCHDOG: Duration = Duration::from_secs(3);
const LINGER: Duration = Duration::from_millis(50);
/// Never closed for being idle: a request that a fault holds back is idle too.
const CONNECTIONS: usize = 10_000;

/// What `main venue` was asked for besides its configuration.
#[derive(Debug)]
pub struct VenueOptions {
    /// Where requests are taken.
    pub bind: SocketAddr,
    /// Who may trade.
    pub keys: Keys,
    /// How much is allowed.
    pub limits: Limits,
    /// The server's database, where every order must have its row before it is sent.
    pub witness: Option<Database>,
    /// Whether faults may be set.
    pub allow_faults: bool,
}

#[derive(Debug, Clone, Copy)]
struct Phases {
    /// Requests in flight and websockets end.
    stop_accepting: PhaseId,
    /// The market stands still, the ledger and the files close.
    close_venue: PhaseId,
}

/// Runs the exchange until it is told to stop.
///
/// # Errors
/// What kept it from starting.
pub fn venue(config: Config, options: VenueOptions) -> Result<Report, BootError> {
    block_on(LEAK_TIMEOUT, Box::pin(run(config, options))).map_err(BootError::Runtime)?
}

fn phases() -> Result<(ShutdownCoordinator, ShutdownHandle, Phases), BootError> {
    let mut builder = ShutdownCoordinator::builder();
    let stop_accepting = builder.phase("stop-accepting").timeout(STOP_ACCEPTING).id();
    let close_venue = builder.phase("close-venue").after(&[stop_accepting]).reserve(CLOSE_VENUE).id();
    let builder = builder.deadline(DEADLINE).watchdog(WATCHDOG).signals(SignalPolicy::default());
    let (coordinator, handle) = builder.build()?;
    Ok((coordinator, handle, Phases { stop_accepting, close_venue }))
}

async fn run(config: Config, options: VenueOptions) -> Result<Report, BootError> {
    let (coordinator, handle, phases) = phases()?;
    let data_dir = DataDir::open(&config.data_dir, false).await?;
    let started = handle.until_shutdown(start(&config, options, &data_dir, &handle, phases)).await;
    let failed = match started {
        Ok(Ok(()) | Err(BootError::Stopped)) | Err(_) => None,
        Ok(Err(error)) => Some(error),
    };
    if let Some(error) = &failed {
        handle.trigger(Reason::Error(error.to_string()));
    }
    let report = coordinator.run().await;
    drop(data_dir);
    if let Some(error) = failed {
        return Err(error);
    }
    tracing::info!(clean = report.is_clean(), exit_code = report.exit_code(), "the venue stopped");
    Ok(report)
}

async fn start(
    config: &Config,
    options: VenueOptions,
    data_dir: &DataDir,
    handle: &ShutdownHandle,
    phases: Phases,
) -> Result<(), BootError> {
    let VenueOptions { bind: address, keys, limits, witness, allow_faults } = options;
    let listener = TcpListener::bind(address).await.map_err(|source| BootError::Bind { address, source })?;
    let (socket, socket_file) = AdminSocket::bind(&data_dir.path().join(CONTROL_NAME)).await?.into_parts();
    let (paper, driver) = open(config, data_dir).await?;
    let requests = data_dir.path().join(REQUESTS_NAME);
    let options = Options {
        keys,
        opening: paper.opening().to_vec(),
        recv_window: ms(config.venue.recv_window_ms),
        latency: ms(config.venue.paper.latency_ms),
        limits,
        witness: witness.map(|database| -> Arc<dyn Witness> {
            match database {
                Database::Sqlite(path) => Arc::new(SqliteWitness::new(&path)),
                Database::Postgres(server) => Arc::new(PostgresWitness::new(server)),
            }
        }),
    };
    let Some(host) = paper.host() else { return Err(BootError::Stopped) };
    let made = Binance::new(host.clone(), options, &requests);
    let (binance, writer) = made.map_err(|source| BootError::DataDir { path: requests, source })?;
    blocking(handle, phases, "venue driver", move || driver.run_blocking())?;
    blocking(handle, phases, "request log", move || writer.run_blocking())?;
    let closing = paper.clone();
    handle
        .on(phases.close_venue, "venue", move |_| {
            closing.close();
            async { drop(socket_file) }
        })
        .map_err(late)?;
    binance.open_accounts().await.map_err(|refusal| broken("venue.paper.opening", &refusal))?;
    move_market(config, &paper, handle, phases)?;
    let stop = |_| BootError::Stopped;
    let controls = Server::new(handle, phases.close_venue, control(host, allow_faults)).linger(LINGER);
    controls.serve_unix(socket).map_err(stop)?;
    let server = Server::new(handle, phases.stop_accepting, binance.router());
    let address = listener.local_addr().map_err(|source| BootError::Bind { address, source })?;
    server
        .connection_limit(CONNECTIONS)
        .idle_timeout(Duration::MAX)
        .linger(LINGER)
        .serve_tcp(listener)
        .map_err(stop)?;
    handle
        .on(phases.stop_accepting, "requests and websockets", move |_| {
            binance.close();
            async move { binance.closed().await }
        })
        .map_err(late)?;
    announce(&format!("venue listening on http://{address}"));
    Ok(())
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

async fn open(config: &Config, data_dir: &DataDir) -> Result<(PaperVenue, Driver), BootError> {
    let window = RequestWindow {
        recv_window: ms(config.venue.recv_window_ms),
        absence_margin: ms(config.venue.absence_margin_ms),
        request_timeout: ms(config.venue.request_timeout_ms),
    };
    let (path, paper) = (data_dir.path().join(LEDGER_NAME), config.venue.paper.clone());
    let symbols = symbols(&config.market)?;
    let opening = tokio::task::spawn_blocking(move || PaperVenue::open(&path, symbols, &paper, window));
    Ok(opening.await.map_err(|error| broken("venue.paper", &error))??)
}

/// Runs something that blocks until the venue closes.
fn blocking(
    handle: &ShutdownHandle,
    phases: Phases,
    name: &'static str,
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> Result<(), BootError> {
    let running = async move {
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, name, "ended"),
            Err(error) => tracing::error!(%error, name, "ended"),
        }
    };
    handle.spawn(phases.close_venue, name, running).map(drop).map_err(|_| BootError::Stopped)
}

fn move_market(config: &Config, venue: &PaperVenue, handle: &ShutdownHandle, phases: Phases) -> Result<(), BootError> {
    let (runner, _hub) = MarketRunner::open(&config.market, &config.venue.binance, Clock::start())?;
    let (venue, stop) = (venue.clone(), handle.token(phases.close_venue));
    let running = async move {
        if let Err(error) = runner.run(Some(venue), stop).await {
            tracing::error!(%error, "market data ended");
        }
    };
    handle.spawn(phases.close_venue, "market feed", running).map(drop).map_err(|_| BootError::Stopped)
}
