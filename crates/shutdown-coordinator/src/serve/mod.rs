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
//! ```text
//! Server::new(&handle, phase, router) -> Server: connection_limit(n), header_read_timeout(d), idle_timeout(d), linger(d),
//!     keep_connections_until(later_phase), shared_listener(bool), serve_tcp(TcpListener), serve_unix(UnixListener) -> Result<Task<()>, ServeError>
//! DrainLayer::new(gate): retry_after(d), on_closed(|retry_after| Response)
//! Sessions::new(&handle, phase, name): refuse_from(earlier_phase), open(), is_closed(),
//!     on_upgrade(ws, name, |socket, session| async {..}) -> Result<Response, Closed>
//! Session: closing() -> &CancellationToken, force(), reason(), deadline() -> Option<Instant>
//! ```

mod accept;
mod connection;
mod io;
mod layer;
mod websocket;

use std::{fmt, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};

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
    header_read_timeout: Duration,
    idle_timeout: Duration,
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
}

impl Server {
    /// A server that stops accepting when `phase` starts and is drained in it. The phase needs a timeout or reserve that
    /// is longer than the linger.
    pub fn new(handle: &ShutdownHandle, phase: PhaseId, router: Router) -> Self {
        let limits = Limits {
            connections: 10_000,
            header_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            linger: Duration::from_secs(1),
            shared_listener: false,
        };
        Self { handle: handle.clone(), phase, keep_until: phase, router, limits }
    }

    /// How many connections may be open at a time, upgraded ones included; more wait in the kernel's queue. Keep it below
    /// the limit of file descriptors. 10,000 by default.
    pub fn connection_limit(mut self, connections: usize) -> Self {
        self.limits.connections = connections.min(Semaphore::MAX_PERMITS);
        self
    }

    /// How long a request's head may take from its first byte, and a new connection may stay silent. 10 s by default.
    pub fn header_read_timeout(mut self, timeout: Duration) -> Self {
        self.limits.header_read_timeout = timeout;
        self
    }

    /// How long a connection may wait for its next request. 75 s by default.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle_timeout = timeout;
        self
    }

    /// How long idle connections are kept after the phase has started, so that requests on their way are answered; at
    /// most three quarters of the phase. 1 s by default.
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

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("phase", &self.phase).field("limits", &self.limits).finish_non_exhaustive()
    }
}
