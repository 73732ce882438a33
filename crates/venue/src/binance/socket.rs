//! What both kinds of websockets have in common: pings, bounds on size and time, the end.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use serde_json::Value;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Who is silent for longer is gone.
const SILENCE: Duration = Duration::from_mins(1);
const LIFETIME: Duration = Duration::from_hours(24);
/// How long a peer may take to take one message, or to answer a Close.
const PATIENCE: Duration = Duration::from_secs(2);
const MESSAGE_LIMIT_BYTES: usize = 65_536;
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// The connection is over; there is nothing more to say.
#[derive(Debug)]
pub(super) struct Over;

/// A websocket with its clocks.
pub(super) struct Socket {
    inner: WebSocket,
    pings: Interval,
    heard: Instant,
    /// The connection ends then.
    pub(super) until: Instant,
}

/// With the limits that every websocket has.
pub(super) fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .max_message_size(MESSAGE_LIMIT_BYTES)
        .max_frame_size(MESSAGE_LIMIT_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES)
}

impl Socket {
    pub(super) fn new(inner: WebSocket) -> Self {
        let now = Instant::now();
        let mut pings = interval_at(now + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { inner, pings, heard: now, until: now + LIFETIME }
    }

    /// The next text; pings its peer meanwhile.
    ///
    /// Cancel safety: no message is lost.
    pub(super) async fn next(&mut self) -> Result<Utf8Bytes, Over> {
        loop {
            tokio::select! {
                message = self.inner.recv() => {
                    self.heard = Instant::now();
                    match message {
                        Some(Ok(Message::Text(text))) => return Ok(text),
                        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_))) => {}
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Over),
                    }
                }
                _ = self.pings.tick() => {
                    if self.heard.elapsed() > SILENCE {
                        return Err(Over);
                    }
                    self.put(Message::Ping(axum::body::Bytes::new())).await?;
                }
            }
        }
    }

    pub(super) async fn send(&mut self, value: &Value) -> Result<(), Over> {
        self.put(Message::Text(value.to_string().into())).await
    }

    async fn put(&mut self, message: Message) -> Result<(), Over> {
        match timeout(PATIENCE, self.inner.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Over),
        }
    }

    /// Says goodbye, and waits a moment for the answer.
    pub(super) async fn close(mut self, reason: &'static str) {
        let frame = CloseFrame { code: close_code::AWAY, reason: reason.into() };
        if self.put(Message::Close(Some(frame))).await.is_ok() {
            let goodbye = async { while let Some(Ok(_)) = self.inner.recv().await {} };
            // A peer that does not answer is dropped.
            let _late = timeout(PATIENCE, goodbye).await;
        }
    }
}
