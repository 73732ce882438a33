//! Several instances in one process, over one store and one venue. Each has a thread of its own, so that it can freeze.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use hotgo::clock::Clock;
use hotgo::config::{MarketConfig, MarketSource, Sources, SymbolConfig, load};
use hotgo::engines::{EngineRegistry, EngineStatus, Engines, Ports, Stage, SubmitError};
use hotgo::instance::{Instances, Settings};
use hotgo::market::{MarketHub, MarketRunner};
use hotgo::store::sqlite::{OpenOptions, SqliteStore};
use hotgo::store::{Account, InstanceRow, OrderFilter, Store};
use hotgo::stream::Hub;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trading::command::{Command, NewRobot, Outcome, Record, Wish};
use trading::event::Event;
use trading::exchange::{OrderKind, TimeInForce};
use trading::ids::{RobotId, Seq};
use trading::order::Order;
use trading::risk::Limits;
use trading::robot::{RobotConfig, StopPolicy, follower};
use trading::signal::{Action, Signal};

use crate::venue::Venue;

/// Only a failing test waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Leases that outlast every test: who gets an account with these did not wait for one to end.
pub(crate) const LONG: Duration = Duration::from_mins(2);
/// Leases to wait for.
pub(crate) const SHORT: Duration = Duration::from_secs(3);

/// Polls until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// What all instances share.
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) venue: Arc<Venue>,
    pub(crate) accounts: Vec<Account>,
    prices: MarketHub,
    clock: Clock,
    /// Everybody who can be told to look at once: what a bus does.
    listeners: Arc<Mutex<Vec<Instances>>>,
    rest: JoinSet<()>,
    market: CancellationToken,
    _directory: TempDir,
}

impl World {
    pub(crate) async fn new(accounts: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (mut rest, market, clock) = (JoinSet::new(), CancellationToken::new(), Clock::start());
        let (store, writer) =
            SqliteStore::open(&directory.path().join("hotgo.db"), OpenOptions::default()).await.unwrap();
        rest.spawn(writer.run());
        let venue = Venue::new();
        let none = Sources { dir: None, env: [].into(), working_dir: directory.path().into(), flags: Vec::new() };
        let live = load(&none).unwrap().config.venue.binance;
        let (runner, prices) = MarketRunner::open(&market_of(&venue), &live, clock).unwrap();
        let stop = market.clone();
        rest.spawn(async move { runner.run(None, stop).await.unwrap() });
        let mut made = Vec::new();
        for n in 0..accounts {
            made.push(store.ensure_account("desk", &format!("a{n}")).await.unwrap());
        }
        let store: Arc<dyn Store> = Arc::new(store);
        let listeners = Arc::default();
        Self { store, venue, accounts: made, prices, clock, listeners, rest, market, _directory: directory }
    }

    /// Starts an instance that is able to trade all accounts.
    pub(crate) fn instance(&self, name: &str, ttl: Duration) -> Host {
        self.instance_as(name, ttl, true)
    }

    /// `planned`: it asks the others. Otherwise it is told that all accounts are its own.
    pub(crate) fn instance_as(&self, name: &str, ttl: Duration, planned: bool) -> Host {
        let id: Arc<str> = name.into();
        let ports = self.accounts.iter().map(|account| {
            let ports = Ports {
                store: Arc::clone(&self.store),
                gateway: self.venue.port(&account.label, &id),
                market: self.prices.clone(),
                hub: Arc::new(Hub::new(1024)),
                clock: self.clock,
                namespace: "test".into(),
                limits: Limits::default(),
                owner: Arc::clone(&id),
                lease_ttl: ttl,
                hand_over: Duration::from_secs(5),
                predecessor_is_dead: false,
            };
            (account.clone(), ports)
        });
        let (registry, drivers) = EngineRegistry::new(ports.collect(), 1024);
        let row = InstanceRow {
            id: Arc::clone(&id),
            name: name.to_owned(),
            address: String::new(),
            build_id: "test".into(),
            accounts: self.accounts.iter().map(|account| account.id).collect(),
            draining: false,
            standby: false,
            successor: None,
            started_at: self.clock.now(),
        };
        let listeners = Arc::clone(&self.listeners);
        let settings = Settings { row, ttl, shares: false, alone: false };
        let instances = Instances::new(settings, Arc::clone(&self.store), Arc::clone(&registry), move || {
            for other in listeners.lock().unwrap().iter().filter(|other| other.id() != &id) {
                other.wake();
            }
        });
        if planned {
            self.listeners.lock().unwrap().push(instances.clone());
        } else {
            registry.take_all();
        }
        let (end, runtime) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let (ended, handle, beating) = (end.clone(), Arc::clone(&runtime), planned.then(|| instances.clone()));
        let thread = std::thread::spawn(move || {
            let own = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            handle.set(own.handle().clone()).unwrap();
            own.block_on(async move {
                let mut tasks = JoinSet::new();
                for driver in drivers {
                    tasks.spawn(async move { drop(driver.run().await) });
                }
                let stop = CancellationToken::new();
                let beat = beating.map(|instances| tokio::spawn(instances.run(stop.clone())));
                let all = async { while tasks.join_next().await.is_some() {} };
                // Dropping the tasks is as sudden as a kill.
                if ended.run_until_cancelled(all).await.is_some() {
                    stop.cancel();
                    if let Some(beat) = beat {
                        beat.await.unwrap();
                    }
                }
            });
        });
        Host { name: name.to_owned(), registry, instances, runtime, end, thread: Some(thread) }
    }

