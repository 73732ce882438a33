//! A venue with a server in this process, and clients of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use reqwest::header::HeaderMap;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use ring::{hmac, rand::SystemRandom};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use trading::exchange::VenueBalance;
use trading::market::{Asset, Market, PublicTrade, Quote, SymbolInfo};
use trading::money::Amount;
use trading::time::Timestamp;
use venue::binance::{Binance, Keys, Limits, Options, Verifier, control};
use venue::exchange::Settings;
use venue::faults::Fired;
use venue::host::{Host, system_now};
use venue::ledger::{self, AccountImage, Post};
use venue::witness::Witness;

/// What an event is waited for at most.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const KEY: &str = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A";
const SECRET: &str = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j";
pub(crate) const OTHER_KEY: &str = "EDKEY";

/// The parameters of a request, in the order in which they are sent.
pub(crate) type Pairs<'a> = &'a [(&'a str, &'a str)];

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) host: Host,
    pub(crate) binance: Binance,
    pub(crate) address: String,
    pub(crate) control: String,
    ed25519: Ed25519KeyPair,
    http: reqwest::Client,
    dir: TempDir,
    // Dropped with the test.
    _tasks: JoinSet<()>,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
}

impl Answer {
    /// The status, and the code of an error.
    pub(crate) fn error(&self) -> (u16, i64) {
        (self.status, self.json["code"].as_i64().unwrap_or_else(|| panic!("no error: {self:?}")))
    }

    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json
    }

    pub(crate) fn header(&self, name: &str) -> Option<u32> {
        self.headers.get(name).map(|value| value.to_str().unwrap().parse().unwrap())
    }
}

fn settings() -> Settings {
    let info = |symbol: &str, base: &str| SymbolInfo {
        symbol: symbol.parse().unwrap(),
        base: Asset::new(base),
        quote: Asset::new("USDT"),
        tick: "0.01".parse().unwrap(),
        lot: "0.001".parse().unwrap(),
        min_qty: "0.001".parse().unwrap(),
        min_notional: Amount::new("5".parse().unwrap()),
        max_open_orders: 100,
    };
    Settings {
        symbols: vec![info("BTCUSDT", "BTC"), info("ETHUSDT", "ETH")],
        maker_fee_bps: 10,
        taker_fee_bps: 20,
        recv_window: Duration::from_secs(5),
    }
}

fn http() -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().pool_max_idle_per_host(0);
    client.timeout(LIMIT).build().unwrap()
}

pub(crate) fn hmac_hex(payload: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), payload.as_bytes());
    tag.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn ed25519() -> (Ed25519KeyPair, Verifier) {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    // RFC 8410: a fixed head, then the key.
    let mut der = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00".to_vec();
    der.extend_from_slice(pair.public_key().as_ref());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
    (pair, Verifier::ed25519_pem(pem.as_bytes()).unwrap())
}

