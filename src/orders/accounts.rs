//! The routes for accounts: what they hold, what happened to them, and their kill switch.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use trading::command::{Command, Wish};
use trading::ids::{AccountId, Seq};
use utoipa::{IntoParams, ToSchema};

use super::api::OrdersState;
use super::events::EventOut;
use super::which_account;
use super::wire::{BalanceOut, PositionOut};
use crate::auth::api::Trader;
use crate::http::idempotency::{IdempotencyKey, mark_replayed};
use crate::http::page::{self, Page};
use crate::http::{OptionalJson, Problem, Query, text};
use crate::signals::{CommandOut, OutcomeWire};

/// An account and how its engine stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Account)]
pub(super) struct AccountOut {
    /// Its number.
    #[schema(example = 1)]
    id: i64,
    /// Which venue.
    #[schema(example = "paper")]
    venue: String,
    /// What people call it.
    #[schema(example = "main")]
    label: String,
    /// Whether it trades here: recovered, and its lease held.
    ready: bool,
    /// `recovering`, `running`, `draining`, `stopped`, `handing over`; `standby` if another instance has it, `unowned` if none
    /// can; null if it has no engine here.
    #[schema(value_type = Option<String>, example = "running")]
    state: Option<&'static str>,
    /// Which instance has it, by its id.
    owner: Option<String>,
    /// Since which take-over.
    epoch: Option<i64>,
    /// Robots that trade.
    robots_running: usize,
    /// Orders that have not ended.
    live_orders: usize,
    /// Orders whose outcome is not known.
    unresolved_orders: Vec<String>,
}

/// Accounts
#[utoipa::path(get, path = "/api/accounts", tag = "accounts", responses(
    (status = 200, description = "They", body = Page<AccountOut>),
))]
pub(super) async fn accounts(State(state): State<OrdersState>) -> Result<Answer<Page<AccountOut>>, Problem> {
    let engines = state.engines.status();
    let accounts = state.store.accounts().await?;
    let view = state.instances.view.borrow();
    let items = accounts.into_iter().map(|account| {
        let held = view.leases.get(&account.id).filter(|lease| !lease.remaining.is_zero());
        let engine = engines.iter().find(|engine| engine.account == account.id);
        AccountOut {
            id: account.id.0,
            venue: account.venue,
            label: account.label,
            ready: engine.is_some_and(|it| it.ready),
            state: engine.map(|it| it.state),
            owner: held.map(|lease| lease.owner.to_string()),
            epoch: engine.and_then(|it| it.epoch).or(held.map(|lease| lease.epoch)).map(|epoch| epoch.0),
            robots_running: engine.map_or(0, |it| it.robots_running),
            live_orders: engine.map_or(0, |it| it.live_orders),
            unresolved_orders: engine
                .map(|it| it.unresolved.iter().map(|(order, _)| order.to_string()).collect())
                .unwrap_or_default(),
        }
    });
    Ok(Answer(Page { items: items.collect(), next: None }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AccountQuery {
    /// The account. May be absent if there is one only.
    account: Option<i64>,
}

/// Balances of an account
#[utoipa::path(get, path = "/api/balances", tag = "accounts", params(AccountQuery), responses(
    (status = 200, description = "They", body = Page<BalanceOut>),
    (status = 404, description = "No such account"),
))]
pub(super) async fn balances(
    State(state): State<OrdersState>,
    Query(query): Query<AccountQuery>,
) -> Result<Answer<Page<BalanceOut>>, Problem> {
    let account = which_account(&*state.store, query.account).await?;
    Ok(Answer(Page::whole(state.store.balances(account).await?)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PositionsQuery {
    /// Only of this account.
    account: Option<i64>,
}

/// Positions
#[utoipa::path(get, path = "/api/positions", tag = "accounts", params(PositionsQuery), responses(
    (status = 200, description = "They", body = Page<PositionOut>),
))]
pub(super) async fn positions(
    State(state): State<OrdersState>,
    Query(query): Query<PositionsQuery>,
) -> Result<Answer<Page<PositionOut>>, Problem> {
    Ok(Answer(Page::whole(state.store.positions(query.account.map(AccountId)).await?)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// The account. May be absent if there is one only.
    account: Option<i64>,
    /// Only those after this one; all if absent. Give the `next` of the page before here.
    since_seq: Option<i64>,
    /// How many: 1 to 1000, 100 if absent.
    limit: Option<u32>,
}

/// What happened to an account, oldest first
///
/// Each event carries the full image of what changed.
#[utoipa::path(get, path = "/api/events", tag = "accounts", params(EventsQuery), responses(
    (status = 200, description = "They", body = Page<EventOut>),
    (status = 404, description = "No such account"),
))]
pub(super) async fn events(
    State(state): State<OrdersState>,
    Query(query): Query<EventsQuery>,
) -> Result<Answer<Page<EventOut>>, Problem> {
    let limit = page::limit(query.limit)?;
    let since = match query.since_seq.unwrap_or(0) {
        fits @ 0.. => Seq(fits),
        negative => return Err(Problem::out_of_range("since_seq", &negative, "0 or above")),
    };
    let account = which_account(&*state.store, query.account).await?;
    let events = state.store.events(account, since, limit).await?;
    let items: Vec<_> = events.iter().map(|event| EventOut::new(account, event)).collect();
    Ok(Answer(Page::of(items, limit, |event| event.seq.to_string())))
}

