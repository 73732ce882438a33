//! The real server with a Redis that is down, stalled, or comes late.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use super::intake::decided;
use super::support::redis::streamed;
use super::support::{Installation, Load, RedisServer, Server, eventually};

const LONG: Duration = Duration::from_secs(20);

async fn health(server: &Server) -> (u16, Value) {
    let answer = server.client().anonymous().get("/api/health").await.unwrap();
    (answer.status, answer.json())
}

/// Waits until health says this; it is ready all the time.
async fn becomes(server: &Server, status: &str) {
    eventually(LONG, format!("health is {status}"), async || {
        let (code, body) = health(server).await;
        assert_eq!(code, 200, "it stays ready: {body}");
        (body["status"] == status).then_some(())
    })
    .await;
    let (_, body) = health(server).await;
    let checks = body["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "redis").expect("a check of Redis");
    assert_eq!(check["ok"], status == "ok", "{check}");
}

async fn keys(redis: &RedisServer) -> Vec<String> {
    redis.ask(redis::cmd("KEYS").arg("hotgo:instance:*")).await
}

#[tokio::test]
async fn a_start_without_redis_is_ready_and_degraded_and_takes_up_the_stream_when_redis_comes() {
    let mut redis = RedisServer::absent();
    let mut installation = Installation::new();
    installation.signals_from(&redis);
    let load = Load::new(&installation.scratch("answered"), "late");
    let server = installation.start().await;
    becomes(&server, "degraded").await;
    let robot = server.robot("patient").await;
    load.send(&server.client(), &robot).await.unwrap().ok();
    redis.restart().await;
    becomes(&server, "ok").await;
    redis.put(&streamed(robot.id, "late")).await;
    load.note(&decided(&server, "late").await);
    redis.all_acknowledged().await;
    installation.audit(Some(load.path())).await.assert_clean("after a late Redis");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn orders_continue_while_redis_is_killed_and_frozen_and_the_stream_goes_on_afterwards() {
    let mut redis = RedisServer::start().await;
    let mut installation = Installation::new();
    installation.signals_from(&redis);
    let load = Load::new(&installation.scratch("answered"), "without");
    let server = installation.start().await;
    let robot = server.robot("stubborn").await;
    redis.kill().await;
    becomes(&server, "degraded").await;
    load.run(&server.client(), &robot, 2, 20).await;
    redis.restart().await;
    becomes(&server, "ok").await;
    redis.put(&streamed(robot.id, "after-kill")).await;
    load.note(&decided(&server, "after-kill").await);
    redis.freeze().await;
    becomes(&server, "degraded").await;
    load.run(&server.client(), &robot, 2, 20).await;
    redis.thaw();
    becomes(&server, "ok").await;
    redis.put(&streamed(robot.id, "after-freeze")).await;
    load.note(&decided(&server, "after-freeze").await);
    redis.all_acknowledged().await;
    assert_eq!(load.answered(), 42, "every signal was answered");
    installation.audit(Some(load.path())).await.assert_clean("after a Redis that went and came");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn a_shutdown_waits_for_no_frozen_redis() {
    let redis = RedisServer::start().await;
    let mut installation = Installation::new();
    installation.signals_from(&redis);
    let server = installation.start().await;
    server.robot("idle").await;
    redis.freeze().await;
    server.assert_stops_clean().await;
    redis.thaw();
}

#[tokio::test]
async fn an_instance_shows_that_it_lives_and_takes_the_sign_away_when_it_ends() {
    let redis = RedisServer::start().await;
    let mut installation = Installation::new();
    installation.signals_from(&redis);
    let server = installation.start().await;
    let shown = async || keys(&redis).await.pop();
    let key = eventually(LONG, "a sign of life", shown).await;
    let left: i64 = redis.ask(redis::cmd("PTTL").arg(&key)).await;
    assert!((1..=5_000).contains(&left), "it expires by itself: {left}");
    server.assert_stops_clean().await;
    assert!(keys(&redis).await.is_empty());
}

#[tokio::test]
async fn a_password_is_read_from_its_file_and_shown_nowhere() {
    const PASSWORD: &str = "hunter2hunter2";
    let redis = RedisServer::with_password(PASSWORD).await;
    let file = redis.scratch().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut installation = Installation::new();
    installation.signals_from(&redis);
    installation.set("HOTGO__REDIS__PASSWORD_FILE", file.to_str().unwrap());
    installation.set("HOTGO__LOG__FILTER", "trace");
    let server = installation.start().await;
    eventually(LONG, "it is let in", async || keys(&redis).await.pop()).await;
    assert!(!server.stderr().contains(PASSWORD), "a log line holds the password");
    server.assert_stops_clean().await;
    // With another one nobody is let in, and everything else goes on.
    std::fs::write(&file, "another-password").unwrap();
    let server = installation.start().await;
    becomes(&server, "degraded").await;
    assert!(!server.stderr().contains("another-password"), "a log line holds the password");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn check_asks_redis_and_says_what_it_found_within_a_bounded_time() {
    let mut redis = RedisServer::start().await;
    let mut installation = Installation::new();
    installation.signals_from(&redis);
    let text = check(&installation).await;
    assert!(text.contains("redis.sock: answers, version "), "{text}");
    redis.ask::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru")).await;
    let text = check(&installation).await;
    assert!(text.contains("maxmemory-policy allkeys-lru may drop the stream of signals"), "{text}");
    redis.freeze().await;
    let text = check(&installation).await;
    assert!(text.contains("does not answer") && text.contains("degraded"), "{text}");
    redis.thaw();
    redis.kill().await;
    let text = check(&installation).await;
    assert!(text.contains("does not answer"), "{text}");
}

/// The words of `main check`, which must be content.
async fn check(installation: &Installation) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_main"));
    command.arg("check").arg("--data-dir").arg(installation.data_dir()).kill_on_drop(true);
    command.envs(installation.settings().iter().map(|(name, value)| (name, value)));
    let output = super::support::within(LONG, "the check ends", command.output()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
