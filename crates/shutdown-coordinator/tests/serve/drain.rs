//! The two-phase drain, as HTTP/1 sees it.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, http::StatusCode, response::IntoResponse as _, routing::get};
use shutdown_coordinator::{
    PhaseStatus, ShutdownCoordinator,
    serve::{DrainLayer, Server},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::Instant,
};

use crate::{
    common::{build, manual, ms, phase, secs, soon},
    rig::{GET, GET_HELD, HALF_BODY, HALF_HEAD, Held, Logs, Rig, answer, ask, hello, is_closed, own},
};

#[tokio::test]
async fn handlers_see_the_peers_address() {
    let rig = Rig::new(secs(5));
    let address = rig.serve(hello(), |server| server).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let own = own(&stream);
    assert!(ask(&mut stream, b"GET /peer HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap().ends_with(&own));
}

#[tokio::test]
async fn during_the_linger_idle_connections_are_answered_once_more_then_closed() {
    let mut rig = Rig::new(secs(10));
    let address = rig.serve(hello(), |server| server.linger(secs(1))).await;
    let mut active = TcpStream::connect(address).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    assert!(!ask(&mut active, GET).await.unwrap().contains("connection: close"));
    ask(&mut idle, GET).await.unwrap();
    let start = Instant::now();
    rig.handle.trigger(manual());
    rig.stopping().await;
    let last = ask(&mut active, GET).await.unwrap();
    assert!(last.contains("connection: close") && last.ends_with("hello"), "{last}");
    assert!(is_closed(&mut active).await);
    assert!(is_closed(&mut idle).await);
    assert!(start.elapsed() >= secs(1), "closed before the linger was over");
    rig.clean_report().await;
}

/// Property 24: whoever balances the load learns of the shutdown while the server still accepts.
#[tokio::test]
async fn during_a_hold_before_the_servers_phase_it_goes_on_accepting() {
    let mut builder = ShutdownCoordinator::builder();
    let announce = builder.phase("announce").hold(secs(1)).id();
    let stop = builder.phase("stop-accepting").after(&[announce]).timeout(secs(5)).id();
    let (coordinator, handle) = build(builder);
    let mut running = JoinSet::new();
    running.spawn(coordinator.run());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Server::new(&handle, stop, hello()).linger(ms(50)).serve_tcp(listener).unwrap();
    handle.trigger(manual());
    soon(handle.token(announce).cancelled()).await;
    let mut served = 0;
    while !handle.token(stop).is_cancelled() {
        assert!(handle.is_shutting_down());
        let Ok(mut stream) = TcpStream::connect(address).await else { break };
        let Ok(text) = ask(&mut stream, GET).await else { break };
        assert!(!text.contains("connection: close") || handle.token(stop).is_cancelled(), "{text}");
        served += 1;
    }
    assert!(served > 0 && handle.token(stop).is_cancelled(), "refused after {served} requests");
    assert!(soon(running.join_next()).await.unwrap().unwrap().is_clean());
}

#[tokio::test]
async fn kept_connections_are_answered_while_the_phases_between_run() {
    let mut builder = ShutdownCoordinator::builder();
    let stop = builder.phase("stop-accepting").timeout(secs(5)).id();
    let between = builder.phase("between").after(&[stop]).timeout(secs(20)).id();
    let streams = builder.phase("close-streams").after(&[between]).timeout(secs(5)).id();
    let (coordinator, handle) = build(builder.deadline(secs(60)));
    let mut running = JoinSet::new();
    running.spawn(coordinator.run());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(&handle, stop, hello()).linger(ms(20)).keep_connections_until(streams);
    server.serve_tcp(listener).unwrap();
    let work = handle.gate(between, "work").enter().unwrap();
    let mut early = TcpStream::connect(address).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    for stream in [&mut early, &mut idle] {
        assert!(!ask(stream, GET).await.unwrap().contains("connection: close"));
    }
    handle.trigger(manual());
    // The listener's phase is over although connections are open ..
    soon(handle.token(between).cancelled()).await;
    assert!(TcpStream::connect(address).await.is_err());
    // .. and they are still answered, once.
    assert!(ask(&mut early, GET).await.unwrap().contains("connection: close"));
    assert!(is_closed(&mut early).await);
    drop(work);
    assert!(is_closed(&mut idle).await);
    let report = soon(running.join_next()).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn the_servers_own_phase_waits_for_requests_that_came_before_it() {
    let mut rig = Rig::new(secs(10));
    let (held, streams) = (Held::default(), rig.streams);
    let address = rig.serve(held.router(), |server| server.linger(ms(20)).keep_connections_until(streams)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(GET_HELD).await.unwrap();
    soon(held.arrived.notified()).await;
    rig.handle.trigger(manual());
    rig.stopping().await;
    let blockers = rig.handle.blockers();
    assert!(blockers.iter().any(|blocker| blocker.name.starts_with("requests of")), "{blockers:?}");
    held.go_on.notify_one();
    assert!(answer(&mut stream).await.unwrap().ends_with("held"));
    rig.clean_report().await;
}

#[tokio::test]
async fn connections_in_the_kernels_queue_are_served() {
    let mut rig = Rig::new(secs(10));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Not accepted by anyone yet: this thread does not yield to the server before the shutdown has begun.
    let mut queued = Vec::new();
    for _ in 0..20 {
        queued.push(std::net::TcpStream::connect(address).unwrap());
    }
    Server::new(&rig.handle, rig.stop, hello()).serve_tcp(listener).unwrap();
    rig.handle.trigger(manual());
    for stream in queued {
        stream.set_nonblocking(true).unwrap();
        let mut stream = TcpStream::from_std(stream).unwrap();
        assert!(ask(&mut stream, GET).await.unwrap().ends_with("hello"));
    }
    rig.clean_report().await;
    assert!(TcpStream::connect(address).await.is_err());
}

/// Without a successor: keep-alive and fresh connections, and not one request lost after it was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_loses_no_request() {
    for _ in 0..3 {
        let mut rig = Rig::new(secs(10));
        let address = rig.serve(hello(), |server| server).await;
        let (served, mut seen) = watch::channel(0_u64);
        let served = Arc::new(served);
        let mut clients = JoinSet::new();
        for number in 0..24 {
            clients.spawn(client(address, number % 2 == 0, Arc::clone(&served)));
        }
        soon(seen.wait_for(|served| *served > 500)).await.unwrap();
        rig.handle.trigger(manual());
        rig.clean_report().await;
        soon(clients.join_all()).await;
    }
}

/// Asks until it is told to go away, and then until nobody accepts. A request that was sent must be answered.
async fn client(address: SocketAddr, keep_alive: bool, served: Arc<watch::Sender<u64>>) {
    'connect: loop {
        let Ok(mut stream) = TcpStream::connect(address).await else { return };
        loop {
            match ask(&mut stream, GET).await {
                Ok(text) => {
                    served.send_modify(|served| *served += 1);
                    if !keep_alive || text.contains("connection: close") {
                        continue 'connect;
                    }
                }
                Err(error) => panic!("a request was lost: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn half_sent_requests_are_completed_if_they_come_in_time() {
    let mut rig = Rig::new(secs(30));
    let address = rig.serve(hello(), |server| server.linger(ms(200))).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    let mut later = TcpStream::connect(address).await.unwrap();
    let mut body = TcpStream::connect(address).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    for stream in [&mut later, &mut idle] {
        ask(stream, GET).await.unwrap();
    }
    first.write_all(b"P").await.unwrap();
    later.write_all(HALF_HEAD).await.unwrap();
    body.write_all(HALF_BODY).await.unwrap();
    rig.handle.trigger(manual());
    // The linger is over, and what is idle has been closed.
    assert!(is_closed(&mut idle).await);
    assert!(
        ask(&mut first, b"OST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
            .await
            .unwrap()
            .ends_with("abc")
    );
    let last = ask(&mut later, b"host: x\r\n\r\n").await.unwrap();
    assert!(last.contains("connection: close") && last.ends_with("hello"), "{last}");
    assert!(ask(&mut body, b"whole").await.unwrap().ends_with("half-whole"));
    rig.clean_report().await;
}

#[tokio::test]
async fn half_sent_bodies_are_aborted_at_the_deadline_and_named_and_half_sent_heads_are_given_up_before() {
    let (logs, _guard) = Logs::listen();
    let mut rig = Rig::new(secs(1));
    let address = rig.serve(hello(), |server| server.linger(ms(100))).await;
    let mut head = TcpStream::connect(address).await.unwrap();
    let mut body = TcpStream::connect(address).await.unwrap();
    head.write_all(HALF_HEAD).await.unwrap();
    body.write_all(HALF_BODY).await.unwrap();
    rig.handle.trigger(manual());
    let report = rig.report().await;
    let survivors: Vec<_> = report.survivors().map(|survivor| survivor.name.clone()).collect();
    // A head that never became a request is nobody's loss: it must not make the end unclean.
    assert!(!survivors.iter().any(|name| name.starts_with(&own(&head))), "{survivors:?}");
    assert!(logs.line(&["given up", &own(&head), "head half received"]).is_some(), "{}", logs.all());
    assert!(survivors.contains(&format!("{}: POST /echo in flight", own(&body))), "{survivors:?}");
    assert_eq!(phase(&report, "stop-accepting").status, PhaseStatus::TimedOut);
    assert!(is_closed(&mut head).await && is_closed(&mut body).await);
}

#[tokio::test]
async fn the_layer_guards_requests_and_answers_503_with_retry_after() {
    let mut rig = Rig::new(secs(10));
    let held = Held::default();
    let gate = rig.handle.gate(rig.stop, "intake");
    let layer = DrainLayer::new(gate.clone())
        .retry_after(ms(1_500))
        .on_closed(|_| (StatusCode::SERVICE_UNAVAILABLE, "come back").into_response());
    let router = held.router().layer(layer).route("/outside", get(async || "outside"));
    let address = rig.serve(router, |server| server).await;
    let mut inside = TcpStream::connect(address).await.unwrap();
    let mut refused = TcpStream::connect(address).await.unwrap();
    let mut outside = TcpStream::connect(address).await.unwrap();
    inside.write_all(GET_HELD).await.unwrap();
    soon(held.arrived.notified()).await;
    assert_eq!(gate.held(), 1);
    rig.handle.trigger(manual());
    rig.stopping().await;
    let text = ask(&mut refused, GET).await.unwrap();
    assert!(
        text.starts_with("HTTP/1.1 503") && text.contains("retry-after: 2") && text.ends_with("come back"),
        "{text}"
    );
    assert!(ask(&mut outside, b"GET /outside HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap().ends_with("outside"));
    held.go_on.notify_one();
    assert!(answer(&mut inside).await.unwrap().ends_with("held"));
    rig.clean_report().await;
    assert_eq!(gate.held(), 0);
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
    rig.clean_report().await;
}

/// Serving needs a runtime and a phase that has not started.
#[tokio::test]
async fn a_server_that_comes_too_late_is_an_error() {
    let mut rig = Rig::new(secs(5));
    rig.handle.trigger(manual());
    rig.report().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = Server::new(&rig.handle, rig.stop, Router::new()).serve_tcp(listener).unwrap_err();
    assert_eq!(error.to_string(), "the shutdown has begun");
}
