//! The seven phases of `docs/architecture.md`.

use std::time::Duration;

use shutdown_coordinator::{BuildError, PhaseId, ShutdownCoordinator, ShutdownHandle, SignalPolicy};

use crate::config::ShutdownConfig;

/// The phases by name.
#[derive(Debug, Clone, Copy)]
pub struct Phases {
    /// Readiness is 503; load balancers get time to see it.
    pub announce: PhaseId,
    /// The listener closes; requests in flight finish.
    pub stop_accepting: PhaseId,
    /// No new signals, no new entries.
    pub stop_new_signals: PhaseId,
    /// Unknown outcomes are resolved, stop policies carried out.
    pub order_drain: PhaseId,
    /// Engines write their last word and give their leases up.
    pub persist_state: PhaseId,
    /// Websockets get the last event and a Close.
    pub close_streams: PhaseId,
    /// The store and the venue close.
    pub close_stores: PhaseId,
}

/// What telling everybody may take beyond the hold.
const TELL: Duration = Duration::from_secs(1);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Builds the coordinator. `signals` installs the handlers of SIGTERM, SIGINT, SIGHUP and SIGQUIT.
///
/// # Errors
/// The budgets do not fit together, or a handler cannot be installed.
pub fn build(
    config: &ShutdownConfig,
    signals: bool,
) -> Result<(ShutdownCoordinator, ShutdownHandle, Phases), BuildError> {
    let mut b = ShutdownCoordinator::builder();
    let announce = b.phase("announce").hold(ms(config.hold_ms)).timeout(ms(config.hold_ms) + TELL).id();
    let stop_accepting =
        b.phase("stop-accepting").after(&[announce]).timeout(ms(config.stop_accepting_ms)).point_of_no_return().id();
    let stop_new_signals =
        b.phase("stop-new-signals").after(&[stop_accepting]).timeout(ms(config.stop_signals_ms)).id();
    let order_drain = b.phase("order-drain").after(&[stop_new_signals]).timeout(ms(config.order_drain_ms)).id();
    let persist_state = b.phase("persist-state").after(&[order_drain]).reserve(ms(config.persist_reserve_ms)).id();
    let close_streams = b.phase("close-streams").after(&[persist_state]).timeout(ms(config.close_streams_ms)).id();
    let close_stores = b.phase("close-stores").after(&[close_streams]).reserve(ms(config.close_stores_reserve_ms)).id();
    let mut b = b.deadline(ms(config.deadline_ms)).watchdog(ms(config.watchdog_ms));
    if signals {
        b = b.signals(SignalPolicy::default());
    }
    let (coordinator, handle) = b.build()?;
    let phases =
        Phases { announce, stop_accepting, stop_new_signals, order_drain, persist_state, close_streams, close_stores };
    Ok((coordinator, handle, phases))
}

#[cfg(test)]
mod tests {
    use super::{build, ms};
    use crate::config::{Sources, WATCHDOG_LEAST_MS, load};

    #[test]
    fn the_least_margin_of_the_watchdog_is_what_these_phases_may_overrun() {
        let nothing = Sources { dir: None, env: [].into(), working_dir: "/nonexistent".into(), flags: Vec::new() };
        let defaults = load(&nothing).unwrap().config.shutdown;
        let (_coordinator, handle, _) = build(&defaults, false).unwrap();
        assert_eq!(handle.plan().overrun, ms(WATCHDOG_LEAST_MS));
    }

    #[test]
    fn stores_close_when_the_last_request_and_the_last_order_are_over_and_nothing_comes_after_them() {
        let nothing = Sources { dir: None, env: [].into(), working_dir: "/nonexistent".into(), flags: Vec::new() };
        let defaults = load(&nothing).unwrap().config.shutdown;
        let (_coordinator, handle, _) = build(&defaults, false).unwrap();
        let plan = handle.plan();
        // What is over before a phase begins.
        let mut before = Vec::new();
        let mut open = vec!["close-stores".to_owned()];
        while let Some(name) = open.pop() {
            let phase = plan.phases.iter().find(|phase| phase.name == name).unwrap();
            open.extend(phase.after.iter().cloned());
            before.push(name);
        }
        for name in ["stop-accepting", "stop-new-signals", "order-drain", "persist-state", "close-streams"] {
            assert!(before.iter().any(|phase| phase == name), "{name} is not over before the stores close: {before:?}");
        }
        assert!(!plan.phases.iter().any(|phase| phase.after.iter().any(|name| name == "close-stores")));
    }
}
