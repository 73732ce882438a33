//! A websocket client.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::within;

/// An open, authenticated websocket.
pub(crate) struct Socket {
    inner: WebSocketStream<TcpStream>,
}

/// How a websocket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By a Close frame with this code and reason.
    Closed(u16, String),
    /// Without one.
    Broken(String),
}

impl Socket {
    /// Opens `/api/ws` and authenticates.
    pub(crate) async fn open(address: SocketAddr, token: &str) -> Self {
        let open = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let (inner, _) = client_async(format!("ws://{address}/api/ws"), stream).await.unwrap();
            let mut socket = Self { inner };
            socket.send(&json!({"op": "auth", "token": token})).await;
            socket.wait_for("welcome", |message| message["op"] == "welcome").await;
            socket
        };
        within(Duration::from_secs(10), "a websocket opens", open).await
    }

    /// Subscribes to an account's events after `since_seq`.
    pub(crate) async fn subscribe(&mut self, account: i64, since_seq: i64) {
        self.send(&json!({"op": "subscribe", "account": account, "since_seq": since_seq})).await;
    }

    /// Sends a message.
    pub(crate) async fn send(&mut self, message: &Value) {
        self.inner.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next JSON message that `pick` wants.
    pub(crate) async fn wait_for(&mut self, what: &str, mut pick: impl FnMut(&Value) -> bool) -> Value {
        within(Duration::from_secs(15), what, async {
            loop {
                match self.inner.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let value: Value = serde_json::from_str(&text).unwrap();
                        if pick(&value) {
                            return value;
                        }
                    }
                    Some(Ok(_)) => {}
                    other => panic!("the websocket ended while waiting for {what}: {other:?}"),
                }
            }
        })
        .await
    }

    /// The next JSON message, or how it ended.
    pub(crate) async fn next(&mut self) -> Result<Value, Ended> {
        loop {
            return match self.inner.next().await {
                Some(Ok(Message::Text(text))) => Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    Err(Ended::Closed(frame.code.into(), frame.reason.to_string()))
                }
                Some(Ok(Message::Close(None))) => Err(Ended::Closed(1005, String::new())),
                Some(Ok(_)) => continue,
                Some(Err(error)) => Err(Ended::Broken(error.to_string())),
                None => Err(Ended::Broken("end of stream".into())),
            };
        }
    }

    /// Opens `/api/ws`, or says why there is none.
    pub(crate) async fn try_open(address: SocketAddr, token: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let (inner, _) = client_async(format!("ws://{address}/api/ws"), stream).await.map_err(std::io::Error::other)?;
        let mut socket = Self { inner };
        socket.send(&json!({"op": "auth", "token": token})).await;
        Ok(socket)
    }

    /// Reads until it ends.
    pub(crate) async fn until_end(&mut self, limit: Duration) -> Ended {
        within(limit, "the websocket ends", async {
            loop {
                match self.inner.next().await {
                    Some(Ok(Message::Close(Some(frame)))) => {
                        return Ended::Closed(frame.code.into(), frame.reason.to_string());
                    }
                    Some(Ok(Message::Close(None))) => return Ended::Closed(1005, String::new()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Ended::Broken(error.to_string()),
                    None => return Ended::Broken("end of stream".into()),
                }
            }
        })
        .await
    }
}
