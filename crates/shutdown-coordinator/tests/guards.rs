//! Gates and guards.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use common::{build, entry, manual, ms, outcome, secs};
use shutdown_coordinator::{Gate, Outcome, PhaseId, PhaseStatus, ShutdownCoordinator, ShutdownHandle};

fn one_gate() -> (ShutdownCoordinator, ShutdownHandle, PhaseId, Gate) {
    let mut builder = ShutdownCoordinator::builder();
    let only = builder.phase("only").timeout(secs(5)).id();
    let (coordinator, handle) = build(builder);
    let gate = handle.gate(only, "orders");
    (coordinator, handle, only, gate)
}

/// Properties 33, 34 and 39, on real threads: the phase ends exactly when the last admitted guard is gone, and nobody
/// is admitted after the phase has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_admitted_before_close_is_always_waited_for() {
    const THREADS: usize = 4;
    for _ in 0..100 {
        let (coordinator, handle, only, gate) = one_gate();
        let (begun, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let barrier = Arc::new(Barrier::new(THREADS + 1));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (gate, begun, held, barrier) = (gate.clone(), begun.clone(), held.clone(), barrier.clone());
                thread::spawn(move || {
                    barrier.wait();
                    let mut entered = 0_u32;
                    loop {
                        let closed_before = begun.load(SeqCst);
                        let Ok(guard) = gate.enter() else { return entered };
                        assert!(!closed_before, "admitted after the close");
                        held.fetch_add(1, SeqCst);
                        let fork = guard.fork();
                        drop(guard);
                        entered += 1;
                        held.fetch_sub(1, SeqCst);
                        drop(fork);
                    }
                })
            })
            .collect();
        let (token, seen) = (handle.token(only), begun.clone());
        let watcher = handle.spawn(only, "watch", async move {
            token.cancelled().await;
            // The token is cancelled after the gates are closed.
            seen.store(true, SeqCst);
        });
        barrier.wait();
        handle.trigger(manual());
        let report = coordinator.run().await;
        assert_eq!(held.load(SeqCst), 0, "the phase ended with a guard held");
        assert!(report.is_clean(), "{report}");
        watcher.unwrap().await.unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

/// Property 39.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_guards_on_two_threads_lose_no_wake_up() {
    let (coordinator, handle, _, gate) = one_gate();
    let guards: Vec<_> = (0..100_000).map(|_| gate.enter().unwrap()).collect();
    let (left, right): (Vec<_>, Vec<_>) = guards.into_iter().enumerate().partition(|(number, _)| number % 2 == 0);
    handle.trigger(manual());
    let droppers = [left, right].map(|guards| {
        let mut progress = handle.progress();
        let runtime = tokio::runtime::Handle::current();
        thread::spawn(move || {
            runtime.block_on(progress.wait_for(|progress| progress.running().next().is_some())).unwrap();
            drop(guards);
        })
    });
    let report = coordinator.run().await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(gate.held(), 0);
    for dropper in droppers {
        dropper.join().unwrap();
    }
}

/// Property 35.
#[tokio::test(start_paused = true)]
async fn a_guard_dropped_in_unwinding_is_released_once() {
    let (coordinator, handle, _, gate) = one_gate();
    let guard = gate.enter_named("unwound").unwrap();
    let unwound = catch_unwind(AssertUnwindSafe(move || {
        let _guard = guard;
        panic!("while holding a guard");
    }));
    assert!(unwound.is_err());
    assert_eq!(gate.held(), 0);
    handle.trigger(manual());
    assert!(coordinator.run().await.is_clean());
}

/// Properties 36 and 37.
#[tokio::test(start_paused = true)]
async fn guards_held_for_ever_time_the_phase_out_by_name_and_age() {
    let (coordinator, handle, _, gate) = one_gate();
    let _held = gate.enter_named("order 42").unwrap();
    tokio::time::sleep(secs(2)).await;
    std::mem::forget(gate.enter_named("forgotten").unwrap());
    std::mem::forget(gate.enter().unwrap());
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(report.phases[0].status, PhaseStatus::TimedOut);
    assert_eq!(report.phases[0].took, secs(5) + ms(100));
    assert_eq!(outcome(&report, "orders"), &Outcome::TimedOut { late_by: None });
    let survivors: Vec<_> = report.survivors().map(|left| (&*left.name, left.count, left.age)).collect();
    assert_eq!(survivors, [("order 42", 1, secs(7)), ("forgotten", 1, secs(5)), ("orders", 1, secs(5))]);
}

/// A guard that is released within the grace is late, not lost.
#[tokio::test(start_paused = true)]
async fn a_guard_released_after_the_deadline_makes_its_gate_late() {
    let (coordinator, handle, _, gate) = one_gate();
    let guard = gate.enter().unwrap();
    handle.trigger(manual());
    let releasing = async {
        tokio::time::sleep(secs(5) + ms(30)).await;
        drop(guard);
    };
    let (report, ()) = tokio::join!(coordinator.run(), releasing);
    assert_eq!(outcome(&report, "orders"), &Outcome::TimedOut { late_by: Some(ms(30)) });
}

/// The phase waits for the gate until its last guard is gone, and not for as long as the phase lasts.
#[tokio::test(start_paused = true)]
async fn each_gate_takes_as_long_as_its_last_guard_is_held() {
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").timeout(secs(10)).id();
    let (coordinator, handle) = build(builder);
    for (name, held) in [("quick", ms(20)), ("slow", ms(500)), ("idle", ms(0))] {
        let guard = handle.gate(drain, name).enter().unwrap();
        handle
            .on(drain, format!("hold {name}"), move |_| async move {
                tokio::time::sleep(held).await;
                drop(guard);
            })
            .unwrap();
    }
    handle.trigger(manual());
    let report = coordinator.run().await;
    for (name, held) in [("quick", ms(20)), ("slow", ms(500)), ("idle", ms(0))] {
        assert_eq!((entry(&report, name).took, entry(&report, name).ended_after), (held, Some(held)), "{name}");
    }
}

/// Property 38.
#[tokio::test(start_paused = true)]
async fn a_fork_keeps_the_drain_open_even_after_the_close() {
    let (coordinator, handle, only, gate) = one_gate();
    let guard = gate.enter_named("first").unwrap();
    handle.trigger(manual());
    let token = handle.token(only);
    let forking = async {
        token.cancelled().await;
        assert!(gate.enter().is_err());
        let fork = guard.fork();
        drop(guard);
        tokio::time::sleep(secs(1)).await;
        assert_eq!(handle.blockers()[0].name, "first");
        drop(fork);
    };
    let (report, ()) = tokio::join!(coordinator.run(), forking);
    assert_eq!(report.phases[0].took, secs(1));
    assert!(report.is_clean());
}
