//! The upgrade: who may open a session, and how many.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::session::Session;
use super::{Guard, MAX_MESSAGE_BYTES, StreamDeps};
use crate::auth::{AuthError, Principal};

/// Read at once from a socket, and kept per session: requests are short.
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Written at once to a socket.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// No single frame is larger: a robot's settings are bounded by the 64 KiB of a request body.
const MAX_WRITE_BUFFER_BYTES: usize = 1024 * 1024;
/// How many sessions may read the store at the same time.
const STORE_READS: usize = 4;
const RETRY_AFTER_S: &str = "5";

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) deps: StreamDeps,
    places: Arc<Semaphore>,
    /// So that a thousand sessions that resume at once stand in line, and leave the store to others as well.
    pub(super) store_reads: Semaphore,
}

/// The route `/api/ws`.
pub fn routes(deps: StreamDeps) -> Router {
    let places = Arc::new(Semaphore::new(deps.settings.max_sessions.min(Semaphore::MAX_PERMITS)));
    Router::new().route("/api/ws", any(open)).with_state(Arc::new(Shared {
        deps,
        places,
        store_reads: Semaphore::new(STORE_READS),
    }))
}

async fn open(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let (held, principal) = match admit(&shared, &uri, &headers).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal,
    };
    match upgrade {
        Ok(upgrade) => upgrade
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES)
            .max_frame_size(MAX_MESSAGE_BYTES)
            .max_message_size(MAX_MESSAGE_BYTES)
            .on_upgrade(async move |socket| {
                Session::new(socket, shared).run(principal).await;
                drop(held);
            }),
        Err(rejection) => problem(rejection.status(), &rejection.body_text()),
    }
}

/// What a session holds from before its upgrade until its end.
type Held = (OwnedSemaphorePermit, Guard);

async fn admit(shared: &Shared, uri: &Uri, headers: &HeaderMap) -> Result<(Held, Option<Principal>), Response> {
    let deps = &shared.deps;
    if !origin_is_fine(uri, headers, &deps.settings.allowed_origins) {
        return Err(problem(StatusCode::FORBIDDEN, "this origin may not connect"));
    }
    let principal = match headers.get(header::AUTHORIZATION) {
        None => None,
        Some(value) => {
            let token = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
            match deps.auth.authenticate(token.trim()).await {
                Ok(principal) => Some(principal),
                Err(error @ AuthError::Invalid) => return Err(problem(StatusCode::UNAUTHORIZED, &error.to_string())),
                Err(error @ AuthError::Unavailable(_)) => return Err(unavailable(&error.to_string())),
            }
        }
    };
    let place = Arc::clone(&shared.places).try_acquire_owned().map_err(|_| unavailable("too many sessions"))?;
    let guard = (deps.admit)().ok_or_else(|| unavailable("the server is about to stop"))?;
    Ok(((place, guard), principal))
}

/// Browsers send `Origin` and let any page connect anywhere: only pages of this host, or of allowed ones, may
/// (RFC 6455 section 10.2). Programs send none.
fn origin_is_fine(uri: &Uri, headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    let host = match headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => uri.authority().map(axum::http::uri::Authority::as_str),
    };
    let same_host = match (origin.split_once("://"), host) {
        (Some((_, from)), Some(host)) => from.eq_ignore_ascii_case(host),
        _ => false,
    };
    same_host || allowed.iter().any(|fine| fine.eq_ignore_ascii_case(origin))
}

fn unavailable(detail: &str) -> Response {
    ([(header::RETRY_AFTER, RETRY_AFTER_S)], problem(StatusCode::SERVICE_UNAVAILABLE, detail)).into_response()
}

/// RFC 9457.
fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let body =
        serde_json::json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
    let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine(origin: Option<&str>, host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        origin_is_fine(&Uri::from_static("/api/ws"), &headers, &["https://desk.example".to_owned()])
    }

    #[test]
    fn only_the_own_host_and_allowed_origins_may_connect() {
        assert!(fine(None, "trade.example"));
        assert!(fine(Some("https://trade.example"), "trade.example"));
        assert!(fine(Some("http://127.0.0.1:8080"), "127.0.0.1:8080"));
        assert!(fine(Some("https://Desk.Example"), "trade.example"));
        for foreign in [
            "null",
            "",
            "https://evil.example",
            "https://trade.example.evil.example",
            "https://trade.example:8443",
            "https://desk.example:1",
            "http://desk.example",
            "trade.example",
        ] {
            assert!(!fine(Some(foreign), "trade.example"), "{foreign}");
        }
    }
}
