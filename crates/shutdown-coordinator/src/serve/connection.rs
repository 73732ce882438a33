//! One connection, from accept to close or upgrade.

use std::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{HeaderValue, Request, Response, StatusCode, Version, header::CONNECTION},
    response::IntoResponse as _,
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
    body::{self, HeldBody},
    io::{Activity, Ticket, Verdict, Watched},
};
use crate::{Gate, Guard, gate::Label, sync::later};

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
    /// What has neither a request nor an answer in flight is given up: half received heads, silent HTTP/2 peers.
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
    let limits = &shop.limits;
    let io = TokioIo::new(Watched::new(io, Arc::clone(activity), limits.linger, permit));
    let streams = Streams { tracker: activity.streams().clone(), stop: CancellationToken::new() };
    // With the connection its HTTP/2 streams end, also when this future is dropped.
    let _stop = streams.stop.clone().drop_guard();
    let builder = protocols(limits, streams);
    let mut drain = shop.drain.subscribe();
    let service = {
        let (shop, activity) = (Arc::clone(shop), Arc::clone(activity));
        service_fn(move |request| answer(&shop, &activity, peer, request))
    };
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    let mut timer = pin!(sleep_until(Instant::now()));
    let mut stage = *drain.borrow_and_update();
    let (mut is_idle, mut goes_away) = (false, false);
    loop {
        let turn = poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Turn::Ended(result)),
            Poll::Pending if stage != Drain::Serving && !goes_away && activity.is_http2() => Poll::Ready(Turn::GoAway),
            Poll::Pending => Poll::Pending,
        });
        // The connection comes first: what has arrived is read before anything is called idle.
        tokio::select! {
            biased;
            turn = turn => match turn {
                Turn::Ended(result) => {
                    if let Err(error) = result {
                        tracing::debug!(%activity, %error, "connection failed");
                    }
                    return;
                }
                Turn::GoAway => {
                    goes_away = true;
                    connection.as_mut().graceful_shutdown();
                }
            },
            () = timer.as_mut() => match activity.verdict(limits) {
                // Told to go, it has had its time, and whatever it still sent in it has been answered.
                Verdict::Fine(due) if !is_idle || !activity.is_quiet() => timer.as_mut().reset(due),
                Verdict::Idle if !is_idle => {
                    is_idle = true;
                    connection.as_mut().graceful_shutdown();
                    timer.as_mut().reset(later(Instant::now(), limits.header_read_timeout));
                }
                Verdict::Fine(_) | Verdict::Idle | Verdict::TooSlow => {
                    tracing::debug!(%activity, "connection closed: nothing goes on");
                    return;
                }
            },
            Ok(()) = drain.changed() => {
                stage = *drain.borrow_and_update();
                match stage {
                    Drain::Serving | Drain::Linger => {}
                    // Its answer will be the last; closing now would lose the request.
                    Drain::Close if activity.is_in_head() => {}
                    Drain::GiveUp if activity.is_quiet() => {
                        tracing::info!(%activity, "connection given up: its request was never complete");
                        return;
                    }
                    Drain::Close | Drain::GiveUp => connection.as_mut().graceful_shutdown(),
                }
            }
        }
    }
}

/// HTTP/1.1 and HTTP/2, whichever the client begins with.
fn protocols(limits: &Limits, streams: Streams) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(streams);
    // Heads are timed here, since hyper's own limit also hits connections that wait for their next request, and does
    // not see an HTTP/2 preface.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(limits.streams)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.header_read_timeout.min(LONGEST_PONG));
    builder
}

/// What polling a connection came to.
enum Turn<T> {
    Ended(T),
    /// HTTP/2 in a drain: the client is to open no more streams; those that are open are answered.
    GoAway,
}

/// How long a peer may take to answer an HTTP/2 ping, at most.
const LONGEST_PONG: Duration = Duration::from_secs(20);

/// What a request holds until the last byte of its answer.
pub(super) struct Held {
    _ticket: Ticket,
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
    let (parts, body) = request.into_parts();
    let (body, stall) = body::timed(body, shop.limits.body_read_timeout, activity);
    // A router is always ready.
    let response = shop.router.clone().call(Request::from_parts(parts, body));
    let shop = Arc::clone(shop);
    async move {
        let mut response = response.await?;
        let status = response.status();
        let stalled = stall.happened();
        if stalled && (status.is_client_error() || status.is_server_error()) {
            response = (StatusCode::REQUEST_TIMEOUT, "the request's body stopped coming\n").into_response();
        }
        let last = stalled || *shop.drain.borrow() != Drain::Serving;
        if version < Version::HTTP_2 && status != StatusCode::SWITCHING_PROTOCOLS && last {
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
