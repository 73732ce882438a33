//! What is counted of every request, health checks and websocket upgrades included.
//!
//! | name | labels | meaning |
//! |---|---|---|
//! | `hotgo_http_requests_total` | `status` | requests that were answered; 101 is a websocket's upgrade |
//! | `hotgo_http_request_duration_seconds` | | until the answer began |
//!
//! Both are there before the first request: an upgrade of a server that nobody has asked anything compares them.
//! What never becomes a request is in neither: a header that is no HTTP, a client that went away before it was answered.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use metrics::{Counter, Histogram, counter, histogram};
use tokio::time::Instant;

const FIRST_STATUS: u16 = 100;
const STATUSES: usize = 500;

/// Handles, so that a request costs neither a look-up nor an allocation.
#[derive(Clone)]
pub(super) struct Meters {
    by_status: Arc<[OnceLock<Counter>]>,
    durations: Histogram,
}

impl Meters {
    /// Of the recorder that is installed now.
    pub(super) fn new() -> Self {
        let by_status = std::iter::repeat_with(OnceLock::new).take(STATUSES).collect();
        let meters = Self { by_status, durations: histogram!("hotgo_http_request_duration_seconds") };
        meters.add(StatusCode::OK, 0);
        meters.add(StatusCode::INTERNAL_SERVER_ERROR, 0);
        meters
    }

    /// Counts a request once it is answered.
    pub(super) async fn measure(self, answer: RouteFuture<Infallible>) -> Result<Response, Infallible> {
        let begun = Instant::now();
        let response = answer.await?;
        self.add(response.status(), 1);
        self.durations.record(begun.elapsed());
        Ok(response)
    }

    fn add(&self, status: StatusCode, requests: u64) {
        let Some(slot) = self.by_status.get(usize::from(status.as_u16().saturating_sub(FIRST_STATUS))) else { return };
        let counter = || counter!("hotgo_http_requests_total", "status" => status.as_str().to_owned());
        slot.get_or_init(counter).increment(requests);
    }
}
