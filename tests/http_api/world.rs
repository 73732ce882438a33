//! A router over a real store, with engines that decide without thinking.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use axum::routing::get;
use hotgo::auth::{Authenticator, Memory};
use hotgo::clock::Clock;
use hotgo::config::{LimitsConfig, ServerConfig, TradingConfig};
use hotgo::engines::{EngineStatus, Engines, SubmitError};
use hotgo::http::{
    Check, Deps, HealthSnapshot, HealthStatus, PhaseState, RateLimits, ShutdownControl, ShutdownPlan, ShutdownStage,
    ShutdownStatus, ShutdownTrigger, router,
};
use hotgo::instance::View;
use hotgo::instance::api::Seen;
use hotgo::signals::{Commands, IntakeClosed, IntakeGate, IntakeGuard};
use hotgo::store::sqlite::{OpenOptions, SqliteStore};
use hotgo::store::{Commit, Lease, Role, Store};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::task::JoinSet;
use tower::ServiceExt;
use trading::command::{Command, Outcome, Record, Wish};
use trading::event::{Event, Recorded};
use trading::exchange::Side;
use trading::ids::{AccountId, ClientOrderId, Epoch, OrderKey, RobotId, Seq};
use trading::money::{Amount, Qty};
use trading::order::{CancelState, Order, Status};
use trading::risk::Limits;
use trading::robot::{DesiredState, Robot, RunState};
use trading::signal::Action;
use trading::time::Timestamp;

pub const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// Engines that do what they are told, commit it, and remember nothing else.
#[derive(Debug)]
pub struct FakeEngines {
    store: Arc<dyn Store>,
    state: tokio::sync::Mutex<State>,
    /// Refuse every command like this.
    pub refuse: Mutex<Option<SubmitError>>,
    /// Decide every command like this.
    pub decide: Mutex<Option<Outcome>>,
    pub submitted: AtomicUsize,
}

#[derive(Debug)]
struct State {
    lease: Lease,
    seq: i64,
    robots: i64,
    decisions: i64,
}

#[async_trait::async_trait]
impl Engines for FakeEngines {
    async fn submit(&self, account: AccountId, command: Command) -> Result<Record, SubmitError> {
        assert_ne!(command.dedup_key, "panic", "as the test asked");
        if let Some(error) = self.refuse.lock().unwrap().clone() {
            return Err(error);
        }
        let mut state = self.state.lock().await;
        if account != state.lease.account {
            return Err(SubmitError::UnknownAccount);
        }
        if let Some(earlier) = self.store.find_command(&command.source, &command.dedup_key).await.unwrap() {
            return Ok(earlier);
        }
        self.submitted.fetch_add(1, Ordering::SeqCst);
        let mut events = Vec::new();
        let forced = self.decide.lock().unwrap().clone();
        let outcome = match forced {
            Some(outcome) => outcome,
            None => self.carry_out(&mut state, &command.wish, &mut events).await,
        };
        let record = Record { command, received_at: NOW, outcome };
        events.push(Event::Command(record.clone()));
        let recorded = events.into_iter().map(|event| {
            state.seq += 1;
            Recorded { seq: Seq(state.seq), at: NOW, event }
        });
        let events: Vec<_> = recorded.collect();
        let commit = Commit { lease: state.lease.clone(), events: events.into() };
        self.store.commit(commit).await.unwrap();
        Ok(record)
    }

    fn status(&self) -> Vec<EngineStatus> {
        Vec::new()
    }
}

impl FakeEngines {
    async fn carry_out(&self, state: &mut State, wish: &Wish, events: &mut Vec<Event>) -> Outcome {
        let done = |robot, orders| Outcome::Done { robot, orders };
        match wish {
            Wish::CreateRobot(new) => {
                state.robots += 1;
                let robot = robot(RobotId::nth(state.lease.account, state.robots).unwrap(), new);
                let id = robot.id;
                events.push(Event::Robot(robot));
                done(Some(id), Vec::new())
            }
            Wish::Signal(signal) => {
                let Some(robot) = self.store.robot(signal.robot).await.unwrap() else {
                    return Outcome::NotFound { what: "robot".into() };
                };
                state.decisions += 1;
                let Some(order) = order(&robot, &signal.action, state.decisions) else {
                    return Outcome::Skipped { reason: "there is nothing to close".into() };
                };
                let id = order.client_id.clone();
                events.push(Event::Order(order));
                done(Some(robot.id), vec![id])
            }
            Wish::StartRobot { robot } | Wish::StopRobot { robot, .. } | Wish::HaltRobot { robot, .. } => {
                match self.store.robot(*robot).await.unwrap() {
                    Some(robot) => done(Some(robot.id), Vec::new()),
                    None => Outcome::NotFound { what: "robot".into() },
                }
            }
            Wish::Kill { .. } | Wish::CancelOrder { .. } => done(None, Vec::new()),
        }
    }
}

