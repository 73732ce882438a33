//! A session's socket with a limit on every wait.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::Error;
use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use futures_util::SinkExt;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::protocol::code;

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The connection broke.
    Gone,
    /// The peer sent its Close.
    ClosedByPeer,
    /// The socket did not take a round in time.
    Slow,
    /// The server goes away.
    Shutdown,
    /// Close with this code and, if nothing was followed, these words.
    Close(u16, &'static str),
}

/// What a peer says.
#[derive(Debug)]
pub(super) enum Heard {
    /// A request, still to be parsed.
    Text(Utf8Bytes),
    /// It lives.
    Pong,
    /// Its ping, which the websocket answers by itself.
    Ping,
}

#[derive(Debug)]
pub(super) struct Peer {
    socket: WebSocket,
    closing: CancellationToken,
    send_timeout: Duration,
    close_timeout: Duration,
    round_until: Instant,
}

impl Peer {
    pub(super) fn new(
        socket: WebSocket,
        closing: CancellationToken,
        send_timeout: Duration,
        close_timeout: Duration,
    ) -> Self {
        Self { socket, closing, send_timeout, close_timeout, round_until: Instant::now() + send_timeout }
    }

    /// What the peer says next. Cancel safe.
    pub(super) async fn hear(&mut self) -> Result<Heard, End> {
        match self.socket.recv().await {
            Some(Ok(Message::Text(text))) => Ok(Heard::Text(text)),
            Some(Ok(Message::Pong(_))) => Ok(Heard::Pong),
            Some(Ok(Message::Ping(_))) => Ok(Heard::Ping),
            Some(Ok(Message::Binary(_))) => Err(End::Close(code::UNSUPPORTED, "text frames only")),
            Some(Ok(Message::Close(_))) => Err(End::ClosedByPeer),
            Some(Err(error)) if is_too_large(&error) => Err(End::Close(code::TOO_LARGE, "the message is too large")),
            Some(Err(_)) | None => Err(End::Gone),
        }
    }

    /// Begins a round: what is fed until its flush has to be taken within the send timeout.
    pub(super) fn begin_round(&mut self) {
        self.round_until = Instant::now() + self.send_timeout;
    }

    /// Puts a frame into the write buffer. Cancel safe: either the frame is in the buffer and this is ready, or not.
    pub(super) async fn feed(&mut self, frame: Utf8Bytes) -> Result<(), End> {
        self.feed_message(Message::Text(frame)).await
    }

    /// Sends the write buffer. Cancel safe.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        let socket = &mut self.socket;
        let flushed = poll_fn(|cx| socket.poll_flush_unpin(cx));
        in_time(flushed, self.round_until, &self.closing, self.close_timeout).await
    }

    /// One frame as a round of its own.
    pub(super) async fn send(&mut self, frame: Utf8Bytes) -> Result<(), End> {
        self.begin_round();
        self.feed(frame).await?;
        self.flush().await
    }

    pub(super) async fn ping(&mut self) -> Result<(), End> {
        self.begin_round();
        self.feed_message(Message::Ping(Bytes::new())).await?;
        self.flush().await
    }

    async fn feed_message(&mut self, message: Message) -> Result<(), End> {
        let socket = &mut self.socket;
        let ready = poll_fn(|cx| socket.poll_ready_unpin(cx));
        in_time(ready, self.round_until, &self.closing, self.close_timeout).await?;
        self.socket.start_send_unpin(message).map_err(|_| End::Gone)
    }

    /// Sends Close, unless the peer was first, and waits for the peer's.
    pub(super) async fn close(mut self, frame: Option<CloseFrame>, until: Instant) {
        let handshake = async {
            if let Some(frame) = frame
                && self.socket.send(Message::Close(Some(frame))).await.is_err()
            {
                return;
            }
            while let Some(Ok(_)) = self.socket.recv().await {}
        };
        if timeout_at(until, handshake).await.is_err() {
            tracing::debug!("a websocket peer did not answer the Close in time");
        }
    }
}

/// Waits for the socket until `until`, and not much longer than a Close may take once the server is closing. No timer is made
/// when the socket is ready, which is nearly always.
async fn in_time(
    ready: impl Future<Output = Result<(), Error>>,
    until: Instant,
    closing: &CancellationToken,
    close_timeout: Duration,
) -> Result<(), End> {
    let mut ready = pin!(ready);
    if let Poll::Ready(result) = poll_fn(|cx| Poll::Ready(ready.as_mut().poll(cx))).await {
        return result.map_err(|_| End::Gone);
    }
    let closed = async {
        closing.cancelled().await;
        sleep(close_timeout).await;
    };
    tokio::select! {
        result = ready => result.map_err(|_| End::Gone),
        () = sleep_until(until) => Err(End::Slow),
        () = closed => Err(End::Slow),
    }
}

/// axum does not name the kind of a websocket error, and which version of tungstenite it wraps is its own affair, so this
/// goes by the words. A test sends a message that is too large.
fn is_too_large(error: &Error) -> bool {
    error.to_string().contains("Message too long")
}
