//! A small client of the private socket, for `main status`, the deployment tool and tests.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::StatusReport;
use super::api::ShutdownRequest;

const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no server answers on {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No whole answer within the time limit.
    #[error("the server did not answer within {0:?}")]
    Timeout(Duration),
    /// The connection broke, or the answer is not HTTP.
    #[error("the connection to the server broke: {0}")]
    Broken(String),
    /// The server refused.
    #[error("the server answered {status}: {body}")]
    Refused {
        /// The status code.
        status: StatusCode,
        /// The answer's text.
        body: String,
    },
    /// The answer is not what was expected: another version, perhaps.
    #[error("the server's answer cannot be read")]
    Unreadable(#[source] serde_json::Error),
}

/// Talks to one server. Every call opens a connection of its own and is bounded in time.
#[derive(Debug, Clone)]
pub struct AdminClient {
    path: PathBuf,
    timeout: Duration,
}

impl AdminClient {
    /// A client of the server with this private socket.
    pub fn new(socket: &Path, timeout: Duration) -> Self {
        Self { path: socket.to_owned(), timeout }
    }

    /// How the server stands.
    pub async fn status(&self) -> Result<StatusReport, ClientError> {
        self.get("/status").await
    }

    /// Asks for a shutdown. False if one runs already.
    pub async fn shutdown(&self, reason: &str) -> Result<bool, ClientError> {
        let request = ShutdownRequest { reason: reason.to_owned() };
        let answer: serde_json::Value = decode(&self.post("/shutdown", &request).await?)?;
        Ok(answer.get("started").and_then(serde_json::Value::as_bool).unwrap_or_default())
    }

    /// `GET`, JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        decode(&self.call(Method::GET, path, Vec::new()).await?)
    }

    /// `GET`, as it comes.
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        self.call(Method::GET, path, Vec::new()).await
    }

    /// `POST` of JSON; the answer as it comes.
    pub async fn post<B: Serialize>(&self, path: &str, body: &B) -> Result<Bytes, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Unreadable)?;
        self.call(Method::POST, path, body).await
    }

    async fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, ClientError> {
        let call = self.call_unbounded(method, path, body);
        tokio::time::timeout(self.timeout, call).await.unwrap_or(Err(ClientError::Timeout(self.timeout)))
    }

    async fn call_unbounded(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, ClientError> {
        let broken = |error: &dyn std::error::Error| ClientError::Broken(error.to_string());
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|source| ClientError::Unreachable { path: self.path.clone(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("connection", "close")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| broken(&error))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            let body = String::from_utf8_lossy(&body).chars().take(2_000).collect();
            Err(ClientError::Refused { status, body })
        };
        // The connection is driven by this very call, not by a task that could outlive it.
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            ended = &mut connection => match ended {
                // The answer may have been read whole before the connection ended.
                Ok(()) => exchange.await,
                Err(error) => Err(broken(&error)),
            },
        }
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(ClientError::Unreadable)
}
