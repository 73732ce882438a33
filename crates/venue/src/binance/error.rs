//! Refusals as Binance writes them (`errors.md`, `rest-api.md` "HTTP Return Codes").

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::exchange::Refusal;

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) refusal: Refusal,
    /// In seconds.
    pub(super) retry_after: Option<u32>,
}

#[derive(Serialize)]
pub(super) struct ErrorBody<'a> {
    code: i32,
    msg: &'a str,
}

impl<'a> From<&'a Refusal> for ErrorBody<'a> {
    fn from(refusal: &'a Refusal) -> Self {
        Self { code: refusal.code, msg: &refusal.reason }
    }
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: i32, msg: impl Into<String>) -> Self {
        Self { status, refusal: Refusal::new(code, msg), retry_after: None }
    }

    /// A refusal with status 400.
    pub(super) fn bad(code: i32, msg: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, msg)
    }

    /// A mandatory parameter is missing.
    pub(super) fn missing(name: &str) -> Self {
        Self::bad(-1102, format!("Mandatory parameter '{name}' was not sent, was empty/null, or malformed."))
    }

    /// A parameter makes no sense.
    pub(super) fn invalid(name: &str) -> Self {
        Self::bad(-1130, format!("Data sent for parameter '{name}' is not valid."))
    }

    /// Nobody knows what became of the request.
    pub(super) fn unknown_outcome(status: StatusCode) -> Self {
        let msg = "Timeout waiting for response from backend server. Send status unknown; execution status unknown.";
        Self::new(status, -1007, msg)
    }

    /// The venue's thread is gone or its ledger failed.
    pub(super) fn down() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            -1001,
            "Internal error; unable to process your request. Please try again.",
        )
    }

    pub(super) fn too_many(status: StatusCode, msg: impl Into<String>, retry_after: u32) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(status, -1003, msg) }
    }
}

/// Nothing in it says whether the request was processed.
pub(super) fn server_error(status: u16) -> ApiError {
    ApiError::unknown_outcome(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.code {
            -2014 | -2015 => StatusCode::UNAUTHORIZED,
            -1000 | -1001 | -1006 | -1007 | -1008 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self { status, refusal, retry_after: None }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody::from(&self.refusal))).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
