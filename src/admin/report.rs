//! What `GET /status` says. Times are milliseconds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engines::EngineStatus;

/// How the process stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The build.
    pub build_id: String,
    /// The instance's id: unique per start of a process.
    #[serde(default)]
    pub instance: String,
    /// To which instance it hands its accounts over, by its id.
    #[serde(default)]
    pub successor: Option<String>,
    /// The process.
    pub pid: u32,
    /// Since the start of the process.
    pub uptime_ms: u64,
    /// `starting`, `serving`, the name of the phase that runs, or `over`.
    pub phase: String,
    /// Whether readiness is 200.
    pub ready: bool,
    /// Whether it accepts connections.
    #[serde(default)]
    pub accepting: bool,
    /// Why it is shutting down.
    pub reason: Option<String>,
    /// Until the shutdown's deadline.
    pub deadline_remaining_ms: Option<u64>,
    /// Every phase in order, once a shutdown has begun.
    pub phases: Vec<PhaseReport>,
    /// What the running phases wait for.
    pub blockers: Vec<BlockerReport>,
    /// Every account's engine.
    pub engines: Vec<EngineReport>,
    /// Websocket sessions.
    pub sessions: usize,
    /// What came of the last SIGHUP, if there was one.
    #[serde(default)]
    pub last_reload: Option<ReloadReport>,
}

/// What came of reading the configuration again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// How long ago.
    pub age_ms: u64,
    /// Whether the new configuration is in force. If not, the old one is.
    pub ok: bool,
    /// Which keys have changed, or why none has.
    pub detail: String,
}

/// One phase of the shutdown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: PhaseState,
}

/// Where a phase stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseState {
    /// Not begun.
    Waiting,
    /// Running.
    Running,
    /// Over, everything ended in time.
    Completed,
    /// Over, something did not.
    Incomplete,
}

/// What a phase waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockerReport {
    /// The phase.
    pub phase: String,
    /// What and how many, in words.
    pub what: String,
    /// For how long.
    pub age_ms: u64,
}

/// One account's engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineReport {
    /// The account's number.
    pub account: i64,
    /// What people call it.
    pub label: String,
    /// Whether it trades.
    pub ready: bool,
    /// `starting`, `recovering`, `running`, `draining`, `stopped`, `quarantined`, `handing over`, `standby` or `unowned`.
    pub state: String,
    /// Why it is quarantined, or cannot be traded here.
    #[serde(default)]
    pub reason: Option<String>,
    /// Which instance has it, by its id.
    #[serde(default)]
    pub owner: Option<String>,
    /// The lease epoch.
    pub epoch: Option<i64>,
    /// How long ago its lease was taken or renewed.
    #[serde(default)]
    pub lease_age_ms: Option<u64>,
    /// Robots that trade.
    pub robots_running: usize,
    /// Orders that have not ended.
    pub live_orders: usize,
    /// Orders whose outcome is unknown.
    pub unresolved: Vec<UnresolvedOrder>,
    /// Commands waiting.
    pub queued: usize,
}

/// An order whose outcome is unknown: what holds up a drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnresolvedOrder {
    /// Its id.
    pub client_order_id: String,
    /// For how long.
    pub age_ms: u64,
}

impl From<&EngineStatus> for EngineReport {
    fn from(status: &EngineStatus) -> Self {
        let unresolved = status.unresolved.iter();
        Self {
            account: status.account.0,
            label: status.label.clone(),
            ready: status.ready,
            state: status.state.to_owned(),
            reason: status.reason.clone(),
            owner: status.owner.as_deref().map(str::to_owned),
            epoch: status.epoch.map(|epoch| epoch.0),
            lease_age_ms: status.lease_at.map(|at| millis(at.elapsed())),
            robots_running: status.robots_running,
            live_orders: status.live_orders,
            unresolved: unresolved
                .map(|(id, age)| UnresolvedOrder { client_order_id: id.to_string(), age_ms: millis(*age) })
                .collect(),
            queued: status.queued,
        }
    }
}

/// Whole milliseconds; more than `u64` holds counts as its maximum.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
