//! A wire between an instance and a server, which a test cuts or makes silent.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a wire does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It carries bytes.
    Open,
    /// It keeps every connection and carries nothing: what a lost route looks like.
    Silent,
    /// Connections are closed, new ones at once.
    Cut,
}

/// See the [module](self).
pub(crate) struct Link {
    port: u16,
    state: watch::Sender<State>,
    _tasks: JoinSet<()>,
}

impl Link {
    /// To a server on this port.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let state = watch::Sender::new(State::Open);
        let mut tasks = JoinSet::new();
        let seen = state.subscribe();
        tasks.spawn(async move {
            let mut wires = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                wires.spawn(carry(client, port, seen.clone()));
                while wires.try_join_next().is_some() {}
            }
        });
        Self { port: own, state, _tasks: tasks }
    }

    /// Where its near end listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn carry(client: TcpStream, port: u16, mut state: watch::Receiver<State>) {
    if *state.borrow() == State::Silent && state.wait_for(|state| *state != State::Silent).await.is_err() {
        return;
    }
    if *state.borrow() == State::Cut {
        return;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(server) = TcpStream::connect(address).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (up, down) = (state.clone(), state);
    tokio::select! {
        () = one_way(&mut from_client, &mut to_server, up) => {}
        () = one_way(&mut from_server, &mut to_client, down) => {}
    }
}

async fn one_way(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let now = *state.borrow_and_update();
        match now {
            State::Cut => return,
            State::Silent => {
                if state.changed().await.is_err() {
                    return;
                }
            }
            State::Open => tokio::select! {
                biased;
                changed = state.changed() => if changed.is_err() { return },
                read = from.read(&mut buffer) => {
                    let Ok(n @ 1..) = read else { return };
                    // What was read before the wire went silent is lost with it only if it is cut.
                    if state.wait_for(|state| *state != State::Silent).await.is_ok_and(|state| *state == State::Cut)
                        || to.write_all(&buffer[..n]).await.is_err()
                    {
                        return;
                    }
                }
            },
        }
    }
}