pub(crate) fn form(pairs: Pairs<'_>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default(), None).await
    }

    /// Two accounts with 100000 USDT and 10 BTC each, and a market of 1 BTC at 100 / 101.
    pub(crate) async fn with(limits: Limits, witness: Option<Arc<dyn Witness>>) -> Self {
        let dir = TempDir::new().unwrap();
        let (host, driver, _) = Host::open(&dir.path().join("venue.ledger"), settings()).unwrap();
        let mut keys = Keys::default();
        let (ed25519, verifier) = ed25519();
        assert!(keys.add("main", KEY, Verifier::hmac(SECRET).unwrap()) && keys.add("other", OTHER_KEY, verifier));
        let held = |asset, total: &str| VenueBalance { asset: Asset::new(asset), total: total.parse().unwrap() };
        let options = Options {
            keys,
            opening: vec![held("USDT", "100000"), held("BTC", "10")],
            recv_window: Duration::from_secs(5),
            latency: Duration::ZERO,
            limits,
            witness,
        };
        let (binance, writer) = Binance::new(host.clone(), options, &dir.path().join("requests.jsonl")).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn_blocking(|| driver.run_blocking().unwrap());
        tasks.spawn_blocking(|| writer.run_blocking().unwrap());
        binance.open_accounts().await.unwrap();
        let serve = async |router: axum::Router, tasks: &mut JoinSet<()>| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
            tasks.spawn(async move { axum::serve(listener, service).await.unwrap() });
            address
        };
        let address = serve(binance.router(), &mut tasks).await;
        let control = serve(control(host.clone(), true), &mut tasks).await;
        let world = Self { host, binance, address, control, ed25519, http: http(), dir, _tasks: tasks };
        world.quote("1").await;
        world
    }

    /// 100 / 101, with this much at the ask.
    pub(crate) async fn quote(&self, ask_qty: &str) {
        self.quote_at("100", "101", ask_qty).await;
    }

    pub(crate) async fn quote_at(&self, bid: &str, ask: &str, ask_qty: &str) {
        let quote = Quote {
            symbol: "BTCUSDT".parse().unwrap(),
            bid: bid.parse().unwrap(),
            bid_qty: "1".parse().unwrap(),
            ask: ask.parse().unwrap(),
            ask_qty: ask_qty.parse().unwrap(),
            at: Timestamp::default(),
        };
        self.host.on_market(Arc::new(Market::Quote(quote))).await.unwrap();
    }

    pub(crate) async fn trade(&self, price: &str, qty: &str) {
        let trade = PublicTrade {
            symbol: "BTCUSDT".parse().unwrap(),
            price: price.parse().unwrap(),
            qty: qty.parse().unwrap(),
            buyer_is_maker: true,
            at: Timestamp::from_millis(7),
        };
        self.host.on_market(Arc::new(Market::Trade(trade))).await.unwrap();
    }

    /// A request as it is given, without key and signature unless they are in it.
    pub(crate) async fn try_raw(
        &self,
        method: Method,
        path_and_query: &str,
        key: Option<&str>,
        body: String,
    ) -> Result<Answer, reqwest::Error> {
        let url = format!("http://{}/api/v3/{path_and_query}", self.address);
        let mut request = self.http.request(method, url).body(body);
        if let Some(key) = key {
            request = request.header("x-mbx-apikey", key);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await?;
        Ok(Answer { status, headers, json: serde_json::from_slice(&body).unwrap_or(Value::Null) })
    }

    pub(crate) async fn raw(&self, method: Method, path_and_query: &str, key: Option<&str>, body: String) -> Answer {
        self.try_raw(method, path_and_query, key, body).await.unwrap()
    }

    pub(crate) async fn public(&self, path_and_query: &str) -> Answer {
        self.raw(Method::GET, path_and_query, None, String::new()).await
    }

    /// The parameters with the time and a signature, as the account `main`. A time that is given stays.
    pub(crate) fn sign(&self, pairs: Pairs<'_>) -> String {
        let now = self.host.now().millis().to_string();
        let mut text = form(pairs);
        if !pairs.iter().any(|(name, _)| *name == "timestamp") {
            let and = if text.is_empty() { "" } else { "&" };
            text = format!("{text}{and}timestamp={now}");
        }
        format!("{text}&signature={}", hmac_hex(&text))
    }

    /// A signed request: a POST with a form, anything else with a query.
    pub(crate) async fn try_signed(
        &self,
        method: Method,
        path: &str,
        pairs: Pairs<'_>,
    ) -> Result<Answer, reqwest::Error> {
        let text = self.sign(pairs);
        if method == Method::POST {
            return self.try_raw(method, path, Some(KEY), text).await;
        }
        self.try_raw(method, &format!("{path}?{text}"), Some(KEY), String::new()).await
    }

    pub(crate) async fn signed(&self, method: Method, path: &str, pairs: Pairs<'_>) -> Answer {
        self.try_signed(method, path, pairs).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str, pairs: Pairs<'_>) -> Answer {
        self.signed(Method::GET, path, pairs).await
    }

    /// An order that rests at 90.
    pub(crate) async fn rest(&self, id: &str) -> Answer {
        self.signed(Method::POST, "order", &resting(id)).await
    }

    /// A market buy of 0.1.
    pub(crate) async fn buy(&self, id: &str) -> Answer {
        self.signed(Method::POST, "order", &market(id)).await
    }

    pub(crate) async fn query(&self, id: &str) -> Answer {
        self.get("order", &[("symbol", "BTCUSDT"), ("origClientOrderId", id)]).await
    }

    pub(crate) async fn cancel(&self, id: &str) -> Answer {
        self.signed(Method::DELETE, "order", &[("symbol", "BTCUSDT"), ("origClientOrderId", id)]).await
    }

    pub(crate) fn ed25519_base64(&self, payload: &str) -> String {
        STANDARD.encode(self.ed25519.sign(payload.as_bytes()))
    }

    /// Sets faults through the control routes, as JSON.
    pub(crate) async fn faults(&self, faults: Value) {
        let answer = self.post_faults(faults).await;
        assert_eq!(answer.status, 204, "{answer:?}");
    }

    pub(crate) async fn post_faults(&self, faults: Value) -> Answer {
        let url = format!("http://{}/faults", self.control);
        let response = self.http.post(url).body(faults.to_string()).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.unwrap();
        Answer { status, headers, json: serde_json::from_slice(&body).unwrap_or(Value::Null) }
    }

    pub(crate) fn fired(&self) -> Fired {
        self.host.faults().1
    }

    /// The ledger of the account `main`.
    pub(crate) fn ledger(&self) -> AccountImage {
        ledger::read(self.host.ledger()).unwrap().accounts["main"].clone()
    }

    pub(crate) fn posts(&self) -> Vec<Post> {
        self.ledger().posts
    }

    /// The lines of `requests.jsonl`, once there are as many.
    pub(crate) async fn lines(&self, count: usize) -> Vec<Value> {
        let path: PathBuf = self.dir.path().join("requests.jsonl");
        let read = async || {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (lines.len() >= count).then_some(lines)
        };
        eventually(read).await
    }

    pub(crate) async fn socket(&self, path: &str) -> Socket {
        let url = format!("ws://{}{path}", self.address);
        let (inner, _) = timeout(LIMIT, tokio_tungstenite::connect_async(url)).await.unwrap().unwrap();
        Socket { inner }
    }

    /// A socket that is subscribed to the stream of `main`.
    pub(crate) async fn user_stream(&self) -> Socket {
        let mut socket = self.socket("/ws-api/v3").await;
        let answer = socket.ask(self.subscription(1)).await;
        assert_eq!(answer["status"], 200, "{answer}");
        socket
    }

    pub(crate) fn subscription(&self, id: u32) -> Value {
        let timestamp = self.host.now().millis();
        let payload = format!("apiKey={KEY}&recvWindow=5000.5&timestamp={timestamp}");
        let params = json!({
            "timestamp": timestamp, "apiKey": KEY, "recvWindow": 5000.5, "signature": hmac_hex(&payload),
        });
        json!({ "id": id, "method": "userDataStream.subscribe.signature", "params": params })
    }
}

