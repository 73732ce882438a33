//! The shutdown over HTTP: how it stands, what it would do, and starting it.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use trading::time::Timestamp;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::OptionalJson;
use super::problem::Problem;
use super::{millis, text};
use crate::auth::api::Admin;
use crate::engines::Engines;
use crate::store::{AuditEntry, Store};

/// The shutdown, as far as HTTP may see and touch it. Implemented by whoever owns the coordinator.
pub trait ShutdownControl: Send + Sync + fmt::Debug {
    /// How it stands.
    fn status(&self) -> ShutdownStatus;
    /// What it would do.
    fn plan(&self) -> ShutdownPlan;
    /// Starts it, unless it has begun. `reason` is for the log.
    fn trigger(&self, reason: &str) -> ShutdownTrigger;
}

/// Where the whole shutdown stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownStage {
    /// No shutdown has begun.
    Serving,
    /// It has begun.
    ShuttingDown,
    /// Every phase is over.
    Over,
}

/// How a shutdown stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ShutdownStatus {
    /// Where the whole stands.
    pub stage: ShutdownStage,
    /// Why it was started.
    #[schema(example = "SIGTERM")]
    pub reason: Option<String>,
    /// Whether waiting was cut short.
    pub forced: bool,
    /// How much time is left until everything must be over.
    pub remaining_ms: Option<u64>,
    /// The phases, in order.
    pub phases: Vec<PhaseState>,
    /// What the running phases wait for.
    pub blockers: Vec<Blocker>,
}

/// How one phase stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PhaseState {
    /// Its name.
    #[schema(example = "order-drain")]
    pub name: String,
    /// `waiting`, `running`, or how it ended.
    #[schema(example = "waiting")]
    pub state: String,
    /// How much time is left to it, while it runs.
    pub remaining_ms: Option<u64>,
}

/// Something that a shutdown waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Blocker {
    /// The phase that waits, or would.
    #[schema(example = "order-drain")]
    pub phase: String,
    /// What it waits for.
    #[schema(example = "order h0123456789abcdefghjkmnpqr")]
    pub name: String,
    /// How many of them.
    pub count: usize,
    /// For how long.
    pub age_ms: u64,
}

/// What a shutdown would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ShutdownPlan {
    /// When everything must be over, counted from the trigger.
    pub deadline_ms: u64,
    /// How long after the deadline the watchdog ends the process.
    pub watchdog_ms: Option<u64>,
    /// The phases, in order.
    pub phases: Vec<PlannedPhase>,
}

/// One phase of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlannedPhase {
    /// Its name.
    #[schema(example = "order-drain")]
    pub name: String,
    /// The phases that must be over before it.
    pub after: Vec<String>,
    /// Its own limit.
    pub timeout_ms: Option<u64>,
    /// The time that is kept for it, whatever came before.
    pub reserve_ms: u64,
    /// How long it lasts at least.
    pub hold_ms: u64,
    /// When it ends at the latest, counted from the trigger.
    pub latest_end_ms: u64,
    /// Whether there is no way back once it has begun.
    pub point_of_no_return: bool,
    /// What it would run and wait for.
    pub work: Vec<String>,
}

/// What a rehearsal found. Nothing was stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rehearsal {
    /// What a shutdown would do.
    pub plan: ShutdownPlan,
    /// What it would wait for, if it began now.
    pub would_wait_for: Vec<Blocker>,
    /// Whether every account is ready to hand over: none recovers, none has an order of unknown outcome.
    pub clean: bool,
}

/// What a trigger did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ShutdownTrigger {
    /// Whether this call started it.
    pub started: bool,
    /// The reason of the one that runs: the first one wins.
    pub reason: String,
}

/// What the routes need.
#[derive(Debug, Clone)]
pub(super) struct ShutdownState {
    pub(super) control: Arc<dyn ShutdownControl>,
    pub(super) engines: Arc<dyn Engines>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: fn() -> Timestamp,
}

pub(super) fn routes<S: Clone + Send + Sync + 'static>(state: ShutdownState) -> OpenApiRouter<S> {
    OpenApiRouter::new()
        .routes(routes!(status, trigger))
        .routes(routes!(plan))
        .routes(routes!(rehearse))
        .with_state(state)
}

/// How the shutdown stands
#[utoipa::path(get, path = "/api/shutdown", tag = "shutdown", responses(
    (status = 200, description = "How it stands", body = ShutdownStatus),
))]
async fn status(State(state): State<ShutdownState>) -> Json<ShutdownStatus> {
    Json(state.control.status())
}

/// What a shutdown would do
///
/// Every phase with its limits and what is registered in it.
#[utoipa::path(get, path = "/api/shutdown/plan", tag = "shutdown", responses(
    (status = 200, description = "The plan", body = ShutdownPlan),
))]
async fn plan(State(state): State<ShutdownState>) -> Json<ShutdownPlan> {
    Json(state.control.plan())
}

/// Rehearse a shutdown
///
/// Role admin. Stops nothing: it shows the plan and what a shutdown would have to wait for now.
#[utoipa::path(post, path = "/api/shutdown/rehearsal", tag = "shutdown", responses(
    (status = 200, description = "What it found", body = Rehearsal),
))]
async fn rehearse(State(state): State<ShutdownState>, Admin(_caller): Admin) -> Json<Rehearsal> {
    let engines = state.engines.status();
    let mut would_wait_for = state.control.status().blockers;
    would_wait_for.extend(engines.iter().flat_map(|engine| &engine.unresolved).map(|(order, age)| Blocker {
        phase: "order-drain".into(),
        name: format!("order {order}"),
        count: 1,
        age_ms: millis(*age),
    }));
    let clean = engines.iter().all(|engine| engine.ready && engine.unresolved.is_empty());
    Json(Rehearsal { plan: state.control.plan(), would_wait_for, clean })
}

/// Why to shut down.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TriggerIn {
    /// For the log: 1 to 200 characters.
    #[schema(example = "maintenance of the host")]
    reason: Option<String>,
}

/// Shut the server down
///
/// Role admin. The first trigger wins; later ones are told its reason.
#[utoipa::path(post, path = "/api/shutdown", tag = "shutdown", request_body = Option<TriggerIn>, responses(
    (status = 202, description = "It has begun, by this call or an earlier one", body = ShutdownTrigger),
))]
async fn trigger(
    State(state): State<ShutdownState>,
    Admin(caller): Admin,
    OptionalJson(body): OptionalJson<TriggerIn>,
) -> Result<Response, Problem> {
    let reason = body.reason.unwrap_or_else(|| "asked over HTTP".into());
    text("reason", &reason, 200)?;
    let entry = AuditEntry {
        at: (state.clock)(),
        actor: caller.key_id.to_string(),
        act: "shutdown.trigger".into(),
        target: reason.clone(),
    };
    if let Err(error) = state.store.append_audit(&entry).await {
        // A server whose store fails must be stoppable all the same.
        tracing::error!(actor = entry.actor, %error, "a shutdown could not be noted in the audit table");
    }
    let triggered = state.control.trigger(&reason);
    Ok((StatusCode::ACCEPTED, Json(triggered)).into_response())
}
