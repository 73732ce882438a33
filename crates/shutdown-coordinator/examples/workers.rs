//! Two worker pools, each a scope: one is stopped while the service goes on, the other takes the service down when one of its
//! workers fails.
//!
//! `cargo run --example workers`. It ends by itself after some seconds, with exit code 75, since a task has failed.
#![allow(clippy::print_stdout, reason = "an example")]

use std::{error::Error, future::pending, process::ExitCode, time::Duration};

use shutdown_coordinator::{Escalation, Report, ShutdownCoordinator, SignalPolicy, run_main};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);
const JOB: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    run_main(SECOND, service())
}

async fn service() -> Result<Report, Box<dyn Error>> {
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").timeout(5 * SECOND).id();
    let builder = builder.deadline(10 * SECOND).watchdog(SECOND).signals(SignalPolicy::default());
    let (coordinator, handle) = builder.build()?;

    // Nobody needs the imports right now: a failure in this pool would be logged and reported, no more.
    let imports = handle.scope(drain, "imports").timeout(SECOND).open()?;
    imports.spawn("worker 1", work("import", imports.token(), None))?;
    // This one hears nothing. It will be aborted, at its next await, and named.
    imports.spawn("deaf", pending::<()>())?;

    // Without orders the service is of no use: one failure stops the pool and, as it is nobody's child, the service.
    let orders = handle.scope(drain, "orders").on_failure(Escalation::Escalate).open()?;
    orders.spawn("worker 1", work("order", orders.token(), None))?;
    orders.spawn("worker 2", work("order", orders.token(), Some(10)))?;

    // Somebody decides to do without the imports. A task of the scope itself would have to use `request_stop`, since it
    // cannot wait for its own end.
    let operator = async move {
        sleep(2 * JOB).await;
        let end = imports.stop().await;
        println!("imports are over after {:.1?}; aborted: {}", end.took, end.aborted.join(", "));
    };
    handle.spawn(drain, "operator", operator)?;

    let report = coordinator.run().await;
    println!("{report}");
    Ok(report)
}

/// Looks at the token between jobs, never in the middle of one: what was begun is finished.
async fn work(what: &str, stop: CancellationToken, fails_at: Option<u32>) -> Result<(), String> {
    for number in 1.. {
        if stop.is_cancelled() {
            println!("{what}: told to stop, nothing is half done");
            break;
        }
        sleep(JOB).await;
        if Some(number) == fails_at {
            return Err(format!("{what} {number}: the database is gone"));
        }
    }
    Ok(())
}
