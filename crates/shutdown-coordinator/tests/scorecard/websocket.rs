//! 6. A websocket is open. Is it told, does it send its Close frame, and does the end wait until it is over?

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use async_shutdown::ShutdownManager;
use axum::{
    Router,
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::any,
};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _, future::BoxFuture};
use shutdown_coordinator::serve::{Server, Sessions};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_graceful::Shutdown;
use tokio_graceful_shutdown::{SubsystemBuilder, SubsystemHandle, Toplevel};
use tokio_tungstenite::tungstenite;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::card::{PATIENCE, Peer, Verdict, coordinator, fail, manual, pass, soon};

/// How many sessions are open.
type Open = Arc<AtomicUsize>;

/// Triggers, and ends when the peer says that all is over.
type Stop = BoxFuture<'static, ()>;

pub(crate) async fn judge(peer: Peer) -> Verdict {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = Open::default();
    let stop = match peer {
        Peer::Ours => ours(listener, &open),
        Peer::TokioUtil => tokio_util(listener, &open),
        Peer::TokioGraceful => tokio_graceful(listener, &open),
        Peer::TokioGracefulShutdown => tokio_graceful_shutdown(listener, &open),
        Peer::Drain => drain(listener, &open),
        Peer::AsyncShutdown => async_shutdown(listener, &open),
        Peer::AxumServe => axum_serve(listener, &open),
    };
    let (connected, connection) = oneshot::channel();
    let client = tokio::spawn(client(address, connected));
    soon(connection).await.unwrap();
    soon(stop).await;
    if open.load(SeqCst) != 0 {
        client.abort();
        return fail("the end comes while the websocket is open: it is neither told nor waited for");
    }
    match (soon(client).await.unwrap(), peer) {
        (false, _) => fail("no Close frame"),
        (true, Peer::Ours) => pass("by Sessions; one that does not end by its deadline is dropped, and named"),
        (true, _) => pass("wired by hand: a guard taken before the upgrade, and a handler that listens"),
    }
}

