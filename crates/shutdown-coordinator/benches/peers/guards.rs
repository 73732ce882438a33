//! Guards: taking and giving back, asking whether shutdown has begun, being refused.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_shutdown::ShutdownManager;
use shutdown_coordinator::{Gate, Reason, ShutdownCoordinator, ShutdownHandle};
use tokio_graceful::Shutdown;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Effort,
    measure::{Contestant, compete, ns_per_call, runtime},
    table::{Group, TRACKER, Table},
};

const OURS: &str = "ours: Gate::enter";

pub(crate) fn run(effort: Effort, table: &mut Table) {
    for threads in [1, 2, 8] {
        enter_and_drop(effort, threads, table);
    }
    for threads in [1, 2] {
        has_it_begun(effort, threads, table);
    }
    refusing(effort, table);
}

fn calls(effort: Effort) -> u32 {
    if effort.quick { 200_000 } else { 1_000_000 }
}

fn gate() -> (ShutdownCoordinator, ShutdownHandle, Gate) {
    let mut builder = ShutdownCoordinator::builder();
    let phase = builder.phase("drain").id();
    let (coordinator, handle) = builder.build().unwrap();
    let gate = handle.gate(phase, "requests");
    (coordinator, handle, gate)
}

fn enter_and_drop(effort: Effort, threads: usize, table: &mut Table) {
    let total = calls(effort);
    let runtime = runtime();
    let _entered = runtime.enter();
    let (_coordinator, _handle, gate) = gate();
    let tracker = TaskTracker::new();
    let graceful = Shutdown::new(pending::<()>());
    let (_signal, watch) = drain::channel();
    let manager = ShutdownManager::<()>::new();
    let bare = AtomicUsize::new(0);
    let values = compete(
        effort.rounds(15),
        vec![
            Contestant::new(OURS, || ns_per_call(threads, total, || gate.enter().unwrap())),
            Contestant::new("one shared atomic, add and subtract", || {
                ns_per_call(threads, total, || {
                    bare.fetch_add(1, Ordering::SeqCst);
                    bare.fetch_sub(1, Ordering::SeqCst)
                })
            }),
            Contestant::new("ours: Gate::enter_named", || {
                ns_per_call(threads, total / 4, || gate.enter_named("request").unwrap())
            }),
            Contestant::new(TRACKER, || ns_per_call(threads, total, || tracker.token())),
            Contestant::new("tokio-graceful: guard", || ns_per_call(threads, total, || graceful.guard())),
            Contestant::new("drain: ReleaseShutdown", || {
                ns_per_call(threads, total, || watch.clone().ignore_signaled())
            }),
            Contestant::new("async-shutdown: DelayShutdownToken", || {
                ns_per_call(threads, total, || manager.delay_shutdown_token().unwrap())
            }),
        ],
    );
    let target = if threads == 1 { 0.7 } else { 0.1 };
    let title = format!("guard: take and give back, {threads} thread(s)");
    let group = Group::new(title, "ns", values).against(TRACKER).target(OURS, target, TRACKER);
    table.add(group.note("ours: Gate::enter_named", "with a name and an age"));
}

fn has_it_begun(effort: Effort, threads: usize, table: &mut Table) {
    const OURS: &str = "ours: is_shutting_down";
    const FLAG: &str = "AtomicBool::load";
    let total = calls(effort) * 10;
    let (_coordinator, handle, _) = gate();
    let flag = Arc::new(AtomicBool::new(false));
    let token = CancellationToken::new();
    let manager = ShutdownManager::<()>::new();
    let values = compete(
        effort.rounds(15),
        vec![
            Contestant::new(OURS, || ns_per_call(threads, total, || handle.is_shutting_down())),
            Contestant::new(FLAG, || ns_per_call(threads, total, || flag.load(Ordering::Acquire))),
            Contestant::new("CancellationToken::is_cancelled", || {
                ns_per_call(threads, total / 10, || token.is_cancelled())
            }),
            Contestant::new("async-shutdown: is_shutdown_triggered", || {
                ns_per_call(threads, total / 10, || manager.is_shutdown_triggered())
            }),
        ],
    );
    let title = format!("has it begun? {threads} thread(s)");
    table.add(Group::new(title, "ns", values).against(FLAG).target(OURS, 2.0, FLAG));
}

/// What it costs to ask for a guard once shutdown has begun, and what one gets.
fn refusing(effort: Effort, table: &mut Table) {
    const ADMITTED: &str = "admitted, and perhaps not waited for";
    let total = calls(effort);
    let runtime = runtime();
    let _entered = runtime.enter();
    let (coordinator, handle, gate) = gate();
    handle.trigger(Reason::Manual("bench".into()));
    runtime.block_on(coordinator.run());

    let tracker = TaskTracker::new();
    tracker.close();
    let graceful = Shutdown::new(async {});
    let held = graceful.guard();
    runtime.block_on(held.cancelled());
    let (signal, watch) = drain::channel();
    runtime.block_on(async {
        let drain = signal.drain();
        tokio::select! {
            biased;
            () = drain => {}
            () = tokio::task::yield_now() => {}
        }
    });
    let manager = ShutdownManager::<()>::new();
    manager.trigger_shutdown(()).unwrap();
    let values = compete(
        effort.rounds(15),
        vec![
            Contestant::new(OURS, || ns_per_call(1, total, || gate.enter().unwrap_err())),
            Contestant::new(TRACKER, || ns_per_call(1, total, || tracker.token())),
            Contestant::new("tokio-graceful: guard", || ns_per_call(1, total, || held.clone())),
            Contestant::new("drain: ReleaseShutdown", || ns_per_call(1, total, || watch.clone().ignore_signaled())),
            Contestant::new("async-shutdown: DelayShutdownToken", || {
                ns_per_call(1, total, || manager.delay_shutdown_token().is_err())
            }),
        ],
    );
    let group = Group::new("asking for a guard after the close", "ns", values).note(OURS, "refused");
    let group = group.note(TRACKER, ADMITTED).note("tokio-graceful: guard", ADMITTED);
    let group = group.note("drain: ReleaseShutdown", ADMITTED);
    table.add(group.note("async-shutdown: DelayShutdownToken", "refused once the last one is gone, not before"));
}