/// What to halt.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KillIn {
    /// The account; all of them if absent.
    account: Option<i64>,
    /// For those who look: 1 to 200 characters.
    #[schema(example = "the market is mad")]
    reason: Option<String>,
}

/// The kill switch: halt an account, or all
///
/// Role trader. Halts every robot and cancels what only adds; cancels and reducing orders stay possible. Starting a robot
/// lifts its halt. If some account could not be reached, the answer is a 503 that names it; the others are halted, and
/// sending the same request with the same key halts the rest.
#[utoipa::path(post, path = "/api/kill", tag = "accounts", request_body = Option<KillIn>, responses(
    (status = 200, description = "Halted: one command per account", body = Page<CommandOut>),
    (status = 202, description = "Some commands are `pending`: the owners of their accounts will halt them", body = Page<CommandOut>),
    (status = 404, description = "No such account"),
))]
pub(super) async fn kill(
    State(state): State<OrdersState>,
    Trader(caller): Trader,
    IdempotencyKey(key): IdempotencyKey,
    OptionalJson(body): OptionalJson<KillIn>,
) -> Result<Response, Problem> {
    let reason = body.reason.unwrap_or_else(|| format!("killed by {}", caller.name));
    text("reason", &reason, 200)?;
    let accounts = match body.account {
        Some(_) => vec![which_account(&*state.store, body.account).await?],
        None => state.store.accounts().await?.into_iter().map(|account| account.id).collect(),
    };
    let commands = accounts.into_iter().map(|account| {
        // One key names one command of each account.
        let dedup_key = format!("{key}:{account}");
        let command = Command { source: caller.source(), dedup_key, wish: Wish::Kill { reason: reason.clone() } };
        let decision = state.commands.decide(account, command);
        async move { (account, decision.await.map_err(Problem::from)) }
    });
    // At the same time: each may have to wait for another instance.
    let decisions = join_all(commands).await;
    let (mut items, mut replayed, mut failed) = (Vec::new(), !decisions.is_empty(), Vec::new());
    for (account, decision) in decisions {
        match decision {
            Ok(decision) => {
                replayed &= decision.is_replayed();
                items.push(CommandOut::from(&decision));
            }
            Err(Problem::KeyReused) => return Err(Problem::KeyReused),
            Err(problem) => failed.push(format!("account {account}: {problem}")),
        }
    }
    if !failed.is_empty() {
        let detail = format!("{} halted; {}", items.len(), failed.join("; "));
        return Err(Problem::Unavailable { detail, retry_after_s: 1 });
    }
    let pending = items.iter().any(|item| item.outcome == OutcomeWire::Pending);
    let status = if pending { StatusCode::ACCEPTED } else { StatusCode::OK };
    let mut response = (status, Answer(Page { items, next: None })).into_response();
    if replayed {
        mark_replayed(&mut response);
    }
    Ok(response)
}
