//! Fan-out to 1,000 websocket sessions over loopback, against a bare loop that writes the same frames, prepared
//! beforehand, to the same number of sockets: messages per second and the ratio; machines differ, ratios less so. And how late
//! they see what another instance commits, against a bare publish and subscribe of the same bytes on the same Redis.
//! `cargo bench --bench fanout [-- rate elsewhere]`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_arithmetic,
    clippy::print_stdout,
    clippy::large_futures,
    let_underscore_drop,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "a bench"
)]

#[path = "../tests/stream_support/mod.rs"]
mod stream_support;
#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hotgo::bus::{Bus, Message, RedisBus};
use hotgo::config::RedisConfig;
use hotgo::engines::EngineRegistry;
use hotgo::orders::EventOut;
use hotgo::redis::Redis;
use hotgo::stream::{Hub, follow_others};
use stream_support::{PATIENCE, Server, settings};
use support::RedisServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trading::event::{Event, Recorded};
use trading::ids::{AccountId, Seq};
use trading::time::Timestamp;

const SESSIONS: usize = 1_000;
const EVENTS: i64 = 2_048;
const EVENTS_PER_COMMIT: usize = 4;
/// How many waiting frames the bare loop gives to one write, and how many for the loop without batches.
const BATCH: usize = 64;
const UNBATCHED_EVENTS: usize = 128;
const ROUNDS: usize = 3;
/// Events of another instance, each alone, and the pause after it.
const REMOTE_EVENTS: usize = 300;
const PAUSE: Duration = Duration::from_millis(50);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |part: &str| words.is_empty() || words.iter().any(|word| word == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if wanted("rate") {
        runtime.block_on(rates());
    }
    if wanted("elsewhere") {
        runtime.block_on(elsewhere());
    }
}

async fn rates() {
    let events = events();
    let frames: Vec<Vec<u8>> = events.iter().map(frame).collect();
    let (mut hub, mut bare, mut single) = (Vec::new(), Vec::new(), Vec::new());
    let mut publishing = Vec::new();
    for _ in 0..ROUNDS {
        let (rate, publish) = through_the_hub(&events, &frames).await;
        hub.push(rate);
        publishing.push(publish);
        bare.push(bare_loop(&frames, BATCH).await);
        single.push(bare_loop(&frames[..UNBATCHED_EVENTS], 1).await);
    }
    let (hub, bare, single) = (median(hub), median(bare), median(single));
    println!("{SESSIONS} sessions, {EVENTS} events of {} bytes, medians of {ROUNDS}", frames[0].len());
    println!("bare loop, a write per message    {single:>9.0} messages/s");
    println!("bare loop, {BATCH} messages a write    {bare:>9.0} messages/s");
    println!("hub and sessions                  {hub:>9.0} messages/s");
    println!("hub / bare loop with batches      {:>9.2}", hub / bare);
    println!("hub / bare loop without           {:>9.2}", hub / single);
    println!("publish, with {SESSIONS} listeners       {:>9.1} us a commit", median(publishing));
}

fn events() -> Vec<Recorded> {
    (1..=EVENTS)
        .map(|seq| {
            let event = Event::Alarm { message: "a".repeat(160), order: None, robot: None };
            Recorded { seq: Seq(seq), at: Timestamp::from_micros(seq), event }
        })
        .collect()
}

