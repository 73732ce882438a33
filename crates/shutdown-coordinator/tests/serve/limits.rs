//! What a server puts up with, and for how long.

use std::time::Duration;

use axum::{Router, body::Body, http::Request, routing::post};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use shutdown_coordinator::serve::{BodyStalled, ServeError, Server};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    common::{manual, ms, secs, soon},
    rig::{GET, GET_BIG, HALF_BODY, HALF_HEAD, Logs, Rig, answer, ask, endless, hello, is_closed, own},
};

#[tokio::test]
async fn slow_heads_and_silent_connections_are_closed() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.header_read_timeout(secs(1)).idle_timeout(secs(60))).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    let mut preface = TcpStream::connect(address).await.unwrap();
    let mut later = TcpStream::connect(address).await.unwrap();
    let start = Instant::now();
    slow.write_all(b"GET / HT").await.unwrap();
    preface.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    ask(&mut later, GET).await.unwrap();
    for stream in [&mut silent, &mut slow, &mut preface] {
        assert!(is_closed(stream).await);
        assert!(start.elapsed() >= ms(950), "{:?}", start.elapsed());
    }
    // The head of a later request has the same time, however long the connection may be idle.
    let start = Instant::now();
    later.write_all(HALF_HEAD).await.unwrap();
    assert!(is_closed(&mut later).await);
    assert!(start.elapsed() >= ms(950), "{:?}", start.elapsed());
}

#[tokio::test]
async fn idle_connections_are_closed_after_a_time_of_their_own() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.header_read_timeout(ms(500)).idle_timeout(secs(2))).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    ask(&mut idle, GET).await.unwrap();
    let start = Instant::now();
    assert!(is_closed(&mut idle).await);
    assert!(start.elapsed() >= ms(1_950), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_closed_all_the_same() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.header_read_timeout(ms(200))).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut pace = tokio::time::interval(ms(20));
    let drip = async {
        stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        loop {
            pace.tick().await;
            if stream.write_all(b"x").await.is_err() {
                break;
            }
        }
    };
    soon(drip).await;
}

#[tokio::test]
async fn a_body_that_stops_coming_is_answered_with_408_and_named() {
    let (logs, _guard) = Logs::listen();
    let mut rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.body_read_timeout(ms(200))).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = ask(&mut stream, HALF_BODY).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("connection: close"), "{text}");
    assert!(is_closed(&mut stream).await);
    let name = format!("{}: POST /echo in flight", own(&stream));
    assert!(logs.line(&["its body stopped coming", &name]).is_some(), "{}", logs.all());
    rig.handle.trigger(manual());
    rig.clean_report().await;
}

#[tokio::test]
async fn a_body_that_comes_slowly_is_not_one_that_stopped() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.body_read_timeout(secs(1))).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n").await.unwrap();
    // Each byte in time, all of them together not.
    let mut pace = tokio::time::interval(ms(250));
    for byte in b"12345678" {
        pace.tick().await;
        stream.write_all(&[*byte]).await.unwrap();
    }
    assert!(answer(&mut stream).await.unwrap().ends_with("12345678"));
}

/// The time counts only while the handler waits for a byte: its own slowness is not the client's.
#[tokio::test]
async fn a_handler_may_take_its_time_before_it_reads_the_body() {
    let rig = Rig::new(secs(5));
    let router = Router::new().route(
        "/late",
        post(async |request: Request<Body>| {
            // Another timer, twice as long as the limit.
            assert!(timeout(ms(400), std::future::pending::<()>()).await.is_err());
            request.into_body().collect().await.unwrap().to_bytes()
        }),
    );
    let address = rig.serve(router, |server| server.body_read_timeout(ms(200))).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"POST /late HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody";
    assert!(ask(&mut stream, request).await.unwrap().ends_with("body"));
}

