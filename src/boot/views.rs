//! How the process looks from outside: health, status, and the shutdown as HTTP sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shutdown_coordinator::{
    PhaseProgress, PhaseStage, PhaseStatus, Plan, Progress, Reason, RunStage, ShutdownHandle, Trigger,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::reload::LastReload;
use super::slot::Accepting;
use crate::admin::{self, BlockerReport, EngineReport, PhaseReport, StatusReport};
use crate::clock::Clock;
use crate::engines::{EngineRegistry, EngineStatus, Engines};
use crate::http::{
    Blocker, Check, HealthSnapshot, HealthStatus, PhaseState, PlannedPhase, ShutdownControl, ShutdownPlan,
    ShutdownStage, ShutdownStatus, ShutdownTrigger,
};
use crate::instance::Instances;
use crate::redis::Redis;
use crate::stream::Hub;

/// What all views read.
#[derive(Debug, Clone)]
pub(super) struct Views {
    pub(super) handle: ShutdownHandle,
    pub(super) registry: Arc<EngineRegistry>,
    pub(super) store_is_well: Arc<AtomicBool>,
    pub(super) clock: Clock,
    pub(super) build_id: Arc<str>,
    pub(super) sessions: shutdown_coordinator::Gate,
    pub(super) redis: Option<Redis>,
    pub(super) last_reload: watch::Receiver<Option<LastReload>>,
    pub(super) instances: Instances,
    pub(super) accepting: Accepting,
    pub(super) hub: Arc<Hub>,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Views {
    /// The phase of the process's life: `serving`, or the phase of the shutdown that runs.
    fn phase(&self, progress: &Progress) -> String {
        if !self.handle.is_shutting_down() {
            return "serving".into();
        }
        let running: Vec<&str> = progress.running().map(|phase| phase.name.as_str()).collect();
        if running.is_empty() { "stopping".into() } else { running.join("+") }
    }

    pub(super) fn health(&self) -> HealthSnapshot {
        let mut checks: Vec<Check> = Vec::new();
        for engine in self.registry.status() {
            checks.push(Check {
                name: format!("account:{}", engine.label).into(),
                ok: engine.is_well(),
                detail: detail(&engine).into(),
            });
        }
        let store_ok = self.store_is_well.load(Ordering::Relaxed);
        checks.push(Check {
            name: "store".into(),
            ok: store_ok,
            detail: if store_ok { "answers" } else { "does not answer" }.into(),
        });
        let recovering = |check: &Check| check.detail == "starting" || check.detail == "recovering";
        let status = if self.handle.is_shutting_down() {
            HealthStatus::Draining
        } else if checks.iter().all(|check| check.ok) {
            HealthStatus::Ok
        } else if checks.iter().filter(|check| !check.ok).all(recovering) {
            HealthStatus::Starting
        } else {
            HealthStatus::Failing
        };
        // Everything goes on without Redis, only slower: its check comes after the verdict, and can only lessen an `ok`.
        let status = match &self.redis {
            Some(redis) => {
                let ok = redis.is_well();
                let detail = if ok { "answers" } else { "degraded: does not answer; everything goes on without it" };
                checks.push(Check { name: "redis".into(), ok, detail: detail.into() });
                if status == HealthStatus::Ok && !ok { HealthStatus::Degraded } else { status }
            }
            None => status,
        };
        let phase = if status == HealthStatus::Draining {
            self.phase(&self.handle.progress().borrow()).into()
        } else {
            "serving".into()
        };
        HealthSnapshot { status, phase, checks }
    }

    pub(super) fn status(&self) -> StatusReport {
        let progress = self.handle.progress().borrow().clone();
        let now = Instant::now();
        StatusReport {
            build_id: self.build_id.to_string(),
            instance: self.instances.id().to_string(),
            successor: self.instances.successor().map(|id| id.to_string()),
            pid: std::process::id(),
            uptime_ms: ms(self.clock.uptime()),
            phase: self.phase(&progress),
            ready: self.health().status.is_ready(),
            accepting: self.accepting.is_on(),
            reason: self.handle.reason().map(|reason| reason.to_string()),
            deadline_remaining_ms: progress.deadline.map(|at| ms(at.saturating_duration_since(now))),
            phases: progress.phases.iter().map(phase_report).collect(),
            blockers: self
                .handle
                .blockers()
                .into_iter()
                .map(|blocker| BlockerReport {
                    phase: blocker.phase.clone(),
                    what: format!("{} {}", blocker.kind, blocker.name),
                    age_ms: ms(blocker.age),
                })
                .collect(),
            engines: self.registry.status().iter().map(EngineReport::from).collect(),
            sessions: self.sessions.held(),
            last_reload: self.last_reload.borrow().as_ref().map(|last| last.report(self.clock.now())),
        }
    }
}

impl ShutdownControl for Views {
    fn status(&self) -> ShutdownStatus {
        let progress = self.handle.progress().borrow().clone();
        let now = Instant::now();
        let left = |at: Option<Instant>| at.map(|at| ms(at.saturating_duration_since(now)));
        ShutdownStatus {
            stage: match progress.stage {
                _ if !self.handle.is_shutting_down() => ShutdownStage::Serving,
                RunStage::Over => ShutdownStage::Over,
                _ => ShutdownStage::ShuttingDown,
            },
            reason: self.handle.reason().map(|reason| reason.to_string()),
            forced: self.handle.force_token().is_cancelled(),
            remaining_ms: left(progress.deadline),
            phases: progress
                .phases
                .iter()
                .map(|phase| {
                    let (state, deadline) = match phase.stage {
                        PhaseStage::Waiting => ("waiting".to_owned(), None),
                        PhaseStage::Running { deadline } => ("running".to_owned(), Some(deadline)),
                        PhaseStage::Over(status) => (format!("{status:?}").to_lowercase(), None),
                        _ => ("unknown".to_owned(), None),
                    };
                    PhaseState { name: phase.name.clone(), state, remaining_ms: left(deadline) }
                })
                .collect(),
            blockers: blockers(self.handle.blockers()),
        }
    }

