//! Looking at a shutdown before it is needed: the plan, which stops nothing, and a drill, which stops everything.
//!
//! ```sh
//! cargo run --example rehearsal            # a drill that goes well: exit code 0
//! cargo run --example rehearsal slow       # one that finds a hook that is too slow: exit code 75
//! ```
//!
//! A drill in CI or on a staging machine fails like any other job, by its exit code.
#![allow(clippy::print_stdout, reason = "an example")]

use std::{env, error::Error, process::ExitCode, time::Duration};

use shutdown_coordinator::{Reason, Report, ShutdownCoordinator, run_main};
use tokio::time::sleep;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    run_main(SECOND, service())
}

async fn service() -> Result<Report, Box<dyn Error>> {
    let flush_takes = if env::args().nth(1).as_deref() == Some("slow") { 60 * SECOND } else { 200 * MILLISECOND };

    let mut builder = ShutdownCoordinator::builder();
    let announce = builder.phase("announce").hold(100 * MILLISECOND).id();
    let drain = builder.phase("drain").after(&[announce]).timeout(2 * SECOND).point_of_no_return().id();
    let persist = builder.phase("persist").after(&[drain]).reserve(SECOND).id();
    let (coordinator, handle) = builder.deadline(10 * SECOND).watchdog(2 * SECOND).build()?;

    let orders = handle.gate(drain, "orders");
    handle.on(drain, "flush the cache", move |_| sleep(flush_takes))?;
    handle.on(persist, "save", |cx| async move {
        // Whoever must not act in a drill can ask.
        if *cx.reason() == Reason::Rehearsal {
            cx.note("a drill: saved to a scratch file");
        }
    })?;
    let stop = handle.token(drain);
    handle.spawn(drain, "poller", async move { stop.cancelled().await })?;

    // The plan may be asked for at any time, also by an admin endpoint. It is JSON, too: `Plan` is `Serialize`.
    println!("{}", handle.plan());

    // The drill. What is under way when it begins is waited for, as it would be in earnest.
    let order = orders.enter_named("order 7")?;
    handle.trigger(Reason::Rehearsal);
    let work = async {
        sleep(150 * MILLISECOND).await;
        for blocker in handle.blockers() {
            println!("waiting for {blocker}");
        }
        drop(order);
    };
    let (report, ()) = tokio::join!(coordinator.run(), work);
    println!("{report}");
    Ok(report)
}
