//! Real sockets: serving and draining.
#![cfg(feature = "axum")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{
        ConnectInfo,
        ws::{CloseFrame, Message, WebSocketUpgrade},
    },
    http::StatusCode,
    response::IntoResponse as _,
    routing::{any, get, post},
};
use common::{build, manual, ms, outcome, phase, secs, soon};
use futures_util::{SinkExt as _, StreamExt as _};
use shutdown_coordinator::{
    Outcome, PhaseId, PhaseStatus, Report, ShutdownCoordinator, ShutdownHandle,
    serve::{DrainLayer, Server, Sessions},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::Instant,
};

struct Rig {
    handle: ShutdownHandle,
    stop: PhaseId,
    streams: PhaseId,
    running: JoinSet<Report>,
}

impl Rig {
    fn new(timeout: Duration) -> Self {
        let mut builder = ShutdownCoordinator::builder();
        let stop = builder.phase("stop-accepting").timeout(timeout).id();
        let streams = builder.phase("close-streams").after(&[stop]).timeout(secs(2)).id();
        let (coordinator, handle) = build(builder);
        let mut running = JoinSet::new();
        running.spawn(coordinator.run());
        Self { handle, stop, streams, running }
    }

    async fn serve(&self, router: Router, change: impl FnOnce(Server) -> Server) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        change(Server::new(&self.handle, self.stop, router)).serve_tcp(listener).unwrap();
        address
    }

    async fn report(&mut self) -> Report {
        soon(self.running.join_next()).await.unwrap().unwrap()
    }
}

fn hello() -> Router {
    Router::new()
        .route("/", get(async || "hello"))
        .route("/echo", post(async |body: String| body))
        .route("/peer", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()))
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// Sends a request and reads one answer with a content length; the head and the body.
async fn ask(stream: &mut TcpStream, request: &[u8]) -> std::io::Result<String> {
    stream.write_all(request).await?;
    answer(stream).await
}

