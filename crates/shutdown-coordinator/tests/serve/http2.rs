//! HTTP/2 with prior knowledge: GOAWAY, silent peers, limits.

use axum::{Router, body::Bytes, http::Request, routing::get};
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::Frame as BodyFrame,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use shutdown_coordinator::PhaseStatus;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};

use crate::{
    common::{manual, ms, phase, secs, soon},
    frames::{Frames, GOAWAY, HEADERS, PING, SETTINGS},
    rig::{GET, Held, Logs, Rig, ask, hello, is_closed, own},
};

const NO_ERROR: u32 = 0;
/// What a first GOAWAY names, since the server cannot know yet what is on its way (RFC 9113, 6.8).
const ANY_STREAM: u32 = (1 << 31) - 1;

#[tokio::test]
async fn in_a_drain_open_streams_are_answered_those_on_their_way_too_and_later_ones_go_elsewhere() {
    let mut rig = Rig::new(secs(60));
    let held = Held::default();
    // GOAWAY does not wait for its end.
    let address = rig.serve(held.router(), |server| server.linger(secs(30))).await;
    let mut client = Frames::connect(address).await;
    client.get(1, "/held").await;
    soon(held.arrived.notified()).await;
    rig.handle.trigger(manual());

    let announced = client.expect(GOAWAY).await.goes_away();
    assert_eq!(announced, (ANY_STREAM, NO_ERROR));
    let ping = client.expect(PING).await;
    // Sent before the client could know which streams count: it is answered.
    client.get(3, "/").await;
    assert_eq!(client.answer(3).await, (true, "hello".to_owned()));
    client.pong(&ping).await;
    let last = client.expect(GOAWAY).await.goes_away();
    assert_eq!(last, (3, NO_ERROR));

    // Above the last stream: by RFC 9113, 6.8 the client may send it again elsewhere, so it must not be answered here.
    client.get(5, "/").await;
    held.go_on.notify_one();
    assert_eq!(client.answer(1).await, (true, "held".to_owned()));
    while let Some(frame) = client.next().await {
        assert_ne!(frame.stream, 5, "{frame:?}");
    }
    drop(client);
    rig.clean_report().await;
}

/// What a client sends before it has read GOAWAY must not be answered with a reset: it might see that instead.
#[tokio::test]
async fn what_is_sent_to_a_connection_that_goes_away_is_thrown_away_until_the_client_closes() {
    let mut rig = Rig::new(secs(60));
    let address = rig.serve(hello(), |server| server.linger(secs(30))).await;
    let mut client = Frames::connect(address).await;
    client.get(1, "/").await;
    assert_eq!(client.answer(1).await, (true, "hello".to_owned()));
    rig.handle.trigger(manual());
    client.expect(GOAWAY).await;
    let ping = client.expect(PING).await;
    client.pong(&ping).await;
    assert_eq!(client.expect(GOAWAY).await.goes_away(), (1, NO_ERROR));
    assert!(client.next().await.is_none(), "the server has closed its side");
    // A reset would be seen by the write after the one that it answers.
    for stream in [3, 5, 7] {
        client.get(stream, "/").await;
    }
    let start = Instant::now();
    drop(client);
    rig.clean_report().await;
    assert!(start.elapsed() < secs(20), "it waited for more than the client: {:?}", start.elapsed());
}

#[tokio::test]
async fn a_connection_that_turns_out_to_be_http2_in_the_drain_is_told_as_well() {
    let mut rig = Rig::new(secs(20));
    let address = rig.serve(hello(), |server| server.linger(secs(10))).await;
    let mut unknown = Frames::silent(address).await;
    let mut partial = Frames::silent(address).await;
    partial.stream.write_all(&crate::frames::PREFACE[..20]).await.unwrap();
    // Connections are accepted in order: these two are by now.
    ask(&mut TcpStream::connect(address).await.unwrap(), GET).await.unwrap();
    rig.handle.trigger(manual());
    rig.stopping().await;
    let start = Instant::now();
    unknown.begin().await;
    partial.stream.write_all(&crate::frames::PREFACE[20..]).await.unwrap();
    partial.send(SETTINGS, 0, 0, &[]).await;
    for client in [&mut unknown, &mut partial] {
        client.get(1, "/").await;
        let goaway = client.expect(GOAWAY).await;
        assert_eq!(goaway.goes_away(), (ANY_STREAM, NO_ERROR));
        let ping = client.expect(PING).await;
        client.pong(&ping).await;
        assert_eq!(client.answer(1).await, (true, "hello".to_owned()));
        assert!(client.is_closed().await);
    }
    drop((unknown, partial));
    rig.clean_report().await;
    assert!(start.elapsed() < secs(8), "it was not GOAWAY that ended them: {:?}", start.elapsed());
}

