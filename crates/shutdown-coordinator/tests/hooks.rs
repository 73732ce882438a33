//! Hooks: panics, registration, blocking ones, notes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{cell::RefCell, future::pending, sync::mpsc, thread};

use common::{Trace, build, entry, manual, ms, outcome, secs};
use shutdown_coordinator::{
    EXIT_UNCLEAN, HookContext, Outcome, PhaseId, RejectCause, ShutdownCoordinator, ShutdownHandle, TaskError, WorkKind,
};
use tokio::sync::oneshot;

fn one_phase() -> (ShutdownCoordinator, ShutdownHandle, PhaseId) {
    let mut builder = ShutdownCoordinator::builder();
    let only = builder.phase("only").timeout(secs(5)).id();
    let (coordinator, handle) = build(builder);
    (coordinator, handle, only)
}

fn panics_before_its_future(_: HookContext) -> std::future::Ready<()> {
    panic!("early")
}

async fn panics_in_its_second_poll() {
    tokio::task::yield_now().await;
    panic!("late {}", 1);
}

fn panics_with_a_bomb() -> std::future::Ready<()> {
    std::panic::panic_any(PanicsOnDrop)
}

/// Properties 25, 26 and 48. In real time, since a thread does not wait for a paused clock.
#[tokio::test]
async fn panics_are_caught_and_named_and_leave_siblings_alone() {
    let (coordinator, handle, only) = one_phase();
    handle.on(only, "early", panics_before_its_future).unwrap();
    handle.on(only, "late", |_| panics_in_its_second_poll()).unwrap();
    handle.on_blocking(only, "blocking", |_| -> () { panic!("on a thread") }).unwrap();
    handle.on(only, "sibling", |_| tokio::time::sleep(ms(100))).unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    for (name, message) in [("early", "early"), ("late", "late 1"), ("blocking", "on a thread")] {
        assert_eq!(outcome(&report, name), &Outcome::Panicked { message: message.to_owned() });
    }
    assert_eq!(outcome(&report, "sibling"), &Outcome::Ok);
    assert_eq!(report.exit_code(), EXIT_UNCLEAN);
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// Property 27, and a future whose drop panics when it is aborted.
#[tokio::test(start_paused = true)]
async fn a_panic_in_a_drop_is_contained() {
    let (coordinator, handle, only) = one_phase();
    handle.on(only, "payload", |_| panics_with_a_bomb()).unwrap();
    handle
        .on(only, "future", |_| async {
            let _bomb = PanicsOnDrop;
            pending::<()>().await;
        })
        .unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert!(matches!(outcome(&report, "payload"), Outcome::Panicked { .. }), "{report}");
    assert_eq!(outcome(&report, "future"), &Outcome::Panicked { message: "dropped".to_owned() });
}

/// Property 29.
#[tokio::test(start_paused = true)]
async fn a_hook_may_register_into_a_phase_to_come_but_not_into_a_started_one() {
    let mut builder = ShutdownCoordinator::builder();
    let first = builder.phase("first").id();
    let second = builder.phase("second").after(&[first]).id();
    let (coordinator, handle) = build(builder);
    let trace = Trace::default();
    let (inner, inner_trace) = (handle.clone(), trace.clone());
    handle
        .on(first, "registers", move |_| async move {
            inner.on(second, "added", |_| async move { inner_trace.add("added") }).unwrap();
            let late = inner.on(first, "too late", |_| async {}).unwrap_err();
            assert_eq!(size_of_val(&late.into_work()), 0, "the hook itself, which captures nothing");
            assert!(inner.gate(first, "too late").enter().is_err());
        })
        .unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(trace.all(), ["added"]);
    assert!(report.is_clean(), "{report}");
}

/// Property 30.
#[tokio::test]
async fn either_the_cancellation_of_a_hook_wins_or_its_start() {
    let mut cancelled = 0;
    for _ in 0..200 {
        let (coordinator, handle, only) = one_phase();
        let trace = Trace::default();
        let hook_trace = trace.clone();
        let registration = handle.on(only, "hook", |_| async move { hook_trace.add("ran") }).unwrap();
        handle.trigger(manual());
        let racer = thread::spawn(move || registration.cancel());
        let report = coordinator.run().await;
        let won = racer.join().unwrap();
        assert_eq!(trace.all().is_empty(), won);
        assert_eq!(report.phases[0].entries.is_empty(), won);
        cancelled += u32::from(won);
    }
    assert!(cancelled <= 200);
}

/// Properties 31 and 48.
#[tokio::test]
async fn a_blocking_hook_past_its_deadline_is_leaked_by_name_and_the_phase_goes_on() {
    let mut builder = ShutdownCoordinator::builder();
    let first = builder.phase("first").timeout(ms(50)).id();
    let second = builder.phase("second").after(&[first]).id();
    let (coordinator, handle) = build(builder.grace(ms(10)));
    let (release, wait) = mpsc::channel::<()>();
    handle.on_blocking(first, "stuck", move |_| wait.recv()).unwrap();
    handle.on(second, "next", |_| async {}).unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(outcome(&report, "stuck"), &Outcome::Leaked);
    assert_eq!(entry(&report, "stuck").kind, WorkKind::BlockingHook);
    assert_eq!(report.survivors().next().unwrap().name, "stuck");
    assert_eq!(outcome(&report, "next"), &Outcome::Ok);
    assert_eq!(report.exit_code(), EXIT_UNCLEAN);
    release.send(()).unwrap();
}

/// A late result is reported as late, not as leaked, when it comes before the report.
#[tokio::test]
async fn a_leaked_hook_that_ends_before_the_report_is_late() {
    let mut builder = ShutdownCoordinator::builder();
    let first = builder.phase("first").timeout(ms(10)).id();
    let second = builder.phase("second").after(&[first]).id();
    let (coordinator, handle) = build(builder.grace(ms(0)));
    // Dropped with the hook's thread, and so after its end has been noted.
    thread_local!(static ENDED: RefCell<Option<oneshot::Sender<()>>> = const { RefCell::new(None) });
    let (release, wait) = mpsc::channel::<()>();
    let (ended, end) = oneshot::channel::<()>();
    handle
        .on_blocking(first, "slow", move |_| {
            ENDED.set(Some(ended));
            wait.recv().unwrap();
        })
        .unwrap();
    handle
        .on(second, "releases", |_| async move {
            release.send(()).unwrap();
            end.await.unwrap_err();
        })
        .unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert!(matches!(outcome(&report, "slow"), Outcome::TimedOut { late_by: Some(_) }), "{report}");
}

/// A blocking hook has the runtime's context.
#[tokio::test]
async fn a_blocking_hook_may_use_the_runtime() {
    let (coordinator, handle, only) = one_phase();
    handle
        .on_blocking(only, "sleeps", |cx| {
            assert!(cx.remaining() > ms(0));
            tokio::runtime::Handle::current().block_on(tokio::time::sleep(ms(1)));
            Ok::<(), String>(())
        })
        .unwrap();
    handle.trigger(manual());
    assert!(coordinator.run().await.is_clean());
}

/// Property 48: errors, notes and the explicit word all reach the report, and the exit code where they should.
#[tokio::test]
async fn notes_are_kept_and_an_unclean_word_raises_the_exit_code() {
    let (coordinator, handle, only) = one_phase();
    handle.on(only, "notes", |cx| async move { cx.note("3 orders were resolved") }).unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!((report.exit_code(), &*report.notes[0].text), (0, "3 orders were resolved"));

    let (coordinator, handle, only) = one_phase();
    handle.on(only, "drain", |cx| async move { cx.unclean("order h1 left UNKNOWN") }).unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(report.exit_code(), EXIT_UNCLEAN);
    assert!(report.to_string().contains("unclean: order h1 left UNKNOWN (only, drain)"), "{report}");

    let (coordinator, handle, only) = one_phase();
    handle.on(only, "fails", |_| async { Err("disk full") }).unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(outcome(&report, "fails"), &Outcome::Failed { error: "disk full".to_owned() });
    assert_eq!(report.exit_code(), EXIT_UNCLEAN);
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["exit_code"], 75);
    assert_eq!(json["phases"][0]["entries"][0]["state"], "failed");
    assert_eq!(json["phases"][0]["entries"][0]["error"], "disk full");
}

