//! What goes wrong while serving and draining.

use axum::{
    body::{Body, Bytes},
    routing::get,
};
use futures_util::{StreamExt as _, stream};
use shutdown_coordinator::{
    Outcome, PhaseStatus, Reason, ShutdownCoordinator,
    serve::{DrainLayer, Server},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};

use crate::{
    common::{build, manual, ms, phase, secs, soon},
    rig::{CHUNK, GET, GET_BIG, GET_HELD, Held, Rig, answer, ask, endless, hello, is_closed, own},
};

/// Property 8: forcing ends the waiting, and what was waited for is named.
#[tokio::test]
async fn a_forced_shutdown_ends_the_drain_at_once_and_names_what_was_in_flight() {
    let mut rig = Rig::new(secs(60));
    let held = Held::default();
    let address = rig.serve(held.router(), |server| server.linger(secs(30))).await;
    let mut busy = TcpStream::connect(address).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    ask(&mut idle, GET).await.unwrap();
    busy.write_all(GET_HELD).await.unwrap();
    soon(held.arrived.notified()).await;
    rig.handle.trigger(manual());
    rig.stopping().await;
    let start = Instant::now();
    rig.handle.force(Reason::Manual("now".to_owned()));
    let report = rig.report().await;
    assert!(start.elapsed() < secs(8), "{:?}", start.elapsed());
    assert_eq!(phase(&report, "stop-accepting").status, PhaseStatus::Forced);
    let name = format!("{}: GET /held in flight", own(&busy));
    assert!(report.survivors().any(|survivor| survivor.name == name), "{report}");
    assert_ne!(report.exit_code(), 0);
    assert!(is_closed(&mut busy).await && is_closed(&mut idle).await);
}

/// Property 8: a phase keeps its reserve when it is forced, but what is idle is not waited for.
#[tokio::test]
async fn a_forced_shutdown_closes_what_is_idle_although_the_phase_has_a_reserve() {
    let mut builder = ShutdownCoordinator::builder();
    let stop = builder.phase("stop-accepting").reserve(secs(60)).id();
    let streams = builder.phase("close-streams").after(&[stop]).id();
    let (coordinator, handle) = build(builder.deadline(secs(90)));
    let mut running = JoinSet::new();
    running.spawn(coordinator.run());
    let mut rig = Rig { handle, stop, streams, running };
    let held = Held::default();
    let address = rig.serve(held.router(), |server| server.linger(secs(30))).await;
    let mut busy = TcpStream::connect(address).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    ask(&mut idle, GET).await.unwrap();
    busy.write_all(GET_HELD).await.unwrap();
    soon(held.arrived.notified()).await;
    rig.handle.trigger(manual());
    rig.stopping().await;
    rig.handle.force(Reason::Manual("now".to_owned()));
    assert!(is_closed(&mut idle).await);
    held.go_on.notify_one();
    assert!(answer(&mut busy).await.unwrap().ends_with("held"));
    let report = rig.report().await;
    assert_eq!(report.survivors().count(), 0, "{report}");
}

/// Property 46: after an abort what is in flight is answered, the old server ends, and a new one takes its place.
#[tokio::test]
async fn an_abort_in_the_servers_phase_loses_no_request_and_a_new_server_can_take_over() {
    let mut rig = Rig::new(secs(60));
    let held = Held::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let old = Server::new(&rig.handle, rig.stop, held.router()).linger(ms(100)).serve_tcp(listener).unwrap();
    let mut busy = TcpStream::connect(address).await.unwrap();
    busy.write_all(GET_HELD).await.unwrap();
    soon(held.arrived.notified()).await;
    rig.handle.trigger(manual());
    rig.stopping().await;
    rig.handle.abort().unwrap();
    held.go_on.notify_one();
    let last = answer(&mut busy).await.unwrap();
    assert!(last.contains("connection: close") && last.ends_with("held"), "{last}");
    soon(old).await.unwrap();

    let listener = TcpListener::bind(address).await.unwrap();
    Server::new(&rig.handle, rig.stop, hello()).linger(ms(100)).serve_tcp(listener).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(!ask(&mut stream, GET).await.unwrap().contains("connection: close"));
    rig.handle.trigger(manual());
    rig.clean_report().await;
    assert!(is_closed(&mut stream).await);
}

/// Property 43: nobody ends the drain any more, but what is in flight is answered, and the server ends by itself.
#[tokio::test]
async fn when_the_run_is_dropped_midway_requests_are_still_answered() {
    let mut rig = Rig::new(secs(60));
    let held = Held::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(&rig.handle, rig.stop, held.router()).linger(ms(300)).serve_tcp(listener).unwrap();
    let mut busy = TcpStream::connect(address).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    ask(&mut idle, GET).await.unwrap();
    busy.write_all(GET_HELD).await.unwrap();
    soon(held.arrived.notified()).await;
    rig.handle.trigger(manual());
    rig.stopping().await;
    rig.running.shutdown().await;
    assert!(is_closed(&mut idle).await);
    assert!(!server.is_finished());
    held.go_on.notify_one();
    assert!(answer(&mut busy).await.unwrap().ends_with("held"));
    soon(server).await.unwrap();
}

