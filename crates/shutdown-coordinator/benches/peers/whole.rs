//! The coordinator alone: an empty run, looking at 100,000 guards, reporting 100,000 tasks.

use std::{hint::black_box, time::Instant};

use shutdown_coordinator::{Reason, Report, ShutdownCoordinator, ShutdownHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Effort,
    measure::{Contestant, compete, micros, millis, runtime},
    peers::coordinator,
    table::{Group, TRACKER, Table},
};

const MANY: usize = 100_000;

pub(crate) fn run(effort: Effort, table: &mut Table) {
    empty(effort, table);
    looking(effort, table);
    reporting(effort, table);
}

fn manual() -> Reason {
    Reason::Manual("bench".into())
}

fn empty(effort: Effort, table: &mut Table) {
    let runtime = runtime();
    let ours = |phases: usize| {
        let runtime = &runtime;
        move || {
            let mut builder = ShutdownCoordinator::builder();
            let mut last = builder.phase("0").id();
            for number in 1..phases {
                last = builder.phase(number.to_string()).after(&[last]).id();
            }
            let (coordinator, handle) = builder.build().unwrap();
            let start = Instant::now();
            handle.trigger(manual());
            let report = runtime.block_on(coordinator.run());
            let took = start.elapsed();
            black_box(report);
            micros(took)
        }
    };
    let nothing = || {
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let start = Instant::now();
        token.cancel();
        tracker.close();
        runtime.block_on(tracker.wait());
        micros(start.elapsed())
    };
    let contestants = vec![
        Contestant::new("ours: six phases", ours(6)),
        Contestant::new("ours: one phase", ours(1)),
        Contestant::new(TRACKER, nothing),
    ];
    table.add(Group::new("an empty shutdown, trigger to report", "us", compete(effort.rounds(301), contestants)));
}

fn looking(effort: Effort, table: &mut Table) {
    let sample = |named: bool| {
        move || {
            runtime().block_on(async {
                let (coordinator, handle, phase) = coordinator();
                let gate = handle.gate(phase, "requests");
                let enter = |number| {
                    if named { gate.enter_named(format!("request {number}")).unwrap() } else { gate.enter().unwrap() }
                };
                let guards: Vec<_> = (0..MANY).map(enter).collect();
                let running = tokio::spawn(coordinator.run());
                handle.trigger(manual());
                let mut progress = handle.progress();
                progress.wait_for(|now| now.running().next().is_some()).await.unwrap();
                let start = Instant::now();
                let blockers = handle.blockers();
                let took = start.elapsed();
                assert_eq!(blockers.len(), if named { MANY } else { 1 });
                drop(guards);
                assert!(running.await.unwrap().is_clean());
                micros(took)
            })
        }
    };
    let contestants = vec![
        Contestant::new("guards without names", sample(false)),
        Contestant::new("guards with names", sample(true)),
    ];
    table.add(Group::new("blockers() with 100,000 guards", "us", compete(effort.rounds(9), contestants)));
}

fn reporting(effort: Effort, table: &mut Table) {
    let report = runtime().block_on(report_of_many());
    let contestants = vec![
        Contestant::new("Report::to_json", || {
            let start = Instant::now();
            black_box(report.to_json());
            millis(start.elapsed())
        }),
        Contestant::new("Report as a table", || {
            let start = Instant::now();
            black_box(report.to_string());
            millis(start.elapsed())
        }),
    ];
    let title = format!("a report with 100,000 tasks ({:.1} MB of JSON)", report.to_json().len() as f64 / 1e6);
    table.add(Group::new(title, "ms", compete(effort.rounds(9), contestants)));
}

async fn report_of_many() -> Report {
    let (coordinator, handle, phase) = coordinator();
    spawn_many(&handle, phase);
    handle.trigger(manual());
    coordinator.run().await
}

fn spawn_many(handle: &ShutdownHandle, phase: shutdown_coordinator::PhaseId) {
    for number in 0..MANY {
        handle.spawn(phase, format!("session {number}"), handle.token(phase).cancelled_owned()).unwrap();
    }
}
