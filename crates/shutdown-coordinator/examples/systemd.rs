//! A service under systemd; `systemd.service` beside this file is its unit.
//!
//! Its argument says what it does: `serve` (or nothing), or, for the tests, `slow` (work in hand takes 6 s to finish),
//! `hang` and `hang-stop` (block every worker, after a second or when the shutdown begins) or `mute` (is never ready).
#![allow(clippy::print_stdout, reason = "an example")]

use std::{env, error::Error, process::ExitCode, thread, time::Duration};

use shutdown_coordinator::{
    Gate, PhaseId, Report, ShutdownCoordinator, ShutdownHandle, SignalPolicy, run_main, systemd::Systemd,
};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    run_main(SECOND / 5, service(env::args().nth(1).unwrap_or_default()))
}

async fn service(scenario: String) -> Result<Report, Box<dyn Error>> {
    let mut builder = ShutdownCoordinator::builder();
    let announce = builder.phase("announce").hold(SECOND / 2).id();
    let drain = builder.phase("drain").after(&[announce]).timeout(15 * SECOND).point_of_no_return().id();
    let (coordinator, handle) =
        builder.deadline(20 * SECOND).watchdog(SECOND).signals(SignalPolicy::default()).build()?;
    let systemd = Systemd::from_env(&handle)?;
    let work = handle.gate(drain, "orders");

    handle.spawn(drain, "reload", reload(handle.clone(), drain, systemd.clone()))?;
    match &*scenario {
        "slow" => drop(handle.spawn(drain, "slow", finish_slowly(handle.clone(), work))?),
        "hang" => drop(handle.spawn(drain, "hang", hang(handle.clone(), drain, sleep(SECOND)))?),
        "hang-stop" => {
            let begun = handle.begun();
            drop(handle.spawn(drain, "hang", hang(handle.clone(), drain, begun.cancelled_owned()))?);
        }
        _ => {}
    }
    if scenario != "mute" {
        systemd.ready("serving");
        println!("ready");
    }
    let report = systemd.watch(coordinator.run()).await;
    println!("{report}");
    Ok(report)
}

/// SIGHUP reloads, which takes a second here.
async fn reload(handle: ShutdownHandle, drain: PhaseId, systemd: Systemd) {
    let (mut reloads, stop) = (handle.reloads(), handle.token(drain));
    while let Some(Ok(())) = stop.run_until_cancelled(reloads.changed()).await {
        let count = *reloads.borrow_and_update();
        let reloading = systemd.reloading();
        sleep(SECOND).await;
        systemd.status(format!("serving, reload {count} is done"));
        drop(reloading);
    }
}

/// Work that is in hand when the shutdown begins, and takes longer than `TimeoutStopSec`.
async fn finish_slowly(handle: ShutdownHandle, work: Gate) {
    let Ok(_guard) = work.enter_named("order 17") else { return };
    handle.begun().cancelled().await;
    sleep(6 * SECOND).await;
}

async fn hang(handle: ShutdownHandle, drain: PhaseId, when: impl Future<Output = ()>) {
    when.await;
    let park = || async {
        loop {
            thread::park();
        }
    };
    for _ in 0..64 {
        let Ok(_task) = handle.spawn(drain, "blocks a worker", park()) else { return };
    }
}
