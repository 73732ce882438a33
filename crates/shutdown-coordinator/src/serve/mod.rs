//! Serving an [`axum::Router`] so that a shutdown loses no request.
//!
//! `axum::serve` with a graceful shutdown does not wait for websockets (tokio-rs/axum#3003), has no header timeout
//! (#2741), and closes idle keep-alive connections at once, which loses requests that are already on their way. So this
//! module serves with hyper itself:
//!
//! - [`Server`] accepts until its phase starts. Then it takes what the kernel has queued, drops the listener, and for a
//!   **linger** answers everything with `Connection: close` (HTTP/2: GOAWAY); after that it closes what is idle. What is
//!   still open at the end of the phase is aborted, and named in the report.
//! - [`DrainLayer`] gives each request a guard of a gate, and answers 503 with `Retry-After` once the gate is closed.
//! - [`Sessions`] tracks websockets from before the upgrade until their Close handshake, in a phase of their own.
//!
//! A server's phase should be past the point of no return: an abort cannot bring the listener back.
//!
//! - [`inherited`] takes the listeners that systemd or a predecessor process hands over.
//!
//! ```no_run
//! use std::{error::Error, process::ExitCode, time::Duration};
//!
//! use axum::{Router, extract::{State, ws::WebSocketUpgrade}, http::StatusCode, response::{IntoResponse, Response}, routing::{any, get, post}};
//! use shutdown_coordinator::{Report, ShutdownCoordinator, SignalPolicy, run_main, serve::{DrainLayer, Server, Sessions}};
//!
//! const SECOND: Duration = Duration::from_secs(1);
//!
//! fn main() -> ExitCode {
//!     run_main(SECOND, service())
//! }
//!
//! async fn service() -> Result<Report, Box<dyn Error>> {
//!     let mut builder = ShutdownCoordinator::builder();
//!     let stop = builder.phase("stop-accepting").timeout(10 * SECOND).point_of_no_return().id();
//!     let streams = builder.phase("close-streams").after(&[stop]).timeout(5 * SECOND).id();
//!     let (coordinator, handle) = builder.deadline(20 * SECOND).signals(SignalPolicy::default()).build()?;
//!
//!     let websockets = Sessions::new(&handle, streams, "websockets").refuse_from(stop);
//!     let router = Router::new()
//!         // New orders are refused from the start of the drain on, with 503; what came before is finished.
//!         .route("/orders", post(async |order: String| (StatusCode::ACCEPTED, order)))
//!         .layer(DrainLayer::new(handle.gate(stop, "intake")))
//!         // Everything else is answered to the end.
//!         .route("/health", get(async || "ok"))
//!         .route("/ws", any(websocket).with_state(websockets));
//!
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//!     Server::new(&handle, stop, router).keep_connections_until(streams).serve_tcp(listener)?;
//!     Ok(coordinator.run().await)
//! }
//!
//! async fn websocket(State(websockets): State<Sessions>, upgrade: WebSocketUpgrade) -> Response {
//!     let upgraded = websockets.on_upgrade(upgrade, "ticker", async |mut socket, session| {
//!         while let Some(Some(Ok(message))) = session.closing().run_until_cancelled(socket.recv()).await {
//!             if socket.send(message).await.is_err() {
//!                 return;
//!             }
//!         }
//!         session.close(socket).await;
//!     });
//!     upgraded.unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())
//! }
//! ```
//!
//! # How a drain goes
//!
//! | when | the listener | HTTP/1 | HTTP/2 | websockets |
//! |---|---|---|---|---|
//! | before | accepts | kept alive | kept alive | open |
//! | the server's phase starts | takes its queue, closes | each answer is the last on its connection; idle ones wait for their next request | GOAWAY: open streams are answered, later ones go elsewhere | new ones refused, if [`Sessions::refuse_from`] says so |
//! | after the linger, in the phase of the connections | | idle ones are closed | | told to close, when their own phase starts |
//! | at three quarters of what the phase had left then | | half received heads are given up, and logged | silent peers and half received heads too | |
//! | at the end of the phase, and the grace | | aborted, and named in the report | aborted, and named | dropped, and named |
//!
//! # Traps
//!
//! - **A linger of zero loses requests.** A client may be sending on an idle connection at the very moment it is closed, and
//!   cannot know whether its request was taken.
//! - **A hand-over needs one listener.** Two sockets with `SO_REUSEPORT` have a queue each, and what waits in the one that
//!   closes is reset. Pass the listener itself on, and serve it as a [shared listener](Server::shared_listener).
//! - **A websocket over HTTP/2 lives inside its connection**, which a server closes at the end of its own phase. Use
//!   [`Server::keep_connections_until`] with the phase of the [`Sessions`], or it is cut off before its goodbye.
//! - **A client that goes away drops its handler in mid-await.** Work that must be finished belongs to a task or a queue of
//!   its own.
//! - **The limits here are about silence.** A client that sends a byte now and then is not silent; how long a whole request
//!   may take is for a layer of the router (`tower_http::timeout`), as is how long its body may be (axum takes 2 MB).
//! - **The limit of connections counts websockets**, and must be below that of file descriptors (`LimitNOFILE=` in a systemd
//!   unit, 1024 unless set). At either limit new clients wait in the kernel's queue; what still waits there when a linger
//!   is over is lost, unless the listener is shared.
//! - **An abort of the shutdown does not bring the listener back.** Put the server's phase past the point of no return, or
//!   serve anew with a new listener when the old server's task has ended.
//!
//! # The whole API
//!
//! ```text
//! Server::new(&handle, phase, router) -> Server: connection_limit(n), stream_limit(n), header_read_timeout(d),
//!     body_read_timeout(d), write_timeout(d), idle_timeout(d), http2_ping_interval(d), linger(d),
//!     keep_connections_until(later_phase), shared_listener(bool),
//!     serve_tcp(TcpListener), serve_unix(UnixListener), serve_inherited(Inherited) -> Result<Task<()>, ServeError>
//! inherited() -> Result<Vec<Inherited>, InheritError>          Inherited { name, socket: Tcp(..) | Unix(..) }
//! DrainLayer::new(gate): retry_after(d), on_closed(|retry_after| Response)
//! Sessions::new(&handle, phase, name): refuse_from(earlier_phase), open(), is_closed(),
//!     on_upgrade(ws, name, |socket, session| async {..}) -> Result<Response, Closed>
//! Session: closing() -> &CancellationToken, close(socket), force(), reason(), deadline() -> Option<Instant>
//! ```

