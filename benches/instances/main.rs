//! Planned hand-overs between instances on one PostgreSQL and one Redis, each with its own store and bus: how long an account is
//! nobody's, and how long a thousand accounts take. `cargo bench --bench instances [-- idle thousand]`.
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
    dead_code,
    reason = "a bench"
)]

#[path = "../engine/desk.rs"]
mod desk;
mod host;
#[path = "../../tests/support/mod.rs"]
mod support;
#[path = "../engine/venue.rs"]
mod venue;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use trading::event::Event;
use trading::ids::{AccountId, Seq};

use host::{Host, World, poll};

const ROUNDS: usize = 30;
const ACCOUNTS: usize = 1_000;
const MANY_ROUNDS: usize = 3;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |part: &str| words.is_empty() || words.iter().any(|word| word == part);
    tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if wanted("idle") {
            idle().await;
        }
        if wanted("thousand") {
            thousand().await;
        }
    });
}

/// One idle account, from instance to instance.
async fn idle() {
    let world = World::new(1).await;
    let mut owner = Host::start(&world, "owner-0").await;
    owner.joins();
    owner.has(1).await;
    owner.make_robots(&world).await;
    let account = world.accounts[0].id;
    let (mut unowned, mut refusing) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let mut next = Host::start(&world, &format!("owner-{round}")).await;
        next.joins();
        next.knows(2).await;
        owner.knows(2).await;
        let since = next.store.head(account).await.unwrap().seq;
        let watch = async {
            poll("it is not ready there", || owner.ready() == 0).await;
            let gone = Instant::now();
            next.has(1).await;
            gone.elapsed()
        };
        let (refused, ()) = tokio::join!(watch, owner.instances.drain());
        refusing.push(refused);
        unowned.push(between(&next, account, since).await);
        owner.leaves().await;
        owner = next;
    }
    println!("\nan idle account, handed over {ROUNDS} times, ms                  median      max");
    show("from the last event under the old epoch to Started", unowned);
    show("takes no commands", refusing);
    show("for comparison, a raw commit of one row", vec![world.raw_commit().await]);
    owner.leaves().await;
    world.end().await;
}

/// From Stopped to Started, by the events' own times: the instances share a clock here.
async fn between(host: &Host, account: AccountId, since: Seq) -> Duration {
    let events = host.store.events(account, since, 1_000).await.unwrap();
    let started = events.iter().position(|it| matches!(it.event, Event::Started { .. })).expect("it started");
    events[started].at.since(events[started - 1].at)
}

async fn thousand() {
    let world = World::new(ACCOUNTS).await;
    let (mut joined, mut drained, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let (mut unowned, mut unowned_of_all) = (Vec::new(), Vec::new());
    let mut a = Host::start(&world, "first").await;
    a.joins();
    a.has(ACCOUNTS).await;
    a.make_robots(&world).await;
    for round in 0..MANY_ROUNDS {
        let mut b = Host::start(&world, &format!("joins-{round}")).await;
        let before = heads(&a, &world).await;
        let begun = Instant::now();
        b.joins();
        b.has(ACCOUNTS / 2).await;
        joined.push(begun.elapsed());
        a.has(ACCOUNTS / 2).await;
        b.knows(2).await;
        let begun = Instant::now();
        tokio::join!(a.instances.drain(), b.has(ACCOUNTS));
        drained.push(begun.elapsed());
        a.leaves().await;
        unowned.extend(all_between(&b, &world, before).await);

        let mut c = Host::start(&world, &format!("takes-all-{round}")).await;
        let before = heads(&b, &world).await;
        b.instances.drain().await;
        let begun = Instant::now();
        c.joins();
        c.has(ACCOUNTS).await;
        all.push(begun.elapsed());
        unowned_of_all.extend(all_between(&c, &world, before).await);
        b.leaves().await;
        a = c;
    }
    println!("\n{ACCOUNTS} idle accounts, ms                                        median      max");
    show("another instance joins, until it trades its half", joined);
    show("the first one drains, until the other trades all", drained);
    show("    an account of them is nobody's", unowned);
    show("all at once, from the only one, which drains, to a new one", all);
    show("    an account of them is nobody's", unowned_of_all);
    show("for comparison, a raw commit of one row", vec![world.raw_commit().await]);
    a.leaves().await;
    world.end().await;
}

async fn heads(host: &Host, world: &World) -> Vec<Seq> {
    let ids: Vec<AccountId> = world.accounts.iter().map(|account| account.id).collect();
    let heads = host.store.heads(&ids).await.unwrap();
    ids.iter().map(|id| heads.iter().find(|head| head.account == *id).unwrap().seq).collect()
}

async fn all_between(host: &Host, world: &World, before: Vec<Seq>) -> Vec<Duration> {
    join_all(world.accounts.iter().zip(before).map(|(account, since)| between(host, account.id, since))).await
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{what:<58} {:>8.1} {:>8.1}", ms(times[times.len() / 2]), ms(times[times.len() - 1]));
}
