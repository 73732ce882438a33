//! The one clock. Wall time is read once at the start; after that it advances with the monotonic clock, so that a jump of
//! the wall clock changes no deadline.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use trading::time::Timestamp;

/// Wall time as of the start, advanced monotonically.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Timestamp,
    /// `None`: it stands still.
    start: Option<Instant>,
}

impl Clock {
    /// Reads the wall clock, once.
    pub fn start() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place where wall time enters")]
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX);
        Self { wall: Timestamp::from_micros(micros), start: Some(Instant::now()) }
    }

    /// A clock that stands still, for tests.
    pub fn standing(at: Timestamp) -> Self {
        Self { wall: at, start: None }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.wall.after(self.uptime())
    }

    /// How long ago the clock was started.
    pub fn uptime(&self) -> std::time::Duration {
        self.start.map_or(std::time::Duration::ZERO, |start| start.elapsed())
    }
}
