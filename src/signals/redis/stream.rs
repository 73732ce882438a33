//! The stream: what is read from it, and how an entry leaves it.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, Found, claim_reply, millis_of, read_reply};
use crate::config::RedisSignalsConfig;
use crate::redis::{Redis, RedisFailure, classified};

/// Entries read in one go.
const BATCH: usize = 64;
/// How long a read waits for entries.
const BLOCK: Duration = Duration::from_secs(1);
/// How long any other answer may take; on top of [`BLOCK`], since a read may come in between.
const ANSWER: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);
/// A consumer that has nothing and did nothing for so long is gone: each start has a name of its own.
const GONE_AFTER: Duration = Duration::from_hours(1);
/// Dead letters are kept up to about this many.
const MAX_DEAD: usize = 10_000;

/// The stream, its group, and who we are in it.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    key: String,
    dead: String,
    group: String,
    consumer: String,
    claim_after: Duration,
}

/// A number as Redis takes it.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Stream {
    pub(super) fn new(config: &RedisSignalsConfig, consumer: &str) -> Self {
        Self {
            key: config.stream.clone(),
            dead: format!("{}:dead", config.stream),
            group: config.group.clone(),
            consumer: consumer.to_owned(),
            claim_after: Duration::from_millis(config.claim_after_ms),
        }
    }

    /// The source of its commands.
    pub(super) fn source(&self) -> String {
        format!("stream:{}", self.key)
    }

    /// How often a consumer that lives has to say so.
    pub(super) fn keep_every(&self) -> Duration {
        self.claim_after / 3
    }

    /// Takes an entry off: its outcome is durable.
    pub(super) fn acknowledge(&self, entry: &Entry) -> Pipeline {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        self.take_off(&mut pipeline, entry);
        pipeline
    }

    /// Takes an entry off, and keeps it with the reason among the dead letters.
    pub(super) fn bury(&self, entry: &Entry, reason: &str) -> Pipeline {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        let letter = pipeline.cmd("XADD").arg(&self.dead).arg("MAXLEN").arg("~").arg(MAX_DEAD).arg("*");
        letter.arg("dead:id").arg(&entry.id).arg("dead:reason").arg(reason);
        letter.arg("dead:deliveries").arg(entry.deliveries);
        for (name, value) in &entry.fields {
            letter.arg(name).arg(value);
        }
        letter.ignore();
        self.take_off(&mut pipeline, entry);
        pipeline
    }

    fn take_off(&self, pipeline: &mut Pipeline, entry: &Entry) {
        pipeline.cmd("XACK").arg(&self.key).arg(&self.group).arg(&entry.id).ignore();
        pipeline.cmd("XDEL").arg(&self.key).arg(&entry.id).ignore();
    }

    /// Says that these entries are being worked on: nobody else takes them over, and it counts as no delivery.
    pub(super) fn keep<'a>(&self, ids: impl Iterator<Item = &'a String>) -> redis::Cmd {
        let mut command = redis::cmd("XCLAIM");
        command.arg(&self.key).arg(&self.group).arg(&self.consumer).arg(0);
        for id in ids {
            command.arg(id);
        }
        command.arg("JUSTID").take()
    }
}

/// Reads the stream over a connection of its own.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) redis: Redis,
    pub(super) stream: Stream,
}

impl Reader {
    /// Reads until it is stopped: new entries, and those whose consumers died. Goes on whatever happens to Redis.
    ///
    /// Entries that were read and could not be handed over stay with this consumer, until somebody takes them over.
    pub(super) async fn run(self, out: mpsc::Sender<Vec<Entry>>, stop: CancellationToken) {
        let reading = async {
            let mut wait = RETRY_FIRST;
            loop {
                let Err(failure) = self.read(&out, &mut wait).await else { return };
                // The breaker has said so.
                if !matches!(failure, RedisFailure::Open) {
                    tracing::warn!(stream = %self.stream.key, %failure, "signals are not read; trying again");
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_MOST);
            }
        };
        stop.run_until_cancelled(reading).await.unwrap_or(());
    }

