//! Processes of the real binary.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use shutdown_coordinator::testkit::{Exit, Points, Process, Signal};
use tempfile::TempDir;
use tokio::process::Command;

use super::audit::{Verdict, audit};
use super::client::KeptAlive;
use super::{Client, Socket, eventually, within};

/// How long a start may take, recovery included, on a busy machine.
const READY: Duration = Duration::from_secs(20);
/// After a clean shutdown.
pub(crate) const CLEAN: Exit = Exit::Code(0);
/// Orders are left UNKNOWN, or a phase did not finish.
pub(crate) const UNCLEAN: Exit = Exit::Code(75);
/// Short enough for tests, in the same proportions as the defaults. See `ShutdownConfig`.
const QUICK: &[(&str, &str)] = &[
    ("HOTGO__VENUE__RECV_WINDOW_MS", "300"),
    ("HOTGO__VENUE__ABSENCE_MARGIN_MS", "200"),
    ("HOTGO__VENUE__REQUEST_TIMEOUT_MS", "400"),
    ("HOTGO__VENUE__PAPER__ALLOW_FAULTS", "true"),
    ("HOTGO__INSTANCE__HAND_OVER_MS", "1500"),
    ("HOTGO__SHUTDOWN__STOP_ACCEPTING_MS", "1000"),
    ("HOTGO__SHUTDOWN__LINGER_MS", "50"),
    ("HOTGO__SHUTDOWN__STOP_SIGNALS_MS", "500"),
    ("HOTGO__SHUTDOWN__ORDER_DRAIN_MS", "2000"),
    ("HOTGO__SHUTDOWN__PERSIST_RESERVE_MS", "1000"),
    ("HOTGO__SHUTDOWN__CLOSE_STREAMS_MS", "1000"),
    ("HOTGO__SHUTDOWN__CLOSE_STORES_RESERVE_MS", "1000"),
    ("HOTGO__SHUTDOWN__DEADLINE_MS", "7000"),
    ("HOTGO__SHUTDOWN__WATCHDOG_MS", "1500"),
    ("HOTGO__SHUTDOWN__STOP_BUDGET_MS", "9500"),
    ("HOTGO__LOG__FILTER", "info"),
];

/// A data directory with its settings. Processes come and go; this stays until the test ends.
pub(crate) struct Installation {
    directory: TempDir,
    settings: Vec<(String, String)>,
    arguments: Vec<String>,
    wrapper: Vec<String>,
    bind: String,
    token: Option<String>,
}

impl Installation {
    /// An empty data directory, quick time-outs, faults allowed.
    pub(crate) fn new() -> Self {
        let quick = QUICK.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { settings: quick.collect(), ..Self::with_defaults() }
    }

    /// An empty data directory and the server's own defaults.
    pub(crate) fn with_defaults() -> Self {
        let directory = tempfile::Builder::new().prefix("hotgo-").tempdir().unwrap();
        Self {
            directory,
            settings: Vec::new(),
            arguments: Vec::new(),
            wrapper: Vec::new(),
            bind: "127.0.0.1:0".to_owned(),
            token: None,
        }
    }

    /// One more setting, by its environment variable.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Its settings, by their environment variables.
    pub(crate) fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// Does not remove it at the end, so that somebody can look into it.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }

    /// The admin's token where another data directory's first start has shown it: they share a database.
    pub(crate) fn set_token(&mut self, token: &str) {
        self.token = Some(token.to_owned());
    }

    /// Gives a process that listens the admin's token.
    pub(crate) fn admit(&mut self, server: &mut Server) {
        if self.token.is_none() {
            self.token = server.token_shown();
        }
        server.token.clone_from(&self.token);
    }

    /// One setting less.
    pub(crate) fn unset(&mut self, name: &str) {
        self.settings.retain(|(known, _)| known != name);
    }

    /// Points at which its processes are held.
    pub(crate) fn points(&mut self) -> Points {
        let points = Points::new().unwrap();
        let (name, socket) = points.env();
        self.set(name, socket.to_str().unwrap());
        points
    }