async fn answer(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut text = Vec::new();
    loop {
        let mut chunk = [0; 1024];
        let count = soon(stream.read(&mut chunk)).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(&chunk[..count]);
        let so_far = String::from_utf8(text.clone()).unwrap();
        if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            if body.len() >= length {
                return Ok(so_far);
            }
        }
    }
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(soon(stream.read(&mut [0; 16])).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn handlers_see_the_peers_address() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let own = stream.local_addr().unwrap().to_string();
    assert!(ask(&mut stream, b"GET /peer HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap().ends_with(&own));
}

#[tokio::test]
async fn during_the_linger_idle_connections_are_answered_once_more_then_closed() {
    let mut rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.linger(ms(500))).await;
    let mut active = TcpStream::connect(address).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    assert!(!ask(&mut active, GET).await.unwrap().contains("connection: close"));
    ask(&mut idle, GET).await.unwrap();
    rig.handle.trigger(manual());
    rig.handle.token(rig.stop).cancelled().await;
    let last = ask(&mut active, GET).await.unwrap();
    assert!(last.contains("connection: close") && last.ends_with("hello"), "{last}");
    assert!(is_closed(&mut active).await);
    let start = Instant::now();
    assert!(is_closed(&mut idle).await);
    assert!(start.elapsed() > ms(200), "closed before the linger was over");
    let report = rig.report().await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn kept_connections_are_answered_while_the_phases_between_run() {
    let mut rig = Rig::new(secs(5));
    let between = rig.handle.gate(rig.streams, "between");
    let streams = rig.streams;
    let address = rig.serve(hello(), |server| server.linger(ms(20)).keep_connections_until(streams)).await;
    let mut early = TcpStream::connect(address).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    for stream in [&mut early, &mut idle] {
        assert!(!ask(stream, GET).await.unwrap().contains("connection: close"));
    }
    let mut progress = rig.handle.progress();
    rig.handle.trigger(manual());
    // The listener's phase is over although connections are open ..
    soon(progress.wait_for(|now| now.done().any(|phase| phase.name == "stop-accepting"))).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    // .. and they are still answered, once.
    let last = ask(&mut early, GET).await;
    if !between.is_closed() {
        assert!(last.unwrap().contains("connection: close"));
    }
    let report = rig.report().await;
    assert!(report.is_clean(), "{report}");
    assert!(is_closed(&mut idle).await);
}

#[tokio::test]
async fn the_servers_own_phase_waits_for_requests_that_came_before_it() {
    let mut rig = Rig::new(secs(5));
    let streams = rig.streams;
    let (arrived, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let router = {
        let (arrived, go_on) = (Arc::clone(&arrived), Arc::clone(&go_on));
        Router::new().route(
            "/",
            get(async move || {
                arrived.notify_one();
                go_on.notified().await;
                "hello"
            }),
        )
    };
    let address = rig.serve(router, |server| server.linger(ms(20)).keep_connections_until(streams)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    soon(arrived.notified()).await;
    rig.handle.trigger(manual());
    let mut progress = rig.handle.progress();
    soon(progress.wait_for(|now| now.running().any(|phase| phase.name == "stop-accepting"))).await.unwrap();
    assert!(
        rig.handle.blockers().iter().any(|blocker| blocker.name.starts_with("requests of")),
        "{:?}",
        rig.handle.blockers()
    );
    go_on.notify_one();
    assert!(answer(&mut stream).await.unwrap().ends_with("hello"));
    assert!(rig.report().await.is_clean());
}

#[tokio::test]
async fn connections_in_the_kernels_queue_are_served() {
    let mut rig = Rig::new(secs(5));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Not accepted by anyone yet: this thread does not yield to the server before the shutdown has begun.
    let mut queued = Vec::new();
    for _ in 0..20 {
        queued.push(std::net::TcpStream::connect(address).unwrap());
    }
    Server::new(&rig.handle, rig.stop, hello()).linger(ms(300)).serve_tcp(listener).unwrap();
    rig.handle.trigger(manual());
    for stream in queued {
        stream.set_nonblocking(true).unwrap();
        let mut stream = TcpStream::from_std(stream).unwrap();
        assert!(ask(&mut stream, GET).await.unwrap().ends_with("hello"));
    }
    assert!(rig.report().await.is_clean());
    assert!(TcpStream::connect(address).await.is_err());
}

/// The two-phase drain under load: keep-alive and fresh connections, and not one request lost after it was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_loses_no_request() {
    for _ in 0..3 {
        let mut rig = Rig::new(secs(5));
        let address = rig.serve(hello(), |server| server.linger(ms(300))).await;
        let mut clients = JoinSet::new();
        for number in 0..24 {
            clients.spawn(client(address, number % 2 == 0));
        }
        tokio::time::sleep(ms(200)).await;
        rig.handle.trigger(manual());
        let report = rig.report().await;
        assert!(report.is_clean(), "{report}");
        let served: usize = soon(clients.join_all()).await.into_iter().sum();
        assert!(served > 100, "only {served} requests were served");
    }
}

/// Asks until it is told to go away, and then until nobody accepts. A request that was sent must be answered.
async fn client(address: SocketAddr, keep_alive: bool) -> usize {
    let mut served = 0;
    'connect: loop {
        let Ok(mut stream) = TcpStream::connect(address).await else { return served };
        loop {
            match ask(&mut stream, GET).await {
                Ok(text) => {
                    served += 1;
                    if !keep_alive || text.contains("connection: close") {
                        continue 'connect;
                    }
                }
                Err(error) => panic!("request {served} was lost: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn half_sent_requests_are_completed_if_they_come_in_time() {
    let mut rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.linger(ms(100))).await;
    let mut head = TcpStream::connect(address).await.unwrap();
    let mut body = TcpStream::connect(address).await.unwrap();
    ask(&mut head, GET).await.unwrap();
    head.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    body.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf-").await.unwrap();
    tokio::time::sleep(ms(50)).await;
    rig.handle.trigger(manual());
    rig.handle.token(rig.stop).cancelled().await;
    // Well past the linger.
    tokio::time::sleep(ms(400)).await;
    assert!(ask(&mut head, b"host: x\r\n\r\n").await.unwrap().ends_with("hello"));
    assert!(ask(&mut body, b"whole").await.unwrap().ends_with("half-whole"));
    let report = rig.report().await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn half_sent_bodies_are_aborted_at_the_deadline_and_named_and_half_sent_heads_are_given_up_before() {
    let mut rig = Rig::new(ms(600));
    let address = rig.serve(hello(), |server| server.linger(ms(100))).await;
    let mut head = TcpStream::connect(address).await.unwrap();
    let mut body = TcpStream::connect(address).await.unwrap();
    head.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    body.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf-").await.unwrap();
    tokio::time::sleep(ms(50)).await;
    rig.handle.trigger(manual());
    let report = rig.report().await;
    let survivors: Vec<_> = report.survivors().map(|survivor| survivor.name.clone()).collect();
    let own = |stream: &TcpStream| stream.local_addr().unwrap();
    // A head that never became a request is nobody's loss: it must not make the end unclean.
    assert!(!survivors.iter().any(|name| name.starts_with(&own(&head).to_string())), "{survivors:?}");
    assert!(survivors.contains(&format!("{}: POST /echo in flight", own(&body))), "{survivors:?}");
    assert_eq!(phase(&report, "stop-accepting").status, PhaseStatus::TimedOut);
    assert!(is_closed(&mut head).await && is_closed(&mut body).await);
}

#[tokio::test]
async fn slow_heads_and_idle_connections_have_limits_of_their_own() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.header_read_timeout(ms(200)).idle_timeout(ms(600))).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    let mut preface = TcpStream::connect(address).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET / HT").await.unwrap();
    preface.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    ask(&mut idle, GET).await.unwrap();
    let start = Instant::now();
    assert!(is_closed(&mut silent).await && is_closed(&mut slow).await && is_closed(&mut preface).await);
    assert!(start.elapsed() < ms(500), "{:?}", start.elapsed());
    assert!(is_closed(&mut idle).await);
    assert!(start.elapsed() >= ms(550), "{:?}", start.elapsed());
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_their_turn() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.connection_limit(1)).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    ask(&mut first, GET).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(GET).await.unwrap();
    assert!(tokio::time::timeout(ms(200), second.readable()).await.is_err());
    drop(first);
    assert!(answer(&mut second).await.unwrap().ends_with("hello"));
}

#[tokio::test]
async fn the_layer_guards_requests_and_answers_503_with_retry_after() {
    let mut rig = Rig::new(secs(5));
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (entered, release) = (entered.clone(), release.clone());
        async move || {
            entered.notify_one();
            release.notified().await;
            "done"
        }
    };
    let gate = rig.handle.gate(rig.stop, "intake");
    let layer = DrainLayer::new(gate.clone())
        .retry_after(ms(1_500))
        .on_closed(|_| (StatusCode::SERVICE_UNAVAILABLE, "come back").into_response());
    let address = rig.serve(Router::new().route("/", get(slow)).layer(layer), |server| server.linger(ms(500))).await;
    let mut held = TcpStream::connect(address).await.unwrap();
    let mut refused = TcpStream::connect(address).await.unwrap();
    held.write_all(GET).await.unwrap();
    entered.notified().await;
    assert_eq!(gate.held(), 1);
    rig.handle.trigger(manual());
    rig.handle.token(rig.stop).cancelled().await;
    let text = ask(&mut refused, GET).await.unwrap();
    assert!(
        text.starts_with("HTTP/1.1 503") && text.contains("retry-after: 2") && text.ends_with("come back"),
        "{text}"
    );
    release.notify_one();
    assert!(answer(&mut held).await.unwrap().ends_with("done"));
    assert!(rig.report().await.is_clean());
    assert_eq!(gate.held(), 0);
}

fn websockets(sessions: &Sessions, obedient: bool) -> Router {
    let sessions = sessions.clone();
    let handler = async move |upgrade: WebSocketUpgrade| {
        let run = sessions.on_upgrade(upgrade, "session 1", async move |mut socket, session| {
            socket.send(Message::text("welcome")).await.unwrap();
            session.closing().cancelled().await;
            if !obedient {
                std::future::pending::<()>().await;
            }
            assert!(session.deadline().is_some());
            socket.send(Message::text("last")).await.unwrap();
            let frame = CloseFrame { code: 1012, reason: "restart".into() };
            socket.send(Message::Close(Some(frame))).await.unwrap();
            while let Some(Ok(_)) = socket.recv().await {}
        });
        run.unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())
    };
    Router::new().route("/ws", any(handler))
}

/// Property 41.
#[tokio::test]
async fn a_websocket_outlives_the_server_and_is_told_waited_for_and_closed() {
    let mut rig = Rig::new(secs(5));
    let sessions = Sessions::new(&rig.handle, rig.streams, "websockets").refuse_from(rig.stop);
    let address = rig.serve(websockets(&sessions, true), |server| server.linger(ms(100))).await;
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{address}/ws")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "welcome");
    assert_eq!(sessions.open(), 1);
    rig.handle.trigger(manual());
    assert_eq!(soon(socket.next()).await.unwrap().unwrap().into_text().unwrap(), "last");
    let tokio_tungstenite::tungstenite::Message::Close(Some(frame)) = soon(socket.next()).await.unwrap().unwrap()
    else {
        panic!("no close frame");
    };
    assert_eq!(u16::from(frame.code), 1012);
    socket.flush().await.unwrap();
    while socket.next().await.is_some() {}
    let report = rig.report().await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(sessions.open(), 0);
    assert!(sessions.is_closed());
}

/// Property 41: at the deadline it is dropped, and named.
#[tokio::test]
async fn a_websocket_that_does_not_end_is_dropped_at_the_deadline_and_named() {
    let mut rig = Rig::new(secs(5));
    let sessions = Sessions::new(&rig.handle, rig.streams, "websockets");
    let address = rig.serve(websockets(&sessions, false), |server| server.linger(ms(100))).await;
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{address}/ws")).await.unwrap();
    socket.next().await.unwrap().unwrap();
    rig.handle.trigger(manual());
    let report = rig.report().await;
    let survivor = report.survivors().next().unwrap();
    assert_eq!((&*survivor.name, survivor.gate.as_deref()), ("session 1", Some("websockets")));
    assert!(matches!(outcome(&report, "websockets"), Outcome::TimedOut { .. }));
    assert!(soon(socket.next()).await.is_none_or(|message| message.is_err()));
}

/// Property 41: from the start of an earlier phase on, nobody new comes in.
#[tokio::test]
async fn new_websockets_are_refused_from_the_start_of_the_earlier_phase() {
    let mut rig = Rig::new(secs(5));
    let sessions = Sessions::new(&rig.handle, rig.streams, "websockets").refuse_from(rig.stop);
    let address = rig.serve(websockets(&sessions, true), |server| server.linger(ms(1_000))).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.writable().await.unwrap();
    tokio::time::sleep(ms(50)).await;
    rig.handle.trigger(manual());
    rig.handle.token(rig.stop).cancelled().await;
    let request = b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert!(ask(&mut stream, request).await.unwrap().starts_with("HTTP/1.1 503"));
    rig.report().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_listener_serves_too() {
    let mut rig = Rig::new(secs(5));
    let path = std::env::temp_dir().join(format!("coordinator-{}.sock", std::process::id()));
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    Server::new(&rig.handle, rig.stop, hello()).linger(ms(50)).serve_unix(listener).unwrap();
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(text.ends_with("hello"), "{text}");
    rig.handle.trigger(manual());
    assert!(rig.report().await.is_clean());
}

#[tokio::test]
async fn a_handler_that_panics_takes_only_its_connection() {
    let rig = Rig::new(secs(5));
    let router = hello().route("/panic", get(async || -> () { panic!("in a handler") }));
    let address = rig.serve(router, |server| server).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(ask(&mut stream, b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await.is_err());
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(ask(&mut stream, GET).await.unwrap().ends_with("hello"));
}
