//! Listeners that systemd or a predecessor process hands over.

use std::{env, io, net, os::unix};

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};

use super::{ServeError, Server};
use crate::Task;

/// A listener that was open before this process was started.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inherited {
    /// What `LISTEN_FDNAMES` calls it (`FileDescriptorName=` in a socket unit); `unknown` where nothing does.
    pub name: String,
    /// The listener. It does not block.
    pub socket: InheritedSocket,
}

/// What kind of listener was handed over.
#[derive(Debug)]
#[non_exhaustive]
pub enum InheritedSocket {
    /// For [`Server::serve_tcp`].
    Tcp(net::TcpListener),
    /// For [`Server::serve_unix`].
    Unix(unix::net::UnixListener),
}

/// Why what was handed over cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InheritError {
    /// `LISTEN_FDNAMES` names more or fewer than there are.
    #[error("{sockets} sockets were handed over, but LISTEN_FDNAMES has {names} names")]
    Names {
        /// How many sockets there are.
        sockets: usize,
        /// How many names there are.
        names: usize,
    },
    /// It is neither a TCP nor a Unix stream socket, or it is closed.
    #[error("the socket {name} is no TCP and no Unix listener")]
    Kind {
        /// Its name.
        name: String,
        /// What the last try said.
        source: io::Error,
    },
}

/// Takes the listeners that this process was given as `LISTEN_FDS`, in their order: by systemd's socket activation, or by
/// anyone else who speaks [its protocol](https://www.freedesktop.org/software/systemd/man/sd_listen_fds.html). None, when
/// `LISTEN_FDS` is not set or `LISTEN_PID` is another process.
///
/// They can be taken once: a second call finds none. Call it at the start of `main`, before there are threads, since it
/// removes the variables from the environment.
///
/// The socket behind a listener is shared with whoever else holds it, and with it the flag that says whether `accept`
/// blocks. It is made non-blocking here, and never changed back; a systemd unit should say `NonBlocking=yes`, or a start
/// makes it blocking for a moment, in which the other process freezes. Serve it as a
/// [shared listener](Server::shared_listener).
pub fn inherited() -> Result<Vec<Inherited>, InheritError> {
    #[expect(clippy::disallowed_methods, reason = "sockets are handed over by way of the environment")]
    let names = env::var("LISTEN_FDNAMES").ok();
    let mut sockets = ListenFd::from_env();
    let count = sockets.len();
    let names: Vec<_> = match &names {
        Some(names) => names.split(':').map(str::to_owned).collect(),
        None => vec!["unknown".to_owned(); count],
    };
    if count == 0 {
        return Ok(Vec::new());
    }
    if names.len() != count {
        return Err(InheritError::Names { sockets: count, names: names.len() });
    }
    let take = |(index, name): (usize, String)| match socket(&mut sockets, index) {
        Ok(socket) => Ok(Inherited { name, socket }),
        Err(source) => Err(InheritError::Kind { name, source }),
    };
    names.into_iter().enumerate().map(take).collect()
}

fn socket(sockets: &mut ListenFd, index: usize) -> io::Result<InheritedSocket> {
    if let Ok(Some(listener)) = sockets.take_tcp_listener(index) {
        listener.set_nonblocking(true)?;
        return Ok(InheritedSocket::Tcp(listener));
    }
    let listener = sockets.take_unix_listener(index)?.ok_or(io::ErrorKind::NotFound)?;
    listener.set_nonblocking(true)?;
    Ok(InheritedSocket::Unix(listener))
}

impl Server {
    /// Serves a listener that was handed over.
    pub fn serve_inherited(self, inherited: Inherited) -> Result<Task<()>, ServeError> {
        match inherited.socket {
            InheritedSocket::Tcp(listener) => self.serve_tcp(TcpListener::from_std(listener)?),
            InheritedSocket::Unix(listener) => self.serve_unix(UnixListener::from_std(listener)?),
        }
    }
}
