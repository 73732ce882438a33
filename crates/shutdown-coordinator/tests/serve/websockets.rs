//! Websockets are tracked from before their upgrade, told, waited for, and dropped at the deadline.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{
        Request,
        ws::{CloseFrame, Message, WebSocketUpgrade},
    },
    http::{Method, StatusCode},
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
    routing::any,
};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use shutdown_coordinator::{FailurePolicy, Outcome, PhaseStatus, Reason, ShutdownCoordinator, serve::Sessions};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, protocol::Role},
};

use crate::{
    common::{build, manual, ms, outcome, phase, secs, soon},
    rig::{GET, Rig, answer, ask, hello},
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// `/ws`: says welcome, and when the shutdown tells it, `last` and goodbye.
fn polite(sessions: &Sessions) -> Router {
    let sessions = sessions.clone();
    let handler = async move |upgrade: WebSocketUpgrade| {
        let run = sessions.on_upgrade(upgrade, "session 1", async |mut socket, session| {
            if socket.send(Message::text("welcome")).await.is_err() {
                return;
            }
            session.closing().cancelled().await;
            assert!(session.deadline().is_some());
            if socket.send(Message::text("last")).await.is_ok() {
                session.close(socket).await;
            }
        });
        run.unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())
    };
    Router::new().route("/ws", any(handler))
}

async fn connect(address: SocketAddr) -> Socket {
    let (mut socket, _) = soon(connect_async(format!("ws://{address}/ws"))).await.unwrap();
    assert_eq!(text(&mut socket).await, "welcome");
    socket
}

async fn text<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> String {
    soon(socket.next()).await.unwrap().unwrap().into_text().unwrap().to_string()
}

/// The code of the Close frame that comes next. The handshake is completed, and the connection ends.
async fn close_code<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> u16 {
    let tungstenite::Message::Close(Some(frame)) = soon(socket.next()).await.unwrap().unwrap() else {
        panic!("no close frame");
    };
    socket.flush().await.unwrap_or(());
    while let Some(Ok(_)) = soon(socket.next()).await {}
    u16::from(frame.code)
}

/// Property 41: told, given its last message, closed with the code that fits, and waited for.
#[tokio::test]
async fn a_websocket_outlives_the_server_and_gets_its_last_message_and_a_close_handshake() {
    for (reason, code) in [(manual(), 1001), (Reason::Upgrade, 1012)] {
        let mut rig = Rig::new(secs(5));
        let sessions = Sessions::new(&rig.handle, rig.streams, "websockets").refuse_from(rig.stop);
        let address = rig.serve(polite(&sessions), |server| server.linger(ms(100))).await;
        let mut socket = connect(address).await;
        assert_eq!(sessions.open(), 1);
        rig.handle.trigger(reason);
        assert_eq!(text(&mut socket).await, "last");
        // The phase waits for the peer's half of the handshake.
        assert!(!rig.running.is_empty() && rig.running.try_join_next().is_none());
        assert_eq!(close_code(&mut socket).await, code);
        rig.clean_report().await;
        assert_eq!(sessions.open(), 0);
        assert!(sessions.is_closed());
    }
}

/// Property 41: a peer that does not answer the Close frame is dropped at the deadline, and named.
#[tokio::test]
async fn a_peer_that_does_not_say_goodbye_is_dropped_at_the_deadline_and_named() {
    let mut rig = Rig::new(secs(5));
    let sessions = Sessions::new(&rig.handle, rig.streams, "websockets");
    let address = rig.serve(polite(&sessions), |server| server.linger(ms(100))).await;
    let socket = connect(address).await;
    rig.handle.trigger(manual());
    let report = rig.report().await;
    let survivor = report.survivors().next().unwrap();
    assert_eq!((&*survivor.name, survivor.gate.as_deref()), ("session 1", Some("websockets")));
    assert!(matches!(outcome(&report, "websockets"), Outcome::TimedOut { .. }));
    assert_eq!(sessions.open(), 0);
    // All of it came, and then the end.
    let MaybeTlsStream::Plain(mut stream) = socket.into_inner() else { panic!("no TLS here") };
    let mut rest = Vec::new();
    soon(stream.read_to_end(&mut rest)).await.unwrap_or(0);
    assert!(rest.windows(4).any(|window| window == b"last"), "{rest:?}");
}

/// Property 41: so is one that does not read, when the session is in the middle of a message.
#[tokio::test]
async fn a_peer_that_does_not_read_is_dropped_at_the_deadline_and_named() {
    let mut rig = Rig::new(secs(5));
    let sessions = Sessions::new(&rig.handle, rig.streams, "websockets");
    let (mine, full) = (sessions.clone(), Arc::new(Notify::new()));
    let is_full = Arc::clone(&full);
    let handler = async move |upgrade: WebSocketUpgrade| {
        let flood = async move |mut socket: axum::extract::ws::WebSocket, _| loop {
            let message = Message::binary(vec![0; 64 * 1024]);
            if tokio::time::timeout(ms(300), socket.send(message)).await.is_err() {
                is_full.notify_one();
                // Also a goodbye finds no room.
                let frame = CloseFrame { code: 1001, reason: "".into() };
                drop(socket.send(Message::Close(Some(frame))).await);
            }
        };
        mine.on_upgrade(upgrade, "flooded", flood).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
    };
    let address = rig.serve(Router::new().route("/ws", any(handler)), |server| server.linger(ms(100))).await;
    let (_socket, _) = connect_async(format!("ws://{address}/ws")).await.unwrap();
    soon(full.notified()).await;
    rig.handle.trigger(manual());
    let report = rig.report().await;
    assert!(report.survivors().any(|survivor| survivor.name == "flooded"), "{report}");
    assert_eq!(sessions.open(), 0);
}

