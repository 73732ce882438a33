//! What `/metrics` says beside what is counted where it happens: read from `/status` and the health checks when somebody asks.
//!
//! | name | labels | meaning |
//! |---|---|---|
//! | `hotgo_ready` | | 1 if readiness is 200 |
//! | `hotgo_draining` | | 1 once a shutdown has begun |
//! | `hotgo_uptime_seconds` | | since the start of the process; it falls when there is another |
//! | `hotgo_last_shutdown_clean` | | 1 if the last shutdown on this data directory was clean, 0 if not; absent before the first |
//! | `hotgo_lease_age_seconds` | | how long ago the lease that was renewed longest ago was; 0 without one |
//! | `hotgo_event_lag_seconds` | | for how long at least the event has waited that a websocket waits for longest; 0 if none does |
//! | `hotgo_check_ok` | `check` | 1 if the health check of this name passes: `store`, `account:main` .. |
//! | `hotgo_account_ready` | `account` | 1 if this process trades the account |
//! | `hotgo_account_epoch` | `account` | the epoch of its lease |
//! | `hotgo_robots_running` | `account` | robots that trade |
//! | `hotgo_orders_live` | `account` | orders that have not ended |
//! | `hotgo_orders_unknown` | `account` | orders of unknown outcome |
//! | `hotgo_orders_unknown_oldest_seconds` | `account` | for how long the oldest of them is |
//! | `hotgo_commands_queued` | `account` | commands that wait for the engine |
//! | `process_resident_memory_bytes`, `process_open_fds` | | as everywhere |

use std::path::Path;
use std::time::Duration;

use metrics::gauge;
use serde::Deserialize;

use super::{EngineReport, StatusReport};
use crate::http::{HealthSnapshot, HealthStatus};

/// Sets them all.
pub fn publish(status: &StatusReport, health: &HealthSnapshot) {
    gauge!("hotgo_ready").set(truth(health.status.is_ready()));
    gauge!("hotgo_draining").set(truth(health.status == HealthStatus::Draining));
    gauge!("hotgo_uptime_seconds").set(Duration::from_millis(status.uptime_ms));
    for check in &health.checks {
        gauge!("hotgo_check_ok", "check" => check.name.to_string()).set(truth(check.ok));
    }
    status.engines.iter().for_each(account);
    let lease_age_ms = status.engines.iter().filter_map(|engine| engine.lease_age_ms).max().unwrap_or_default();
    gauge!("hotgo_lease_age_seconds").set(Duration::from_millis(lease_age_ms));
    process();
}

/// Sets how long events have waited for websockets: see [`Hub::lag`](crate::stream::Hub::lag).
pub fn publish_event_lag(lag: Duration) {
    gauge!("hotgo_event_lag_seconds").set(lag);
}

/// Sets how the last process on this data directory ended, if its report is there and can be read. During an upgrade that is
/// one that was there before and ends after this one has started.
pub fn publish_last_shutdown(report: &Path) {
    #[derive(Deserialize)]
    struct Last {
        clean: bool,
    }
    let last = std::fs::read(report).ok().and_then(|text| serde_json::from_slice::<Last>(&text).ok());
    if let Some(last) = last {
        gauge!("hotgo_last_shutdown_clean").set(truth(last.clean));
    }
}

fn account(engine: &EngineReport) {
    let name = || engine.label.clone();
    gauge!("hotgo_account_ready", "account" => name()).set(truth(engine.ready));
    let epoch = engine.epoch.and_then(|epoch| u32::try_from(epoch).ok()).unwrap_or_default();
    gauge!("hotgo_account_epoch", "account" => name()).set(epoch);
    gauge!("hotgo_robots_running", "account" => name()).set(count(engine.robots_running));
    gauge!("hotgo_orders_live", "account" => name()).set(count(engine.live_orders));
    gauge!("hotgo_orders_unknown", "account" => name()).set(count(engine.unresolved.len()));
    let oldest_ms = engine.unresolved.iter().map(|order| order.age_ms).max().unwrap_or_default();
    gauge!("hotgo_orders_unknown_oldest_seconds", "account" => name()).set(Duration::from_millis(oldest_ms));
    gauge!("hotgo_commands_queued", "account" => name()).set(count(engine.queued));
}

/// What the kernel knows of this process. What cannot be read is not shown.
fn process() {
    if let Some(kib) = std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_kib) {
        #[expect(clippy::float_arithmetic, reason = "a metric is a float")]
        gauge!("process_resident_memory_bytes").set(f64::from(kib) * 1024.0);
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        gauge!("process_open_fds").set(count(descriptors.count()));
    }
}

fn resident_kib(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn truth(yes: bool) -> u32 {
    u32::from(yes)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::UnresolvedOrder;
    use crate::http::Check;
    use crate::telemetry::recorder;

    #[test]
    fn accounts_checks_and_unknown_orders_are_shown() {
        let recorder = recorder().unwrap();
        let handle = recorder.handle();
        let unresolved = |age_ms| UnresolvedOrder { client_order_id: "h1".into(), age_ms };
        let engine = EngineReport {
            account: 1,
            label: "main".into(),
            ready: true,
            state: "running".into(),
            epoch: Some(7),
            lease_age_ms: Some(1_500),
            reason: None,
            owner: None,
            robots_running: 3,
            live_orders: 8,
            unresolved: vec![unresolved(1_500), unresolved(90_000)],
            queued: 2,
        };
        let status = StatusReport { uptime_ms: 2_000, engines: vec![engine], ..StatusReport::default() };
        let check = Check { name: "store".into(), ok: false, detail: "does not answer".into() };
        let health = HealthSnapshot { status: HealthStatus::Failing, phase: "serving".into(), checks: vec![check] };
        metrics::with_local_recorder(&recorder, || publish(&status, &health));
        let text = handle.render();
        for line in [
            "hotgo_ready 0",
            "hotgo_uptime_seconds 2",
            "hotgo_check_ok{check=\"store\"} 0",
            "hotgo_account_ready{account=\"main\"} 1",
            "hotgo_account_epoch{account=\"main\"} 7",
            "hotgo_lease_age_seconds 1.5",
            "hotgo_orders_unknown{account=\"main\"} 2",
            "hotgo_orders_unknown_oldest_seconds{account=\"main\"} 90",
            "hotgo_commands_queued{account=\"main\"} 2",
        ] {
            assert!(text.lines().any(|shown| shown == line), "no {line} in\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
        let degraded = HealthSnapshot { status: HealthStatus::Degraded, ..health };
        metrics::with_local_recorder(&recorder, || publish(&status, &degraded));
        assert!(handle.render().lines().any(|shown| shown == "hotgo_ready 1"), "without Redis it is ready");
    }

    #[test]
    fn the_last_shutdown_is_shown_if_there_was_one() {
        let directory = tempfile::tempdir().unwrap();
        let report = directory.path().join("last-shutdown.json");
        let shown = || {
            let recorder = recorder().unwrap();
            metrics::with_local_recorder(&recorder, || publish_last_shutdown(&report));
            recorder.handle().render()
        };
        assert!(!shown().contains("hotgo_last_shutdown_clean"));
        std::fs::write(&report, br#"{"version":1,"exit_code":75,"clean":false}"#).unwrap();
        assert!(shown().contains("hotgo_last_shutdown_clean 0"));
    }
}
