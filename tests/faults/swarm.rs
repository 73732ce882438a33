//! Ten thousand websockets at SIGTERM, or as many as the limit of file descriptors allows. `HOTGO_WEBSOCKETS` asks for fewer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::support::{CLEAN, Installation, eventually, within};
use super::tools::number;

/// The most that a websocket may cost the server, closing included.
const EACH_KIB: u64 = 32;
/// What the test and the server need besides the websockets themselves.
const OTHER_DESCRIPTORS: u64 = 200;

/// A websocket of which little is remembered: the library's own would keep megabytes busy on this side.
struct Thin(BufReader<TcpStream>);

impl Thin {
    async fn open(address: SocketAddr, token: &str) -> io::Result<Self> {
        let mut stream = BufReader::with_capacity(256, TcpStream::connect(address).await?);
        let head = "GET /api/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await?);
        }
        if !answer.starts_with(b"HTTP/1.1 101") {
            return Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()));
        }
        // One masked text frame (RFC 6455, 5.2); with a mask of zeros the text stands as it is.
        let text = format!("{{\"op\":\"auth\",\"token\":\"{token}\"}}");
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
        frame.extend(text.as_bytes());
        stream.write_all(&frame).await?;
        let mut socket = Self(stream);
        let (opcode, payload) = socket.frame().await?;
        let welcome = opcode == 1 && String::from_utf8_lossy(&payload).contains("welcome");
        if welcome { Ok(socket) } else { Err(io::Error::other(format!("{opcode}: {payload:?}"))) }
    }

    /// The next frame: its opcode and payload.
    async fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let opcode = self.0.read_u8().await? & 0x0F;
        let length = match self.0.read_u8().await? {
            126 => u64::from(self.0.read_u16().await?),
            127 => self.0.read_u64().await?,
            short => u64::from(short),
        };
        let mut payload = Vec::new();
        (&mut self.0).take(length).read_to_end(&mut payload).await?;
        Ok((opcode, payload))
    }

    /// The code of the Close frame that it ends with, answered in kind.
    async fn closed(mut self) -> io::Result<u16> {
        loop {
            let (opcode, payload) = self.frame().await?;
            if opcode == 8 {
                let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                // The server may not wait for it.
                let _gone = self.0.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await;
                return Ok(code);
            }
        }
    }
}

/// How many can be open in two processes with this limit each, after it was raised as far as it may be.
fn allowed() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let limit = if raised { hard } else { soft };
    usize::try_from(limit.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(usize::MAX)
}

#[tokio::test]
async fn ten_thousand_websockets_get_a_close_frame_within_five_seconds_of_the_phase() {
    let count = number("HOTGO_WEBSOCKETS", 10_000).min(allowed());
    eprintln!("{count} websockets");
    let mut installation = Installation::new();
    installation.set("HOTGO__SERVER__MAX_CONNECTIONS", "12000");
    installation.set("HOTGO__STREAM__AUTH_TIMEOUT_MS", "60000");
    installation.set("HOTGO__STREAM__PING_INTERVAL_MS", "120000");
    // The tail of a burst of ten thousand on a busy machine.
    for (phase, ms) in [("CLOSE_STREAMS", "5000"), ("DEADLINE", "12000"), ("STOP_BUDGET", "15000")] {
        installation.set(&format!("HOTGO__SHUTDOWN__{phase}_MS"), ms);
    }
    let mut server = installation.start().await;
    let idle_kib = server.peak_kib().unwrap();
    let (address, token) = (server.address(), Arc::<str>::from(server.token()));
    let (mut opening, at_once) = (JoinSet::new(), Arc::new(Semaphore::new(64)));
    for _ in 0..count {
        let (token, at_once) = (Arc::clone(&token), Arc::clone(&at_once));
        opening.spawn(async move {
            let _turn = at_once.acquire_owned().await.unwrap();
            Thin::open(address, &token).await
        });
    }
    let opened = within(Duration::from_mins(1), "all are open", opening.join_all()).await;
    let sockets: Vec<Thin> = opened.into_iter().collect::<Result<_, _>>().unwrap();
    let status = server.admin().get("/status").await.unwrap().ok();
    assert_eq!(status["sessions"], count, "{status}");

    let open_kib = server.peak_kib().unwrap();
    let mut closing = JoinSet::new();
    for socket in sockets {
        closing.spawn(socket.closed());
    }
    server.sigterm();
    let (admin, mut phase) = (server.admin(), None);
    let begun = async || {
        let status = admin.get("/status").await.ok()?.json();
        (status["phase"] == "close-streams").then_some(Instant::now())
    };
    let first = tokio::select! {
        begun = eventually(Duration::from_secs(10), "the streams close", begun) => { phase = Some(begun); None }
        ended = closing.join_next() => ended,
    };
    let since = phase.unwrap_or_else(Instant::now);
    let mut codes: Vec<_> = within(Duration::from_secs(20), "all are closed", closing.join_all()).await;
    let took = since.elapsed();
    let peak_kib = server.peak_kib().max(Some(open_kib)).unwrap();
    codes.extend(first.map(Result::unwrap));
    let good = codes.iter().filter(|code| matches!(code, Ok(1001 | 1012))).count();
    let bad = codes.iter().find(|code| !matches!(code, Ok(1001 | 1012)));
    assert_eq!(good, count, "without a Close frame: {} such as {bad:?}", count - good);
    assert!(took < Duration::from_secs(5), "the last Close frame came after {took:?}");
    let each_kib = (peak_kib - idle_kib) / count as u64;
    eprintln!("closed in {took:?}; memory {idle_kib} KiB at the start, {open_kib} open, {peak_kib} closing");
    assert!(each_kib < EACH_KIB, "{each_kib} KiB a websocket");
    assert_eq!(server.wait_exit(Duration::from_secs(15)).await, CLEAN, "{}", server.stdout());
}
