//! What an upgrade needs of the process that hands over and of the one that takes over.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Tells this process what its part in an upgrade is.
#[derive(Clone)]
pub struct UpgradeControl {
    /// Accepts connections from now on, if it does not already.
    pub accept: Arc<dyn Fn() + Send + Sync>,
    /// Hands all accounts over to the instance with this id, or says why not.
    pub hand_over: Arc<dyn Fn(String) -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
    /// Takes them back, or says why not.
    pub take_back: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Tries everything that serving needs.
    pub self_test: Arc<dyn Fn() -> BoxFuture<'static, SelfTest> + Send + Sync>,
}

impl fmt::Debug for UpgradeControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeControl").finish_non_exhaustive()
    }
}

/// What `GET /self-test` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// Whether every check is.
    pub ok: bool,
    /// Each by its name.
    pub checks: Vec<SelfTestCheck>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTestCheck {
    /// `store`, `schema`, `venue:<account>` or `router`.
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// In words.
    pub detail: String,
}

impl FromIterator<SelfTestCheck> for SelfTest {
    fn from_iter<T: IntoIterator<Item = SelfTestCheck>>(checks: T) -> Self {
        let checks: Vec<SelfTestCheck> = checks.into_iter().collect();
        Self { ok: checks.iter().all(|check| check.ok), checks }
    }
}

/// The body of `POST /hand-over`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HandOver {
    /// An instance's id.
    to: String,
}

pub(super) fn routes<S: Clone + Send + Sync + 'static>(control: UpgradeControl) -> Router<S> {
    Router::new()
        .route("/accept", post(accept))
        .route("/self-test", get(self_test))
        .route("/hand-over", post(hand_over))
        .route("/take-back", post(take_back))
        .with_state(control)
}

async fn accept(State(control): State<UpgradeControl>) -> Response {
    (control.accept)();
    Json(json!({ "accepting": true })).into_response()
}

async fn self_test(State(control): State<UpgradeControl>) -> Response {
    Json((control.self_test)().await).into_response()
}

async fn hand_over(State(control): State<UpgradeControl>, Json(HandOver { to }): Json<HandOver>) -> Response {
    answer((control.hand_over)(to).await)
}

async fn take_back(State(control): State<UpgradeControl>) -> Response {
    answer((control.take_back)())
}

fn answer(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => (StatusCode::ACCEPTED, Json(json!({}))).into_response(),
        Err(why) => (StatusCode::CONFLICT, Json(json!({ "error": why }))).into_response(),
    }
}
