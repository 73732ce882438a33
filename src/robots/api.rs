//! The routes for robots.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use trading::command::{Command, Wish};
use trading::ids::{AccountId, RobotId};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::wire::{RobotIn, RobotOut, StopPolicyWire};
use crate::auth::Principal;
use crate::auth::api::Trader;
use crate::http::idempotency::IdempotencyKey;
use crate::http::page::Page;
use crate::http::{Json, OptionalJson, Params, Problem, Query, text};
use crate::orders::which_account;
use crate::signals::api::{answer, answer_with};
use crate::signals::{CommandOut, Commands, Decision};
use crate::store::Store;

/// What the routes need.
#[derive(Debug, Clone)]
pub(crate) struct RobotsState {
    pub(crate) commands: Commands,
    pub(crate) store: Arc<dyn Store>,
}

pub(crate) fn routes<S: Clone + Send + Sync + 'static>(state: RobotsState) -> OpenApiRouter<S> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show))
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(halt))
        .with_state(state)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only of this account.
    account: Option<i64>,
}

/// All robots
#[utoipa::path(get, path = "/api/robots", tag = "robots", params(ListQuery), responses(
    (status = 200, description = "They", body = Page<RobotOut>),
))]
async fn list(
    State(state): State<RobotsState>,
    Query(query): Query<ListQuery>,
) -> Result<Answer<Page<RobotOut>>, Problem> {
    Ok(Answer(Page::whole(state.store.robots(query.account.map(AccountId)).await?)))
}

/// The webhook of a new robot.
#[derive(Serialize, ToSchema)]
struct WebhookOut {
    /// Where alerts go; null while the robot's number is not known.
    #[schema(example = "/api/webhook/10001")]
    path: Option<String>,
    /// What each alert carries as `secret`. It is shown this once and kept nowhere, so an answer that is repeated for the
    /// same idempotency key has null here.
    #[schema(example = "whs_..")]
    secret: Option<String>,
}

/// A robot that was just made, or will be.
#[derive(Serialize, ToSchema)]
struct CreatedOut {
    /// Its number; null while `command` is pending.
    #[schema(example = 10001)]
    robot: Option<i64>,
    /// Its webhook, if it has one.
    webhook: Option<WebhookOut>,
    /// What became of the request.
    command: CommandOut,
}

/// Make a robot
///
/// Role trader. Settings that do not fit the symbol give 422 with the field. The secret of a webhook is shown once, here. 202
/// if another instance owns the account and has not decided yet: the secret shown then is the robot's, and the same request
/// with the same key gives its number.
#[utoipa::path(post, path = "/api/robots", tag = "robots", request_body = RobotIn, responses(
    (status = 201, description = "Made", body = CreatedOut),
    (status = 202, description = "Stored: it will be decided by the instance that owns the account", body = CreatedOut),
    (status = 404, description = "No such account"),
))]
async fn create(
    State(state): State<RobotsState>,
    Trader(caller): Trader,
    IdempotencyKey(dedup_key): IdempotencyKey,
    Json(body): Json<RobotIn>,
) -> Result<Response, Problem> {
    let account = body.account;
    let (robot, secret) = body.parse()?;
    let account = which_account(&*state.store, account).await?;
    let command = Command { source: caller.source(), dedup_key, wish: Wish::CreateRobot(robot) };
    let decision = state.commands.decide(account, command).await?;
    // The secret of the command that counts, which is the first of its name.
    let shown = secret.filter(|_| !decision.is_replayed());
    let (wish, status) = match &decision {
        Decision::Decided(decided) => (&decided.record.command.wish, StatusCode::CREATED),
        Decision::Pending(pending) => (&pending.command.wish, StatusCode::ACCEPTED),
    };
    let has_webhook = matches!(wish, Wish::CreateRobot(made) if made.webhook_hash.is_some());
    Ok(answer_with(&decision, |command| {
        let webhook = has_webhook.then(|| WebhookOut {
            path: command.robot.map(|id| format!("/api/webhook/{id}")),
            secret: shown.map(crate::auth::Secret::into_text),
        });
        (status, Answer(CreatedOut { robot: command.robot, webhook, command })).into_response()
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct RobotPath {
    /// The robot.
    #[param(example = 10001)]
    id: i64,
}

/// One robot
#[utoipa::path(get, path = "/api/robots/{id}", tag = "robots", params(RobotPath), responses(
    (status = 200, description = "It", body = RobotOut),
))]
async fn show(State(state): State<RobotsState>, Params(path): Params<RobotPath>) -> Result<Answer<RobotOut>, Problem> {
    let robot = state.store.robot(RobotId(path.id)).await?;
    robot.map(|robot| Answer(robot.into())).ok_or_else(|| Problem::NotFound("robot".into()))
}

/// No settings.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Start a robot
///
/// Role trader. Also lifts its halt or quarantine.
#[utoipa::path(post, path = "/api/robots/{id}/start", tag = "robots", params(RobotPath), responses(
    (status = 200, description = "Started, or running already: see `outcome`", body = CommandOut),
    (status = 202, description = "Stored: it will be decided by the instance that owns the account", body = CommandOut),
))]
async fn start(
    State(state): State<RobotsState>,
    Trader(caller): Trader,
    IdempotencyKey(dedup_key): IdempotencyKey,
    Params(path): Params<RobotPath>,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> Result<Response, Problem> {
    let robot = RobotId(path.id);
    act(&state, &caller, dedup_key, robot, Wish::StartRobot { robot }).await
}

/// How to stop.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StopIn {
    /// Instead of the robot's own policy.
    policy: Option<StopPolicyWire>,
}

