//! Clients of the real server that must notice nothing of an upgrade: kept, fresh and thinking connections, and websockets
//! that resume. They work until a file is gone; then the last line on standard output says what they have seen.
//!
//! `clients ADDRESS TOKEN ANSWERED UNTIL_GONE SOCKETS ROBOT...`: robot n is on account n, and follows signals. ANSWERED gets
//! the signals with a 2xx, as `main audit --answered` reads them.
//!
//! `clients burst ADDRESS COUNT` opens so many connections at once, sends a request on each, and says how many were answered.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::large_futures,
    missing_docs,
    reason = "a tool of the tests"
)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// Longer than any answer may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two requests of those that do not think.
const PAUSE: Duration = Duration::from_millis(60);
const GAP: &str = "a gap or a double: event ";
const CONNECT: &str = "connect: ";
/// Failures that are told one by one.
const TOLD: usize = 20;

struct House {
    address: SocketAddr,
    token: String,
    until_gone: PathBuf,
    answered: Mutex<File>,
    seen: Mutex<Seen>,
    start: Instant,
}

#[derive(Default)]
struct Seen {
    waits_us: Vec<u128>,
    failed: u64,
    /// Of these: events that were missing or came twice, and connections that were not taken. All are counted, few are told.
    gaps: u64,
    unconnected: u64,
    failures: Vec<String>,
    events: u64,
    closes: BTreeMap<u16, u64>,
    first_close_ms: Option<u128>,
    last_close_ms: u128,
    /// Idle connections that the server closed: nothing was sent on them.
    closed_idle: u64,
    /// Signals that a server without a successor has refused while it drained, to be sent again: they were.
    again: u64,
}

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One connection for many requests.
    Kept,
    /// A connection for each.
    Fresh,
    /// Sends a part of a request, thinks, and sends the rest.
    Halting,
    /// Thinks for one to two seconds between the requests of a connection.
    Thinking,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words[0] == "burst" {
        println!("{}", burst(words[1].parse().unwrap(), words[2].parse().unwrap()).await);
        return;
    }
    let house = Arc::new(House {
        address: words[0].parse().unwrap(),
        token: words[1].clone(),
        answered: Mutex::new(OpenOptions::new().create(true).append(true).open(&words[2]).unwrap()),
        until_gone: words[3].clone().into(),
        seen: Mutex::default(),
        start: Instant::now(),
    });
    let mut tasks = tokio::task::JoinSet::new();
    for (robot, account) in words[5..].iter().map(|robot| robot.parse::<i64>().unwrap()).zip(1_i64..) {
        for kind in [Kind::Kept, Kind::Kept, Kind::Fresh, Kind::Halting, Kind::Thinking, Kind::Thinking] {
            let name = format!("{kind:?}-{account}-{}-{}", tasks.len(), std::process::id());
            tasks.spawn(Arc::clone(&house).asks(kind, name, robot));
        }
    }
    let accounts = i64::try_from(words.len() - 5).unwrap();
    for number in 0..words[4].parse::<i64>().unwrap() {
        tasks.spawn(Arc::clone(&house).listens(number % accounts + 1));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            house.fails(&error.to_string());
        }
    }
    println!("{}", house.seen.lock().unwrap().sum());
}

