//! A worker, a gate and a hook. Run it and press Ctrl-C; press it twice to force.
#![allow(clippy::print_stdout, reason = "an example")]

use std::{error::Error, process::ExitCode, time::Duration};

use shutdown_coordinator::{Report, ShutdownCoordinator, SignalPolicy, run_main};

const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    run_main(SECOND, service())
}

async fn service() -> Result<Report, Box<dyn Error>> {
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").timeout(10 * SECOND).id();
    let persist = builder.phase("persist").after(&[drain]).reserve(2 * SECOND).id();
    let (coordinator, handle) =
        builder.deadline(15 * SECOND).watchdog(2 * SECOND).signals(SignalPolicy::default()).build()?;

    // A worker takes orders until its phase starts; each order holds a guard until it is done.
    let (orders, stop) = (handle.gate(drain, "orders"), handle.token(drain));
    let worker = async move {
        for number in 1.. {
            let Ok(_order) = orders.enter_named(format!("order {number}")) else { break };
            println!("order {number}");
            tokio::time::sleep(SECOND).await;
            if stop.is_cancelled() {
                break;
            }
        }
    };
    handle.spawn(drain, "worker", worker)?;
    handle.on(persist, "save", |cx| async move {
        println!("saving, with {:?} left", cx.remaining());
        Ok::<(), std::io::Error>(())
    })?;

    println!("{}", handle.plan());
    let report = coordinator.run().await;
    println!("{report}");
    Ok(report)
}
