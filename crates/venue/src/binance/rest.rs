//! The way of one REST request: faults, weight, key, signature, parameters, the exchange, the log, faults.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderValue, Method, Request as HttpRequest, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json as object};
use tokio::time::sleep;
use trading::ids::ClientOrderId;
use trading::time::Timestamp;

use super::error::{ApiError, server_error};
use super::keys::signed_payload;
use super::params::{Params, Validity};
use super::plan::Plan;
use super::requests::Line;
use super::{App, account, general, json, order};
use crate::exchange::Refusal;
use crate::faults::Request;
use crate::record::Label;

const BODY_LIMIT_BYTES: usize = 65_536;
/// Requests that are being processed, also for clients that are gone. More are turned away.
const IN_FLIGHT: usize = 4096;
/// A client id that is longer is not kept.
const LONGEST_ID: usize = 64;
/// Between the half of a body that is sent and the end of its connection.
const CUT: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Ping,
    Time,
    ExchangeInfo,
    Account,
    NewOrder,
    QueryOrder,
    CancelOrder,
    OpenOrders,
    AllOrders,
    MyTrades,
}

impl Endpoint {
    fn of(method: &Method, path: &str) -> Option<Self> {
        Some(match (method.as_str(), path) {
            ("GET", "/api/v3/ping") => Self::Ping,
            ("GET", "/api/v3/time") => Self::Time,
            ("GET", "/api/v3/exchangeInfo") => Self::ExchangeInfo,
            ("GET", "/api/v3/account") => Self::Account,
            ("POST", "/api/v3/order") => Self::NewOrder,
            ("GET", "/api/v3/order") => Self::QueryOrder,
            ("DELETE", "/api/v3/order") => Self::CancelOrder,
            ("GET", "/api/v3/openOrders") => Self::OpenOrders,
            ("GET", "/api/v3/allOrders") => Self::AllOrders,
            ("GET", "/api/v3/myTrades") => Self::MyTrades,
            _ => return None,
        })
    }

    /// As documented with each endpoint.
    fn weight(self, has: impl Fn(&str) -> bool) -> u32 {
        match self {
            Self::Ping | Self::Time | Self::NewOrder | Self::CancelOrder => 1,
            Self::QueryOrder => 4,
            Self::OpenOrders if has("symbol") => 6,
            Self::OpenOrders => 80,
            Self::MyTrades if has("orderId") => 5,
            Self::ExchangeInfo | Self::Account | Self::AllOrders | Self::MyTrades => 20,
        }
    }

    fn kind(self) -> Request {
        match self {
            Self::NewOrder => Request::Post,
            Self::CancelOrder => Request::Cancel,
            Self::QueryOrder => Request::Query,
            _ => Request::Read,
        }
    }
}

/// A request that has arrived.
#[derive(Debug)]
struct Call {
    endpoint: Endpoint,
    query: String,
    body: String,
    api_key: Option<String>,
    from: IpAddr,
}

/// Serves every path that is no websocket.
pub(super) async fn serve(State(app): State<Arc<App>>, request: HttpRequest<Body>) -> Response {
    let (head, body) = request.into_parts();
    let mut line = Line {
        at: app.host.now().micros(),
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        ..Line::default()
    };
    let Some(endpoint) = Endpoint::of(&head.method, head.uri.path()) else {
        return turn_away(&app, line, ApiError::new(StatusCode::NOT_FOUND, -1020, "This operation is not supported."))
            .await;
    };
    let body = match axum::body::to_bytes(body, BODY_LIMIT_BYTES).await.map(|body| String::from_utf8(body.into())) {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            return turn_away(&app, line, ApiError::bad(-1100, "Illegal characters found in a parameter.")).await;
        }
        Err(_) => {
            let refusal =
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, -1101, "Too many parameters sent for this endpoint.");
            return turn_away(&app, line, refusal).await;
        }
    };
    if app.tasks.len() >= IN_FLIGHT {
        let msg = "Server is currently overloaded with other requests. Please try again in a few minutes.";
        return turn_away(&app, line, ApiError::new(StatusCode::SERVICE_UNAVAILABLE, -1008, msg)).await;
    }
    let api_key = head.headers.get("x-mbx-apikey").and_then(|key| key.to_str().ok()).map(str::to_owned);
    let peer = head.extensions.get::<ConnectInfo<SocketAddr>>();
    let from = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.0.ip());
    let query = head.uri.query().unwrap_or_default().to_owned();
    let call = Call { endpoint, query, body, api_key, from };
    let params = Params::parse(&call.query, &call.body);
    let claim = Claim::of(&app, &call, params.as_ref().ok(), &mut line);
    let plan = Plan::of(&mut app.host.injector(), endpoint.kind());
    line.faults = plan.names();
    if plan.lost {
        app.requests.write(line).await;
        return app.silence().await;
    }
    // A task of its own: a request that has arrived is processed, whether its sender still listens or not.
    let work = app.tasks.spawn(process(Arc::clone(&app), call, params, claim, line, plan.clone()));
    let Ok(Some(answer)) = work.await else { return app.silence().await };
    depart(&app, &plan, answer).await
}

