//! Request weights per address and unfilled orders per account (`rest-api.md`, "LIMITS"). Intervals are those of the
//! venue's clock: a minute begins at second 0.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use axum::http::StatusCode;
use serde::Serialize;
use trading::time::Timestamp;

use super::error::ApiError;
use crate::record::Label;

const MINUTE_MS: i64 = 60_000;
const TEN_SECONDS_MS: i64 = 10_000;
const DAY_MS: i64 = 86_400_000;
/// The first ban; each further one lasts twice as long.
const FIRST_BAN: Duration = Duration::from_mins(2);
const LONGEST_BAN: Duration = Duration::from_hours(72);
/// Requests over the limit in one minute after which the address is banned.
const PATIENCE: u32 = 10;
/// Addresses and accounts that are remembered; beyond it those whose intervals are over are forgotten.
const REMEMBERED: usize = 1024;

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Request weight per minute and address.
    pub weight_per_minute: u32,
    /// Orders per ten seconds and account that were not filled at once.
    pub orders_per_10s: u32,
    /// The same per day.
    pub orders_per_day: u32,
}

impl Default for Limits {
    /// What Binance documents.
    fn default() -> Self {
        Self { weight_per_minute: 6_000, orders_per_10s: 100, orders_per_day: 200_000 }
    }
}

/// A limit as `exchangeInfo` and the WebSocket API show it.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RateLimit {
    #[serde(rename = "rateLimitType")]
    kind: &'static str,
    interval: &'static str,
    interval_num: u32,
    limit: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
}

impl Limits {
    pub(super) fn weight(&self, count: Option<u32>) -> RateLimit {
        RateLimit { kind: "REQUEST_WEIGHT", interval: "MINUTE", interval_num: 1, limit: self.weight_per_minute, count }
    }

    pub(super) fn all(&self) -> [RateLimit; 3] {
        let orders =
            |interval, interval_num, limit| RateLimit { kind: "ORDERS", interval, interval_num, limit, count: None };
        [self.weight(None), orders("SECOND", 10, self.orders_per_10s), orders("DAY", 1, self.orders_per_day)]
    }
}

/// Counts one interval after the other.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    number: i64,
    count: u32,
}