    /// A robot on each account, made by whoever has it.
    pub(crate) async fn make_robots(&self, hosts: &[&Host]) {
        for account in &self.accounts {
            let wish = Wish::CreateRobot(NewRobot {
                name: "follower".into(),
                symbol: self.venue.info.symbol.clone(),
                config: RobotConfig::Follower(follower::Config { default_qty: "0.001".parse().unwrap() }),
                limits: Limits::default(),
                stop_policy: StopPolicy::Cancel,
                start: true,
                webhook_hash: None,
            });
            let command = Command { source: "test".into(), dedup_key: format!("robot {}", account.id), wish };
            decide(hosts, account, command).await;
        }
    }

    pub(crate) fn robot(&self, account: usize) -> RobotId {
        RobotId::nth(self.accounts[account].id, 1).unwrap()
    }

    pub(crate) fn buy(&self, account: usize, key: &str, order: OrderKind) -> Command {
        let action = Action::Buy { qty: Some("0.001".parse().unwrap()), order, tif: TimeInForce::Gtc };
        let wish = Wish::Signal(Signal { robot: self.robot(account), action, expires_at: None });
        Command { source: "test".into(), dedup_key: key.to_owned(), wish }
    }

    pub(crate) async fn orders(&self, account: usize) -> Vec<Order> {
        let filter = OrderFilter { account: Some(self.accounts[account].id), limit: 10_000, ..OrderFilter::default() };
        self.store.orders(&filter).await.unwrap()
    }

    pub(crate) async fn owner(&self, account: usize) -> Option<String> {
        let leases = self.store.leases().await.unwrap();
        let lease = leases.into_iter().find(|lease| lease.account == self.accounts[account].id);
        lease.filter(|lease| !lease.remaining.is_zero()).map(|lease| lease.owner.to_string())
    }

    /// Nothing lost, nothing doubled, no gap, and no order sent under an older epoch than one before it.
    pub(crate) async fn audit(&self) {
        for (n, account) in self.accounts.iter().enumerate() {
            let at_venue = || self.venue.orders(&account.label);
            let settled = async || {
                let orders = self.orders(n).await;
                let quiet = orders.iter().all(|it| !it.status.is_unresolved() && !it.lacks_fills());
                quiet.then_some(orders)
            };
            let orders = eventually("every outcome is known", settled).await;
            let posts = self.venue.posts(&account.label);
            let ids: std::collections::BTreeSet<_> = posts.iter().map(|post| &post.client_id).collect();
            assert_eq!(ids.len(), posts.len(), "an id was posted twice: {posts:?}");
            for (id, report) in at_venue() {
                let row = orders.iter().find(|order| order.client_id == id).expect("an order without a row");
                assert_eq!((row.venue_id, row.filled), (Some(report.venue_id), report.executed), "{row:?}");
            }
            let epoch = |id| orders.iter().find(|order| order.client_id == id).unwrap().epoch;
            let epochs: Vec<_> = posts.iter().map(|post| epoch(post.client_id.clone())).collect();
            assert!(epochs.is_sorted(), "sent under an old epoch: {epochs:?}");
            let mut seen = Seq(0);
            let (mut started, mut keys) = (Vec::new(), std::collections::BTreeSet::new());
            loop {
                let page = self.store.events(account.id, seen, 1_000).await.unwrap();
                let Some(last) = page.last() else { break };
                assert!(page.iter().map(|it| it.seq.0).eq(seen.0 + 1..=last.seq.0), "a gap after {seen:?}");
                seen = last.seq;
                for recorded in &page {
                    match &recorded.event {
                        Event::Started { epoch } => started.push(*epoch),
                        Event::Command(record) => assert!(keys.insert(record.command.dedup_key.clone())),
                        Event::Alarm { message, .. } => panic!("alarm: {message}"),
                        _ => {}
                    }
                }
            }
            assert!(started.is_sorted() && started.windows(2).all(|pair| pair[0] != pair[1]), "{started:?}");
        }
    }

