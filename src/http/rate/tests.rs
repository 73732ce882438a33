use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::HeaderValue;

use super::*;
use crate::http::share::{Tally, round};

const NOON: Timestamp = Timestamp::from_millis(1_790_000_040_000);

fn limits(requests: u64, refused: u64) -> LimitsConfig {
    LimitsConfig { requests_per_minute: requests, cancels_per_minute: 2, refused_per_minute: refused }
}

fn rates(limits: LimitsConfig) -> RateLimits {
    let trusted = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let (known, refused) = Default::default();
    RateLimits { clock: Clock::standing(NOON), limits, trusted, known, refused }
}

fn key(name: &str) -> Name {
    Name::of_key(&name.into(), "/api/signals")
}

/// How many of a hundred are let in.
fn let_in(rates: &RateLimits, name: &Name) -> usize {
    (0..100).filter(|_| rates.admit(name.clone()).is_ok()).count()
}

#[test]
fn each_name_has_a_limit_of_its_own_in_each_minute() {
    let rates = rates(limits(3, 1));
    assert_eq!(NOON.micros() % MINUTE_US, 0);
    assert_eq!([let_in(&rates, &key("a")), let_in(&rates, &key("b"))], [3, 3]);
    let late = NOON.after(Duration::from_millis(59_400));
    let refused = rates.admit_at(key("a"), late).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the 3 requests of this API key of this minute are used up; wait 1 s, then send the same request again"
    );
    assert!(matches!(rates.admit(key("a")), Err(Problem::TooMany { retry_after_s: 60, .. })));
    assert_eq!(rates.admit_at(key("a"), NOON.after(Duration::from_mins(1))), Ok(()));
}

#[test]
fn what_stops_something_is_counted_apart() {
    let rates = rates(limits(3, 1));
    let stop = Name::of_key(&"a".into(), "/api/kill");
    assert_eq!([let_in(&rates, &key("a")), let_in(&rates, &stop)], [3, 2]);
}

#[test]
fn no_limit_counts_nothing() {
    let rates = rates(limits(0, 0));
    assert_eq!(let_in(&rates, &key("a")), 100);
    assert!(rates.known.lock().unwrap().counts.is_empty());
}

#[test]
fn a_flood_of_addresses_takes_bounded_memory_and_leaves_keys_alone() {
    let rates = rates(limits(3, 5));
    for n in 0..100_000_u32 {
        let address = IpAddr::from(n.to_be_bytes());
        let answer = rates.refused(Some(address), Problem::Unauthorized);
        let has_room = usize::try_from(n).unwrap() < MOST_NAMES + 5;
        assert_eq!(answer == Problem::Unauthorized, has_room, "{n}");
    }
    assert_eq!(rates.refused.lock().unwrap().counts.len(), MOST_NAMES + 1);
    assert_eq!(let_in(&rates, &key("a")), 3);
    let next = NOON.after(Duration::from_mins(1));
    assert_eq!(rates.admit_at(Name::of_refused([9, 9, 9, 9].into()), next), Ok(()));
    assert_eq!(rates.refused.lock().unwrap().counts.len(), 1, "a new minute forgets the old one");
}

#[test]
fn a_network_of_64_bits_counts_as_one_address() {
    let name = |text: &str| Name::of_refused(text.parse().unwrap());
    assert_eq!(name("2001:db8::1"), name("2001:db8::ffff:1"));
    assert_ne!(name("2001:db8::1"), name("2001:db8:0:1::1"));
    assert_eq!(name("::ffff:1.2.3.4"), name("1.2.3.4"));
    assert_ne!(name("1.2.3.4"), name("1.2.3.5"));
}

