//! The bodies on both sides of a request.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::io::Activity;
use crate::sync::later;

/// A request's body stopped coming: [`Server::body_read_timeout`](super::Server::body_read_timeout) is over.
///
/// A handler that streams a body finds it among the sources of its error. An answer that says it failed becomes a 408.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request's body stopped coming")]
#[non_exhaustive]
pub struct BodyStalled;

/// Whether a body stopped coming. Known only for requests that have a body.
#[derive(Clone, Default)]
pub(super) struct Stall(Option<Arc<AtomicBool>>);

impl Stall {
    pub(super) fn happened(&self) -> bool {
        self.0.as_ref().is_some_and(|happened| happened.load(Relaxed))
    }
}

/// The body for the handler. Costs nothing when there is none, and no timer as long as its bytes are there when asked for.
pub(super) fn timed(incoming: Incoming, limit: Duration, activity: &Arc<Activity>) -> (Body, Stall) {
    if incoming.is_end_stream() {
        return (Body::empty(), Stall::default());
    }
    let stalled = Arc::new(AtomicBool::new(false));
    let stall = Stall(Some(Arc::clone(&stalled)));
    let activity = Arc::clone(activity);
    (Body::new(TimedBody { incoming, limit, timer: None, waiting: false, stalled, activity }), stall)
}

struct TimedBody {
    incoming: Incoming,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the timer runs. It does so only while somebody waits for a byte.
    waiting: bool,
    stalled: Arc<AtomicBool>,
    activity: Arc<Activity>,
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
            this.waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let due = later(Instant::now(), this.limit);
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if !this.waiting {
            this.waiting = true;
            timer.as_mut().reset(due);
        }
        ready!(timer.as_mut().poll(cx));
        if !this.stalled.swap(true, Relaxed) {
            tracing::debug!(activity = %this.activity, "request given up: its body stopped coming");
        }
        Poll::Ready(Some(Err(BodyStalled.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// A body that holds something until it is sent or dropped.
pub(super) struct HeldBody<T> {
    body: Body,
    _held: T,
}

impl<T> HeldBody<T> {
    pub(super) fn new(body: Body, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Unpin> HttpBody for HeldBody<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
