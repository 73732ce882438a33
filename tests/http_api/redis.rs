//! Nonces and counters in a real Redis.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hotgo::auth::{AskRedis, Memory, RedisMemory};
use hotgo::http::{RedisTally, Tally};
use redis::aio::MultiplexedConnection;
use trading::time::Timestamp;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server of its own on a Unix socket. Dropping it kills it.
struct Redis {
    child: Child,
    connection: MultiplexedConnection,
    _dir: tempfile::TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Redis {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket);
        let spawned = command.current_dir(dir.path()).stdout(Stdio::null()).spawn();
        let child = spawned.expect("redis-server is needed (Debian: apt-get install redis-server)");
        let connection = tokio::time::timeout(PATIENCE, connect(&socket)).await.expect("Redis does not answer");
        Self { child, connection, _dir: dir }
    }

    fn ask(&self) -> AskRedis {
        let connection = self.connection.clone();
        Arc::new(move |command| {
            let mut connection = connection.clone();
            Box::pin(async move { command.query_async(&mut connection).await.ok() })
        })
    }

    async fn flush(&self) {
        let () = redis::cmd("FLUSHALL").query_async(&mut self.connection.clone()).await.unwrap();
    }
}

async fn connect(socket: &Path) -> MultiplexedConnection {
    let client = redis::Client::open(format!("redis+unix://{}", socket.display())).unwrap();
    loop {
        if let Ok(connection) = client.get_multiplexed_async_connection().await {
            return connection;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_nonce_is_new_once_until_it_is_forgotten_and_nobody_knows_when_redis_is_gone() {
    let mut redis = Redis::start().await;
    let memory = RedisMemory::new(redis.ask(), "hotgo");
    let minute = Duration::from_mins(1);
    for (name, is_new) in [("nonce:a:1", true), ("nonce:a:1", false), ("nonce:b:1", true), ("nonce:a:1", false)] {
        assert_eq!(memory.is_new(name, minute).await, Some(is_new), "{name}");
    }
    let mut connection = redis.connection.clone();
    let left: i64 = redis::cmd("PTTL").arg("hotgo:nonce:a:1").query_async(&mut connection).await.unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
    redis.flush().await;
    assert_eq!(memory.is_new("nonce:a:1", minute).await, Some(true));
    redis.child.kill().unwrap();
    redis.child.wait().unwrap();
    assert_eq!(memory.is_new("nonce:a:1", minute).await, None);
}

#[tokio::test]
async fn counters_add_up_and_expire() {
    let mut redis = Redis::start().await;
    let tally = RedisTally::new(redis.ask(), "hotgo");
    let counts = |counts: &[(&str, u64)]| -> Vec<(String, u64)> {
        counts.iter().map(|(name, add)| ((*name).to_owned(), *add)).collect()
    };
    let (first, second) = (Timestamp::from_millis(60_000), Timestamp::from_millis(120_000));
    assert_eq!(tally.add(first, &counts(&[("key/a", 3), ("key/b", 0)])).await, Some(vec![3, 0]));
    assert_eq!(tally.add(first, &counts(&[("key/b", 2), ("key/a", 4)])).await, Some(vec![2, 7]));
    assert_eq!(tally.add(second, &counts(&[("key/a", 1)])).await, Some(vec![1]));
    let mut connection = redis.connection.clone();
    let left: i64 = redis::cmd("PTTL").arg("hotgo:rate:60000:key/b").query_async(&mut connection).await.unwrap();
    assert!(left > 60_000, "kept for longer than its minute: {left}");
    redis.child.kill().unwrap();
    redis.child.wait().unwrap();
    assert_eq!(tally.add(second, &counts(&[("key/a", 1)])).await, None);
}
