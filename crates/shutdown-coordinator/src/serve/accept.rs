//! Accepting, and the two phases of the drain.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::connection::{self, Drain, Peer, Shop};
use crate::{Guard, PhaseId, ShutdownHandle, sync::later};

/// What can be accepted from.
pub(super) trait Listener: Send + Sync + Sized + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Peer)>> + Send;

    /// The listener as the kernel sees it, without tokio's idea of its readiness, which may lag behind.
    fn into_queue(self) -> io::Result<impl FnMut() -> io::Result<(Self::Io, Peer)> + Send>;
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        self.accept().await.map(tcp)
    }

    fn into_queue(self) -> io::Result<impl FnMut() -> io::Result<(TcpStream, Peer)> + Send> {
        let listener = self.into_std()?;
        Ok(move || {
            let (stream, address) = listener.accept()?;
            stream.set_nonblocking(true)?;
            TcpStream::from_std(stream).map(|stream| tcp((stream, address)))
        })
    }
}

fn tcp((stream, address): (TcpStream, SocketAddr)) -> (TcpStream, Peer) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::trace!(%error, "TCP_NODELAY could not be set");
    }
    (stream, Peer::Tcp(address))
}

#[cfg(unix)]
impl Listener for tokio::net::UnixListener {
    type Io = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<(Self::Io, Peer)> {
        self.accept().await.map(|(stream, _)| (stream, Peer::Unix))
    }

    fn into_queue(self) -> io::Result<impl FnMut() -> io::Result<(Self::Io, Peer)> + Send> {
        let listener = self.into_std()?;
        Ok(move || {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((tokio::net::UnixStream::from_std(stream)?, Peer::Unix))
        })
    }
}

/// When the listener closes, and when the connections do. They may be the same.
#[derive(Clone, Copy)]
pub(super) struct Phases {
    pub(super) stop: PhaseId,
    pub(super) close: PhaseId,
}

/// Accepts until the first phase starts, then drains. `listening` holds that phase until the listener is closed; `root`
/// keeps the gate open for connections taken during the drain.
pub(super) async fn run<L: Listener>(
    listener: L,
    listening: Guard,
    handle: ShutdownHandle,
    phases: Phases,
    shop: Arc<Shop>,
    root: Guard,
) {
    // Taken now: an abort of the shutdown must not leave an old drain waiting for a new one's token.
    let (begins, closes) = (handle.token(phases.stop), handle.token(phases.close));
    let mut house = House { shop, root, connections: JoinSet::new() };
    let permits = Arc::new(Semaphore::new(house.shop.limits.connections));
    tokio::select! {
        biased;
        () = begins.cancelled() => {}
        () = house.accept(&listener, &permits) => {}
    }

    // What is connected hears it first, so that nothing more is kept alive while the queue is taken.
    house.shop.drain.send_replace(Drain::Linger);
    let lingered = later(Instant::now(), house.shop.limits.linger);
    if house.shop.limits.shared_listener {
        drop(listener);
    } else {
        house.take_queue(listener, &permits, linger_end(&handle, phases.stop, lingered)).await;
    }
    drop(listening);
    let idle_end = async {
        closes.cancelled().await;
        sleep_until(linger_end(&handle, phases.close, lingered)).await;
    };
    let force = handle.force_token();
    tokio::select! {
        () = house.all_gone() => {}
        () = idle_end => {}
        () = force.cancelled() => {}
    }
    house.shop.drain.send_replace(Drain::Close);
    let patience = linger_end(&handle, phases.close, later(Instant::now(), Duration::MAX));
    tokio::select! {
        () = house.all_gone() => return,
        () = sleep_until(patience) => {}
        () = force.cancelled() => {}
    }
    house.shop.drain.send_replace(Drain::GiveUp);
    house.all_gone().await;
}

/// Between two tries to accept.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The earlier of a moment and three quarters of what the phase has left: never so late that it cannot see them go.
fn linger_end(handle: &ShutdownHandle, phase: PhaseId, lingered: Instant) -> Instant {
    let now = Instant::now();
    let left = handle.deadline(phase).map_or(Duration::ZERO, |deadline| deadline - now);
    lingered.min(later(now, left / 4 * 3))
}

struct House {
    shop: Arc<Shop>,
    root: Guard,
    connections: JoinSet<()>,
}

impl House {
    /// Never returns. Errors are waited out: a server that stops accepting over one is worse than the error.
    async fn accept<L: Listener>(&mut self, listener: &L, permits: &Arc<Semaphore>) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((io, peer)) => {
                    pause = SHORTEST_PAUSE;
                    self.open(io, peer, permit);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.recover(&error, pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Takes the connections that wait in the kernel's queue, which would be reset, and closes the listener.
    async fn take_queue<L: Listener>(&mut self, listener: L, permits: &Arc<Semaphore>, until: Instant) {
        let mut queue = match listener.into_queue() {
            Ok(queue) => queue,
            Err(error) => {
                tracing::warn!(%error, "the queue of the listener is lost");
                return;
            }
        };
        while let Ok(Ok(permit)) = timeout_at(until, Arc::clone(permits).acquire_owned()).await {
            match queue() {
                Ok((io, peer)) => self.open(io, peer, permit),
                Err(error) if error.kind() == io::ErrorKind::Interrupted || is_of_one_connection(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if Instant::now() < until => self.recover(&error, SHORTEST_PAUSE).await,
                Err(_) => break,
            }
        }
        tracing::warn!("connections were left in the listener's queue");
    }

    /// Waits until accepting may work again. Mostly it is EMFILE or ENFILE, which passes when a connection is closed, here
    /// or elsewhere.
    async fn recover(&mut self, error: &io::Error, pause: Duration) {
        tracing::warn!(%error, ?pause, "accept failed");
        tokio::select! {
            () = sleep(pause) => {}
            Some(_) = self.connections.join_next() => {}
        }
    }

    fn open<I>(&mut self, io: I, peer: Peer, permit: OwnedSemaphorePermit)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        while self.connections.try_join_next().is_some() {}
        self.connections.spawn(connection::run(io, peer, permit, Arc::clone(&self.shop), &self.root));
    }

    async fn all_gone(&mut self) {
        while self.connections.join_next().await.is_some() {}
    }
}

/// The connection failed before it was accepted; the listener is well.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
