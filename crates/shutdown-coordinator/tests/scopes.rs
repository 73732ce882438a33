//! Scopes. Property 45.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::future::pending;

use common::{build, entry, manual, ms, outcome, secs};
use shutdown_coordinator::{
    EXIT_UNCLEAN, Escalation, Outcome, PhaseId, Reason, RejectCause, Scope, ShutdownCoordinator, ShutdownHandle,
    TaskError, WorkKind,
};
use tokio::time::Instant;

fn one_phase() -> (ShutdownCoordinator, ShutdownHandle, PhaseId) {
    let mut builder = ShutdownCoordinator::builder();
    let only = builder.phase("only").timeout(secs(5)).id();
    let (coordinator, handle) = build(builder);
    (coordinator, handle, only)
}

/// A task that ends when its scope is told to stop.
fn obedient(scope: &Scope) -> impl Future<Output = ()> + Send + use<> {
    let told = scope.token();
    async move { told.cancelled().await }
}

async fn oops() {
    tokio::task::yield_now().await;
    panic!("oops");
}

/// Property 45: the phase stops its scopes, and waits for their tasks by name.
#[tokio::test(start_paused = true)]
async fn a_phase_stops_its_scopes_and_names_what_it_waits_for() {
    let (coordinator, handle, only) = one_phase();
    let pool = handle.scope(only, "pool").open().unwrap();
    let told = pool.token();
    let slow = pool
        .spawn("slow", async move {
            told.cancelled().await;
            tokio::time::sleep(secs(1)).await;
        })
        .unwrap();
    handle.trigger(manual());
    let watching = async {
        pool.token().cancelled().await;
        tokio::time::sleep(ms(500)).await;
        let names: Vec<_> = handle.blockers().into_iter().map(|left| (left.kind, left.name)).collect();
        assert_eq!(names, [(WorkKind::Scope, "pool".to_owned()), (WorkKind::Task, "pool/slow".to_owned())]);
    };
    let (report, ()) = tokio::join!(coordinator.run(), watching);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.took, secs(1));
    assert_eq!((entry(&report, "pool").kind, entry(&report, "pool").took), (WorkKind::Scope, secs(1)));
    assert_eq!(outcome(&report, "pool/slow"), &Outcome::Ok);
    assert_eq!(slow.await, Ok(Ok(())));
}

/// Property 45: a child's deadline is within its parent's, and that within its phase's.
#[tokio::test(start_paused = true)]
async fn a_childs_deadline_is_within_its_parents_and_that_within_its_phases() {
    let (coordinator, handle, only) = one_phase();
    let parent = handle.scope(only, "parent").timeout(secs(2)).open().unwrap();
    let child = parent.scope("child").timeout(secs(60)).open().unwrap();
    let long = handle.scope(only, "long").timeout(secs(60)).open().unwrap();
    let quick = parent.scope("quick").timeout(secs(1)).open().unwrap();
    let start = Instant::now();
    let ends = [&child, &long, &quick].map(|scope| {
        let task = scope.spawn("endless", pending::<()>()).unwrap();
        async move {
            assert_eq!(task.await, Err(TaskError::Aborted));
            start.elapsed()
        }
    });
    handle.trigger(manual());
    let (report, took) = tokio::join!(coordinator.run(), futures_util::future::join_all(ends));
    let grace = ms(100);
    assert_eq!(took[0], secs(2) + grace, "the parent's, not its own 60 s");
    assert_eq!(took[1], secs(5) + grace, "the phase's");
    assert_eq!(took[2], secs(1) + grace, "its own");
    for name in ["parent/child/endless", "long/endless", "parent/quick/endless"] {
        assert_eq!(outcome(&report, name), &Outcome::TimedOut { late_by: None }, "{report}");
    }
    assert_eq!(report.exit_code(), 75);
}