    /// Reads over one connection. Ends well only if nobody takes the entries any more.
    async fn read(&self, out: &mpsc::Sender<Vec<Entry>>, wait: &mut Duration) -> Result<(), RedisFailure> {
        let mut connection = self.redis.connect(BLOCK + ANSWER).await?;
        self.ensure_group(&mut connection).await?;
        self.forget_gone_consumers(&mut connection).await?;
        *wait = RETRY_FIRST;
        tracing::info!(stream = %self.stream.key, group = %self.stream.group, "signals are read");
        let mut claim_at = Instant::now();
        loop {
            if Instant::now() >= claim_at {
                claim_at = Instant::now() + self.stream.claim_after / 2;
                let mut cursor = "0-0".to_owned();
                loop {
                    let (next, claimed) = self.claim(&mut connection, &cursor).await?;
                    if !claimed.is_empty() && out.send(claimed).await.is_err() {
                        return Ok(());
                    }
                    if next == "0-0" {
                        break;
                    }
                    cursor = next;
                }
            }
            let fresh = self.fresh(&mut connection).await?;
            if !fresh.is_empty() && out.send(fresh).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Makes the group if there is none, from the first entry that still stands on the stream. What was decided before is
    /// recognised by its id.
    async fn ensure_group(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisFailure> {
        let mut make = redis::cmd("XGROUP");
        make.arg("CREATE").arg(&self.stream.key).arg(&self.stream.group).arg("0").arg("MKSTREAM");
        match make.query_async::<()>(connection).await.map_err(|error| classified(&error)) {
            Err(RedisFailure::Refused { code, .. }) if code == "BUSYGROUP" => Ok(()),
            Ok(()) => {
                tracing::info!(stream = %self.stream.key, group = %self.stream.group, "consumer group made");
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    async fn forget_gone_consumers(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisFailure> {
        let mut ask = redis::cmd("XINFO");
        ask.arg("CONSUMERS").arg(&self.stream.key).arg(&self.stream.group);
        let consumers: Vec<HashMap<String, Value>> =
            ask.query_async(connection).await.map_err(|error| classified(&error))?;
        for consumer in consumers {
            let number = |name: &str| match consumer.get(name) {
                Some(Value::Int(number)) => u64::try_from(*number).unwrap_or(0),
                _ => 0,
            };
            let Some(Value::BulkString(name)) = consumer.get("name") else { continue };
            // One with pending entries keeps them until they are taken over.
            if number("pending") == 0 && number("idle") > millis(GONE_AFTER) {
                let mut forget = redis::cmd("XGROUP");
                forget.arg("DELCONSUMER").arg(&self.stream.key).arg(&self.stream.group).arg(name);
                forget.query_async::<()>(connection).await.map_err(|error| classified(&error))?;
            }
        }
        Ok(())
    }

    /// Entries that nobody was given yet.
    async fn fresh(&self, connection: &mut MultiplexedConnection) -> Result<Vec<Entry>, RedisFailure> {
        let Stream { key, group, consumer, .. } = &self.stream;
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(group).arg(consumer).arg("COUNT").arg(BATCH).arg("BLOCK").arg(millis(BLOCK));
        read.arg("STREAMS").arg(key).arg(">");
        let found = read_reply(read.query_async(connection).await.map_err(|error| classified(&error))?);
        self.aged(connection, found, &HashMap::new()).await
    }

    /// Entries that their consumers did nothing about for too long, and where to go on.
    async fn claim(
        &self,
        connection: &mut MultiplexedConnection,
        cursor: &str,
    ) -> Result<(String, Vec<Entry>), RedisFailure> {
        let Stream { key, group, consumer, claim_after, .. } = &self.stream;
        let mut claim = redis::cmd("XAUTOCLAIM");
        claim.arg(key).arg(group).arg(consumer).arg(millis(*claim_after)).arg(cursor).arg("COUNT").arg(BATCH);
        let (next, found) = claim_reply(claim.query_async(connection).await.map_err(|error| classified(&error))?);
        let (Some((first, _)), Some((last, _))) = (found.first(), found.last()) else {
            return Ok((next, Vec::new()));
        };
        let mut pending = redis::cmd("XPENDING");
        // More than were claimed: others may stand in between.
        pending.arg(key).arg(group).arg(first).arg(last).arg(BATCH * 16).arg(consumer);
        let rows: Vec<(String, String, u64, u32)> =
            pending.query_async(connection).await.map_err(|error| classified(&error))?;
        let deliveries = rows.into_iter().map(|(id, _, _, deliveries)| (id, deliveries)).collect();
        tracing::info!(stream = %key, entries = found.len(), "entries taken over");
        Ok((next, self.aged(connection, found, &deliveries).await?))
    }

    async fn aged(
        &self,
        connection: &mut MultiplexedConnection,
        found: Vec<Found>,
        deliveries: &HashMap<String, u32>,
    ) -> Result<Vec<Entry>, RedisFailure> {
        if found.is_empty() {
            return Ok(Vec::new());
        }
        // Ids are by Redis's clock, which need not agree with ours.
        let (seconds, micros): (u64, u64) =
            redis::cmd("TIME").query_async(connection).await.map_err(|error| classified(&error))?;
        let now_ms = seconds * 1_000 + micros / 1_000;
        let entry = |(id, fields): (String, _)| {
            let age = Duration::from_millis(now_ms.saturating_sub(millis_of(&id)));
            let deliveries = deliveries.get(&id).copied().unwrap_or(1);
            Entry { id, fields, deliveries, age }
        };
        Ok(found.into_iter().map(entry).collect())
    }
}
