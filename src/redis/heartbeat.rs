//! The sign of life of an instance: a key that expires. It is also what notices that Redis went away or came back, while nobody
//! else asks for anything.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use super::Redis;

const EVERY: Duration = Duration::from_millis(500);
/// The key outlives a few beats that were lost.
const TTL_MS: u64 = 5_000;
/// A shutdown does not wait longer for the key's removal.
const GOODBYE: Duration = Duration::from_millis(300);

/// An instance's key `<prefix>:instance:<id>`.
#[derive(Debug)]
pub struct Heartbeat {
    redis: Redis,
    key: String,
    about: String,
}

impl Heartbeat {
    /// Of this instance; `about` says more about it, to people.
    pub fn new(redis: Redis, prefix: &str, instance: &str, about: String) -> Self {
        Self { redis, key: format!("{prefix}:instance:{instance}"), about }
    }

    /// Beats until it is stopped, and then removes the key: nobody need wait for its expiry.
    pub async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let beat = redis::cmd("SET").arg(&self.key).arg(&self.about).arg("PX").arg(TTL_MS).take();
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            // A failure is the breaker's business; the next beat comes soon.
            if stop.run_until_cancelled(self.redis.query::<()>(&beat)).await.is_none() {
                break;
            }
        }
        let removed = timeout(GOODBYE, self.redis.query::<()>(redis::cmd("DEL").arg(&self.key))).await;
        if !matches!(removed, Ok(Ok(()))) {
            tracing::debug!("the sign of life was not removed; it expires");
        }
    }
}
