//! Servers that take over from each other under load: nobody is refused, reset or left without an answer.
//!
//! The clients are the strictest there are. They learn only from what they are told (`Connection: close`, GOAWAY), never
//! look whether the server has hung up before they send, and repeat nothing that a server may have begun.

use std::{
    error::Error as _,
    fmt,
    io::{Error, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{body::Bytes, http::Request, middleware::map_request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use shutdown_coordinator::{Report, ShutdownCoordinator, ShutdownHandle, serve::Server};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{
    common::{build, manual, ms, phase, secs},
    rig::{GET, ask, hello},
};

const POST: &[u8] = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello";
const LINGER: Duration = Duration::from_secs(20);
/// Of each kind.
const CLIENTS: u64 = 6;
/// Between two hand-overs.
const REQUESTS: u64 = 400;

/// How many hand-overs: 6, or what `HANDOVERS` says.
#[expect(clippy::disallowed_methods, reason = "so that it can be run for longer")]
fn handovers() -> u32 {
    std::env::var("HANDOVERS").map_or(6, |count| count.parse().expect("HANDOVERS is a number"))
}

/// What became of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    answered: u64,
    refused: u64,
    reset: u64,
    end_after_send: u64,
    wrong: u64,
    /// HTTP/2 requests that GOAWAY said the server never took: to be sent elsewhere (RFC 9113, 6.8), and no loss.
    moved: u64,
}

impl Counts {
    fn lost(&self) -> u64 {
        self.refused + self.reset + self.end_after_send + self.wrong
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.reset += other.reset;
        self.end_after_send += other.end_after_send;
        self.wrong += other.wrong;
        self.moved += other.moved;
    }

    /// A request that was sent and not answered.
    fn fail(&mut self, error: &Error) {
        match error.kind() {
            ErrorKind::UnexpectedEof => self.end_after_send += 1,
            _ => self.reset += 1,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, refused, reset, end_after_send, wrong, moved } = self;
        write!(f, "{answered} answered, {refused} refused, {reset} reset, {end_after_send} EOF after send, ")?;
        write!(f, "{wrong} wrong ({moved} not taken and moved)")
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    KeepAlive,
    Fresh,
    Http2,
}

#[derive(Clone)]
struct Load {
    address: SocketAddr,
    answered: watch::Sender<u64>,
    over: watch::Receiver<bool>,
}

impl Load {
    async fn run(self, kind: Kind, number: u64) -> (Kind, Counts) {
        let mut counts = Counts::default();
        let mut turn = number;
        let mut tasks = JoinSet::new();
        while !*self.over.borrow() {
            let Ok(stream) = TcpStream::connect(self.address).await else {
                counts.refused += 1;
                continue;
            };
            stream.set_nodelay(true).unwrap();
            match kind {
                Kind::KeepAlive | Kind::Fresh => self.http1(stream, kind, &mut turn, &mut counts).await,
                Kind::Http2 => {
                    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
                    let Ok((sender, connection)) = handshake.await else {
                        counts.reset += 1;
                        continue;
                    };
                    tasks.spawn(connection);
                    self.http2(sender, &mut turn, &mut counts).await;
                    while tasks.try_join_next().is_some() {}
                }
            }
        }
        (kind, counts)
    }

    /// GET and POST in turn, at once or after a moment, until the connection is over.
    async fn http1(&self, mut stream: TcpStream, kind: Kind, turn: &mut u64, counts: &mut Counts) {
        while !*self.over.borrow() {
            *turn += 1;
            let request = if turn.is_multiple_of(2) { GET } else { POST };
            match ask(&mut stream, request).await {
                Ok(text) => {
                    if !self.check(text.ends_with("\r\n\r\nhello"), counts)
                        || matches!(kind, Kind::Fresh)
                        || text.contains("connection: close")
                    {
                        return;
                    }
                }
                Err(error) => return counts.fail(&error),
            }
            self.think(*turn).await;
        }
    }

    async fn http2(&self, mut sender: SendRequest<Full<Bytes>>, turn: &mut u64, counts: &mut Counts) {
        while !*self.over.borrow() {
            *turn += 1;
            // Told to go away: nothing was sent.
            if sender.ready().await.is_err() {
                return;
            }
            let request = if turn.is_multiple_of(2) {
                Request::get(format!("http://{}/", self.address)).body(Full::default())
            } else {
                Request::post(format!("http://{}/echo", self.address)).body(Full::from("hello"))
            };
            let answer = async {
                let response = sender.send_request(request.unwrap()).await?;
                let is_ok = response.status() == 200;
                Ok::<_, hyper::Error>(is_ok && response.into_body().collect().await?.to_bytes() == "hello")
            };
            match timeout(secs(10), answer).await {
                Ok(Ok(is_right)) if self.check(is_right, counts) => {}
                Ok(Ok(_)) => return,
                Ok(Err(error)) if was_not_taken(&error) => {
                    counts.moved += 1;
                    return;
                }
                Ok(Err(error)) if error.is_incomplete_message() => {
                    counts.end_after_send += 1;
                    return;
                }
                Ok(Err(error)) => {
                    println!("HTTP/2: {error:?}");
                    counts.reset += 1;
                    return;
                }
                Err(_) => {
                    println!("HTTP/2: no answer in ten seconds");
                    counts.reset += 1;
                    return;
                }
            }
            self.think(*turn).await;
        }
    }

    fn check(&self, is_right: bool, counts: &mut Counts) -> bool {
        if is_right {
            counts.answered += 1;
            self.answered.send_modify(|answered| *answered += 1);
        } else {
            counts.wrong += 1;
        }
        is_right
    }

    /// Up to four milliseconds, so that a connection is idle at some hand-overs and busy at others.
    async fn think(&self, turn: u64) {
        let pause = turn.wrapping_mul(0x9E37_79B9) >> 7 & 3;
        if pause > 0 {
            tokio::time::sleep(ms(pause)).await;
        }
    }
}

/// Whether it is certain that no server has begun with a request: it was not sent, or its stream is above what GOAWAY named.
fn was_not_taken(error: &hyper::Error) -> bool {
    let http2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_canceled() || http2.is_some_and(|error| error.is_go_away() && error.is_remote())
}

/// Starts one more server on the same socket.
fn start(listener: &std::net::TcpListener, running: &mut JoinSet<Report>, begun: &Arc<AtomicU64>) -> ShutdownHandle {
    let begun = Arc::clone(begun);
    let router = hello().layer(map_request(move |request: axum::extract::Request| {
        begun.fetch_add(1, Relaxed);
        std::future::ready(request)
    }));
    let mut builder = ShutdownCoordinator::builder();
    let stop = builder.phase("stop-accepting").timeout(secs(30)).id();
    let (coordinator, handle) = build(builder.deadline(secs(60)));
    let listener = TcpListener::from_std(listener.try_clone().unwrap()).unwrap();
    Server::new(&handle, stop, router).linger(LINGER).shared_listener(true).serve_tcp(listener).unwrap();
    running.spawn(coordinator.run());
    handle
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_take_over_from_each_other_lose_nothing() {
    let handovers = handovers();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (answered, mut seen) = watch::channel(0);
    let (over, is_over) = watch::channel(false);
    let load = Load { address: listener.local_addr().unwrap(), answered, over: is_over };

    let begun = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    let mut current = start(&listener, &mut running, &begun);
    let mut clients = JoinSet::new();
    for kind in [Kind::KeepAlive, Kind::Fresh, Kind::Http2] {
        for number in 0..CLIENTS {
            clients.spawn(load.clone().run(kind, number));
        }
    }
    for _ in 0..handovers {
        more(&mut seen).await;
        // The new one accepts before the old one stops; the old one drains while the new one serves.
        let next = start(&listener, &mut running, &begun);
        current.trigger(manual());
        current = next;
    }
    more(&mut seen).await;
    // Also the longest drain is over before the load is: whoever would be cut off at its end is.
    for _ in 0..handovers {
        let report = timeout(secs(30), running.join_next()).await.unwrap().unwrap().unwrap();
        assert!(report.is_clean(), "{report}");
        // Everyone left because they were told to, not because the time was over.
        assert!(phase(&report, "stop-accepting").took < LINGER, "{report}");
    }
    over.send_replace(true);
    let mut all = Counts::default();
    let mut by_kind = [Counts::default(); 3];
    for (kind, counts) in timeout(secs(20), clients.join_all()).await.unwrap() {
        let index = match kind {
            Kind::KeepAlive => 0,
            Kind::Fresh => 1,
            Kind::Http2 => 2,
        };
        by_kind[index].add(counts);
        all.add(counts);
    }
    println!("{handovers} hand-overs: {all}");
    println!("  keep-alive: {}\n  fresh:      {}\n  HTTP/2:     {}", by_kind[0], by_kind[1], by_kind[2]);
    assert_eq!(all.lost(), 0, "{all}");
    // What was begun was answered, and what was moved was not begun.
    assert_eq!(begun.load(Relaxed), all.answered);
    assert!(by_kind.iter().all(|counts| counts.answered > 0), "{by_kind:?}");
    current.trigger(manual());
    assert!(timeout(secs(30), running.join_next()).await.unwrap().unwrap().unwrap().is_clean());
}

/// Waits for more requests to be answered.
async fn more(seen: &mut watch::Receiver<u64>) {
    let enough = *seen.borrow() + REQUESTS;
    timeout(secs(30), seen.wait_for(|answered| *answered >= enough)).await.unwrap().unwrap();
}
