//! Counting requests together with other instances, beside the requests: none waits for it, and none fails with it.
//!
//! Once a second the names that have used a good part of their limit are added to common counters, and what the others have
//! added comes back. Of several places the first that answers is taken: Redis, then the database. While none does, each
//! instance counts for itself. A minute in which the place changes is counted too low, since the new one lacks what the
//! old one has.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use trading::time::Timestamp;

use super::rate::RateLimits;
use crate::auth::AskRedis;
use crate::store::Store;

const EVERY: Duration = Duration::from_secs(1);
/// How long one place is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a window is kept after its beginning: longer than a minute, by any instance's clock.
const KEEP: Duration = Duration::from_mins(3);

/// Counters that several instances share.
#[async_trait]
pub trait Tally: Send + Sync + fmt::Debug {
    /// Adds to the counters of a window and gives what each counts then; `None` if that did not work.
    async fn add(&self, window_start: Timestamp, counts: &[(String, u64)]) -> Option<Vec<u64>>;
}

/// In the database, as a fallback.
#[derive(Debug)]
pub struct StoreTally(pub Arc<dyn Store>);

#[async_trait]
impl Tally for StoreTally {
    async fn add(&self, window_start: Timestamp, counts: &[(String, u64)]) -> Option<Vec<u64>> {
        self.0.count_requests(window_start, counts, window_start.before(KEEP)).await.ok()
    }
}

/// In Redis.
pub struct RedisTally {
    ask: AskRedis,
    prefix: String,
}

impl RedisTally {
    /// Under keys that begin with `<prefix>:rate:`.
    pub fn new(ask: AskRedis, prefix: impl Into<String>) -> Self {
        Self { ask, prefix: prefix.into() }
    }
}

impl fmt::Debug for RedisTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTally").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[async_trait]
impl Tally for RedisTally {
    async fn add(&self, window_start: Timestamp, counts: &[(String, u64)]) -> Option<Vec<u64>> {
        // A script, so that no counter is left without its expiry.
        const ADD: &str = "local totals = {}
            for i, key in ipairs(KEYS) do
                totals[i] = redis.call('INCRBY', key, ARGV[i + 1])
                redis.call('PEXPIRE', key, ARGV[1])
            end
            return totals";
        let mut command = redis::cmd("EVAL");
        command.arg(ADD).arg(counts.len());
        for (name, _) in counts {
            command.arg(format!("{}:rate:{}:{name}", self.prefix, window_start.millis()));
        }
        command.arg(u64::try_from(KEEP.as_millis()).unwrap_or(u64::MAX));
        for (_, add) in counts {
            command.arg(add);
        }
        redis::from_redis_value((self.ask)(command).await?).ok()
    }
}

/// Counts together until it is stopped. `places` in the order in which they are tried.
pub async fn share(rates: Arc<RateLimits>, places: Vec<Arc<dyn Tally>>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if stop.run_until_cancelled(round(&rates, &places)).await.is_none() {
            return;
        }
    }
}

pub(super) async fn round(rates: &RateLimits, places: &[Arc<dyn Tally>]) {
    for untold in rates.untold() {
        let counts: Vec<_> = untold.counts.iter().map(|(name, add)| (name.to_string(), *add)).collect();
        for place in places {
            let adding = tokio::time::timeout(PATIENCE, place.add(untold.window_start, &counts));
            if let Ok(Some(totals)) = adding.await {
                rates.learn(&untold, &totals);
                break;
            }
        }
    }
}
