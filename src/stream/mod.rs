//! The websocket stream `GET /api/ws`: committed events, in order, without gap or double, to bounded sessions.
//!
//! # Protocol
//!
//! JSON objects in text frames, each with an `op`. Requests of at most 16 KiB; a longer one ends the session with 1009,
//! a binary one with 1003. Unknown fields are refused.
//!
//! | client says | |
//! |---|---|
//! | `{"op":"auth","token":"hg_.."}` | first, in time; or an `Authorization: Bearer` header at the upgrade. A token in the URL is not looked at |
//! | `{"op":"subscribe","account":1,"since_seq":41}` | everything after 41; without `since_seq`, from now on |
//! | `{"op":"unsubscribe","account":1}` | without `account`, all |
//! | `{"op":"ping"}` | |
//!
//! | server says | |
//! |---|---|
//! | `{"op":"welcome","role","ping_interval_ms","max_message_bytes"}` | authenticated |
//! | `{"op":"subscribed","account":1,"from_seq":42,"head_seq":50}` | the next event of the account is number 42 |
//! | `{"op":"unsubscribed","accounts":[1]}` | |
//! | `{"op":"pong"}` | |
//! | `{"op":"event","account":1,"seq":42,"at_us":..,"event":"order","data":{..}}` | what `GET /api/events` gives, see [`EventOut`](crate::orders::EventOut) |
//! | `{"op":"resync","account":1,"reason":"ahead"\|"too_old","head_seq","oldest_seq"}` | not followed (any more): `since_seq` is above the ledger's head, because the ledger went back, or older than what it holds. Read the state anew, then subscribe |
//! | `{"op":"notices","items":[{"id":7,"severity":"major","message":"..","created_at_us":..,"effective_at_us":..}]}` | what users are told about releases, as `GET /api/notices` gives it: after the welcome if there is any, and whenever that changes |
//! | `{"op":"draining","reason":"stop"\|"upgrade","resume":{"1":57}}` | a shutdown has begun; events go on until the Close |
//! | `{"op":"error","code":"bad_request"\|"not_found","detail","account"}` | the request changed nothing |
//!
//! Close codes: 1001 the server goes away, 1012 it restarts (connect again at once), 1013 the session was too slow or the
//! store did not answer (connect again later), 1008 not authenticated, no pong for two ping intervals, or the key was
//! revoked, which is looked at before each ping, 1009, 1003. The reason is `{"resume":{"1":57}}`: every event up to number
//! 57 of account 1 came before this Close. If that does not fit into the 123 bytes of a reason, it is
//! `{"resume_accounts":12}`, and the map came in a `draining` message just before.
//!
//! # How it works
//!
//! A session is a cursor per account, see [`Hub`]; nothing queues for it but the frames of one round in its socket's write
//! buffer. A round feeds what waits for the session and flushes once, because the system call is the limit. A round that
//! the socket does not take within [`Settings::send_timeout`] ends the session.
//!
//! Accounts that another instance trades are followed all the same: their events come by the bus, and what it loses is
//! found in the store within a quarter of a second ([`follow_others`]).
//!
//! Deliberately absent: market data, commands over the websocket, filters by kind, compression, binary frames.

mod api;
mod hub;
mod others;
mod peer;
mod protocol;
mod session;
mod wire;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use api::routes;
pub use hub::{Hub, Tail};
pub use others::follow_others;
pub use protocol::Drain;

use crate::auth::Authenticator;
use crate::config::StreamConfig;
use crate::store::Store;

/// The largest message that a client may send.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// Between the end of the last session and the end of the time in which all must end.
const CLOSE_SLACK: Duration = Duration::from_millis(250);

/// Limits and times of the sessions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many sessions at once; further ones get 503.
    pub max_sessions: usize,
    /// How long a session has to authenticate.
    pub auth_timeout: Duration,
    /// Time between pings. A session without a pong for two of them is closed, and one whose key was revoked.
    pub ping_interval: Duration,
    /// How long a session's socket may take for one round of messages. Then the session is closed as too slow.
    pub send_timeout: Duration,
    /// How long the end of a session may take: the last events, the Close, and the peer's Close.
    pub close_timeout: Duration,
    /// Over how long the sessions' ends are spread when a successor takes over.
    pub close_spread: Duration,
    /// Origins from which browsers may connect, such as `https://desk.example`, besides the server's own.
    pub allowed_origins: Vec<String>,
}

impl Settings {
    /// From the configuration, with 10 s for a round and 2 s for the end of a session. `close_streams` is the time in which
    /// all sessions must end.
    pub fn new(config: &StreamConfig, close_streams: Duration, allowed_origins: Vec<String>) -> Self {
        let close_timeout = Duration::from_secs(2).min(close_streams / 2);
        // Whoever is told last, and does not answer, has ended before the time is up.
        let most = close_streams.saturating_sub(close_timeout + CLOSE_SLACK);
        Self {
            max_sessions: config.max_sessions,
            auth_timeout: Duration::from_millis(config.auth_timeout_ms),
            ping_interval: Duration::from_millis(config.ping_interval_ms.max(1)),
            send_timeout: Duration::from_secs(10),
            close_timeout,
            close_spread: Duration::from_millis(config.close_spread_ms).min(most),
            allowed_origins,
        }
    }
}

/// What a session holds from before its upgrade until its end, so that a shutdown waits for it.
pub type Guard = Box<dyn Any + Send>;

/// What the stream needs of the rest of the server.
#[derive(Clone)]
pub struct StreamDeps {
    /// Limits and times.
    pub settings: Settings,
    /// Where committed events come from.
    pub hub: Arc<Hub>,
    /// Where older ones come from.
    pub store: Arc<dyn Store>,
    /// Who may listen.
    pub auth: Authenticator,
    /// Admits a session, or refuses it because the server is about to stop.
    pub admit: Arc<dyn Fn() -> Option<Guard> + Send + Sync>,
    /// Set when a shutdown begins: every session is sent a notice. Says which Close code [`Self::close`] means.
    pub draining: watch::Receiver<Option<Drain>>,
    /// Cancelled when sessions have to end: each gets what is committed, then its Close.
    pub close: CancellationToken,
}

impl fmt::Debug for StreamDeps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamDeps").field("settings", &self.settings).field("hub", &self.hub).finish_non_exhaustive()
    }
}
