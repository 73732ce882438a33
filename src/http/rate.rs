//! How many requests are let in.
//!
//! Counted in minutes of the clock: of each API key, of each robot's webhook, and of each client address what was refused
//! for want of a valid key or secret. Cancels and all else that stops something have a budget of their own, so that whoever
//! has used up the other one can still get out. A valid key is never refused for what its address did: behind a proxy it may
//! share that with anybody.
//!
//! A request counts here, under one short lock, and waits for nobody. What several instances count together goes round beside
//! the requests ([`share`](super::share)), so a limit may be overshot by what all of them let in within a second.
//!
//! Memory is bounded: addresses beyond [`MOST_NAMES`] in a minute are counted together.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Extensions, HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use trading::ids::RobotId;
use trading::time::Timestamp;

use super::problem::Problem;
use crate::clock::Clock;
use crate::config::{LimitsConfig, Network, ServerConfig};

/// How many names are counted apart in a minute, of each kind.
const MOST_NAMES: usize = 16_384;
const MINUTE_US: i64 = 60_000_000;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// What has less than this part of its limit is not shared.
const SHARED_FROM: u64 = 16;
/// How many names are shared in one go.
const MOST_SHARED: usize = 512;

/// Routes that stop something. They are counted apart from all others.
pub const STOPPING: [&str; 6] = [
    "/api/orders/{client_id}/cancel",
    "/api/robots/{id}/stop",
    "/api/robots/{id}/halt",
    "/api/kill",
    "/api/shutdown",
    "/api/keys/{id}",
];

/// Whose requests are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    /// An API key's.
    Key(Arc<str>),
    /// An API key's that stop something.
    Stops(Arc<str>),
    /// A robot's webhook's.
    Webhook(RobotId),
    /// Those that were refused, of an address; of IPv6 its network of 64 bits, which one client may have to itself.
    Refused(IpAddr),
    /// Those of all for whom there was no room.
    Others,
}

impl Name {
    /// By the key and the route as the router knows it.
    pub(crate) fn of_key(key: &Arc<str>, route: &str) -> Self {
        let key = Arc::clone(key);
        if STOPPING.contains(&route) { Self::Stops(key) } else { Self::Key(key) }
    }

    fn of_refused(address: IpAddr) -> Self {
        Self::Refused(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    fn what(&self) -> &'static str {
        match self {
            Self::Key(_) => "requests of this API key",
            Self::Stops(_) => "cancels and stops of this API key",
            Self::Webhook(_) => "alerts to this webhook",
            Self::Refused(_) | Self::Others => "refused requests from this address",
        }
    }
}

/// The name by which instances count together.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "key/{key}"),
            Self::Stops(key) => write!(f, "stops/{key}"),
            Self::Webhook(robot) => write!(f, "webhook/{robot}"),
            Self::Refused(address) => write!(f, "refused/{address}"),
            Self::Others => f.write_str("others"),
        }
    }
}

/// Counts requests and says when there were enough.
#[derive(Debug)]
pub struct RateLimits {
    clock: Clock,
    limits: LimitsConfig,
    trusted: Vec<Network>,
    /// Keys and webhooks.
    known: Mutex<Window>,
    /// Addresses: a flood of them leaves the others alone.
    refused: Mutex<Window>,
}

/// A minute.
#[derive(Debug, Default)]
struct Window {
    minute: i64,
    counts: HashMap<Name, Count>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    /// Let in here.
    here: u64,
    /// Of these, those that the other instances were told of.
    told: u64,
    /// Let in by the others, as far as they have told.
    elsewhere: u64,
}

/// What is to be told to other instances of one minute.
#[derive(Debug)]
pub(super) struct Untold {
    pub(super) window_start: Timestamp,
    pub(super) counts: Vec<(Name, u64)>,
}

impl RateLimits {
    /// As configured.
    pub fn new(server: &ServerConfig, clock: Clock) -> Self {
        let (limits, trusted) = (server.limits, server.trusted_proxies.clone());
        Self { clock, limits, trusted, known: Mutex::default(), refused: Mutex::default() }
    }

    /// Lets one request in, or says how long to wait. It does not block.
    pub(crate) fn admit(&self, name: Name) -> Result<(), Problem> {
        self.admit_at(name, self.clock.now())
    }

