//! What a run puts into its report for the table and the picture.

use std::{future::pending, time::Duration};

use shutdown_coordinator::{Entry, Reason, Report, ShutdownCoordinator};
use tokio::time::sleep;

use crate::svg::check;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A drain that is forced after 3 s, 500 ms of which was a hold, and a reserved phase after it.
async fn forced() -> Report {
    let mut builder = ShutdownCoordinator::builder();
    let announce = builder.phase("announce").hold(ms(500)).id();
    let drain = builder.phase("drain").after(&[announce]).timeout(ms(8_000)).id();
    let persist = builder.phase("persist").after(&[announce, drain]).reserve(ms(1_000)).id();
    let (coordinator, handle) = builder.deadline(ms(10_000)).build().unwrap();
    handle.on(drain, "quick", |_| sleep(ms(200))).unwrap();
    handle.on(drain, "endless", |_| pending::<()>()).unwrap();
    handle.spawn(drain, "worker", pending::<()>()).unwrap();
    let held = handle.gate(drain, "held").enter().unwrap();
    handle.on(persist, "save", |_| sleep(ms(300))).unwrap();
    sleep(ms(700)).await;
    handle.trigger(Reason::Upgrade);
    let force = async {
        sleep(ms(3_000)).await;
        handle.force(Reason::Signal(2));
        // The first one counts.
        sleep(ms(50)).await;
        handle.force(Reason::Signal(3));
    };
    let (report, ()) = tokio::join!(coordinator.run(), force);
    drop(held);
    report
}

fn entry<'a>(report: &'a Report, name: &str) -> &'a Entry {
    report.phases.iter().flat_map(|phase| &phase.entries).find(|entry| entry.name == name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_moment_of_force_is_in_the_report() {
    let report = forced().await;
    assert_eq!((report.forced_by.clone(), report.forced_after), (Some(Reason::Signal(2)), Some(ms(3_000))));
    let svg = report.to_svg();
    check(&svg);
    assert!(svg.contains(">forced after 3 s (SIGINT)</text>"), "{svg}");
    let back: Report = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(back.to_svg(), svg);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_was_not_forced_says_nothing_of_force() {
    let (coordinator, handle) = ShutdownCoordinator::builder().build().unwrap();
    handle.trigger(Reason::Upgrade);
    let report = coordinator.run().await;
    assert_eq!((report.forced_by.as_ref(), report.forced_after), (None, None));
    assert!(!report.to_svg().contains("forced after"));
}

#[tokio::test(start_paused = true)]
async fn a_phase_says_what_it_waited_for_and_what_was_kept_for_it() {
    let report = forced().await;
    let phases = report.phases.iter().map(|phase| (phase.after.join(" "), phase.reserve, phase.hold));
    let expected = [("", ms(0), ms(500)), ("announce", ms(0), ms(0)), ("announce drain", ms(1_000), ms(0))];
    assert_eq!(phases.collect::<Vec<_>>(), expected.map(|(after, reserve, hold)| (after.to_owned(), reserve, hold)));
}

#[tokio::test(start_paused = true)]
async fn an_entry_says_when_it_started_and_ended() {
    let report = forced().await;
    let times = |name| (entry(&report, name).started_after, entry(&report, name).ended_after);
    assert_eq!(times("quick"), (Some(ms(500)), Some(ms(700))));
    // Told at the moment of force, and aborted after the grace.
    assert_eq!(times("endless"), (Some(ms(500)), Some(ms(3_100))));
    // Spawned 700 ms before the trigger.
    assert_eq!(times("worker"), (Some(ms(0)), Some(ms(3_100))));
    assert_eq!(entry(&report, "worker").took, ms(3_800));
    assert_eq!(times("held"), (Some(ms(500)), None));
    assert_eq!(times("save"), (Some(report.phases[2].started_after), Some(report.phases[2].started_after + ms(300))));
}

#[tokio::test]
async fn what_leaked_has_no_end() {
    let mut builder = ShutdownCoordinator::builder();
    let only = builder.phase("only").timeout(ms(20)).id();
    let (coordinator, handle) = builder.build().unwrap();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    handle.on_blocking(only, "stuck", move |_| wait.recv()).unwrap();
    handle.trigger(Reason::Upgrade);
    let report = coordinator.run().await;
    assert!(entry(&report, "stuck").started_after.is_some());
    assert_eq!(entry(&report, "stuck").ended_after, None);
    check(&report.to_svg());
    drop(release);
}
