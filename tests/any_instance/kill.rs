//! The owner dies while a command of another instance is on its way.

use std::sync::atomic::Ordering;

use futures_util::future::{join, join_all};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::stream_support::PATIENCE;
use crate::wire::BOTH;
use crate::world::{Like, OTHER, OWNER, World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_dies_between_the_row_and_its_decision_leaves_it_to_its_successor() {
    for how in BOTH {
        let world = World::new(how).await;
        let hold = watch::Sender::new(false);
        let mut taken = hold.subscribe();
        let owner = world.start(Like { hold: Some(hold), ..OWNER }).await;
        let other = world.start(OTHER).await;
        let (answer, _successor) = join(other.buy(world.robot, "key"), async {
            timeout(PATIENCE, taken.wait_for(|taken| *taken)).await.unwrap().unwrap();
            owner.kill().await;
            assert_eq!((world.waiting().await, world.orders().await.len()), (1, 0));
            world.start(OWNER).await
        })
        .await;
        assert_eq!(answer.outcome(), (202, "done".into()));
        assert_eq!(world.decided_keys().await, ["robot", "key"]);
        world.venue.was_sent(1).await;
        world.assert_sent_once();
        assert_eq!((world.waiting().await, world.orders().await.len()), (0, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_dies_after_the_commit_of_a_decision_has_decided_it() {
    for how in BOTH {
        let world = World::new(how).await;
        let (owner, other) = (world.start(OWNER).await, world.start(OTHER).await);
        world.venue.swallows.store(true, Ordering::SeqCst);
        // Nobody is told of it.
        world.wire.losses_percent.store(100, Ordering::SeqCst);
        let (answer, ()) = join(other.buy(world.robot, "key"), async {
            // What is sent was decided; nothing comes after that.
            timeout(PATIENCE, world.venue.was_sent(1)).await.unwrap();
            owner.kill().await;
        })
        .await;
        assert_eq!(answer.outcome(), (202, "done".into()));
        assert_eq!(world.waiting().await, 0);
        let successor = world.start(OWNER).await;
        for instance in [&successor, &other] {
            let again = instance.buy(world.robot, "key").await;
            assert_eq!((again.outcome(), again.json()), ((202, "done".into()), answer.json()));
        }
        assert_eq!(world.decided_keys().await, ["robot", "key"]);
        assert_eq!(world.orders().await.len(), 1);
        world.assert_sent_once();
    }
}

/// Owners die wherever that happens to be, while clients of another instance send their signals at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_owners_die_every_signal_is_decided_exactly_once() {
    for how in BOTH {
        let world = World::new(how).await;
        world.wire.losses_percent.store(30, Ordering::SeqCst);
        let other = world.start(OTHER).await;
        let keys: Vec<String> = (0..120).map(|n| format!("key-{n}")).collect();
        let clients = join_all(keys.iter().map(|key| other.buy(world.robot, key)));
        let deaths = async {
            for round in 1..=6 {
                let owner = world.start(OWNER).await;
                let decided = round * 15;
                eventually("some are decided", async || world.decided().await.len() > decided).await;
                owner.kill().await;
            }
            world.start(OWNER).await
        };
        let (answers, _last) = join(clients, deaths).await;
        for (answer, key) in answers.iter().zip(&keys) {
            assert_eq!(answer.outcome(), (202, "done".into()), "{key}");
        }
        let mut decided = world.decided_keys().await;
        decided.sort();
        let mut expected: Vec<String> = keys.iter().cloned().chain(["robot".into()]).collect();
        expected.sort();
        assert_eq!(decided, expected);
        assert_eq!(world.orders().await.len(), keys.len());
        assert_eq!(world.waiting().await, 0);
        world.assert_sent_once();
    }
}
