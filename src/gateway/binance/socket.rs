//! WebSocket connections to the venue, and how long to wait between two attempts at one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};

/// Events are below a kilobyte.
const MAX_MESSAGE: usize = 1 << 20;

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// The handshake, the network or the protocol failed.
    #[error("{0}")]
    Broken(#[from] Box<tungstenite::Error>),
    /// The other side closed it.
    #[error("closed by the venue")]
    Closed,
    /// No answer to the handshake.
    #[error("no connection in time")]
    Timeout,
    /// Nothing, not even a ping, arrived for too long.
    #[error("silent for {0:?}")]
    Silent(Duration),
}

impl From<tungstenite::Error> for SocketError {
    fn from(error: tungstenite::Error) -> Self {
        Self::Broken(Box::new(error))
    }
}

/// How sockets are opened.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) connect_timeout: Duration,
    pub(crate) silence: Duration,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("silence", &self.silence).finish_non_exhaustive()
    }
}

/// A connection, and when it was last heard of.
#[derive(Debug)]
pub(crate) struct Line {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    heard: Instant,
    silence: Duration,
}

impl Dialer {
    /// Opens a connection.
    pub(crate) async fn dial(&self, url: &str) -> Result<Line, SocketError> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE))
            .max_write_buffer_size(2 * MAX_MESSAGE);
        let connector = Connector::Rustls(Arc::clone(&self.tls));
        // On the heap: a TLS handshake is a large future.
        let connecting = Box::pin(connect_async_tls_with_config(url, Some(config), true, Some(connector)));
        let (socket, _) = timeout(self.connect_timeout, connecting).await.map_err(|_| SocketError::Timeout)??;
        Ok(Line { socket, heard: Instant::now(), silence: self.silence })
    }
}

impl Line {
    /// The next text. Pings are answered on the way. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Utf8Bytes, SocketError> {
        loop {
            let frame = timeout_at(self.heard + self.silence, self.socket.next()).await;
            let message = frame.map_err(|_| SocketError::Silent(self.silence))?.ok_or(SocketError::Closed)??;
            self.heard = Instant::now();
            match message {
                Message::Text(text) => return Ok(text),
                Message::Close(_) => return Err(SocketError::Closed),
                _ => {}
            }
        }
    }

    /// Sends a text.
    pub(crate) async fn send(&mut self, text: String) -> Result<(), SocketError> {
        Ok(self.socket.send(Message::text(text)).await?)
    }
}

/// Waits between attempts: doubled each time up to a cap, each drawn from its upper half, so that clients that lost their
/// venue together do not come back together. The cap keeps below the venue's 300 connections in five minutes.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

const FIRST: Duration = Duration::from_millis(200);
const MOST: Duration = Duration::from_secs(30);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// How long to wait now.
    pub(crate) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(MOST);
        let spread = u64::try_from(wait.as_micros() / 2).unwrap_or(u64::MAX).max(1);
        wait / 2 + Duration::from_micros(rand::random::<u64>() % spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_cap_and_differ() {
        let mut backoff = Backoff::new();
        let waits: Vec<Duration> = (0..40).map(|_| backoff.wait()).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST);
        assert!(waits[39] >= MOST / 2 && waits.iter().all(|wait| *wait <= MOST));
        assert!(waits[20..].windows(2).any(|pair| pair[0] != pair[1]));
    }
}
