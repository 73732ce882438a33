//! What happens to every request that is not a health check.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;

use super::extract::BodyLimits;
use super::problem::Problem;
use crate::failpoints;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_BYTES: usize = 64;

/// The limits of one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestLimits {
    pub(super) timeout: Duration,
    pub(super) body: BodyLimits,
}

/// The outermost layer: request id, span, time limit, panics, problems, security headers.
///
/// The span and its line are at debug level: at full load a line for each request costs more than the request.
pub(super) async fn outermost(State(limits): State<RequestLimits>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    // Never the path itself: a webhook's path may hold its secret.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let span = tracing::debug_span!("request", id = %show(&id), method = %request.method(), route);
    request.extensions_mut().insert(limits.body);

    if request.method() == Method::POST {
        failpoints::hit("p0").await;
        failpoints::stall("stall");
    }
    let run = tokio::time::timeout(limits.timeout, next.run(request));
    let mut response = match AssertUnwindSafe(run).catch_unwind().instrument(span.clone()).await {
        Ok(Ok(response)) => response,
        Ok(Err(_elapsed)) => {
            tracing::warn!(request = %show(&id), route, "a request took too long");
            let detail = "the request took too long, and its outcome is not known".into();
            Problem::Unavailable { detail, retry_after_s: 1 }.into_response()
        }
        Err(panic) => {
            tracing::error!(alarm = true, request = %show(&id), route, panic = message(&*panic), "a handler panicked");
            Problem::Internal.into_response()
        }
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        if problem == Problem::Internal {
            tracing::error!(request = %show(&id), route, "a request failed");
        }
        problem.render(show(&id), &mut response);
    }
    span.in_scope(|| tracing::debug!(status = response.status().as_u16(), "answered"));
    response.headers_mut().insert(REQUEST_ID, id);
    harden(response.headers_mut());
    response
}

/// Answers are nobody's to cache, to sniff or to frame. A page brings a policy of its own.
fn harden(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let closed = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(closed);
}

/// The client's own id if it is sane, or a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&value.len())
            && value.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte))
    };
    headers.get(REQUEST_ID).filter(sane).cloned().unwrap_or_else(new_request_id)
}

pub(super) fn new_request_id() -> HeaderValue {
    let text = format!("{:016x}", rand::random::<u64>());
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("none"))
}

fn show(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or("none")
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}
