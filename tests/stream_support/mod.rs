//! A server with nothing but the stream, on loopback, over a store in memory; and its clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use hotgo::auth::Authenticator;
use hotgo::store::{
    Account, ApiKey, AuditEntry, Commit, CommitError, FillFilter, Head, Instance, InstanceRow, Lease, LeaseError,
    LeaseRow, Notice, OrderFilter, Revocation, Role, Store, StoreError, Stored, StoredFill, StoredNotice, Waiting,
};
use hotgo::stream::{Drain, Guard, Hub, Settings, StreamDeps, routes};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;
use trading::command::{Command, Record};
use trading::engine::Snapshot;
use trading::event::{Event, Recorded};
use trading::ids::{AccountId, ClientOrderId, RobotId, Seq};
use trading::order::Order;
use trading::position::{Balance, Position};
use trading::robot::Robot;
use trading::time::Timestamp;

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The parts of a store that the stream uses.
#[derive(Debug, Default)]
pub struct MemoryStore {
    events: Mutex<BTreeMap<AccountId, Vec<Recorded>>>,
    keys: Mutex<Vec<ApiKey>>,
    pub broken: AtomicBool,
    pub reads: AtomicUsize,
}

impl MemoryStore {
    pub fn append(&self, account: AccountId, events: &[Recorded]) {
        self.events.lock().unwrap().entry(account).or_default().extend_from_slice(events);
    }

    /// Forgets the events up to `seq`.
    pub fn prune(&self, account: AccountId, seq: i64) {
        self.events.lock().unwrap().entry(account).or_default().retain(|event| event.seq.0 > seq);
    }

    fn check(&self) -> Result<(), StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) { Err(StoreError::Unavailable("broken".into())) } else { Ok(()) }
    }
}

fn unused<T>() -> Result<T, StoreError> {
    Err(StoreError::Closed)
}