#[tokio::test]
async fn a_handler_that_streams_a_body_learns_that_it_stopped_and_may_answer_as_it_likes() {
    let rig = Rig::new(secs(5));
    let router = Router::new().route(
        "/stream",
        post(async |request: Request<Body>| {
            let mut chunks = request.into_body().into_data_stream();
            let mut count = 0;
            loop {
                match chunks.next().await {
                    Some(Ok(chunk)) => count += chunk.len(),
                    Some(Err(error)) => {
                        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
                        while let Some(error) = source {
                            if error.is::<BodyStalled>() {
                                return format!("stopped after {count}");
                            }
                            source = error.source();
                        }
                        return error.to_string();
                    }
                    None => return format!("all {count}"),
                }
            }
        }),
    );
    let address = rig.serve(router, |server| server.body_read_timeout(ms(200))).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = ask(&mut stream, b"POST /stream HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1234").await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("stopped after 4"), "{text}");
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_answer_is_dropped_and_named() {
    let (logs, _guard) = Logs::listen();
    let mut rig = Rig::new(secs(5));
    let address = rig.serve(endless(), |server| server.write_timeout(ms(300))).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(GET_BIG).await.unwrap();
    let name = format!("{}: GET /big in flight, not read by the peer", own(&stream));
    let mut pace = tokio::time::interval(ms(20));
    soon(async {
        while logs.line(&["connection closed", &name]).is_none() {
            pace.tick().await;
        }
    })
    .await;
    rig.handle.trigger(manual());
    rig.clean_report().await;
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_their_turn() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server.connection_limit(1)).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    ask(&mut first, GET).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(GET).await.unwrap();
    assert!(timeout(ms(200), second.readable()).await.is_err());
    drop(first);
    assert!(answer(&mut second).await.unwrap().ends_with("hello"));
}

#[tokio::test]
async fn settings_with_which_nothing_could_be_served_are_an_error_that_names_them() {
    type Change = fn(Server) -> Server;
    let rig = Rig::new(secs(5));
    let changes: [(&str, Change); 7] = [
        ("connection_limit", |server| server.connection_limit(0)),
        ("stream_limit", |server| server.stream_limit(0)),
        ("header_read_timeout", |server| server.header_read_timeout(Duration::ZERO)),
        ("body_read_timeout", |server| server.body_read_timeout(Duration::ZERO)),
        ("write_timeout", |server| server.write_timeout(Duration::ZERO)),
        ("idle_timeout", |server| server.idle_timeout(Duration::ZERO)),
        ("http2_ping_interval", |server| server.http2_ping_interval(Duration::ZERO)),
    ];
    for (name, change) in changes {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let served = change(Server::new(&rig.handle, rig.stop, hello())).serve_tcp(listener);
        let error = served.expect_err(name);
        assert!(matches!(error, ServeError::Zero(zero) if zero == name), "{error}");
        assert_eq!(error.to_string(), format!("{name} must not be zero"));
    }
}

#[tokio::test]
async fn the_largest_settings_mean_never_and_a_linger_of_zero_closes_at_once() {
    let mut rig = Rig::new(secs(5));
    let address = rig
        .serve(hello(), |server| {
            server
                .connection_limit(usize::MAX)
                .stream_limit(u32::MAX)
                .header_read_timeout(Duration::MAX)
                .body_read_timeout(Duration::MAX)
                .write_timeout(Duration::MAX)
                .idle_timeout(Duration::MAX)
                .http2_ping_interval(Duration::MAX)
                .linger(Duration::ZERO)
        })
        .await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(HALF_BODY).await.unwrap();
    assert!(timeout(ms(200), stream.readable()).await.is_err());
    assert!(ask(&mut stream, b"whole").await.unwrap().ends_with("half-whole"));
    let mut http2 = crate::frames::Frames::connect(address).await;
    http2.get(1, "/").await;
    assert_eq!(http2.answer(1).await, (true, "hello".to_owned()));
    rig.handle.trigger(manual());
    assert!(is_closed(&mut stream).await);
    drop(http2);
    rig.clean_report().await;
}
