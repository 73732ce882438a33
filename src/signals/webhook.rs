//! TradingView's webhooks. Their sender cannot set headers, so the secret is in the body or the path; it is never logged.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use trading::command::{Command, Wish};
use trading::ids::RobotId;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::api::{SignalsState, answer};
use super::wire::{AlertIn, CommandOut};
use crate::auth;
use crate::http::rate::Name;
use crate::http::{Params, Problem, UndeclaredJson};

const TEMPLATE: &str = r#"it names the alert, so that an alert which is sent twice makes one order. In TradingView's message box: {"id": "{{strategy.order.id}}-{{timenow}}", "action": "{{strategy.order.action}}", "qty": "{{strategy.order.contracts}}", "secret": "<the robot's secret>"}"#;
const MAX_ID_CHARS: usize = 128;

pub(crate) fn routes<S: Clone + Send + Sync + 'static>(state: SignalsState) -> OpenApiRouter<S> {
    OpenApiRouter::new().routes(routes!(webhook)).routes(routes!(webhook_with_secret)).with_state(state)
}

/// The robot is text here: one that is no number is as unknown as one that does not exist.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct RobotPath {
    /// The robot.
    #[param(example = "10001")]
    robot: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct SecretPath {
    /// The robot.
    #[param(example = "10001")]
    robot: String,
    /// Its webhook secret.
    secret: String,
}

/// A TradingView alert, with the secret in the body
///
/// Needs no token. A wrong secret and an unknown robot both give 404. The body may be declared as any type.
#[utoipa::path(post, path = "/api/webhook/{robot}", tag = "signals", security(()), params(RobotPath),
    request_body = AlertIn, responses(
    (status = 202, description = "Orders were planned; or `outcome` is `pending`", body = CommandOut),
    (status = 200, description = "Understood and not acted upon: see `reason`", body = CommandOut),
))]
async fn webhook(
    State(state): State<SignalsState>,
    Params(path): Params<RobotPath>,
    UndeclaredJson(alert): UndeclaredJson<AlertIn>,
) -> Result<Response, Problem> {
    let secret = alert.secret.clone().unwrap_or_default();
    take(state, &path.robot, &secret, alert).await
}

/// A TradingView alert, with the secret in the path
///
/// Needs no token. A wrong secret and an unknown robot both give 404. The body may be declared as any type.
#[utoipa::path(post, path = "/api/webhook/{robot}/{secret}", tag = "signals", security(()), params(SecretPath),
    request_body = AlertIn, responses(
    (status = 202, description = "Orders were planned; or `outcome` is `pending`", body = CommandOut),
    (status = 200, description = "Understood and not acted upon: see `reason`", body = CommandOut),
))]
async fn webhook_with_secret(
    State(state): State<SignalsState>,
    Params(path): Params<SecretPath>,
    UndeclaredJson(alert): UndeclaredJson<AlertIn>,
) -> Result<Response, Problem> {
    if alert.secret.is_some() {
        return Err(Problem::invalid("secret", "the path holds it already"));
    }
    take(state, &path.robot, &path.secret, alert).await
}

async fn take(state: SignalsState, robot: &str, secret: &str, alert: AlertIn) -> Result<Response, Problem> {
    let _guard = state.intake.enter()?;
    let robot = authorize(&state, robot, secret).await?;
    state.rates.admit(Name::Webhook(robot))?;
    let Some(id) = alert.id.clone() else { return Err(Problem::invalid("id", TEMPLATE)) };
    crate::http::text("id", &id, MAX_ID_CHARS)?;
    let signal = alert.parse(robot, state.clock.now(), state.ttl)?;
    let command = Command { source: format!("webhook:{robot}"), dedup_key: id, wish: Wish::Signal(signal) };
    Ok(answer(&state.commands.decide(robot.account(), command).await?, StatusCode::ACCEPTED))
}

/// The robot, if the secret is its own. Otherwise the answer is the same, and takes the same steps, whether there is no such
/// robot, none with a webhook, or one with another secret.
async fn authorize(state: &SignalsState, robot: &str, secret: &str) -> Result<RobotId, Problem> {
    let id = RobotId(robot.parse().unwrap_or(-1));
    let found = state.store.robot(id).await?;
    let hash = found.as_ref().and_then(|robot| robot.webhook_hash.as_deref());
    if auth::matches(secret, hash) { Ok(id) } else { Err(Problem::NotFound("webhook".into())) }
}