#[async_trait]
impl Store for MemoryStore {
    async fn ensure_account(&self, _: &str, _: &str) -> Result<Account, StoreError> {
        unused()
    }
    async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        self.check()?;
        let events = self.events.lock().unwrap();
        Ok(events.keys().map(|id| Account { id: *id, venue: "paper".into(), label: id.to_string() }).collect())
    }
    async fn acquire_lease(&self, _: AccountId, _: &Arc<str>, _: Duration, _: bool) -> Result<Lease, LeaseError> {
        Err(StoreError::Closed.into())
    }
    async fn renew_lease(&self, _: &Lease, _: Duration) -> Result<(), LeaseError> {
        Err(StoreError::Closed.into())
    }
    async fn release_lease(&self, _: &Lease) -> Result<(), LeaseError> {
        Err(StoreError::Closed.into())
    }
    async fn transfer_lease(&self, _: &Lease, _: &str, _: Duration) -> Result<(), LeaseError> {
        Err(StoreError::Closed.into())
    }
    async fn leases(&self) -> Result<Vec<LeaseRow>, StoreError> {
        unused()
    }
    async fn beat(&self, _: &InstanceRow, _: Duration) -> Result<Vec<Instance>, StoreError> {
        unused()
    }
    async fn leave(&self, _: &str) -> Result<(), StoreError> {
        unused()
    }
    async fn bind_ledger(&self, _: AccountId, _: &str) -> Result<String, StoreError> {
        unused()
    }
    async fn load(&self, _: AccountId) -> Result<Snapshot, StoreError> {
        unused()
    }
    async fn commit(&self, _: Commit) -> Result<(), CommitError> {
        Err(CommitError::Closed)
    }
    async fn find_command(&self, _: &str, _: &str) -> Result<Option<Record>, StoreError> {
        unused()
    }
    async fn store_command(&self, _: AccountId, _: &Command, _: Timestamp, _: u32) -> Result<Stored, StoreError> {
        unused()
    }
    async fn waiting_commands(&self, _: &[AccountId], _: u32) -> Result<Vec<Waiting>, StoreError> {
        unused()
    }
    async fn waiting_command(&self, _: &str, _: &str) -> Result<Option<Waiting>, StoreError> {
        unused()
    }
    async fn robots(&self, _: Option<AccountId>) -> Result<Vec<Robot>, StoreError> {
        unused()
    }
    async fn robot(&self, _: RobotId) -> Result<Option<Robot>, StoreError> {
        unused()
    }
    async fn order(&self, _: &ClientOrderId) -> Result<Option<Order>, StoreError> {
        unused()
    }
    async fn orders(&self, _: &OrderFilter) -> Result<Vec<Order>, StoreError> {
        unused()
    }
    async fn fills(&self, _: &FillFilter) -> Result<Vec<StoredFill>, StoreError> {
        unused()
    }
    async fn positions(&self, _: Option<AccountId>) -> Result<Vec<Position>, StoreError> {
        unused()
    }
    async fn balances(&self, _: AccountId) -> Result<Vec<Balance>, StoreError> {
        unused()
    }
    async fn events(&self, account: AccountId, since: Seq, limit: u32) -> Result<Vec<Recorded>, StoreError> {
        self.check()?;
        let page = {
            let events = self.events.lock().unwrap();
            let all = events.get(&account).map(Vec::as_slice).unwrap_or_default();
            let from = all.partition_point(|event| event.seq <= since);
            all.iter().skip(from).take(usize::try_from(limit).unwrap()).cloned().collect()
        };
        // What was read grows old before it arrives, as with a real store.
        tokio::task::yield_now().await;
        Ok(page)
    }
    async fn head(&self, account: AccountId) -> Result<Head, StoreError> {
        self.check()?;
        let seq = {
            let events = self.events.lock().unwrap();
            events.get(&account).and_then(|all| all.last()).map_or(Seq(0), |last| last.seq)
        };
        tokio::task::yield_now().await;
        Ok(Head { account, seq })
    }
    async fn heads(&self, accounts: &[AccountId]) -> Result<Vec<Head>, StoreError> {
        let mut heads = Vec::new();
        for account in accounts {
            heads.push(self.head(*account).await?);
        }
        Ok(heads)
    }
    async fn add_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        self.keys.lock().unwrap().push(key.clone());
        Ok(())
    }
    async fn api_key(&self, hash: &str) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.keys.lock().unwrap().iter().find(|key| key.hash == hash).cloned())
    }
    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        self.check()?;
        Ok(self.keys.lock().unwrap().clone())
    }
    async fn revoke_api_key(&self, id: &str, at: Timestamp) -> Result<Revocation, StoreError> {
        let mut keys = self.keys.lock().unwrap();
        let key = keys.iter_mut().find(|key| key.id == id);
        Ok(key.map_or(Revocation::NotFound, |key| {
            key.revoked_at = Some(at);
            Revocation::Revoked
        }))
    }
    async fn has_api_keys(&self) -> Result<bool, StoreError> {
        Ok(true)
    }
    async fn append_audit(&self, _: &AuditEntry) -> Result<(), StoreError> {
        unused()
    }
    async fn add_notice(&self, _: &Notice, _: Timestamp) -> Result<bool, StoreError> {
        unused()
    }
    async fn notices(&self, _: Timestamp) -> Result<Vec<StoredNotice>, StoreError> {
        unused()
    }
    async fn api_key_by_id(&self, _: &str) -> Result<Option<ApiKey>, StoreError> {
        unused()
    }
    async fn use_nonce(&self, _: &str, _: &str, _: Timestamp) -> Result<bool, StoreError> {
        unused()
    }
    async fn count_requests(&self, _: Timestamp, _: &[(String, u64)], _: Timestamp) -> Result<Vec<u64>, StoreError> {
        unused()
    }
    async fn ping(&self) -> Result<(), StoreError> {
        unused()
    }
    async fn close(&self) {}
}

/// Counts the guards that are held, and tells when that changes.
#[derive(Debug, Default)]
pub struct Guards {
    held: AtomicUsize,
    pub closed: AtomicBool,
    changed: Notify,
}

struct Held(Arc<Guards>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_one();
    }
}

impl Guards {
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// Waits until no guard is held. For one waiter.
    pub async fn none_held(&self) {
        let none = async {
            while self.held() > 0 {
                self.changed.notified().await;
            }
        };
        timeout(PATIENCE, none).await.expect("a session did not end");
    }
}

pub struct Server<S = MemoryStore> {
    pub address: SocketAddr,
    pub token: String,
    pub store: Arc<S>,
    pub hub: Arc<Hub>,
    pub guards: Arc<Guards>,
    pub draining: watch::Sender<Option<Drain>>,
    pub close: CancellationToken,
    heads: Mutex<BTreeMap<AccountId, i64>>,
    _serving: JoinSet<()>,
}

pub fn settings() -> Settings {
    Settings {
        max_sessions: 2_000,
        auth_timeout: PATIENCE,
        ping_interval: PATIENCE,
        send_timeout: PATIENCE,
        close_timeout: PATIENCE,
        close_spread: Duration::ZERO,
        allowed_origins: vec!["https://desk.example".into()],
    }
}

impl Server {
    pub async fn start(settings: Settings, window: usize) -> Self {
        Self::start_over(Arc::new(MemoryStore::default()), settings, window).await
    }

    /// Makes an account without events.
    pub fn open_account(&self, account: i64) {
        self.store.append(AccountId(account), &[]);
    }

    /// Commits and then publishes alarms with this text, as a driver does. Gives the account's head.
    pub fn commit(&self, account: i64, count: usize, text: &str) -> i64 {
        let mut heads = self.heads.lock().unwrap();
        let head = heads.entry(AccountId(account)).or_default();
        let events = alarms(*head, count, text);
        *head += i64::try_from(count).unwrap();
        self.store.append(AccountId(account), &events);
        self.hub.publish(AccountId(account), events);
        *head
    }
}