pub(crate) fn resting(id: &str) -> [(&str, &str); 7] {
    [
        ("symbol", "BTCUSDT"),
        ("side", "BUY"),
        ("type", "LIMIT"),
        ("timeInForce", "GTC"),
        ("quantity", "0.1"),
        ("price", "90"),
        ("newClientOrderId", id),
    ]
}

pub(crate) fn market(id: &str) -> [(&str, &str); 5] {
    [("symbol", "BTCUSDT"), ("side", "BUY"), ("type", "MARKET"), ("quantity", "0.1"), ("newClientOrderId", id)]
}

/// The pairs with some replaced, left out (by an empty value) or added.
pub(crate) fn but<'a>(pairs: Pairs<'a>, changes: Pairs<'a>) -> Vec<(&'a str, &'a str)> {
    let mut map: BTreeMap<&str, &str> = pairs.iter().copied().collect();
    map.extend(changes.iter().copied());
    map.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

pub(crate) async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        // Each look may cost weight, of which there are six thousand a minute.
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    timeout(LIMIT, found).await.expect("not in time")
}

/// The system's clock, in milliseconds.
pub(crate) fn now_ms() -> i64 {
    system_now().millis()
}

pub(crate) struct Socket {
    inner: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    pub(crate) async fn send(&mut self, text: impl ToString) {
        self.inner.send(Message::Text(text.to_string().into())).await.unwrap();
    }

    /// The next message: text, or how it ended.
    pub(crate) async fn next(&mut self) -> Result<Value, End> {
        loop {
            match timeout(LIMIT, self.inner.next()).await.expect("nothing came") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => return Err(End::Closed(frame.map(|frame| frame.code.into()))),
                Some(Ok(_)) => {}
                Some(Err(tungstenite::Error::ConnectionClosed)) | None => return Err(End::Closed(None)),
                Some(Err(_)) => return Err(End::Broken),
            }
        }
    }

    pub(crate) async fn event(&mut self) -> Value {
        let message = self.next().await.unwrap();
        assert_eq!(message["subscriptionId"], 0, "{message}");
        message["event"].clone()
    }

    pub(crate) async fn ask(&mut self, request: Value) -> Value {
        self.send(request).await;
        self.next().await.unwrap()
    }
}

/// How a websocket ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a Close frame of this code.
    Closed(Option<u16>),
    /// Without one.
    Broken,
}
