//! Instances over one database: the real engines, inboxes, hubs and routers. Only the venue and the bus are the tests' own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use hotgo::auth::Authenticator;
use hotgo::clock::Clock;
use hotgo::config::{Config, Sources, load};
use hotgo::engines::{EngineRegistry, EngineStatus, Engines, Farewell, Ports, SubmitError};
use hotgo::http::{
    Deps, HealthSnapshot, HealthStatus, RateLimits, ShutdownControl, ShutdownPlan, ShutdownStage, ShutdownStatus,
    ShutdownTrigger, router,
};
use hotgo::instance::View;
use hotgo::instance::api::Seen;
use hotgo::instance::inbox::Inbox;
use hotgo::market::MarketRunner;
use hotgo::signals::{Commands, IntakeClosed, IntakeGate, IntakeGuard, Remote};
use hotgo::store::sqlite::{OpenOptions, SqliteStore};
use hotgo::store::{Account, Role, Store};
use hotgo::stream::{self, Guard, Hub, StreamDeps};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::client_async;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use trading::command::{Command, Record};
use trading::event::Event;
use trading::ids::{AccountId, RobotId, Seq};
use trading::order::Order;

use crate::stream_support::{Client, PATIENCE, settings};
use crate::venue::Venue;
use crate::wire::{How, Wire};

/// Longer than anything takes: whoever waits for so long waits for the outcome.
const LONG: Duration = Duration::from_secs(25);

pub struct World {
    pub how: How,
    pub store: Arc<dyn Store>,
    pub account: Account,
    pub venue: Arc<Venue>,
    pub wire: Arc<Wire>,
    pub robot: RobotId,
    token: String,
    config: Config,
    starts: AtomicU64,
    market: hotgo::market::MarketHub,
    _tasks: JoinSet<()>,
    dir: tempfile::TempDir,
}

/// One instance.
pub struct Instance {
    pub app: Router,
    pub hub: Arc<Hub>,
    pub stop: CancellationToken,
    pub intake_open: Arc<AtomicBool>,
    pub address: SocketAddr,
    token: String,
    tasks: JoinSet<()>,
    drivers: JoinSet<Farewell>,
}

/// What an instance is like.
#[derive(Clone)]
pub struct Like {
    pub owns: bool,
    /// Whether it looks into its inbox.
    pub looks: bool,
    pub wait: Duration,
    /// How many commands may wait.
    pub room: u32,
    /// Set once a command has come to the engines, which then hold it before they decide.
    pub hold: Option<watch::Sender<bool>>,
}

pub const OWNER: Like = Like { owns: true, looks: true, wait: LONG, room: 1_000, hold: None };
pub const OTHER: Like = Like { owns: false, ..OWNER };
pub const HASTY: Like = Like { wait: Duration::from_millis(50), ..OTHER };

