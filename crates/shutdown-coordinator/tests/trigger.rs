//! Starting, forcing and aborting a shutdown.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{sync::Arc, thread};

use common::{Trace, build, entry, manual, ms, outcome, phase, secs};
use shutdown_coordinator::{
    EXIT_UNCLEAN, Outcome, PhaseStage, PhaseStatus, Reason, RunStage, ShutdownCoordinator, Trigger,
};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};

/// Property 1.
#[tokio::test]
async fn the_first_trigger_wins_and_later_ones_learn_its_reason() {
    let (coordinator, handle) = build(ShutdownCoordinator::builder());
    assert_eq!(handle.trigger(Reason::Upgrade), Trigger::Started);
    assert_eq!(handle.trigger(manual()), Trigger::AlreadyRunning(Reason::Upgrade));
    let report = coordinator.run().await;
    assert_eq!(report.reason, Reason::Upgrade);
    assert_eq!(handle.trigger(manual()), Trigger::AlreadyRunning(Reason::Upgrade));
}

/// Properties 2 and 6.
#[tokio::test]
async fn of_many_threads_without_a_runtime_one_starts_the_shutdown() {
    let (coordinator, handle) = build(ShutdownCoordinator::builder());
    let barrier = Arc::new(std::sync::Barrier::new(16));
    let threads: Vec<_> = (0..16)
        .map(|number| {
            let (handle, barrier) = (handle.clone(), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                handle.trigger(Reason::Manual(number.to_string()))
            })
        })
        .collect();
    let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Trigger::Started).count(), 1);
    let report = coordinator.run().await;
    assert!(outcomes.contains(&Trigger::AlreadyRunning(report.reason)));
}

/// Properties 3 and 5.
#[tokio::test(start_paused = true)]
async fn a_trigger_before_the_run_is_remembered_and_an_empty_shutdown_takes_no_time() {
    let mut builder = ShutdownCoordinator::builder();
    let first = builder.phase("first").id();
    builder.phase("second").after(&[first]).reserve(secs(5));
    let (coordinator, handle) = build(builder);
    handle.trigger(manual());
    let start = Instant::now();
    let report = coordinator.run().await;
    assert_eq!(start.elapsed(), ms(0));
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.exit_code(), 0);
}

/// Property 5: no phase at all.
#[tokio::test]
async fn a_shutdown_without_phases_ends_at_once() {
    let (coordinator, handle) = build(ShutdownCoordinator::builder());
    handle.trigger(manual());
    assert!(coordinator.run().await.phases.is_empty());
}

/// Property 4.
#[tokio::test(start_paused = true)]
async fn a_trigger_during_start_up_cancels_it_and_runs_what_is_registered_by_then() {
    let mut builder = ShutdownCoordinator::builder();
    let close = builder.phase("close").id();
    let (coordinator, handle) = build(builder);
    let trace = Trace::default();
    let starting = async {
        let opened = trace.clone();
        handle.on(close, "database", |_| async move { opened.add("database closed") }).unwrap();
        handle.trigger(Reason::Signal(15));
        tokio::time::sleep(secs(1)).await;
        let never = trace.clone();
        handle.on(close, "never", |_| async move { never.add("never") }).unwrap();
    };
    assert_eq!(handle.until_shutdown(starting).await, Err(Reason::Signal(15)));
    let report = coordinator.run().await;
    assert_eq!(trace.all(), ["database closed"]);
    assert_eq!(report.phases[0].entries.len(), 1);
}

/// Property 7.
#[tokio::test]
async fn triggering_from_inside_a_hook_changes_nothing() {
    let mut builder = ShutdownCoordinator::builder();
    let only = builder.phase("only").id();
    let (coordinator, handle) = build(builder);
    let (tell, told) = oneshot::channel();
    let inner = handle.clone();
    handle.on(only, "again", |_| async move { tell.send(inner.trigger(manual())).unwrap() }).unwrap();
    handle.trigger(Reason::Upgrade);
    let report = coordinator.run().await;
    assert_eq!(told.await.unwrap(), Trigger::AlreadyRunning(Reason::Upgrade));
    assert!(report.is_clean());
}

