//! A bounded load: so many connections, each with one request under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hotgo::auth::signature::{Signable, sign};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _task: JoinSet<()>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            // The server may close first.
            let _closed = connection.await;
        });
        Self { sender, _task: task }
    }

    pub(crate) async fn get(&mut self, path: &str) -> u16 {
        let request = Request::get(path).header("host", "localhost").body(Full::default()).unwrap();
        self.send(request).await.0
    }

    pub(crate) async fn post(&mut self, path: &str, token: &str, key: &str, body: String) -> (u16, Bytes) {
        let request = Request::post(path)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(Full::from(body))
            .unwrap();
        self.send(request).await
    }

    /// As [`Connection::post`], signed by a key with this id instead of with its token.
    async fn post_signed(&mut self, path: &str, id: &str, token: &str, key: &str, body: String) -> (u16, Bytes) {
        let (at, nonce) = (hotgo::clock::Clock::start().now(), format!("bench-nonce-{key}"));
        let signable =
            Signable { method: "POST", path, query: "", idempotency_key: key.as_bytes(), body: body.as_bytes() };
        let request = Request::post(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .header("x-hotgo-key", id)
            .header("x-hotgo-timestamp", at.millis())
            .header("x-hotgo-nonce", &nonce)
            .header("x-hotgo-signature", sign(token, &signable.message(at, &nonce)))
            .body(Full::from(body))
            .unwrap();
        self.send(request).await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> (u16, Bytes) {
        self.sender.ready().await.unwrap();
        let answer = self.sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    }
}

/// What a round came to.
pub(crate) struct Round {
    pub(crate) per_second: f64,
    /// Sorted.
    pub(crate) latencies: Vec<Duration>,
}

impl Round {
    pub(crate) fn quantile_ms(&self, percent: usize) -> f64 {
        self.latencies[(self.latencies.len() - 1) * percent / 100].as_secs_f64() * 1e3
    }
}

/// `count` requests over `connections`; `request` sends the n-th and says whether it succeeded.
pub(crate) async fn load<F>(address: SocketAddr, connections: usize, count: usize, request: F) -> Round
where
    F: AsyncRequest,
{
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(address).await);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let request = Arc::new(request);
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for mut connection in open {
        let (next, request) = (Arc::clone(&next), Arc::clone(&request));
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return latencies;
                }
                let sent = Instant::now();
                request.send(&mut connection, n).await;
                latencies.push(sent.elapsed());
            }
        });
    }
    let mut latencies = Vec::with_capacity(count);
    while let Some(ended) = tasks.join_next().await {
        latencies.extend(ended.unwrap());
    }
    let per_second = count as f64 / started.elapsed().as_secs_f64();
    latencies.sort();
    Round { per_second, latencies }
}

/// One request of a load.
pub(crate) trait AsyncRequest: Send + Sync + 'static {
    fn send(&self, connection: &mut Connection, n: usize) -> impl Future<Output = ()> + Send;
}

/// `GET` of a path.
pub(crate) struct Get(pub(crate) &'static str);

impl AsyncRequest for Get {
    async fn send(&self, connection: &mut Connection, _: usize) {
        assert_eq!(connection.get(self.0).await, 200);
    }
}

/// Signals to one robot, under names that never repeat.
pub(crate) struct Signals {
    pub(crate) token: String,
    /// The id of the key, if it signs.
    pub(crate) signer: Option<String>,
    pub(crate) robot: i64,
    pub(crate) prefix: String,
    pub(crate) order: serde_json::Value,
}

impl AsyncRequest for Signals {
    async fn send(&self, connection: &mut Connection, n: usize) {
        let body = serde_json::json!({"robot": self.robot, "action": "buy", "qty": "0.0001", "order": self.order});
        let key = format!("{}-{n}", self.prefix);
        let (path, token, body) = ("/api/signals", &self.token, body.to_string());
        let (status, answer) = match &self.signer {
            None => connection.post(path, token, &key, body).await,
            Some(id) => connection.post_signed(path, id, token, &key, body).await,
        };
        assert!((200..300).contains(&status), "{status}: {}", String::from_utf8_lossy(&answer));
    }
}