fn robot(id: RobotId, new: &trading::command::NewRobot) -> Robot {
    Robot {
        id,
        account: id.account(),
        name: new.name.clone(),
        symbol: new.symbol.clone(),
        config: new.config.clone(),
        limits: new.limits.clone(),
        desired: DesiredState::Running,
        run: RunState::Running,
        reason: None,
        stop_policy: new.stop_policy,
        decision_seq: 0,
        webhook_hash: new.webhook_hash.clone(),
        created_at: NOW,
        version: 1,
    }
}

fn order(robot: &Robot, action: &Action, decision: i64) -> Option<Order> {
    let (side, qty, kind, tif) = match action {
        Action::Buy { qty, order, tif } => (Side::Buy, *qty, *order, *tif),
        Action::Sell { qty, order, tif } => (Side::Sell, *qty, *order, *tif),
        Action::Close => return None,
    };
    let key = OrderKey { decision, leg: 0 };
    Some(Order {
        client_id: ClientOrderId::derive("test", robot.id, key, 0),
        account: robot.account,
        robot: robot.id,
        key,
        generation: 0,
        symbol: robot.symbol.clone(),
        side,
        kind,
        tif,
        qty: qty.unwrap_or_else(|| "0.5".parse().unwrap()),
        status: Status::Open,
        cancel: CancelState::None,
        attempt: 1,
        epoch: Epoch(1),
        sent_at: Some(NOW),
        deadline: None,
        expires_at: None,
        venue_id: None,
        filled: Qty::ZERO,
        filled_quote: Amount::ZERO,
        reported: Qty::ZERO,
        reason: None,
        created_at: NOW,
        updated_at: NOW,
        version: 1,
    })
}

#[derive(Debug, Default)]
pub struct FakeShutdown {
    pub reason: Mutex<Option<String>>,
}

impl ShutdownControl for FakeShutdown {
    fn status(&self) -> ShutdownStatus {
        let phase = PhaseState { name: "order-drain".into(), state: "waiting".into(), remaining_ms: None };
        ShutdownStatus {
            stage: ShutdownStage::Serving,
            reason: self.reason.lock().unwrap().clone(),
            forced: false,
            remaining_ms: None,
            phases: vec![phase],
            blockers: Vec::new(),
        }
    }

    fn plan(&self) -> ShutdownPlan {
        ShutdownPlan { deadline_ms: 42_000, watchdog_ms: Some(2000), phases: Vec::new() }
    }

    fn trigger(&self, reason: &str) -> ShutdownTrigger {
        let mut first = self.reason.lock().unwrap();
        let started = first.is_none();
        ShutdownTrigger { started, reason: first.get_or_insert_with(|| reason.to_owned()).clone() }
    }
}

