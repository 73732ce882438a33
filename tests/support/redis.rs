//! A Redis server of a test's own: it may be killed, frozen and emptied.

use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue};
use serde_json::{Value, json};
use shutdown_coordinator::testkit::{Exit, Process};
use tempfile::TempDir;
use tokio::process::Command;

use super::{Installation, eventually};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a Unix socket in a directory of its own, and on a TCP port if it was started so. It keeps nothing: whatever kills it empties it.
pub(crate) struct RedisServer {
    directory: TempDir,
    arguments: Vec<String>,
    password: Option<String>,
    process: Option<Process>,
}

impl RedisServer {
    /// Starts one.
    pub(crate) async fn start() -> Self {
        let mut server = Self::absent();
        server.restart().await;
        server
    }

    /// Starts one that listens on a free TCP port of the loopback too.
    pub(crate) async fn with_port() -> (Self, u16) {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self::absent();
        server.arguments = vec!["--port".to_owned(), port.to_string(), "--bind".to_owned(), "127.0.0.1".to_owned()];
        server.restart().await;
        (server, port)
    }

    /// Starts one that asks for a password.
    pub(crate) async fn with_password(password: &str) -> Self {
        let mut server = Self::absent();
        server.arguments = ["--requirepass", password].map(str::to_owned).to_vec();
        server.password = Some(password.to_owned());
        server.restart().await;
        server
    }

    /// One that does not run yet.
    pub(crate) fn absent() -> Self {
        let directory = tempfile::Builder::new().prefix("redis-").tempdir().unwrap();
        Self { directory, arguments: Vec::new(), password: None, process: None }
    }

    /// Starts it, empty, if it does not run.
    pub(crate) async fn restart(&mut self) {
        if self.process.is_some() {
            return;
        }
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no", "--unixsocket"]);
        command.arg(self.socket()).arg("--dir").arg(self.directory.path()).args(&self.arguments);
        let process = Process::start(command);
        let mut process = process
            .unwrap_or_else(|error| panic!("redis-server is needed (Debian: apt-get install redis-server): {error}"))
            .patience(PATIENCE);
        let ready = |line: &str| line.to_lowercase().contains("ready to accept connections").then_some(());
        process.find_line("Redis takes connections", ready).await.unwrap();
        self.process = Some(process);
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        assert_eq!(process.kill().await.unwrap(), Exit::Signal(9));
    }

    /// SIGSTOP: it takes connections (the kernel does) and answers nothing.
    pub(crate) async fn freeze(&self) {
        self.process.as_ref().expect("it runs").freeze().await.unwrap();
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.process.as_ref().expect("it runs").thaw().unwrap();
    }

    /// FLUSHALL.
    pub(crate) async fn flush(&self) {
        self.ask::<()>(&redis::cmd("FLUSHALL")).await;
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Its URL, without a password.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A file of the test's.
    pub(crate) fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// One command, from outside.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query_async(&mut self.connect().await).await.unwrap()
    }

    async fn connect(&self) -> MultiplexedConnection {
        let url = match &self.password {
            Some(password) => format!("{}?pass={password}", self.url()),
            None => self.url(),
        };
        let settings = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let client = Client::open(url).unwrap();
        client.get_multiplexed_async_connection_with_config(&settings).await.unwrap()
    }
}

/// The stream that [`Installation::signals_from`] names.
pub(crate) const STREAM: &str = "hotgo:signals";
pub(crate) const GROUP: &str = "hotgo";
/// Of another consumer, after so long. The shortest that is allowed.
const CLAIM_AFTER_MS: &str = "1000";

impl Installation {
    /// Tells later processes to use this server, and to take signals from [`STREAM`].
    pub(crate) fn signals_from(&mut self, redis: &RedisServer) {
        self.set("HOTGO__REDIS__URL", &redis.url());
        self.set("HOTGO__REDIS__SIGNALS__STREAM", STREAM);
        self.set("HOTGO__REDIS__SIGNALS__GROUP", GROUP);
        self.set("HOTGO__REDIS__SIGNALS__CLAIM_AFTER_MS", CLAIM_AFTER_MS);
    }
}

/// A small market buy with this name.
pub(crate) fn streamed(robot: i64, id: &str) -> Value {
    json!({"id": id, "robot": robot, "action": "buy", "qty": "0.001", "order": {"type": "market"}})
}

impl RedisServer {
    /// Puts an entry on the stream.
    pub(crate) async fn put(&self, signal: &Value) -> String {
        self.put_raw(&[("signal", &signal.to_string())]).await
    }

    /// Puts any fields on the stream.
    pub(crate) async fn put_raw(&self, fields: &[(&str, &str)]) -> String {
        self.ask(redis::cmd("XADD").arg(STREAM).arg("*").arg(fields)).await
    }

    /// Takes one new entry as another consumer, and does nothing about it.
    pub(crate) async fn read_and_forget(&self, consumer: &str) {
        let mut make = redis::cmd("XGROUP");
        make.arg("CREATE").arg(STREAM).arg(GROUP).arg("0").arg("MKSTREAM");
        // There may be one already.
        let _exists = make.query_async::<()>(&mut self.connect().await).await;
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(consumer).arg("COUNT").arg(1).arg("STREAMS").arg(STREAM).arg(">");
        let taken: redis::Value = self.ask(&read).await;
        assert_ne!(taken, redis::Value::Nil, "there was no new entry");
    }

    /// Waits until every entry is acknowledged, and taken off the stream.
    pub(crate) async fn all_acknowledged(&self) {
        let empty = async || {
            let length: u64 = self.ask(redis::cmd("XLEN").arg(STREAM)).await;
            (length == 0 && self.pending().await == 0).then_some(())
        };
        eventually(PATIENCE, "every entry is acknowledged", empty).await;
    }

    /// How many entries were delivered and not acknowledged.
    pub(crate) async fn pending(&self) -> u64 {
        let mut ask = redis::cmd("XPENDING");
        ask.arg(STREAM).arg(GROUP);
        let answer: Vec<redis::Value> = ask.query_async(&mut self.connect().await).await.unwrap_or_default();
        answer.first().map_or(0, |count| redis::from_redis_value_ref(count).unwrap())
    }

    /// The dead letters: id and fields of each.
    pub(crate) async fn dead_letters(&self) -> Vec<Vec<(String, String)>> {
        let mut ask = redis::cmd("XRANGE");
        ask.arg(format!("{STREAM}:dead")).arg("-").arg("+");
        let letters: Vec<(String, Vec<(String, String)>)> = self.ask(&ask).await;
        letters.into_iter().map(|(_, fields)| fields).collect()
    }
}
