//! 4. What would run the shutdown is dropped, before or midway. Does whoever waits learn of it?

use std::{future::pending, pin::pin};

use async_shutdown::ShutdownManager;
use futures_util::poll;
use shutdown_coordinator::{RunStage, ShutdownHandle};
use tokio::sync::oneshot;
use tokio_graceful::Shutdown;
use tokio_graceful_shutdown::{SubsystemBuilder, SubsystemHandle, Toplevel};
use tokio_util::sync::CancellationToken;

use crate::card::{Peer, Verdict, absent, coordinator, fail, happens, manual, pass};

const SILENT: &str = "waits for ever";

pub(crate) async fn judge(peer: Peer) -> Verdict {
    match peer {
        Peer::Ours => ours().await,
        Peer::TokioUtil => tokio_util().await,
        Peer::TokioGraceful => tokio_graceful().await,
        Peer::TokioGracefulShutdown => tokio_graceful_shutdown().await,
        Peer::Drain => drain().await,
        Peer::AsyncShutdown => async_shutdown().await,
        Peer::AxumServe => absent("has no handle"),
    }
}

async fn ours() -> Verdict {
    async fn learns(handle: ShutdownHandle) -> bool {
        let mut progress = handle.progress();
        happens(async { drop(progress.wait_for(|now| now.stage == RunStage::Abandoned).await) }).await
    }
    let (unused, handle, _) = coordinator();
    drop(unused);
    if !learns(handle).await {
        return fail("the coordinator is dropped before its run, and progress() does not say so");
    }
    let (midway, handle, phase) = coordinator();
    let _guard = handle.gate(phase, "requests").enter().unwrap();
    handle.trigger(manual());
    {
        let mut run = pin!(midway.run());
        assert!(poll!(&mut run).is_pending());
    }
    if !learns(handle).await {
        return fail("the run is dropped midway, and progress() does not say so");
    }
    pass("progress() says Abandoned; midway the watchdog stays armed")
}

async fn tokio_util() -> Verdict {
    let token = CancellationToken::new();
    drop(token.clone().drop_guard());
    if happens(token.cancelled()).await { pass("with a DropGuard: it cancels") } else { fail(SILENT) }
}

async fn tokio_graceful() -> Verdict {
    let shutdown = Shutdown::new(pending::<()>());
    let guard = shutdown.guard();
    drop(shutdown);
    if happens(guard.cancelled()).await { pass("told") } else { fail("a guard waits for ever") }
}

async fn tokio_graceful_shutdown() -> Verdict {
    let (alive, gone) = oneshot::channel::<()>();
    let (started, start) = oneshot::channel();
    let subsystem = async move |subsystem: &mut SubsystemHandle| {
        started.send(()).unwrap();
        subsystem.on_shutdown_requested().await;
        drop(alive);
        Ok::<(), std::io::Error>(())
    };
    let toplevel: Toplevel = Toplevel::new(async move |root: &mut SubsystemHandle| {
        root.start(SubsystemBuilder::new("worker", subsystem));
        root.on_shutdown_requested().await;
    });
    start.await.unwrap();
    drop(toplevel);
    if happens(gone).await { pass("its subsystems are dropped with it") } else { fail(SILENT) }
}

async fn drain() -> Verdict {
    let (signal, watch) = drain::channel();
    drop(signal);
    if happens(watch.signaled()).await { pass("dropping the Signal signals") } else { fail(SILENT) }
}

async fn async_shutdown() -> Verdict {
    let manager = ShutdownManager::new();
    drop(manager.trigger_shutdown_token(()));
    let told = happens(manager.wait_shutdown_triggered()).await;
    if told { pass("with a TriggerShutdownToken: it triggers") } else { fail(SILENT) }
}
