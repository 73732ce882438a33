//! How much may be sent: the request weight of a minute, which the whole address shares, and the orders of an account.
//!
//! Pure: time comes in, and is the venue's, because the venue counts by the minutes of its own clock. Entries and routine
//! reads leave a reserve of the weight alone; orders whose outcome is unknown may ask into half of it; cancels may use it up.
//! After 429 or 418 nothing at all is admitted until the time that the venue named.

use std::time::Duration;

use trading::time::Timestamp;

/// Until `exchangeInfo` says it. A guess that is too low would keep us from asking.
const UNKNOWN_LIMIT: u32 = u32::MAX;
const MINUTE: Duration = Duration::from_mins(1);
/// When the venue forbids everything and does not say for how long: the shortest ban that it documents.
const DEFAULT_BAN: Duration = Duration::from_mins(2);
/// Nobody is banned for longer ("from 2 minutes to 3 days").
const LONGEST_BAN: Duration = Duration::from_hours(72);
/// `Retry-After` is in whole seconds, and our view of the venue's clock not exact.
const BAN_MARGIN: Duration = Duration::from_secs(1);

/// What a request is for, and so how far it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Makes an order.
    Entry,
    /// Routine: sweeps, fills, balances.
    Read,
    /// Asks for an order of unknown outcome, or for the stream that tells of it.
    Resolve,
    /// Takes an order back.
    Cancel,
}

/// Why a request may not be sent now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; again in {wait:.1?}")]
pub(super) struct Busy {
    pub(super) reason: &'static str,
    pub(super) wait: Duration,
}

/// A request that was admitted. Give it back with [`Weights::settle`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "its weight stays taken until it is settled"]
pub(super) struct Ticket {
    weight: u32,
    window: i64,
}

/// The weight of a minute, shared by everything that this address sends.
#[derive(Debug)]
pub(super) struct Weights {
    limit: u32,
    reserve_percent: u32,
    window: i64,
    /// What was sent in this minute, and what was under way when it began: the venue may count that in it, too.
    ours: u32,
    /// What others at this address have used, as far as the venue's headers show it.
    others: u32,
    under_way: u32,
    banned_until: Option<Timestamp>,
}

impl Weights {
    pub(super) fn new(reserve_percent: u32) -> Self {
        Self {
            limit: UNKNOWN_LIMIT,
            reserve_percent: reserve_percent.min(100),
            window: i64::MIN,
            ours: 0,
            others: 0,
            under_way: 0,
            banned_until: None,
        }
    }

    /// The venue's limit for a minute.
    pub(super) fn set_limit(&mut self, limit: u32) {
        self.limit = limit.max(1);
    }

    fn ceiling(&self, class: Class) -> u32 {
        let reserve = self.limit.saturating_mul(self.reserve_percent).div_ceil(100);
        match class {
            Class::Entry | Class::Read => self.limit.saturating_sub(reserve),
            Class::Resolve => self.limit.saturating_sub(reserve / 2),
            Class::Cancel => self.limit,
        }
    }

    /// Takes the weight, or says how long it is not to be had.
    pub(super) fn admit(&mut self, class: Class, weight: u32, now: Timestamp) -> Result<Ticket, Busy> {
        self.banned(now)?;
        self.roll(now);
        let taken = self.ours.saturating_add(self.others).saturating_add(weight);
        if taken > self.ceiling(class) {
            return Err(Busy { reason: "the request weight of this minute is used up", wait: until_next(MINUTE, now) });
        }
        self.ours = self.ours.saturating_add(weight);
        self.under_way = self.under_way.saturating_add(weight);
        Ok(Ticket { weight, window: self.window })
    }

    /// The request is over: `reported` is the weight that the venue said was used in its minute.
    pub(super) fn settle(&mut self, ticket: &Ticket, reported: Option<u32>, now: Timestamp) {
        self.roll(now);
        self.under_way = self.under_way.saturating_sub(ticket.weight);
        if ticket.window == self.window {
            // Whatever of ours the venue has counted is in `ours`, so the rest is certainly that of others.
            self.others = self.others.max(reported.unwrap_or_default().saturating_sub(self.ours));
        }
    }

