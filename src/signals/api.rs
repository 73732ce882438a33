//! Signals over REST, and the answer that every command gets.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use trading::command::{Command, Outcome, Wish};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::wire::{CommandOut, SignalIn};
use super::{CommandError, Commands, Decided, IntakeClosed, IntakeGate};
use crate::auth::api::Trader;
use crate::clock::Clock;
use crate::http::idempotency::{IdempotencyKey, mark_replayed};
use crate::http::{Json, Params, Problem, RateLimits};
use crate::store::Store;

impl From<IntakeClosed> for Problem {
    fn from(_: IntakeClosed) -> Self {
        Self::stopping()
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Submit(error) => error.into(),
            CommandError::Store(error) => error.into(),
            CommandError::KeyReused => Self::KeyReused,
        }
    }
}

/// The answer to a decided command. `done` is the status if it was done.
pub(crate) fn answer(decided: &Decided, done: StatusCode) -> Response {
    answer_with(decided, |out| (done, Answer(out)).into_response())
}

/// The answer to a decided command. `done` shows it if it was done.
pub(crate) fn answer_with(decided: &Decided, done: impl FnOnce(CommandOut) -> Response) -> Response {
    let record = &decided.record;
    let mut response = match &record.outcome {
        Outcome::Done { .. } => done(record.into()),
        Outcome::Skipped { .. } => Answer(CommandOut::from(record)).into_response(),
        Outcome::Denied { reason } => Problem::Denied(reason.clone()).into_response(),
        Outcome::Invalid { field, reason } => Problem::invalid(field, reason).into_response(),
        Outcome::NotFound { what } => Problem::NotFound(what.clone()).into_response(),
    };
    if decided.replayed {
        mark_replayed(&mut response);
    }
    response
}

/// What the routes need.
#[derive(Debug, Clone)]
pub(crate) struct SignalsState {
    pub(crate) commands: Commands,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) intake: IntakeGate,
    pub(crate) clock: Clock,
    pub(crate) rates: Arc<RateLimits>,
    pub(crate) ttl: Duration,
}

pub(crate) fn routes<S: Clone + Send + Sync + 'static>(state: SignalsState) -> OpenApiRouter<S> {
    OpenApiRouter::new().routes(routes!(signal)).routes(routes!(status)).with_state(state)
}

/// Tell a robot to trade
///
/// Role trader. Answered after the signal and its orders are stored durably: 202 if orders were planned, 200 if it was
/// understood and not acted upon, 409 if a risk rule refuses it. 503 from the moment a shutdown stops intake.
#[utoipa::path(post, path = "/api/signals", tag = "signals", request_body = SignalIn, responses(
    (status = 202, description = "Orders were planned", body = CommandOut),
    (status = 200, description = "Understood and not acted upon: see `reason`", body = CommandOut),
    (status = 404, description = "No such robot"),
))]
async fn signal(
    State(state): State<SignalsState>,
    Trader(caller): Trader,
    IdempotencyKey(dedup_key): IdempotencyKey,
    Json(body): Json<SignalIn>,
) -> Result<Response, Problem> {
    let _guard = state.intake.enter()?;
    let signal = body.parse(state.clock.now(), state.ttl)?;
    let account = signal.robot.account();
    let command = Command { source: caller.source(), dedup_key, wish: Wish::Signal(signal) };
    Ok(answer(&state.commands.decide(account, command).await?, StatusCode::ACCEPTED))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct CommandName {
    /// Who wished it, such as `key:6b1f0a2c3d4e5f60` or `webhook:10001`.
    source: String,
    /// Their name for it.
    key: String,
}

/// What became of a command
///
/// Of any command: signals, webhooks, and those about robots, orders and accounts. 404 if it was never decided.
#[utoipa::path(get, path = "/api/signals/{source}/{key}", tag = "signals", params(CommandName), responses(
    (status = 200, description = "It", body = CommandOut),
))]
async fn status(
    State(state): State<SignalsState>,
    Params(name): Params<CommandName>,
) -> Result<Answer<CommandOut>, Problem> {
    let record = state.store.find_command(&name.source, &name.key).await?;
    record.map(|record| Answer((&record).into())).ok_or_else(|| Problem::NotFound("command".into()))
}
