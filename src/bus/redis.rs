//! The bus over a Redis channel.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use trading::event::Recorded;
use trading::ids::{AccountId, Seq};

use super::{Bus, Message};
use crate::redis::{Redis, RedisFailure, classified};

/// Messages that wait to be sent; further ones are dropped.
const QUEUE: usize = 1_024;
/// Messages sent in one go.
const BATCH: usize = 128;
/// Messages that wait for a receiver here; a slower one loses the oldest.
const HEARD: usize = 4_096;
/// More events than this, or a longer message, is only told of.
const MAX_EVENTS: usize = 256;
const MAX_BYTES: usize = 64 * 1024;
const ANSWER: Duration = Duration::from_secs(1);
/// How long what was published before a shutdown may take to be sent.
const FLUSH: Duration = Duration::from_millis(500);
/// How often a silent subscription is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// What stands on the channel, in JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Envelope<'a> {
    /// The instance that says it.
    from: Cow<'a, str>,
    message: Wire<'a>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wire<'a> {
    Events { account: AccountId, events: Cow<'a, [Recorded]> },
    Head { account: AccountId, seq: Seq },
    Wake { account: AccountId },
    Instances,
}

impl<'a> From<&'a Message> for Wire<'a> {
    fn from(message: &'a Message) -> Self {
        match message {
            Message::Events { account, events } if events.len() > MAX_EVENTS => Self::head(*account, events),
            Message::Events { account, events } => Self::Events { account: *account, events: Cow::Borrowed(events) },
            Message::Head { account, seq } => Self::Head { account: *account, seq: *seq },
            Message::Wake { account } => Self::Wake { account: *account },
            Message::Instances => Self::Instances,
        }
    }
}

impl Wire<'_> {
    fn head(account: AccountId, events: &[Recorded]) -> Self {
        Self::Head { account, seq: events.last().map_or(Seq(0), |last| last.seq) }
    }
}

impl From<Wire<'_>> for Message {
    fn from(wire: Wire<'_>) -> Self {
        match wire {
            Wire::Events { account, events } => Self::Events { account, events: events.into_owned().into() },
            Wire::Head { account, seq } => Self::Head { account, seq },
            Wire::Wake { account } => Self::Wake { account },
            Wire::Instances => Self::Instances,
        }
    }
}

fn encode(from: &str, message: &Message) -> Vec<u8> {
    let json = |message| serde_json::to_vec(&Envelope { from: from.into(), message }).unwrap_or_default();
    let text = json(message.into());
    match message {
        Message::Events { account, events } if text.len() > MAX_BYTES => json(Wire::head(*account, events)),
        _ => text,
    }
}

/// A message of another instance.
fn decode(own: &str, text: &[u8]) -> Result<Option<Message>, serde_json::Error> {
    let envelope: Envelope<'_> = serde_json::from_slice(text)?;
    Ok((envelope.from != own).then(|| envelope.message.into()))
}

enum Job {
    Send(Message),
    /// Says when everything before it is sent or lost.
    Flush(oneshot::Sender<()>),
}

/// Instances that share a Redis.
#[derive(Debug)]
pub struct RedisBus {
    queue: mpsc::Sender<Job>,
    heard: broadcast::Sender<Arc<Message>>,
}

impl RedisBus {
    /// The bus of this instance on the channel `<prefix>:bus`, and its two tasks, which the caller runs and tracks.
    pub fn new(redis: &Redis, prefix: &str, instance: &Arc<str>) -> (Self, Publisher, Listener) {
        metrics::describe_counter!("hotgo_bus_published_total", "Messages sent to other instances");
        metrics::describe_counter!(
            "hotgo_bus_dropped_total",
            "Messages not sent: the queue was full or Redis not there"
        );
        metrics::describe_counter!("hotgo_bus_heard_total", "Messages of other instances");
        let channel: Arc<str> = format!("{prefix}:bus").into();
        let (queue, jobs) = mpsc::channel(QUEUE);
        let heard = broadcast::Sender::new(HEARD);
        let publisher = Publisher {
            redis: redis.clone(),
            channel: Arc::clone(&channel),
            instance: Arc::clone(instance),
            jobs,
            connection: None,
        };
        let listener = Listener { redis: redis.clone(), channel, instance: Arc::clone(instance), heard: heard.clone() };
        (Self { queue, heard }, publisher, listener)
    }
}

#[async_trait::async_trait]
impl Bus for RedisBus {
    fn publish(&self, message: Message) {
        if self.queue.try_send(Job::Send(message)).is_err() {
            metrics::counter!("hotgo_bus_dropped_total").increment(1);
        }
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Message>> {
        self.heard.subscribe()
    }

    async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let flushing = async {
            if self.queue.send(Job::Flush(done)).await.is_ok() {
                // An error means that the publisher is gone, and with it all that was queued.
                let _gone = flushed.await;
            }
        };
        if timeout(FLUSH, flushing).await.is_err() {
            tracing::warn!(
                "the last messages to other instances were not sent in time; they find all of it in the database"
            );
        }
    }
}

/// Sends what is published, in order, many in one go.
pub struct Publisher {
    redis: Redis,
    channel: Arc<str>,
    instance: Arc<str>,
    jobs: mpsc::Receiver<Job>,
    connection: Option<MultiplexedConnection>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Publishes until it is stopped. What could not be sent is dropped: it is old by the time Redis is back.
    pub async fn run(self, stop: CancellationToken) {
        // Stopped in the middle of a batch it drops that, too.
        stop.run_until_cancelled(self.publish()).await.unwrap_or(());
    }

