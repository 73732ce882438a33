//! Small services for the process tests: each prints `ready`, waits for signals, and prints its report as JSON.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a test program, which speaks through its standard output and is meant to fail loudly"
)]

use std::{
    env,
    process::{ExitCode, abort},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use shutdown_coordinator::{
    Builder, PhaseId, Reason, Report, ShutdownCoordinator, ShutdownHandle, SignalPolicy,
    points::{point, point_blocking},
    run_main,
};

const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let scenario = env::args().nth(1).unwrap();
    if scenario == "no-handlers" {
        return no_handlers();
    }
    run_main(SECOND, async move {
        match &*scenario {
            "clean" => clean().await,
            "held" => held(SignalPolicy::default()).await,
            "debounced" => held(SignalPolicy::default().debounce(Duration::from_mins(1))).await,
            "blocked" => blocked().await,
            "starved" => starved().await,
            "leaky" => leaky().await,
            "abandoned" => abandoned().await,
            "start-up" => start_up().await,
            "dropped" => dropped().await,
            "abort-on-panic" => abort_on_panic().await,
            "clocked" => clocked().await,
            "order" => order().await,
            #[cfg(unix)]
            "parent" => parent().await,
            other => panic!("no scenario {other}"),
        }
    })
}

/// Two phases; the second is reserved and says that it ran.
fn two_phases(change: impl FnOnce(Builder) -> Builder) -> (ShutdownCoordinator, ShutdownHandle, PhaseId) {
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").timeout(20 * SECOND).id();
    let persist = builder.phase("persist").after(&[drain]).reserve(SECOND).id();
    let builder = change(builder.deadline(30 * SECOND).signals(SignalPolicy::default()));
    let (coordinator, handle) = builder.build().unwrap();
    handle.on(persist, "save", |_| async { println!("persisted") }).unwrap();
    (coordinator, handle, drain)
}

async fn finish(coordinator: ShutdownCoordinator) -> Report {
    println!("ready");
    let report = coordinator.run().await;
    println!("{}", report.to_json());
    report
}

/// Ends well; counts reloads.
async fn clean() -> Report {
    let (coordinator, handle, drain) = two_phases(|builder| builder);
    let (mut reloads, stop) = (handle.reloads(), handle.token(drain));
    let reload = async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = reloads.changed() => println!("reload {}", *reloads.borrow_and_update()),
            }
        }
    };
    handle.spawn(drain, "reload", reload).unwrap();
    finish(coordinator).await
}

/// A guard keeps the drain open until the shutdown is forced.
async fn held(policy: SignalPolicy) -> Report {
    let (coordinator, handle, drain) = two_phases(|builder| builder.signals(policy));
    let _guard = handle.gate(drain, "orders").enter_named("order 1").unwrap();
    handle.on(drain, "say", |_| async { println!("draining") }).unwrap();
    finish(coordinator).await
}

/// The first hook blocks a worker of the runtime for ever.
async fn blocked() -> Report {
    let (coordinator, handle, drain) = two_phases(|builder| builder);
    let block = |_| async {
        println!("draining");
        block_for_ever();
    };
    handle.on(drain, "blocks a worker", block).unwrap();
    finish(coordinator).await
}

/// Every worker is blocked, and the main thread too: only the watchdog can end this.
async fn starved() -> Report {
    let (coordinator, handle, drain) =
        two_phases(|builder| builder.deadline(SECOND).watchdog(Duration::from_millis(300)));
    for number in 0..64 {
        handle.on(drain, format!("blocker {number}"), |_| async { block_for_ever() }).unwrap();
    }
    let begun = handle.token(drain);
    println!("ready");
    let run = async {
        let report = coordinator.run().await;
        println!("{}", report.to_json());
        report
    };
    let starve = async {
        // The hooks are spawned before the run lets go of this thread.
        begun.cancelled().await;
        block_for_ever();
    };
    tokio::join!(run, starve).0
}

