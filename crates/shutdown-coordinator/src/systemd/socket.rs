//! The notification socket: `sd_notify(3)` without libsystemd.

use std::{
    ffi::OsStr,
    io,
    os::unix::{
        ffi::OsStrExt as _,
        net::{SocketAddr, UnixDatagram},
    },
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// systemd empties its socket at once; a message that waits longer than this is given up.
const SEND_TIMEOUT: Duration = Duration::from_millis(200);

/// In bytes. systemd drops messages above 4096 bytes.
const STATUS_LIMIT: usize = 500;

/// Where messages go.
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    /// Whether the last message could not be sent: only the first of a row is worth a warning.
    failing: AtomicBool,
}

impl NotifySocket {
    pub(super) fn connect(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes() {
            #[cfg(target_os = "linux")]
            [b'@', name @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self { socket, failing: AtomicBool::new(false) })
    }

    pub(super) fn send(&self, message: &Message) {
        if message.0.is_empty() {
            return;
        }
        match self.socket.send(message.0.as_bytes()) {
            Ok(_) => self.failing.store(false, Ordering::Relaxed),
            Err(error) if self.failing.swap(true, Ordering::Relaxed) => tracing::debug!(%error, "systemd was not told"),
            Err(error) => tracing::warn!(%error, "systemd was not told"),
        }
    }
}

/// One datagram: assignments, one a line, which systemd takes in together.
pub(super) struct Message(String);

impl Message {
    pub(super) fn new() -> Self {
        Self(String::new())
    }

    pub(super) fn line(mut self, line: impl AsRef<str>) -> Self {
        self.0.push_str(line.as_ref());
        self.0.push('\n');
        self
    }

    /// A status is one line, whatever a name in it contains: the next line would be another assignment.
    pub(super) fn status(self, status: &str) -> Self {
        let status: String = status.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.line(format!("STATUS={}", status.get(..status.floor_char_boundary(STATUS_LIMIT)).unwrap_or_default()))
    }
}