/// The websocket frame that a session gets for this event.
fn frame(event: &Recorded) -> Vec<u8> {
    let json = serde_json::to_string(&EventOut::new(AccountId(1), event)).unwrap();
    let text = format!(r#"{{"op":"event","account":1,{}"#, &json[1..]);
    let length = u16::try_from(text.len()).unwrap();
    assert!(length > 125);
    [&[0x81, 126][..], &length.to_be_bytes(), text.as_bytes()].concat()
}

/// Messages per second through the hub, and microseconds per publish.
async fn through_the_hub(events: &[Recorded], frames: &[Vec<u8>]) -> (f64, f64) {
    let server = Server::start(settings(), usize::try_from(EVENTS).unwrap()).await;
    server.open_account(1);
    let mut sockets = Vec::new();
    for _ in 0..SESSIONS {
        sockets.push(server.follow(1, None).await.ws.into_inner());
    }
    let commits: Vec<Arc<[Recorded]>> = events.chunks(EVENTS_PER_COMMIT).map(Arc::from).collect();
    let bytes = frames.iter().map(Vec::len).sum();
    let begin = Instant::now();
    let mut readers = read_all(sockets, bytes, events.last().map(frame).unwrap());
    let mut publishing = Duration::ZERO;
    let count = commits.len();
    for commit in commits {
        let at = Instant::now();
        server.hub.publish(AccountId(1), commit);
        publishing += at.elapsed();
        tokio::task::yield_now().await;
    }
    finish(&mut readers).await;
    (rate(events.len(), begin), publishing.as_secs_f64() * 1e6 / count as f64)
}

/// Messages per second of a loop that writes prepared frames to each socket in turn, `batch` at a time.
async fn bare_loop(frames: &[Vec<u8>], batch: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..SESSIONS {
        theirs.push(TcpStream::connect(address).await.unwrap());
        ours.push(listener.accept().await.unwrap().0);
    }
    let bytes = frames.iter().map(Vec::len).sum();
    let batches: Arc<[Vec<u8>]> = frames.chunks(batch).map(<[Vec<u8>]>::concat).collect();
    let begin = Instant::now();
    let mut readers = read_all(theirs, bytes, frames.last().unwrap().clone());
    let mut writers = JoinSet::new();
    for mut socket in ours {
        let batches = Arc::clone(&batches);
        writers.spawn(async move {
            for batch in batches.iter() {
                socket.write_all(batch).await.unwrap();
            }
            socket
        });
    }
    finish(&mut readers).await;
    rate(frames.len(), begin)
}

/// Each socket is read until `bytes` have come; the last ones have to be `last`.
fn read_all(sockets: Vec<TcpStream>, bytes: usize, last: Vec<u8>) -> JoinSet<()> {
    let last: Arc<[u8]> = last.into();
    let mut readers = JoinSet::new();
    for mut socket in sockets {
        let last = Arc::clone(&last);
        readers.spawn(async move {
            let mut buffer = vec![0; 32 * 1024];
            let mut tail = Vec::new();
            let mut left = bytes;
            while left > 0 {
                let read = socket.read(&mut buffer).await.unwrap();
                assert!(read > 0, "closed with {left} bytes to come");
                left = left.checked_sub(read).expect("more came than was sent");
                if left < last.len() {
                    tail.extend_from_slice(&buffer[..read]);
                }
            }
            assert!(tail.ends_with(&last));
        });
    }
    readers
}

async fn finish(readers: &mut JoinSet<()>) {
    while let Some(done) = timeout(PATIENCE, readers.join_next()).await.expect("stuck") {
        done.unwrap();
    }
}

fn rate(events: usize, begin: Instant) -> f64 {
    (events * SESSIONS) as f64 / begin.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Sessions on one instance, events on another: how long after the commit each session has each event.
async fn elsewhere() {
    let redis_server = RedisServer::start().await;
    let config =
        RedisConfig { url: Some(redis_server.url()), password_file: None, prefix: "bench".into(), signals: None };
    let redis = Redis::open(&config).unwrap().expect("it has a URL");
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let mut bus = |name: &str| {
        let (bus, publisher, listener) = RedisBus::new(&redis, "bench", &name.into());
        tasks.spawn(publisher.run(stop.clone()));
        tasks.spawn(listener.run(stop.clone()));
        Arc::new(bus) as Arc<dyn Bus>
    };
    let (bus_a, bus_b) = (bus("a"), bus("b"));
    let hub_a = Hub::with_bus(1_024, Arc::clone(&bus_a));
    let server = Server::start(settings(), 1_024).await;
    server.open_account(1);
    let (registry, _) = EngineRegistry::new(Vec::new(), 1);
    let follow =
        follow_others(Arc::clone(&server.hub), Arc::clone(&bus_b), server.store.clone(), registry, stop.clone());
    tasks.spawn(follow);
    meet(&bus_a, &bus_b).await;

    let events = events();
    let events = &events[..REMOTE_EVENTS];
    let mut bare = Bare::start(&redis_server, events).await;
    let lengths: Arc<[usize]> = events.iter().map(|event| frame(event).len()).collect();
    let origin = Instant::now();
    let mut readers = JoinSet::new();
    for _ in 0..SESSIONS {
        let mut socket = server.follow(1, None).await.ws.into_inner();
        let lengths = Arc::clone(&lengths);
        readers.spawn(async move {
            let (mut arrivals, mut buffer) = (Vec::with_capacity(lengths.len()), vec![0; 4_096]);
            for length in lengths.iter() {
                socket.read_exact(&mut buffer[..*length]).await.unwrap();
                arrivals.push(origin.elapsed());
            }
            arrivals
        });
    }
    let (mut begun, mut bare_times) = (Vec::new(), Vec::new());
    for (n, event) in events.iter().enumerate() {
        tokio::time::sleep(PAUSE).await;
        // As a driver does after its commit.
        server.store.append(AccountId(1), std::slice::from_ref(event));
        begun.push(origin.elapsed());
        hub_a.publish(AccountId(1), Arc::from([event.clone()]));
        tokio::time::sleep(PAUSE).await;
        bare_times.push(bare.round(n).await);
    }
    let mut times = Vec::new();
    let mut last = vec![Duration::ZERO; REMOTE_EVENTS];
    while let Some(arrivals) = timeout(PATIENCE, readers.join_next()).await.expect("stuck") {
        for (n, at) in arrivals.unwrap().into_iter().enumerate() {
            let took = at.saturating_sub(begun[n]);
            last[n] = last[n].max(took);
            times.push(took);
        }
    }
    stop.cancel();
    println!("\n{SESSIONS} sessions, {REMOTE_EVENTS} events of another instance, ms        p50      p99      max");
    let [ours, _, bare] =
        [("commit to a session", times), ("commit to the last session", last), ("bare Redis", bare_times)]
            .map(|(what, times)| show(what, times));
    println!("p99 beyond bare Redis                                 {:>8.2}", ours - bare);
}

/// Greets until the greeting is heard: then both are connected.
async fn meet(one: &Arc<dyn Bus>, other: &Arc<dyn Bus>) {
    let mut heard = other.subscribe();
    let greeting = async {
        while heard.try_recv().is_err() {
            one.publish(Message::Instances);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, greeting).await.expect("never heard");
}

/// A publisher and a subscriber with nothing around them, on a channel of their own.
struct Bare {
    publisher: redis::aio::MultiplexedConnection,
    arrivals: mpsc::Receiver<(Instant, redis::Msg)>,
    texts: Vec<String>,
    _listening: JoinSet<()>,
}

impl Bare {
    async fn start(server: &RedisServer, events: &[Recorded]) -> Self {
        let client = redis::Client::open(server.url()).unwrap();
        let publisher = client.get_multiplexed_async_connection().await.unwrap();
        let mut subscriber = client.get_async_pubsub().await.unwrap();
        subscriber.subscribe("bare").await.unwrap();
        let (arrived, arrivals) = mpsc::channel(1);
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            while let Some(message) = subscriber.on_message().next().await {
                arrived.send((Instant::now(), message)).await.unwrap();
            }
        });
        // As the bus has it.
        let text = |event: &Recorded| {
            let event = serde_json::to_string(event).unwrap();
            format!(r#"{{"from":"a","message":{{"events":{{"account":1,"events":[{event}]}}}}}}"#)
        };
        Self { publisher, arrivals, texts: events.iter().map(text).collect(), _listening: listening }
    }

    /// From before the publish until the subscriber has it.
    async fn round(&mut self, n: usize) -> Duration {
        let begun = Instant::now();
        let mut publish = redis::cmd("PUBLISH");
        publish.arg("bare").arg(&self.texts[n]).query_async::<()>(&mut self.publisher).await.unwrap();
        let (at, message) = timeout(PATIENCE, self.arrivals.recv()).await.expect("never heard").unwrap();
        assert_eq!(message.get_payload_bytes(), self.texts[n].as_bytes());
        at - begun
    }
}

/// Prints p50, p99 and the worst; gives the p99.
fn show(what: &str, mut times: Vec<Duration>) -> f64 {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("{what:<52} {:>8.2} {:>8.2} {:>8.2}", at(0.5), at(0.99), at(1.0));
    at(0.99)
}
