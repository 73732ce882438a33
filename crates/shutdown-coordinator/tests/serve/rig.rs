//! A server under a coordinator, clients that speak plain HTTP/1, and what was logged.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    routing::{get, post},
};
use futures_util::{StreamExt as _, stream};
use shutdown_coordinator::{PhaseId, Report, ShutdownCoordinator, ShutdownHandle, serve::Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};
use tracing_subscriber::fmt::MakeWriter;

use crate::common::{build, secs, soon};

/// A coordinator that runs, with a phase for the server and a later one for its streams.
pub(crate) struct Rig {
    pub(crate) handle: ShutdownHandle,
    pub(crate) stop: PhaseId,
    pub(crate) streams: PhaseId,
    pub(crate) running: JoinSet<Report>,
}

impl Rig {
    pub(crate) fn new(timeout: Duration) -> Self {
        let mut builder = ShutdownCoordinator::builder();
        let stop = builder.phase("stop-accepting").timeout(timeout).id();
        let streams = builder.phase("close-streams").after(&[stop]).timeout(secs(2)).id();
        let (coordinator, handle) = build(builder.deadline(secs(120)));
        let mut running = JoinSet::new();
        running.spawn(coordinator.run());
        Self { handle, stop, streams, running }
    }

    pub(crate) async fn serve(&self, router: Router, change: impl FnOnce(Server) -> Server) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        change(Server::new(&self.handle, self.stop, router)).serve_tcp(listener).unwrap();
        address
    }

    /// Until the server's phase has started.
    pub(crate) async fn stopping(&self) {
        soon(self.handle.token(self.stop).cancelled()).await;
    }

    pub(crate) async fn report(&mut self) -> Report {
        soon(self.running.join_next()).await.unwrap().unwrap()
    }

    pub(crate) async fn clean_report(&mut self) {
        let report = self.report().await;
        assert!(report.is_clean(), "{report}");
    }
}

pub(crate) fn hello() -> Router {
    Router::new()
        .route("/", get(async || "hello"))
        .route("/echo", post(async |body: String| body))
        .route("/peer", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()))
}

/// A handler that says when it has a request, and answers when it may.
#[derive(Clone, Default)]
pub(crate) struct Held {
    pub(crate) arrived: Arc<Notify>,
    pub(crate) go_on: Arc<Notify>,
}

impl Held {
    /// `hello` and the held one at `/held`.
    pub(crate) fn router(&self) -> Router {
        let held = self.clone();
        let handler = async move || {
            held.arrived.notify_one();
            held.go_on.notified().await;
            "held"
        };
        hello().route("/held", get(handler))
    }
}

pub(crate) const CHUNK: &[u8] = &[b'x'; 8 * 1024];

/// `/big`: an answer without an end.
pub(crate) fn endless() -> Router {
    let answer = async || {
        let chunks = stream::repeat(Bytes::from_static(CHUNK)).map(Ok::<_, io::Error>);
        Body::from_stream(chunks)
    };
    hello().route("/big", get(answer))
}

pub(crate) const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
pub(crate) const GET_HELD: &[u8] = b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n";
pub(crate) const GET_BIG: &[u8] = b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n";
pub(crate) const HALF_HEAD: &[u8] = b"GET / HTTP/1.1\r\n";
pub(crate) const HALF_BODY: &[u8] = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf-";

/// Sends a request and reads one answer with a content length; the head and the body.
pub(crate) async fn ask(stream: &mut TcpStream, request: &[u8]) -> io::Result<String> {
    stream.write_all(request).await?;
    answer(stream).await
}

pub(crate) async fn answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = Vec::new();
    loop {
        let mut chunk = [0; 1024];
        let count = soon(stream.read(&mut chunk)).await?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(&chunk[..count]);
        let so_far = String::from_utf8(text.clone()).unwrap();
        if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            if body.len() >= length {
                return Ok(so_far);
            }
        }
    }
}

/// Whether the server closes the connection before it says anything.
pub(crate) async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(soon(stream.read(&mut [0; 16])).await, Ok(0) | Err(_))
}

/// As the report calls a connection.
pub(crate) fn own(stream: &TcpStream) -> String {
    stream.local_addr().unwrap().to_string()
}

/// Everything that was logged on this thread.
#[derive(Clone, Default)]
pub(crate) struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// Listens until the guard is dropped.
    pub(crate) fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let logs = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(logs.clone())
            .finish();
        (logs, tracing::subscriber::set_default(subscriber))
    }

    /// The first line that has all of these.
    pub(crate) fn line(&self, parts: &[&str]) -> Option<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
    }

    pub(crate) fn all(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
