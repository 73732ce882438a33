//! Named points in an order's life at which tests hold it: P0 read, P1 authorised, P2 before the intent's commit, P3 committed
//! and unanswered, P4 SENDING committed, P5 on the wire, P6 answer in memory, P7 result committed.
//!
//! Without the cargo feature `failpoints` this compiles to nothing.

/// Holds the caller while the point is set to `return(pause)`; ends the process at `return(kill)` as SIGKILL would.
#[cfg(feature = "failpoints")]
pub async fn hit(name: &str) {
    let mut counted = false;
    while let Some(action) = fail::eval(name, Option::unwrap_or_default) {
        if !counted {
            tracing::warn!(failpoint = name, action, "failpoint reached");
            *lock().entry(name.to_owned()).or_insert(0) += 1;
            counted = true;
        }
        if action == "kill" {
            std::process::abort();
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

// The points themselves are global to the process, so their counters may be.
#[cfg(feature = "failpoints")]
static HITS: std::sync::Mutex<std::collections::BTreeMap<String, u64>> =
    std::sync::Mutex::new(std::collections::BTreeMap::new());

#[cfg(feature = "failpoints")]
fn lock() -> std::sync::MutexGuard<'static, std::collections::BTreeMap<String, u64>> {
    HITS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How often each point was reached while it was set: a fault that never fired proves nothing.
#[cfg(feature = "failpoints")]
pub fn hits() -> std::collections::BTreeMap<String, u64> {
    lock().clone()
}

/// None.
#[cfg(not(feature = "failpoints"))]
pub fn hits() -> std::collections::BTreeMap<String, u64> {
    std::collections::BTreeMap::new()
}

/// Nothing.
#[cfg(not(feature = "failpoints"))]
#[expect(clippy::unused_async, reason = "the same signature as with the feature")]
pub async fn hit(_name: &str) {}

/// Sets a point: `pause`, `kill` or `off`.
///
/// # Errors
/// The action is unknown, or the binary was built without failpoints.
#[cfg(feature = "failpoints")]
pub fn set(name: &str, action: &str) -> Result<(), String> {
    match action {
        "off" => {
            fail::remove(name);
            Ok(())
        }
        "pause" | "kill" => fail::cfg(name, &format!("return({action})")),
        other => Err(format!("action `{other}`: pause, kill or off")),
    }
}

/// Sets a point.
///
/// # Errors
/// Always: the binary was built without failpoints.
#[cfg(not(feature = "failpoints"))]
pub fn set(_name: &str, _action: &str) -> Result<(), String> {
    Err("this binary was built without the feature `failpoints`".into())
}