/// Refuses a request that is not even looked into.
async fn turn_away(app: &App, mut line: Line, refusal: ApiError) -> Response {
    line.refused(&refusal);
    app.requests.write(line).await;
    refusal.into_response()
}

/// The way back.
async fn depart(app: &App, plan: &Plan, answer: Response) -> Response {
    if plan.answer_lost {
        return app.silence().await;
    }
    if !app.way_back(plan).await {
        return ApiError::unknown_outcome(StatusCode::SERVICE_UNAVAILABLE).into_response();
    }
    if plan.answer_cut { cut(answer).await } else { answer }
}

/// The head and the first half of the body; then the connection breaks.
async fn cut(answer: Response) -> Response {
    let (mut head, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let half = body.slice(..body.len() / 2);
    // hyper sends what it has when nothing follows at once.
    let parts = stream::unfold(Some(half), |part| async move {
        match part {
            Some(half) if !half.is_empty() => Some((Ok::<Bytes, io::Error>(half), Some(Bytes::new()))),
            Some(_) => {
                sleep(CUT).await;
                Some((Err(io::ErrorKind::ConnectionReset.into()), None))
            }
            None => None,
        }
    });
    Response::from_parts(head, Body::from_stream(parts))
}

/// What a request says of itself, before it is believed.
#[derive(Debug)]
struct Claim {
    account: Option<Label>,
    client_id: ClientOrderId,
    timestamp: Timestamp,
}

impl Claim {
    /// Also notes it.
    fn of(app: &App, call: &Call, params: Option<&Params>, line: &mut Line) -> Self {
        let key = call.api_key.as_deref().and_then(|key| app.keys.get(key));
        let account = key.map(|key| Label::clone(&key.account));
        let stated = params.and_then(Params::stated_timestamp);
        let peek = |name: &str| params.and_then(|params| params.peek(name)).map(str::to_owned);
        let client_id = peek("newClientOrderId").filter(|id| !id.is_empty() && id.len() <= LONGEST_ID);
        let client_id = client_id.map_or_else(order::make_id, ClientOrderId::from_venue);
        line.account = account.as_ref().map(ToString::to_string);
        line.timestamp = stated.map(Timestamp::micros);
        line.client_id = match call.endpoint {
            Endpoint::NewOrder => Some(client_id.to_string()),
            Endpoint::QueryOrder | Endpoint::CancelOrder => peek("origClientOrderId"),
            _ => None,
        };
        Self { account, client_id, timestamp: stated.unwrap_or_default() }
    }
}

/// What an account has ordered, in ten seconds and in the day.
type Counts = (u32, u32);

/// Does what the request asks for, notes it, and says what is answered. `None`: the venue ended before it arrived.
async fn process(
    app: Arc<App>,
    call: Call,
    params: Result<Params, ApiError>,
    claim: Claim,
    mut line: Line,
    plan: Plan,
) -> Option<Response> {
    if let Some(late) = plan.late {
        app.stop.run_until_cancelled(sleep(late)).await?;
    }
    let has = |name: &str| params.as_ref().is_ok_and(|params| params.peek(name).is_some());
    let (used, weighed) = app.usage().weigh(call.from, call.endpoint.weight(has), app.host.now());
    let params = weighed.and(plan.forced()).and(params);
    let mut counts = None;
    let mut result = match call.endpoint {
        Endpoint::NewOrder => place(&app, &call, params, claim, &mut counts).await,
        _ => read(&app, &call, params).await,
    };
    if let Some((status, true)) = plan.error {
        result = Err(server_error(status));
    }
    let mut answer = match result {
        Ok(body) => {
            line.status = Some(StatusCode::OK.as_u16());
            axum::Json(body).into_response()
        }
        Err(refusal) => {
            line.refused(&refusal);
            refusal.into_response()
        }
    };
    app.requests.write(line).await;
    let headers = answer.headers_mut();
    headers.insert("x-mbx-used-weight", HeaderValue::from(used));
    headers.insert("x-mbx-used-weight-1m", HeaderValue::from(used));
    if let Some((ten_seconds, day)) = counts {
        headers.insert("x-mbx-order-count-10s", HeaderValue::from(ten_seconds));
        headers.insert("x-mbx-order-count-1d", HeaderValue::from(day));
    }
    Some(answer)
}

/// A new order. Accepted or refused, it is in the ledger when this returns.
async fn place(
    app: &App,
    call: &Call,
    params: Result<Params, ApiError>,
    claim: Claim,
    counts: &mut Option<Counts>,
) -> Result<Value, ApiError> {
    let (account, placement) = match admit(app, call, params, &claim).await {
        Ok(admitted) => admitted,
        Err(refusal) => return Err(record(app, claim, refusal).await),
    };
    let placed = placement.submit(app, Label::clone(&account)).await?;
    *counts = Some(app.usage().ordered(&account, placed.is_filled(), app.host.now()));
    placed.body()
}

/// Everything that is checked before a new order reaches the exchange.
async fn admit(
    app: &App,
    call: &Call,
    params: Result<Params, ApiError>,
    claim: &Claim,
) -> Result<(Label, order::Placement), ApiError> {
    let (account, params, validity) = authenticate(app, call, params?)?;
    let placement = order::parse(params, validity, claim.client_id.clone())?;
    placement.admit(app, &account).await?;
    Ok((account, placement))
}

/// Keeps a request for a new order that is refused before it reaches the exchange. The answer waits for the ledger.
async fn record(app: &App, claim: Claim, refusal: ApiError) -> ApiError {
    let Claim { account: Some(account), client_id, timestamp } = claim else { return refusal };
    let kept: Refusal = refusal.refusal.clone();
    let recorded = app.ask(move |core, now| {
        core.exchange.refuse(&account, &client_id, timestamp, &kept, now);
        Ok(())
    });
    match recorded.await {
        Ok(()) => refusal,
        Err(down) => down,
    }
}

fn authenticate(app: &App, call: &Call, mut params: Params) -> Result<(Label, Params, Validity), ApiError> {
    let format = |key: &&str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let api_key = call.api_key.as_deref().filter(format);
    let api_key = api_key.ok_or_else(|| Refusal::new(-2014, "API-key format invalid."))?;
    let unknown = || Refusal::new(-2015, "Invalid API-key, IP, or permissions for action.");
    let key = app.keys.get(api_key).ok_or_else(unknown)?;
    let signature = params.required("signature")?;
    if !key.verifier.verifies(signed_payload(&call.query, &call.body).as_bytes(), &signature) {
        return Err(ApiError::bad(-1022, "Signature for this request is not valid."));
    }
    let validity = params.validity(app.recv_window)?;
    Ok((Label::clone(&key.account), params, validity))
}

/// Everything but a new order.
async fn read(app: &App, call: &Call, params: Result<Params, ApiError>) -> Result<Value, ApiError> {
    let params = params?;
    match call.endpoint {
        Endpoint::Ping => return params.finish().map(|()| object!({})),
        Endpoint::Time => return params.finish().map(|()| general::time(app)),
        Endpoint::ExchangeInfo => return json(general::exchange_info(app, params)?),
        _ => {}
    }
    let (account, params, validity) = authenticate(app, call, params)?;
    match call.endpoint {
        Endpoint::Account => account::account(app, account, params, validity).await,
        Endpoint::MyTrades => json(account::my_trades(app, account, params, validity).await?),
        Endpoint::QueryOrder => json(order::query(app, account, params, validity).await?),
        Endpoint::CancelOrder => json(order::cancel(app, account, params, validity).await?),
        Endpoint::OpenOrders => json(order::open_orders(app, account, params, validity).await?),
        Endpoint::AllOrders => json(order::all_orders(app, account, params, validity).await?),
        Endpoint::Ping | Endpoint::Time | Endpoint::ExchangeInfo | Endpoint::NewOrder => Err(ApiError::down()),
    }
}
