//! What a recorder of the `metrics` facade gets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, pending},
    time::{SystemTime, UNIX_EPOCH},
};

use common::{manual, ms, secs};
use metrics_util::{
    MetricKind,
    debugging::{DebugValue, DebuggingRecorder, Snapshotter},
};
use shutdown_coordinator::{Reason, Report, ShutdownCoordinator};

/// Everything that was recorded, by name and labels (`name{key=value,..}`).
struct Recorded(BTreeMap<String, DebugValue>);

impl Recorded {
    fn take(snapshotter: &Snapshotter) -> Self {
        let metrics = snapshotter.snapshot().into_vec().into_iter().map(|(key, unit, description, value)| {
            let name = key.key().name().to_owned();
            assert!(unit.is_some() && description.is_some(), "{name} is not described");
            assert_eq!(name.ends_with("_total"), key.kind() == MetricKind::Counter, "{name}");
            let labels: BTreeSet<_> =
                key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            let labels: Vec<_> = labels.into_iter().collect();
            (format!("{name}{{{}}}", labels.join(",")), value)
        });
        Self(metrics.collect())
    }

    fn counter(&self, name: &str) -> u64 {
        match self.0.get(name) {
            Some(DebugValue::Counter(count)) => *count,
            other => panic!("{name} is {other:?} in {:#?}", self.0),
        }
    }

    fn gauge(&self, name: &str) -> f64 {
        match self.0.get(name) {
            Some(DebugValue::Gauge(value)) => value.0,
            other => panic!("{name} is {other:?} in {:#?}", self.0),
        }
    }

    fn seconds(&self, name: &str) -> Vec<f64> {
        match self.0.get(name) {
            Some(DebugValue::Histogram(values)) => values.iter().map(|value| value.0).collect(),
            other => panic!("{name} is {other:?} in {:#?}", self.0),
        }
    }
}

/// Runs under paused time with a recorder of its own.
fn with_recorder<F: Future>(test: impl FnOnce(Snapshotter) -> F) -> F::Output {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        let output = runtime.block_on(async {
            tokio::time::pause();
            test(snapshotter).await
        });
        runtime.shutdown_timeout(ms(100));
        output
    })
}

#[test]
fn a_shutdown_is_counted_with_its_phases_and_how_each_work_ended() {
    with_recorder(|snapshotter| async move {
        let mut builder = ShutdownCoordinator::builder();
        let drain = builder.phase("drain").timeout(secs(3)).id();
        let persist = builder.phase("persist").after(&[drain]).id();
        let (coordinator, handle) = builder.deadline(secs(10)).build().unwrap();
        let _held = handle.gate(drain, "orders").enter_named("order of a customer").unwrap();
        handle.on(drain, "fails", |_| async { Err::<(), _>("no disk") }).unwrap();
        handle.on(drain, "panics", |_| async { assert!(never(), "oh") }).unwrap();
        handle.on(drain, "late", |_| pending::<()>()).unwrap();
        for number in 0..100 {
            handle.spawn(drain, format!("task {number}"), async {}).unwrap();
            handle.spawn(drain, format!("request {number}"), pending::<()>()).unwrap();
        }
        handle.on(persist, "save", |_| tokio::time::sleep(secs(1))).unwrap();
        tokio::task::yield_now().await;
        handle.trigger(Reason::Signal(15));
        handle.trigger(manual());
        let report = coordinator.run().await;
        assert!(!report.is_clean());

        let recorded = Recorded::take(&snapshotter);
        assert_eq!(recorded.counter("shutdown_started_total{reason=signal}"), 1);
        let drained = recorded.seconds("shutdown_phase_duration_seconds{phase=drain,status=timed_out}");
        assert!(drained.len() == 1 && (3.0..3.2).contains(&drained[0]), "{drained:?}");
        let persisted = recorded.seconds("shutdown_phase_duration_seconds{phase=persist,status=completed}");
        assert!(persisted.len() == 1 && (1.0..1.1).contains(&persisted[0]), "{persisted:?}");
        assert_eq!(recorded.seconds("shutdown_duration_seconds{clean=false}"), [report.took.as_secs_f64()]);
        let work = |labels: &str| recorded.counter(&format!("shutdown_work_total{{{labels}}}"));
        assert_eq!(work("kind=hook,outcome=failed,phase=drain"), 1);
        assert_eq!(work("kind=hook,outcome=panicked,phase=drain"), 1);
        assert_eq!(work("kind=hook,outcome=timed_out,phase=drain"), 1);
        assert_eq!(work("kind=gate,outcome=timed_out,phase=drain"), 1);
        assert_eq!(work("kind=hook,outcome=ok,phase=persist"), 1);
        let tasks: u64 = report_tasks(&report);
        let counted = recorded.0.iter().filter(|(name, _)| name.contains("kind=task")).map(|(_, value)| match value {
            DebugValue::Counter(count) => *count,
            other => panic!("{other:?}"),
        });
        assert_eq!(counted.sum::<u64>(), tasks);
        assert!(recorded.0.len() < 20, "the names of hooks, guards and tasks are no labels: {:#?}", recorded.0.keys());
    });
}

