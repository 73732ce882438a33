//! A server on a bare socket, which answers, cuts, resets or keeps silent as a test says; and a gateway that talks to it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hotgo::clock::Clock;
use hotgo::config::BinanceConfig;
use hotgo::gateway::RequestWindow;
use hotgo::gateway::binance::{BinanceGateway, BinanceVenue, Credentials};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trading::exchange::{NewOrder, OrderKind, Side, TimeInForce};
use trading::ids::ClientOrderId;
use trading::market::Symbol;
use trading::time::Timestamp;

/// How long a test waits for what must happen.
pub const LIMIT: Duration = Duration::from_secs(20);
/// How long the gateway waits for an answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
pub const API_KEY: &str = "TheApiKey";
pub const SECRET: &str = "TheSecret";
pub const OURS: &str = "h0123456789abcdefghjkmnpqrs";

/// A request that arrived, as far as it was read.
#[derive(Debug, Clone)]
pub struct Request {
    /// Counts the connections.
    pub connection: usize,
    pub head: String,
    /// Method and target.
    pub line: String,
    pub body: String,
}

impl Request {
    pub fn is(&self, start: &str) -> bool {
        self.line.starts_with(start)
    }

    /// The parameters as they were sent, of the query or the body.
    pub fn params(&self) -> String {
        let query = self.line.split_once('?').map(|(_, query)| query.to_owned());
        query.unwrap_or_else(|| self.body.clone())
    }

