//! Orders through the engine to the disk, against the best raw writer of the same rows on the same disk, in SQLite and in
//! PostgreSQL. Prints figures and ratios; machines differ, ratios less so. `cargo bench --bench engine`; with words after `--`
//! only the parts and the databases so named.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    clippy::print_stdout,
    clippy::large_futures,
    clippy::format_push_string,
    reason = "a bench"
)]

mod database;
mod desk;
#[path = "../../tests/support/postgres.rs"]
mod postgres_server;
mod raw;
mod venue;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hotgo::store::{Commit, Lease, Store};
use trading::event::Recorded;
use trading::exchange::OrderKind;
use trading::ids::{AccountId, Seq};

use database::{Database, Kind, Place, Raw};
use desk::Desk;
use raw::{Batch, batches};
use venue::Venue;
use world::World;

const ROUNDS: usize = 5;
const LONE_ORDERS: usize = 300;
const PAUSE: Duration = Duration::from_millis(10);
const OPEN_ORDERS: [usize; 2] = [10_000, 100_000];
const STORE_ACCOUNTS: i64 = 512;
const ENGINE_ORDERS: usize = 20_000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let (kinds, parts): (Vec<&String>, Vec<&String>) =
        words.iter().partition(|word| Kind::ALL.iter().any(|kind| kind.name() == word.as_str()));
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|word| word.as_str() == part);
    let wanted_kind = |kind: &Kind| kinds.is_empty() || kinds.iter().any(|word| word.as_str() == kind.name());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for kind in Kind::ALL.into_iter().filter(wanted_kind) {
            println!("\n{:<56} {:>10} {:>10} {:>7}", format!("{}, medians", kind.name()), "ours", "raw", "ratio");
            if wanted("lone") {
                lone(kind).await;
            }
            if wanted("64") {
                together(kind, 64, 32).await;
            }
            if wanted("512") {
                together(kind, 512, 8).await;
            }
            if wanted("store") {
                store_alone(kind).await;
            }
            if wanted("recovery") {
                for orders in OPEN_ORDERS {
                    recovery(kind, orders).await;
                }
            }
        }
        if wanted("step") {
            engine_alone();
        }
    });
}

/// A world and a raw database that has the same rows.
struct Pair {
    world: Arc<World>,
    raw: Raw,
    seq: Seq,
    events_per_order: i64,
    _place: Place,
}

impl Pair {
    async fn start(kind: Kind) -> Self {
        let place = Place::new(kind);
        let venue = Arc::new(Venue::new(true));
        let mut world = World::start(&place.database("hotgo.db").await, &venue).await;
        world.make_robots(&venue, 1).await;
        let world = Arc::new(world);
        let raw = place.raw(std::slice::from_ref(&world.account)).await;
        let mut pair = Self { world, raw, seq: Seq(0), events_per_order: 0, _place: place };
        for order in ["first", "second"] {
            pair.quiet().await;
            pair.follow(1).await;
            pair.world.order(order, OrderKind::Market).await;
        }
        pair.quiet().await;
        pair.events_per_order = pair.world.head().await.0 - pair.seq.0;
        pair.follow(1).await;
        pair
    }