/// Property 41: a session that is not over is dropped with its socket.
#[tokio::test]
async fn a_session_that_ignores_the_shutdown_is_dropped_at_the_deadline_and_named() {
    let mut rig = Rig::new(secs(5));
    let sessions = Sessions::new(&rig.handle, rig.streams, "websockets");
    let mine = sessions.clone();
    let handler = async move |upgrade: WebSocketUpgrade| {
        mine.on_upgrade(upgrade, "deaf", async |mut socket, _| {
            socket.send(Message::text("welcome")).await.unwrap();
            std::future::pending::<()>().await;
        })
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
    };
    let address = rig.serve(Router::new().route("/ws", any(handler)), |server| server.linger(ms(100))).await;
    let mut socket = connect(address).await;
    rig.handle.trigger(manual());
    let report = rig.report().await;
    assert!(report.survivors().any(|survivor| survivor.name == "deaf"), "{report}");
    assert!(soon(socket.next()).await.is_none_or(|message| message.is_err()));
}

/// Property 41: an upgrade that was granted but not yet sent when the drain begins is a session like any other.
#[tokio::test]
async fn an_upgrade_in_progress_when_the_drain_begins_is_tracked() {
    let mut rig = Rig::new(secs(10));
    let sessions = Sessions::new(&rig.handle, rig.streams, "websockets").refuse_from(rig.stop);
    let (granted, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let router = {
        let (granted, go_on) = (Arc::clone(&granted), Arc::clone(&go_on));
        // Between the grant and the 101.
        polite(&sessions).layer(from_fn(move |request: Request, next: Next| {
            let (granted, go_on) = (Arc::clone(&granted), Arc::clone(&go_on));
            async move {
                let response = next.run(request).await;
                granted.notify_one();
                go_on.notified().await;
                response
            }
        }))
    };
    let address = rig.serve(router, |server| server.linger(ms(100))).await;
    let mut clients = JoinSet::new();
    clients.spawn(async move { connect(address).await });
    soon(granted.notified()).await;
    assert_eq!(sessions.open(), 1);
    rig.handle.trigger(manual());
    rig.stopping().await;
    assert!(sessions.is_closed());
    go_on.notify_one();
    let mut socket = soon(clients.join_next()).await.unwrap().unwrap();
    assert_eq!(text(&mut socket).await, "last");
    assert_eq!(close_code(&mut socket).await, 1001);
    rig.clean_report().await;
}

/// Property 41: an upgrade that comes to nothing holds nobody up. (hyper gives the session its connection all the same, but
/// only when it is over.)
#[tokio::test]
async fn an_upgrade_that_fails_is_not_waited_for() {
    let mut rig = Rig::new(secs(5));
    let sessions = Sessions::new(&rig.handle, rig.streams, "websockets");
    let thrown_away = from_fn(async |request: Request, next: Next| -> Response {
        drop(next.run(request).await);
        StatusCode::FORBIDDEN.into_response()
    });
    let address = rig.serve(polite(&sessions).layer(thrown_away), |server| server.linger(ms(100))).await;
    let error = soon(connect_async(format!("ws://{address}/ws"))).await.unwrap_err();
    assert!(error.to_string().contains("403"), "{error}");
    rig.handle.trigger(manual());
    rig.clean_report().await;
}

/// Property 21: a phase that is passed over waits for nobody, but its websockets are told and can say goodbye.
#[tokio::test]
async fn a_websocket_whose_phase_is_skipped_still_says_goodbye() {
    let mut builder = ShutdownCoordinator::builder();
    let stop = builder.phase("stop-accepting").timeout(secs(5)).on_failure(FailurePolicy::AbortRest).id();
    let streams = builder.phase("close-streams").after(&[stop]).timeout(secs(5)).id();
    let (coordinator, handle) = build(builder);
    let mut running = JoinSet::new();
    running.spawn(coordinator.run());
    handle.on(stop, "fails", |_| async { Err::<(), _>("no") }).unwrap();
    let mut rig = Rig { handle, stop, streams, running };
    let sessions = Sessions::new(&rig.handle, streams, "websockets");
    let mine = sessions.clone();
    let handler = async move |upgrade: WebSocketUpgrade| {
        mine.on_upgrade(upgrade, "session 1", async |mut socket, session| {
            socket.send(Message::text("welcome")).await.unwrap();
            session.closing().cancelled().await;
            assert!(session.deadline().is_none());
            session.close(socket).await;
        })
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
    };
    let address = rig.serve(Router::new().route("/ws", any(handler)), |server| server.linger(ms(100))).await;
    let mut socket = connect(address).await;
    rig.handle.trigger(manual());
    let report = rig.report().await;
    assert_eq!(phase(&report, "close-streams").status, PhaseStatus::Skipped);
    assert_eq!(close_code(&mut socket).await, 1001);
}

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Property 41: from the start of an earlier phase on, nobody new comes in, and who came before stays.
#[tokio::test]
async fn new_websockets_are_refused_from_the_start_of_the_earlier_phase() {
    let mut rig = Rig::new(secs(10));
    let sessions = Sessions::new(&rig.handle, rig.streams, "websockets").refuse_from(rig.stop);
    let address = rig.serve(polite(&sessions), |server| server).await;
    let mut socket = connect(address).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(&UPGRADE[..50]).await.unwrap();
    rig.handle.trigger(manual());
    rig.stopping().await;
    assert!(ask(&mut stream, UPGRADE).await.unwrap().starts_with("HTTP/1.1 503"));
    // Also one that was half sent before.
    assert!(ask(&mut half, &UPGRADE[50..]).await.unwrap().starts_with("HTTP/1.1 503"));
    assert_eq!(sessions.open(), 1);
    assert_eq!(text(&mut socket).await, "last");
    assert_eq!(close_code(&mut socket).await, 1001);
    rig.clean_report().await;
}

#[tokio::test]
async fn a_websocket_counts_against_the_limit_of_connections_as_long_as_it_is_open() {
    let rig = Rig::new(secs(5));
    let sessions = Sessions::new(&rig.handle, rig.streams, "websockets");
    let mine = sessions.clone();
    let handler = async move |upgrade: WebSocketUpgrade| {
        mine.on_upgrade(upgrade, "until the peer goes", async |mut socket, _| {
            socket.send(Message::text("welcome")).await.unwrap();
            while let Some(Ok(_)) = socket.recv().await {}
        })
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
    };
    let address = rig.serve(hello().route("/ws", any(handler)), |server| server.connection_limit(1)).await;
    let socket = connect(address).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    assert!(tokio::time::timeout(ms(300), stream.readable()).await.is_err());
    assert_eq!(sessions.open(), 1);
    drop(socket);
    assert!(answer(&mut stream).await.unwrap().ends_with("hello"));
}

/// A websocket on a stream of an HTTP/2 connection (RFC 8441).
async fn connect_http2(
    address: SocketAddr,
    tasks: &mut JoinSet<()>,
) -> WebSocketStream<impl AsyncRead + AsyncWrite + Unpin> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    let request = hyper::Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://{address}/ws"))
        .header("sec-websocket-version", "13")
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .body(http_body_util::Empty::<Bytes>::new())
        .unwrap();
    // Extended CONNECT is allowed once the server's settings are there.
    soon(sender.ready()).await.unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    let upgraded = soon(hyper::upgrade::on(response)).await.unwrap();
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    assert_eq!(text(&mut socket).await, "welcome");
    socket
}

