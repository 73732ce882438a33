//! The venue's clock, as seen from here: our clock plus an offset that is measured again and again.
//!
//! Why this keeps absence provable: the venue refuses a request once its own clock is past `timestamp + recvWindow`. What is
//! sent is our time plus the offset, so its error is at most half the round trip of the sample behind it (plus the drift
//! since). Samples with a longer round trip than the absence margin are thrown away, so the error stays below half of that
//! margin; the deadline after which "no such order" counts lies a whole margin later, and is kept by our own clock.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use trading::time::Timestamp;

use crate::clock::Clock;

/// No sample is good that took longer than this.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(2);

/// The venue's clock.
#[derive(Debug)]
pub(super) struct VenueClock {
    ours: Clock,
    longest_round_trip: Duration,
    /// Microseconds to add to our time.
    offset: Mutex<Option<i64>>,
    /// Somebody saw that the offset is off.
    doubt: Notify,
}

impl VenueClock {
    pub(super) fn new(ours: Clock, absence_margin: Duration) -> Self {
        let longest_round_trip = absence_margin.min(LONGEST_ROUND_TRIP);
        Self { ours, longest_round_trip, offset: Mutex::new(None), doubt: Notify::new() }
    }

    /// Our time.
    pub(super) fn ours(&self) -> Timestamp {
        self.ours.now()
    }

    /// The venue's time as far as we know; our own before the first sample.
    pub(super) fn now(&self) -> Timestamp {
        shift(self.ours.now(), self.offset().unwrap_or_default())
    }

    /// Our time, as the venue's clock shows it; `None` before the first sample.
    pub(super) fn at_venue(&self, ours: Timestamp) -> Option<Timestamp> {
        Some(shift(ours, self.offset()?))
    }

    pub(super) fn is_known(&self) -> bool {
        self.offset().is_some()
    }

    /// Takes a sample: the venue said `server` between our `sent` and `received`. Returns whether it was good enough.
    pub(super) fn sample(&self, sent: Timestamp, received: Timestamp, server: Timestamp) -> bool {
        let Some(offset) = offset_of(sent, received, server, self.longest_round_trip) else { return false };
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner) = Some(offset);
        true
    }

    /// The venue refused a timestamp: measure again soon.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Waits for [`VenueClock::doubt`]. Cancel safe.
    pub(super) async fn doubted(&self) {
        self.doubt.notified().await;
    }

    fn offset(&self) -> Option<i64> {
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shift(at: Timestamp, micros: i64) -> Timestamp {
    Timestamp::from_micros(at.micros().saturating_add(micros))
}

/// The offset that one sample shows: the venue's time was read in the middle of the round trip.
fn offset_of(sent: Timestamp, received: Timestamp, server: Timestamp, longest: Duration) -> Option<i64> {
    let round_trip = received.since(sent);
    if received < sent || round_trip > longest {
        return None;
    }
    Some(server.micros().saturating_sub(sent.after(round_trip / 2).micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn the_offset_is_measured_at_the_middle_of_the_round_trip() {
        let longest = Duration::from_millis(500);
        assert_eq!(offset_of(at(1_000), at(1_100), at(4_050), longest), Some(3_000_000));
        assert_eq!(offset_of(at(1_000), at(1_100), at(50), longest), Some(-1_000_000));
    }

    #[test]
    fn a_slow_or_impossible_sample_is_thrown_away() {
        let longest = Duration::from_millis(500);
        assert_eq!(offset_of(at(1_000), at(1_501), at(1_250), longest), None);
        assert_eq!(offset_of(at(1_000), at(999), at(1_000), longest), None);
        let clock = VenueClock::new(Clock::standing(at(0)), Duration::from_millis(200));
        assert!(!clock.sample(at(0), at(201), at(9_000)));
        assert!(!clock.is_known() && clock.at_venue(at(0)).is_none());
        assert!(clock.sample(at(0), at(200), at(9_100)));
        assert_eq!(clock.at_venue(at(5)), Some(at(9_005)));
    }

    /// What the proof of absence rests on: however the sample's answer was delayed, a request is refused by the venue before
    /// our deadline for it has passed.
    #[test]
    fn a_timestamp_is_never_off_by_more_than_half_the_margin() {
        let margin = Duration::from_millis(400);
        let truth = 7_000;
        for (there, back) in [(0, 400), (400, 0), (200, 200), (1, 399), (0, 0)] {
            let server = at(1_000 + there + truth);
            let offset = offset_of(at(1_000), at(1_000 + there + back), server, margin).unwrap();
            assert!((offset - truth * 1_000).abs() <= 200_000, "{there} {back}: {offset}");
        }
    }
}
