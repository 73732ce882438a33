//! Runs two shutdowns, one that goes well and one that does not, and draws both: `timeline-clean.svg` and
//! `timeline-troubled.svg`, in the directory that is given or here. Time is simulated, so it takes no time.
#![allow(clippy::print_stdout, reason = "an example")]

use std::{env, error::Error, fs, future::pending, path::PathBuf, thread, time::Duration};

use shutdown_coordinator::{FailurePolicy, PhaseId, Reason, Report, ShutdownCoordinator, ShutdownHandle};
use tokio::time::sleep;

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

type Failure = Box<dyn Error>;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Failure> {
    let directory = PathBuf::from(env::args().nth(1).unwrap_or_default());
    for (name, report) in [("clean", clean().await?), ("troubled", troubled().await?)] {
        println!("{report}");
        fs::write(directory.join(format!("timeline-{name}.svg")), report.to_svg())?;
    }
    Ok(())
}

/// The phases of a trading server.
struct Phases {
    announce: PhaseId,
    stop: PhaseId,
    drain: PhaseId,
    persist: PhaseId,
    tell: PhaseId,
    close: PhaseId,
}

fn build() -> Result<(ShutdownCoordinator, ShutdownHandle, Phases), Failure> {
    let mut builder = ShutdownCoordinator::builder();
    let announce = builder.phase("announce").hold(ms(5_000)).id();
    let stop = builder.phase("stop-accepting").after(&[announce]).timeout(ms(5_000)).point_of_no_return().id();
    let drain =
        builder.phase("order-drain").after(&[stop]).timeout(ms(30_000)).on_failure(FailurePolicy::AbortRest).id();
    let persist = builder.phase("persist-state").after(&[drain]).reserve(ms(4_000)).id();
    let tell = builder.phase("tell-upstream").after(&[drain]).timeout(ms(3_000)).id();
    let close = builder.phase("close-stores").after(&[persist, tell]).reserve(ms(2_000)).id();
    let (coordinator, handle) = builder.deadline(ms(42_000)).build()?;
    Ok((coordinator, handle, Phases { announce, stop, drain, persist, tell, close }))
}

/// A hook that does nothing but take its time.
fn hook(handle: &ShutdownHandle, phase: PhaseId, name: &'static str, took: u64) -> Result<(), Failure> {
    handle.on(phase, name, move |_| sleep(ms(took)))?;
    Ok(())
}

/// A guard that is given back so long after its phase has started.
fn guard(handle: &ShutdownHandle, phase: PhaseId, gate: &'static str, held: u64) -> Result<(), Failure> {
    let guard = handle.gate(phase, gate).enter()?;
    let stop = handle.token(phase);
    let owner = async move {
        stop.cancelled().await;
        sleep(ms(held)).await;
        drop(guard);
    };
    handle.spawn(phase, format!("{gate} worker"), owner)?;
    Ok(())
}

async fn clean() -> Result<Report, Failure> {
    let (coordinator, handle, phases) = build()?;
    hook(&handle, phases.announce, "readiness off", 12)?;
    hook(&handle, phases.stop, "close listeners", 40)?;
    guard(&handle, phases.stop, "connections", 640)?;
    hook(&handle, phases.drain, "cancel resting orders", 3_300)?;
    guard(&handle, phases.drain, "orders", 11_400)?;
    hook(&handle, phases.persist, "save positions", 1_900)?;
    hook(&handle, phases.tell, "deregister", 700)?;
    hook(&handle, phases.close, "checkpoint", 900)?;
    handle.trigger(Reason::Signal(SIGTERM));
    Ok(coordinator.run().await)
}

async fn troubled() -> Result<Report, Failure> {
    let (coordinator, handle, phases) = build()?;
    hook(&handle, phases.announce, "readiness off", 12)?;
    guard(&handle, phases.stop, "connections", 400)?;
    hook(&handle, phases.drain, "cancel resting orders", 3_500)?;
    handle.on(phases.drain, "notify desk", |_| async {
        sleep(ms(4_300)).await;
        Err("POST https://desk.example/hook: 503 Service Unavailable")
    })?;
    handle.on(phases.drain, "settle fills", |cx| async move {
        cx.expiring().cancelled().await;
        sleep(ms(60)).await;
    })?;
    handle.on_blocking(phases.drain, "fsync journal", |_| block_for_ever())?;
    handle.spawn(phases.drain, "venue poller", pending::<()>())?;
    let orders = handle.gate(phases.drain, "orders");
    let oldest = orders.enter_named("order 17 BTC-PERP")?;
    sleep(ms(7_000)).await;
    let others = [orders.enter()?, orders.enter()?, orders.enter()?];
    handle.on(phases.persist, "save positions", |cx| async move {
        sleep(ms(2_700)).await;
        cx.unclean("4 orders are in doubt");
    })?;
    hook(&handle, phases.tell, "deregister", 700)?;
    hook(&handle, phases.close, "checkpoint", 500)?;

    handle.trigger(Reason::Signal(SIGTERM));
    let impatient = async {
        sleep(ms(28_000)).await;
        handle.force(Reason::Signal(SIGINT));
    };
    let (report, ()) = tokio::join!(coordinator.run(), impatient);
    drop((oldest, others));
    Ok(report)
}

fn block_for_ever() {
    loop {
        thread::park();
    }
}
