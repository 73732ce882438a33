//! Commands that are sent to an instance that does not own their account.

use std::sync::atomic::Ordering;

use futures_util::future::{join, join_all};
use serde_json::Value;
use trading::ids::RobotId;

use crate::wire::BOTH;
use crate::world::{Answer, FOLLOWER, HASTY, Instance, Like, OTHER, OWNER, World, buy, eventually};

fn command(answer: &Answer) -> Value {
    let json = answer.json();
    if json["command"].is_object() { json["command"].clone() } else { json }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_gets_the_same_answer_and_makes_one_order_wherever_it_is_sent() {
    for how in BOTH {
        let world = World::new(how).await;
        let (owner, other) = (world.start(OWNER).await, world.start(OTHER).await);
        let there = other.buy(world.robot, "there").await;
        let here = owner.buy(world.robot, "here").await;
        assert_eq!((there.outcome(), here.outcome()), ((202, "done".into()), (202, "done".into())), "{how:?}");
        assert!(!there.is_replayed() && !here.is_replayed());
        for (key, first) in [("there", &there), ("here", &here)] {
            for instance in [&owner, &other] {
                let again = instance.buy(world.robot, key).await;
                assert_eq!((again.status, again.json()), (first.status, first.json()));
                assert!(again.is_replayed());
            }
        }
        assert_eq!(world.orders().await.len(), 2);
        world.venue.was_sent(2).await;
        world.assert_sent_once();
        assert_eq!(world.waiting().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_sent_to_both_at_once_makes_one_order_with_one_answer() {
    for how in BOTH {
        let world = World::new(how).await;
        let (owner, other) = (world.start(OWNER).await, world.start(OTHER).await);
        let pairs = (0..30).map(|n| {
            let key = format!("key-{n}");
            let (owner, other, robot) = (&owner, &other, world.robot);
            async move { join(owner.buy(robot, &key), other.buy(robot, &key)).await }
        });
        for (here, there) in join_all(pairs).await {
            assert_eq!(here.outcome(), (202, "done".into()), "{}", here.text);
            assert_eq!((here.status, here.json()), (there.status, there.json()));
        }
        assert_eq!(world.orders().await.len(), 30);
        assert_eq!(world.decided_keys().await.len(), 31);
        world.venue.was_sent(30).await;
        world.assert_sent_once();
        eventually("nothing waits", async || world.waiting().await == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_that_nobody_can_decide_is_pending_and_is_decided_once_when_the_owner_is_back() {
    for how in BOTH {
        let world = World::new(how).await;
        let other = world.start(HASTY).await;
        let first = other.buy(world.robot, "key").await;
        assert_eq!(first.outcome(), (202, "pending".into()));
        assert!(!first.is_replayed());
        let again = other.buy(world.robot, "key").await;
        assert_eq!((again.outcome(), again.json()), ((202, "pending".into()), first.json()));
        assert!(again.is_replayed());
        let different = other.post("/api/signals", "key", &buy(RobotId(world.robot.0 + 1), None)).await;
        assert_eq!(different.status, 422, "{}", different.text);
        let source = command(&first)["source"].as_str().unwrap().to_owned();
        let status = format!("/api/signals/{source}/key");
        assert_eq!((other.get(&status).await.status.as_u16(), other.get(&status).await.json()), (200, first.json()));
        assert_eq!(world.waiting().await, 1);

        let owner = world.start(OWNER).await;
        eventually("it is decided", async || other.get(&status).await.outcome().1 == "done").await;
        let (here, there) = (owner.buy(world.robot, "key").await, other.buy(world.robot, "key").await);
        assert_eq!((here.outcome(), here.json()), ((202, "done".into()), there.json()));
        assert!(here.is_replayed() && there.is_replayed());
        assert_eq!(world.orders().await.len(), 1);
        assert_eq!(world.waiting().await, 0);
        world.venue.was_sent(1).await;
        world.assert_sent_once();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_that_expired_while_it_waited_is_skipped() {
    for how in BOTH {
        let world = World::new(how).await;
        let other = world.start(HASTY).await;
        let body = buy(world.robot, Some(1));
        assert_eq!(other.post("/api/signals", "key", &body).await.outcome(), (202, "pending".into()));
        let _owner = world.start(OWNER).await;
        eventually("it is decided", async || world.waiting().await == 0).await;
        assert_eq!(other.post("/api/signals", "key", &body).await.outcome(), (200, "skipped".into()));
        assert!(world.orders().await.is_empty() && world.venue.sent().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_is_decided_in_the_order_of_its_arrival() {
    for how in BOTH {
        let world = World::new(how).await;
        let other = world.start(Like { wait: std::time::Duration::ZERO, ..OTHER }).await;
        let keys: Vec<String> = (0..200).map(|n| format!("key-{n}")).collect();
        for key in &keys {
            assert_eq!(other.buy(world.robot, key).await.outcome().1, "pending");
        }
        let _owner = world.start(OWNER).await;
        eventually("nothing waits", async || world.waiting().await == 0).await;
        assert_eq!(world.decided_keys().await[1..], keys);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_only_a_newer_version_can_read_holds_up_no_other() {
    for how in BOTH {
        let world = World::new(how).await;
        let (_owner, other) = (world.start(OWNER).await, world.start(OTHER).await);
        world.write_unreadable();
        for key in ["one", "two"] {
            assert_eq!(other.buy(world.robot, key).await.outcome(), (202, "done".into()));
        }
        assert_eq!(world.waiting().await, 1);
    }
}

/// Makes a robot through one instance while nobody owns the account. Returns its webhook's secret.
async fn make_pending(other: &Instance) -> String {
    let made = other.post("/api/robots", "new", FOLLOWER).await;
    assert_eq!(made.outcome(), (202, "pending".into()));
    let json = made.json();
    assert_eq!((&json["robot"], &json["webhook"]["path"]), (&Value::Null, &Value::Null));
    let again = other.post("/api/robots", "new", FOLLOWER).await;
    assert!(again.is_replayed() && again.json()["webhook"]["secret"].is_null(), "it is shown once: {}", again.text);
    json["webhook"]["secret"].as_str().unwrap().to_owned()
}

/// Whether an alert with this secret is taken from here.
async fn rings(instance: &Instance, robot: i64, secret: &str) -> u16 {
    let alert = r#"{"id": "ring", "action": "buy", "price": "60000"}"#;
    instance.post(&format!("/api/webhook/{robot}/{secret}"), "unused", alert).await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_that_was_shown_with_a_pending_robot_is_the_robots() {
    for how in BOTH {
        // The owner takes the inbox first, or the same request first.
        for looks in [true, false] {
            let world = World::new(how).await;
            let other = world.start(HASTY).await;
            let secret = make_pending(&other).await;
            let owner = world.start(Like { looks, ..OWNER }).await;
            if looks {
                eventually("it is decided", async || world.waiting().await == 0).await;
            }
            let made = owner.post("/api/robots", "new", FOLLOWER).await;
            assert_eq!(made.outcome(), (201, "done".into()), "{how:?} {looks}");
            assert!(made.is_replayed() && made.json()["webhook"]["secret"].is_null());
            let robot = made.json()["robot"].as_i64().unwrap();
            assert_eq!(made.json()["webhook"]["path"], format!("/api/webhook/{robot}"));
            assert_eq!(rings(&owner, robot, "wrong").await, 404);
            assert_eq!(rings(&owner, robot, &secret).await, 202);
            assert_eq!(world.waiting().await, 0);
            assert_eq!(other.post("/api/robots", "new", FOLLOWER).await.json()["robot"], robot);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_can_be_sent_anywhere() {
    for how in BOTH {
        let world = World::new(how).await;
        let (_owner, other) = (world.start(OWNER).await, world.start(OTHER).await);
        let made = other.post("/api/robots", "made", FOLLOWER).await;
        assert_eq!(made.outcome(), (201, "done".into()));
        let (id, secret) = (made.json()["robot"].as_i64().unwrap(), made.json()["webhook"]["secret"].clone());
        assert_eq!(rings(&other, id, secret.as_str().unwrap()).await, 202);
        let planned = other.buy(RobotId(id), "order").await;
        let order = planned.json()["orders"][0].as_str().unwrap().to_owned();
        let cancelled = other.post(&format!("/api/orders/{order}/cancel"), "cancel", "").await;
        assert_eq!(cancelled.outcome(), (202, "done".into()), "{}", cancelled.text);
        for act in ["halt", "start", "stop"] {
            assert_eq!(other.post(&format!("/api/robots/{id}/{act}"), act, "").await.outcome(), (200, "done".into()));
        }
        let killed = other.post("/api/kill", "kill", "").await;
        assert_eq!((killed.status.as_u16(), &killed.json()["items"][0]["outcome"]), (200, &"done".into()));
        assert!(!killed.is_replayed() && other.post("/api/kill", "kill", "").await.is_replayed());

        let nobody = RobotId::nth(world.account.id, 77).unwrap();
        assert_eq!(other.buy(nobody, "nobody").await.status, 404, "the owner does not know it");
        let elsewhere = RobotId::nth(trading::ids::AccountId(world.account.id.0 + 1), 1).unwrap();
        assert_eq!(other.buy(elsewhere, "elsewhere").await.status, 404, "nobody knows such an account");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_that_cannot_be_decided_yet_is_pending() {
    for how in BOTH {
        let world = World::new(how).await;
        let other = world.start(HASTY).await;
        let killed = other.post("/api/kill", "kill", "").await;
        assert_eq!((killed.status.as_u16(), &killed.json()["items"][0]["outcome"]), (202, &"pending".into()));
        let owner = world.start(OWNER).await;
        eventually("it is decided", async || world.waiting().await == 0).await;
        let again = owner.post("/api/kill", "kill", "").await;
        assert_eq!((again.status.as_u16(), &again.json()["items"][0]["outcome"]), (200, &"done".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_stores_no_signal_and_keeps_nobody_waiting() {
    for how in BOTH {
        let world = World::new(how).await;
        let other = world.start(OTHER).await;
        // It would wait for long; the shutdown ends that.
        let (pending, ()) = join(other.buy(world.robot, "waits"), async {
            eventually("it is stored", async || world.waiting().await == 1).await;
            other.stop.cancel();
        })
        .await;
        assert_eq!(pending.outcome(), (202, "pending".into()));
        other.intake_open.store(false, Ordering::SeqCst);
        assert_eq!(other.buy(world.robot, "late").await.status, 503);
        assert_eq!(world.waiting().await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_stops_looks_into_its_inbox_no_more() {
    for how in BOTH {
        let world = World::new(how).await;
        let (owner, other) = (world.start(OWNER).await, world.start(HASTY).await);
        owner.stop.cancel();
        assert_eq!(other.buy(world.robot, "late").await.outcome(), (202, "pending".into()));
        assert_eq!(world.waiting().await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_that_is_full_takes_no_more() {
    for how in BOTH {
        let world = World::new(how).await;
        let other = world.start(Like { room: 3, ..HASTY }).await;
        for n in 0..3 {
            assert_eq!(other.buy(world.robot, &format!("key-{n}")).await.outcome(), (202, "pending".into()));
        }
        let refused = other.buy(world.robot, "too-much").await;
        assert_eq!((refused.status.as_u16(), refused.headers.contains_key("retry-after")), (503, true));
        assert_eq!(other.buy(world.robot, "key-1").await.outcome(), (202, "pending".into()));
        assert_eq!(world.waiting().await, 3);
    }
}
