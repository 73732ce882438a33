//! What a connection is doing, seen from its bytes and its requests.

use std::{
    fmt,
    future::Future as _,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::http::{Method, Uri, Version};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::task::TaskTracker;

use super::{Limits, connection::Peer};
use crate::sync::{later, lock};

/// What one connection is doing. Its `Display` names it in the report.
pub(super) struct Activity {
    peer: Peer,
    state: Mutex<State>,
    streams: TaskTracker,
}

struct State {
    http2: bool,
    /// Bytes before the first request, up to the length of an HTTP/2 preface.
    preface: usize,
    /// Requests that have begun, ever.
    requests: u64,
    /// Requests without a complete answer.
    in_flight: usize,
    /// The last one to begin.
    last: Option<(Method, Uri)>,
    /// When the first byte of a head came that is not complete.
    head_since: Option<Instant>,
    /// Since when the peer has taken nothing of what is there to be written.
    stalled_since: Option<Instant>,
    /// When it was accepted, or the last answer was complete.
    idle_since: Instant,
}

/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`
const PREFACE_LENGTH: usize = 24;

/// What a connection deserves at some moment.
pub(super) enum Verdict {
    /// Ask again then.
    Fine(Instant),
    /// It has been idle for too long.
    Idle,
    /// A head takes too long, or none has ever come, or the peer does not take its answer.
    TooSlow,
}

impl Activity {
    pub(super) fn new(peer: Peer) -> Self {
        let state = State {
            http2: false,
            preface: 0,
            requests: 0,
            in_flight: 0,
            last: None,
            head_since: None,
            stalled_since: None,
            idle_since: Instant::now(),
        };
        Self { peer, state: Mutex::new(state), streams: TaskTracker::new() }
    }

    fn bytes_came(&self, bytes: &[u8]) {
        let mut state = lock(&self.state);
        if state.requests == 0 {
            state.http2 |= state.preface == 0 && bytes.starts_with(b"PRI ");
            state.preface = state.preface.saturating_add(bytes.len()).min(PREFACE_LENGTH);
        }
        // HTTP/2 has frames of its own while no request is in flight; a body's bytes belong to a request that is.
        if state.in_flight == 0 && state.head_since.is_none() && !(state.http2 && state.requests > 0) {
            state.head_since = Some(Instant::now());
        }
    }

    fn write_stalls(&self, stalls: bool) {
        lock(&self.state).stalled_since = stalls.then(Instant::now);
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

    /// The tasks of HTTP/2 streams. One that was upgraded has no request in flight, but its task lives.
    pub(super) fn streams(&self) -> &TaskTracker {
        &self.streams
    }

    /// Whether it has sent a whole HTTP/2 preface. Before that hyper does not know what it will be.
    pub(super) fn is_http2(&self) -> bool {
        let state = lock(&self.state);
        state.http2 && state.preface == PREFACE_LENGTH
    }

    /// Whether a head is half received.
    pub(super) fn is_in_head(&self) -> bool {
        lock(&self.state).head_since.is_some()
    }

    /// Whether it has no request to answer and no answer to send.
    pub(super) fn is_quiet(&self) -> bool {
        let state = lock(&self.state);
        state.in_flight == 0 && self.streams.is_empty() && state.stalled_since.is_none()
    }

    pub(super) fn verdict(&self, limits: &Limits) -> Verdict {
        let now = Instant::now();
        let state = lock(&self.state);
        let busy = state.in_flight > 0 || !self.streams.is_empty();
        // A head may begin, or a write stall, right after this look.
        let again = later(now, limits.header_read_timeout.min(limits.write_timeout));
        let head_due = |since| later(since, limits.header_read_timeout);
        let (due, verdict) = match (state.stalled_since, state.head_since) {
            (Some(since), _) => (later(since, limits.write_timeout), Verdict::TooSlow),
            (None, _) if busy => (again, Verdict::Idle),
            // It may have a request on its way: it is told to take it elsewhere.
            (None, Some(since)) if state.http2 && state.preface == PREFACE_LENGTH => (head_due(since), Verdict::Idle),
            (None, Some(since)) => (head_due(since), Verdict::TooSlow),
            (None, None) if state.requests == 0 => (head_due(state.idle_since), Verdict::TooSlow),
            (None, None) => (later(state.idle_since, limits.idle_timeout), Verdict::Idle),
        };
        if due <= now { verdict } else { Verdict::Fine(due.min(again)) }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        write!(f, "{}: ", self.peer)?;
        let streams = self.streams.len();
        match (&state.last, state.head_since) {
            (Some((method, uri)), _) if state.in_flight > 0 => {
                write!(f, "{method} {} in flight", uri.path())?;
                if state.in_flight > 1 {
                    write!(f, " and {} more", state.in_flight - 1)?;
                }
                if state.stalled_since.is_some() {
                    f.write_str(", not read by the peer")?;
                }
                Ok(())
            }
            (Some((method, uri)), _) if state.stalled_since.is_some() => {
                write!(f, "answer to {method} {} not read by the peer", uri.path())
            }
            _ if streams > 0 => write!(f, "{streams} upgraded HTTP/2 streams open"),
            _ if state.http2 && state.requests == 0 => f.write_str("HTTP/2 without a request"),
            _ if state.http2 => f.write_str("HTTP/2 without a whole request"),
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
    io: I,
    activity: Arc<Activity>,
    /// Whether the last write found no room.
    stalled: bool,
    /// How long the peer of an HTTP/2 connection may take to close it after us.
    linger: Duration,
    /// Runs once our side is closed.
    lingers: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl<I> Watched<I> {
    pub(super) fn new(io: I, activity: Arc<Activity>, linger: Duration, permit: OwnedSemaphorePermit) -> Self {
        Self { io, activity, stalled: false, linger, lingers: None, _permit: permit }
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if self.stalled != written.is_pending() {
            self.stalled = written.is_pending();
            self.activity.write_stalls(self.stalled);
        }
        written
    }
}

impl<I: AsyncRead + Unpin> Watched<I> {
    fn poll_peer_closes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let end = later(Instant::now(), self.linger);
        let lingers = self.lingers.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if lingers.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut waste = [0; 1024];
        loop {
            let mut buf = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }
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

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingers.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        }
        // A client of HTTP/2 may send before it has read that it must not any more. Closed at once, the kernel would answer
        // with a reset, and the client might see that instead of the GOAWAY which says what it may send again. So what
        // still comes is thrown away, until the client closes, too.
        if self.activity.is_http2() { self.poll_peer_closes(cx).map(Ok) } else { Poll::Ready(Ok(())) }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
