//! The Unix socket file: made so that nobody else can connect, replaced only if its owner is dead.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};

/// The socket's name in the data directory.
pub const SOCKET_NAME: &str = "admin.sock";

/// How soon a port that another process gave up is found.
const AWAIT_PORT: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no private listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// A living process answers on the socket.
    #[error("another server answers on {}", .0.display())]
    InUse(PathBuf),
    /// The socket cannot be made. A path above 107 bytes is one reason: choose a shorter data directory then.
    #[error("cannot listen on {}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The loopback address cannot be listened on.
    #[error("admin.bind = {address}: cannot listen there")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Serving failed.
    #[error("the private listener failed")]
    Serve(#[source] io::Error),
}

/// A bound socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    /// Removes the file after the listener is closed.
    pub(super) file: SocketFile,
}

impl AdminSocket {
    /// Binds a socket at this path, mode 0600. The file of a dead process is replaced, a living one's is not. Two starts that
    /// share a data directory have a path each.
    ///
    /// # Errors
    /// [`AdminError::InUse`] and [`AdminError::Bind`].
    pub async fn bind(path: &Path) -> Result<Self, AdminError> {
        let path = path.to_owned();
        let failed = |source| AdminError::Bind { path: path.clone(), source };
        match tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(&path)).await {
            Ok(Err(error)) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Ok(Err(error)) => return Err(failed(error)),
            // A full backlog makes the connection hang: somebody lives there.
            Ok(Ok(_)) | Err(_) => return Err(AdminError::InUse(path)),
        }
        // Bound and protected under another name first: nobody can connect before the mode is set.
        let mut fresh = path.clone().into_os_string();
        fresh.push(".new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(failed)?;
        fs::rename(&fresh, &path).map_err(failed)?;
        Ok(Self { listener, file: SocketFile(path) })
    }

    /// The listener, and what removes its file when it is dropped.
    pub fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

/// Removes the socket's file when it is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "the socket file was gone already");
        }
    }
}

/// The loopback address.
#[derive(Debug)]
pub enum Loopback {
    /// It is listened on.
    Bound(TcpListener),
    /// Another process has it, and this one as soon as it is free.
    Awaited(SocketAddr),
}

impl Loopback {
    /// Listens on the address. If this process is `beside` another one, that one may have the same address: then it is
    /// waited for.
    ///
    /// # Errors
    /// [`AdminError::Tcp`].
    pub async fn bind(address: SocketAddr, beside: bool) -> Result<Self, AdminError> {
        match TcpListener::bind(address).await {
            Ok(listener) => Ok(Self::Bound(listener)),
            Err(error) if beside && error.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!(%address, "admin.bind is another process's; it is taken once that one has ended");
                Ok(Self::Awaited(address))
            }
            Err(source) => Err(AdminError::Tcp { address, source }),
        }
    }

    /// The listener, as soon as there is one. Cancel safe.
    pub(super) async fn listener(self) -> TcpListener {
        let address = match self {
            Self::Bound(listener) => return listener,
            Self::Awaited(address) => address,
        };
        loop {
            tokio::time::sleep(AWAIT_PORT).await;
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(error) => tracing::debug!(%address, %error, "admin.bind is not free yet"),
            }
        }
    }
}