/// Property 45: a failing task stops no sibling.
#[tokio::test(start_paused = true)]
async fn a_failing_task_stops_no_sibling_unless_that_was_asked_for() {
    let (_coordinator, handle, only) = one_phase();
    let pool = handle.scope(only, "pool").open().unwrap();
    let sibling = pool.spawn("sibling", obedient(&pool)).unwrap();
    let fails = pool.spawn("fails", async { Err("disk full") }).unwrap();
    assert_eq!(fails.await, Ok(Err("disk full".to_owned())));
    let panics = pool.spawn("panics", oops()).unwrap();
    assert_eq!(panics.await, Err(TaskError::Panicked("oops".to_owned())));
    assert!(!sibling.is_finished() && !pool.is_stopping() && !handle.is_shutting_down());
    let end = pool.stop().await;
    let failures: Vec<_> = end.failures.iter().map(|failure| (&*failure.task, &*failure.error)).collect();
    assert_eq!(
        (end.failed, failures, end.is_clean()),
        (2, vec![("pool/fails", "disk full"), ("pool/panics", "oops")], false)
    );

    let pool = handle.scope(only, "strict").on_failure(Escalation::StopScope).open().unwrap();
    let stubborn = pool.spawn("stubborn", pending::<()>()).unwrap();
    let sibling = pool.spawn("sibling", obedient(&pool)).unwrap();
    pool.spawn("fails", async { Err("disk full") }).unwrap().await.unwrap().unwrap_err();
    assert_eq!(sibling.await, Ok(Ok(())));
    assert_eq!(stubborn.await, Err(TaskError::Aborted), "nobody called stop, and its timeout counts all the same");
    assert!(!handle.is_shutting_down());
    assert_eq!(pool.stop().await.aborted, ["strict/stubborn"]);
}

/// Property 48: a failure that stopped nobody is in the report all the same, long after its task is gone.
#[tokio::test(start_paused = true)]
async fn a_scope_whose_task_failed_before_the_shutdown_is_reported_as_failed() {
    let (coordinator, handle, only) = one_phase();
    let pool = handle.scope(only, "pool").open().unwrap();
    for error in ["disk full", "still full"] {
        pool.spawn("worker", async move { Err(error) }).unwrap().await.unwrap().unwrap_err();
    }
    handle.trigger(manual());
    let report = coordinator.run().await;
    let error = "2 tasks, first pool/worker: disk full".to_owned();
    assert_eq!(outcome(&report, "pool"), &Outcome::Failed { error });
    assert_eq!(report.exit_code(), EXIT_UNCLEAN);
}

/// Property 45: escalation goes up as far as it is asked for, and from the outermost scope it is a shutdown.
#[tokio::test(start_paused = true)]
async fn an_escalated_failure_stops_the_parent_and_at_last_the_service() {
    let (coordinator, handle, only) = one_phase();
    let outer = handle.scope(only, "outer").on_failure(Escalation::StopScope).open().unwrap();
    let inner = outer.scope("inner").on_failure(Escalation::Escalate).open().unwrap();
    let (aunt, sibling) = (outer.spawn("aunt", obedient(&outer)).unwrap(), inner.spawn("x", obedient(&inner)).unwrap());
    inner.spawn("fails", async { Err("broken") }).unwrap().await.unwrap().unwrap_err();
    assert_eq!((aunt.await, sibling.await), (Ok(Ok(())), Ok(Ok(()))));
    assert!(!handle.is_shutting_down(), "the parent keeps it to itself");

    let outer = handle.scope(only, "outer").on_failure(Escalation::Escalate).open().unwrap();
    let inner = outer.scope("inner").on_failure(Escalation::Escalate).open().unwrap();
    inner.spawn("fails", async { Err("broken") }).unwrap();
    let report = coordinator.run().await;
    assert_eq!(report.reason, Reason::Error("outer/inner/fails: broken".to_owned()));
    assert_eq!(report.exit_code(), EXIT_UNCLEAN);
}

/// A failure on the way out is told to whoever stops the scope, and starts no shutdown.
#[tokio::test(start_paused = true)]
async fn a_failure_while_stopping_is_not_escalated() {
    let (_coordinator, handle, only) = one_phase();
    let pool = handle.scope(only, "pool").on_failure(Escalation::Escalate).open().unwrap();
    let told = pool.token();
    pool.spawn("closes badly", async move {
        told.cancelled().await;
        Err("not flushed")
    })
    .unwrap();
    assert_eq!(pool.stop().await.failed, 1);
    assert!(!handle.is_shutting_down());
}

/// Property 45: a scope stopped early is not stopped twice.
#[tokio::test(start_paused = true)]
async fn a_scope_stopped_early_is_not_stopped_again_by_its_phase() {
    let (coordinator, handle, only) = one_phase();
    let pool = handle.scope(only, "pool").open().unwrap();
    let gate = pool.gate("jobs");
    let job = gate.enter_named("job 1").unwrap();
    let nested = pool.scope("nested").open().unwrap();
    let task = nested.spawn("task", obedient(&nested)).unwrap();
    let releasing = async {
        pool.token().cancelled().await;
        assert!(gate.enter().is_err());
        tokio::time::sleep(secs(1)).await;
        drop(job);
    };
    let (first, second, ()) = tokio::join!(pool.stop(), pool.stop(), releasing);
    assert_eq!((first.took, first.is_clean()), (secs(1), true));
    assert_eq!(first, second);
    assert!(task.is_finished() && nested.is_stopping());
    assert_eq!(pool.spawn("late", async {}).unwrap_err().cause, RejectCause::ScopeStopped);
    assert_eq!(pool.scope("late").open().unwrap_err(), RejectCause::ScopeStopped);
    assert!(pool.gate("late").enter().is_err());
    let work = handle.plan().phases[0].work.clone();
    assert!(work.iter().all(|work| work.kind != WorkKind::Scope), "{work:?}");
    handle.trigger(manual());
    let report = coordinator.run().await;
    let scopes = report.phases[0].entries.iter().filter(|entry| entry.kind == WorkKind::Scope).count();
    assert_eq!((scopes, report.took), (0, ms(0)), "{report}");
    tokio::time::sleep(secs(1)).await;
    assert_eq!(pool.stop().await, first, "it has one end");
}