    fn admit_at(&self, name: Name, now: Timestamp) -> Result<(), Problem> {
        let limit = self.limit(&name);
        if limit == 0 {
            return Ok(());
        }
        let now = now.micros();
        let what = name.what();
        let counts = if matches!(name, Name::Refused(_)) { &self.refused } else { &self.known };
        let mut window = lock(counts);
        window.turn(now.div_euclid(MINUTE_US));
        let full = window.counts.len() >= MOST_NAMES && !window.counts.contains_key(&name);
        let count = window.counts.entry(if full { Name::Others } else { name }).or_default();
        if count.here.saturating_add(count.elsewhere) < limit {
            count.here += 1;
            return Ok(());
        }
        drop(window);
        let left_s = (MINUTE_US - now.rem_euclid(MINUTE_US)).div_euclid(1_000_000) + 1;
        Err(Problem::TooMany { what, limit, retry_after_s: u32::try_from(left_s.min(60)).unwrap_or(60) })
    }

    /// What a refused request is answered: why it was refused, or that there were too many of them.
    pub(crate) fn refused(&self, client: Option<IpAddr>, why: Problem) -> Problem {
        client.and_then(|client| self.admit(Name::of_refused(client)).err()).unwrap_or(why)
    }

    fn limit(&self, name: &Name) -> u64 {
        match name {
            Name::Key(_) | Name::Webhook(_) => self.limits.requests_per_minute,
            Name::Stops(_) => self.limits.cancels_per_minute,
            Name::Refused(_) | Name::Others => self.limits.refused_per_minute,
        }
    }

    /// Who sent this. What `X-Forwarded-For` says is believed as far as it was written by a trusted proxy: from its end, up
    /// to the first address that is none.
    pub(crate) fn client(&self, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
        let ConnectInfo(peer) = extensions.get::<ConnectInfo<SocketAddr>>()?;
        let mut client = peer.ip().to_canonical();
        let lines = headers.get_all(FORWARDED_FOR).iter().collect::<Vec<_>>();
        let mut hops = lines.iter().rev().flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
        while self.trusted.iter().any(|network| network.contains(client)) {
            let Some(Ok(hop)) = hops.next().map(|hop| hop.trim().parse::<IpAddr>()) else { break };
            client = hop.to_canonical();
        }
        Some(client)
    }

    /// What the other instances have not been told of: the names that have a good part of their limit.
    pub(super) fn untold(&self) -> Vec<Untold> {
        let minute = self.clock.now().micros().div_euclid(MINUTE_US);
        let of = |counts: &Mutex<Window>| {
            let window = lock(counts);
            let worth = |name: &Name, count: &Count| {
                *name != Name::Others && count.here.saturating_mul(SHARED_FROM) >= self.limit(name)
            };
            let shared = window.counts.iter().filter(|(name, count)| worth(name, count)).take(MOST_SHARED);
            let counts: Vec<_> = shared.map(|(name, it)| (name.clone(), it.here.saturating_sub(it.told))).collect();
            let window_start = Timestamp::from_micros(window.minute.saturating_mul(MINUTE_US));
            (window.minute == minute && !counts.is_empty()).then_some(Untold { window_start, counts })
        };
        [of(&self.known), of(&self.refused)].into_iter().flatten().collect()
    }

    /// What all instances counted together, after they were told. In the order of `told.counts`.
    pub(super) fn learn(&self, told: &Untold, totals: &[u64]) {
        let minute = told.window_start.micros().div_euclid(MINUTE_US);
        for ((name, added), total) in told.counts.iter().zip(totals) {
            let counts = if matches!(name, Name::Refused(_)) { &self.refused } else { &self.known };
            let mut window = lock(counts);
            if window.minute != minute {
                continue;
            }
            if let Some(count) = window.counts.get_mut(name) {
                count.told = count.told.saturating_add(*added);
                count.elsewhere = total.saturating_sub(count.told);
            }
        }
    }
}

impl Window {
    /// Forgets an earlier minute.
    fn turn(&mut self, minute: i64) {
        if self.minute != minute {
            self.minute = minute;
            self.counts.clear();
        }
    }
}

fn lock(counts: &Mutex<Window>) -> MutexGuard<'_, Window> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Around routes that check a secret of their own: counts what they refuse.
pub(super) async fn count_refused(State(rates): State<Arc<RateLimits>>, request: Request, next: Next) -> Response {
    let client = rates.client(request.extensions(), request.headers());
    let response = next.run(request).await;
    match response.extensions().get::<Problem>() {
        Some(problem) if problem.blames_client() => rates.refused(client, problem.clone()).into_response(),
        _ => response,
    }
}

#[cfg(test)]
mod tests;
