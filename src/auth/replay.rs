//! A signed request is let in once.
//!
//! The database decides: a nonce is stored durably before its request has any effect, and everybody asks the same table. So a
//! replay is refused after a restart, at another instance, and whatever became of Redis meanwhile. Redis alone could not
//! promise that. It may have been flushed or have failed over to a replica that lacks the last writes, and an instance that
//! lost its connection for a moment has let requests in that Redis knows nothing of, while the others still reach it: no
//! instance can tell on its own that Redis is complete. What Redis is good for is to refuse a replay without a write to the
//! database, and that is all it is asked.
//!
//! The other trap is the clock. Expired nonces are forgotten, so an instance whose clock is behind could take for timely
//! what was used long ago. The database therefore refuses a nonce that has expired by its own clock, the one by which it
//! forgets them. [`LEEWAY`] is how far apart the two clocks may be before signed requests are refused without need.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::signature::{Signed, WINDOW_US};
use crate::store::{Store, StoreError};

/// How far an instance's clock may be behind the database's: a minute.
const LEEWAY: Duration = Duration::from_mins(1);
/// Longer than any request is timely, by any clock that is not refused.
const REMEMBER: Duration = Duration::from_mins(3);
/// How long Redis is waited for. The database is asked in any case.
const PATIENCE: Duration = Duration::from_millis(50);

/// Remembers for a while what it is told, and may forget it at any time: Redis.
#[async_trait]
pub trait Memory: Send + Sync + fmt::Debug {
    /// Remembers `name` for this long. Whether it was new; `None` if that cannot be told now.
    async fn is_new(&self, name: &str, ttl: Duration) -> Option<bool>;
}

/// Asks Redis: `None` if it did not answer, or is not asked for the moment.
pub type AskRedis = Arc<dyn Fn(redis::Cmd) -> BoxFuture<'static, Option<redis::Value>> + Send + Sync>;

/// [`Memory`] in Redis.
pub struct RedisMemory {
    ask: AskRedis,
    prefix: String,
}

impl RedisMemory {
    /// Under keys that begin with `<prefix>:`.
    pub fn new(ask: AskRedis, prefix: impl Into<String>) -> Self {
        Self { ask, prefix: prefix.into() }
    }
}

impl fmt::Debug for RedisMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisMemory").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[async_trait]
impl Memory for RedisMemory {
    async fn is_new(&self, name: &str, ttl: Duration) -> Option<bool> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let key = format!("{}:{name}", self.prefix);
        let command = redis::cmd("SET").arg(key).arg(1).arg("NX").arg("PX").arg(ttl_ms).take();
        match (self.ask)(command).await? {
            redis::Value::Okay => Some(true),
            redis::Value::Nil => Some(false),
            _ => None,
        }
    }
}

/// Tells first uses from replays.
#[derive(Debug, Clone)]
pub(super) struct Replay {
    store: Arc<dyn Store>,
    memory: Option<Arc<dyn Memory>>,
}

impl Replay {
    pub(super) fn new(store: Arc<dyn Store>, memory: Option<Arc<dyn Memory>>) -> Self {
        Self { store, memory }
    }

    /// Whether this is the first time that this request is seen. It must have been checked: what anybody could make up is
    /// not stored.
    ///
    /// Cancel safety: a cancelled call may have used up the nonce; the request has had no effect then.
    ///
    /// # Errors
    /// What the store says. The nonce may be used up; the request, signed anew, will be let in.
    pub(super) async fn is_first(&self, signed: &Signed) -> Result<bool, StoreError> {
        let Signed { key_id, nonce, at, .. } = signed;
        if let Some(memory) = &self.memory {
            let name = format!("nonce:{key_id}:{nonce}");
            let asked = tokio::time::timeout(PATIENCE, memory.is_new(&name, REMEMBER)).await;
            if let Ok(Some(false)) = asked {
                return Ok(false);
            }
        }
        let expires_at = at.after(Duration::from_micros(WINDOW_US.unsigned_abs())).after(LEEWAY);
        self.store.use_nonce(key_id, nonce, expires_at).await
    }
}
