//! The smallest complete service: a worker, and something to save at the end.
//!
//! `cargo run --example minimal`, then press Ctrl-C: the worker finishes its job, the hook saves, the report is printed, the
//! exit code is 0. Pressed twice, Ctrl-C forces: the worker is aborted, the hook still saves, the exit code is 130.
#![allow(clippy::print_stdout, reason = "an example")]

use std::{error::Error, process::ExitCode, time::Duration};

use shutdown_coordinator::{Report, ShutdownCoordinator, SignalPolicy, run_main};

const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    run_main(SECOND, service())
}

async fn service() -> Result<Report, Box<dyn Error>> {
    // What is done when, and how long it may take.
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").timeout(10 * SECOND).id();
    let persist = builder.phase("persist").after(&[drain]).reserve(2 * SECOND).id();
    let builder = builder.deadline(20 * SECOND).watchdog(2 * SECOND);
    let (coordinator, handle) = builder.signals(SignalPolicy::default()).build()?;

    // A task of the phase `drain`: told to stop when the phase starts, then waited for.
    let stop = handle.token(drain);
    let worker = async move {
        while !stop.is_cancelled() {
            println!("one more job");
            tokio::time::sleep(SECOND).await;
        }
    };
    handle.spawn(drain, "worker", worker)?;
    // A hook of the phase `persist`: run when the phase starts. Two seconds are kept for it.
    handle.on(persist, "save", |cx| async move {
        println!("saving, with {:?} left", cx.remaining());
    })?;

    // Waits for SIGTERM or SIGINT, then shuts down.
    let report = coordinator.run().await;
    println!("{report}");
    Ok(report)
}