/// How many of the connections were answered.
async fn burst(address: SocketAddr, count: usize) -> usize {
    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..count {
        connections.spawn(async move {
            let mut connection = Connection(TcpStream::connect(address).await.ok()?);
            connection.0.write_all(b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.ok()?;
            let answer = timeout(PATIENCE, connection.answer()).await;
            matches!(answer, Ok(Ok((200, ..)))).then_some(())
        });
    }
    connections.join_all().await.into_iter().flatten().count()
}

impl Seen {
    fn sum(&mut self) -> Value {
        self.waits_us.sort_unstable();
        let ms = |per_mille: usize| {
            let index = (self.waits_us.len() * per_mille / 1_000).min(self.waits_us.len().saturating_sub(1));
            self.waits_us.get(index).map(|us| us.div_ceil(1_000))
        };
        json!({
            "requests": self.waits_us.len(), "failed": self.failed, "gaps": self.gaps, "unconnected": self.unconnected, "failures": self.failures, "events": self.events,
            "closes": self.closes, "closes_spread_ms": self.last_close_ms - self.first_close_ms.unwrap_or(self.last_close_ms),
            "closed_idle": self.closed_idle, "again": self.again,
            "median_ms": ms(500), "p99_ms": ms(990), "longest_ms": ms(1_000),
        })
    }
}

impl House {
    fn goes_on(&self) -> bool {
        self.until_gone.exists()
    }

    fn fails(&self, what: &str) {
        let mut seen = self.seen.lock().unwrap();
        seen.failed += 1;
        seen.gaps += u64::from(what.contains(GAP));
        seen.unconnected += u64::from(what.contains(CONNECT));
        if seen.failures.len() < TOLD {
            seen.failures.push(format!("at {} ms: {what}", self.start.elapsed().as_millis()));
        }
    }

    async fn asks(self: Arc<Self>, kind: Kind, name: String, robot: i64) {
        let mut kept: Option<Connection> = None;
        let mut n = 0_u64;
        while self.goes_on() {
            n += 1;
            let key = format!("{name}-{n}");
            let post = n.is_multiple_of(2).then_some((&*key, robot));
            if kind == Kind::Fresh || kept.as_ref().is_some_and(Connection::is_closed) {
                self.seen.lock().unwrap().closed_idle += u64::from(kept.take().is_some());
            }
            let thought = Duration::from_millis(n.wrapping_mul(379) % 1_000 + 1_000);
            let halt = if kind == Kind::Halting { thought } else { Duration::ZERO };
            let start = Instant::now();
            let mut done = timeout(PATIENCE, self.ask(&mut kept, post, halt)).await;
            while matches!(done, Ok(Ok((503, _)))) && start.elapsed() < PATIENCE {
                self.seen.lock().unwrap().again += 1;
                sleep(PAUSE).await;
                done = timeout(PATIENCE, self.ask(&mut kept, post, Duration::ZERO)).await;
            }
            match done {
                Ok(Ok((200..300, body))) => {
                    self.seen.lock().unwrap().waits_us.push(start.elapsed().saturating_sub(halt).as_micros());
                    if post.is_some() {
                        let body: Value = serde_json::from_str(&body).unwrap_or_default();
                        let line = json!({ "source": body["source"], "dedup_key": body["key"] });
                        writeln!(self.answered.lock().unwrap(), "{line}").unwrap();
                    }
                }
                Ok(Ok((status, body))) => self.fails(&format!("{key}: {status} {body}")),
                Ok(Err(error)) => self.fails(&format!("{key}: {error} after {:?}", start.elapsed())),
                Err(_) => self.fails(&format!("{key}: no answer")),
            }
            if kind == Kind::Fresh {
                kept = None;
            }
            sleep(if kind == Kind::Thinking { thought } else { PAUSE }).await;
        }
    }

    /// One request, on the connection that is kept, if there is one. It keeps itself only if the server keeps it.
    async fn ask(
        &self,
        kept: &mut Option<Connection>,
        post: Option<(&str, i64)>,
        halt: Duration,
    ) -> Result<(u16, String), String> {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection(TcpStream::connect(self.address).await.map_err(|error| format!("{CONNECT}{error}"))?),
        };
        let token = &self.token;
        let request = match post {
            Some((key, robot)) => {
                let body = json!({ "robot": robot, "action": "buy", "qty": "0.001", "order": { "type": "market" } });
                let body = body.to_string();
                format!(
                    "POST /api/signals HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: {key}\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
            None => {
                format!("GET /api/orders?limit=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n")
            }
        };
        let (first, rest) = if halt.is_zero() { (&*request, "") } else { request.split_at(request.len() - 10) };
        let failed = |what: &str| format!("{what} ({})", if halt.is_zero() { "at once" } else { "in two parts" });
        connection.0.write_all(first.as_bytes()).await.map_err(|error| failed(&format!("send: {error}")))?;
        if !rest.is_empty() {
            sleep(halt).await;
            connection
                .0
                .write_all(rest.as_bytes())
                .await
                .map_err(|error| failed(&format!("send the rest: {error}")))?;
        }
        let (status, body, last) = connection.answer().await.map_err(|error| failed(&error))?;
        if !last {
            *kept = Some(connection);
        }
        Ok((status, body))
    }

    /// Follows an account, and goes on where it was closed.
    async fn listens(self: Arc<Self>, account: i64) {
        let mut last = 0;
        while self.goes_on() {
            match timeout(PATIENCE, self.subscribe(account, last)).await {
                Ok(Ok(mut socket)) => match self.follow(&mut socket, account, &mut last).await {
                    Ok(()) => {
                        let _unseen = socket.close(None).await;
                    }
                    Err(what) => self.fails(&format!("websocket of account {account} after {last}: {what}")),
                },
                Ok(Err(error)) => self.fails(&format!("websocket: {error}")),
                Err(_) => self.fails("websocket: no welcome"),
            }
        }
    }

    async fn subscribe(&self, account: i64, since: i64) -> Result<WebSocketStream<TcpStream>, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| format!("{CONNECT}{error}"))?;
        let opened = client_async(format!("ws://{}/api/ws", self.address), stream).await;
        let (mut socket, _) = opened.map_err(|error| format!("upgrade: {error}"))?;
        for message in [
            json!({ "op": "auth", "token": self.token }),
            json!({ "op": "subscribe", "account": account, "since_seq": since }),
        ] {
            socket.send(Message::text(message.to_string())).await.map_err(|error| error.to_string())?;
        }
        Ok(socket)
    }

    /// Until it is closed, or the work is over.
    async fn follow(
        &self,
        socket: &mut WebSocketStream<TcpStream>,
        account: i64,
        last: &mut i64,
    ) -> Result<(), String> {
        loop {
            let Ok(message) = timeout(Duration::from_millis(500), socket.next()).await else {
                if self.goes_on() {
                    continue;
                }
                return Ok(());
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
                    match message["op"].as_str() {
                        Some("event") => {
                            let seq = message["seq"].as_i64().unwrap_or_default();
                            if seq != *last + 1 {
                                return Err(format!("{GAP}{seq}"));
                            }
                            *last = seq;
                            self.seen.lock().unwrap().events += 1;
                        }
                        Some("resync" | "error") => return Err(message.to_string()),
                        _ => {}
                    }
                    if !self.goes_on() {
                        return Ok(());
                    }
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    let code = u16::from(frame.code);
                    let at_ms = self.start.elapsed().as_millis();
                    {
                        let mut seen = self.seen.lock().unwrap();
                        *seen.closes.entry(code).or_default() += 1;
                        seen.first_close_ms.get_or_insert(at_ms);
                        seen.last_close_ms = at_ms;
                    }
                    // The number to resume from is in it whether a successor follows (1012) or not (1001).
                    let told: Value = serde_json::from_str(&frame.reason).unwrap_or_default();
                    return match told["resume"][account.to_string()].as_i64() {
                        Some(resume) if resume == *last => Ok(()),
                        _ => Err(format!("closed with {code} {}", frame.reason)),
                    };
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("it ended without a close".to_owned()),
            }
        }
    }
}

struct Connection(TcpStream);

impl Connection {
    /// Whether the server has closed it while it was idle.
    fn is_closed(&self) -> bool {
        match self.0.try_read(&mut [0]) {
            Err(error) => error.kind() != ErrorKind::WouldBlock,
            Ok(_) => true,
        }
    }

    /// Status, body, and whether the server says that this was the last answer.
    async fn answer(&mut self) -> Result<(u16, String, bool), String> {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let header = |name: &str| {
                    head.lines()
                        .filter_map(|line| line.split_once(':'))
                        .find(|(key, _)| *key == name)
                        .map(|(_, value)| value.trim())
                };
                let length: usize =
                    header("content-length").and_then(|length| length.parse().ok()).ok_or("no length")?;
                if body.len() >= length {
                    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
                    return Ok((status, body.to_owned(), header("connection") == Some("close")));
                }
            }
            let mut buffer = [0; 16 << 10];
            match self.0.read(&mut buffer).await {
                Ok(0) => return Err(format!("end after the request, {} bytes of its answer came", bytes.len())),
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) => return Err(format!("read: {error}")),
            }
        }
    }
}
