//! 1. The clean-up blocks every worker. Does the process end by its deadline, and not with 0?

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use shutdown_coordinator::{Report, ShutdownCoordinator, run_main};
use tokio_graceful::Shutdown;
use tokio_graceful_shutdown::{SubsystemBuilder, SubsystemHandle, Toplevel};
use tokio_util::sync::CancellationToken;

use crate::{
    card::{Peer, Verdict, absent, fail, manual, pass},
    process::{Child, block_for_ever, tokio_main, workers},
};

const DEADLINE: Duration = Duration::from_millis(500);

pub(crate) async fn judge(peer: Peer) -> Verdict {
    match peer {
        Peer::Ours | Peer::TokioGraceful | Peer::TokioGracefulShutdown => {}
        Peer::TokioUtil | Peer::Drain | Peer::AsyncShutdown | Peer::AxumServe => return absent("has no deadline"),
    }
    let mut child = Child::start("blocked", peer);
    assert!(child.says("starved").await, "{} ended before every worker was blocked", peer.name());
    let end = child.end().await;
    match end.code {
        None => fail("still running 10 s later: its timer needs a worker"),
        Some(0) => fail("ends, with 0"),
        Some(_) if end.said.contains("blocker 1") => pass("a watchdog thread ends it, and names what blocks"),
        Some(_) => pass("ends"),
    }
}

pub(crate) fn child(peer: Peer) -> ExitCode {
    let blockade = Blockade::default();
    match peer {
        Peer::Ours => run_main(DEADLINE, ours(blockade)),
        Peer::TokioGraceful => tokio_main().block_on(tokio_graceful(blockade)),
        Peer::TokioGracefulShutdown => tokio_main().block_on(tokio_graceful_shutdown(blockade)),
        _ => panic!("{} has no deadline", peer.name()),
    }
}

/// Enough tasks to block every worker.
#[derive(Clone, Default)]
struct Blockade(Arc<AtomicUsize>);

impl Blockade {
    fn tasks() -> usize {
        workers() * 4
    }

    fn block(&self) {
        if self.0.fetch_add(1, SeqCst) + 1 == workers() {
            println!("starved");
        }
        block_for_ever();
    }
}

async fn ours(blockade: Blockade) -> Report {
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").id();
    let (coordinator, handle) = builder.deadline(DEADLINE).watchdog(Duration::from_millis(200)).build().unwrap();
    for number in 0..Blockade::tasks() {
        let blockade = blockade.clone();
        handle.on(drain, format!("blocker {number}"), |_| async move { blockade.block() }).unwrap();
    }
    handle.trigger(manual());
    coordinator.run().await
}

async fn tokio_graceful(blockade: Blockade) -> ExitCode {
    let shutdown = Shutdown::new(async {});
    for _ in 0..Blockade::tasks() {
        let blockade = blockade.clone();
        shutdown.spawn_task_fn(|guard| async move {
            guard.cancelled().await;
            blockade.block();
        });
    }
    let result = shutdown.shutdown_with_limit(DEADLINE).await;
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn tokio_graceful_shutdown(blockade: Blockade) -> ExitCode {
    let token = CancellationToken::new();
    let root = async move |root: &mut SubsystemHandle| {
        for number in 0..Blockade::tasks() {
            let blockade = blockade.clone();
            let block = async move |subsystem: &mut SubsystemHandle| {
                subsystem.on_shutdown_requested().await;
                blockade.block();
                Ok::<(), std::io::Error>(())
            };
            root.start(SubsystemBuilder::new(format!("blocker {number}"), block));
        }
    };
    let toplevel = Toplevel::new_with_shutdown_token(root, token.clone());
    token.cancel();
    let result = toplevel.handle_shutdown_requests(DEADLINE).await;
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