impl World {
    /// A database with an account and a robot. No instance runs.
    pub async fn new(how: How) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, writer) = SqliteStore::open(&dir.path().join("hotgo.db"), OpenOptions::default()).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run());
        let store: Arc<dyn Store> = Arc::new(store);
        let account = store.ensure_account("test", "main").await.unwrap();
        let defaults = Sources { dir: None, env: [].into(), working_dir: dir.path().into(), flags: Vec::new() };
        let config = load(&defaults).unwrap().config;
        let clock = Clock::start();
        let (runner, market) = MarketRunner::open(&config.market, &config.venue.binance, clock).unwrap();
        let mut prices = market.subscribe();
        tasks.spawn(async move { runner.run(None, CancellationToken::new()).await.unwrap() });
        // Entries wait for the first price.
        while !market.quotes().iter().any(|quote| quote.symbol().as_str() == "BTCUSDT") {
            timeout(PATIENCE, prices.recv()).await.unwrap().unwrap();
        }
        let auth = Authenticator::new(Arc::clone(&store));
        let token = auth.create_key("test", Role::Admin, clock.now()).await.unwrap().token.into_text();
        let (venue, wire) = (Arc::default(), Arc::default());
        let robot = RobotId::nth(account.id, 1).unwrap();
        let world = Self {
            how,
            store,
            account,
            venue,
            wire,
            robot,
            token,
            config,
            starts: AtomicU64::new(1),
            market,
            _tasks: tasks,
            dir,
        };
        let owner = world.start(OWNER).await;
        let made = owner.post("/api/robots", "robot", FOLLOWER).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        owner.kill().await;
        world
    }

    /// Starts an instance; one that owns is ready when this returns.
    pub async fn start(&self, like: Like) -> Instance {
        let (mut tasks, mut drivers, clock) = (JoinSet::new(), JoinSet::new(), Clock::start());
        let bus = self.wire.bus(self.how);
        let hub = Arc::new(Hub::with_bus(64, Arc::clone(&bus)));
        let owned = if like.owns { vec![(self.account.clone(), self.ports(&hub, clock))] } else { Vec::new() };
        let (registry, made) = EngineRegistry::new(owned, 1024);
        registry.take_all();
        for driver in made {
            drivers.spawn(driver.run());
        }
        let mut engines: Arc<dyn Engines> = Arc::<EngineRegistry>::clone(&registry);
        if let Some(held) = like.hold {
            engines = Arc::new(Holding { engines, held });
        }
        let stop = CancellationToken::new();
        let remote = Remote {
            bus: Arc::clone(&bus),
            hub: Arc::clone(&hub),
            clock,
            room: like.room,
            wait: like.wait,
            stop: stop.clone(),
        };
        let store = Arc::clone(&self.store);
        let commands = Commands::new(Arc::clone(&store), Arc::clone(&engines)).with_remote(remote);
        if like.looks {
            let inbox = Inbox {
                store: Arc::clone(&store),
                engines: Arc::clone(&engines),
                commands: commands.clone(),
                bus: Arc::clone(&bus),
                clock,
            };
            tasks.spawn(inbox.run(stop.clone()));
        }
        tasks.spawn(stream::follow_others(
            Arc::clone(&hub),
            bus,
            Arc::clone(&store),
            Arc::clone(&engines),
            stop.clone(),
        ));
        let intake_open = Arc::new(AtomicBool::new(true));
        let app = self.app(&hub, engines, commands, clock, &intake_open);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = app.clone();
        tasks.spawn(async move { axum::serve(listener, served).await.unwrap() });
        timeout(PATIENCE, registry.ready(Duration::from_millis(1))).await.expect("never ready");
        Instance { app, hub, stop, intake_open, address, token: self.token.clone(), tasks, drivers }
    }

    fn ports(&self, hub: &Arc<Hub>, clock: Clock) -> Ports {
        Ports {
            store: Arc::clone(&self.store),
            gateway: Arc::<Venue>::clone(&self.venue),
            market: self.market.clone(),
            hub: Arc::clone(hub),
            clock,
            namespace: "test".into(),
            limits: trading::risk::Limits::default(),
            owner: format!("owner-{}", self.starts.fetch_add(1, Ordering::SeqCst)).into(),
            lease_ttl: Duration::from_secs(15),
            hand_over: Duration::from_secs(5),
            predecessor_is_dead: true,
        }
    }

    fn app(
        &self,
        hub: &Arc<Hub>,
        engines: Arc<dyn Engines>,
        commands: Commands,
        clock: Clock,
        intake_open: &Arc<AtomicBool>,
    ) -> Router {
        let auth = Authenticator::new(Arc::clone(&self.store));
        let (_, draining) = watch::channel(None);
        let websockets = stream::routes(StreamDeps {
            settings: settings(),
            hub: Arc::clone(hub),
            store: Arc::clone(&self.store),
            auth: auth.clone(),
            admit: Arc::new(|| -> Option<Guard> { Some(Box::new(())) }),
            draining,
            close: CancellationToken::new(),
        });
        let open = Arc::clone(intake_open);
        router(Deps {
            store: Arc::clone(&self.store),
            engines,
            commands,
            auth: Arc::new(auth),
            instances: Seen { id: "test".into(), view: watch::channel(View::default()).1 },
            rates: Arc::new(RateLimits::new(&self.config.server, clock)),
            health: Arc::new(|| HealthSnapshot {
                status: HealthStatus::Ok,
                phase: "serving".into(),
                checks: Vec::new(),
            }),
            intake: IntakeGate::new(move || {
                if open.load(Ordering::SeqCst) { Ok(IntakeGuard::new(())) } else { Err(IntakeClosed) }
            }),
            shutdown: Arc::new(NoShutdown),
            clock,
            server: self.config.server.clone(),
            trading: self.config.trading.clone(),
            build_id: "test".into(),
            extra: websockets,
        })
    }

    pub async fn head(&self) -> i64 {
        self.store.head(self.account.id).await.unwrap().seq.0
    }

    /// What was decided, in its order.
    pub async fn decided(&self) -> Vec<Record> {
        let mut since = Seq(0);
        let mut records = Vec::new();
        loop {
            let page = self.store.events(self.account.id, since, 1_000).await.unwrap();
            let Some(last) = page.last() else { return records };
            since = last.seq;
            records.extend(page.into_iter().filter_map(|recorded| match recorded.event {
                Event::Command(record) => Some(record),
                _ => None,
            }));
        }
    }

    /// The keys of decided signals, in the order of the decisions, after a check that each was decided once.
    pub async fn decided_keys(&self) -> Vec<String> {
        let keys: Vec<String> = self.decided().await.into_iter().map(|record| record.command.dedup_key).collect();
        let mut once = keys.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), keys.len(), "something was decided twice");
        keys
    }

    pub async fn orders(&self) -> Vec<Order> {
        let filter = hotgo::store::OrderFilter { limit: 10_000, ..Default::default() };
        self.store.orders(&filter).await.unwrap()
    }

    /// Every order was sent once at most.
    pub fn assert_sent_once(&self) {
        let sent = self.venue.sent();
        assert!(sent.values().all(|times| *times == 1), "{sent:?}");
    }

    /// A waiting command as a newer version may write it.
    pub fn write_unreadable(&self) {
        let newer = rusqlite::Connection::open(self.dir.path().join("hotgo.db")).unwrap();
        newer.busy_timeout(PATIENCE).unwrap();
        let wish = r#"{"wish":"teleport"}"#;
        let row = "INSERT INTO hg_trading_inbox (account, source, dedup_key, wish, received_at) VALUES (?, 'key:1', 'newer', ?, 1)";
        newer.execute(row, (self.account.id.0, wish)).unwrap();
    }

    pub async fn waiting(&self) -> usize {
        self.store.waiting_commands(&[self.account.id], 10_000).await.unwrap().len()
    }
}