/// Echoes once, then waits for the Close frame and takes its time to answer. Whether there was one.
async fn client(address: SocketAddr, connected: oneshot::Sender<()>) -> bool {
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{address}/ws")).await.unwrap();
    socket.send(tungstenite::Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "hello");
    connected.send(()).unwrap();
    let mut close = false;
    while let Some(Ok(message)) = socket.next().await {
        if message.is_close() {
            close = true;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
    close
}

/// Echoes until it is told, then says goodbye and waits for the peer's Close.
async fn session(mut socket: WebSocket, open: Open, told: impl Future) {
    open.fetch_add(1, SeqCst);
    let echo = async {
        while let Some(Ok(message @ Message::Text(_))) = socket.recv().await {
            socket.send(message).await.unwrap();
        }
    };
    tokio::select! {
        () = echo => {}
        _ = told => {}
    }
    let frame = CloseFrame { code: close_code::AWAY, reason: "shutting down".into() };
    if socket.send(Message::Close(Some(frame))).await.is_ok() {
        while let Some(Ok(_)) = socket.recv().await {}
    }
    open.fetch_sub(1, SeqCst);
}

/// A router whose one route upgrades.
fn router(upgrade: impl Fn(WebSocketUpgrade) -> Response + Clone + Send + Sync + 'static) -> Router {
    Router::new().route("/ws", any(async move |request: WebSocketUpgrade| upgrade(request)))
}

/// `axum::serve` until the signal, as axum's documentation has it.
async fn serve(listener: TcpListener, router: Router, signal: impl Future<Output = ()> + Send + 'static) {
    axum::serve(listener, router).with_graceful_shutdown(signal).await.unwrap();
}

fn ours(listener: TcpListener, open: &Open) -> Stop {
    let (coordinator, handle, phase) = coordinator();
    let sessions = Sessions::new(&handle, phase, "websockets");
    let open = Arc::clone(open);
    let router = router(move |request| {
        let open = Arc::clone(&open);
        let upgraded = sessions.on_upgrade(request, "websocket 1", |socket, cx| async move {
            session(socket, open, cx.closing().cancelled()).await;
        });
        upgraded.unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())
    });
    drop(Server::new(&handle, phase, router).linger(std::time::Duration::from_millis(50)).serve_tcp(listener).unwrap());
    async move {
        handle.trigger(manual());
        assert!(coordinator.run().await.is_clean());
    }
    .boxed()
}

/// As tokio's guide to graceful shutdown: a token to tell, a tracker to wait.
fn tokio_util(listener: TcpListener, open: &Open) -> Stop {
    let (token, tracker) = (CancellationToken::new(), TaskTracker::new());
    let router = tracked(&token, &tracker, open);
    let server = tokio::spawn(serve(listener, router, token.clone().cancelled_owned()));
    async move {
        token.cancel();
        server.await.unwrap();
        tracker.close();
        tracker.wait().await;
    }
    .boxed()
}

fn tracked(token: &CancellationToken, tracker: &TaskTracker, open: &Open) -> Router {
    let (token, tracker, open) = (token.clone(), tracker.clone(), Arc::clone(open));
    router(move |request| {
        let (token, guard, open) = (token.clone(), tracker.token(), Arc::clone(&open));
        request.on_upgrade(move |socket| async move {
            session(socket, open, token.cancelled()).await;
            drop(guard);
        })
    })
}

fn tokio_graceful(listener: TcpListener, open: &Open) -> Stop {
    let (trigger, triggered) = oneshot::channel::<()>();
    let shutdown = Shutdown::new(triggered);
    let (guard, open) = (shutdown.guard(), Arc::clone(open));
    shutdown.spawn_task_fn(|signal| async move {
        let router = router(move |request| {
            let (guard, open) = (guard.clone(), Arc::clone(&open));
            request.on_upgrade(move |socket| async move { session(socket, open, guard.cancelled()).await })
        });
        serve(listener, router, async move { signal.cancelled().await }).await;
    });
    async move {
        trigger.send(()).unwrap();
        shutdown.shutdown_with_limit(PATIENCE).await.unwrap();
    }
    .boxed()
}

/// As its hyper example: a subsystem for the listener, a token and a tracker for the connections.
fn tokio_graceful_shutdown(listener: TcpListener, open: &Open) -> Stop {
    let (token, open) = (CancellationToken::new(), Arc::clone(open));
    let server = async move |subsystem: &mut SubsystemHandle| {
        let (token, tracker) = (subsystem.create_cancellation_token(), TaskTracker::new());
        let router = tracked(&token, &tracker, &open);
        serve(listener, router, token.cancelled_owned()).await;
        tracker.close();
        tracker.wait().await;
        Ok::<(), std::io::Error>(())
    };
    let toplevel = Toplevel::new_with_shutdown_token(
        async move |root: &mut SubsystemHandle| {
            root.start(SubsystemBuilder::new("server", server));
        },
        token.clone(),
    );
    async move {
        token.cancel();
        toplevel.handle_shutdown_requests(PATIENCE).await.unwrap();
    }
    .boxed()
}

fn drain(listener: TcpListener, open: &Open) -> Stop {
    let (signal, watch) = drain::channel();
    let open = Arc::clone(open);
    let router = router({
        let watch = watch.clone();
        move |request| {
            let (watch, open) = (watch.clone(), Arc::clone(&open));
            let (tell, told) = oneshot::channel::<()>();
            request.on_upgrade(move |socket| watch.watch(session(socket, open, told).boxed(), |_| drop(tell)))
        }
    });
    let server = tokio::spawn(serve(listener, router, async move { drop(watch.signaled().await) }));
    async move {
        signal.drain().await;
        server.await.unwrap();
    }
    .boxed()
}

fn async_shutdown(listener: TcpListener, open: &Open) -> Stop {
    let manager = ShutdownManager::new();
    let open = Arc::clone(open);
    let router = router({
        let manager = manager.clone();
        move |request| {
            let (triggered, open) = (manager.wait_shutdown_triggered(), Arc::clone(&open));
            let Ok(delay) = manager.delay_shutdown_token() else {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            };
            request.on_upgrade(move |socket| delay.wrap_future(session(socket, open, triggered)))
        }
    });
    let server = serve(listener, router, manager.wait_shutdown_triggered());
    tokio::spawn(manager.wrap_delay_shutdown(server).unwrap());
    async move {
        manager.trigger_shutdown(()).unwrap();
        manager.wait_shutdown_complete().await;
    }
    .boxed()
}

/// As axum's examples of websockets and of graceful shutdown, together.
fn axum_serve(listener: TcpListener, open: &Open) -> Stop {
    let (trigger, triggered) = oneshot::channel::<()>();
    let open = Arc::clone(open);
    let router = router(move |request| {
        let open = Arc::clone(&open);
        request.on_upgrade(move |socket| session(socket, open, pending::<()>()))
    });
    let server = tokio::spawn(serve(listener, router, async { drop(triggered.await) }));
    async move {
        trigger.send(()).unwrap();
        server.await.unwrap();
    }
    .boxed()
}