#[tokio::test]
async fn silent_peers_and_half_heads_are_given_up_before_the_deadline_and_named() {
    let (logs, _guard) = Logs::listen();
    let mut rig = Rig::new(secs(2));
    let address = rig.serve(hello(), |server| server.linger(ms(100))).await;
    let mut half_preface = Frames::silent(address).await;
    half_preface.stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let silent = Frames::connect(address).await;
    let mut half_head = Frames::connect(address).await;
    half_head.get(1, "/").await;
    assert_eq!(half_head.answer(1).await, (true, "hello".to_owned()));
    half_head.half_get(3).await;
    rig.handle.trigger(manual());
    rig.clean_report().await;
    let expected = [
        (&half_preface, "HTTP/2 without a request"),
        (&silent, "HTTP/2 without a request"),
        (&half_head, "HTTP/2 without a whole request"),
    ];
    for (client, doing) in expected {
        let name = format!("{}: {doing}", own(&client.stream));
        assert!(logs.line(&["given up", &name]).is_some(), "{name}: {}", logs.all());
    }
    for client in [half_preface, silent, half_head] {
        let mut client = client;
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn a_stream_that_is_not_answered_in_time_is_aborted_and_named() {
    let mut rig = Rig::new(secs(1));
    let held = Held::default();
    let address = rig.serve(held.router(), |server| server.linger(ms(100))).await;
    let mut client = Frames::connect(address).await;
    client.get(1, "/held").await;
    client.get(3, "/held").await;
    soon(held.arrived.notified()).await;
    soon(held.arrived.notified()).await;
    rig.handle.trigger(manual());
    let report = rig.report().await;
    let name = format!("{}: GET /held in flight and 1 more", own(&client.stream));
    assert!(report.survivors().any(|survivor| survivor.name == name), "{report}");
    assert_eq!(phase(&report, "stop-accepting").status, PhaseStatus::TimedOut);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_peer_that_never_asks_is_told_to_go_and_then_closed() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.header_read_timeout(secs(1))).await;
    let start = Instant::now();
    let mut client = Frames::connect(address).await;
    // A request may be on its way, so it is GOAWAY before it is the end.
    assert_eq!(client.expect(GOAWAY).await.goes_away(), (ANY_STREAM, NO_ERROR));
    assert!(start.elapsed() >= secs(1), "{:?}", start.elapsed());
    client.get(1, "/").await;
    assert_eq!(client.answer(1).await, (true, "hello".to_owned()));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.idle_timeout(secs(1))).await;
    let mut client = Frames::connect(address).await;
    client.get(1, "/").await;
    assert_eq!(client.answer(1).await, (true, "hello".to_owned()));
    let start = Instant::now();
    assert_eq!(client.expect(GOAWAY).await.goes_away(), (ANY_STREAM, NO_ERROR));
    assert!(start.elapsed() >= ms(950), "{:?}", start.elapsed());
    let ping = client.expect(PING).await;
    client.pong(&ping).await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_closed_and_one_that_does_is_not() {
    let rig = Rig::new(secs(5));
    let held = Held::default();
    let address =
        rig.serve(held.router(), |server| server.http2_ping_interval(ms(200)).header_read_timeout(secs(2))).await;
    let mut dead = Frames::connect(address).await;
    let mut alive = Frames::connect(address).await;
    for client in [&mut dead, &mut alive] {
        client.get(1, "/held").await;
        soon(held.arrived.notified()).await;
    }
    for _ in 0..5 {
        let ping = alive.expect(PING).await;
        alive.pong(&ping).await;
    }
    assert!(dead.is_closed().await);
    held.go_on.notify_waiters();
    assert_eq!(alive.answer(1).await, (true, "held".to_owned()));
}

#[tokio::test]
async fn the_limit_of_streams_is_announced() {
    const MAX_CONCURRENT_STREAMS: u8 = 3;
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.stream_limit(7)).await;
    let settings = Frames::connect(address).await.expect(SETTINGS).await.payload;
    let limit = settings.chunks(6).find(|setting| setting[..2] == [0, MAX_CONCURRENT_STREAMS]).unwrap();
    assert_eq!(limit[2..], [0, 0, 0, 7]);
}

/// A client that knows HTTP/2 well.
async fn client<B>(address: std::net::SocketAddr, tasks: &mut tokio::task::JoinSet<()>) -> SendRequest<B>
where
    B: hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    sender
}

#[tokio::test]
async fn a_body_that_stops_coming_is_answered_with_408_and_the_connection_goes_on() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.body_read_timeout(ms(200))).await;
    let mut tasks = tokio::task::JoinSet::new();
    let mut sender = client(address, &mut tasks).await;
    for _ in 0..2 {
        let half = stream::once(std::future::ready(Ok(BodyFrame::data(Bytes::from_static(b"half-")))));
        let body = StreamBody::new(half.chain(stream::pending()).boxed());
        let request = Request::post(format!("http://{address}/echo")).body(body).unwrap();
        let response = soon(sender.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 408);
        let text = soon(response.into_body().collect()).await.unwrap().to_bytes();
        assert!(text.ends_with(b"stopped coming\n"), "{text:?}");
    }
}

#[tokio::test]
async fn a_handler_that_panics_takes_only_its_stream() {
    let mut rig = Rig::new(secs(5));
    let held = Held::default();
    let router: Router = held.router().route("/panic", get(async || -> () { panic!("in a handler") }));
    let address = rig.serve(router, |server| server).await;
    let mut tasks = tokio::task::JoinSet::new();
    let mut sender = client(address, &mut tasks).await;
    let request = |path: &str| {
        Request::get(format!("http://{address}{path}")).body(http_body_util::Empty::<Bytes>::new()).unwrap()
    };
    let other = sender.send_request(request("/held"));
    soon(held.arrived.notified()).await;
    assert!(soon(sender.send_request(request("/panic"))).await.is_err());
    held.go_on.notify_one();
    assert_eq!(soon(other).await.unwrap().status(), 200);
    rig.handle.trigger(manual());
    rig.clean_report().await;
}

#[tokio::test]
async fn an_http1_client_on_the_same_listener_is_not_disturbed() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server).await;
    let mut http2 = Frames::connect(address).await;
    let mut http1 = TcpStream::connect(address).await.unwrap();
    http2.get(1, "/").await;
    assert!(ask(&mut http1, GET).await.unwrap().ends_with("hello"));
    assert!(http2.expect(HEADERS).await.is_ok());
    http1.shutdown().await.unwrap();
    assert!(is_closed(&mut http1).await);
}
