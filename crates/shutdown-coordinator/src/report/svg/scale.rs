//! From time to place.

use std::time::Duration;

use super::canvas::px;
use crate::report::Report;

/// Where the plot begins and ends.
pub(super) const LEFT: i64 = px(304);
pub(super) const RIGHT: i64 = px(946);

/// At most this many steps along the axis.
const STEPS: u128 = 9;

pub(super) struct Scale {
    /// The time at the right edge, in microseconds; never zero.
    end: u128,
}

impl Scale {
    /// Room for everything that happened. The deadline is in view unless that would push the rest into less than half
    /// of the plot.
    pub(super) fn new(report: &Report) -> Self {
        let phases = report.phases.iter().map(|phase| phase.started_after.saturating_add(phase.took));
        let entries = report
            .phases
            .iter()
            .flat_map(|phase| phase.entries.iter().filter_map(|entry| report.span(phase, entry)).map(|span| span.to));
        let last = phases.chain(entries).chain(report.forced_after).chain([report.took]).max().unwrap_or_default();
        let (last, deadline) = (last.as_micros().max(100), report.deadline.as_micros());
        let end = if deadline <= last * 2 { deadline.max(last) * 51 / 50 } else { last * 21 / 20 };
        Self { end }
    }

    pub(super) fn shows(&self, time: Duration) -> bool {
        time.as_micros() <= self.end
    }

    /// Later than the axis reaches is at its end.
    pub(super) fn x(&self, time: Duration) -> i64 {
        let length = u128::from((RIGHT - LEFT).unsigned_abs());
        let offset = time.as_micros().min(self.end) * length / self.end;
        LEFT + i64::try_from(offset).unwrap_or(0)
    }

    /// The marks of the axis: round times, evenly spread.
    pub(super) fn ticks(&self) -> impl Iterator<Item = Duration> {
        let step = steps().find(|step| self.end / step <= STEPS).unwrap_or(self.end);
        let micros = (0..=self.end / step).map(move |count| count * step);
        micros.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

/// Steps that people count in, in microseconds: 1, 2 and 5 of each power of ten up to 20 s, then those of a clock, then
/// of days.
fn steps() -> impl Iterator<Item = u128> {
    const SECOND: u128 = 1_000_000;
    let decimal =
        |unit: u128, powers| (0..powers).flat_map(move |power| [1, 2, 5].map(|digit| digit * unit * 10u128.pow(power)));
    let clock =
        [30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200].map(|seconds| seconds * SECOND);
    decimal(1, 8).filter(|step| *step <= 20 * SECOND).chain(clock).chain(decimal(86_400 * SECOND, 20))
}
