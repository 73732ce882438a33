//! The wall clock, and how its readings are written.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 UTC.
pub fn now_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the one place where this tool asks what time it is")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Year, month, day, hour, minute, second.
type Civil = (i64, i64, i64, i64, i64, i64);

/// From Howard Hinnant's `civil_from_days`.
fn civil(seconds: i64) -> Civil {
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day, of_day / 3_600, of_day / 60 % 60, of_day % 60)
}

fn seconds(ms: u64) -> i64 {
    i64::try_from(ms / 1_000).unwrap_or(i64::MAX)
}

/// `20261123T123005Z`, which sorts by time.
pub fn stamp(ms: u64) -> String {
    let (year, month, day, hour, minute, second) = civil(seconds(ms));
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// `2026-11-23T12:30:05Z`.
pub fn rfc3339(ms: u64) -> String {
    let (year, month, day, hour, minute, second) = civil(seconds(ms));
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `12:30:05`, in UTC plus this many minutes.
pub fn clock(ms: u64, offset_minutes: i64) -> String {
    let (.., hour, minute, second) = civil(seconds(ms) + offset_minutes * 60);
    format!("{hour:02}:{minute:02}:{second:02}")
}

/// Minutes since midnight, in UTC plus this many minutes.
pub fn minute_of_day(ms: u64, offset_minutes: i64) -> i64 {
    (seconds(ms).div_euclid(60) + offset_minutes).rem_euclid(1_440)
}

/// Reads `2026-11-24 02:00` or `2026-11-24T02:00`, in UTC plus this many minutes. None if it is no time.
pub fn parse(text: &str, offset_minutes: i64) -> Option<u64> {
    let (date, time) = text.trim().split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (hour, minute) = time.split_once(':')?;
    let (hour, minute): (i64, i64) = (hour.parse().ok()?, minute.parse().ok()?);
    if !(1970..=9999).contains(&year) || !(0..24).contains(&hour) || !(0..60).contains(&minute) {
        return None;
    }
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let year = if month > 2 { year } else { year - 1 };
    let of_era = year.rem_euclid(400);
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + (153 * shifted + 2) / 5 + day - 1;
    let days = year.div_euclid(400) * 146_097 + day_of_era - 719_468;
    let found = days * 86_400 + hour * 3_600 + minute * 60;
    // A day that does not exist, such as 31 February, is another one when it is read back.
    let (_, back_month, back_day, ..) = civil(found);
    let shifted_back = if month > 2 { back_month - 3 } else { back_month + 9 };
    (shifted_back == shifted && back_day == day).then_some(())?;
    u64::try_from((found - offset_minutes * 60).checked_mul(1_000)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_know_them() {
        assert_eq!(rfc3339(1_795_437_005_999), "2026-11-23T12:30:05Z");
        assert_eq!(stamp(951_782_400_000), "20000229T000000Z");
        assert_eq!(clock(1_795_437_005_000, 480), "20:30:05");
        assert_eq!(minute_of_day(1_795_437_005_000, 720), 30);
    }

    #[test]
    fn what_is_written_can_be_read() {
        assert_eq!(parse("2026-11-23 20:30", 480).map(rfc3339).as_deref(), Some("2026-11-23T12:30:00Z"));
        for wrong in ["", "2026-11-23", "2026-02-30 01:00", "2026-13-01 01:00", "2026-11-23 24:00", "a b"] {
            assert_eq!(parse(wrong, 0), None, "{wrong}");
        }
    }
}
