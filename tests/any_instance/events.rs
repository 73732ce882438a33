//! Websockets on an instance that does not own the account.

use std::sync::atomic::Ordering;

use futures_util::future::{join, join_all};

use crate::wire::{BOTH, How};
use crate::world::{OTHER, OWNER, World};

/// Fast commits at the owner, followed at the other one; the bus loses so many of a hundred messages.
async fn sees_every_event_once(how: How, losses_percent: u64) {
    let world = World::new(how).await;
    world.wire.losses_percent.store(losses_percent, Ordering::SeqCst);
    let (owner, other) = (world.start(OWNER).await, world.start(OTHER).await);
    let mut client = other.follow(world.account.id).await;
    let mut late = other.follow(world.account.id).await;
    let commits = async {
        for round in 0..20 {
            let keys = (0..10).map(|n| format!("{round}-{n}")).collect::<Vec<_>>();
            join_all(keys.iter().map(|key| owner.buy(world.robot, key))).await;
        }
    };
    // Every order has its command, its intent and its answer, at least.
    join(commits, client.events(world.account.id.0, 0, 400)).await;
    let head = world.head().await;
    client.events(world.account.id.0, 400, head).await;
    late.events(world.account.id.0, 0, head).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_elsewhere_sees_every_event_once_and_in_order() {
    for how in BOTH {
        sees_every_event_once(how, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_loses_messages_loses_no_event() {
    for losses_percent in [5, 50, 95] {
        sees_every_event_once(How::Told, losses_percent).await;
    }
}

/// The account goes back and forth between two instances; a client of each, and of one that never owns it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_moves_is_seen_without_gap_or_double_wherever_one_looks() {
    for how in BOTH {
        let world = World::new(how).await;
        world.wire.losses_percent.store(20, Ordering::SeqCst);
        let bystander = world.start(OTHER).await;
        let mut client = bystander.follow(world.account.id).await;
        let mut seen = 0;
        for round in 0..4 {
            let owner = world.start(OWNER).await;
            let mut near = owner.follow(world.account.id).await;
            for n in 0..10 {
                assert_eq!(bystander.buy(world.robot, &format!("{round}-{n}")).await.outcome().1, "done");
            }
            let head = world.head().await;
            client.events(world.account.id.0, seen, head).await;
            near.events(world.account.id.0, 0, head).await;
            seen = head;
            owner.kill().await;
        }
    }
}