/// So many events after number `head`.
pub fn alarms(head: i64, count: usize, text: &str) -> Arc<[Recorded]> {
    (head + 1..)
        .take(count)
        .map(|seq| {
            let event = Event::Alarm { message: text.to_owned(), order: None, robot: None };
            Recorded { seq: Seq(seq), at: Timestamp::from_micros(seq), event }
        })
        .collect()
}

impl<S: Store + 'static> Server<S> {
    pub async fn start_over(store: Arc<S>, settings: Settings, window: usize) -> Self {
        let auth = Authenticator::new(Arc::clone(&store) as Arc<dyn Store>);
        let made = auth.create_key("test", Role::Viewer, Timestamp::from_micros(0)).await.unwrap();
        let hub = Arc::new(Hub::new(window));
        let guards = Arc::new(Guards::default());
        let (draining, drained) = watch::channel(None);
        let close = CancellationToken::new();
        let gate = Arc::clone(&guards);
        let admit = move || {
            if gate.closed.load(Ordering::SeqCst) {
                return None;
            }
            gate.held.fetch_add(1, Ordering::SeqCst);
            Some(Box::new(Held(Arc::clone(&gate))) as Guard)
        };
        let router = routes(StreamDeps {
            settings,
            hub: Arc::clone(&hub),
            store: Arc::clone(&store) as Arc<dyn Store>,
            auth,
            admit: Arc::new(admit),
            draining: drained,
            close: close.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            token: made.token.into_text(),
            store,
            hub,
            guards,
            draining,
            close,
            heads: Mutex::default(),
            _serving: serving,
        }
    }

    pub async fn connect(&self) -> Client {
        self.connect_with(&[], "").await.unwrap()
    }

    pub async fn connect_with(&self, headers: &[(&'static str, &str)], query: &str) -> Result<Client, Error> {
        let socket = TcpSocket::new_v4().unwrap();
        // Small, so that a reader that stops is soon felt.
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let stream = timeout(PATIENCE, socket.connect(self.address)).await.unwrap().unwrap();
        let mut request = format!("ws://{}/api/ws{query}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (ws, _) = timeout(PATIENCE, client_async(request, stream)).await.unwrap()?;
        Ok(Client { ws })
    }

    /// Connects and authenticates.
    pub async fn log_in(&self) -> Client {
        let mut client = self.connect().await;
        client.say(json!({"op": "auth", "token": self.token})).await;
        assert_eq!(client.json().await["op"], "welcome");
        client
    }

    /// Connects, authenticates, and follows one account.
    pub async fn follow(&self, account: i64, since: Option<i64>) -> Client {
        let mut client = self.log_in().await;
        client.subscribe(account, since).await;
        let said = client.json().await;
        assert_eq!(said["op"], "subscribed", "{said}");
        client
    }
}

/// What a server does.
#[derive(Debug, PartialEq)]
pub enum Said {
    Json(Value),
    Close(u16, String),
    Gone,
}

pub struct Client {
    pub ws: WebSocketStream<TcpStream>,
}

impl Client {
    pub async fn say(&mut self, value: Value) {
        self.ws.send(Message::text(value.to_string())).await.unwrap();
    }

    pub async fn subscribe(&mut self, account: i64, since: Option<i64>) {
        match since {
            Some(since) => self.say(json!({"op": "subscribe", "account": account, "since_seq": since})).await,
            None => self.say(json!({"op": "subscribe", "account": account})).await,
        }
    }

    pub async fn hear(&mut self) -> Said {
        loop {
            match timeout(PATIENCE, self.ws.next()).await.expect("the server is silent") {
                Some(Ok(Message::Text(text))) => return Said::Json(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Said::Close(frame.code.into(), frame.reason.as_str().to_owned());
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => panic!("unexpected {other:?}"),
                Some(Err(_)) | None => return Said::Gone,
            }
        }
    }

    pub async fn json(&mut self) -> Value {
        match self.hear().await {
            Said::Json(value) => value,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// Reads events of `account` after `last` until number `until`, and asserts that each is the next one.
    pub async fn events(&mut self, account: i64, mut last: i64, until: i64) {
        while last < until {
            let said = self.json().await;
            assert_eq!((&said["op"], &said["account"]), (&json!("event"), &json!(account)), "{said}");
            assert_eq!(said["seq"], last + 1, "gap or double");
            last += 1;
        }
    }

    pub async fn close_frame(&mut self) -> (u16, String) {
        match self.hear().await {
            Said::Close(code, reason) => (code, reason),
            other => panic!("expected a Close, got {other:?}"),
        }
    }
}
