//! Every error that a client can see, as an RFC 9457 problem.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::AuthError;
use crate::engines::SubmitError;
use crate::store::{Role, StoreError};

/// Clients' own words are repeated to them up to this length.
const MAX_DETAIL_CHARS: usize = 400;

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No token, or one that no API key has.
    #[error("a valid API key is needed: `Authorization: Bearer <token>`")]
    Unauthorized,
    /// The key's role is too low.
    #[error("this needs the role {needs:?} or a higher one; the key has {has:?}")]
    Forbidden {
        /// The lowest role that may.
        needs: Role,
        /// The key's.
        has: Role,
    },
    /// There is no such thing, or it is not the client's to see.
    #[error("there is no such {0}")]
    NotFound(String),
    /// The path exists, with other methods. The header `Allow` names them.
    #[error("this path does not take this method")]
    MethodNotAllowed,
    /// The body is not JSON.
    #[error("the body is not JSON: {detail}")]
    Malformed {
        /// What is wrong and where, by line and column.
        detail: String,
    },
    /// The body is nested too deeply.
    #[error("the body is nested more than {limit} levels deep")]
    TooDeep {
        /// How deep it may be.
        limit: usize,
    },
    /// The body is not declared to be JSON.
    #[error("the body must be JSON, with `Content-Type: application/json`")]
    MediaType,
    /// The body is over the limit.
    #[error("the body is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The body did not arrive in time, or broke off.
    #[error("the body did not arrive in full within the time allowed")]
    SlowBody,
    /// The request was understood, and one field of it makes no sense.
    #[error("{0}")]
    Invalid(Invalid),
    /// The idempotency key names an earlier, different request.
    #[error(
        "this idempotency key was used for a different request; the earlier one stands, this one was not carried out"
    )]
    KeyReused,
    /// The risk rules refuse it.
    #[error("refused by a risk rule: {0}")]
    Denied(String),
    /// Without this key nobody could make keys any more.
    #[error("this is the last key with the role admin; make another one first")]
    LastAdminKey,
    /// Not now. Nothing was done, or what was done will be found again by the same idempotency key.
    #[error("{detail}; send the same request again, with the same idempotency key")]
    Unavailable {
        /// Why.
        detail: String,
        /// When to try again.
        retry_after_s: u32,
    },
    /// The disk is full.
    #[error("the server's disk is full; nothing was done")]
    Full,
    /// A bug or a damaged store. Logged with the same request id.
    #[error("the server failed; the failure is logged under this request id")]
    Internal,
}

/// One field that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct Invalid {
    /// Which, by its path, such as `order.price`.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
    /// What was given.
    pub given: Option<String>,
    /// What is accepted.
    pub accepted: Option<String>,
}