/// Property 41, over HTTP/2: with its connection kept until the phase of the websockets.
#[tokio::test]
async fn a_websocket_over_http2_is_tracked_told_and_waited_for() {
    let mut rig = Rig::new(secs(5));
    let streams = rig.streams;
    let sessions = Sessions::new(&rig.handle, streams, "websockets").refuse_from(rig.stop);
    let address = rig
        .serve(polite(&sessions), |server| {
            // Neither is for a connection with an open websocket.
            let limited = server.idle_timeout(secs(1)).header_read_timeout(secs(1));
            limited.linger(ms(100)).keep_connections_until(streams)
        })
        .await;
    let mut tasks = JoinSet::new();
    let mut socket = connect_http2(address, &mut tasks).await;
    assert_eq!(sessions.open(), 1);
    // Longer than the idle timeout, and the time for a head after that.
    assert!(tokio::time::timeout(ms(3_500), socket.next()).await.is_err());
    rig.handle.trigger(manual());
    assert_eq!(text(&mut socket).await, "last");
    assert_eq!(close_code(&mut socket).await, 1001);
    rig.clean_report().await;
    assert_eq!(sessions.open(), 0);
}

/// Property 41, over HTTP/2: the report names what was cut off.
#[tokio::test]
async fn a_websocket_over_http2_that_does_not_end_is_dropped_and_named() {
    let mut rig = Rig::new(secs(5));
    let streams = rig.streams;
    let sessions = Sessions::new(&rig.handle, streams, "websockets");
    let address = rig.serve(polite(&sessions), |server| server.linger(ms(100)).keep_connections_until(streams)).await;
    let mut tasks = JoinSet::new();
    let _socket = connect_http2(address, &mut tasks).await;
    rig.handle.trigger(manual());
    let report = rig.report().await;
    let names: Vec<_> = report.survivors().map(|survivor| survivor.name.clone()).collect();
    assert!(names.iter().any(|name| name == "session 1"), "{names:?}");
    assert!(names.iter().any(|name| name.ends_with("1 upgraded HTTP/2 streams open")), "{names:?}");
}
