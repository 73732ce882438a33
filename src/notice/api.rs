//! The routes for notices.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json as Answer, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use trading::time::Timestamp;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Notices, since};
use crate::clock::Clock;
use crate::http::page::Page;
use crate::http::{Problem, text};
use crate::store::{Notice, Severity, Store, StoredNotice};

const MAX_MESSAGE_CHARS: usize = 1000;
/// The end of the year 9999: what is later is a mistake in the unit.
const MAX_MS: i64 = 253_402_300_799_999;

/// What the public route needs.
#[derive(Debug, Clone)]
pub(crate) struct NoticesState {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
}

pub(crate) fn routes<S: Clone + Send + Sync + 'static>(state: NoticesState) -> OpenApiRouter<S> {
    OpenApiRouter::new().routes(routes!(notices)).with_state(state)
}

/// What users are told about a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Notice)]
pub(crate) struct NoticeOut {
    /// Its number; later ones have higher numbers.
    id: i64,
    /// How much it matters: `major` may affect trading.
    severity: Severity,
    /// In words.
    #[schema(example = "0.3.0: faster grids (expected downtime: none)")]
    message: String,
    /// When it was told.
    created_at_us: i64,
    /// When what it is about happens, if it had not when it was told.
    effective_at_us: Option<i64>,
}

impl From<StoredNotice> for NoticeOut {
    fn from(StoredNotice { id, notice }: StoredNotice) -> Self {
        Self {
            id,
            severity: notice.severity,
            message: notice.message,
            created_at_us: notice.created_at.micros(),
            effective_at_us: notice.effective_at.map(Timestamp::micros),
        }
    }
}

/// Notices
///
/// What users are told about releases, newest first, each until a day after what it is about. The websocket tells it too.
#[utoipa::path(get, path = "/api/notices", tag = "notices", responses(
    (status = 200, description = "They", body = Page<NoticeOut>),
))]
async fn notices(State(state): State<NoticesState>) -> Result<Answer<Page<NoticeOut>>, Problem> {
    Ok(Answer(Page::whole(state.store.notices(since(state.clock.now())).await?)))
}

/// The body of `POST /notices`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewNotice {
    severity: Severity,
    message: String,
    /// Milliseconds since the Unix epoch.
    effective_at: Option<i64>,
}

/// The private socket's.
pub(crate) fn private_routes<S: Clone + Send + Sync + 'static>(notices: Notices) -> Router<S> {
    Router::new().route("/notices", post(add)).with_state(notices)
}

async fn add(State(notices): State<Notices>, Answer(new): Answer<NewNotice>) -> Response {
    let refused = |status: StatusCode, why: &str| (status, Answer(json!({ "error": why }))).into_response();
    if text("message", &new.message, MAX_MESSAGE_CHARS).is_err() {
        let why = format!("message: 1 to {MAX_MESSAGE_CHARS} characters without control characters");
        return refused(StatusCode::UNPROCESSABLE_ENTITY, &why);
    }
    if new.effective_at.is_some_and(|ms| !(0..=MAX_MS).contains(&ms)) {
        return refused(StatusCode::UNPROCESSABLE_ENTITY, "effective_at: milliseconds since the Unix epoch");
    }
    let notice = Notice {
        severity: new.severity,
        message: new.message,
        created_at: notices.clock.now(),
        effective_at: new.effective_at.map(Timestamp::from_millis),
    };
    match notices.add(&notice).await {
        Ok(stored) => {
            let status = if stored { StatusCode::CREATED } else { StatusCode::OK };
            (status, Answer(json!({ "stored": stored }))).into_response()
        }
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}
