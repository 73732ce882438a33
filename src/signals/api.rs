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

use super::wire::{CommandOut, OutcomeWire, SignalIn};
use super::{CommandError, Commands, Decided, Decision, IntakeClosed, IntakeGate, Pending};
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

/// The answer to a command. `done` is the status if it was done.
pub(crate) fn answer(decision: &Decision, done: StatusCode) -> Response {
    answer_with(decision, |out| {
        let status = if out.outcome == OutcomeWire::Pending { StatusCode::ACCEPTED } else { done };
        (status, Answer(out)).into_response()
    })
}

/// The answer to a command. `done` shows it if it was done, or is pending.
pub(crate) fn answer_with(decision: &Decision, done: impl FnOnce(CommandOut) -> Response) -> Response {
    let out = CommandOut::from(decision);
    let mut response = match decision {
        Decision::Pending(_) => done(out),
        Decision::Decided(Decided { record, .. }) => match &record.outcome {
            Outcome::Done { .. } => done(out),
            Outcome::Skipped { .. } => Answer(out).into_response(),
            Outcome::Denied { reason } => Problem::Denied(reason.clone()).into_response(),
            Outcome::Invalid { field, reason } => Problem::invalid(field, reason).into_response(),
            Outcome::NotFound { what } => Problem::NotFound(what.clone()).into_response(),
        },
    };
    if decision.is_replayed() {
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
/// understood and not acted upon, 409 if a risk rule refuses it. 503 from the moment a shutdown stops intake. 202 with the
/// outcome `pending` if another instance owns the account and has not decided yet: the signal is stored and will be.
#[utoipa::path(post, path = "/api/signals", tag = "signals", request_body = SignalIn, responses(
    (status = 202, description = "Orders were planned; or `outcome` is `pending`", body = CommandOut),
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
/// Of any command: signals, webhooks, and those about robots, orders and accounts. `pending` if it waits for the instance
/// that owns its account. 404 if it was never stored.
#[utoipa::path(get, path = "/api/signals/{source}/{key}", tag = "signals", params(CommandName), responses(
    (status = 200, description = "It", body = CommandOut),
))]
async fn status(
    State(state): State<SignalsState>,
    Params(name): Params<CommandName>,
) -> Result<Answer<CommandOut>, Problem> {
    // Looked for twice: it may be decided between the first look and the one into the inbox.
    for _ in 0..2 {
        if let Some(record) = state.store.find_command(&name.source, &name.key).await? {
            return Ok(Answer((&record).into()));
        }
        if let Some(waiting) = state.store.waiting_command(&name.source, &name.key).await? {
            let Ok(wish) = waiting.wish else { break };
            let command = Command { source: name.source, dedup_key: name.key, wish };
            return Ok(Answer((&Pending { command, received_at: waiting.received_at, replayed: true }).into()));
        }
    }
    Err(Problem::NotFound("command".into()))
}
