//! A guard for each request, and 503 when there is none.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderValue, Request, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse as _, Response},
};
use futures_util::{
    FutureExt as _, TryFutureExt as _,
    future::{self, BoxFuture, Either, Ready},
};
use tower::{Layer, Service};

use super::body::HeldBody;
use crate::Gate;

type OnClosed = Arc<dyn Fn(Duration) -> Response + Send + Sync>;

/// Gives each request a guard of a gate, held until the last byte of its answer has gone to the connection, which its
/// server waits for; once the gate is closed, answers 503 with `Retry-After`.
#[derive(Clone)]
pub struct DrainLayer {
    gate: Gate,
    retry_after: Duration,
    on_closed: OnClosed,
}

impl DrainLayer {
    /// A layer that asks clients to come back after 5 seconds.
    pub fn new(gate: Gate) -> Self {
        let on_closed = Arc::new(|_| (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response());
        Self { gate, retry_after: Duration::from_secs(5), on_closed }
    }

    /// When clients should come back; rounded up to seconds.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// Makes the answer to a refused request, given when to come back. `Retry-After` is added unless it is there.
    #[must_use]
    pub fn on_closed(mut self, answer: impl Fn(Duration) -> Response + Send + Sync + 'static) -> Self {
        self.on_closed = Arc::new(answer);
        self
    }

    fn refuse(&self) -> Response {
        let mut response = (self.on_closed)(self.retry_after);
        let seconds = self.retry_after.as_secs() + u64::from(self.retry_after.subsec_nanos() > 0);
        response.headers_mut().entry(RETRY_AFTER).or_insert_with(|| HeaderValue::from(seconds));
        response
    }
}

impl fmt::Debug for DrainLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainLayer")
            .field("gate", &self.gate)
            .field("retry_after", &self.retry_after)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for DrainLayer {
    type Service = DrainService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DrainService { layer: self.clone(), inner }
    }
}

/// The service that [`DrainLayer`] makes.
#[derive(Clone, Debug)]
pub struct DrainService<S> {
    layer: DrainLayer,
    inner: S,
}

/// The future of a [`DrainService`].
pub type DrainFuture<E> = Either<Ready<Result<Response, E>>, BoxFuture<'static, Result<Response, E>>>;

impl<S, B> Service<Request<B>> for DrainService<S>
where
    S: Service<Request<B>, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = DrainFuture<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.layer.gate.enter() {
            Ok(guard) => {
                let answer = self.inner.call(request);
                let guarded = answer.map_ok(|response| response.map(|body| Body::new(HeldBody::new(body, guard))));
                Either::Right(guarded.boxed())
            }
            Err(_) => Either::Left(future::ready(Ok(self.layer.refuse()))),
        }
    }
}