/// Stop a robot
///
/// Role trader. Carries out its stop policy, or the one given here.
#[utoipa::path(post, path = "/api/robots/{id}/stop", tag = "robots", params(RobotPath),
    request_body = Option<StopIn>, responses(
    (status = 200, description = "Stopping, or stopped already: see `outcome`", body = CommandOut),
    (status = 202, description = "Stored: it will be decided by the instance that owns the account", body = CommandOut),
))]
async fn stop(
    State(state): State<RobotsState>,
    Trader(caller): Trader,
    IdempotencyKey(dedup_key): IdempotencyKey,
    Params(path): Params<RobotPath>,
    OptionalJson(body): OptionalJson<StopIn>,
) -> Result<Response, Problem> {
    let robot = RobotId(path.id);
    let policy = body.policy.map(Into::into);
    act(&state, &caller, dedup_key, robot, Wish::StopRobot { robot, policy }).await
}

/// Why to halt.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HaltIn {
    /// For those who look: 1 to 200 characters.
    #[schema(example = "strange fills")]
    reason: Option<String>,
}

/// Halt a robot: its kill switch
///
/// Role trader. No entries from now on; cancels and reducing orders only. Starting it lifts the halt.
#[utoipa::path(post, path = "/api/robots/{id}/halt", tag = "robots", params(RobotPath),
    request_body = Option<HaltIn>, responses(
    (status = 200, description = "Halted, or halted already: see `outcome`", body = CommandOut),
    (status = 202, description = "Stored: it will be decided by the instance that owns the account", body = CommandOut),
))]
async fn halt(
    State(state): State<RobotsState>,
    Trader(caller): Trader,
    IdempotencyKey(dedup_key): IdempotencyKey,
    Params(path): Params<RobotPath>,
    OptionalJson(body): OptionalJson<HaltIn>,
) -> Result<Response, Problem> {
    let reason = body.reason.unwrap_or_else(|| format!("halted by {}", caller.name));
    text("reason", &reason, 200)?;
    let robot = RobotId(path.id);
    act(&state, &caller, dedup_key, robot, Wish::HaltRobot { robot, reason }).await
}

async fn act(
    state: &RobotsState,
    caller: &Principal,
    dedup_key: String,
    robot: RobotId,
    wish: Wish,
) -> Result<Response, Problem> {
    let command = Command { source: caller.source(), dedup_key, wish };
    match state.commands.decide(robot.account(), command).await.map_err(Problem::from) {
        // A robot of an account that does not exist is a robot that does not exist.
        Err(Problem::NotFound(_)) => Err(Problem::NotFound("robot".into())),
        decided => Ok(answer(&decided?, StatusCode::OK)),
    }
}
