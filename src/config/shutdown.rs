//! `shutdown`: the seven phases and their budgets.

use serde::{Deserialize, Serialize};

/// `shutdown`. See the plan that `main check` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownConfig {
    /// announce: how long readiness is 503 before anything closes, so that load balancers see it. 0 on one host.
    pub hold_ms: u64,
    /// stop-accepting: limit.
    pub stop_accepting_ms: u64,
    /// stop-accepting: how long open connections are still answered, with `Connection: close`.
    pub linger_ms: u64,
    /// stop-new-signals: limit.
    pub stop_signals_ms: u64,
    /// order-drain: limit.
    pub order_drain_ms: u64,
    /// persist-state: reserved.
    pub persist_reserve_ms: u64,
    /// close-streams: limit.
    pub close_streams_ms: u64,
    /// close-stores: reserved.
    pub close_stores_reserve_ms: u64,
    /// The whole shutdown, from the signal on.
    pub deadline_ms: u64,
    /// How much later the watchdog ends a process that did not end itself. At least 1,050.
    pub watchdog_ms: u64,
    /// What the supervisor allows before SIGKILL (systemd: `TimeoutStopSec`).
    pub stop_budget_ms: u64,
}

/// One phase of the plan, with its worst case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedPhase {
    /// Its name.
    pub name: &'static str,
    /// Its own limit.
    pub limit_ms: u64,
    /// How long it lasts at least.
    pub hold_ms: u64,
    /// Whether its limit is kept for it although earlier phases overran.
    pub reserved: bool,
    /// When it ends at the latest, counted from the signal.
    pub latest_end_ms: u64,
}

impl ShutdownConfig {
    /// The seven phases in their order. A phase ends at its own limit, or earlier if the reserves after it need the time.
    pub fn plan(&self) -> Vec<PlannedPhase> {
        let phases = [
            ("announce", self.hold_ms, self.hold_ms, false),
            ("stop-accepting", self.stop_accepting_ms, self.linger_ms, false),
            ("stop-new-signals", self.stop_signals_ms, 0, false),
            ("order-drain", self.order_drain_ms, 0, false),
            ("persist-state", self.persist_reserve_ms, 0, true),
            ("close-streams", self.close_streams_ms, 0, false),
            ("close-stores", self.close_stores_reserve_ms, 0, true),
        ];
        let mut owed: u64 = phases.iter().filter(|phase| phase.3).fold(0, |sum, phase| sum.saturating_add(phase.1));
        let mut end = 0_u64;
        let plan = phases.map(|(name, limit_ms, hold_ms, reserved)| {
            if reserved {
                owed = owed.saturating_sub(limit_ms);
            }
            end = end.saturating_add(limit_ms).min(self.deadline_ms.saturating_sub(owed));
            PlannedPhase { name, limit_ms, hold_ms, reserved, latest_end_ms: end }
        });
        plan.into()
    }
}
