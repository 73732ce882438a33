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
    /// How much later the watchdog ends a process that did not end itself.
    pub watchdog_ms: u64,
    /// What the supervisor allows before SIGKILL (systemd: TimeoutStopSec).
    pub stop_budget_ms: u64,
}