/// Property 8: forcing ends the waiting, keeps the reserves, and still reports.
#[tokio::test(start_paused = true)]
async fn a_forced_shutdown_stops_waiting_but_persists_and_reports() {
    let mut builder = ShutdownCoordinator::builder();
    let announce = builder.phase("announce").hold(secs(5)).id();
    let drain = builder.phase("drain").after(&[announce]).timeout(secs(20)).id();
    let streams = builder.phase("streams").after(&[drain]).timeout(secs(3)).id();
    let persist = builder.phase("persist").after(&[streams]).reserve(secs(4)).id();
    let (coordinator, handle) = build(builder.deadline(secs(40)));
    let guard = handle.gate(drain, "orders").enter_named("order 7").unwrap();
    let trace = Trace::default();
    let streams_trace = trace.clone();
    handle
        .on(streams, "goodbye", |cx| async move {
            assert!(cx.force_token().is_cancelled());
            streams_trace.add("goodbye");
        })
        .unwrap();
    let persist_trace = trace.clone();
    handle
        .on(persist, "save", |cx| async move {
            assert_eq!(cx.remaining(), secs(4));
            tokio::time::sleep(secs(3)).await;
            persist_trace.add("saved");
        })
        .unwrap();
    handle.trigger(Reason::Signal(15));
    let start = Instant::now();
    let forcing = async {
        tokio::time::sleep(secs(1)).await;
        handle.force(Reason::Signal(2));
    };
    let (report, ()) = tokio::join!(coordinator.run(), forcing);
    // One second until the force, one grace for the drain, three seconds of saving.
    assert_eq!(start.elapsed(), secs(4) + ms(100));
    assert_eq!(trace.all(), ["goodbye", "saved"]);
    assert_eq!(outcome(&report, "save"), &Outcome::Ok);
    assert_eq!(phase(&report, "drain").status, PhaseStatus::Forced);
    assert_eq!(report.survivors().next().unwrap().name, "order 7");
    assert_eq!(report.forced_by, Some(Reason::Signal(2)));
    assert_eq!(report.exit_code(), 130);
    drop(guard);
}

/// Property 8: a force that is not a signal, of a shutdown that is not one either.
#[tokio::test]
async fn force_starts_the_shutdown_if_need_be() {
    let mut builder = ShutdownCoordinator::builder();
    builder.phase("hold").hold(secs(60));
    let (coordinator, handle) = build(builder.deadline(secs(100)));
    handle.force(manual());
    let report = common::soon(coordinator.run()).await;
    assert_eq!(report.exit_code(), EXIT_UNCLEAN);
}

/// Property 48: a service that failed says so by its exit code, however well its shutdown goes (dotnet/runtime#67146).
#[tokio::test]
async fn a_shutdown_that_an_error_began_exits_non_zero() {
    let (coordinator, handle) = build(ShutdownCoordinator::builder());
    handle.trigger(Reason::Error("the database is gone".to_owned()));
    let report = coordinator.run().await;
    assert!(report.is_clean());
    assert_eq!(report.exit_code(), EXIT_UNCLEAN);
}

/// Property 46.
#[tokio::test(start_paused = true)]
async fn abort_before_the_point_of_no_return_restores_gates_and_readiness() {
    let mut builder = ShutdownCoordinator::builder();
    let announce = builder.phase("announce").hold(secs(5)).id();
    let stop = builder.phase("stop").after(&[announce]).point_of_no_return().id();
    let (coordinator, handle) = build(builder);
    let gate = handle.gate(announce, "new work");
    let later = handle.gate(stop, "work");
    let told = handle.token(announce);
    let mut progress = handle.progress();
    let mut running = JoinSet::new();
    running.spawn(coordinator.run());

    handle.trigger(manual());
    let held = progress.wait_for(|progress| progress.running().next().is_some()).await.unwrap().clone();
    assert_eq!(held.stage, RunStage::ShuttingDown);
    assert!(handle.is_shutting_down() && gate.is_closed() && told.is_cancelled());
    handle.abort().unwrap();
    assert!(!handle.is_shutting_down());
    assert!(gate.enter().is_ok() && later.enter().is_ok());
    assert!(!handle.token(announce).is_cancelled() && !handle.begun().is_cancelled());
    assert_eq!(progress.borrow().stage, RunStage::Serving);

    assert_eq!(handle.trigger(Reason::Upgrade), Trigger::Started);
    let report = running.join_next().await.unwrap().unwrap();
    assert_eq!(report.reason, Reason::Upgrade);
    assert!(report.is_clean(), "{report}");
    assert!(handle.abort().is_err());
}

