//! Fan-out to 1,000 websocket sessions over loopback, against a bare loop that writes the same frames, prepared
//! beforehand, to the same number of sockets. Prints messages per second and the ratio; machines differ, ratios less so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
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

use std::sync::Arc;
use std::time::{Duration, Instant};

use hotgo::orders::EventOut;
use stream_support::{PATIENCE, Server, settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
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

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
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
    });
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
