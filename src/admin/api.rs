//! Routes of the private listener.

use std::fmt;
use std::future::IntoFuture as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutLayer;

use super::{AdminError, AdminSocket, Loopback, StatusReport, UpgradeControl, upgrade};
use crate::notice::{self, Notices};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_LIMIT_BYTES: usize = 65_536;
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long open connections get after the listener has closed.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// What the private listener shows and does. Each part is called while a request waits: none of them blocks.
#[derive(Clone)]
pub struct AdminState {
    /// How the process stands.
    pub status: Arc<dyn Fn() -> StatusReport + Send + Sync>,
    /// What a shutdown would do now.
    pub plan: Arc<dyn Fn() -> Value + Send + Sync>,
    /// Starts the shutdown, for this reason. False if one runs already.
    pub shutdown: Arc<dyn Fn(String) -> bool + Send + Sync>,
    /// The process's metrics. Kept tidy by [`serve`].
    pub metrics: PrometheusHandle,
    /// Sets what is measured only when somebody asks.
    pub publish_metrics: Arc<dyn Fn() + Send + Sync>,
    /// The paper venue's faults; absent unless `venue.paper.allow_faults`.
    pub faults: Option<FaultControl>,
    /// Its part in an upgrade.
    pub upgrade: Option<UpgradeControl>,
    /// What users are told.
    pub notices: Option<Notices>,
}

/// Takes faults as JSON, or says why not.
pub type SetFaults = dyn Fn(&[u8]) -> Result<(), String> + Send + Sync;

/// Reads and sets what goes wrong at the paper venue.
#[derive(Clone)]
pub struct FaultControl {
    /// The faults as they are.
    pub get: Arc<dyn Fn() -> Value + Send + Sync>,
    /// Takes faults as JSON; the error says why they are refused.
    pub set: Arc<SetFaults>,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("faults", &self.faults.is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for FaultControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultControl").finish_non_exhaustive()
    }
}

/// Which listener routes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// The Unix socket: everything.
    Socket,
    /// The loopback address: reading only.
    Loopback,
}

/// The routes.
pub fn router(state: AdminState, surface: Surface) -> Router {
    let mut router = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(|State(state): State<AdminState>| async move { Json((state.status)()) }))
        .route("/plan", get(|State(state): State<AdminState>| async move { Json((state.plan)()) }));
    if surface == Surface::Socket {
        router = router.route("/shutdown", post(shutdown));
        if state.faults.is_some() {
            router = router.route("/faults", get(faults).post(set_faults));
        }
        if let Some(control) = &state.upgrade {
            router = router.merge(upgrade::routes(control.clone()));
        }
        if let Some(notices) = &state.notices {
            router = router.merge(notice::private_routes(notices.clone()));
        }
    }
    router
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, REQUEST_TIMEOUT))
        .with_state(state)
}

/// Serves the socket, and the loopback address if there is one, until told to stop. Connections that are open then get
/// half a second. An address that is waited for is served once it is free.
///
/// Cancel safety: dropping it closes the listeners and removes the socket file.
///
/// # Errors
/// [`AdminError::Serve`].
pub async fn serve(
    socket: AdminSocket,
    loopback: Option<Loopback>,
    state: AdminState,
    stop: CancellationToken,
) -> Result<(), AdminError> {
    let AdminSocket { listener, file } = socket;
    let metrics = state.metrics.clone();
    let upkeep = async {
        let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            metrics.run_upkeep();
        }
        tokio::time::sleep(CLOSE_TIMEOUT).await;
    };
    let on_socket = axum::serve(listener, router(state.clone(), Surface::Socket));
    let on_socket = on_socket.with_graceful_shutdown(stop.clone().cancelled_owned());
    let on_loopback = async {
        let Some(loopback) = loopback else { return Ok(()) };
        let Some(listener) = stop.run_until_cancelled(loopback.listener()).await else { return Ok(()) };
        tracing::info!(address = ?listener.local_addr(), "private listener");
        let serving = axum::serve(listener, router(state, Surface::Loopback));
        serving.with_graceful_shutdown(stop.clone().cancelled_owned()).await
    };
    let both =
        async { tokio::try_join!(on_socket.into_future(), on_loopback).map_err(AdminError::Serve).map(|((), ())| ()) };
    let result = tokio::select! {
        result = both => result,
        () = upkeep => Ok(()),
    };
    drop(file);
    result
}

async fn metrics(State(state): State<AdminState>) -> Response {
    (state.publish_metrics)();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.render()).into_response()
}

/// The body of `POST /shutdown`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShutdownRequest {
    pub(super) reason: String,
}

async fn shutdown(State(state): State<AdminState>, Json(request): Json<ShutdownRequest>) -> Response {
    let started = (state.shutdown)(request.reason);
    (StatusCode::ACCEPTED, Json(json!({ "started": started }))).into_response()
}

async fn faults(State(state): State<AdminState>) -> Response {
    match &state.faults {
        Some(faults) => Json((faults.get)()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn set_faults(State(state): State<AdminState>, body: Bytes) -> Response {
    match state.faults.as_ref().map(|faults| (faults.set)(&body)) {
        Some(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Some(Err(why)) => (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": why }))).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
