//! Who must notice nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::host::{Host, PATIENCE};
use crate::support::server::{Robot, signal_body};
use crate::support::websocket::Ended;
use crate::support::{Load, Socket, eventually, within};

/// Clients of all kinds, at work until [`Clients::finish`].
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
    pub(crate) load: Load,
    tasks: JoinSet<()>,
}

#[derive(Default)]
pub(crate) struct Seen {
    failures: Mutex<Vec<String>>,
    requests: AtomicU64,
    events: AtomicU64,
    closes: Mutex<Vec<u16>>,
    slowest: Mutex<Duration>,
    /// Whether a process may die: then a request may fail.
    rough: AtomicBool,
}

impl Clients {
    /// Keep-alive connections with GET and POST, connections for one request, and websockets. `rough`: processes are killed, so
    /// that connections may break; what was answered still counts.
    pub(crate) async fn start(host: &Host, robots: &[Robot], rough: bool) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        seen.rough.store(rough, Ordering::Relaxed);
        let load = Load::new(&host.installation.scratch("answered"), "upgrade");
        let mut clients = Self { stop, seen, load, tasks: JoinSet::new() };
        for robot in robots {
            clients.keeps_alive(host, robot);
            clients.connects_anew(host, robot);
        }
        for account in [1, 2] {
            clients.listens(host, account);
        }
        let load = clients.load.clone();
        eventually(PATIENCE, "signals are answered", async || (load.answered() >= 20).then_some(())).await;
        clients
    }

    fn keeps_alive(&mut self, host: &Host, robot: &Robot) {
        let (stop, seen, load) = (Arc::clone(&self.stop), Arc::clone(&self.seen), self.load.clone());
        let (address, token, robot) = (host.address, host.token.clone(), robot.id);
        self.tasks.spawn(async move {
            let mut kept: Option<Kept> = None;
            let mut n = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let started = Instant::now();
                let key = format!("kept-{robot}-{n}");
                let post = n.is_multiple_of(2);
                let done = within(PATIENCE, "an answer", async {
                    if kept.as_ref().is_none_or(|kept| kept.sender.is_closed()) {
                        kept = Some(Kept::open(address).await?);
                    }
                    kept.as_mut().unwrap().ask(&token, post.then_some((&*key, robot))).await
                });
                match done.await {
                    Ok((status, json)) => {
                        seen.answered(if post { "kept POST" } else { "kept GET" }, status, &json, started);
                        if post && (200..300).contains(&status) {
                            load.note(&json);
                        }
                    }
                    Err(error) => {
                        kept = None;
                        seen.failed(&format!("kept {}: {error}", if post { "POST" } else { "GET" }));
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }

    fn connects_anew(&mut self, host: &Host, robot: &Robot) {
        let (stop, seen, load) = (Arc::clone(&self.stop), Arc::clone(&self.seen), self.load.clone());
        let (client, robot) = (host.client(), robot.clone());
        self.tasks.spawn(async move {
            let mut n = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let started = Instant::now();
                let key = format!("fresh-{}-{n}", robot.id);
                match client.post_keyed("/api/signals", &key, &signal_body(robot.id)).await {
                    Ok(answer) => {
                        seen.answered("fresh POST", answer.status, &answer.json(), started);
                        if answer.is_success() {
                            load.note(&answer.json());
                        }
                    }
                    Err(error) => seen.failed(&format!("fresh POST: {error}")),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }

    /// Follows an account, and goes on where it was closed.
    fn listens(&mut self, host: &Host, account: i64) {
        let (stop, seen) = (Arc::clone(&self.stop), Arc::clone(&self.seen));
        let (address, token) = (host.address, host.token.clone());
        self.tasks.spawn(async move {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut socket = match Socket::try_open(address, &token).await {
                    Ok(socket) => socket,
                    Err(error) => {
                        seen.failed(&format!("a websocket was refused: {error}"));
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                };
                socket.subscribe(account, last).await;
                let ended = loop {
                    let message = tokio::time::timeout(Duration::from_millis(100), socket.next()).await;
                    match message {
                        Err(_) if stop.load(Ordering::Relaxed) => return,
                        Err(_) => {}
                        Ok(Ok(message)) if message["op"] == "event" => {
                            let seq = message["seq"].as_i64().unwrap();
                            assert_eq!(seq, last + 1, "events of account {account} have a gap or a double");
                            last = seq;
                            seen.events.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(Ok(message)) => assert_ne!(message["op"], "resync", "{message}"),
                        Ok(Err(ended)) => break ended,
                    }
                };
                match ended {
                    Ended::Closed(code, reason) => {
                        seen.closes.lock().unwrap().push(code);
                        if code == 1012 {
                            let told: Value = serde_json::from_str(&reason).unwrap();
                            assert_eq!(told["resume"][account.to_string()], last, "the close names the last event");
                        }
                    }
                    Ended::Broken(error) => seen.failed(&format!("a websocket broke: {error}")),
                }
            }
        });
    }

    /// Lets everybody work until this many more signals are answered.
    pub(crate) async fn go_on(&self, more: u64) {
        let goal = self.load.answered() + more;
        eventually(PATIENCE, "signals are answered", async || (self.load.answered() >= goal).then_some(())).await;
    }

    /// Stops them, and fails the test if anybody noticed anything. Returns the codes with which websockets were closed.
    pub(crate) async fn finish(mut self) -> Vec<u16> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        };
        within(PATIENCE, "the clients end", ended).await;
        let failures = self.seen.failures.lock().unwrap();
        let (requests, events) = (&self.seen.requests, &self.seen.events);
        eprintln!("{requests:?} requests, slowest {:?}, {events:?} events", self.seen.slowest.lock().unwrap());
        assert!(
            self.seen.rough.load(Ordering::Relaxed) || failures.is_empty(),
            "{} failures: {failures:#?}",
            failures.len()
        );
        self.seen.closes.lock().unwrap().clone()
    }
}

impl Seen {
    fn answered(&self, what: &str, status: u16, json: &Value, started: Instant) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let took = started.elapsed();
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = took.max(*slowest);
        if !(200..300).contains(&status) {
            self.failed(&format!("{what}: {status} after {took:?}: {json}"));
        }
    }

    fn failed(&self, what: &str) {
        self.failures.lock().unwrap().push(what.to_owned());
    }
}

/// A connection that is kept as long as the server says so.
struct Kept {
    sender: SendRequest<Full<Bytes>>,
    _connection: JoinSet<()>,
}

impl Kept {
    async fn open(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            // How it ends shows in the answers.
            let _ended = connection.await;
        });
        Ok(Self { sender, _connection: connections })
    }

    async fn ask(&mut self, token: &str, post: Option<(&str, i64)>) -> Result<(u16, Value), String> {
        let request = match post {
            Some((key, robot)) => Request::builder()
                .method(Method::POST)
                .uri("/api/signals")
                .header("content-type", "application/json")
                .header("idempotency-key", key)
                .body(Full::new(Bytes::from(signal_body(robot).to_string()))),
            None => Request::builder().uri("/api/orders?limit=1").body(Full::default()),
        };
        let mut request = request.map_err(|error| error.to_string())?;
        request.headers_mut().insert("host", "localhost".parse().unwrap());
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        self.sender.ready().await.map_err(|error| error.to_string())?;
        let answer = self.sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok((head.status.as_u16(), serde_json::from_slice(&body).unwrap_or_default()))
    }
}
