//! The store on PostgreSQL against the best raw writer of the same rows: UNNEST, one statement per table and batch, no lease,
//! no sequence and no images to compare. `cargo bench --bench postgres`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::as_conversions,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a benchmark"
)]

#[path = "../tests/store_contract/data.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod data;
#[path = "../tests/support/postgres.rs"]
mod postgres;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hotgo::store::Store;
use hotgo::store::postgres::{OpenOptions, PostgresStore, Server};
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;
use trading::event::Event;
use trading::order::Order;

use data::{Held, order};
use postgres::Postgres;

const LONE: i64 = 400;
const ROUNDS: i64 = 30;
/// So many accounts commit at once; as many others are the raw writer's.
const WIDEST: usize = 512;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let server = Postgres::start_with(&["shared_buffers=128MB"]);
    let target = Server::new(&server.socket_url(), None).unwrap();
    let (store, writer) = PostgresStore::open(&target, OpenOptions::default()).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(writer.run());
    let mut raw = Raw(PgConnection::connect(&server.socket_url()).await.unwrap());

    let mut accounts = Vec::new();
    for _ in 0..2 * WIDEST {
        accounts.push(Held::with_robot(&store).await);
    }
    let mut n = 1;
    // Alternating, so that a busy machine slows both.
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..LONE {
        let (held, robot) = &mut accounts[0];
        let began = Instant::now();
        held.commit(&store, vec![Event::Order(order(robot.id, n))]).await.unwrap();
        ours.push(began.elapsed());
        let twin = order(accounts[WIDEST].1.id, n);
        let began = Instant::now();
        raw.write(&[twin]).await;
        theirs.push(began.elapsed());
        n += 1;
    }
    let (p50, raw_p50) = (median(ours), median(theirs));
    println!("a lone order           {p50:>10.1?}   raw {raw_p50:>10.1?}   {:.2} times", ratio(p50, raw_p50));

    for width in [10, 100, WIDEST] {
        let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..ROUNDS {
            let part = &mut accounts[..width];
            let began = Instant::now();
            let results = join_all(part.iter_mut().map(|(held, robot)| {
                let events = vec![Event::Order(order(robot.id, n))];
                held.commit(&store, events)
            }));
            results.await.into_iter().for_each(Result::unwrap);
            ours += began.elapsed();
            let twins: Vec<_> = accounts[WIDEST..WIDEST + width].iter().map(|(_, robot)| order(robot.id, n)).collect();
            let began = Instant::now();
            raw.write(&twins).await;
            theirs += began.elapsed();
            n += 1;
        }
        let rate = |took: Duration| (width as f64) * (ROUNDS as f64) / took.as_secs_f64();
        println!(
            "{width:>4} orders at a time   {:>8.0}/s   raw {:>8.0}/s   {:.2} of it",
            rate(ours),
            rate(theirs),
            rate(ours) / rate(theirs)
        );
    }
    store.close().await;
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

/// An order and its event in one statement.
struct Raw(PgConnection);

const RAW: &str = "WITH orders AS (
    INSERT INTO hg_trading_order
        (client_id, account, robot, decision, leg, generation, symbol, side, kind, price, stop_price, tif, qty, status,
         cancel_state, attempt, epoch, sent_at, deadline, filled, filled_quote, reported, created_at, updated_at, version)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
        $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::bigint[],
        $17::bigint[], $18::bigint[], $19::bigint[], $20::text[], $21::text[], $22::text[], $23::bigint[], $24::bigint[],
        $25::bigint[]))
    INSERT INTO hg_trading_event (account, seq, at, kind, payload)
    SELECT * FROM unnest($2::bigint[], $26::bigint[], $24::bigint[], $27::text[], $28::text[])";

impl Raw {
    async fn write(&mut self, orders: &[Order]) {
        fn of<T>(orders: &[Order], value: impl Fn(&Order) -> T) -> Vec<T> {
            orders.iter().map(value).collect()
        }
        sqlx::query(RAW)
            .bind(of(orders, |o| o.client_id.as_str().to_owned()))
            .bind(of(orders, |o| o.account.0))
            .bind(of(orders, |o| o.robot.0))
            .bind(of(orders, |o| o.key.decision))
            .bind(of(orders, |_| 0_i64))
            .bind(of(orders, |_| 0_i64))
            .bind(of(orders, |o| o.symbol.to_string()))
            .bind(of(orders, |_| "buy"))
            .bind(of(orders, |_| "stop_limit"))
            .bind(of(orders, |_| "101"))
            .bind(of(orders, |_| "100.5"))
            .bind(of(orders, |_| "gtc"))
            .bind(of(orders, |_| "2"))
            .bind(of(orders, |_| "SENDING"))
            .bind(of(orders, |_| "NONE"))
            .bind(of(orders, |_| 1_i64))
            .bind(of(orders, |o| o.epoch.0))
            .bind(of(orders, |o| o.sent_at.unwrap().micros()))
            .bind(of(orders, |o| o.deadline.unwrap().micros()))
            .bind(of(orders, |_| "0"))
            .bind(of(orders, |_| "0"))
            .bind(of(orders, |_| "0"))
            .bind(of(orders, |o| o.created_at.micros()))
            .bind(of(orders, |o| o.updated_at.micros()))
            .bind(of(orders, |o| o.version))
            .bind(of(orders, |o| o.key.decision + 10))
            .bind(of(orders, |_| "order"))
            .bind(of(orders, |o| serde_json::to_string(&Event::Order(o.clone())).unwrap()))
            .execute(&mut self.0)
            .await
            .unwrap();
    }
}
