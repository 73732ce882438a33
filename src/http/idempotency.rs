//! The header `Idempotency-Key`: the sender's name for a wish, so that sending it again is safe.

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

pub(crate) const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const MAX_BYTES: usize = 128;

/// The request's key: the client's, or one made for it. Only behind [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct IdempotencyKey(pub String);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or(Problem::Internal)
    }
}

/// Reads the key of a POST, or makes one, and repeats it in the answer, whatever that is: a client that got a 503 needs the
/// key to ask again.
pub(crate) async fn layer(mut request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let value = match request.headers().get(HEADER) {
        None => match HeaderValue::from_str(&format!("auto-{:032x}", rand::random::<u128>())) {
            Ok(value) => value,
            Err(_) => return Problem::Internal.into_response(),
        },
        Some(value) => value.clone(),
    };
    let fits = (1..=MAX_BYTES).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
    let (true, Ok(key)) = (fits, value.to_str()) else {
        let accepted = "1 to 128 visible ASCII characters without spaces";
        let given = String::from_utf8_lossy(value.as_bytes());
        return Problem::out_of_range("Idempotency-Key", &given, accepted).into_response();
    };
    request.extensions_mut().insert(IdempotencyKey(key.to_owned()));
    let mut response = next.run(request).await;
    response.headers_mut().insert(HEADER, value);
    response
}

/// Marks an answer as one that was given before.
pub(crate) fn mark_replayed(response: &mut Response) {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
}
