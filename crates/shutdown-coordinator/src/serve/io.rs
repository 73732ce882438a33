//! What a connection is doing, seen from its bytes and its requests.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use axum::http::{Method, Uri, Version};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::Instant,
};

use super::{Limits, connection::Peer};
use crate::sync::lock;

/// What one connection is doing. Its `Display` names it in the report.
pub(super) struct Activity {
    peer: Peer,
    state: Mutex<State>,
}

struct State {
    http2: bool,
    /// Requests that have begun, ever.
    requests: u64,
    /// Requests without a complete answer.
    in_flight: usize,
    /// The last one to begin.
    last: Option<(Method, Uri)>,
    /// When the first byte of a head came that is not complete.
    head_since: Option<Instant>,
    /// When it was accepted, or the last answer was complete.
    idle_since: Instant,
}

/// What a connection deserves at some moment.
pub(super) enum Verdict {
    /// Nothing is due before this.
    Fine(Instant),
    /// It has been idle for too long.
    Idle,
    /// A head takes too long, or none has ever come.
    TooSlow,
}

impl Activity {
    pub(super) fn new(peer: Peer) -> Self {
        let state =
            State { http2: false, requests: 0, in_flight: 0, last: None, head_since: None, idle_since: Instant::now() };
        Self { peer, state: Mutex::new(state) }
    }

    fn bytes_came(&self, bytes: &[u8]) {
        let mut state = lock(&self.state);
        if state.requests == 0 && bytes.starts_with(b"PRI ") {
            state.http2 = true;
        }
        // HTTP/2 has frames of its own while no request is in flight; a body's bytes belong to a request that is.
        if state.in_flight == 0 && state.head_since.is_none() && !(state.http2 && state.requests > 0) {
            state.head_since = Some(Instant::now());
        }
    }

    /// A request has begun; it ends when the ticket is dropped.
    pub(super) fn request(self: &Arc<Self>, method: &Method, uri: &Uri, version: Version) -> Ticket {
        let mut state = lock(&self.state);
        state.http2 |= version == Version::HTTP_2;
        state.requests += 1;
        state.in_flight += 1;
        state.head_since = None;
        state.last = Some((method.clone(), uri.clone()));
        Ticket(Arc::clone(self))
    }

    pub(super) fn is_http2(&self) -> bool {
        lock(&self.state).http2
    }

    /// Whether it has never had a byte from its peer.
    pub(super) fn is_untouched(&self) -> bool {
        let state = lock(&self.state);
        state.requests == 0 && state.head_since.is_none()
    }

    /// Whether nothing but a half received head is open.
    pub(super) fn is_in_head(&self) -> bool {
        let state = lock(&self.state);
        state.in_flight == 0 && state.head_since.is_some()
    }

    /// Whether a head after the first is half received. hyper takes such a connection for an idle one.
    pub(super) fn is_in_later_head(&self) -> bool {
        let state = lock(&self.state);
        state.requests > 0 && state.head_since.is_some()
    }

    pub(super) fn verdict(&self, limits: &Limits) -> Verdict {
        let now = Instant::now();
        let state = lock(&self.state);
        let (due, verdict) = match (state.in_flight, state.head_since) {
            (1.., _) => (now + limits.idle_timeout.max(limits.header_read_timeout), Verdict::Idle),
            (0, Some(since)) => (since + limits.header_read_timeout, Verdict::TooSlow),
            (0, None) if state.requests == 0 => (state.idle_since + limits.header_read_timeout, Verdict::TooSlow),
            (0, None) => (state.idle_since + limits.idle_timeout, Verdict::Idle),
        };
        if due <= now { verdict } else { Verdict::Fine(due) }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        write!(f, "{}: ", self.peer)?;
        match (&state.last, state.head_since) {
            (Some((method, uri)), _) if state.in_flight > 0 => {
                write!(f, "{method} {} in flight", uri.path())?;
                if state.in_flight > 1 {
                    write!(f, " and {} more", state.in_flight - 1)?;
                }
                Ok(())
            }
            (_, Some(_)) => f.write_str("head half received"),
            (_, None) => f.write_str("idle"),
        }
    }
}

/// A request that has no complete answer.
pub(super) struct Ticket(Arc<Activity>);

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.in_flight -= 1;
        if state.in_flight == 0 {
            state.idle_since = Instant::now();
        }
    }
}

/// A stream that reports its bytes, and counts against the limit of connections as long as it lives, upgraded or not.
pub(super) struct Watched<I> {
    pub(super) io: I,
    pub(super) activity: Arc<Activity>,
    pub(super) _permit: OwnedSemaphorePermit,
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if let Some(bytes) = buf.filled().get(before..).filter(|bytes| !bytes.is_empty()) {
            self.activity.bytes_came(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
