//! Signals from a stream, through the real server.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::redis::streamed;
use super::support::{Installation, Load, RedisServer, Server, eventually};

const LONG: Duration = Duration::from_secs(20);

/// An installation that takes signals from a Redis of its own, and its first process.
async fn world() -> (RedisServer, Installation, Server) {
    let redis = RedisServer::start().await;
    let mut installation = Installation::new();
    installation.signals_from(&redis);
    let server = installation.start().await;
    (redis, installation, server)
}

/// What became of an entry.
pub(super) async fn decided(server: &Server, id: &str) -> Value {
    let path = format!("/api/signals/stream:hotgo:signals/{id}");
    let client = server.client();
    let known = async || client.get(&path).await.ok().filter(super::support::Answer::is_success);
    eventually(LONG, format!("{id} is decided"), known).await.json()
}

fn planned(outcome: &Value) -> usize {
    outcome["orders"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn an_entry_becomes_an_order_and_is_acknowledged_and_the_same_name_never_makes_a_second() {
    let (redis, installation, server) = world().await;
    let load = Load::new(&installation.scratch("answered"), "stream");
    let robot = server.robot("streamed").await;
    redis.put(&streamed(robot.id, "a-1")).await;
    let outcome = decided(&server, "a-1").await;
    assert_eq!(planned(&outcome), 1, "{outcome}");
    load.note(&outcome);
    redis.all_acknowledged().await;
    redis.put(&streamed(robot.id, "a-1")).await;
    redis.all_acknowledged().await;
    server.order_that("the order ends", |order| order["status"] == "FILLED").await;
    assert_eq!(server.orders().await.len(), 1);
    assert!(redis.dead_letters().await.is_empty());
    installation.audit(Some(load.path())).await.assert_clean("after signals from a stream");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn entries_of_a_robot_are_decided_in_their_order() {
    let (redis, installation, server) = world().await;
    let robots = [server.robot("first").await, server.robot("second").await];
    for number in 1..=40 {
        for robot in &robots {
            let mut signal = streamed(robot.id, &format!("{}-{number}", robot.id));
            signal["qty"] = json!(format!("0.{number:03}"));
            redis.put(&signal).await;
        }
    }
    redis.all_acknowledged().await;
    let orders = server.orders().await;
    for robot in &robots {
        let of_robot = orders.iter().rev().filter(|order| order["robot"] == robot.id);
        let quantities: Vec<&str> = of_robot.map(|order| order["qty"].as_str().unwrap()).collect();
        assert_eq!(quantities.len(), 40);
        assert!(quantities.is_sorted(), "robot {}: {quantities:?}", robot.id);
    }
    installation.audit(None).await.assert_clean("after many signals");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn a_poison_entry_goes_to_the_dead_letters_with_the_reason_and_the_stream_moves_on() {
    let (redis, installation, server) = world().await;
    let robot = server.robot("streamed").await;
    redis.put_raw(&[("signal", "{no json"), ("from", "desk")]).await;
    redis.put_raw(&[("text", "no signal")]).await;
    redis.put(&json!({"id": "odd", "robot": robot.id, "action": "dance"})).await;
    // Understood, and of no account: tried several times.
    redis.put(&streamed(9_990_001, "nobody")).await;
    redis.put(&streamed(robot.id, "after")).await;
    assert_eq!(planned(&decided(&server, "after").await), 1);
    redis.all_acknowledged().await;
    let letters = redis.dead_letters().await;
    let field = |letter: &[(String, String)], name: &str| {
        letter.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let reasons: Vec<String> = letters.iter().map(|letter| field(letter, "dead:reason")).collect();
    assert_eq!(letters.len(), 4, "{reasons:?}");
    for words in ["not JSON", "one field `signal`", "action", "no such account"] {
        assert!(reasons.iter().any(|reason| reason.contains(words)), "{words}: {reasons:?}");
    }
    assert!(letters.iter().any(|letter| field(letter, "from") == "desk"), "the fields are kept: {letters:?}");
    installation.audit(None).await.assert_clean("after poison");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn an_entry_that_a_dead_consumer_had_is_taken_over() {
    let (redis, installation, server) = world().await;
    let robot = server.robot("streamed").await;
    server.assert_stops_clean().await;
    redis.put(&streamed(robot.id, "orphan")).await;
    redis.read_and_forget("dead").await;
    let mut installation = installation;
    let server = installation.start().await;
    assert_eq!(planned(&decided(&server, "orphan").await), 1);
    redis.all_acknowledged().await;
    installation.audit(None).await.assert_clean("after a take-over");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn an_entry_that_was_delivered_too_often_goes_to_the_dead_letters() {
    let (redis, mut installation, server) = world().await;
    let robot = server.robot("streamed").await;
    server.assert_stops_clean().await;
    let id = redis.put(&streamed(robot.id, "killer")).await;
    redis.read_and_forget("dead").await;
    for consumer in ["dead-2", "dead-3", "dead-4", "dead-5"] {
        let mut claim = redis::cmd("XCLAIM");
        claim.arg("hotgo:signals").arg("hotgo").arg(consumer).arg(0).arg(&id);
        redis.ask::<redis::Value>(&claim).await;
    }
    let server = installation.start().await;
    redis.put(&streamed(robot.id, "after")).await;
    decided(&server, "after").await;
    redis.all_acknowledged().await;
    let letters = redis.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].iter().any(|(_, value)| value.contains("delivered 6 times")), "{letters:?}");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn after_flushall_orders_continue_and_nothing_is_replayed() {
    let (redis, installation, server) = world().await;
    let load = Load::new(&installation.scratch("answered"), "flush");
    let robot = server.robot("streamed").await;
    for round in 0..5 {
        let (before, after) = (format!("before-{round}"), format!("after-{round}"));
        redis.put(&streamed(robot.id, &before)).await;
        load.note(&decided(&server, &before).await);
        redis.flush().await;
        // A sender that does not know what became of it sends it again.
        redis.put(&streamed(robot.id, &before)).await;
        redis.put(&streamed(robot.id, &after)).await;
        load.note(&decided(&server, &after).await);
        redis.all_acknowledged().await;
    }
    assert_eq!(server.orders().await.len(), 10, "one order for each name");
    installation.audit(Some(load.path())).await.assert_clean("after FLUSHALL");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn a_signal_that_stood_on_the_stream_for_too_long_is_not_acted_upon() {
    let (redis, mut installation, server) = world().await;
    let robot = server.robot("streamed").await;
    server.assert_stops_clean().await;
    let mut signal = streamed(robot.id, "old");
    signal["expires_in_ms"] = json!(1);
    redis.put(&signal).await;
    let server = installation.start().await;
    let outcome = decided(&server, "old").await;
    assert_eq!(planned(&outcome), 0, "{outcome}");
    redis.all_acknowledged().await;
    assert!(server.orders().await.is_empty());
    server.assert_stops_clean().await;
}
