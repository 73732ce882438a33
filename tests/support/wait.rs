//! Waiting, always with a deadline.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Between two looks at a state that sends no event.
const POLL: Duration = Duration::from_millis(10);

/// The future's output, or a failed test that says what was awaited.
pub(crate) async fn within<T>(limit: Duration, what: impl Display, future: impl Future<Output = T>) -> T {
    let Ok(value) = timeout(limit, future).await else { panic!("not within {limit:?}: {what}") };
    value
}

/// Looks again and again until there is something, or fails the test.
pub(crate) async fn eventually<T, F, Fut>(limit: Duration, what: impl Display, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < deadline {
        ticks.tick().await;
        if let Some(value) = look().await {
            return value;
        }
    }
    panic!("not within {limit:?}: {what}");
}
