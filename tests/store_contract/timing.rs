//! Rough figures, for whoever changes the store: `cargo test --release --test store_contract timing -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hotgo::store::Store;
use trading::event::Event;
use trading::order::{Order, Status};

use crate::data::{Held, order};
use crate::sqlite::Running;

const CALLERS: usize = 512;
const ROUNDS: usize = 20;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The same rows as `CALLERS` orders and their events, one prepared statement a row, in one transaction.
fn raw(database: &mut rusqlite::Connection, orders: &[Order], seq: i64) -> Duration {
    let started = Instant::now();
    let tx = database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    {
        let mut insert = tx
            .prepare_cached(
                "INSERT INTO hg_trading_order VALUES
                 (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22,?23,?24,?25,?26,?27,?28)
                 ON CONFLICT (client_id, account) DO UPDATE SET version = excluded.version
                 WHERE excluded.version > version",
            )
            .unwrap();
        let mut event = tx.prepare_cached("INSERT INTO hg_trading_event VALUES (?1,?2,?3,?4,?5)").unwrap();
        for order in orders {
            let payload = serde_json::to_string(&Event::Order(order.clone())).unwrap();
            insert
                .execute(rusqlite::params![
                    order.client_id.as_str(),
                    order.account.0,
                    order.robot.0,
                    order.key.decision,
                    order.key.leg,
                    order.generation,
                    order.symbol.as_str(),
                    "buy",
                    "stop_limit",
                    order.kind.price().map(|price| price.to_string()),
                    Some("100.5"),
                    "gtc",
                    order.qty.to_string(),
                    order.status.as_str(),
                    order.cancel.as_str(),
                    order.attempt,
                    order.epoch.0,
                    order.sent_at.map(trading::time::Timestamp::micros),
                    order.deadline.map(trading::time::Timestamp::micros),
                    None::<i64>,
                    order.venue_id.map(|id| id.0),
                    order.filled.to_string(),
                    order.filled_quote.to_string(),
                    order.reported.to_string(),
                    order.reason,
                    order.created_at.micros(),
                    order.updated_at.micros(),
                    order.version,
                ])
                .unwrap();
            event.execute(rusqlite::params![order.account.0, seq, 1, "order", payload]).unwrap();
        }
    }
    tx.commit().unwrap();
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn timing() {
    let (ours, theirs) = (Running::start().await, Running::start().await);
    let (mut held, mut twins) = (Vec::new(), Vec::new());
    for _ in 0..CALLERS {
        held.push(Held::with_robot(ours.store()).await);
        twins.push(Held::with_robot(theirs.store()).await);
    }
    let (mut merged, mut raw_merged, mut lone, mut raw_lone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut database = rusqlite::Connection::open(&theirs.path).unwrap();
    database.pragma_update(None, "synchronous", "FULL").unwrap();
    for round in 0..ROUNDS {
        let n = i64::try_from(round).unwrap() + 1;
        let started = Instant::now();
        let commits = held.iter().map(|(held, robot)| {
            let commit = held.next(vec![Event::Order(order(robot.id, n))]);
            ours.store.commit(commit)
        });
        for result in join_all(commits).await {
            result.unwrap();
        }
        merged.push(started.elapsed());
        for (held, _) in &mut held {
            held.seq += 1;
        }
        let orders: Vec<Order> = twins.iter().map(|(_, robot)| order(robot.id, n)).collect();
        raw_merged.push(raw(&mut database, &orders, n + 1));
    }
    let base = i64::try_from(ROUNDS).unwrap();
    for n in base + 1..base + 300 {
        let robot = held[0].1.id;
        let started = Instant::now();
        held[0].0.commit(ours.store(), vec![Event::Order(order(robot, n))]).await.unwrap();
        lone.push(started.elapsed());
        raw_lone.push(raw(&mut database, &[order(twins[0].1.id, n)], n + 1));
    }
    let (merged, raw_merged) = (median(merged), median(raw_merged));
    let (lone, raw_lone) = (median(lone), median(raw_lone));
    println!(
        "{CALLERS} merged: {merged:?}, raw {raw_merged:?}: {:.2} of raw",
        raw_merged.as_secs_f64() / merged.as_secs_f64()
    );
    println!("lone: {lone:?}, raw {raw_lone:?}: {:.2} times raw", lone.as_secs_f64() / raw_lone.as_secs_f64());

    let (account, robot) = &mut held[1];
    for chunk in 0..10 {
        let orders = (0..1000).map(|n| Order { status: Status::Open, ..order(robot.id, 1_000_000 + chunk * 1000 + n) });
        account.commit(ours.store(), orders.map(Event::Order).collect()).await.unwrap();
    }
    let started = Instant::now();
    let snapshot = ours.store().load(account.account.id).await.unwrap();
    println!("loading {} orders: {:?}", snapshot.orders.len(), started.elapsed());
    ours.stop().await;
    theirs.stop().await;
}
