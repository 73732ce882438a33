//! A TCP proxy between a client and a PostgreSQL server that cuts the connection at a chosen message.

#![allow(dead_code, reason = "every test binary uses another part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a harness fails the test by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// When to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cut {
    /// Not at all.
    Never = 0,
    /// Instead of forwarding what holds the mark.
    Before = 1,
    /// Once it was forwarded: of the answer nothing comes back.
    After = 2,
}

/// Forwards bytes, until the client sends something that contains the mark.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    cut: Arc<AtomicU8>,
    cuts: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// To a server on this port. Cuts at messages that contain `mark`, when it is told to, once.
    pub(crate) async fn start(to: u16, mark: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, cuts) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        let (order, count) = (Arc::clone(&cut), Arc::clone(&cuts));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
                connections.spawn(forward(client, server, mark, Arc::clone(&order), Arc::clone(&count)));
            }
        });
        Self { port, cut, cuts, _tasks: tasks }
    }

    /// What to do at the next mark.
    pub(crate) fn cut(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }

    /// How often it cut.
    pub(crate) fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, mark: &str, cut: Arc<AtomicU8>, cuts: Arc<AtomicUsize>) {
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(n @ 1..) = read else { return };
                let marked = up[..n].windows(mark.len()).any(|part| part == mark.as_bytes());
                let now = if marked { cut.swap(0, Ordering::SeqCst) } else { 0 };
                if now == Cut::Before as u8 {
                    cuts.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if server.write_all(&up[..n]).await.is_err() {
                    return;
                }
                if now == Cut::After as u8 {
                    // The server acts on it, and says so to nobody.
                    cuts.fetch_add(1, Ordering::SeqCst);
                    drop(client);
                    let _answer = server.read(&mut down).await;
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(n @ 1..) = read else { return };
                if client.write_all(&down[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
