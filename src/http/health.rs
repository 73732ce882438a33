//! Health: for load balancers, supervisors and people. No token, no layers, as little work as possible.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use trading::time::Timestamp;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::layers::new_request_id;
use super::problem::Problem;
use crate::clock::Clock;

/// Whether the server does what it is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// Ready: every engine is recovered and the store answers.
    Ok,
    /// Ready: something that only makes things quicker does not answer.
    Degraded,
    /// Not ready yet.
    Starting,
    /// A shutdown has begun.
    Draining,
    /// A check fails.
    Failing,
}

impl HealthStatus {
    /// Whether to send it work.
    pub fn is_ready(self) -> bool {
        match self {
            Self::Ok | Self::Degraded => true,
            Self::Starting | Self::Draining | Self::Failing => false,
        }
    }
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Check {
    /// What, such as `store` or `account:main`.
    #[schema(value_type = String, example = "store")]
    pub name: Cow<'static, str>,
    /// Whether it is as it should be.
    pub ok: bool,
    /// In words.
    #[schema(value_type = String)]
    pub detail: Cow<'static, str>,
}

/// How the server stands at this moment. Made for each health request, so it reads what others keep up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSnapshot {
    /// Ready if [`HealthStatus::is_ready`].
    pub status: HealthStatus,
    /// The phase of its life: `serving`, or the shutdown's phase.
    pub phase: Cow<'static, str>,
    /// What was checked.
    pub checks: Vec<Check>,
}

/// What the health routes need.
#[derive(Clone)]
pub(super) struct HealthState {
    pub(super) snapshot: Arc<dyn Fn() -> HealthSnapshot + Send + Sync>,
    pub(super) clock: Clock,
    pub(super) started_at: Timestamp,
    pub(super) build_id: Arc<str>,
}

impl fmt::Debug for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthState").field("build_id", &self.build_id).finish_non_exhaustive()
    }
}

#[derive(Serialize, ToSchema)]
struct Health<'a> {
    status: HealthStatus,
    /// The phase of the server's life: `serving`, or the shutdown's phase.
    #[schema(example = "serving")]
    phase: &'a str,
    #[schema(example = "0.1.0")]
    version: &'a str,
    /// Which build runs.
    build_id: &'a str,
    uptime_ms: u64,
    checks: &'a [Check],
}

pub(super) fn routes<S: Clone + Send + Sync + 'static>(state: HealthState) -> OpenApiRouter<S> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(live)).routes(routes!(ready)).with_state(state)
}

/// The layers of the other routes would render this; here there are none.
pub(super) async fn method_not_allowed() -> Response {
    let id = new_request_id();
    let mut response = StatusCode::METHOD_NOT_ALLOWED.into_response();
    Problem::MethodNotAllowed.render(id.to_str().unwrap_or_default(), &mut response);
    response
}

/// How the server stands
///
/// 200 if it is ready, 503 if it is starting, draining or failing. `degraded` is ready: everything works, some of it slower.
#[utoipa::path(get, path = "/api/health", tag = "health", security(()), responses(
    (status = 200, description = "Ready", body = Health),
    (status = 503, description = "Starting, draining or failing", body = Health),
))]
async fn health(State(state): State<HealthState>) -> Response {
    let snapshot = (state.snapshot)();
    let uptime = state.clock.now().since(state.started_at);
    let body = Health {
        status: snapshot.status,
        phase: &snapshot.phase,
        version: env!("CARGO_PKG_VERSION"),
        build_id: &state.build_id,
        uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
        checks: &snapshot.checks,
    };
    // A struct of strings and numbers always serialises.
    let text = serde_json::to_vec(&body).unwrap_or_default();
    answer(status_of(snapshot.status), text.into())
}

/// Whether the process lives
///
/// 200 as long as it answers at all, also while it shuts down.
#[utoipa::path(get, path = "/api/health/live", tag = "health", security(()), responses(
    (status = 200, description = "The process lives", body = String, content_type = "application/json", example = json!({"live": true})),
))]
async fn live() -> Response {
    answer(StatusCode::OK, Bytes::from_static(br#"{"live":true}"#))
}

/// Whether to send it work
///
/// 503 before every engine is recovered, while a check fails, and from the first moment of a shutdown.
#[utoipa::path(get, path = "/api/health/ready", tag = "health", security(()), responses(
    (status = 200, description = "Send it work", body = String, content_type = "application/json", example = json!({"ready": true})),
    (status = 503, description = "Do not", body = String, content_type = "application/json", example = json!({"ready": false})),
))]
async fn ready(State(state): State<HealthState>) -> Response {
    match status_of((state.snapshot)().status) {
        StatusCode::OK => answer(StatusCode::OK, Bytes::from_static(br#"{"ready":true}"#)),
        status => answer(status, Bytes::from_static(br#"{"ready":false}"#)),
    }
}

fn status_of(status: HealthStatus) -> StatusCode {
    if status.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn answer(status: StatusCode, body: Bytes) -> Response {
    const HEADERS: [(header::HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, HEADERS, body).into_response()
}
