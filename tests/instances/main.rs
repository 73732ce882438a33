//! Several instances on one store: who trades what, and that nobody else does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod venue;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hotgo::engines::{Engines, SubmitError};
use trading::exchange::OrderKind;
use trading::order::Status;

use world::{DEADLINE, LONG, SHORT, World, decide, eventually, is_done, limit};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_joins_gets_its_share_at_once_and_no_order_is_lost_or_doubled() {
    let world = Arc::new(World::new(2).await);
    let one = world.instance("one", LONG);
    one.is_ready(2).await;
    world.make_robots(&[&one]).await;
    for account in 0..2 {
        for n in 0..5 {
            let command = world.buy(account, &format!("open {account} {n}"), limit());
            assert!(is_done(&decide(&[&one], &world.accounts[account], command).await));
        }
    }
    let two = world.instance("two", LONG);
    // Under way all the time: every command is asked of one, then of the other, until somebody decides.
    let moved = AtomicBool::new(false);
    let traffic = async |account: usize| {
        let mut n = 0;
        while !moved.load(Ordering::Relaxed) || n < 20 {
            let command = world.buy(account, &format!("under way {account} {n}"), OrderKind::Market);
            assert!(is_done(&decide(&[&one, &two], &world.accounts[account], command).await));
            n += 1;
        }
        n
    };
    let joins = async {
        two.is_ready(1).await;
        one.is_ready(1).await;
        moved.store(true, Ordering::Relaxed);
    };
    let (a, b, ()) = tokio::join!(traffic(0), traffic(1), joins);
    world.audit().await;
    for (account, commands) in [(0, a), (1, b)] {
        let orders = world.orders(account).await;
        let open = orders.iter().filter(|order| order.status == Status::Open).count();
        let filled = orders.iter().filter(|order| order.status == Status::Filled).count();
        assert_eq!((open, filled), (5, commands), "account {account}");
    }
    let gone = world.accounts.iter().find(|account| two.status(account).ready).unwrap();
    let there = one.status(gone);
    assert_eq!((there.ready, there.state, there.owner.as_deref()), (false, "standby", Some("two")));
    assert!(there.is_well());
    let refused = one.registry.submit(gone.id, world.buy(0, "elsewhere", limit())).await;
    assert_eq!(refused, Err(SubmitError::NotHere { owner: Some("two".into()) }));
    Arc::into_inner(world).unwrap().stop(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_the_wire_is_answered_before_an_account_moves() {
    let world = World::new(1).await;
    let one = world.instance("one", LONG);
    one.is_ready(1).await;
    world.make_robots(&[&one]).await;
    world.venue.hold(true);
    assert!(is_done(&decide(&[&one], &world.accounts[0], world.buy(0, "held", OrderKind::Market)).await));
    eventually("the order is at the venue", async || (!world.venue.posts("a0").is_empty()).then_some(())).await;
    let two = world.instance("two", LONG);
    let leaving = tokio::spawn(async move { one.stop().await });
    let waits = async || {
        let leases = world.store.leases().await.unwrap();
        (leases[0].owner.as_ref() == "one" && two.status(&world.accounts[0]).state == "standby").then_some(())
    };
    eventually("the hand-over waits", waits).await;
    world.venue.hold(false);
    two.is_ready(1).await;
    leaving.await.unwrap();
    let orders = world.orders(0).await;
    assert_eq!((orders[0].status, orders.len()), (Status::Filled, 1));
    world.audit().await;
    world.stop(vec![two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_never_answered_is_resolved_by_the_successor() {
    let world = World::new(1).await;
    let one = world.instance("one", LONG);
    one.is_ready(1).await;
    world.make_robots(&[&one]).await;
    world.venue.hold(true);
    assert!(is_done(&decide(&[&one], &world.accounts[0], world.buy(0, "held", OrderKind::Market)).await));
    eventually("the order is at the venue", async || (!world.venue.posts("a0").is_empty()).then_some(())).await;
    let two = world.instance("two", LONG);
    let leaving = tokio::spawn(async move { one.stop().await });
    two.is_ready(1).await;
    leaving.await.unwrap();
    assert_eq!(world.orders(0).await[0].status, Status::Filled);
    world.audit().await;
    world.stop(vec![two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_stops_hands_over_at_once_and_its_robots_go_on() {
    let world = World::new(3).await;
    let one = world.instance("one", LONG);
    one.is_ready(3).await;
    world.make_robots(&[&one]).await;
    assert!(is_done(&decide(&[&one], &world.accounts[0], world.buy(0, "open", limit())).await));
    let two = world.instance("two", LONG);
    two.is_ready(1).await;
    one.is_ready(2).await;
    let started = Instant::now();
    one.stop().await;
    two.is_ready(3).await;
    assert!(started.elapsed() < LONG / 2, "it waited for a lease");
    // Its policy says that its orders are cancelled when the server stops; but the robot goes on elsewhere.
    assert_eq!(world.orders(0).await[0].status, Status::Open);
    assert!(is_done(&decide(&[&two], &world.accounts[0], world.buy(0, "after", OrderKind::Market)).await));
    world.audit().await;
    world.stop(vec![two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_spread_evenly_whoever_comes_and_goes() {
    let world = World::new(6).await;
    let one = world.instance("one", LONG);
    one.is_ready(6).await;
    let two = world.instance("two", LONG);
    let spread = async |hosts: &[&world::Host], share: usize| {
        for host in hosts {
            host.is_ready(share).await;
        }
    };
    spread(&[&one, &two], 3).await;
    let three = world.instance("three", LONG);
    spread(&[&one, &two, &three], 2).await;
    let epochs = |host: &world::Host| host.registry.status().iter().map(|it| it.epoch).collect::<Vec<_>>();
    let before = epochs(&three);
    two.stop().await;
    spread(&[&one, &three], 3).await;
    let after = epochs(&three);
    assert!(before.iter().zip(&after).all(|(before, after)| before.is_none() || before == after), "some moved in vain");
    world.audit().await;
    world.stop(vec![one, three]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_of_one_that_died_are_taken_once_its_leases_have_ended() {
    let world = World::new(4).await;
    let (one, two) = (world.instance("one", SHORT), world.instance("two", SHORT));
    one.is_ready(2).await;
    two.is_ready(2).await;
    world.make_robots(&[&one, &two]).await;
    for account in 0..4 {
        let command = world.buy(account, &account.to_string(), limit());
        assert!(is_done(&decide(&[&one, &two], &world.accounts[account], command).await));
    }
    one.kill().await;
    two.is_ready(4).await;
    for account in 0..4 {
        let key = format!("after {account}");
        let made = decide(&[&two], &world.accounts[account], world.buy(account, &key, OrderKind::Market)).await;
        assert!(is_done(&made), "{made:?}");
    }
    world.audit().await;
    world.stop(vec![two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_froze_sends_nothing_when_it_thaws_and_stands_by() {
    let world = World::new(1).await;
    let one = world.instance("one", SHORT);
    one.is_ready(1).await;
    world.make_robots(&[&one]).await;
    let two = world.instance("two", SHORT);
    let frozen = one.freeze().await;
    // These wait for it, and are the first that it sees.
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (registry, account) = (Arc::clone(&one.registry), world.accounts[0].id);
        let command = world.buy(0, &format!("frozen {n}"), OrderKind::Market);
        waiting.spawn(async move { registry.submit(account, command).await });
    }
    two.is_ready(1).await;
    assert!(is_done(&decide(&[&two], &world.accounts[0], world.buy(0, "meanwhile", OrderKind::Market)).await));
    drop(frozen);
    let account = world.accounts[0].clone();
    let parks = async || (one.status(&account).state == "standby").then_some(());
    eventually("it stands by", parks).await;
    while let Some(answer) = waiting.join_next().await {
        assert!(answer.unwrap().is_err(), "it decided without its lease");
    }
    assert!(world.venue.posts("a0").iter().all(|post| &*post.by == "two"), "{:?}", world.venue.posts("a0"));
    assert_eq!(world.owner(0).await.as_deref(), Some("two"));
    for n in 0..4 {
        let command = world.buy(0, &format!("frozen {n}"), OrderKind::Market);
        assert!(is_done(&decide(&[&one, &two], &world.accounts[0], command).await));
    }
    world.audit().await;
    world.stop(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_both_believe_an_account_to_be_theirs_one_trades_at_a_time() {
    let world = World::new(1).await;
    let hosts = [world.instance_as("one", SHORT, false), world.instance_as("two", SHORT, false)];
    let both: Vec<&world::Host> = hosts.iter().collect();
    world.make_robots(&both).await;
    let mut sent = 0;
    for round in 0..3 {
        let trades = async || both.iter().copied().find(|host| host.ready() == 1);
        let owner = eventually("one trades", trades).await;
        let other = *both.iter().find(|host| host.name != owner.name).unwrap();
        for n in 0..5 {
            let command = world.buy(0, &format!("{round} {n}"), OrderKind::Market);
            assert!(is_done(&decide(&both, &world.accounts[0], command).await));
            sent += 1;
        }
        let frozen = owner.freeze().await;
        other.is_ready(1).await;
        let command = world.buy(0, &format!("{round} between"), OrderKind::Market);
        let (thawed, decided) = tokio::join!(async { drop(frozen) }, decide(&both, &world.accounts[0], command));
        let () = thawed;
        assert!(is_done(&decided));
        sent += 1;
    }
    world.audit().await;
    assert_eq!(world.venue.posts("a0").len(), sent);
    world.stop(hosts.into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_nobody_else_can_have_is_kept_until_its_instance_stops() {
    let world = World::new(1).await;
    let one = world.instance("one", LONG);
    one.is_ready(1).await;
    tokio::time::timeout(DEADLINE, one.instances.drain()).await.unwrap();
    assert_eq!(one.ready(), 1);
    one.stop().await;
    let lease = &world.store.leases().await.unwrap()[0];
    assert!(lease.released && lease.remaining == Duration::ZERO);
    world.stop(vec![]).await;
}

/// A driver that always finds something to do keeps its lease all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_under_load_stays_where_it_is() {
    const CALLERS: usize = 200;
    let world = World::new(1).await;
    let one = world.instance("one", SHORT);
    one.is_ready(1).await;
    world.make_robots(&[&one]).await;
    let account = &world.accounts[0];
    let epoch = one.status(account).epoch;
    let until = Instant::now() + 3 * SHORT;
    let (world_ref, one_ref) = (&world, &one);
    let callers = (0..CALLERS).map(async |caller| {
        let mut n = 0;
        while Instant::now() < until {
            let command = world_ref.buy(0, &format!("{caller} {n}"), OrderKind::Market);
            let record = one_ref.registry.submit(account.id, command).await.unwrap();
            assert!(is_done(&record), "{record:?}");
            n += 1;
        }
    });
    join_all(callers).await;
    assert_eq!(one.status(account).epoch, epoch, "it was taken anew");
    world.stop(vec![one]).await;
}