    pub fn param(&self, name: &str) -> Option<String> {
        let params = self.params();
        let mut pairs = form_urlencoded::parse(params.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Status, further headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// These bytes, and the end of the connection.
    Bytes(Vec<u8>),
    /// A reset.
    Reset,
    /// Nothing, for as long as the test lasts.
    Silence,
    /// A good answer, and the connection is closed a moment after it.
    AnswerAndClose(String),
}

pub fn ok(body: impl Into<String>) -> Reply {
    Reply::Answer(200, Vec::new(), body.into())
}

pub fn error(status: u16, code: i32, message: &str) -> Reply {
    Reply::Answer(status, Vec::new(), format!(r#"{{"code":{code},"msg":"{message}"}}"#))
}

type Script = Arc<dyn Fn(&Request) -> Option<Reply> + Send + Sync>;

/// The server. Its script is asked first; the time is told by itself.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    jobs: JoinSet<()>,
}

impl Server {
    pub async fn start(script: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, seen): (Script, _) = (Arc::new(script), Arc::clone(&requests));
        let mut jobs = JoinSet::new();
        jobs.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(serve(socket, number, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self { address, requests, jobs }
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Those that begin with this, such as `POST `.
    pub fn seen(&self, start: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.is(start)).collect()
    }

    /// Closes the listener and every connection.
    pub async fn stop(&mut self) {
        self.jobs.shutdown().await;
    }
}

async fn serve(mut socket: TcpStream, connection: usize, script: Script, seen: Arc<Mutex<Vec<Request>>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut socket, &mut buffer, connection).await {
        seen.lock().unwrap().push(request.clone());
        let reply = script(&request).unwrap_or_else(|| own_reply(&request));
        match reply {
            Reply::Answer(status, headers, body) => socket.write_all(&answer(status, &headers, &body)).await.unwrap(),
            Reply::Bytes(bytes) => {
                // The other side may have hung up over the size of it.
                let _gone = socket.write_all(&bytes).await;
                let _gone = socket.shutdown().await;
                return;
            }
            Reply::Reset => {
                socket.set_zero_linger().unwrap();
                return;
            }
            Reply::Silence => std::future::pending::<()>().await,
            Reply::AnswerAndClose(body) => {
                socket.write_all(&answer(200, &[], &body)).await.unwrap();
                return;
            }
        }
    }
}

fn own_reply(request: &Request) -> Reply {
    if request.is("GET /api/v3/time") {
        let now = Clock::start().now().millis();
        return ok(format!(r#"{{"serverTime":{now}}}"#));
    }
    error(404, -1, "no such thing here")
}

fn answer(status: u16, headers: &[(&str, String)], body: &str) -> Vec<u8> {
    let headers: String =
        headers.iter().fold(String::new(), |text, (name, value)| text + &format!("{name}: {value}\r\n"));
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len()).into_bytes()
}

async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Option<Request> {
    loop {
        let text = String::from_utf8_lossy(buffer).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let length: usize = length.unwrap_or(0);
            if rest.len() >= length {
                let request = Request {
                    connection,
                    line: head.lines().next()?.trim_end_matches(" HTTP/1.1").to_owned(),
                    head: head.to_owned(),
                    body: rest[..length].to_owned(),
                };
                buffer.drain(..head.len() + 4 + length);
                return Some(request);
            }
        }
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

pub fn window() -> RequestWindow {
    RequestWindow {
        recv_window: Duration::from_secs(2),
        absence_margin: Duration::from_secs(10),
        request_timeout: REQUEST_TIMEOUT,
    }
}

/// A gateway, with its driver running until it is dropped.
pub struct Rig {
    pub gateway: BinanceGateway,
    _driver: JoinSet<()>,
}

impl Rig {
    pub fn new(rest: SocketAddr, ws: SocketAddr, tweak: impl FnOnce(&mut BinanceConfig)) -> Self {
        let mut config = BinanceConfig {
            rest_url: format!("http://{rest}"),
            ws_api_url: format!("ws://{ws}/ws-api/v3"),
            ws_stream_url: format!("ws://{ws}"),
            reconcile_ms: 3_600_000,
            clock_sync_ms: 3_600_000,
            silence_ms: 3_600_000,
            rotate_ms: 80_000_000,
            weight_reserve_percent: 20,
        };
        tweak(&mut config);
        let symbols: Vec<Symbol> = vec!["BTCUSDT".parse().unwrap()];
        let (venue, driver) = BinanceVenue::open(&config, window(), symbols, Clock::start()).unwrap();
        let gateway = venue.gateway("main", Credentials::new(API_KEY, SECRET).unwrap());
        let mut jobs = JoinSet::new();
        jobs.spawn(driver.run(CancellationToken::new()));
        Self { gateway, _driver: jobs }
    }

    /// A gateway that knows the server's time.
    pub async fn to(server: &Server) -> Self {
        let rig = Self::new(server.address, server.address, |_| {});
        rig.wait_for_time(server).await;
        rig
    }

    /// The driver asks for the time twice when it starts.
    pub async fn wait_for_time(&self, server: &Server) {
        eventually("the time is known", || server.seen("GET /api/v3/time").len() >= 2).await;
        // The second answer is read a moment after it was sent: a signed read goes out only then.
        let known = async {
            use hotgo::gateway::Gateway;
            while self.gateway.open_orders().await.is_err_and(|error| error.to_string().contains("clock")) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, known).await.unwrap();
    }
}

/// Waits until this holds.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let waiting = async {
        while !holds() {
            tick.tick().await;
        }
    };
    timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

pub fn order() -> NewOrder {
    NewOrder {
        client_id: ClientOrderId::from_venue(OURS),
        symbol: "BTCUSDT".parse().unwrap(),
        side: Side::Buy,
        kind: OrderKind::Market,
        tif: TimeInForce::Gtc,
        qty: "0.001".parse().unwrap(),
        timestamp: now(),
    }
}

pub fn now() -> Timestamp {
    Clock::start().now()
}

/// The venue's answer to [`order`].
pub fn filled(client_id: &str) -> String {
    format!(
        r#"{{"symbol":"BTCUSDT","orderId":28,"orderListId":-1,"clientOrderId":"{client_id}","transactTime":1507725176595,
        "price":"0.00000000","origQty":"0.00100000","executedQty":"0.00100000","cummulativeQuoteQty":"87.00000000",
        "status":"FILLED","timeInForce":"GTC","type":"MARKET","side":"BUY","fills":[{{"price":"87000.00000000",
        "qty":"0.00100000","commission":"0.00000100","commissionAsset":"BTC","tradeId":56}}]}}"#
    )
}