impl Window {
    fn now(&mut self, now: Timestamp, length_ms: i64) -> &mut u32 {
        let number = now.millis().div_euclid(length_ms);
        if self.number != number {
            *self = Self { number, count: 0 };
        }
        &mut self.count
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Address {
    weight: Window,
    refused: Window,
    bans: u32,
    banned_until: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    ten_seconds: Window,
    day: Window,
}

/// What was used so far.
#[derive(Debug, Default)]
pub(super) struct Usage {
    limits: Limits,
    addresses: BTreeMap<IpAddr, Address>,
    orders: BTreeMap<Label, Orders>,
}

/// Until the interval is over, in whole seconds from 1 on.
fn seconds_left(now: Timestamp, length_ms: i64) -> u32 {
    let left = length_ms - now.millis().rem_euclid(length_ms);
    u32::try_from(left.div_euclid(1000) + 1).unwrap_or(1)
}

impl Usage {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes a request of this weight into account. Also says how much was used this minute, whether it is allowed or not.
    pub(super) fn weigh(&mut self, from: IpAddr, weight: u32, now: Timestamp) -> (u32, Result<(), ApiError>) {
        if self.addresses.len() >= REMEMBERED && !self.addresses.contains_key(&from) {
            let minute = now.millis().div_euclid(MINUTE_MS);
            self.addresses.retain(|_, address| address.weight.number == minute || address.bans > 0);
        }
        let address = self.addresses.entry(from).or_default();
        let used = address.weight.now(now, MINUTE_MS);
        if let Some(until) = address.banned_until.filter(|until| *until > now) {
            return (*used, Err(banned(until, now)));
        }
        *used = used.saturating_add(weight);
        let (used, limit) = (*used, self.limits.weight_per_minute);
        if used <= limit {
            return (used, Ok(()));
        }
        let refused = address.refused.now(now, MINUTE_MS);
        *refused += 1;
        if *refused <= PATIENCE {
            let msg = format!(
                "Too much request weight used; current limit is {limit} request weight per 1 MINUTE. Please use WebSocket \
                 Streams for live updates to avoid polling the API."
            );
            let refusal = ApiError::too_many(StatusCode::TOO_MANY_REQUESTS, msg, seconds_left(now, MINUTE_MS));
            return (used, Err(refusal));
        }
        let ban = FIRST_BAN.saturating_mul(1 << address.bans.min(16)).min(LONGEST_BAN);
        address.bans += 1;
        let until = now.after(ban);
        address.banned_until = Some(until);
        (used, Err(banned(until, now)))
    }

    /// Refuses a new order when the account has placed too many.
    pub(super) fn may_order(&mut self, account: &Label, now: Timestamp) -> Result<(), ApiError> {
        let limits = self.limits;
        let orders = self.orders.entry(account.clone()).or_default();
        let intervals = [
            (*orders.ten_seconds.now(now, TEN_SECONDS_MS), limits.orders_per_10s, "10 SECOND", TEN_SECONDS_MS),
            (*orders.day.now(now, DAY_MS), limits.orders_per_day, "1 DAY", DAY_MS),
        ];
        match intervals.into_iter().find(|(count, limit, ..)| count >= limit) {
            None => Ok(()),
            Some((_, limit, interval, length)) => Err(ApiError {
                retry_after: Some(seconds_left(now, length)),
                ..ApiError::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    -1015,
                    format!("Too many new orders; current limit is {limit} orders per {interval}."),
                )
            }),
        }
    }

    /// Counts an order that was accepted, and gives the counts of ten seconds and of the day. One that was filled at once
    /// does not count.
    pub(super) fn ordered(&mut self, account: &Label, filled: bool, now: Timestamp) -> (u32, u32) {
        let orders = self.orders.entry(account.clone()).or_default();
        let ten_seconds = orders.ten_seconds.now(now, TEN_SECONDS_MS);
        let day = orders.day.now(now, DAY_MS);
        *ten_seconds += u32::from(!filled);
        *day += u32::from(!filled);
        (*ten_seconds, *day)
    }
}

fn banned(until: Timestamp, now: Timestamp) -> ApiError {
    let msg = format!(
        "Way too much request weight used; IP banned until {}. Please use WebSocket Streams for live updates to avoid bans.",
        until.millis()
    );
    let seconds = u32::try_from(until.since(now).as_secs() + 1).unwrap_or(u32::MAX);
    ApiError::too_many(StatusCode::IM_A_TEAPOT, msg, seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn status(result: (u32, Result<(), ApiError>)) -> (u16, u32) {
        let error = result.1.unwrap_err();
        (error.status.as_u16(), error.retry_after.unwrap())
    }

    #[test]
    fn a_minute_has_its_weight_and_the_next_one_begins_anew() {
        let mut usage = Usage::new(Limits { weight_per_minute: 10, ..Limits::default() });
        assert_eq!(usage.weigh(HERE, 10, at(60_000)), (10, Ok(())));
        assert_eq!(status(usage.weigh(HERE, 1, at(70_500))), (429, 50));
        assert!(usage.weigh("::1".parse().unwrap(), 10, at(70_500)).1.is_ok(), "another address");
        assert_eq!(usage.weigh(HERE, 4, at(120_000)), (4, Ok(())));
    }

    #[test]
    fn who_does_not_stop_is_banned_and_longer_each_time() {
        let mut usage = Usage::new(Limits { weight_per_minute: 0, ..Limits::default() });
        for _ in 0..PATIENCE {
            assert_eq!(status(usage.weigh(HERE, 1, at(0))).0, 429);
        }
        assert_eq!(status(usage.weigh(HERE, 1, at(0))), (418, 121));
        assert_eq!(status(usage.weigh(HERE, 1, at(119_000))), (418, 2));
        for _ in 0..PATIENCE {
            assert_eq!(status(usage.weigh(HERE, 1, at(120_000))).0, 429);
        }
        assert_eq!(status(usage.weigh(HERE, 1, at(120_000))), (418, 241));
    }

    #[test]
    fn unfilled_orders_count_and_filled_ones_do_not() {
        let mut usage = Usage::new(Limits { orders_per_10s: 1, ..Limits::default() });
        let account: Label = "main".into();
        assert_eq!(usage.ordered(&account, true, at(0)), (0, 0));
        assert!(usage.may_order(&account, at(0)).is_ok());
        assert_eq!(usage.ordered(&account, false, at(0)), (1, 1));
        let refusal = usage.may_order(&account, at(3_000)).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.refusal.code, refusal.retry_after), (429, -1015, Some(8)));
        assert!(usage.may_order(&account, at(10_000)).is_ok());
    }
}
