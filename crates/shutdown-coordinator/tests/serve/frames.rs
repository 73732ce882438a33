//! HTTP/2 by hand, frame by frame (RFC 9113), for what no well-behaved client does.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::common::soon;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection of a client.
pub(crate) struct Frames {
    pub(crate) stream: TcpStream,
}

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Of a GOAWAY: the last stream that is answered, and the error code.
    pub(crate) fn goes_away(&self) -> (u32, u32) {
        let number = |at: usize| u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap());
        (number(0), number(4))
    }

    /// Of HEADERS: whether they begin with `:status: 200`.
    pub(crate) fn is_ok(&self) -> bool {
        self.payload.first() == Some(&0x88)
    }
}

impl Frames {
    /// Connects, sends nothing.
    pub(crate) async fn silent(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap() }
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut frames = Self::silent(address).await;
        frames.begin().await;
        frames
    }

    /// The preface and empty settings.
    pub(crate) async fn begin(&mut self) {
        self.stream.write_all(PREFACE).await.unwrap();
        self.send(SETTINGS, 0, 0, &[]).await;
    }

    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.stream.write_all(&Self::bytes(kind, flags, stream, payload)).await.unwrap();
    }

    fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// The HEADERS of a whole GET, by the static table of HPACK (RFC 7541).
    fn head(stream: u32, path: &str) -> Vec<u8> {
        let mut block = vec![0x82, 0x86, 0x41, 1, b'x', 0x04, u8::try_from(path.len()).unwrap()];
        block.extend_from_slice(path.as_bytes());
        Self::bytes(HEADERS, END_STREAM | END_HEADERS, stream, &block)
    }

    pub(crate) async fn get(&mut self, stream: u32, path: &str) {
        self.stream.write_all(&Self::head(stream, path)).await.unwrap();
    }

    pub(crate) async fn half_get(&mut self, stream: u32) {
        let head = Self::head(stream, "/");
        self.stream.write_all(&head[..head.len() / 2]).await.unwrap();
    }

    pub(crate) async fn pong(&mut self, ping: &Frame) {
        self.send(PING, ACK, 0, &ping.payload).await;
    }

    /// The next frame; `None` when the connection is closed. Settings are acknowledged in passing.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        soon(self.stream.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        soon(self.stream.read_exact(&mut payload)).await.ok()?;
        let (kind, flags) = (head[3], head[4]);
        if kind == SETTINGS && flags & ACK == 0 {
            self.send(SETTINGS, ACK, 0, &[]).await;
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind, flags, stream, payload })
    }

    /// The next frame of a kind; what comes before it is passed over.
    pub(crate) async fn expect(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection is open");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The answer on a stream: whether it is 200, and its body.
    pub(crate) async fn answer(&mut self, stream: u32) -> (bool, String) {
        let (mut is_ok, mut body) = (false, Vec::new());
        loop {
            let frame = self.next().await.expect("the connection is open");
            match frame.kind {
                HEADERS if frame.stream == stream => is_ok = frame.is_ok(),
                DATA if frame.stream == stream => body.extend_from_slice(&frame.payload),
                _ => {}
            }
            if frame.stream == stream && frame.flags & END_STREAM != 0 {
                return (is_ok, String::from_utf8(body).unwrap());
            }
        }
    }

    /// Whether the server closes the connection; what it says before that is passed over, also its pings.
    pub(crate) async fn is_closed(&mut self) -> bool {
        while self.next().await.is_some() {}
        true
    }
}