    pub(crate) async fn stop(mut self, hosts: Vec<Host>) {
        for host in hosts {
            host.stop().await;
        }
        self.market.cancel();
        self.store.close().await;
        while let Some(ended) = self.rest.join_next().await {
            ended.unwrap();
        }
    }
}

fn market_of(venue: &Venue) -> MarketConfig {
    let info = &venue.info;
    MarketConfig {
        source: MarketSource::Synthetic,
        seed: 1,
        quotes_per_second: 20,
        replay: None,
        symbols: vec![SymbolConfig {
            symbol: info.symbol.to_string(),
            base: info.base.to_string(),
            quote: info.quote.to_string(),
            tick: info.tick,
            lot: info.lot,
            min_qty: info.min_qty,
            min_notional: info.min_notional,
            max_open_orders: info.max_open_orders,
            start_price: "87000".parse().unwrap(),
        }],
    }
}

/// Asks one after another until one decides, as a client behind a load balancer does.
pub(crate) async fn decide(hosts: &[&Host], account: &Account, command: Command) -> Record {
    let ask = async || {
        for host in hosts {
            match host.registry.submit(account.id, command.clone()).await {
                Ok(record) => return Some(record),
                Err(SubmitError::UnknownAccount) => panic!("it is known to all"),
                Err(_) => {}
            }
        }
        None
    };
    eventually(&format!("{} is decided", command.dedup_key), ask).await
}

/// One instance.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) registry: Arc<EngineRegistry>,
    pub(crate) instances: Instances,
    runtime: Arc<OnceLock<tokio::runtime::Handle>>,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    pub(crate) fn status(&self, account: &Account) -> EngineStatus {
        self.registry.status().into_iter().find(|status| status.account == account.id).unwrap()
    }

    /// How many accounts trade here.
    pub(crate) fn ready(&self) -> usize {
        self.registry.status().iter().filter(|status| status.ready).count()
    }

    pub(crate) async fn is_ready(&self, accounts: usize) {
        let what = format!("{} trades {accounts}", self.name);
        eventually(&what, async || (self.ready() == accounts).then_some(())).await;
    }

    /// Stops every task of it until the returned sender is used or dropped.
    pub(crate) async fn freeze(&self) -> Sender<()> {
        let (thaw, frozen) = channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let runtime = self.runtime.get().unwrap().clone();
        runtime.spawn(async move {
            begun.send(()).unwrap();
            let _thawed = frozen.recv();
        });
        begins.await.unwrap();
        thaw
    }

    /// As if its process were killed.
    pub(crate) async fn kill(mut self) {
        self.end.cancel();
        self.join().await;
    }

    /// An orderly end: hands over, drains, stops.
    pub(crate) async fn stop(mut self) {
        self.instances.drain().await;
        self.registry.advance(Stage::Drain);
        tokio::time::timeout(DEADLINE, self.registry.drained()).await.expect("never drained");
        self.registry.advance(Stage::Stop);
        self.join().await;
    }

    async fn join(&mut self) {
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }
}

pub(crate) fn limit() -> OrderKind {
    OrderKind::Limit { price: "80000".parse().unwrap() }
}

pub(crate) fn is_done(record: &Record) -> bool {
    matches!(record.outcome, Outcome::Done { .. })
}
