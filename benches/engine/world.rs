//! The real parts between a caller and the disk: registry, driver, hub, store. Only the venue is the bench's own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hotgo::clock::Clock;
use hotgo::config::{MarketConfig, MarketSource, Sources, SymbolConfig, load};
use hotgo::engines::{EngineRegistry, Engines, Farewell, Ports, Stage};
use hotgo::market::MarketRunner;
use hotgo::store::{Account, Store};
use hotgo::stream::Hub;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trading::command::Outcome;
use trading::event::Recorded;
use trading::exchange::OrderKind;
use trading::ids::{RobotId, Seq};
use trading::risk::Limits;

use crate::database::Database;
use crate::desk::{buy, new_robot};
use crate::venue::Venue;

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) account: Account,
    registry: Arc<EngineRegistry>,
    drivers: JoinSet<Farewell>,
    rest: JoinSet<()>,
    market: CancellationToken,
    robots: i64,
}

fn market() -> MarketConfig {
    let venue = Venue::new(true);
    MarketConfig {
        source: MarketSource::Synthetic,
        seed: 1,
        quotes_per_second: 10,
        replay: None,
        symbols: vec![SymbolConfig {
            symbol: venue.info.symbol.to_string(),
            base: venue.info.base.to_string(),
            quote: venue.info.quote.to_string(),
            tick: venue.info.tick,
            lot: venue.info.lot,
            min_qty: venue.info.min_qty,
            min_notional: venue.info.min_notional,
            max_open_orders: venue.info.max_open_orders,
            start_price: "87000".parse().unwrap(),
        }],
    }
}

impl World {
    /// Opens the database and waits until the account trades.
    pub(crate) async fn start(database: &Database, venue: &Arc<Venue>) -> Self {
        let (mut rest, market_stop, clock) = (JoinSet::new(), CancellationToken::new(), Clock::start());
        let (store, writer) = database.open().await;
        rest.spawn(writer);
        let defaults = Sources { dir: None, env: [].into(), working_dir: ".".into(), flags: Vec::new() };
        let live = load(&defaults).unwrap().config.venue.binance;
        let (runner, prices) = MarketRunner::open(&market(), &live, clock).unwrap();
        let stop = market_stop.clone();
        rest.spawn(async move { runner.run(None, stop).await.unwrap() });
        let account = store.ensure_account("bench", "main").await.unwrap();
        let ports = Ports {
            store: Arc::clone(&store),
            gateway: Arc::clone(venue) as Arc<_>,
            market: prices,
            hub: Arc::new(Hub::new(1024)),
            clock,
            namespace: "bench".into(),
            limits: Limits::default(),
            owner: "bench".into(),
            lease_ttl: Duration::from_secs(15),
            hand_over: Duration::from_secs(5),
            predecessor_is_dead: true,
        };
        let (registry, tasks) = EngineRegistry::new(vec![(account.clone(), ports)], 1024);
        let mut drivers = JoinSet::new();
        for driver in tasks {
            drivers.spawn(driver.run());
        }
        registry.take_all();
        timeout(PATIENCE, registry.ready(Duration::from_millis(1))).await.expect("never ready");
        Self { store, account, registry, drivers, rest, market: market_stop, robots: 0 }
    }

    /// Callers take them by turns.
    pub(crate) async fn make_robots(&mut self, venue: &Venue, robots: i64) {
        self.robots = robots;
        for n in 0..robots {
            let command = new_robot(venue, &format!("robot {n}"));
            let record = self.registry.submit(self.account.id, command).await.unwrap();
            assert!(matches!(record.outcome, Outcome::Done { .. }), "{record:?}");
        }
        // Entries wait for the first price.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    /// Submits one order of the first robot and waits until it is durable.
    pub(crate) async fn order(&self, key: &str, order: OrderKind) -> Duration {
        self.order_of(1, key, order).await
    }

    async fn order_of(&self, robot: i64, key: &str, order: OrderKind) -> Duration {
        let robot = RobotId::nth(self.account.id, robot).unwrap();
        let started = Instant::now();
        let record = self.registry.submit(self.account.id, buy(robot, key, order)).await.unwrap();
        let took = started.elapsed();
        assert!(matches!(record.outcome, Outcome::Done { .. }), "{record:?}");
        took
    }

    /// `callers` at once, `each` orders one after another. Returns when the outcomes are durable too, with the time it took.
    pub(crate) async fn load(
        self: &Arc<Self>,
        name: &str,
        callers: usize,
        each: usize,
        kind: OrderKind,
        events_per_order: i64,
    ) -> Duration {
        let begin = self.head().await;
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let (world, name) = (Arc::clone(self), name.to_owned());
            let robot = i64::try_from(caller).unwrap() % self.robots + 1;
            tasks.spawn(async move {
                for n in 0..each {
                    world.order_of(robot, &format!("{name}-{caller}-{n}"), kind).await;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        let orders = i64::try_from(callers * each).unwrap();
        self.wait_for(begin.0 + orders * events_per_order).await;
        started.elapsed()
    }

    pub(crate) async fn head(&self) -> Seq {
        self.store.head(self.account.id).await.unwrap().seq
    }

    /// Waits until the account's history is this long.
    pub(crate) async fn wait_for(&self, seq: i64) {
        let reached = async {
            while self.head().await.0 < seq {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, reached).await.expect("the outcomes never came");
    }

    /// All events after `since`.
    pub(crate) async fn events(&self, since: Seq) -> Vec<Recorded> {
        let mut events = Vec::new();
        loop {
            let after = events.last().map_or(since, |last: &Recorded| last.seq);
            let page = self.store.events(self.account.id, after, 10_000).await.unwrap();
            if page.is_empty() {
                return events;
            }
            events.extend(page);
        }
    }

    /// An orderly stop: the lease is given up, everything is written.
    pub(crate) async fn stop(mut self) {
        self.registry.advance(Stage::Stop);
        while let Some(ended) = self.drivers.join_next().await {
            ended.unwrap();
        }
        self.market.cancel();
        self.store.close().await;
        while let Some(ended) = self.rest.join_next().await {
            ended.unwrap();
        }
    }
}