/// Property 46: the first irreversible phase has started.
#[tokio::test(start_paused = true)]
async fn abort_after_the_point_of_no_return_is_refused() {
    let mut builder = ShutdownCoordinator::builder();
    let stop = builder.phase("stop").point_of_no_return().id();
    let (coordinator, handle) = build(builder);
    let inner = handle.clone();
    handle.on(stop, "abort", |_| async move { inner.abort().map_err(|error| error.to_string()) }).unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert!(matches!(outcome(&report, "abort"), Outcome::Failed { error } if error.contains("point of no return")));
}

/// Property 46: a hook that was running is told, stopped, and shows up once in the next report.
#[tokio::test(start_paused = true)]
async fn a_hook_of_an_aborted_shutdown_is_told_and_does_not_run_again() {
    let mut builder = ShutdownCoordinator::builder();
    let announce = builder.phase("announce").id();
    let (coordinator, handle) = build(builder);
    let trace = Trace::default();
    let hook_trace = trace.clone();
    handle
        .on(announce, "wait", |cx| async move {
            hook_trace.add("started");
            cx.expiring().cancelled().await;
            hook_trace.add("told");
            std::future::pending::<()>().await;
        })
        .unwrap();
    let mut progress = handle.progress();
    let steps = async {
        handle.trigger(manual());
        progress.wait_for(|progress| progress.running().next().is_some()).await.unwrap();
        tokio::task::yield_now().await;
        handle.abort().unwrap();
        handle.trigger(manual());
    };
    let (report, ()) = tokio::join!(coordinator.run(), steps);
    assert_eq!(trace.all(), ["started", "told"]);
    assert_eq!(entry(&report, "wait").outcome, Outcome::Cancelled);
}

/// Property 42.
#[tokio::test]
async fn a_coordinator_that_is_dropped_signals_nothing_and_says_abandoned() {
    let mut builder = ShutdownCoordinator::builder();
    let only = builder.phase("only").id();
    let (coordinator, handle) = build(builder);
    drop(coordinator);
    assert_eq!(handle.progress().borrow().stage, RunStage::Abandoned);
    assert!(!handle.token(only).is_cancelled() && !handle.is_shutting_down());
    handle.force(manual());
    assert_eq!(handle.trigger(manual()), Trigger::Abandoned);
    assert_eq!(handle.progress().borrow().stage, RunStage::Abandoned);
    assert!(!handle.is_shutting_down());
}

/// Property 43.
#[tokio::test]
async fn a_run_that_is_dropped_midway_aborts_its_hooks_and_starts_nothing_more() {
    let mut builder = ShutdownCoordinator::builder();
    let first = builder.phase("first").id();
    let second = builder.phase("second").after(&[first]).id();
    let (coordinator, handle) = build(builder);
    let (alive, dead) = oneshot::channel::<()>();
    handle
        .on(first, "endless", |_| async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        })
        .unwrap();
    let mut progress = handle.progress();
    handle.trigger(manual());
    tokio::select! {
        _ = coordinator.run() => panic!("the hook never ends"),
        // The borrow must not outlive this: the dropped run publishes that it was abandoned.
        () = async { drop(progress.wait_for(|progress| progress.running().next().is_some()).await) } => {}
    }
    assert!(common::soon(dead).await.is_err());
    let progress = handle.progress().borrow().clone();
    assert_eq!(progress.stage, RunStage::Abandoned);
    assert_eq!(progress.phases[1].stage, PhaseStage::Waiting);
    assert!(!handle.token(second).is_cancelled());
}