impl Problem {
    /// A field that makes no sense.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid(Invalid { field: field.into(), detail: detail.into(), given: None, accepted: None })
    }

    /// A field that makes no sense, with what was given and what is accepted.
    pub fn out_of_range(
        field: impl Into<String>,
        given: &(impl ToString + ?Sized),
        accepted: impl Into<String>,
    ) -> Self {
        let (given, accepted) = (given.to_string(), accepted.into());
        let detail = format!("`{}` is not accepted: {accepted}", shorten(&given));
        Self::Invalid(Invalid { field: field.into(), detail, given: Some(shorten(&given)), accepted: Some(accepted) })
    }

    /// New signals are not taken any more: the server is stopping.
    pub(crate) fn stopping() -> Self {
        Self::Unavailable { detail: "the server is stopping".into(), retry_after_s: 5 }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Malformed { .. } | Self::TooDeep { .. } => StatusCode::BAD_REQUEST,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Invalid(_) | Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Denied(_) | Self::LastAdminKey => StatusCode::CONFLICT,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The kind, for programs: the last part of the problem's `type`.
    fn slug(&self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden { .. } => "forbidden",
            Self::NotFound(_) => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::Malformed { .. } => "malformed-json",
            Self::TooDeep { .. } => "too-deep",
            Self::MediaType => "unsupported-media-type",
            Self::TooLarge { .. } => "body-too-large",
            Self::SlowBody => "body-timeout",
            Self::Invalid(_) => "invalid-field",
            Self::KeyReused => "idempotency-key-reused",
            Self::Denied(_) => "denied-by-risk",
            Self::LastAdminKey => "last-admin-key",
            Self::Unavailable { .. } => "unavailable",
            Self::Full => "disk-full",
            Self::Internal => "internal",
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::Unauthorized => "Not authenticated",
            Self::Forbidden { .. } => "Role too low",
            Self::NotFound(_) => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::Malformed { .. } => "Malformed JSON",
            Self::TooDeep { .. } => "Nested too deeply",
            Self::MediaType => "Not JSON",
            Self::TooLarge { .. } => "Body too large",
            Self::SlowBody => "Body too slow",
            Self::Invalid(_) => "A field makes no sense",
            Self::KeyReused => "Idempotency key reused",
            Self::Denied(_) => "Denied by a risk rule",
            Self::LastAdminKey => "The last admin key",
            Self::Unavailable { .. } => "Not now",
            Self::Full => "Disk full",
            Self::Internal => "Server failure",
        }
    }

    /// Writes the problem into `response`, keeping its other headers. `instance` is the request's id.
    pub(super) fn render(self, instance: &str, response: &mut Response) {
        let invalid = match &self {
            Self::Invalid(invalid) => Some(invalid),
            _ => None,
        };
        let body = ProblemBody {
            kind: format!("urn:hotgo:problem:{}", self.slug()),
            title: self.title().into(),
            status: self.status().as_u16(),
            detail: shorten(&self.to_string()),
            instance: instance.to_owned(),
            field: invalid.map(|it| it.field.clone()),
            given: invalid.and_then(|it| it.given.clone()),
            accepted: invalid.and_then(|it| it.accepted.clone()),
        };
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.remove(header::CONTENT_LENGTH);
        match &self {
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Unavailable { retry_after_s, .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_s));
            }
            _ => {}
        }
        *response.body_mut() = Body::from(serde_json::to_vec(&body).unwrap_or_default());
    }
}

/// At most [`MAX_DETAIL_CHARS`] characters of a text that may be a client's.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_DETAIL_CHARS) {
        Some((end, _)) => format!("{}..", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Leaves the problem in the response's extensions: the outermost layer renders it, since it knows the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed => Self::stopping(),
            StoreError::Unavailable(_) => {
                tracing::warn!(%error, "a request could not be answered");
                Self::Unavailable { detail: "the store does not answer".into(), retry_after_s: 2 }
            }
            StoreError::Full => Self::Full,
            StoreError::Corrupt(_) => {
                tracing::error!(alarm = true, %error, "the store holds something unreadable");
                Self::Internal
            }
        }
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Invalid => Self::Unauthorized,
            AuthError::Unavailable(error) => error.into(),
        }
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        let retry_after_s = match error {
            SubmitError::UnknownAccount => return Self::NotFound("account".into()),
            SubmitError::Stopping => return Self::stopping(),
            SubmitError::Busy | SubmitError::Unconfirmed => 1,
            SubmitError::NotReady | SubmitError::NotHere { .. } => 2,
        };
        Self::Unavailable { detail: error.to_string(), retry_after_s }
    }
}

/// An RFC 9457 problem.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// The kind of problem, for programs.
    #[serde(rename = "type")]
    #[schema(example = "urn:hotgo:problem:invalid-field")]
    kind: String,
    /// The kind of problem, for people.
    #[schema(example = "A field makes no sense")]
    title: String,
    /// The HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What is wrong this time.
    #[schema(example = "qty: `0.0000000001` has more than 8 digits after the point")]
    detail: String,
    /// The request's id, as in the header `X-Request-Id` and in the server's log.
    #[schema(example = "5f2b3c0a9d1e4f67")]
    instance: String,
    /// Which field, by its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "qty")]
    field: Option<String>,
    /// What was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    given: Option<String>,
    /// What is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<String>,
}