    /// The command line's further arguments.
    pub(crate) fn arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    }

    /// A command in front of the binary, such as `prlimit --nofile=64`; it must become the binary by `exec`. None if empty.
    pub(crate) fn wrap<I: IntoIterator<Item: Into<String>>>(&mut self, words: I) {
        self.wrapper = words.into_iter().map(Into::into).collect();
    }

    /// Another address than any free port.
    pub(crate) fn bind(&mut self, address: &str) {
        address.clone_into(&mut self.bind);
    }

    /// Where everything is kept.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Beside the data directory.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The private socket of the next process.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        let set = self.settings.iter().find(|(name, _)| name == "HOTGO__ADMIN__SOCKET");
        set.map_or_else(|| self.data_dir().join("admin.sock"), |(_, path)| path.into())
    }

    /// The database file.
    pub(crate) fn database(&self) -> PathBuf {
        self.data_dir().join("hotgo.db")
    }

    /// The last shutdown's report.
    pub(crate) fn report(&self) -> Value {
        let text = std::fs::read_to_string(self.data_dir().join("last-shutdown.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Starts a process and waits for nothing.
    pub(crate) fn spawn(&self) -> Server {
        Server::spawn(self)
    }

    /// Starts a process and waits until it is ready.
    pub(crate) async fn start(&mut self) -> Server {
        let mut server = self.spawn();
        server.wait_listening().await;
        self.admit(&mut server);
        server.wait_ready().await;
        server
    }

    /// Starts a process that refuses to run, and waits for its end.
    pub(crate) async fn start_refused(&self) -> (Exit, String) {
        let mut server = self.spawn();
        let exit = server.wait_exit(READY).await;
        (exit, server.stderr())
    }

    /// Audits the data directory.
    pub(crate) async fn audit(&self, answered: Option<&Path>) -> Verdict {
        let settings = self.settings.iter().filter(|(name, _)| name.starts_with("HOTGO__"));
        audit(&self.data_dir(), settings, None, answered, Duration::from_secs(15)).await
    }

    /// Starts once more, audits, stops: what every test of a bad end closes with.
    pub(crate) async fn assert_recovers_clean(&mut self, answered: Option<&Path>, context: &str) {
        let server = self.start().await;
        self.audit(answered).await.assert_clean(context);
        server.assert_stops_clean().await;
    }
}

/// One process of the server. Dropping it kills that process, and no other.
pub(crate) struct Server {
    process: Process,
    address: Option<SocketAddr>,
    token: Option<String>,
    admin_socket: PathBuf,
}

/// A robot that was made for a test.
#[derive(Debug, Clone)]
pub(crate) struct Robot {
    pub(crate) id: i64,
    /// The path of its webhook, with its secret.
    pub(crate) webhook: String,
}

impl Server {
    fn spawn(installation: &Installation) -> Self {
        let mut words = installation.wrapper.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_main")]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(["http", "--bind", &installation.bind, "--data-dir"])
            .arg(installation.data_dir())
            .args(&installation.arguments)
            .envs(installation.settings.iter().map(|(name, value)| (name, value)))
            .current_dir(installation.directory.path());
        let process = Process::start(command).unwrap().patience(READY);
        Self { process, address: None, token: installation.token.clone(), admin_socket: installation.admin_socket() }
    }

    /// Waits until it says where it listens.
    pub(crate) async fn wait_listening(&mut self) {
        let address =
            |line: &str| line.strip_prefix("listening on http://").map(|address| address.trim().parse().unwrap());
        self.address = Some(self.process.find_line("where it listens", address).await.unwrap());
    }

    /// Whether it becomes ready, for those that may die before.
    pub(crate) async fn comes_up(&mut self) -> bool {
        let deadline = tokio::time::Instant::now() + READY;
        while tokio::time::Instant::now() < deadline {
            if self.exits_within(Duration::from_millis(10)).await {
                return false;
            }
            let stdout = self.stdout();
            let address = stdout.lines().find_map(|line| line.strip_prefix("listening on http://"));
            self.address = address.map(|address| address.trim().parse().unwrap());
            if self.address.is_some() {
                let answer = self.client().anonymous().get("/api/health/ready").await;
                if answer.is_ok_and(|answer| answer.status == 200) {
                    return true;
                }
            }
        }
        panic!("neither ready nor dead within {READY:?}");
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// SIGSTOP, and the moment when all of its threads stand still.
    pub(crate) async fn freeze(&self) {
        self.process.freeze().await.unwrap();
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.process.thaw().unwrap();
    }

    /// The most memory that it had at once, in KiB. None once it has ended.
    pub(crate) fn peak_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        peak.trim().trim_end_matches(" kB").parse().ok()
    }

    /// Waits until it calls itself ready.
    pub(crate) async fn wait_ready(&mut self) {
        let client = self.client().anonymous();
        let ready = async || client.get("/api/health/ready").await.ok().filter(|answer| answer.status == 200);
        eventually(READY, "the server is ready", ready).await;
    }

    /// Whether it calls itself ready within this time.
    pub(crate) async fn becomes_ready(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.wait_ready()).await.is_ok()
    }

    /// The admin token, if this start has shown one.
    fn token_shown(&self) -> Option<String> {
        let prefix = "admin token (shown once): ";
        self.stdout().lines().find_map(|line| line.strip_prefix(prefix).map(|token| token.trim().to_owned()))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    /// The admin's token.
    pub(crate) fn token(&self) -> &str {
        self.token.as_deref().unwrap()
    }

    /// The REST API, as the admin.
    pub(crate) fn client(&self) -> Client {
        Client::tcp(self.address(), self.token.clone())
    }

    /// The admin socket.
    pub(crate) fn admin(&self) -> Client {
        Client::unix(&self.admin_socket)
    }

    /// An open, authenticated websocket.
    pub(crate) async fn socket(&self) -> Socket {
        Socket::open(self.address(), self.token()).await
    }

    /// A robot that follows signals, with a webhook.
    pub(crate) async fn robot(&self, name: &str) -> Robot {
        let wish = json!({
            "name": name, "symbol": "BTCUSDT", "config": {"kind": "follower", "default_qty": "0.01"},
            "start": true, "webhook": true,
        });
        let made = self.client().post_keyed("/api/robots", &format!("make-{name}"), &wish).await.unwrap().ok();
        let webhook = &made["webhook"];
        let webhook = format!("{}/{}", webhook["path"].as_str().unwrap(), webhook["secret"].as_str().unwrap());
        Robot { id: made["robot"].as_i64().unwrap(), webhook }
    }

    /// A market order for a robot.
    pub(crate) async fn signal(&self, robot: &Robot, key: &str) -> io::Result<super::Answer> {
        self.client().post_keyed("/api/signals", key, &signal_body(robot.id)).await
    }

    /// All orders, newest first.
    pub(crate) async fn orders(&self) -> Vec<Value> {
        list(&self.client().get("/api/orders?limit=500").await.unwrap().ok())
    }

    /// Waits until some order satisfies this.
    pub(crate) async fn order_that(&self, what: &str, pick: impl Fn(&Value) -> bool) -> Value {
        eventually(READY, what, async || self.orders().await.into_iter().find(|order| pick(order))).await
    }

    /// Everything it logged.
    pub(crate) fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Everything it printed.
    pub(crate) fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// Sends a signal to this process only. One that has ended already gets none.
    pub(crate) fn signal_process(&self, signal: Signal) {
        let _ended = self.process.signal(signal);
    }

    /// SIGTERM.
    pub(crate) fn sigterm(&self) {
        self.signal_process(Signal::Term);
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) async fn sigkill(mut self) {
        let exit = self.process.kill().await.unwrap();
        assert_eq!(exit, Exit::Signal(9), "killed, but it ended otherwise");
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.is_running().unwrap()
    }

    /// Waits for its end.
    pub(crate) async fn wait_exit(&mut self, limit: Duration) -> Exit {
        self.process.exit_within(limit).await.unwrap()
    }

    /// Waits until the shutdown has begun, by its own words or because nothing answers any more.
    pub(crate) async fn wait_draining(&self) {
        let admin = self.admin();
        let begun = async || match admin.get("/status").await {
            Ok(answer) => (!matches!(answer.json()["phase"].as_str(), Some("starting" | "serving"))).then_some(()),
            Err(_) => Some(()),
        };
        eventually(Duration::from_secs(5), "the shutdown begins", begun).await;
    }

    /// Waits until this phase of the shutdown runs.
    pub(crate) async fn wait_phase(&self, name: &str) {
        let admin = self.admin();
        let runs = async || (admin.get("/status").await.ok()?.json()["phase"] == name).then_some(());
        eventually(Duration::from_secs(5), format!("the phase {name}"), runs).await;
    }

    /// A connection that stays open between requests.
    pub(crate) async fn keep_alive(&self) -> KeptAlive {
        KeptAlive::open(self.address(), self.token().to_owned()).await
    }

    /// SIGTERM, and a clean end.
    pub(crate) async fn assert_stops_clean(mut self) {
        self.sigterm();
        let exit = self.wait_exit(Duration::from_secs(15)).await;
        assert_eq!(exit, CLEAN, "{}", self.stdout());
    }

    /// Whether it ends by itself within this time.
    pub(crate) async fn exits_within(&mut self, limit: Duration) -> bool {
        self.process.exit_within(limit).await.is_ok()
    }
}

/// A small market buy.
pub(crate) fn signal_body(robot: i64) -> Value {
    json!({"robot": robot, "action": "buy", "qty": "0.001", "order": {"type": "market"}})
}

/// The rows of an answer, whether it is a bare list or a page.
pub(crate) fn list(answer: &Value) -> Vec<Value> {
    let rows = answer.as_array().or_else(|| answer.get("items").and_then(Value::as_array));
    rows.unwrap_or_else(|| panic!("not a list: {answer}")).clone()
}