    /// Waits until nothing more happens.
    async fn quiet(&self) {
        let mut head = Seq(-1);
        while head != self.world.head().await {
            head = self.world.head().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// What is new in the world, as batches for the raw database.
    async fn news(&mut self, orders: usize) -> Vec<Batch> {
        let events = self.world.events(self.seq).await;
        self.seq = events.last().map_or(self.seq, |last| last.seq);
        batches(self.world.account.id, &events, orders)
    }

    /// Writes what is new in the world to the raw database: the time per transaction.
    async fn follow(&mut self, orders: usize) -> Vec<Duration> {
        let mut times = Vec::new();
        for batch in self.news(orders).await {
            times.push(self.raw.write(&batch).await);
        }
        times
    }
}

/// One order at a time: from `submit` to the durable answer, against the raw transaction that makes the same rows durable, and
/// against one that writes a single row.
async fn lone(kind: Kind) {
    let mut pair = Pair::start(kind).await;
    let (mut ours, mut raw, mut one) = (Vec::new(), Vec::new(), Vec::new());
    // By turns, so that whatever else the machine does befalls all, and each after a pause: the first sync of a file after
    // a pause costs more than one that follows at once, and a lone order is always a first.
    for n in 0..LONE_ORDERS {
        tokio::time::sleep(PAUSE).await;
        ours.push(pair.world.order(&format!("lone-{n}"), OrderKind::Market).await);
        pair.world.wait_for(pair.seq.0 + pair.events_per_order).await;
        for batch in pair.news(1).await {
            tokio::time::sleep(PAUSE).await;
            let took = pair.raw.write(&batch).await;
            if batch.answers {
                raw.push(took);
                tokio::time::sleep(PAUSE).await;
                one.push(pair.raw.write_one(&batch).await);
            }
        }
    }
    let (ours, raw, one) = (micros(median(ours)), micros(median(raw)), micros(median(one)));
    line("a lone order, submit to durable, us; the same rows", ours, Some(raw), ours / raw);
    line("    the same; one row", ours, Some(one), ours / one);
}

/// Many callers, each with one order under way.
async fn together(kind: Kind, callers: usize, each: usize) {
    let mut pair = Pair::start(kind).await;
    let (mut ours, mut raw, mut batch_sizes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let name = format!("{callers}-{round}");
        let took = pair.world.load(&name, callers, each, OrderKind::Market, pair.events_per_order).await;
        let written = pair.follow(callers).await;
        if round > 0 {
            ours.push(took);
            raw.push(written.iter().sum());
            batch_sizes.push(written.len());
        }
    }
    let orders = (callers * each) as f64;
    let (ours, raw) = (orders / median(ours).as_secs_f64(), orders / median(raw).as_secs_f64());
    line(&format!("{callers} callers, orders/s (filled and booked)"), ours, Some(raw), ours / raw);
    batch_sizes.sort_unstable();
    println!("    the raw writer needed {} transactions for {orders} orders", batch_sizes[batch_sizes.len() / 2]);
}

/// 512 accounts commit a planned order each, at once.
async fn store_alone(kind: Kind) {
    let place = Place::new(kind);
    let (store, writer) = place.database("hotgo.db").await.open().await;
    let work = async {
        let (mut accounts, mut desks) = (Vec::new(), Vec::new());
        for n in 1..=STORE_ACCOUNTS {
            let account = store.ensure_account("bench", &format!("account-{n}")).await.unwrap();
            let lease = store.acquire_lease(account.id, &"bench".into(), Duration::from_mins(5), false).await.unwrap();
            let (desk, first) = Desk::open(account.id);
            accounts.push(account);
            desks.push((desk, lease, first));
        }
        let mut raw = place.raw(&accounts).await;
        let firsts = desks.iter().map(|(_, lease, first)| (lease.clone(), first.clone())).collect();
        both(&*store, &mut raw, firsts).await;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS * 2 {
            let orders: Vec<_> = desks.iter_mut().map(|(desk, lease, _)| (lease.clone(), desk.order())).collect();
            let plans = orders.iter().map(|(lease, (plan, _))| (lease.clone(), plan.clone())).collect();
            let (a, b) = both(&*store, &mut raw, plans).await;
            ours.push(a);
            theirs.push(b);
            let outcomes = orders.into_iter().map(|(lease, (_, outcome))| (lease, outcome)).collect();
            both(&*store, &mut raw, outcomes).await;
        }
        store.close().await;
        let commits = STORE_ACCOUNTS as f64;
        (commits / median(ours).as_secs_f64(), commits / median(theirs).as_secs_f64())
    };
    let ((), (ours, theirs)) = tokio::join!(writer, work);
    line("store alone, 512 accounts, merged commits/s", ours, Some(theirs), ours / theirs);
}

/// The same events through the store, all at once, and through the raw writer, in one transaction.
async fn both(store: &dyn Store, raw: &mut Raw, given: Vec<(Lease, Vec<Recorded>)>) -> (Duration, Duration) {
    let mut batch = Batch::default();
    for (lease, events) in &given {
        for event in events {
            batch.add(lease.account, event);
        }
    }
    let commits: Vec<Commit> =
        given.into_iter().map(|(lease, events)| Commit { lease, events: events.into() }).collect();
    let started = Instant::now();
    for result in join_all(commits.into_iter().map(|commit| store.commit(commit))).await {
        result.unwrap();
    }
    (started.elapsed(), raw.write(&batch).await)
}

/// Decisions only: nothing is stored, the venue answers within the call.
fn engine_alone() {
    let (mut steps, mut orders) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut desk, _) = Desk::open(AccountId(1));
        desk.steps = 0;
        let started = Instant::now();
        for _ in 0..ENGINE_ORDERS {
            std::hint::black_box(desk.order());
        }
        let took = started.elapsed().as_secs_f64();
        steps.push(desk.steps as f64 / took);
        orders.push(ENGINE_ORDERS as f64 / took);
    }
    steps.sort_by(f64::total_cmp);
    orders.sort_by(f64::total_cmp);
    println!("{:<56} {:>10.0}", "engine alone, steps/s", steps[ROUNDS / 2]);
    println!("{:<56} {:>10.0}", "engine alone, orders/s (planned and filled)", orders[ROUNDS / 2]);
}

/// From opening the database to an account that trades, with many orders open at the venue.
async fn recovery(kind: Kind, orders: usize) {
    let place = Place::new(kind);
    let database: Database = place.database("hotgo.db").await;
    let venue = Arc::new(Venue::new(false));
    let mut world = World::start(&database, &venue).await;
    // A robot looks through its own orders at every decision.
    world.make_robots(&venue, i64::try_from(orders / 1_000).unwrap()).await;
    let world = Arc::new(world);
    let limit = OrderKind::Limit { price: "80000".parse().unwrap() };
    world.load("open", 500, orders / 500, limit, 4).await;
    Arc::into_inner(world).unwrap().stop().await;
    let mut times = Vec::new();
    for _ in 0..3 {
        let started = Instant::now();
        let world = World::start(&database, &venue).await;
        times.push(started.elapsed());
        world.stop().await;
    }
    println!("{:<56} {:>10.0}", format!("start to ready, {orders} open orders, ms"), median(times).as_secs_f64() * 1e3);
}

fn line(what: &str, ours: f64, raw: Option<f64>, ratio: f64) {
    println!("{what:<56} {ours:>10.0} {:>10.0} {ratio:>7.2}", raw.unwrap_or_default());
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
