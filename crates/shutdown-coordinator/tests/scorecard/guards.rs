//! 3. Is every guard that was given waited for? They are asked for once somebody waits for the end, again once it has been
//!    triggered, and again once it has come.

use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
};

use async_shutdown::ShutdownManager;
use futures_util::poll;
use shutdown_coordinator::Gate;
use tokio::{sync::oneshot, task::spawn_blocking};
use tokio_graceful::{Shutdown, ShutdownGuard};
use tokio_util::task::TaskTracker;

use crate::card::{Peer, Verdict, absent, coordinator, fail, happens, manual, pass, soon};

const NOT_WAITED_FOR: &str = "the end comes while a guard is held";

pub(crate) async fn judge(peer: Peer) -> Verdict {
    match peer {
        Peer::Ours => ours().await,
        Peer::TokioUtil => tokio_util().await,
        Peer::TokioGraceful => tokio_graceful().await,
        Peer::Drain => drain().await,
        Peer::AsyncShutdown => async_shutdown().await,
        Peer::TokioGracefulShutdown | Peer::AxumServe => absent("has no guards"),
    }
}

async fn ours() -> Verdict {
    let (coordinator, handle, phase) = coordinator();
    let gate = handle.gate(phase, "requests");
    let mut end = pin!(coordinator.run());
    assert!(poll!(&mut end).is_pending());
    let early = gate.enter();
    handle.trigger(manual());
    assert!(poll!(&mut end).is_pending());
    let late = gate.enter();
    if happens(&mut end).await {
        return fail(NOT_WAITED_FOR);
    }
    drop((early, late));
    soon(end).await;
    if gate.enter().is_ok() {
        return fail("a guard is given after the end");
    }
    for _ in 0..300 {
        if !race().await {
            return fail("a guard that was given in a race with the close is not waited for");
        }
    }
    pass("refused or waited for, also in 300 races with the close")
}

/// Threads come and go until they are refused, while the gate is closed. Whether nobody was inside at the end.
async fn race() -> bool {
    let (coordinator, handle, phase) = coordinator();
    let gate = handle.gate(phase, "requests");
    let visits = spawn_blocking({
        let gate = gate.clone();
        move || {
            let inside = AtomicUsize::new(0);
            let come_and_go = |gate: &Gate| {
                while let Ok(guard) = gate.enter() {
                    inside.fetch_add(1, SeqCst);
                    thread::yield_now();
                    inside.fetch_sub(1, SeqCst);
                    drop(guard);
                }
            };
            thread::scope(|scope| {
                scope.spawn(|| come_and_go(&gate));
                scope.spawn(|| come_and_go(&gate));
                handle.trigger(manual());
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(coordinator.run());
                inside.load(SeqCst) == 0
            })
        }
    });
    soon(visits).await.unwrap()
}

async fn tokio_util() -> Verdict {
    let tracker = TaskTracker::new();
    let mut end = pin!(tracker.wait());
    assert!(poll!(&mut end).is_pending());
    let early = tracker.token();
    tracker.close();
    let late = tracker.token();
    if happens(&mut end).await {
        return fail(NOT_WAITED_FOR);
    }
    drop((early, late));
    soon(end).await;
    // Nothing refuses it: `token` always gives one.
    let _given = tracker.token();
    fail("one that is taken as wait() returns is given, and nobody waits for it")
}

/// Gives a guard when it is called.
type Listener = Box<dyn FnOnce() -> ShutdownGuard + Send>;

async fn tokio_graceful() -> Verdict {
    async fn waits_for(listener: fn(&Shutdown) -> Listener) -> bool {
        let (trigger, triggered) = oneshot::channel::<()>();
        let shutdown = Shutdown::new(triggered);
        let listener = listener(&shutdown);
        let mut end = pin!(shutdown.shutdown());
        assert!(poll!(&mut end).is_pending());
        let _early = listener();
        trigger.send(()).unwrap();
        !happens(&mut end).await
    }
    let weak = |shutdown: &Shutdown| -> Listener {
        let guard = shutdown.guard_weak();
        Box::new(|| guard.upgrade())
    };
    let strong = |shutdown: &Shutdown| -> Listener {
        let guard = shutdown.guard();
        Box::new(move || guard.clone())
    };
    match tokio::join!(waits_for(weak), waits_for(strong)) {
        (true, true) => pass("waited for"),
        (false, true) => {
            fail("one upgraded from a weak guard while shutdown() waits is not; one cloned from a guard is")
        }
        _ => fail(NOT_WAITED_FOR),
    }
}

async fn drain() -> Verdict {
    let (signal, watch) = drain::channel();
    let early = watch.clone();
    let mut end = pin!(signal.drain());
    assert!(poll!(&mut end).is_pending());
    let late = watch.clone();
    drop(watch);
    if happens(&mut end).await {
        return fail(NOT_WAITED_FOR);
    }
    drop((early, late));
    soon(end).await;
    pass("waited for; the end comes only when nobody can make one")
}

async fn async_shutdown() -> Verdict {
    let manager = ShutdownManager::new();
    let mut end = pin!(manager.wait_shutdown_complete());
    assert!(poll!(&mut end).is_pending());
    let early = manager.delay_shutdown_token().unwrap();
    manager.trigger_shutdown(()).unwrap();
    let late = manager.delay_shutdown_token();
    if happens(&mut end).await {
        return fail(NOT_WAITED_FOR);
    }
    drop((early, late));
    soon(end).await;
    if manager.delay_shutdown_token().is_ok() {
        return fail("a token is given after the end");
    }
    pass("waited for, and refused after the end")
}
