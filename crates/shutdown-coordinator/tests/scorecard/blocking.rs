//! 5. A blocking job never returns. Does the process end within its limit, not with 0, and say which job it left behind?

use std::{process::ExitCode, time::Duration};

use shutdown_coordinator::{Report, ShutdownCoordinator, run_main};
use tokio::{task::spawn_blocking, time::timeout};
use tokio_graceful::Shutdown;
use tokio_graceful_shutdown::{SubsystemBuilder, SubsystemHandle, Toplevel};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    card::{Peer, Verdict, absent, fail, manual, pass},
    process::{Child, block_for_ever, tokio_main},
};

const LIMIT: Duration = Duration::from_millis(500);
const JOB: &str = "import-7";

pub(crate) async fn judge(peer: Peer) -> Verdict {
    match peer {
        Peer::Ours | Peer::TokioUtil | Peer::TokioGraceful | Peer::TokioGracefulShutdown => {}
        Peer::Drain | Peer::AsyncShutdown => return absent("has no limit"),
        Peer::AxumServe => return absent("has no jobs"),
    }
    let end = Child::start("blocking", peer).end().await;
    match (end.code, end.said.contains(JOB)) {
        (None, true) => fail("named, but still running 10 s later: the runtime's drop waits for it"),
        (None, false) => fail("still running 10 s later: the runtime's drop waits for it"),
        (Some(0), _) => fail("ends, with 0"),
        (Some(_), false) => fail("ends, with Runtime::shutdown_timeout, but does not say which job was left"),
        (Some(_), true) => pass("run_main leaves it behind, and the report names it"),
    }
}

pub(crate) fn child(peer: Peer) -> ExitCode {
    match peer {
        Peer::Ours => run_main(LIMIT, ours()),
        Peer::TokioUtil => tokio_util(),
        Peer::TokioGraceful => tokio_main().block_on(tokio_graceful()),
        Peer::TokioGracefulShutdown => tokio_main().block_on(tokio_graceful_shutdown()),
        _ => panic!("{} has no limit", peer.name()),
    }
}

async fn ours() -> Report {
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").id();
    let (coordinator, handle) = builder.deadline(LIMIT).build().unwrap();
    let guard = handle.gate(drain, "jobs").enter_named(JOB).unwrap();
    drop(spawn_blocking(move || {
        let _guard = guard;
        block_for_ever();
    }));
    handle.trigger(manual());
    let report = coordinator.run().await;
    println!("{report}");
    report
}

/// As tokio's documentation of `spawn_blocking` advises, with `Runtime::shutdown_timeout`.
fn tokio_util() -> ExitCode {
    let runtime = tokio_main();
    let in_time = runtime.block_on(async {
        let tracker = TaskTracker::new();
        tracker.spawn_blocking(block_for_ever);
        tracker.close();
        let in_time = timeout(LIMIT, tracker.wait()).await.is_ok();
        println!("{tracker:?}");
        in_time
    });
    runtime.shutdown_timeout(LIMIT);
    if in_time { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn tokio_graceful() -> ExitCode {
    let shutdown = Shutdown::new(async {});
    let guard = shutdown.guard();
    drop(spawn_blocking(move || {
        let _guard = guard;
        block_for_ever();
    }));
    match shutdown.shutdown_with_limit(LIMIT).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn tokio_graceful_shutdown() -> ExitCode {
    let token = CancellationToken::new();
    let root = async |root: &mut SubsystemHandle| {
        let job = async |_: &mut SubsystemHandle| spawn_blocking(block_for_ever).await;
        root.start(SubsystemBuilder::new(JOB, job));
    };
    let toplevel = Toplevel::new_with_shutdown_token(root, token.clone());
    // The job has been started when the root is asked to stop.
    let request = async {
        tokio::time::sleep(LIMIT).await;
        token.cancel();
    };
    match tokio::join!(toplevel.handle_shutdown_requests(LIMIT), request).0 {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:?}");
            ExitCode::FAILURE
        }
    }
}
