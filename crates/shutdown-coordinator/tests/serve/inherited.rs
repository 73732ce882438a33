//! Listeners that were open before the process was started.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener as StdListener, TcpStream as StdStream, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixListener as StdUnixListener},
    process::Stdio,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use shutdown_coordinator::{
    ShutdownCoordinator, SignalPolicy,
    serve::{Inherited, InheritedSocket, Server, inherited},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{TcpListener, TcpStream, UnixStream},
    process::{Child, ChildStdout, Command},
};

use crate::{
    common::{build, manual, ms, secs, soon},
    rig::{GET, GET_HELD, Held, Rig, answer, ask, hello},
};

/// Not a test: a process that serves what it inherits until SIGTERM.
#[tokio::test]
#[ignore = "the successor of the tests below"]
async fn successor() {
    let sockets = match inherited() {
        Ok(sockets) => sockets,
        Err(error) => return println!("\nerror: {error}"),
    };
    let again = inherited().map_or(99, |sockets| sockets.len());
    println!("\ninherited {}, then {again}", sockets.len());
    let mut builder = ShutdownCoordinator::builder();
    let stop = builder.phase("stop-accepting").timeout(secs(10)).id();
    let (coordinator, handle) = build(builder.signals(SignalPolicy::default()));
    for socket in sockets {
        let Inherited { name, socket: kind, .. } = &socket;
        match kind {
            InheritedSocket::Tcp(listener) => println!("\n{name}: {}", listener.local_addr().unwrap()),
            InheritedSocket::Unix(listener) => println!("\n{name}: {:?}", listener.local_addr().unwrap()),
            _ => panic!("a kind that nobody knows"),
        }
        Server::new(&handle, stop, hello()).linger(ms(50)).shared_listener(true).serve_inherited(socket).unwrap();
    }
    println!("\nready");
    println!("\nclean: {}", coordinator.run().await.is_clean());
}

struct Successor {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Successor {
    /// Starts it as systemd would: with two sockets as descriptors 3 and 4. The shell moves them there, from 0 and 2.
    fn start(environment: &str, first: OwnedFd, second: OwnedFd) -> Self {
        let script = format!("export {environment}; exec \"$@\" 3<&0 4<&2 0</dev/null 2>&1");
        let mut child = Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "inherited::successor", "--ignored", "--nocapture"])
            .stdin(Stdio::from(first))
            .stdout(Stdio::piped())
            .stderr(Stdio::from(second))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The rest of the next line that begins so.
    async fn line(&mut self, start: &str) -> String {
        loop {
            let line = soon(self.lines.next_line()).await.unwrap().expect("the successor runs");
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }

    async fn end(mut self) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        assert_eq!(self.line("clean: ").await, "true");
        assert!(soon(self.child.wait()).await.unwrap().success());
    }
}

fn tcp() -> StdListener {
    StdListener::bind("127.0.0.1:0").unwrap()
}

const TWO: &str = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=http:admin";

#[tokio::test]
async fn tcp_and_unix_listeners_are_inherited_in_their_order_and_with_their_names() {
    let path = std::env::temp_dir().join(format!("inherited-{}.sock", std::process::id()));
    let (http, admin) = (tcp(), StdUnixListener::bind(&path).unwrap());
    let address = http.local_addr().unwrap();
    let mut successor = Successor::start(TWO, http.try_clone().unwrap().into(), admin.into());
    assert_eq!(successor.line("inherited ").await, "2, then 0");
    assert_eq!(successor.line("http: ").await, address.to_string());
    assert!(successor.line("admin: ").await.contains("inherited-"));
    successor.line("ready").await;

    assert!(ask(&mut TcpStream::connect(address).await.unwrap(), GET).await.unwrap().ends_with("hello"));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await.unwrap();
    assert!(text.ends_with("hello"), "{text}");
    std::fs::remove_file(&path).unwrap();

    successor.end().await;
    // The socket is still ours, and listens.
    let mut client = StdStream::connect(address).unwrap();
    client.write_all(b"x").unwrap();
    http.set_nonblocking(false).unwrap();
    http.accept().unwrap().0.read_exact(&mut [0]).unwrap();
}

#[tokio::test]
async fn what_waits_in_the_queue_when_the_old_server_stops_is_served_by_the_new_process() {
    const QUEUED: usize = 100;
    let listener = tcp();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let mut rig = Rig::new(secs(30));
    let held = Held::default();
    let server = Server::new(&rig.handle, rig.stop, held.router()).shared_listener(true).linger(secs(10));
    let shared = TcpListener::from_std(listener.try_clone().unwrap()).unwrap();
    server.connection_limit(1).serve_tcp(shared).unwrap();
    let mut last = TcpStream::connect(address).await.unwrap();
    last.write_all(GET_HELD).await.unwrap();
    soon(held.arrived.notified()).await;
    // The old server is full; all of these wait in the kernel's queue, with what they ask.
    let mut queued = Vec::new();
    for _ in 0..QUEUED {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(GET).await.unwrap();
        queued.push(stream);
    }
    rig.handle.trigger(manual());
    rig.stopping().await;
    // It takes none of the queue, also when it has room.
    held.go_on.notify_one();
    assert!(answer(&mut last).await.unwrap().ends_with("held"));
    rig.clean_report().await;

    let spare = tcp();
    let mut successor = Successor::start(TWO, listener.into(), spare.into());
    successor.line("ready").await;
    for (number, stream) in queued.iter_mut().enumerate() {
        let text = answer(stream).await.unwrap();
        // Not the last answer on its connection, as the old server's would be.
        assert!(text.ends_with("hello") && !text.contains("connection: close"), "client {number}: {text}");
    }
    drop(queued);
    successor.end().await;
}

#[tokio::test]
async fn what_cannot_be_taken_is_an_error_that_names_it_and_what_is_not_meant_for_us_is_left() {
    let udp = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let cases = [
        // No names: systemd's word for it.
        ("LISTEN_PID=$$ LISTEN_FDS=2", OwnedFd::from(tcp()), OwnedFd::from(tcp()), "unknown: ", "127.0.0.1:"),
        (TWO, tcp().into(), udp().into(), "error: ", "the socket admin is no TCP and no Unix listener"),
        (
            "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=http",
            tcp().into(),
            tcp().into(),
            "error: ",
            "2 sockets were handed over, but LISTEN_FDNAMES has 1 names",
        ),
        ("LISTEN_PID=1 LISTEN_FDS=2", tcp().into(), tcp().into(), "inherited ", "0, then 0"),
        ("LISTEN_FDNAMES=http", tcp().into(), tcp().into(), "inherited ", "0, then 0"),
    ];
    for (environment, first, second, start, expected) in cases {
        let mut successor = Successor::start(environment, first, second);
        let line = successor.line(start).await;
        assert!(line.starts_with(expected), "{environment}: {line}");
    }
}
