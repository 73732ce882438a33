//! The control socket: `GET /faults` and `POST /faults`, as the server's private socket has them for its own venue.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::faults::Faults;
use crate::host::Host;

const BODY_LIMIT_BYTES: usize = 65_536;

#[derive(Debug, Clone)]
struct Control {
    host: Host,
    allow_faults: bool,
}

/// The routes. They have no authentication: the socket's permissions are the credentials.
pub fn control(host: Host, allow_faults: bool) -> Router {
    Router::new()
        .route("/faults", get(read).post(write))
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .with_state(Control { host, allow_faults })
}

async fn read(State(control): State<Control>) -> Response {
    let (faults, fired) = control.host.faults();
    Json(json!({ "faults": faults, "fired": fired })).into_response()
}

async fn write(State(control): State<Control>, body: Bytes) -> Response {
    let refused = |why: String| (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": why }))).into_response();
    if !control.allow_faults {
        return refused("faults are not allowed: the venue was started without --allow-faults".to_owned());
    }
    match serde_json::from_slice::<Faults>(&body) {
        Ok(faults) => {
            control.host.set_faults(faults);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => refused(error.to_string()),
    }
}
