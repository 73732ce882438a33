//! When to deploy. The plan: 02:00-04:00 Beijing time is best, not 15:00-17:00 (Europe opens) nor 21:30-23:00 (New York opens);
//! what has no downtime may run at any other time.

use serde::Deserialize;

use crate::error::Error;
use crate::time;

/// Part of a day, in minutes since midnight. It may pass midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Window {
    from: i64,
    to: i64,
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no part of a day: HH:MM-HH:MM");
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let minutes = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            let (hour, minute): (i64, i64) = (hour.parse().ok()?, minute.parse().ok()?);
            ((0..=24).contains(&hour) && (0..60).contains(&minute)).then_some(hour * 60 + minute)
        };
        match (minutes(from), minutes(to)) {
            (Some(from), Some(to)) if from < 1_440 && to <= 1_440 && from != to => Ok(Self { from, to }),
            _ => Err(wrong()),
        }
    }
}

impl Window {
    fn contains(self, minute: i64) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [from, to] = [self.from, self.to].map(|minute| format!("{:02}:{:02}", minute / 60, minute % 60));
        write!(f, "{from}-{to}")
    }
}

/// Minutes from UTC: `+08:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Offset(pub i64);

impl TryFrom<String> for Offset {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no distance from UTC: +HH:MM or -HH:MM");
        let (sign, rest) = match text.split_at_checked(1) {
            Some(("+", rest)) => (1, rest),
            Some(("-", rest)) => (-1, rest),
            _ => return Err(wrong()),
        };
        let (hours, minutes) = rest.split_once(':').ok_or_else(wrong)?;
        match (hours.parse::<i64>(), minutes.parse::<i64>()) {
            (Ok(hours @ 0..=14), Ok(minutes @ 0..=59)) => Ok(Self(sign * (hours * 60 + minutes))),
            _ => Err(wrong()),
        }
    }
}

/// What a command does to those who use the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impact {
    /// Nobody notices.
    None,
    /// Requests wait.
    Pause,
}

/// The section `windows` of `deploy.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Windows {
    /// The time zone of what follows.
    pub utc_offset: Offset,
    /// Never then.
    pub forbidden: Vec<Window>,
    /// What makes requests wait runs only then. Empty: at any time that is not forbidden.
    pub maintenance: Vec<Window>,
}

impl Default for Windows {
    fn default() -> Self {
        let window = |from, to| Window { from, to };
        Self {
            utc_offset: Offset(480),
            forbidden: vec![window(15 * 60, 17 * 60), window(21 * 60 + 30, 23 * 60)],
            maintenance: vec![window(2 * 60, 4 * 60)],
        }
    }
}

impl Windows {
    /// Refuses what must not run now.
    ///
    /// # Errors
    /// [`Error::Window`] says until when, or from when.
    pub fn check(&self, impact: Impact, now_ms: u64) -> Result<(), Error> {
        let Offset(offset) = self.utc_offset;
        let minute = time::minute_of_day(now_ms, offset);
        let clock = time::clock(now_ms, offset);
        if let Some(window) = self.forbidden.iter().find(|window| window.contains(minute)) {
            return Err(Error::Window(format!("refused: it is {clock}, and {window} is closed for deployments")));
        }
        if impact == Impact::Pause
            && !self.maintenance.is_empty()
            && !self.maintenance.iter().any(|window| window.contains(minute))
        {
            let open: Vec<String> = self.maintenance.iter().map(ToString::to_string).collect();
            return Err(Error::Window(format!(
                "refused: it is {clock}, and what makes requests wait runs at {}",
                open.join(", ")
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beijing(text: &str) -> u64 {
        time::parse(&format!("2026-11-23 {text}"), 480).unwrap()
    }

    #[test]
    fn noon_is_open_and_the_openings_of_europe_and_new_york_are_not() {
        let windows = Windows::default();
        for open in ["12:00", "14:59", "17:00", "21:29", "23:00", "03:00"] {
            assert!(windows.check(Impact::None, beijing(open)).is_ok(), "{open}");
        }
        for closed in ["15:00", "16:59", "21:30", "22:59"] {
            let error = windows.check(Impact::None, beijing(closed)).unwrap_err();
            assert!(matches!(error, Error::Window(_)), "{closed}");
        }
    }

    #[test]
    fn what_makes_requests_wait_runs_at_night_only() {
        let windows = Windows::default();
        assert!(windows.check(Impact::Pause, beijing("02:00")).is_ok());
        assert!(windows.check(Impact::Pause, beijing("12:00")).is_err());
    }

    #[test]
    fn a_window_may_pass_midnight() {
        let window = Window::try_from("23:30-01:00".to_owned()).unwrap();
        assert!(window.contains(23 * 60 + 30) && window.contains(59) && !window.contains(60));
        assert_eq!(window.to_string(), "23:30-01:00");
        for wrong in ["", "1-2", "25:00-26:00", "10:00-10:00", "10:61-11:00"] {
            assert!(Window::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
        assert_eq!(Offset::try_from("-05:30".to_owned()), Ok(Offset(-330)));
        assert!(Offset::try_from("Asia/Shanghai".to_owned()).is_err());
    }
}
