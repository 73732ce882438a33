//! The connections and their breaker, without a server of ours.

use std::time::Duration;

use hotgo::config::RedisConfig;
use hotgo::redis::{Redis, RedisFailure};

use super::support::{RedisServer, eventually};

const LONG: Duration = Duration::from_secs(20);

pub(super) fn open(server: &RedisServer) -> Redis {
    let config = RedisConfig { url: Some(server.url()), password_file: None, prefix: "test".to_owned(), signals: None };
    Redis::open(&config).unwrap().unwrap()
}

async fn ping(redis: &Redis) -> Result<String, RedisFailure> {
    redis.query(&redis::cmd("PING")).await
}

async fn opens(redis: &Redis) {
    let refused = async || matches!(ping(redis).await, Err(RedisFailure::Open)).then_some(());
    eventually(LONG, "callers are sent away at once", refused).await;
    assert!(!redis.is_well());
}

async fn closes(redis: &Redis) {
    eventually(LONG, "it answers again", async || ping(redis).await.ok()).await;
    assert!(redis.is_well());
}

#[tokio::test]
async fn it_opens_when_the_server_is_killed_and_closes_when_there_is_one_again() {
    let mut server = RedisServer::start().await;
    let redis = open(&server);
    assert_eq!(ping(&redis).await.unwrap(), "PONG");
    server.kill().await;
    opens(&redis).await;
    server.restart().await;
    closes(&redis).await;
}

#[tokio::test]
async fn it_opens_when_the_server_freezes_and_closes_when_it_thaws() {
    let server = RedisServer::start().await;
    let redis = open(&server);
    assert_eq!(ping(&redis).await.unwrap(), "PONG");
    server.freeze().await;
    assert!(!matches!(ping(&redis).await, Ok(_) | Err(RedisFailure::Open)), "the first ones wait, up to a limit");
    opens(&redis).await;
    server.thaw();
    closes(&redis).await;
}

#[tokio::test]
async fn many_callers_of_a_frozen_server_all_get_away_and_only_the_first_of_them_wait() {
    let server = RedisServer::start().await;
    let redis = open(&server);
    server.freeze().await;
    let calls = (0..200).map(|_| ping(&redis));
    for answer in futures_util::future::join_all(calls).await {
        assert!(answer.is_err());
    }
    opens(&redis).await;
    server.thaw();
    closes(&redis).await;
}

#[tokio::test]
async fn an_error_that_redis_answers_is_an_answer_and_opens_nothing() {
    let server = RedisServer::start().await;
    let redis = open(&server);
    for _ in 0..10 {
        let refused = redis.query::<()>(redis::cmd("XREADGROUP").arg("nonsense")).await;
        assert!(matches!(refused, Err(RedisFailure::Refused { .. })), "{refused:?}");
    }
    assert!(redis.is_well());
}

#[tokio::test]
async fn a_blocking_read_may_take_as_long_as_its_connection_allows() {
    let server = RedisServer::start().await;
    let redis = open(&server);
    let mut connection = redis.connect(LONG).await.unwrap();
    let mut wait = redis::cmd("BLPOP");
    let nothing: redis::Value = wait.arg("no-such-list").arg(2).query_async(&mut connection).await.unwrap();
    assert_eq!(nothing, redis::Value::Nil, "it blocked for two seconds and was not cut");
}