#[test]
fn only_a_trusted_proxy_is_believed() {
    let rates = rates(limits(3, 5));
    let client = |peer: &str, forwarded: &[&str]| {
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1)));
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        rates.client(&extensions, &headers).unwrap().to_string()
    };
    for (peer, forwarded, expected) in [
        ("1.2.3.4", [].as_slice(), "1.2.3.4"),
        ("1.2.3.4", &["5.6.7.8"], "1.2.3.4"),
        ("10.0.0.1", &[], "10.0.0.1"),
        ("10.0.0.1", &["5.6.7.8"], "5.6.7.8"),
        ("10.0.0.1", &["6.6.6.6, 5.6.7.8"], "5.6.7.8"),
        ("10.0.0.1", &["6.6.6.6", "5.6.7.8"], "5.6.7.8"),
        ("10.0.0.1", &["6.6.6.6, 5.6.7.8", "10.0.0.2"], "5.6.7.8"),
        ("::ffff:10.0.0.1", &["5.6.7.8 , 10.0.0.2"], "5.6.7.8"),
        ("10.0.0.1", &["5.6.7.8, nonsense"], "10.0.0.1"),
        ("10.0.0.1", &[""], "10.0.0.1"),
        ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
    ] {
        assert_eq!(client(peer, forwarded), expected, "{peer} {forwarded:?}");
    }
    assert_eq!(rates.client(&Extensions::new(), &HeaderMap::new()), None);
}

/// Counters that may be away.
#[derive(Debug, Default)]
struct Place {
    away: AtomicBool,
    totals: Mutex<HashMap<(Timestamp, String), u64>>,
}

#[async_trait]
impl Tally for Place {
    async fn add(&self, window_start: Timestamp, counts: &[(String, u64)]) -> Option<Vec<u64>> {
        if self.away.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mut totals = self.totals.lock().unwrap();
        Some(
            counts
                .iter()
                .map(|(name, add)| {
                    let total = totals.entry((window_start, name.clone())).or_default();
                    *total += add;
                    *total
                })
                .collect(),
        )
    }
}

#[tokio::test(start_paused = true)]
async fn instances_count_together_and_alone_when_nobody_answers() {
    let (one, other) = (rates(limits(100, 1)), rates(limits(100, 1)));
    let (redis, database) = (Arc::new(Place::default()), Arc::new(Place::default()));
    let places: [Arc<dyn Tally>; 2] = [redis.clone(), database.clone()];
    let send = |rates: &RateLimits, count: usize| (0..count).filter(|_| rates.admit(key("a")).is_ok()).count();
    assert_eq!([send(&one, 40), send(&other, 50)], [40, 50]);
    for rates in [&one, &other, &one] {
        round(rates, &places).await;
    }
    assert_eq!([send(&one, 100), send(&other, 100)], [10, 10], "90 were counted before, and each lets in what is left");
    assert!(database.totals.lock().unwrap().is_empty(), "it is the fallback");

    // The next key's requests, with Redis gone: through the database.
    redis.away.store(true, Ordering::SeqCst);
    let fallback = |rates: &RateLimits| (0..60).filter(|_| rates.admit(key("b")).is_ok()).count();
    assert_eq!([fallback(&one), fallback(&other)], [60, 60]);
    for rates in [&one, &other, &one] {
        round(rates, &places).await;
    }
    assert_eq!([fallback(&one), fallback(&other)], [0, 0]);

    // And with both gone: each for itself, without an error.
    database.away.store(true, Ordering::SeqCst);
    let alone = |rates: &RateLimits| (0..150).filter(|_| rates.admit(key("c")).is_ok()).count();
    assert_eq!([alone(&one), alone(&other)], [100, 100]);
    round(&one, &places).await;
}

#[tokio::test]
async fn what_is_far_from_its_limit_is_not_shared() {
    let rates = rates(limits(1600, 1));
    for _ in 0..99 {
        assert!(rates.admit(key("a")).is_ok());
    }
    assert!(rates.untold().is_empty());
    assert!(rates.admit(key("a")).is_ok());
    let untold = rates.untold();
    assert_eq!(untold.iter().map(|it| it.counts.clone()).collect::<Vec<_>>(), [vec![(key("a"), 100)]]);
    rates.learn(&untold[0], &[150]);
    assert_eq!(rates.untold()[0].counts, [(key("a"), 0)], "told once");
}