impl Instance {
    /// Ends it without a word, as a crash does. Nothing of it runs any more when this returns.
    pub async fn kill(mut self) {
        self.tasks.shutdown().await;
        self.drivers.shutdown().await;
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        let request = Request::builder().method(Method::GET).uri(path);
        let request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, key: &str, body: &str) -> Answer {
        let mut request = Request::builder().method(Method::POST).uri(path).header("idempotency-key", key);
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    /// A signal that plans an order which rests.
    pub async fn buy(&self, robot: RobotId, key: &str) -> Answer {
        self.post("/api/signals", key, &buy(robot, None)).await
    }

    /// A websocket that follows the account from its first event on.
    pub async fn follow(&self, account: AccountId) -> Client {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("ws://{}/api/ws", self.address).into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        let (ws, _) = timeout(PATIENCE, client_async(request, stream)).await.unwrap().unwrap();
        let mut client = Client { ws };
        assert_eq!(client.json().await["op"], "welcome");
        client.subscribe(account.0, Some(0)).await;
        assert_eq!(client.json().await["op"], "subscribed");
        client
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn is_replayed(&self) -> bool {
        self.headers.contains_key("idempotent-replayed")
    }

    /// The status and the outcome.
    pub fn outcome(&self) -> (u16, String) {
        let json = self.json();
        let outcome = json["outcome"].as_str().or_else(|| json["command"]["outcome"].as_str());
        (self.status.as_u16(), outcome.unwrap_or_else(|| panic!("{json}")).to_owned())
    }
}

pub const FOLLOWER: &str = r#"{"name":"follower","symbol":"BTCUSDT","config":{"kind":"follower","default_qty":"0.001"},"start":true,"webhook":true}"#;

pub fn buy(robot: RobotId, expires_in_ms: Option<u64>) -> String {
    let order = json!({"type": "limit", "price": "60000"});
    json!({"robot": robot.0, "action": "buy", "qty": "0.001", "order": order, "expires_in_ms": expires_in_ms})
        .to_string()
}

/// Waits until `holds`, which asks the world anew each time.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let held = async {
        while !holds().await {
            tick.tick().await;
        }
    };
    timeout(LONG, held).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Engines that take a command into their hands, say so, and do nothing with it.
#[derive(Debug)]
struct Holding {
    engines: Arc<dyn Engines>,
    held: watch::Sender<bool>,
}

#[async_trait::async_trait]
impl Engines for Holding {
    async fn submit(&self, _: AccountId, _: Command) -> Result<Record, SubmitError> {
        self.held.send_replace(true);
        std::future::pending().await
    }

    fn status(&self) -> Vec<EngineStatus> {
        self.engines.status()
    }
}

#[derive(Debug)]
struct NoShutdown;

impl ShutdownControl for NoShutdown {
    fn status(&self) -> ShutdownStatus {
        let stage = ShutdownStage::Serving;
        ShutdownStatus {
            stage,
            reason: None,
            forced: false,
            remaining_ms: None,
            phases: Vec::new(),
            blockers: Vec::new(),
        }
    }

    fn plan(&self) -> ShutdownPlan {
        ShutdownPlan { deadline_ms: 1, watchdog_ms: None, phases: Vec::new() }
    }

    fn trigger(&self, reason: &str) -> ShutdownTrigger {
        ShutdownTrigger { started: false, reason: reason.to_owned() }
    }
}
