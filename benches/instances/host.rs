//! Instances with everything of their own but the process: store, bus, registry, drivers. They share the venues and the clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hotgo::bus::{Bus, Message, RedisBus};
use hotgo::clock::Clock;
use hotgo::config::{MarketConfig, MarketSource, RedisConfig, Sources, SymbolConfig, load};
use hotgo::engines::{EngineRegistry, Engines, Farewell, Ports, Stage};
use hotgo::gateway::Gateway;
use hotgo::instance::{Instances, Settings};
use hotgo::market::{MarketHub, MarketRunner};
use hotgo::redis::Redis;
use hotgo::store::postgres::{OpenOptions, PostgresStore, Server};
use hotgo::store::{Account, InstanceRow, Store};
use hotgo::stream::Hub;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trading::command::Outcome;
use trading::risk::Limits;

use crate::desk::new_robot;
use crate::support::RedisServer;
use crate::support::postgres::Postgres;
use crate::venue::Venue;

const PATIENCE: Duration = Duration::from_mins(1);
const TTL: Duration = Duration::from_secs(15);

/// Polls until it is so.
pub(crate) async fn poll(what: &str, mut look: impl FnMut() -> bool) {
    let looking = async {
        while !look() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// What all instances share.
pub(crate) struct World {
    pub(crate) accounts: Vec<Account>,
    venues: Vec<Arc<Venue>>,
    prices: MarketHub,
    clock: Clock,
    market: CancellationToken,
    rest: JoinSet<()>,
    redis: Redis,
    database: Server,
    _redis_server: RedisServer,
    postgres: Postgres,
}

impl World {
    pub(crate) async fn new(accounts: usize) -> Self {
        let postgres = Postgres::start_with(&["shared_buffers=128MB", "autovacuum=on", "max_wal_size=1GB"]);
        let redis_server = RedisServer::start().await;
        let config =
            RedisConfig { url: Some(redis_server.url()), password_file: None, prefix: "bench".into(), signals: None };
        let redis = Redis::open(&config).unwrap().expect("it has a URL");
        let database = Server::new(&postgres.socket_url(), None).unwrap();
        let (store, writer) = PostgresStore::open(&database, OpenOptions::default()).await.unwrap();
        let making = async {
            let labels = (0..accounts).map(|n| format!("a{n}"));
            let made = join_all(labels.map(async |label| store.ensure_account("desk", &label).await.unwrap())).await;
            store.close().await;
            made
        };
        let ((), made) = tokio::join!(writer.run(), making);
        let (mut rest, market, clock) = (JoinSet::new(), CancellationToken::new(), Clock::start());
        let none = Sources { dir: None, env: [].into(), working_dir: ".".into(), flags: Vec::new() };
        let live = load(&none).unwrap().config.venue.binance;
        let venues: Vec<Arc<Venue>> = made.iter().map(|_| Arc::new(Venue::new(true))).collect();
        let (runner, prices) = MarketRunner::open(&market_of(&venues[0]), &live, clock).unwrap();
        let stop = market.clone();
        rest.spawn(async move { runner.run(None, stop).await.unwrap() });
        Self {
            accounts: made,
            venues,
            prices,
            clock,
            market,
            rest,
            redis,
            database,
            _redis_server: redis_server,
            postgres,
        }
    }

    /// What a raw commit of one row takes on this server: the median of some, each after a pause.
    pub(crate) async fn raw_commit(&self) -> Duration {
        let mut conn = PgConnection::connect(&self.postgres.socket_url()).await.unwrap();
        conn.execute("CREATE TABLE IF NOT EXISTS bare (n bigint)").await.unwrap();
        let mut times = Vec::new();
        for n in 0..50_i64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let began = Instant::now();
            sqlx::query("INSERT INTO bare VALUES ($1)").bind(n).execute(&mut conn).await.unwrap();
            times.push(began.elapsed());
        }
        times.sort();
        times[times.len() / 2]
    }

    pub(crate) async fn end(mut self) {
        self.market.cancel();
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
        quotes_per_second: 1,
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

/// An instance that is able to trade all accounts.
pub(crate) struct Host {
    pub(crate) registry: Arc<EngineRegistry>,
    pub(crate) instances: Instances,
    pub(crate) store: Arc<dyn Store>,
    bus: Arc<RedisBus>,
    stop: CancellationToken,
    drivers: JoinSet<Farewell>,
    news: JoinSet<()>,
    rest: JoinSet<()>,
}

impl Host {
    /// It is up, but does not say so before it [joins](Host::joins).
    pub(crate) async fn start(world: &World, name: &str) -> Self {
        let id: Arc<str> = name.into();
        let (stop, mut news, mut rest) = (CancellationToken::new(), JoinSet::new(), JoinSet::new());
        let (store, writer) = PostgresStore::open(&world.database, OpenOptions::default()).await.unwrap();
        rest.spawn(writer.run());
        let store: Arc<dyn Store> = Arc::new(store);
        let (bus, publisher, listener) = RedisBus::new(&world.redis, "bench", &id);
        let bus = Arc::new(bus);
        news.spawn(publisher.run(stop.clone()));
        news.spawn(listener.run(stop.clone()));
        let hub = Arc::new(Hub::with_bus(1_024, Arc::clone(&bus) as Arc<dyn Bus>));
        let ports = world.accounts.iter().zip(&world.venues).map(|(account, venue)| {
            let ports = Ports {
                store: Arc::clone(&store),
                gateway: Arc::clone(venue) as Arc<dyn Gateway>,
                market: world.prices.clone(),
                hub: Arc::clone(&hub),
                clock: world.clock,
                namespace: "bench".into(),
                limits: Limits::default(),
                owner: Arc::clone(&id),
                lease_ttl: TTL,
                hand_over: Duration::from_secs(5),
                predecessor_is_dead: false,
            };
            (account.clone(), ports)
        });
        let (registry, tasks) = EngineRegistry::new(ports.collect(), 1_024);
        let mut drivers = JoinSet::new();
        for driver in tasks {
            drivers.spawn(driver.run());
        }
        let row = InstanceRow {
            id,
            name: name.to_owned(),
            address: String::new(),
            build_id: "bench".into(),
            accounts: world.accounts.iter().map(|account| account.id).collect(),
            draining: false,
            standby: false,
            successor: None,
            started_at: world.clock.now(),
        };
        let told = Arc::clone(&bus);
        let tell = move || told.publish(Message::Instances);
        let settings = Settings { row, ttl: TTL, shares: false, alone: false };
        let instances = Instances::new(settings, Arc::clone(&store), Arc::clone(&registry), tell);
        news.spawn(instances.clone().hear(bus.subscribe(), stop.clone()));
        Self { registry, instances, store, bus, stop, drivers, news, rest }
    }

    /// Says that it lives.
    pub(crate) fn joins(&mut self) {
        self.news.spawn(self.instances.clone().run(self.stop.clone()));
    }

    /// How many accounts trade here.
    pub(crate) fn ready(&self) -> usize {
        self.registry.status().iter().filter(|status| status.ready).count()
    }

    pub(crate) async fn has(&self, accounts: usize) {
        poll("it trades so many", || self.ready() == accounts).await;
    }

    pub(crate) async fn knows(&self, instances: usize) {
        let mut view = self.instances.view();
        timeout(PATIENCE, view.wait_for(|view| view.living.len() == instances)).await.expect("never known").unwrap();
    }

    pub(crate) async fn make_robots(&self, world: &World) {
        let made = world.accounts.iter().zip(&world.venues).map(async |(account, venue)| {
            let record = self.registry.submit(account.id, new_robot(venue, &account.label)).await.unwrap();
            assert!(matches!(record.outcome, Outcome::Done { .. }), "{record:?}");
        });
        join_all(made).await;
    }

    /// An orderly end.
    pub(crate) async fn leaves(mut self) {
        self.registry.advance(Stage::Drain);
        timeout(PATIENCE, self.registry.drained()).await.expect("never drained");
        self.registry.advance(Stage::Stop);
        while let Some(ended) = self.drivers.join_next().await {
            ended.unwrap();
        }
        self.bus.flush().await;
        self.stop.cancel();
        while let Some(ended) = self.news.join_next().await {
            ended.unwrap();
        }
        self.store.close().await;
        while let Some(ended) = self.rest.join_next().await {
            ended.unwrap();
        }
    }
}