    /// The request was not sent after all.
    pub(super) fn cancel(&mut self, ticket: &Ticket) {
        self.under_way = self.under_way.saturating_sub(ticket.weight);
        if ticket.window == self.window {
            self.ours = self.ours.saturating_sub(ticket.weight);
        }
    }

    /// The venue answered 429 or 418.
    pub(super) fn ban(&mut self, retry_after: Option<Duration>, now: Timestamp) {
        let until = now.after(retry_after.unwrap_or(DEFAULT_BAN).min(LONGEST_BAN) + BAN_MARGIN);
        self.banned_until = self.banned_until.max(Some(until));
    }

    fn banned(&self, now: Timestamp) -> Result<(), Busy> {
        match self.banned_until.filter(|until| *until > now) {
            Some(until) => Err(Busy { reason: "the venue told us to stop sending", wait: until.since(now) }),
            None => Ok(()),
        }
    }

    fn roll(&mut self, now: Timestamp) {
        let window = window_of(MINUTE, now);
        // A clock that was set back a little opens no new minute.
        if window > self.window {
            (self.window, self.ours, self.others) = (window, self.under_way, 0);
        }
    }
}

/// How many orders an account may make in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OrderLimit {
    pub(super) interval: Duration,
    pub(super) limit: u32,
}

/// An account's orders, counted by the venue's intervals. The venue takes orders that fill off its count, so what it
/// reports is believed even if it is less than what we sent.
#[derive(Debug, Default)]
pub(super) struct OrderCounts {
    counts: Vec<Count>,
    under_way: u32,
}

#[derive(Debug)]
struct Count {
    limit: OrderLimit,
    window: i64,
    used: u32,
}

impl OrderCounts {
    /// The venue's limits. What was counted before is kept.
    pub(super) fn set_limits(&mut self, limits: &[OrderLimit]) {
        let known = std::mem::take(&mut self.counts);
        let used = |limit: &OrderLimit| known.iter().find(|count| count.limit.interval == limit.interval);
        self.counts = limits
            .iter()
            .map(|limit| Count {
                limit: *limit,
                window: used(limit).map_or(i64::MIN, |count| count.window),
                used: used(limit).map_or(0, |count| count.used),
            })
            .collect();
    }

    /// Counts one order, or says how long there can be none.
    pub(super) fn admit(&mut self, now: Timestamp) -> Result<(), Busy> {
        self.roll(now);
        let full = |count: &&Count| count.used.saturating_add(self.under_way) >= count.limit.limit;
        let wait = self.counts.iter().filter(full).map(|count| until_next(count.limit.interval, now)).max();
        if let Some(wait) = wait {
            return Err(Busy { reason: "the account's orders of this interval are used up", wait });
        }
        self.under_way += 1;
        Ok(())
    }

    /// The order's POST is over: `reported` is what the venue counted by interval.
    pub(super) fn settle(&mut self, reported: &[(Duration, u32)], now: Timestamp) {
        self.roll(now);
        self.under_way = self.under_way.saturating_sub(1);
        for count in &mut self.counts {
            let told = reported.iter().find(|(interval, _)| *interval == count.limit.interval);
            count.used = told.map_or(count.used.saturating_add(1), |(_, used)| *used);
        }
    }

    fn roll(&mut self, now: Timestamp) {
        for count in &mut self.counts {
            let window = window_of(count.limit.interval, now);
            if window > count.window {
                (count.window, count.used) = (window, 0);
            }
        }
    }
}

fn micros(interval: Duration) -> i64 {
    i64::try_from(interval.as_micros()).unwrap_or(i64::MAX).max(1)
}

fn window_of(interval: Duration, now: Timestamp) -> i64 {
    now.micros().div_euclid(micros(interval))
}

fn until_next(interval: Duration, now: Timestamp) -> Duration {
    let into = now.micros().rem_euclid(micros(interval));
    Duration::from_micros(u64::try_from(micros(interval) - into).unwrap_or_default())
}

#[cfg(test)]
mod tests;