fn never() -> bool {
    std::hint::black_box(false)
}

fn report_tasks(report: &Report) -> u64 {
    let entries = report.phases.iter().flat_map(|phase| &phase.entries);
    let tasks = entries.filter(|entry| entry.kind == shutdown_coordinator::WorkKind::Task).count();
    u64::try_from(tasks).unwrap()
}

/// A thread that cannot be ended is real, and so is time here.
#[test]
fn a_blocking_hook_that_does_not_end_is_counted_as_leaked() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        let mut builder = ShutdownCoordinator::builder();
        let only = builder.phase("only").timeout(ms(50)).id();
        let (coordinator, handle) = builder.build().unwrap();
        let (release, released) = std::sync::mpsc::channel::<()>();
        handle.on_blocking(only, "stuck", move |_| released.recv().unwrap_or_default()).unwrap();
        handle.trigger(manual());
        runtime.block_on(coordinator.run());
        drop(release);
    });
    let metrics = Recorded::take(&snapshotter);
    assert_eq!(metrics.counter("shutdown_work_total{kind=blocking_hook,outcome=leaked,phase=only}"), 1);
}

#[test]
fn forced_and_aborted_shutdowns_are_counted_from_zero() {
    with_recorder(|snapshotter| async move {
        let mut builder = ShutdownCoordinator::builder();
        let drain = builder.phase("drain").id();
        let (coordinator, handle) = builder.build().unwrap();
        let _held = handle.gate(drain, "orders").enter().unwrap();
        let recorded = Recorded::take(&snapshotter);
        assert_eq!((recorded.counter("shutdown_forced_total{}"), recorded.counter("shutdown_aborted_total{}")), (0, 0));

        let script = async {
            handle.trigger(manual());
            tokio::time::sleep(secs(1)).await;
            handle.abort().unwrap();
            handle.abort().unwrap();
            tokio::time::sleep(secs(1)).await;
            handle.trigger(Reason::Upgrade);
            tokio::time::sleep(secs(1)).await;
            handle.force(manual());
            handle.force(manual());
        };
        tokio::join!(coordinator.run(), script);
        let recorded = Recorded::take(&snapshotter);
        assert_eq!(recorded.counter("shutdown_started_total{reason=manual}"), 1);
        assert_eq!(recorded.counter("shutdown_started_total{reason=upgrade}"), 1);
        assert_eq!(recorded.counter("shutdown_aborted_total{}"), 1);
        assert_eq!(recorded.counter("shutdown_forced_total{}"), 1);
        let phases = recorded.0.keys().filter(|name| name.starts_with("shutdown_phase_duration_seconds"));
        assert_eq!(phases.collect::<Vec<_>>(), ["shutdown_phase_duration_seconds{phase=drain,status=forced}"]);
    });
}

#[test]
fn the_time_since_the_trigger_and_the_time_left_follow_from_two_timestamps() {
    with_recorder(|snapshotter| async move {
        let mut builder = ShutdownCoordinator::builder();
        builder.phase("only").hold(secs(2));
        let (_coordinator, handle) = builder.deadline(secs(42)).build().unwrap();
        let timestamps = || {
            let recorded = Recorded::take(&snapshotter);
            let [began, ends] =
                ["started", "deadline"].map(|which| recorded.gauge(&format!("shutdown_{which}_timestamp_seconds{{}}")));
            (began, ends)
        };
        assert_eq!(timestamps(), (0.0, 0.0));
        #[expect(clippy::disallowed_methods, reason = "the metric is by the wall clock")]
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        handle.trigger(manual());
        let (began, ends) = timestamps();
        assert!((before - 0.01..before + 10.0).contains(&began), "{began} instead of {before}");
        assert!((ends - began - 42.0).abs() < 0.001, "{ends} - {began}");
        // A snapshot resets gauges.
        handle.abort().unwrap();
        handle.trigger(manual());
        handle.abort().unwrap();
        assert_eq!(timestamps(), (0.0, 0.0));
    });
}

#[test]
fn guards_in_flight_are_set_when_asked_for_by_the_name_of_their_gate() {
    with_recorder(|snapshotter| async move {
        let mut builder = ShutdownCoordinator::builder();
        let (stop, drain) = (builder.phase("stop").id(), builder.phase("drain").id());
        let (_coordinator, handle) = builder.build().unwrap();
        let in_flight = |phase: &str, gate: &str| {
            handle.publish_metrics();
            Recorded::take(&snapshotter).gauge(&format!("shutdown_in_flight{{gate={gate},phase={phase}}}"))
        };
        let (orders, of_a_scope) = (handle.gate(drain, "orders"), handle.gate(drain, "engine:42/orders"));
        let _requests = handle.gate(stop, "requests");
        let guards = [orders.enter_named("order 1").unwrap(), orders.enter().unwrap(), of_a_scope.enter().unwrap()];
        assert_eq!((in_flight("drain", "orders"), in_flight("stop", "requests")), (3.0, 0.0));
        // A snapshot resets gauges, so there is none between these.
        handle.publish_metrics();
        drop(guards);
        assert_eq!((in_flight("drain", "orders"), in_flight("stop", "requests")), (0.0, 0.0));
    });
}