    fn plan(&self) -> ShutdownPlan {
        plan(&self.handle.plan())
    }

    fn trigger(&self, reason: &str) -> ShutdownTrigger {
        match self.handle.trigger(Reason::Manual(reason.to_owned())) {
            Trigger::Started => ShutdownTrigger { started: true, reason: reason.to_owned() },
            Trigger::AlreadyRunning(first) => ShutdownTrigger { started: false, reason: first.to_string() },
            _ => ShutdownTrigger { started: false, reason: "nobody is left to run a shutdown".to_owned() },
        }
    }
}

/// What an account is doing, why, and where.
fn detail(engine: &EngineStatus) -> String {
    let elsewhere = || engine.owner.as_ref().filter(|_| !engine.ready && engine.is_well());
    match (&engine.reason, elsewhere()) {
        (Some(reason), _) => format!("{}: {reason}", engine.state),
        (None, Some(owner)) => format!("{}: {owner}", engine.state),
        (None, None) => engine.state.to_owned(),
    }
}

fn phase_report(phase: &PhaseProgress) -> PhaseReport {
    let state = match phase.stage {
        PhaseStage::Running { .. } => admin::PhaseState::Running,
        PhaseStage::Over(PhaseStatus::Completed) => admin::PhaseState::Completed,
        PhaseStage::Over(_) => admin::PhaseState::Incomplete,
        _ => admin::PhaseState::Waiting,
    };
    PhaseReport { name: phase.name.clone(), state }
}

/// Blockers of the same name as one, with their number and the oldest's age.
fn blockers(all: Vec<shutdown_coordinator::Blocker>) -> Vec<Blocker> {
    let mut grouped: Vec<Blocker> = Vec::new();
    for blocker in all {
        let (phase, age_ms) = (blocker.phase.clone(), ms(blocker.age));
        match grouped.iter_mut().find(|known| known.name == blocker.name && known.phase == phase) {
            Some(known) => {
                known.count += 1;
                known.age_ms = known.age_ms.max(age_ms);
            }
            None => grouped.push(Blocker { phase, name: blocker.name.clone(), count: 1, age_ms }),
        }
    }
    grouped
}

fn plan(plan: &Plan) -> ShutdownPlan {
    ShutdownPlan {
        deadline_ms: ms(plan.deadline),
        watchdog_ms: plan.watchdog_margin.map(ms),
        phases: plan
            .phases
            .iter()
            .map(|phase| PlannedPhase {
                name: phase.name.clone(),
                after: phase.after.clone(),
                timeout_ms: phase.timeout.map(ms),
                reserve_ms: ms(phase.reserve),
                hold_ms: ms(phase.hold),
                latest_end_ms: ms(phase.latest_end),
                point_of_no_return: phase.point_of_no_return,
                work: phase.work.iter().map(|work| format!("{} {}", work.kind, work.name)).collect(),
            })
            .collect(),
    }
}
