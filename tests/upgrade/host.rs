//! A host with slots, without systemd: the test itself owns the listener.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::{Value, json};

use crate::support::server::Robot;
use crate::support::{CLEAN, Client, Installation, Server, eventually};

/// On a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than a drain.
pub(crate) const EXIT: Duration = Duration::from_secs(20);
/// For tests in which somebody dies. Elsewhere a lease must outlast whatever a busy machine does.
pub(crate) const SHORT_LEASE: (&str, &str) = ("HOTGO__TRADING__LEASE_TTL_MS", "3000");

pub(crate) struct Host {
    pub(crate) installation: Installation,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    slots: usize,
    listener: TcpListener,
}

/// A process in a slot.
pub(crate) struct Slot {
    pub(crate) server: Server,
    pub(crate) id: String,
}

impl Host {
    /// One process that serves, with two paper accounts.
    pub(crate) async fn mortal() -> (Self, Slot) {
        let mut installation = Installation::new();
        installation.set(SHORT_LEASE.0, SHORT_LEASE.1);
        Self::with(installation).await
    }

    /// The same, with leases that outlast everything.
    pub(crate) async fn new() -> (Self, Slot) {
        Self::with(Installation::new()).await
    }

    pub(crate) async fn with(mut installation: Installation) -> (Self, Slot) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        for (name, value) in [
            ("HOTGO__INSTANCE__SHARE", "true"),
            ("HOTGO__INSTANCE__HAND_OVER_MS", "2000"),
            ("HOTGO__TRADING__ACCOUNTS", r#"[{"label":"main","venue":"paper"},{"label":"second","venue":"paper"}]"#),
            ("HOTGO__VENUE__PAPER__OPENING__USDT", "100000000"),
            ("HOTGO__SHUTDOWN__LINGER_MS", "1000"),
            ("HOTGO__SHUTDOWN__STOP_ACCEPTING_MS", "3000"),
            ("HOTGO__SHUTDOWN__CLOSE_STREAMS_MS", "2000"),
            ("HOTGO__SHUTDOWN__DEADLINE_MS", "10000"),
            ("HOTGO__SHUTDOWN__STOP_BUDGET_MS", "14000"),
        ] {
            installation.set(name, value);
        }
        let address = listener.local_addr().unwrap();
        let mut host = Self { installation, address, token: String::new(), slots: 0, listener };
        host.trace("");
        let mut first = host.spawn("at_once");
        first.wait_listening().await;
        host.installation.admit(&mut first);
        first.token().clone_into(&mut host.token);
        first.wait_ready().await;
        let first = host.known(first).await;
        (host, first)
    }

    /// Later processes are run by this command, such as `strace -D`; it must leave them their process id. They inherit the
    /// listener as systemd would give it to them.
    pub(crate) fn trace(&mut self, command: &str) {
        let fd = self.listener.as_raw_fd();
        let script = format!("exec 3<&{fd} {fd}<&-; export LISTEN_PID=$$ LISTEN_FDS=1; exec {command} \"$0\" \"$@\"");
        self.installation.wrap(["bash", "-c", &script]);
    }

    /// A process beside those that are there.
    pub(crate) fn spawn(&mut self, accept: &str) -> Server {
        self.slots += 1;
        let socket = self.installation.scratch(&format!("{}.sock", self.slots));
        self.installation.set("HOTGO__ADMIN__SOCKET", socket.to_str().unwrap());
        self.installation.set("HOTGO__SERVER__ACCEPT", accept);
        self.installation.spawn()
    }

    async fn known(&self, server: Server) -> Slot {
        let admin = server.admin();
        let ready =
            async || admin.get("/status").await.ok().map(|answer| answer.json()).filter(|it| it["ready"] == true);
        let status = eventually(PATIENCE, "it is ready", ready).await;
        Slot { server, id: status["instance"].as_str().unwrap().to_owned() }
    }

    /// A candidate that is ready and does not accept.
    pub(crate) async fn candidate(&mut self) -> Slot {
        let server = self.spawn("on_command");
        let candidate = self.known(server).await;
        let status = candidate.status().await;
        assert_eq!(status["accepting"], false);
        for engine in status["engines"].as_array().unwrap() {
            assert_eq!(engine["state"], "standby", "{engine}");
        }
        candidate
    }

    /// The public listener, whoever accepts.
    pub(crate) fn client(&self) -> Client {
        Client::tcp(self.address, Some(self.token.clone()))
    }

    /// A robot that follows signals, on each account, and a grid that trades by itself.
    pub(crate) async fn robots(&self) -> Vec<Robot> {
        let mut robots = Vec::new();
        for account in [1, 2] {
            let wish = json!({
                "account": account, "name": format!("follower-{account}"), "symbol": "BTCUSDT",
                "config": {"kind": "follower", "default_qty": "0.01"}, "start": true, "webhook": false,
            });
            let made = self.make(&wish).await;
            robots.push(Robot { id: made["robot"].as_i64().unwrap(), webhook: String::new() });
        }
        self.make(&json!({
            "account": 1, "name": "grid", "symbol": "BTCUSDT", "start": true,
            "config": {"kind": "grid", "lower": "86500", "upper": "87500", "levels": 21, "qty": "0.001"},
        }))
        .await;
        robots
    }

    async fn make(&self, wish: &Value) -> Value {
        let name = wish["name"].as_str().unwrap();
        self.client().post_keyed("/api/robots", &format!("make-{name}"), wish).await.unwrap().ok()
    }

    /// The whole upgrade as a tool does it. Returns who serves then.
    pub(crate) async fn upgrade(&mut self, old: Slot) -> Slot {
        let new = self.candidate().await;
        let test = new.get("/self-test").await;
        assert_eq!(test["ok"], true, "{test}");
        new.post("/accept", json!({})).await;
        old.post("/hand-over", json!({ "to": new.id })).await;
        new.owns_all().await;
        old.leaves().await;
        new
    }
}

impl Slot {
    pub(crate) async fn get(&self, path: &str) -> Value {
        self.server.admin().get(path).await.unwrap().ok()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        self.server.admin().post(path, &body).await.unwrap().ok()
    }

    pub(crate) async fn status(&self) -> Value {
        self.get("/status").await
    }

    /// Waits until it trades all accounts.
    pub(crate) async fn owns_all(&self) {
        let owns = async || {
            let status = self.server.admin().get("/status").await.ok()?.json();
            status["engines"].as_array()?.iter().all(|engine| engine["ready"] == true).then_some(())
        };
        let what = format!("{} trades all accounts", self.id);
        let late = tokio::time::timeout(PATIENCE, eventually(PATIENCE * 2, &what, owns)).await.is_err();
        assert!(!late, "not in time: {what}: {}\n{}", self.status().await["engines"], self.server.stderr());
    }

    /// SIGTERM after all was handed over, and a clean end.
    pub(crate) async fn leaves(mut self) {
        self.server.sigterm();
        let exit = self.server.wait_exit(EXIT).await;
        assert_eq!(exit, CLEAN, "{}\n{}", self.server.stdout(), self.server.stderr());
    }
}