/// Property 40, and what becomes of tasks.
#[tokio::test(start_paused = true)]
async fn tasks_are_told_waited_for_aborted_and_refused() {
    let (coordinator, handle, only) = one_phase();
    let token = handle.token(only);
    let obedient = handle
        .spawn(only, "obedient", async move {
            token.cancelled().await;
            42
        })
        .unwrap();
    let endless = handle.spawn(only, "endless", pending::<()>()).unwrap();
    let token = handle.token(only);
    let panics = handle
        .spawn(only, "panics", async move {
            token.cancelled().await;
            panic!("oops");
        })
        .unwrap();
    handle.spawn(only, "over before", async {}).unwrap().await.unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(obedient.await, Ok(42));
    assert_eq!(endless.await, Err(TaskError::Aborted));
    assert_eq!(panics.await, Err(TaskError::Panicked("oops".to_owned())));
    assert_eq!(outcome(&report, "obedient"), &Outcome::Ok);
    assert_eq!(outcome(&report, "endless"), &Outcome::TimedOut { late_by: None });
    assert_eq!(outcome(&report, "panics"), &Outcome::Panicked { message: "oops".to_owned() });
    assert_eq!(report.phases[0].entries.len(), 3);

    let polled = Trace::default();
    let future_trace = polled.clone();
    let rejected = handle.spawn(only, "late", async move { future_trace.add("polled") }).unwrap_err();
    assert_eq!(rejected.cause, RejectCause::PhaseStarted);
    assert!(polled.all().is_empty());
    rejected.into_work().await;
    assert_eq!(polled.all(), ["polled"]);
}

/// What is given back may be shared between threads as an error, though the work itself may not be.
#[tokio::test(start_paused = true)]
async fn a_rejection_is_an_error_like_any_other() {
    let (coordinator, handle, only) = one_phase();
    handle.trigger(manual());
    coordinator.run().await;
    let not_sync = std::cell::Cell::new(1);
    let attempt = || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        handle.on(only, "late", move |_| async move { not_sync.set(2) })?;
        Ok(())
    };
    assert_eq!(attempt().unwrap_err().to_string(), "refused: its phase has started");
}

#[test]
fn outside_of_a_runtime_a_task_comes_back() {
    let (_coordinator, handle, only) = one_phase();
    assert_eq!(handle.spawn(only, "task", async {}).unwrap_err().cause, RejectCause::NoRuntime);
}