/// Leaves a blocking hook and a blocking task of tokio behind.
async fn leaky() -> Report {
    let mut builder = ShutdownCoordinator::builder();
    let only = builder.phase("only").timeout(Duration::from_millis(100)).id();
    let (coordinator, handle) = builder.signals(SignalPolicy::default()).build().unwrap();
    handle.on_blocking(only, "stuck", |_| block_for_ever()).unwrap();
    let _stuck = tokio::task::spawn_blocking(block_for_ever);
    finish(coordinator).await
}

/// Drops the coordinator, and goes on.
async fn abandoned() -> Report {
    let (coordinator, _handle, _) = two_phases(|builder| builder);
    drop(coordinator);
    println!("ready");
    std::future::pending().await
}

/// Signals that come between `build` and `run` are kept, and cancel start-up.
async fn start_up() -> Report {
    let (coordinator, handle, _) = two_phases(|builder| builder);
    println!("ready");
    let reason = handle.until_shutdown(std::future::pending::<()>()).await.unwrap_err();
    println!("start-up was cancelled by {reason}");
    let report = coordinator.run().await;
    println!("{}", report.to_json());
    report
}

/// The signal handlers cannot be installed, since the caller has left no file descriptors.
fn no_handlers() -> ExitCode {
    let builder = ShutdownCoordinator::builder().signals(SignalPolicy::default());
    match builder.build() {
        Ok(_) => println!("built"),
        Err(error) => println!("{error:?}"),
    }
    ExitCode::SUCCESS
}

/// The run is dropped midway, and nobody notices.
async fn dropped() -> Report {
    let (coordinator, handle, drain) =
        two_phases(|builder| builder.deadline(SECOND).watchdog(Duration::from_millis(300)));
    let _guard = handle.gate(drain, "orders").enter_named("order 1").unwrap();
    handle.trigger(Reason::Manual("test".to_owned()));
    let draining = handle.token(drain);
    tokio::select! {
        _ = coordinator.run() => {}
        () = draining.cancelled() => println!("dropped"),
    }
    std::future::pending().await
}

/// What `panic = "abort"` does: whatever panics, hooks included, ends the process at once.
async fn abort_on_panic() -> Report {
    std::panic::set_hook(Box::new(|_| abort()));
    let (coordinator, handle, drain) = two_phases(|builder| builder);
    let panics = |_| async { assert!(env::args().count() == 0, "on purpose") };
    handle.on(drain, "panics", panics).unwrap();
    finish(coordinator).await
}

/// The drain lasts two seconds, in which the test moves the wall clock.
async fn clocked() -> Report {
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").timeout(2 * SECOND).id();
    let persist = builder.phase("persist").after(&[drain]).reserve(SECOND).id();
    let (coordinator, handle) =
        builder.deadline(20 * SECOND).watchdog(SECOND).signals(SignalPolicy::default()).build().unwrap();
    let _guard = handle.gate(drain, "orders").enter().unwrap();
    handle.on(drain, "say", |_| async { println!("{}", wall_clock_s()) }).unwrap();
    handle.on(persist, "say", |_| async { println!("{}", wall_clock_s()) }).unwrap();
    finish(coordinator).await
}

#[expect(clippy::disallowed_methods, reason = "shows that the test has moved it")]
fn wall_clock_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An order that passes three points, one of them on a thread that blocks.
async fn order() -> Report {
    let (coordinator, handle, drain) = two_phases(|builder| builder);
    let order = async {
        point("read").await;
        println!("read");
        let stored = || {
            point_blocking("stored");
            println!("stored");
        };
        tokio::task::spawn_blocking(stored).await.unwrap();
        point("sent").await;
        println!("sent");
    };
    handle.on(drain, "say", |_| async { println!("draining") }).unwrap();
    println!("ready");
    handle.spawn(drain, "order", order).unwrap();
    coordinator.run().await
}

/// A test that is killed while a process of its own runs.
#[cfg(unix)]
async fn parent() -> Report {
    let mut sleeper = tokio::process::Command::new("/bin/sh");
    sleeper.args(["-c", "trap '' TERM; echo $$; sleep 1000 & wait"]);
    let mut sleeper = shutdown_coordinator::testkit::Process::start(sleeper).unwrap();
    println!("{}", sleeper.next_line().await.unwrap());
    std::future::pending().await
}

fn block_for_ever() {
    loop {
        thread::park();
    }
}