/// Property 45: the phase starts while the scope is being stopped. It waits for it, and its deadline counts.
#[tokio::test(start_paused = true)]
async fn a_phase_that_starts_meanwhile_waits_for_the_scope_by_its_own_deadline() {
    let (coordinator, handle, only) = one_phase();
    let pool = handle.scope(only, "pool").timeout(secs(60)).open().unwrap();
    pool.spawn("endless", pending::<()>()).unwrap();
    let stopping = async {
        let start = Instant::now();
        let end = pool.stop().await;
        (start.elapsed(), end)
    };
    let triggering = async {
        tokio::time::sleep(secs(3)).await;
        handle.trigger(manual());
    };
    let (report, (took, end), ()) = tokio::join!(coordinator.run(), stopping, triggering);
    assert_eq!(took, secs(3 + 5) + ms(100));
    assert_eq!(end.aborted, ["pool/endless"]);
    assert_eq!(outcome(&report, "pool/endless"), &Outcome::TimedOut { late_by: None });
    entry(&report, "pool");
}

/// What is dropped is still stopped by its phase while something runs in it, and forgotten when nothing does.
#[tokio::test(start_paused = true)]
async fn a_dropped_scope_is_stopped_by_its_phase_or_forgotten() {
    let (coordinator, handle, only) = one_phase();
    let empty = handle.scope(only, "empty").open().unwrap();
    let nested = empty.scope("nested").open().unwrap();
    assert_eq!(handle.plan().phases[0].work.len(), 1);
    drop(empty);
    drop(nested);
    assert_eq!(handle.plan().phases[0].work.len(), 0);
    let busy = handle.scope(only, "busy").open().unwrap();
    busy.spawn("task", obedient(&busy)).unwrap();
    drop(busy);
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(outcome(&report, "busy/task"), &Outcome::Ok);
    assert!(report.is_clean(), "{report}");
}

/// A service that makes a gate for each piece of work keeps no more of them than are in use.
#[tokio::test]
async fn gates_that_come_and_go_do_not_pile_up() {
    let (_coordinator, handle, only) = one_phase();
    let pool = handle.scope(only, "pool").open().unwrap();
    let kept = pool.gate("kept").enter_named("order 1").unwrap();
    for _ in 0..10_000 {
        drop(pool.gate("of a scope").enter().unwrap());
        drop(handle.gate(only, "of the phase").enter().unwrap());
    }
    let work = handle.plan().phases[0].work.clone();
    assert!(work.len() < 64, "{} are kept", work.len());
    assert!(work.iter().any(|work| work.name == "pool/kept"), "its guard is held");
    drop(kept);
}

/// A task may stop its own scope without waiting for itself.
#[tokio::test(start_paused = true)]
async fn a_task_may_stop_its_own_scope() {
    let (_coordinator, handle, only) = one_phase();
    let pool = handle.scope(only, "pool").open().unwrap();
    let nested = pool.scope("nested").open().unwrap();
    let own = pool.clone();
    pool.spawn("enough", async move { own.request_stop() }).unwrap();
    pool.token().cancelled().await;
    assert!(nested.token().is_cancelled() && nested.spawn("late", async {}).is_err());
    assert!(pool.stop().await.is_clean());
}

#[tokio::test]
async fn a_scope_of_a_started_or_foreign_phase_is_refused() {
    let (coordinator, handle, only) = one_phase();
    let (_other, _, foreign) = one_phase();
    assert_eq!(handle.scope(foreign, "pool").open().unwrap_err(), RejectCause::ForeignPhase);
    let pool = handle.scope(only, "pool").open().unwrap();
    handle.trigger(manual());
    assert!(coordinator.run().await.is_clean());
    assert_eq!(handle.scope(only, "late").open().unwrap_err(), RejectCause::PhaseStarted);
    assert!(matches!(pool.spawn("late", async {}).unwrap_err().cause, RejectCause::ScopeStopped));
}
