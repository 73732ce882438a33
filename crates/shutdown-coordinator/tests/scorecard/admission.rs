//! 2. The shutdown has begun, and something is still under way. Is new work refused?

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use async_shutdown::ShutdownManager;
use axum::{Router, routing::get};
use futures_util::{FutureExt as _, poll};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
    task::JoinSet,
};
use tokio_graceful::Shutdown;
use tokio_graceful_shutdown::{SubsystemBuilder, SubsystemHandle, Toplevel};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::card::{PATIENCE, Peer, Verdict, coordinator, fail, manual, pass, soon};

pub(crate) async fn judge(peer: Peer) -> Verdict {
    match peer {
        Peer::Ours => ours().await,
        Peer::TokioUtil => tokio_util().await,
        Peer::TokioGraceful => tokio_graceful().await,
        Peer::TokioGracefulShutdown => tokio_graceful_shutdown().await,
        Peer::Drain => drain().await,
        Peer::AsyncShutdown => async_shutdown(),
        Peer::AxumServe => axum_serve().await,
    }
}

/// Work that tells whether it was ever polled.
fn late_work() -> (Arc<AtomicBool>, impl Future<Output = ()> + Send + 'static) {
    let ran = Arc::new(AtomicBool::new(false));
    let work = {
        let ran = Arc::clone(&ran);
        async move { ran.store(true, SeqCst) }
    };
    (ran, work)
}

async fn ours() -> Verdict {
    let (coordinator, handle, phase) = coordinator();
    let gate = handle.gate(phase, "requests");
    let under_way = gate.enter().unwrap();
    let running = tokio::spawn(coordinator.run());
    handle.trigger(manual());
    soon(handle.token(phase).cancelled()).await;
    let (ran, work) = late_work();
    let refused = gate.enter().is_err() && handle.spawn(phase, "late", work).is_err();
    drop(under_way);
    soon(running).await.unwrap();
    if refused && !ran.load(SeqCst) {
        pass("refused by gate and spawn, and the future comes back unpolled")
    } else {
        fail("admitted")
    }
}

async fn tokio_util() -> Verdict {
    let tracker = TaskTracker::new();
    let _under_way = tracker.token();
    tracker.close();
    let (ran, work) = late_work();
    soon(tracker.spawn(work)).await.ok();
    if ran.load(SeqCst) { fail("TaskTracker::spawn runs it after close()") } else { pass("refused") }
}

async fn tokio_graceful() -> Verdict {
    let shutdown = Shutdown::new(async {});
    let _under_way = shutdown.guard();
    let listener = shutdown.guard_weak();
    soon(listener.cancelled()).await;
    let (ran, work) = late_work();
    soon(listener.upgrade().spawn_task(work)).await.ok();
    if ran.load(SeqCst) { fail("a guard can still be had, and spawns it") } else { pass("refused") }
}

async fn tokio_graceful_shutdown() -> Verdict {
    let token = CancellationToken::new();
    let (ran, work) = late_work();
    let root = async move |root: &mut SubsystemHandle| {
        root.on_shutdown_requested().await;
        let late = async move |_: &mut SubsystemHandle| {
            work.await;
            Ok::<(), std::io::Error>(())
        };
        root.start(SubsystemBuilder::new("late", late));
    };
    let toplevel = Toplevel::new_with_shutdown_token(root, token.clone());
    token.cancel();
    soon(toplevel.handle_shutdown_requests(PATIENCE)).await.unwrap();
    if ran.load(SeqCst) { fail("start() runs it; it is told at once, and waited for") } else { pass("refused") }
}

async fn drain() -> Verdict {
    let (signal, watch) = drain::channel();
    let mut draining = pin!(signal.drain());
    assert!(poll!(&mut draining).is_pending());
    let (ran, work) = late_work();
    soon(watch.clone().watch(work.boxed(), |_| ())).await;
    if ran.load(SeqCst) { fail("a Watch wraps it; it is told at once, and waited for") } else { pass("refused") }
}

fn async_shutdown() -> Verdict {
    let manager = ShutdownManager::new();
    let _under_way = manager.delay_shutdown_token().unwrap();
    manager.trigger_shutdown(()).unwrap();
    if manager.wrap_delay_shutdown(async {}).is_ok() {
        fail("admitted until the last token is gone; it is waited for")
    } else {
        pass("refused")
    }
}

/// Here, work is a connection.
async fn axum_serve() -> Verdict {
    let (arrived, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (arrived, go_on) = (Arc::clone(&arrived), Arc::clone(&go_on));
        async move || {
            arrived.notify_one();
            go_on.notified().await;
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, triggered) = oneshot::channel::<()>();
    let mut servers = JoinSet::new();
    servers.spawn(
        axum::serve(listener, Router::new().route("/", get(slow)))
            .with_graceful_shutdown(async { drop(triggered.await) })
            .into_future(),
    );
    let mut under_way = TcpStream::connect(address).await.unwrap();
    under_way.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon(arrived.notified()).await;
    trigger.send(()).unwrap();
    let refusal = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refusal).await.is_ok();
    go_on.notify_one();
    if refused { pass("the listener is dropped") } else { fail("connections are accepted") }
}
