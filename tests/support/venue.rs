//! The simulated exchange as a process of its own: it survives what a test does to the server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use shutdown_coordinator::testkit::{Exit, Process, Signal};
use tokio::process::Command;

use super::audit::{Verdict, audit};
use super::{Client, Installation, eventually};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long after healing everything must be resolved.
const HEALED: Duration = Duration::from_mins(1);
const ACCOUNTS: [&str; 1] = ["main"];
const API_KEY: &str = "keyOfTheTests";
const SECRET: &str = "secretOfTheTests";

/// `main venue`, with its ledger, its keys, and a look into the server's database.
/// No limit of requests: a server that starts a hundred times a minute would spend a day's worth.
pub(crate) struct Venue {
    process: Process,
    directory: PathBuf,
    witness: String,
    accounts: Vec<String>,
    settings: Vec<(String, String)>,
    address: SocketAddr,
}

impl Venue {
    /// Starts it beside the installation's data directory, with the installation's settings, and tells the installation's
    /// later processes to trade there.
    pub(crate) async fn start(installation: &mut Installation) -> Self {
        let database = installation.database().to_str().unwrap().to_owned();
        Self::start_for(installation, &ACCOUNTS, &database).await
    }

    /// The same with these accounts, looking into this database: a file or a URL.
    pub(crate) async fn start_for(installation: &mut Installation, accounts: &[&str], witness: &str) -> Self {
        let directory = installation.scratch("venue");
        let (witness, settings) = (witness.to_owned(), installation.settings().to_vec());
        let accounts: Vec<String> = accounts.iter().map(|&account| account.to_owned()).collect();
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        let (process, address) = Self::spawn(&directory, &witness, &accounts, &settings, bind).await;
        let venue = Self { process, directory, witness, accounts, settings, address };
        installation.trade_at(&venue);
        venue
    }

    async fn spawn(
        directory: &Path,
        witness: &str,
        accounts: &[String],
        settings: &[(String, String)],
        bind: SocketAddr,
    ) -> (Process, SocketAddr) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_main"));
        command
            .args(["venue", "--allow-faults", "--weight-limit", "100000000", "--order-limit", "100000000"])
            .args(["--bind", &bind.to_string(), "--data-dir"])
            .arg(directory)
            .args(["--witness", witness])
            .args(accounts.iter().map(|account| format!("--key={account}:{}:{SECRET}", api_key(account))))
            .envs(settings.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start(command).unwrap().patience(PATIENCE);
        let listening = |line: &str| line.strip_prefix("venue listening on http://")?.trim().parse().ok();
        let address = process.find_line("where the venue listens", listening).await.unwrap();
        (process, address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its durable memory.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.directory.join("venue.ledger")
    }

    /// SIGKILL, and a new process at the same address.
    pub(crate) async fn crash(&mut self) {
        let exit = self.process.kill().await.unwrap();
        assert_eq!(exit, Exit::Signal(9), "the venue ended otherwise");
        (self.process, self.address) =
            Self::spawn(&self.directory, &self.witness, &self.accounts, &self.settings, self.address).await;
    }

    /// SIGTERM, and a clean end.
    pub(crate) async fn stop(mut self) {
        self.process.signal(Signal::Term).unwrap();
        assert_eq!(self.process.exit().await.unwrap(), Exit::Code(0), "the venue did not stop cleanly");
    }

    fn control(&self) -> Client {
        Client::unix(&self.directory.join("venue.sock"))
    }

    /// Replaces its faults; see `venue::faults::Faults`. An empty object is no fault.
    pub(crate) async fn set_faults(&self, faults: &Value) {
        self.control().post("/faults", faults).await.unwrap().ok();
    }

    /// How often each fault fired since this process was started.
    pub(crate) async fn fired(&self) -> Value {
        self.control().get("/faults").await.unwrap().ok()["fired"].clone()
    }

    /// Waits until a fault has fired.
    pub(crate) async fn wait_fired(&self, fault: &str) {
        let fired = async || (self.fired().await[fault].as_u64()? > 0).then_some(());
        eventually(Duration::from_secs(10), format!("{fault} fires"), fired).await;
    }
}

impl Installation {
    /// Its later processes trade at this venue.
    pub(crate) fn trade_at(&mut self, venue: &Venue) {
        let directory = self.scratch("config");
        std::fs::create_dir_all(&directory).unwrap();
        let secret = directory.join("secret");
        write_private(&secret, SECRET);
        let (secret, address) = (secret.display(), venue.address());
        let account = |label: &String| {
            format!("    - {{label: {label}, venue: binance, api_key: {}, secret_file: {secret}}}\n", api_key(label))
        };
        let accounts: String = venue.accounts.iter().map(account).collect();
        let config = format!(
            "trading:\n  accounts:\n{accounts}\
             venue:\n  binance:\n    rest_url: http://{address}\n    ws_api_url: ws://{address}/ws-api/v3\n    \
             ws_stream_url: ws://{address}\n    reconcile_ms: 1000\nmarket:\n  source: binance\n"
        );
        std::fs::write(directory.join("config.yaml"), config).unwrap();
        self.arguments(&["--config", directory.to_str().unwrap()]);
    }

    /// Compares its database with the venue's ledger.
    pub(crate) async fn audit_at(&self, venue: &Venue, answered: Option<&Path>) -> Verdict {
        let ledger = venue.ledger();
        audit(&self.data_dir(), self.settings().iter(), Some(&ledger), answered, HEALED).await
    }
}

fn api_key(account: &str) -> String {
    format!("{API_KEY}{account}")
}

fn write_private(path: &Path, text: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