    async fn publish(mut self) {
        let mut jobs = Vec::with_capacity(BATCH);
        while self.jobs.recv_many(&mut jobs, BATCH).await > 0 {
            let mut pipeline = redis::pipe();
            let mut flushed = Vec::new();
            let mut count = 0;
            for job in jobs.drain(..) {
                match job {
                    Job::Send(message) => {
                        let text = encode(&self.instance, &message);
                        pipeline.cmd("PUBLISH").arg(&*self.channel).arg(text).ignore();
                        count += 1;
                    }
                    Job::Flush(done) => flushed.push(done),
                }
            }
            if count > 0 {
                self.send(&pipeline, count).await;
            }
            for done in flushed {
                let _gone = done.send(());
            }
        }
    }

    async fn send(&mut self, pipeline: &redis::Pipeline, count: u64) {
        let sent = async {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.redis.connect(ANSWER).await?,
            };
            self.redis.over(ANSWER, pipeline.query_async::<()>(&mut connection)).await?;
            Ok::<_, RedisFailure>(connection)
        };
        match sent.await {
            Ok(connection) => {
                self.connection = Some(connection);
                metrics::counter!("hotgo_bus_published_total").increment(count);
            }
            Err(failure) => {
                metrics::counter!("hotgo_bus_dropped_total").increment(count);
                tracing::debug!(%failure, count, "messages to other instances were dropped");
            }
        }
    }
}

/// Hears what others publish.
#[derive(Debug)]
pub struct Listener {
    redis: Redis,
    channel: Arc<str>,
    instance: Arc<str>,
    heard: broadcast::Sender<Arc<Message>>,
}

impl Listener {
    /// Listens until it is stopped; subscribes again whenever the connection breaks or goes silent.
    pub async fn run(self, stop: CancellationToken) {
        let listening = async {
            let mut wait = RETRY_FIRST;
            loop {
                let failure = self.listen(&mut wait).await;
                tracing::debug!(%failure, "the bus is not heard; subscribing again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_MOST);
            }
        };
        stop.run_until_cancelled(listening).await.unwrap_or(());
    }

    async fn listen(&self, wait: &mut Duration) -> RedisFailure {
        let (mut pinger, mut messages) = match self.redis.subscribe(&self.channel).await {
            Ok(subscriber) => subscriber.split(),
            Err(failure) => return failure,
        };
        *wait = RETRY_FIRST;
        let mut tick = interval(PING_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.hear(message.get_payload_bytes()),
                    None => return RedisFailure::Failed("the subscription ended".to_owned()),
                },
                _ = tick.tick() => match timeout(ANSWER, pinger.ping::<redis::Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return classified(&error),
                    Err(_) => return RedisFailure::TimedOut,
                },
            }
        }
    }

    fn hear(&self, text: &[u8]) {
        match decode(&self.instance, text) {
            Ok(Some(message)) => {
                metrics::counter!("hotgo_bus_heard_total").increment(1);
                // An error means that nobody listens just now.
                let _unheard = self.heard.send(Arc::new(message));
            }
            Ok(None) => {}
            // Of another version, perhaps: the database has what it was about.
            Err(error) => tracing::debug!(%error, "a message on the bus was not understood"),
        }
    }
}

#[cfg(test)]
mod tests {
    use trading::event::Event;
    use trading::ids::Epoch;
    use trading::time::Timestamp;

    use super::*;

    const ACCOUNT: AccountId = AccountId(7);

    fn events(count: i64, words: usize) -> Message {
        let event = |seq| Recorded {
            seq: Seq(seq),
            at: Timestamp::from_micros(seq),
            event: Event::Alarm { message: "w".repeat(words), order: None, robot: None },
        };
        Message::Events { account: ACCOUNT, events: (1..=count).map(event).collect() }
    }

    #[test]
    fn a_message_arrives_as_it_was_sent_and_not_at_its_sender() {
        let started =
            Recorded { seq: Seq(9), at: Timestamp::from_micros(1), event: Event::Started { epoch: Epoch(3) } };
        for message in [
            events(3, 10),
            Message::Events { account: ACCOUNT, events: [started].into() },
            Message::Head { account: ACCOUNT, seq: Seq(5) },
            Message::Wake { account: ACCOUNT },
            Message::Instances,
        ] {
            let text = encode("a", &message);
            assert_eq!(decode("b", &text).unwrap(), Some(message));
            assert_eq!(decode("a", &text).unwrap(), None);
        }
    }

    #[test]
    fn many_or_long_events_are_only_told_of() {
        let many = i64::try_from(MAX_EVENTS).unwrap() + 1;
        for (message, last) in [(events(many, 1), many), (events(3, MAX_BYTES), 3)] {
            let heard = decode("b", &encode("a", &message)).unwrap();
            assert_eq!(heard, Some(Message::Head { account: ACCOUNT, seq: Seq(last) }));
        }
    }

    #[test]
    fn what_others_put_on_the_channel_is_refused_and_nothing_breaks() {
        for text in [&b""[..], b"{}", b"[1,2", b"\xff\xfe", br#"{"from":"x","message":{"dance":{}}}"#] {
            assert!(decode("b", text).is_err(), "{text:?}");
        }
    }
}