#[tokio::test]
async fn a_handler_that_panics_takes_only_its_connection() {
    let mut rig = Rig::new(secs(5));
    let gate = rig.handle.gate(rig.stop, "intake");
    let router =
        hello().route("/panic", get(async || -> () { panic!("in a handler") })).layer(DrainLayer::new(gate.clone()));
    let address = rig.serve(router, |server| server.linger(ms(50))).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(ask(&mut stream, b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await.is_err());
    assert_eq!(gate.held(), 0);
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(ask(&mut stream, GET).await.unwrap().ends_with("hello"));
    rig.handle.trigger(manual());
    rig.clean_report().await;
}

#[tokio::test]
async fn a_client_that_goes_in_the_middle_of_its_answer_is_not_waited_for() {
    let mut rig = Rig::new(secs(5));
    let (gone, mut is_gone) = mpsc::channel::<()>(1);
    let answer = async move || {
        // Dropped with the body.
        let gone = gone.clone();
        let chunk = move |()| {
            let _alive = &gone;
            Ok::<_, std::io::Error>(Bytes::from_static(CHUNK))
        };
        Body::from_stream(stream::repeat(()).map(chunk))
    };
    let gate = rig.handle.gate(rig.stop, "intake");
    let router = hello().route("/big", get(answer)).layer(DrainLayer::new(gate.clone()));
    let address = rig.serve(router, |server| server.linger(ms(50))).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(GET_BIG).await.unwrap();
    stream.read_exact(&mut vec![0; 100_000]).await.unwrap();
    assert_eq!(gate.held(), 1);
    drop(stream);
    let mut pace = tokio::time::interval(ms(10));
    soon(async {
        while gate.held() > 0 {
            pace.tick().await;
        }
    })
    .await;
    assert!(is_gone.try_recv().is_err());
    rig.handle.trigger(manual());
    rig.clean_report().await;
}

#[tokio::test]
async fn a_slow_reader_is_aborted_at_the_deadline_and_named() {
    let mut rig = Rig::new(secs(1));
    let address = rig.serve(endless(), |server| server.linger(ms(50))).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(GET_BIG).await.unwrap();
    stream.read_exact(&mut vec![0; 100_000]).await.unwrap();
    rig.handle.trigger(manual());
    let report = rig.report().await;
    let name = format!("{}: GET /big in flight, not read by the peer", own(&stream));
    assert!(report.survivors().any(|survivor| survivor.name == name), "{report}");
    let connections =
        phase(&report, "stop-accepting").entries.iter().find(|entry| entry.name.starts_with("connections"));
    assert!(matches!(connections.unwrap().outcome, Outcome::TimedOut { .. }), "{report}");
}

/// An answer that fits into no buffer but was made at once: its handler is done, its bytes are not.
#[tokio::test]
async fn the_unread_end_of_an_answer_is_waited_for_and_named() {
    let mut rig = Rig::new(secs(1));
    let router = hello().route("/big", get(async || vec![b'x'; 64 << 20]));
    let address = rig.serve(router, |server| server.linger(ms(50))).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(GET_BIG).await.unwrap();
    stream.read_exact(&mut vec![0; 100_000]).await.unwrap();
    rig.handle.trigger(manual());
    let report = rig.report().await;
    let name = own(&stream);
    assert!(
        report
            .survivors()
            .any(|survivor| survivor.name.starts_with(&name) && survivor.name.ends_with("not read by the peer")),
        "{report}"
    );
}

#[cfg(unix)]
mod descriptors {
    //! Real: in a process of its own, since the limit is the process's.

    use std::process::Stdio;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::TcpStream,
        process::Command,
    };

    use crate::{
        common::{manual, secs, soon},
        rig::{GET, Rig, answer, hello},
    };

    const FEW: u64 = 24;
    const MANY: usize = 60;

    /// Not a test: what the one below starts.
    #[tokio::test]
    #[ignore = "the server of the test of the descriptors"]
    async fn server_with_few_descriptors() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, FEW, hard).unwrap();
        tracing_subscriber::fmt().with_ansi(false).init();
        let mut rig = Rig::new(secs(10));
        let address = rig.serve(hello(), |server| server).await;
        println!("\nserving {address}");
        // Until the parent is done.
        let wait = tokio::task::spawn_blocking(|| std::io::Read::read(&mut std::io::stdin(), &mut [0; 8]));
        drop(wait.await.unwrap());
        rig.handle.trigger(manual());
        println!("\nclean {}", rig.report().await.is_clean());
    }

    #[tokio::test]
    async fn out_of_descriptors_it_serves_whom_it_has_and_the_others_as_soon_as_it_can() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::descriptors::server_with_few_descriptors", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = async |part: &str| loop {
            let line = soon(lines.next_line()).await.unwrap().expect("the child runs");
            if line.contains(part) {
                return line;
            }
        };
        let address = line("serving ").await.replace("serving ", "");
        let mut clients = Vec::new();
        for _ in 0..MANY {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(GET).await.unwrap();
            clients.push(stream);
        }
        // It is Linux that says so: os error 24.
        line("accept failed").await;
        // Whoever is in is served, also now, and makes room by leaving.
        for (number, mut client) in clients.into_iter().enumerate() {
            let text = answer(&mut client).await.unwrap();
            assert!(text.ends_with("hello"), "client {number}: {text}");
        }
        let mut after = TcpStream::connect(&address).await.unwrap();
        after.write_all(GET).await.unwrap();
        assert!(answer(&mut after).await.unwrap().ends_with("hello"));
        drop(after);
        drop(child.stdin.take());
        assert_eq!(line("clean ").await, "clean true");
        assert!(soon(child.wait()).await.unwrap().success());
    }
}
