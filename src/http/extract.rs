//! Extractors whose refusals are problems.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody, PathRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::json;
use super::problem::Problem;

/// What a body may take; put into every request by the outermost layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    pub(super) timeout: Duration,
    pub(super) bytes: usize,
}

/// A JSON body, declared as JSON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::MediaType);
        }
        json::parse(&body(request, state).await?).map(Self)
    }
}

/// A JSON body, or none at all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let declared = is_json(request.headers());
        let bytes = body(request, state).await?;
        match (bytes.is_empty(), declared) {
            (true, _) => Ok(Self(T::default())),
            (false, true) => json::parse(&bytes).map(Self),
            (false, false) => Err(Problem::MediaType),
        }
    }
}

/// A JSON body, whatever it is declared as. For senders that cannot set headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UndeclaredJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for UndeclaredJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        json::parse(&body(request, state).await?).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(given) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = given.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Reads the whole body of a request, and leaves it there for whoever comes next.
pub(crate) async fn peek_body(request: &mut Request) -> Result<Bytes, Problem> {
    let mut taken = Request::new(std::mem::take(request.body_mut()));
    // The limits are there.
    *taken.extensions_mut() = request.extensions().clone();
    let bytes = body(taken, &()).await?;
    *request.body_mut() = bytes.clone().into();
    Ok(bytes)
}

async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    let limits = request.extensions().get::<BodyLimits>().copied();
    let limits = limits.unwrap_or(BodyLimits { timeout: Duration::from_secs(15), bytes: 64 * 1024 });
    match tokio::time::timeout(limits.timeout, Bytes::from_request(request, state)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)))) => {
            Err(Problem::TooLarge { limit: limits.bytes })
        }
        // The connection broke, or the body's framing is wrong: nobody is likely to read this.
        Ok(Err(_)) | Err(_) => Err(Problem::SlowBody),
    }
}

/// The query string.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let deserializer = serde_urlencoded::Deserializer::new(pairs);
        serde_path_to_error::deserialize(deserializer)
            .map(Self)
            .map_err(|error| json::invalid(error.path(), &error.inner().to_string()))
    }
}

/// The path's parameters, into a struct with their names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Params<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Path::from_request_parts(parts, state).await.map(|Path(params)| Self(params)).map_err(path_problem)
    }
}

fn path_problem(rejection: PathRejection) -> Problem {
    let PathRejection::FailedToDeserializePathParams(error) = rejection else { return Problem::Internal };
    if error.status() == StatusCode::INTERNAL_SERVER_ERROR {
        return Problem::Internal;
    }
    match error.into_kind() {
        ErrorKind::ParseErrorAtKey { key, value, expected_type } => {
            let accepted = if expected_type == "i64" { "a whole number" } else { expected_type };
            Problem::out_of_range(key, &value, accepted)
        }
        ErrorKind::InvalidUtf8InPathParam { key } => Problem::invalid(key, "it is not UTF-8"),
        other => Problem::invalid("path", other.to_string()),
    }
}
