//! Clients that take their time, and more of them than there are descriptors.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::support::{Installation, Load, eventually, within};

const HALF_HEAD: &str = "POST /api/signals HTTP/1.1\r\nHost: local";
const HALF_BODY: &str = "POST /api/signals HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                         Content-Length: 500\r\n\r\n{\"rob";

/// Says its beginning, then a byte a second, until it is cut. Returns how long that took.
async fn dawdle(address: SocketAddr, beginning: &str) -> Duration {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let at = Instant::now();
    stream.write_all(beginning.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let drip = async {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if writing.write_all(b"x").await.is_err() {
                return;
            }
        }
    };
    let cut = async {
        // An answer such as 408 may come first. A reset is an end too.
        let mut rest = Vec::new();
        let _reset = reading.read_to_end(&mut rest).await;
    };
    tokio::select! {
        () = drip => {}
        () = cut => {}
    }
    at.elapsed()
}

#[tokio::test]
async fn slow_and_silent_clients_are_cut_and_others_are_served_meanwhile() {
    let mut installation = Installation::new();
    for timeout in ["HEADER", "BODY", "IDLE"] {
        installation.set(&format!("HOTGO__SERVER__{timeout}_TIMEOUT_MS"), "3000");
    }
    // As many orders as a quick machine can have served meanwhile.
    installation.set("HOTGO__VENUE__PAPER__OPENING__USDT", "100000000");
    let load = Load::new(&installation.scratch("answered"), "slow");
    let server = installation.start().await;
    let robot = server.robot("served").await;
    let mut slow = JoinSet::new();
    for beginning in [HALF_HEAD, HALF_BODY, "", "GET /api/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        for _ in 0..20 {
            slow.spawn(dawdle(server.address(), beginning));
        }
    }
    // As long as any of them is there, others are served.
    let (mut count, mut slowest) = (0, Duration::ZERO);
    while slow.len() > 1 {
        let at = Instant::now();
        load.send(&server.client(), &robot).await.unwrap().ok();
        slowest = slowest.max(at.elapsed());
        count += 1;
        while let Some(cut) = slow.try_join_next() {
            let took = cut.unwrap();
            assert!(took < Duration::from_secs(20), "cut only after {took:?}");
        }
    }
    assert!(count > 3 && slowest < Duration::from_secs(5), "{count} served, the slowest after {slowest:?}");
    within(Duration::from_secs(20), "the last is cut", slow.join_all()).await;
    installation.audit(Some(load.path())).await.assert_clean("after slow clients");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut() {
    let mut installation = Installation::new();
    installation.set("HOTGO__SERVER__WRITE_TIMEOUT_MS", "2000");
    let server = installation.start().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(server.address()).await.unwrap();
    // Some megabytes of answers, more than both kernels' buffers hold. When they are full, our requests stop fitting too.
    let request = b"GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let ask = async {
        loop {
            if stream.write_all(request).await.is_err() {
                return;
            }
        }
    };
    within(Duration::from_secs(25), "it is cut", ask).await;
    assert_eq!(server.client().get("/api/health/ready").await.unwrap().status, 200);
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn two_hundred_connections_on_64_descriptors_leave_the_admin_socket_answering_and_the_server_recovers() {
    let mut installation = Installation::new();
    installation.wrap(["prlimit", "--nofile=64"]);
    let load = Load::new(&installation.scratch("answered"), "fds");
    let server = installation.start().await;
    let robot = server.robot("crowded").await;
    load.run(&server.client(), &robot, 2, 10).await;
    let (mut connecting, address) = (JoinSet::new(), server.address());
    for _ in 0..200 {
        connecting.spawn(timeout(Duration::from_secs(1), TcpStream::connect(address)));
    }
    // Some find no place even in the kernel's queue.
    let crowd: Vec<TcpStream> = connecting.join_all().await.into_iter().filter_map(|one| one.ok()?.ok()).collect();
    assert!(crowd.len() > 64, "only {} are connected", crowd.len());
    // Nobody else gets in: the fault has fired. Who asks on the private socket is answered all the same.
    let outside = server.client().anonymous();
    let shed =
        async || timeout(Duration::from_millis(500), outside.get("/api/health/live")).await.is_err().then_some(());
    eventually(Duration::from_secs(10), "the crowd has taken every connection", shed).await;
    for _ in 0..20 {
        let status = timeout(Duration::from_secs(2), server.admin().get("/status")).await;
        let status = status.expect("the admin socket answers in time").unwrap().ok();
        assert_eq!(status["ready"], true, "{status}");
    }
    drop(crowd);
    let client = server.client();
    let taken = async || load.send(&client, &robot).await.filter(super::support::Answer::is_success);
    eventually(Duration::from_secs(15), "signals are taken again", taken).await;
    installation.audit(Some(load.path())).await.assert_clean("after the descriptors ran out");
    server.assert_stops_clean().await;
}
