//! The routes for orders and fills.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use trading::command::{Command, Wish};
use trading::ids::{AccountId, ClientOrderId, RobotId};
use trading::order::Order;
use trading::time::Timestamp;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accounts;
use super::wire::{FillOut, OrderOut};
use crate::auth::api::Trader;
use crate::engines::Engines;
use crate::http::idempotency::IdempotencyKey;
use crate::http::page::{self, Page};
use crate::http::{Params, Problem, Query};
use crate::instance::api::Seen;
use crate::signals::api::answer;
use crate::signals::{CommandOut, Commands};
use crate::store::{FillFilter, OrderFilter, Store};

/// What the routes need.
#[derive(Debug, Clone)]
pub(crate) struct OrdersState {
    pub(crate) commands: Commands,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) engines: Arc<dyn Engines>,
    pub(crate) instances: Seen,
}

pub(crate) fn routes<S: Clone + Send + Sync + 'static>(state: OrdersState) -> OpenApiRouter<S> {
    OpenApiRouter::new()
        .routes(routes!(orders))
        .routes(routes!(order))
        .routes(routes!(cancel))
        .routes(routes!(fills))
        .routes(routes!(accounts::accounts))
        .routes(routes!(accounts::balances))
        .routes(routes!(accounts::positions))
        .routes(routes!(accounts::events))
        .routes(routes!(accounts::kill))
        .with_state(state)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OrdersQuery {
    /// Only of this account.
    account: Option<i64>,
    /// Only of this robot.
    robot: Option<i64>,
    /// Only those that have not ended.
    #[serde(default)]
    #[param(required = false)]
    live: bool,
    /// How many: 1 to 1000, 100 if absent.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// A place in the list of orders: after the one decided then, with this id.
fn parse_cursor(text: &str) -> Result<(Timestamp, ClientOrderId), Problem> {
    text.split_once('.')
        .and_then(|(micros, id)| Some((Timestamp::from_micros(micros.parse().ok()?), ClientOrderId::from_venue(id))))
        .filter(|(_, id)| id.has_our_shape())
        .ok_or_else(|| Problem::out_of_range("cursor", text, "the `next` of an earlier page"))
}

fn show_cursor(order: &Order) -> String {
    format!("{}.{}", order.created_at.micros(), order.client_id)
}

/// Orders, newest first
#[utoipa::path(get, path = "/api/orders", tag = "orders", params(OrdersQuery), responses(
    (status = 200, description = "They", body = Page<OrderOut>),
))]
async fn orders(
    State(state): State<OrdersState>,
    Query(query): Query<OrdersQuery>,
) -> Result<Answer<Page<OrderOut>>, Problem> {
    let limit = page::limit(query.limit)?;
    let filter = OrderFilter {
        account: query.account.map(AccountId),
        robot: query.robot.map(RobotId),
        live: query.live,
        before: query.cursor.as_deref().map(parse_cursor).transpose()?,
        limit,
    };
    Ok(Answer(Page::of(state.store.orders(&filter).await?, limit, show_cursor)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct OrderPath {
    /// The order.
    #[param(example = "h0123456789abcdefghjkmnpqr0")]
    client_id: String,
}

async fn find(store: &dyn Store, path: OrderPath) -> Result<Order, Problem> {
    let order = store.order(&ClientOrderId::from_venue(path.client_id)).await?;
    order.ok_or_else(|| Problem::NotFound("order".into()))
}

/// One order
#[utoipa::path(get, path = "/api/orders/{client_id}", tag = "orders", params(OrderPath), responses(
    (status = 200, description = "It", body = OrderOut),
))]
async fn order(State(state): State<OrdersState>, Params(path): Params<OrderPath>) -> Result<Answer<OrderOut>, Problem> {
    Ok(Answer(find(&*state.store, path).await?.into()))
}

/// Cancel an order
///
/// Role trader. 202: the cancellation is decided and stored; whether the venue had filled the order first is seen in the
/// order.
#[utoipa::path(post, path = "/api/orders/{client_id}/cancel", tag = "orders", params(OrderPath), responses(
    (status = 202, description = "Decided; or `outcome` is `pending`", body = CommandOut),
    (status = 200, description = "The order has ended already: see `reason`", body = CommandOut),
))]
async fn cancel(
    State(state): State<OrdersState>,
    Trader(caller): Trader,
    IdempotencyKey(dedup_key): IdempotencyKey,
    Params(path): Params<OrderPath>,
) -> Result<Response, Problem> {
    let order = find(&*state.store, path).await?;
    let wish = Wish::CancelOrder { order: order.client_id };
    let command = Command { source: caller.source(), dedup_key, wish };
    Ok(answer(&state.commands.decide(order.account, command).await?, StatusCode::ACCEPTED))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FillsQuery {
    /// Only of this account.
    account: Option<i64>,
    /// Only of this robot.
    robot: Option<i64>,
    /// Only of this order.
    order: Option<String>,
    /// How many: 1 to 1000, 100 if absent.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<i64>,
}

/// Fills, newest first
#[utoipa::path(get, path = "/api/fills", tag = "orders", params(FillsQuery), responses(
    (status = 200, description = "They", body = Page<FillOut>),
))]
async fn fills(
    State(state): State<OrdersState>,
    Query(query): Query<FillsQuery>,
) -> Result<Answer<Page<FillOut>>, Problem> {
    let limit = page::limit(query.limit)?;
    let filter = FillFilter {
        account: query.account.map(AccountId),
        robot: query.robot.map(RobotId),
        order: query.order.map(ClientOrderId::from_venue),
        before: query.cursor,
        limit,
    };
    Ok(Answer(Page::of(state.store.fills(&filter).await?, limit, |stored| stored.row.to_string())))
}
