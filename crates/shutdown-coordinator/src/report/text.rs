//! Text for a terminal or a picture: its width, making it fit, making it harmless, and times that people read.

use std::time::Duration;

/// How many columns a terminal needs for this: 2 for East Asian wide characters and emoji, 0 for combining marks.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// The blocks are those of Unicode's `EastAsianWidth.txt`, rounded to whole blocks.
pub(crate) const fn char_width(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200f}' | '\u{20d0}'..='\u{20ff}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f64f}'
        | '\u{1f680}'..='\u{1f6ff}'
        | '\u{1f900}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// One line of it, without what could move a cursor, turn the writing direction, or is no text in XML.
pub(crate) fn clean(text: &str) -> String {
    let harmless = |c: char| match c {
        '\t' | '\n' | '\r' | '\u{2028}' | '\u{2029}' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(harmless).collect()
}

/// The text within `limit`, its end replaced by `…` where it is too long. Names differ at both ends, so of the room
/// the last third goes to the end of the text.
pub(crate) fn shorten(text: &str, limit: usize, width: impl Fn(char) -> usize) -> String {
    let fits = |text: &str| text.chars().map(&width).sum::<usize>() <= limit;
    if fits(text) {
        return text.to_owned();
    }
    let room = limit.saturating_sub(width('…'));
    let tail_room = room / 3;
    let taken = |room: usize, chars: &mut dyn Iterator<Item = char>| -> Vec<char> {
        let mut used = 0;
        chars
            .take_while(|&c| {
                used += width(c);
                used <= room
            })
            .collect()
    };
    let head = taken(room - tail_room, &mut text.chars());
    let tail = taken(tail_room, &mut text.chars().rev());
    head.into_iter().chain(['…']).chain(tail.into_iter().rev()).collect()
}

/// Harmless, within so many columns, and filled up to them.
pub(crate) fn cell(text: &str, columns: usize) -> String {
    let text = shorten(&clean(text), columns, char_width);
    let missing = columns.saturating_sub(width(&text));
    text + &" ".repeat(missing)
}

/// Breaks at spaces, and within words that are longer than a line.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && width(&line) + 1 + width(word) > columns {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if width(&line) + char_width(c) > columns {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    lines.push(line);
    lines
}

/// A time as people say it, with two or three digits: `850 µs`, `1.2 ms`, `36.1 s`, `2 min 5 s`; at most eleven
/// columns.
pub(crate) fn human(time: Duration) -> String {
    let micros = time.as_micros();
    let tenths = |unit: u128, name: &str| {
        let tenths = (micros + unit / 20) / (unit / 10);
        match (tenths / 10, tenths % 10) {
            (whole, 0) => format!("{whole} {name}"),
            (whole, part) => format!("{whole}.{part} {name}"),
        }
    };
    let pair = |value: u128, (large, small): (&str, &str), ratio: u128| match (value / ratio, value % ratio) {
        (whole, 0) => format!("{whole} {large}"),
        (whole, rest) => format!("{whole} {large} {rest} {small}"),
    };
    let seconds = (micros + 500_000) / 1_000_000;
    match micros {
        0 => "0 s".to_owned(),
        1..1_000 => format!("{micros} µs"),
        1_000..9_950 => tenths(1_000, "ms"),
        9_950..999_500 => format!("{} ms", (micros + 500) / 1_000),
        999_500..59_950_000 => tenths(1_000_000, "s"),
        _ if seconds < 3_600 => pair(seconds, ("min", "s"), 60),
        _ if seconds < 86_400 => pair(seconds / 60, ("h", "min"), 60),
        _ if seconds >= 864_000_000 => "over 27 y".to_owned(),
        _ => pair(seconds / 3_600, ("d", "h"), 24),
    }
}

/// A moment of the wall clock in UTC.
pub(crate) fn utc(unix_ms: u64) -> String {
    let (days, second) = (unix_ms / 86_400_000, unix_ms / 1_000 % 86_400);
    // Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days: years begin in March.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        let said = [
            (0, "0 s"),
            (850, "850 µs"),
            (1_000, "1 ms"),
            (1_240, "1.2 ms"),
            (9_960, "10 ms"),
            (999_499, "999 ms"),
            (999_500, "1 s"),
            (1_250_000, "1.3 s"),
            (36_140_000, "36.1 s"),
            (59_949_999, "59.9 s"),
            (59_950_000, "1 min"),
            (125_000_000, "2 min 5 s"),
            (3_599_500_000, "1 h"),
            (90_061_000_000, "1 d 1 h"),
        ];
        for (micros, text) in said {
            assert_eq!(human(Duration::from_micros(micros)), text, "{micros} µs");
        }
        assert_eq!(human(Duration::from_hours(239_999)), "9999 d 23 h");
        assert_eq!(human(Duration::MAX), "over 27 y");
    }

    #[test]
    fn moments_are_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399_999), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_798_761_599_000), "2026-12-31 23:59:59 UTC");
        assert!(utc(u64::MAX).ends_with(" UTC"));
    }

    #[test]
    fn long_names_keep_both_ends_and_fill_their_column_exactly() {
        assert_eq!(cell("drain", 7), "drain  ");
        assert_eq!(cell("websocket-sessions-of-eu-west-1", 16), "websocket-…est-1");
        assert_eq!(cell("注文の取り消し", 14), "注文の取り消し");
        for columns in 0..20 {
            assert_eq!(width(&cell("注文の取り消し: order 4711", columns)), columns.max(1));
        }
    }

    #[test]
    fn what_could_move_the_cursor_is_gone() {
        assert_eq!(clean("a\u{1b}[2Jb\nc\u{202e}d"), "a\u{fffd}[2Jb c\u{fffd}d");
    }
}