mod accept;
mod body;
mod connection;
#[cfg(unix)]
mod inherited;
mod io;
mod layer;
mod websocket;

use std::{fmt, io as stdio, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};

pub use body::BodyStalled;
#[cfg(unix)]
pub use inherited::{InheritError, Inherited, InheritedSocket, inherited};
pub use layer::{DrainFuture, DrainLayer, DrainService};
pub use websocket::{Session, Sessions};

use crate::{PhaseId, ShutdownHandle, Task};
use accept::Listener;
use connection::{Drain, Shop};

/// Serves a router until its phase starts, and drains it then.
#[must_use = "a server does nothing until it is given a listener"]
pub struct Server {
    handle: ShutdownHandle,
    phase: PhaseId,
    keep_until: PhaseId,
    router: Router,
    limits: Limits,
}

/// What a server allows.
#[derive(Clone, Copy, Debug)]
struct Limits {
    connections: usize,
    streams: u32,
    header_read_timeout: Duration,
    body_read_timeout: Duration,
    write_timeout: Duration,
    idle_timeout: Duration,
    ping_interval: Option<Duration>,
    linger: Duration,
    shared_listener: bool,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The phase in which it would stop has started already.
    #[error("the shutdown has begun")]
    ShuttingDown,
    /// The caller is outside of a tokio runtime.
    #[error("there is no tokio runtime here")]
    NoRuntime,
    /// One of its phases belongs to another coordinator.
    #[error("a phase of the server belongs to another coordinator")]
    ForeignPhase,
    /// A setting is zero, with which nothing could ever be served.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// The runtime did not take the listener.
    #[error("the listener cannot be served")]
    Listener(#[from] stdio::Error),
}

impl Server {
    /// A server that stops accepting when `phase` starts and is drained in it. The phase needs a timeout or reserve that
    /// is longer than the linger.
    pub fn new(handle: &ShutdownHandle, phase: PhaseId, router: Router) -> Self {
        let limits = Limits {
            connections: 10_000,
            streams: 200,
            header_read_timeout: Duration::from_secs(10),
            body_read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            ping_interval: Some(Duration::from_secs(30)),
            linger: Duration::from_secs(1),
            shared_listener: false,
        };
        Self { handle: handle.clone(), phase, keep_until: phase, router, limits }
    }

    /// How many connections may be open at a time, upgraded ones included; more wait in the kernel's queue. Keep it below
    /// the limit of file descriptors. 10,000 by default; not zero.
    pub fn connection_limit(mut self, connections: usize) -> Self {
        self.limits.connections = connections.min(Semaphore::MAX_PERMITS);
        self
    }

    /// How many streams an HTTP/2 connection may have open at a time, which its client is told. 200 by default; not zero.
    pub fn stream_limit(mut self, streams: u32) -> Self {
        self.limits.streams = streams;
        self
    }

    /// How long a request's head may take from its first byte, and a new connection may stay silent. A connection that
    /// is past it is closed, at twice that at the latest. 10 s by default; not zero; [`Duration::MAX`] is never.
    pub fn header_read_timeout(mut self, timeout: Duration) -> Self {
        self.limits.header_read_timeout = timeout;
        self
    }

    /// How long a handler that reads a request's body waits for its next byte. Then it gets [`BodyStalled`], and if it
    /// answers that it failed, the client is told 408. 30 s by default; not zero; [`Duration::MAX`] is never.
    pub fn body_read_timeout(mut self, timeout: Duration) -> Self {
        self.limits.body_read_timeout = timeout;
        self
    }

