//! The sections that need no file of their own.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Network;

/// `server`: the public listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port. Loopback unless configured otherwise.
    pub bind: SocketAddr,
    /// When connections are accepted.
    pub accept: Accept,
    /// How many connections at once; further ones wait in the listener's queue.
    pub max_connections: usize,
    /// How long a request head may take to arrive.
    pub header_timeout_ms: u64,
    /// How long a request body may take to arrive.
    pub body_timeout_ms: u64,
    /// How long a connection may take to read anything of an answer that waits for it.
    pub write_timeout_ms: u64,
    /// How long a connection may stay idle between requests.
    pub idle_timeout_ms: u64,
    /// How long a request may take in all.
    pub request_timeout_ms: u64,
    /// The largest request body.
    pub body_limit_bytes: usize,
    /// Origins from which browsers may open a websocket, besides the server's own.
    pub allowed_origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For` is believed: addresses and networks. From anybody else it changes nothing.
    pub trusted_proxies: Vec<Network>,
    /// How many requests are let in.
    pub limits: LimitsConfig,
}

/// When the public listener begins to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accept {
    /// When the server has started.
    AtOnce,
    /// When it is told to on the private socket. Before that it leaves connections to whoever shares the listener.
    OnCommand,
}

/// `server.limits`: how many requests are let in, in each minute of the clock; 0 is no limit. Further ones get 429.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Of one API key, and of one robot's webhook.
    pub requests_per_minute: u64,
    /// Of one API key, beside the others: what cancels or stops something.
    pub cancels_per_minute: u64,
    /// From one client address: requests without a valid key or secret.
    pub refused_per_minute: u64,
}

/// `admin`: the private listeners. The Unix socket always exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// The Unix socket; `admin.sock` in the data directory if absent.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// A loopback address for `/metrics` and `/status` as well; absent means the socket only.
    pub bind: Option<SocketAddr>,
}

/// `log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// Which lines: `info`, or a filter such as `info,hotgo::engines=debug`.
    pub filter: String,
    /// Lines go to `hotgo.log` in this directory instead of standard error; appended, so that rotation by copy works.
    #[serde(default)]
    pub dir: Option<PathBuf>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// `stream`: websockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// How many sessions at once; further ones get 503.
    pub max_sessions: usize,
    /// How many events may wait for one session before it is closed and has to resume.
    pub session_queue: usize,
    /// How long a session has to authenticate.
    pub auth_timeout_ms: u64,
    /// Time between pings.
    pub ping_interval_ms: u64,
    /// Over how long the closes are spread when a successor takes over, so that not all come to it at once; at most half of
    /// `shutdown.close_streams_ms`.
    pub close_spread_ms: u64,
}

/// `instance`: this process among others on the same database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceConfig {
    /// What people call it; the host's name if absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether a second process may start on the same data directory, database and paper ledger while this one lives, to take
    /// over from it. Both must say so.
    pub share: bool,
    /// How long the planned hand-over of an account waits for what is on the wire. What is unknown after that the successor
    /// resolves. Never longer than a shutdown's drain, which hands accounts over too.
    pub hand_over_ms: u64,
    /// How long a request waits for a decision that another instance makes; then it is answered with `pending`. Never longer
    /// than half of what a request may take.
    pub remote_wait_ms: u64,
}
