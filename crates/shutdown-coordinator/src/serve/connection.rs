//! One connection, from accept to close or upgrade.

use std::{convert::Infallible, fmt, future::Future, net::SocketAddr, pin::pin, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, Request, Response, StatusCode, Version, header::CONNECTION},
};
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

use super::{
    Limits,
    io::{Activity, Verdict, Watched},
    layer::HeldBody,
};
use crate::{Gate, Guard, gate::Label};

/// What all connections of a server share.
pub(super) struct Shop {
    pub(super) router: Router,
    pub(super) limits: Limits,
    /// Closes with the listener: the phase waits for the requests that came before.
    pub(super) requests: Gate,
    pub(super) drain: watch::Sender<Drain>,
}

/// How far the drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    Serving,
    /// Every answer is the last on its connection; idle connections are kept.
    Linger,
    /// Idle connections are closed.
    Close,
    /// Heads that are still half received are given up: they never became requests.
    GiveUp,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Serves one connection. Its guard is taken before this returns, and given back when the future ends.
pub(super) fn run<I>(
    io: I,
    peer: Peer,
    permit: OwnedSemaphorePermit,
    shop: Arc<Shop>,
    root: &Guard,
) -> impl Future<Output = ()> + Send + use<I>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::new(peer));
    let label: Arc<Activity> = Arc::clone(&activity);
    let guard = root.fork_labelled(Label::Live(label));
    async move {
        let _guard = guard;
        serve(io, peer, permit, &shop, &activity).await;
    }
}

async fn serve<I>(io: I, peer: Peer, permit: OwnedSemaphorePermit, shop: &Arc<Shop>, activity: &Arc<Activity>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Watched { io, activity: Arc::clone(activity), _permit: permit });
    let streams = Streams { tracker: TaskTracker::new(), stop: CancellationToken::new() };
    // With the connection its HTTP/2 streams end, also when this future is dropped.
    let _stop = streams.stop.clone().drop_guard();
    let mut builder = auto::Builder::new(streams);
    // Heads are timed here, since hyper's own limit also hits connections that wait for their next request, and does
    // not see an HTTP/2 preface.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder.http2().timer(TokioTimer::new()).enable_connect_protocol();

    let mut drain = shop.drain.subscribe();
    let service = {
        let (shop, activity) = (Arc::clone(shop), Arc::clone(activity));
        service_fn(move |request| answer(&shop, &activity, peer, request))
    };
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    let mut timer = pin!(sleep_until(Instant::now()));
    let mut closing = false;
    loop {
        // The connection comes first: what has arrived is read before anything is called idle.
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%peer, %error, "connection failed");
                }
                return;
            }
            () = timer.as_mut() => match activity.verdict(&shop.limits) {
                Verdict::Fine(due) => timer.as_mut().reset(due),
                Verdict::Idle if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                    timer.as_mut().reset(Instant::now() + shop.limits.idle_timeout);
                }
                Verdict::Idle | Verdict::TooSlow => {
                    tracing::debug!(%activity, "connection closed: nothing comes");
                    return;
                }
            },
            Ok(()) = drain.changed() => {
                let stage = *drain.borrow_and_update();
                match stage {
                    // GOAWAY: the client opens no more streams, those that are open are answered.
                    Drain::Linger if activity.is_http2() => connection.as_mut().graceful_shutdown(),
                    Drain::Serving | Drain::Linger => {}
                    Drain::GiveUp if activity.is_in_head() => {
                        tracing::info!(%activity, "connection closed: its request was never complete");
                        return;
                    }
                    Drain::Close | Drain::GiveUp if activity.is_untouched() => return,
                    // Its answer will be the last; closing now would lose the request.
                    Drain::Close if activity.is_in_later_head() => {}
                    Drain::Close | Drain::GiveUp => connection.as_mut().graceful_shutdown(),
                }
            }
        }
    }
}

/// What a request holds until the last byte of its answer.
pub(super) struct Held {
    _ticket: super::io::Ticket,
    _before: Option<Guard>,
}

/// Asks the router. From the drain on, the answer is the last on its connection.
fn answer(
    shop: &Arc<Shop>,
    activity: &Arc<Activity>,
    peer: Peer,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<HeldBody<Held>>, Infallible>> + Send + use<> {
    let version = request.version();
    // One that comes later is answered all the same, and held by its connection's guard only.
    let before = shop.requests.enter().ok();
    let ticket = Held { _ticket: activity.request(request.method(), request.uri(), version), _before: before };
    if let Peer::Tcp(address) = peer {
        request.extensions_mut().insert(ConnectInfo(address));
    }
    // A router is always ready.
    let response = shop.router.clone().call(request.map(Body::new));
    let shop = Arc::clone(shop);
    async move {
        let mut response = response.await?;
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if version < Version::HTTP_2 && !upgraded && *shop.drain.borrow() != Drain::Serving {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| HeldBody::new(body, ticket)))
    }
}

/// Runs the streams of one HTTP/2 connection, no longer than the connection.
#[derive(Clone)]
struct Streams {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                _ = stream => {}
                () = stop.cancelled() => {}
            }
        });
    }
}