pub struct World {
    pub app: Router,
    pub store: Arc<dyn Store>,
    pub engines: Arc<FakeEngines>,
    pub shutdown: Arc<FakeShutdown>,
    pub health: Arc<Mutex<HealthStatus>>,
    pub intake_open: Arc<AtomicBool>,
    pub account: AccountId,
    pub admin: String,
    pub trader: String,
    pub viewer: String,
    _writer: JoinSet<()>,
    dir: tempfile::TempDir,
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

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The problem's status, kind and field, after a check that it is one.
    #[track_caller]
    pub fn problem(&self) -> (u16, String, Option<String>) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{} {}", self.status, self.text);
        let json = self.json();
        assert_eq!(json["status"], self.status.as_u16());
        assert_eq!(json["instance"].as_str(), self.header("x-request-id"));
        let kind = json["type"].as_str().unwrap().trim_start_matches("urn:hotgo:problem:").to_owned();
        (self.status.as_u16(), kind, json["field"].as_str().map(str::to_owned))
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(Clock::standing(NOW), server(), None).await
    }

    /// With a clock that agrees with the store's.
    pub async fn in_real_time() -> Self {
        Self::with(Clock::start(), server(), None).await
    }

    pub async fn with(clock: Clock, server: ServerConfig, memory: Option<Arc<dyn Memory>>) -> Self {
        Self::open(tempfile::tempdir().unwrap(), clock, server, memory, None).await
    }

    /// A new server over the old one's database.
    pub async fn restart(self) -> Self {
        self.store.close().await;
        let Self { dir, admin, trader, viewer, .. } = self;
        Self::open(dir, Clock::start(), server(), None, Some([admin, trader, viewer])).await
    }

    async fn open(
        dir: tempfile::TempDir,
        clock: Clock,
        server: ServerConfig,
        memory: Option<Arc<dyn Memory>>,
        tokens: Option<[String; 3]>,
    ) -> Self {
        let (store, writer) = SqliteStore::open(&dir.path().join("hotgo.db"), OpenOptions::default()).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run());
        let store: Arc<dyn Store> = Arc::new(store);
        let account = store.ensure_account("paper", "main").await.unwrap().id;
        let lease = store.acquire_lease(account, &"test".into(), Duration::from_mins(10), true).await.unwrap();
        let state = State { lease, seq: 0, robots: 0, decisions: 0 };
        let engines = Arc::new(FakeEngines {
            store: store.clone(),
            state: tokio::sync::Mutex::new(state),
            refuse: Mutex::default(),
            decide: Mutex::default(),
            submitted: AtomicUsize::new(0),
        });
        let auth = Authenticator::new(store.clone());
        let auth = Arc::new(match memory {
            Some(memory) => auth.with_memory(memory),
            None => auth,
        });
        let [admin, trader, viewer] = match tokens {
            Some(tokens) => tokens,
            None => make_tokens(&auth).await,
        };
        let (shutdown, health) = (Arc::new(FakeShutdown::default()), Arc::new(Mutex::new(HealthStatus::Ok)));
        let intake_open = Arc::new(AtomicBool::new(true));
        let seen = tokio::sync::watch::channel(View::default()).1;
        let app = router(Deps {
            store: store.clone(),
            engines: engines.clone(),
            commands: Commands::new(store.clone(), engines.clone()),
            auth,
            health: snapshot_of(health.clone()),
            instances: Seen { id: "test".into(), view: seen },
            intake: gate(intake_open.clone()),
            shutdown: shutdown.clone(),
            clock,
            rates: Arc::new(RateLimits::new(&server, clock)),
            server,
            trading: trading_config(),
            build_id: "test-build".into(),
            extra: Router::new().route("/api/extra", get(async || "extra")),
        });
        Self { app, store, engines, shutdown, health, intake_open, account, admin, trader, viewer, _writer: tasks, dir }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, Some(&self.viewer), None, "")).await
    }

    /// As the trader, under this key.
    pub async fn post(&self, path: &str, key: &str, body: &str) -> Answer {
        self.send(request(Method::POST, path, Some(&self.trader), Some(key), body)).await
    }

    /// A follower with a webhook: its number and its secret.
    pub async fn robot(&self, key: &str) -> (i64, String) {
        let made = self.post("/api/robots", key, FOLLOWER).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        let json = made.json();
        (json["robot"].as_i64().unwrap(), json["webhook"]["secret"].as_str().unwrap().to_owned())
    }

    /// The targets of what was audited as this act, oldest first.
    pub fn audited(&self, act: &str) -> Vec<String> {
        let database = rusqlite::Connection::open(self.dir.path().join("hotgo.db")).unwrap();
        let mut query = database.prepare("SELECT target FROM hg_sys_audit WHERE act = ? ORDER BY id").unwrap();
        query.query_map([act], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    pub fn submitted(&self) -> usize {
        self.engines.submitted.load(Ordering::SeqCst)
    }
}

pub const FOLLOWER: &str = r#"{"name":"follower","symbol":"BTCUSDT","config":{"kind":"follower","default_qty":"0.001"},"start":true,"webhook":true}"#;

pub fn request(method: Method, path: &str, token: Option<&str>, key: Option<&str>, body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

async fn make_tokens(auth: &Authenticator) -> [String; 3] {
    let admin = auth.first_admin_token(NOW).await.unwrap().unwrap();
    assert_eq!(auth.first_admin_token(NOW).await.unwrap(), None, "there is one first token only");
    let trader = auth.create_key("trader", Role::Trader, NOW).await.unwrap().token.into_text();
    let viewer = auth.create_key("viewer", Role::Viewer, NOW).await.unwrap().token.into_text();
    [admin, trader, viewer]
}

fn snapshot_of(status: Arc<Mutex<HealthStatus>>) -> Arc<dyn Fn() -> HealthSnapshot + Send + Sync> {
    Arc::new(move || HealthSnapshot {
        status: *status.lock().unwrap(),
        phase: "serving".into(),
        checks: vec![Check { name: "store".into(), ok: true, detail: "answers".into() }],
    })
}

fn gate(open: Arc<AtomicBool>) -> IntakeGate {
    IntakeGate::new(move || if open.load(Ordering::SeqCst) { Ok(IntakeGuard::new(())) } else { Err(IntakeClosed) })
}

pub fn server() -> ServerConfig {
    ServerConfig {
        accept: hotgo::config::Accept::AtOnce,
        bind: "127.0.0.1:0".parse().unwrap(),
        max_connections: 100,
        header_timeout_ms: 10_000,
        body_timeout_ms: 200,
        write_timeout_ms: 30_000,
        idle_timeout_ms: 60_000,
        request_timeout_ms: 10_000,
        body_limit_bytes: 64 * 1024,
        allowed_origins: Vec::new(),
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
        limits: LimitsConfig { requests_per_minute: 120_000, cancels_per_minute: 120_000, refused_per_minute: 600 },
    }
}

fn trading_config() -> TradingConfig {
    TradingConfig {
        namespace: "test".into(),
        accounts: Vec::new(),
        limits: Limits::default(),
        queue: 16,
        lease_ttl_ms: 15_000,
        signal_ttl_ms: 60_000,
    }
}
