//! A small HTTP/1.1 client over TCP or a Unix socket: one connection per request, nothing retried, everything bounded.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// No answer takes longer than this; the server's own request limit is shorter.
const ANSWER: Duration = Duration::from_secs(20);

/// Where to.
#[derive(Debug, Clone)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Whom to ask, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    target: Target,
    token: Option<String>,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether it is a 2xx.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The JSON of a 2xx, or a failed test.
    pub(crate) fn ok(&self) -> Value {
        assert!(self.is_success(), "status {}: {}", self.status, String::from_utf8_lossy(&self.body));
        self.json()
    }
}

impl Client {
    /// To the public listener.
    pub(crate) fn tcp(address: SocketAddr, token: Option<String>) -> Self {
        Self { target: Target::Tcp(address), token }
    }

    /// To the admin socket.
    pub(crate) fn unix(path: &Path) -> Self {
        Self { target: Target::Unix(path.to_owned()), token: None }
    }

    /// The same, without credentials.
    pub(crate) fn anonymous(&self) -> Self {
        Self { target: self.target.clone(), token: None }
    }

    pub(crate) async fn get(&self, path: &str) -> io::Result<Answer> {
        self.request(Method::GET, path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> io::Result<Answer> {
        self.request(Method::POST, path, &[("content-type", "application/json")], Some(body.to_string())).await
    }

    /// A POST that names itself by an `Idempotency-Key`.
    pub(crate) async fn post_keyed(&self, path: &str, key: &str, body: &Value) -> io::Result<Answer> {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        self.request(Method::POST, path, &headers, Some(body.to_string())).await
    }

    /// Any request with any text as its body.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> io::Result<Answer> {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(io::Error::other)?;
        let answer = async {
            match &self.target {
                Target::Tcp(address) => exchange(TcpStream::connect(address).await?, request).await,
                Target::Unix(path) => exchange(UnixStream::connect(path).await?, request).await,
            }
        };
        timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// One connection that stays open between requests.
pub(crate) struct KeptAlive {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    token: String,
    _connection: tokio::task::JoinSet<()>,
}

impl KeptAlive {
    /// Connects, and asks once, so that the connection is an idle one from then on.
    pub(crate) async fn open(address: SocketAddr, token: String) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut connections = tokio::task::JoinSet::new();
        connections.spawn(async move {
            // How it ends shows in the answers.
            let _ended = connection.await;
        });
        let mut kept = Self { sender, token, _connection: connections };
        assert_eq!(kept.get("/api/health/live").await.status, 200);
        kept
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask(Request::builder().uri(path), String::new()).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Answer {
        let request = Request::builder().method(Method::POST).uri(path).header("content-type", "application/json");
        self.ask(request, body.to_string()).await
    }

    async fn ask(&mut self, request: hyper::http::request::Builder, body: String) -> Answer {
        let request = request.header("host", "localhost").header("authorization", format!("Bearer {}", self.token));
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let answer = async {
            self.sender.ready().await.unwrap();
            let (head, body) = self.sender.send_request(request).await.unwrap().into_parts();
            Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.collect().await.unwrap().to_bytes(),
            }
        };
        timeout(ANSWER, answer).await.unwrap()
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> io::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let work = async move {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    };
    let (_, answer) = join(connection, work).await;
    answer
}
