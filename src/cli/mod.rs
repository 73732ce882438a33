//! The command line. Each command is a narrow function in a file of its own; `main.rs` parses and dispatches.

mod audit;
mod check;
mod copy;
mod exit;
mod failure;
mod http;
mod migrate;
mod output;
mod replay;
mod status;
mod venue;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use metrics_exporter_prometheus::PrometheusHandle;

pub use exit::ExitCode;
pub use failure::Failure;
pub use output::{Output, Style};
pub use venue::{KeyArg, VenueArgs};

use crate::build_info::BUILD_ID;
use crate::config::{Loaded, Sources, load};
use crate::store::migrate::{SCHEMA_MAX, SCHEMA_MIN};
use crate::telemetry::{Color, Logs, SetFilter, install_metrics};

/// A trading server that can be stopped, upgraded or killed at any instant without losing or doubling an order.
#[derive(Debug, Parser)]
#[command(name = "main", version = BUILD_ID, after_help = ExitCode::table(), max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Directory with config.yaml [default: manifest/config, if there is one]
    ///
    /// `HOTGO_CONFIG`, or `GF_GCFG_PATH`, says the same.
    #[arg(long, global = true, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Data directory, instead of the configured one
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Colour output and logs
    #[arg(long, global = true, value_enum, default_value_t)]
    pub color: Color,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server until it is told to stop
    Http(HttpArgs),
    /// Apply pending migrations to the database, list them, or move the ledger to another database
    Migrate(MigrateArgs),
    /// Check configuration, data directory, schema and shutdown plan, and print what would be used
    Check,
    /// Compare database and venue ledger: lost or doubled orders, fills and signals, and wrong balances
    Audit(AuditArgs),
    /// Show how the running server stands
    Status(StatusArgs),
    /// Run the simulated exchange as a process of its own, in the dialect of Binance's spot API
    Venue(VenueArgs),
    /// Let the demo robots trade on recorded prices, with a throw-away venue and store, and audit the result
    Replay(ReplayArgs),
}

/// Options of `main http`.
#[derive(Debug, Args)]
pub struct HttpArgs {
    /// Start with a few robots that trade at the paper venue
    #[arg(long)]
    pub demo: bool,
    /// Address and port, instead of the configured ones
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<SocketAddr>,
}

/// Options of `main migrate`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct MigrateArgs {
    /// What to do
    #[command(subcommand)]
    pub command: Option<MigrateCommand>,
    /// Of `up`, which is the default
    #[command(flatten)]
    pub up: UpArgs,
}

/// What `main migrate` does.
#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// Apply what is pending (the default)
    Up(UpArgs),
    /// Apply what removes or restricts; refused while an instance of another build lives
    ///
    /// `up` stops before it. From then on the releases before this one refuse to start on the database: there is no way back
    /// to them. Run it when this release has proved itself.
    Contract(UpArgs),
    /// List every migration; exit code 6 if this binary does not accept the schema
    Status,
    /// Copy a whole ledger into an empty database of a server, all or nothing, and compare both
    ///
    /// Stop the server on the source first. The source is only read; the target must be empty, and gets everything in one
    /// transaction: a copy that ends early, however it ends, leaves an empty database behind, and is simply started again.
    /// Before it commits it reads every row back, compares both sides, and adds up the events as `main audit` does.
    Copy(CopyArgs),
}

/// Options of `main migrate up` and `main migrate contract`.
#[derive(Debug, Clone, Copy, Args)]
pub struct UpArgs {
    /// Only say what would be applied
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `main migrate copy`.
#[derive(Debug, Args)]
#[command(after_help = copy::HELP)]
pub struct CopyArgs {
    /// The ledger to copy: sqlite:PATH
    #[arg(long, value_name = "DATABASE")]
    pub from: String,
    /// The empty database: postgres://user@host:port/database, with ?host=/run/postgresql for a Unix socket
    #[arg(long, value_name = "URL")]
    pub to: String,
    /// A file that holds the password for --to (mode 0600)
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// Options of `main replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// A public `bookTicker` CSV file, and the `trades` file of the same time if there is one
    #[arg(required = true, num_args = 1..=2, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The symbol, if the file's name does not begin with it
    #[arg(long)]
    pub symbol: Option<String>,
    /// How fast: 1 is real time, 60 a minute in a second
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub speed: u32,
}

/// Options of `main audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// How long findings may take to go away, while a server works
    #[arg(long, value_name = "SECS", default_value_t = 5)]
    pub settle: u64,
    /// File of answered signals: one JSON object with `source` and `dedup_key` a line
    #[arg(long, value_name = "FILE")]
    pub answered: Option<PathBuf>,
    /// The ledger of a venue that runs as its own process, instead of the configured one
    #[arg(long, value_name = "PATH")]
    pub venue_ledger: Option<PathBuf>,
}

/// Options of `main status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Keep showing it until the server is gone
    #[arg(long)]
    pub watch: bool,
    /// The server's private socket, instead of the configured one
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Runs a command to its end.
///
/// # Errors
/// Every [`Failure`] has an exit code and words for people.
pub fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Http(args) => http::run(global, args),
        Command::Migrate(args) => block_on(migrate::run(global, args)),
        Command::Check => block_on(check::run(global)),
        Command::Audit(args) => block_on(audit::run(global, args)),
        Command::Status(args) => block_on(status::run(global, args)),
        Command::Venue(args) => venue::run(global, args),
        Command::Replay(args) => replay::run(global, args),
    }
}

impl Global {
    /// Loads the configuration with the flags given here, and these.
    ///
    /// # Errors
    /// Exit code 3.
    pub fn load(&self, flags: &[(&'static str, String, &'static str)]) -> Result<Loaded, Failure> {
        Ok(load(&self.sources(flags))?)
    }

    fn sources(&self, flags: &[(&'static str, String, &'static str)]) -> Sources {
        let mut sources = Sources::of_process();
        sources.dir.clone_from(&self.config);
        if let Some(dir) = &self.data_dir {
            sources.flags.push(("data_dir", dir.to_string_lossy().into_owned(), "--data-dir"));
        }
        sources.flags.extend(flags.iter().cloned());
        sources
    }

    /// Where results go.
    pub fn output(&self) -> Output {
        Output::new(self.json, self.color)
    }

    /// Sets the process's logs and metrics, and logs which build runs and where its configuration comes from.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn telemetry(&self, loaded: &Loaded) -> Result<(PrometheusHandle, SetFilter), Failure> {
        let set_filter = Logs::open(&loaded.config.log, self.color)?.install()?;
        let metrics = install_metrics()?;
        let file = loaded.file().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
        tracing::info!(build_id = BUILD_ID, pid = std::process::id(), config_file = %file, "starting");
        Ok((metrics, set_filter))
    }
}

/// What `--version --json` says: the build, and the schemas that it works on.
pub fn version_json() -> serde_json::Value {
    serde_json::json!({ "build_id": BUILD_ID, "schema": { "min": SCHEMA_MIN, "max": SCHEMA_MAX } })
}

/// Runs a command that needs no second thread.
fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