    /// How long a peer may take nothing of what is sent to it. Then its connection is closed, at twice that at the latest.
    /// Does not see an HTTP/2 peer that closes the window of a stream. 30 s by default; not zero; [`Duration::MAX`] is
    /// never.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.limits.write_timeout = timeout;
        self
    }

    /// How long a connection may wait for its next request. 75 s by default; not zero; [`Duration::MAX`] is for ever.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle_timeout = timeout;
        self
    }

    /// How often a silent HTTP/2 peer is asked whether it lives. If it does not say so within the time for a head, at most
    /// 20 s, its connection is closed. 30 s by default; not zero; [`Duration::MAX`] is never.
    pub fn http2_ping_interval(mut self, interval: Duration) -> Self {
        // Above a day nobody waits for the answer, and hyper would add it to a moment.
        self.limits.ping_interval = (interval <= Duration::from_hours(24)).then_some(interval);
        self
    }

    /// How long idle connections are kept after the phase has started, so that requests on their way are answered; at
    /// most three quarters of the phase. 1 s by default. With zero they are closed at once, which loses requests.
    ///
    /// As long at most does a server wait for the peer of an HTTP/2 connection to close it, once it has said GOAWAY and closed
    /// its own side: closed at once, a request on its way would be answered with a reset, which may hide the GOAWAY.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.limits.linger = linger;
        self
    }

    /// Keeps open connections until a later phase, so that they go on being answered while the phases between run: each
    /// answer is the last on its connection. The server's own phase then waits for its listener and for the requests that
    /// came before it; the later phase waits for the connections, at least for the linger.
    pub fn keep_connections_until(mut self, later: PhaseId) -> Self {
        self.keep_until = later;
        self
    }

    /// Whether another process accepts from the same listener. Then what is queued is left to that process; otherwise
    /// it is accepted first, since the kernel resets it with the listener.
    pub fn shared_listener(mut self, shared: bool) -> Self {
        self.limits.shared_listener = shared;
        self
    }

    /// Serves a TCP listener. Handlers find the peer's address as `ConnectInfo<SocketAddr>`.
    ///
    /// The task ends when the last connection has, in the server's phase. Errors of `accept` never end it.
    pub fn serve_tcp(self, listener: TcpListener) -> Result<Task<()>, ServeError> {
        let name = listener.local_addr().map_or_else(|_| "tcp".to_owned(), |address| address.to_string());
        self.serve(listener, &name)
    }

    /// Serves a Unix listener. As [`Server::serve_tcp`], without an address of the peer.
    #[cfg(unix)]
    pub fn serve_unix(self, listener: tokio::net::UnixListener) -> Result<Task<()>, ServeError> {
        let address = listener.local_addr().ok();
        let path = address.as_ref().and_then(|address| address.as_pathname());
        let name = path.map_or_else(|| "unix".to_owned(), |path| path.display().to_string());
        self.serve(listener, &name)
    }

    fn serve<L: Listener>(self, listener: L, name: &str) -> Result<Task<()>, ServeError> {
        self.limits.check()?;
        let Self { handle, phase, keep_until, router, limits } = self;
        if [phase, keep_until].iter().any(|phase| handle.shared().phase(*phase).is_none()) {
            return Err(ServeError::ForeignPhase);
        }
        let requests = handle.gate(phase, format!("requests of {name}"));
        let listening = requests.enter_named(format!("listener {name}")).map_err(|_| ServeError::ShuttingDown)?;
        let connections = handle.gate(keep_until, format!("connections of {name}"));
        let root = connections.enter().map_err(|_| ServeError::ShuttingDown)?;
        let shop = Arc::new(Shop { router, limits, requests, drain: watch::Sender::new(Drain::Serving) });
        let phases = accept::Phases { stop: phase, close: keep_until };
        let accept = accept::run(listener, listening, handle.clone(), phases, shop, root);
        handle.spawn(keep_until, format!("serve {name}"), accept).map_err(|rejected| match rejected.cause {
            crate::RejectCause::PhaseStarted | crate::RejectCause::ScopeStopped => ServeError::ShuttingDown,
            crate::RejectCause::NoRuntime => ServeError::NoRuntime,
            crate::RejectCause::ForeignPhase => ServeError::ForeignPhase,
        })
    }
}

impl Limits {
    fn check(&self) -> Result<(), ServeError> {
        let settings = [
            ("connection_limit", self.connections == 0),
            ("stream_limit", self.streams == 0),
            ("header_read_timeout", self.header_read_timeout.is_zero()),
            ("body_read_timeout", self.body_read_timeout.is_zero()),
            ("write_timeout", self.write_timeout.is_zero()),
            ("idle_timeout", self.idle_timeout.is_zero()),
            ("http2_ping_interval", self.ping_interval.is_some_and(|interval| interval.is_zero())),
        ];
        settings.iter().find(|(_, is_zero)| *is_zero).map_or(Ok(()), |(name, _)| Err(ServeError::Zero(name)))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("phase", &self.phase).field("limits", &self.limits).finish_non_exhaustive()
    }
}
