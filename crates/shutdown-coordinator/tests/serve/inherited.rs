//! Listeners that were open before the process was started.

use std::{
    net::TcpListener as StdListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener as StdUnixListener,
    },
    process::Stdio,
};

use shutdown_coordinator::serve::{Inherited, InheritedSocket, Server, inherited};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{TcpListener, TcpStream, UnixStream},
    process::{Child, ChildStdout, Command},
};

use crate::{
    common::{manual, ms, secs, soon},
    rig::{GET, GET_HELD, Held, Rig, answer, ask, hello},
};

/// Not a test: a process that serves what it inherits, until it is told to end.
#[tokio::test]
#[ignore = "the successor of the tests below"]
async fn successor() {
    let sockets = match inherited() {
        Ok(sockets) => sockets,
        Err(error) => return println!("\nerror: {error}"),
    };
    println!("\nagain: {}", inherited().unwrap().len());
    let mut rig = Rig::new(secs(10));
    for Inherited { name, socket, .. } in sockets {
        let address = match &socket {
            InheritedSocket::Tcp(listener) => format!("tcp {}", listener.local_addr().unwrap()),
            InheritedSocket::Unix(listener) => {
                format!("unix {}", listener.local_addr().unwrap().as_pathname().unwrap().display())
            }
            _ => panic!("a kind that nobody knows"),
        };
        println!("\nsocket: {name} {address}");
        let server = Server::new(&rig.handle, rig.stop, hello()).linger(ms(50)).shared_listener(true);
        server.serve_inherited(socket).unwrap();
    }
    println!("\nready");
    let wait = tokio::task::spawn_blocking(|| std::io::Read::read(&mut std::io::stdin(), &mut [0; 8]));
    drop(wait.await.unwrap());
    rig.handle.trigger(manual());
    println!("\nclean: {}", rig.report().await.is_clean());
}

struct Successor {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Successor {
    /// Starts it as systemd would: the sockets as descriptors 3 and 4, their number and names in the environment. The
    /// shell moves them there, and knows the pid. (`sockets` by way of its descriptors 1 and 2.)
    fn start(first: OwnedFd, second: OwnedFd, environment: &str) -> Self {
        let script = format!("exec 3<&9; {environment}; exec \"$@\" 3<&8 4<&2 8<&- 2>/dev/null");
        todo(script, first, second)
    }
}
