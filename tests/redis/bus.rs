//! The bus between two instances.

use std::sync::Arc;
use std::time::Duration;

use hotgo::bus::{Bus, Message, RedisBus};
use tokio::sync::broadcast::Receiver;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trading::event::{Event, Recorded};
use trading::ids::{AccountId, Seq};
use trading::time::Timestamp;

use super::breaker::open;
use super::support::{RedisServer, eventually, within};

const LONG: Duration = Duration::from_secs(20);

/// One instance's side.
struct Side {
    bus: RedisBus,
    heard: Receiver<Arc<Message>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Side {
    fn new(server: &RedisServer, name: &str) -> Self {
        let (bus, publisher, listener) = RedisBus::new(&open(server), "test", &name.into());
        let (heard, stop, mut tasks) = (bus.subscribe(), CancellationToken::new(), JoinSet::new());
        tasks.spawn(publisher.run(stop.clone()));
        tasks.spawn(listener.run(stop.clone()));
        Self { bus, heard, stop, tasks }
    }

    /// What it hears next, but for the greetings of [`meet`].
    async fn hears(&mut self) -> Message {
        loop {
            let message = within(LONG, "a message", self.heard.recv()).await.unwrap();
            if *message != Message::Instances {
                return Message::clone(&message);
            }
        }
    }

    async fn ends(mut self) {
        self.stop.cancel();
        while let Some(ended) = within(LONG, "the bus ends", self.tasks.join_next()).await {
            ended.unwrap();
        }
    }
}

/// Greets until the greeting is heard: then both are connected.
async fn meet(one: &Side, other: &mut Side) {
    let heard = &tokio::sync::Mutex::new(&mut other.heard);
    eventually(LONG, "the other hears", async || {
        one.bus.publish(Message::Instances);
        heard.lock().await.try_recv().ok()
    })
    .await;
}

fn wake(number: i64) -> Message {
    Message::Wake { account: AccountId(number) }
}

#[tokio::test]
async fn messages_arrive_in_order_at_the_others_and_not_at_their_sender() {
    let server = RedisServer::start().await;
    let (mut one, mut other) = (Side::new(&server, "one"), Side::new(&server, "other"));
    meet(&one, &mut other).await;
    meet(&other, &mut one).await;
    for number in 0..1_000 {
        one.bus.publish(wake(number));
    }
    for number in 0..1_000 {
        assert_eq!(other.hears().await, wake(number));
    }
    other.bus.publish(wake(-1));
    assert_eq!(one.hears().await, wake(-1), "of its own it hears nothing");
    one.ends().await;
    other.ends().await;
}

#[tokio::test]
async fn events_arrive_as_they_were_committed_and_great_ones_are_told_of() {
    let server = RedisServer::start().await;
    let (one, mut other) = (Side::new(&server, "one"), Side::new(&server, "other"));
    meet(&one, &mut other).await;
    let events = |count: i64| -> Arc<[Recorded]> {
        let event = |seq| Recorded {
            seq: Seq(seq),
            at: Timestamp::from_micros(seq),
            event: Event::Alarm { message: "look".to_owned(), order: None, robot: None },
        };
        (1..=count).map(event).collect()
    };
    let account = AccountId(3);
    one.bus.publish(Message::Events { account, events: events(20) });
    one.bus.publish(Message::Events { account, events: events(5_000) });
    assert_eq!(other.hears().await, Message::Events { account, events: events(20) });
    assert_eq!(other.hears().await, Message::Head { account, seq: Seq(5_000) });
}

#[tokio::test]
async fn the_bus_survives_a_restart_and_a_freeze_of_redis() {
    let mut server = RedisServer::start().await;
    let (one, mut other) = (Side::new(&server, "one"), Side::new(&server, "other"));
    meet(&one, &mut other).await;
    server.kill().await;
    one.bus.publish(wake(1));
    server.restart().await;
    meet(&one, &mut other).await;
    server.freeze().await;
    // Long enough for everybody to notice.
    let flushed = async || {
        one.bus.publish(wake(2));
        let at = Instant::now();
        one.bus.flush().await;
        (at.elapsed() < Duration::from_millis(100)).then_some(())
    };
    eventually(LONG, "messages are dropped at once", flushed).await;
    server.thaw();
    meet(&one, &mut other).await;
    one.bus.publish(wake(3));
    while other.hears().await != wake(3) {}
}

#[tokio::test]
async fn neither_publishing_nor_flushing_nor_the_end_waits_for_a_frozen_redis() {
    let server = RedisServer::start().await;
    let (one, mut other) = (Side::new(&server, "one"), Side::new(&server, "other"));
    meet(&one, &mut other).await;
    server.freeze().await;
    for number in 0..10_000 {
        one.bus.publish(wake(number));
    }
    let at = Instant::now();
    one.bus.flush().await;
    assert!(at.elapsed() < Duration::from_secs(5), "flushing took {:?}", at.elapsed());
    one.ends().await;
    server.thaw();
}
