//! How long after deadline and margin a process ends whose every thread is blocked.

use std::{
    io::{BufRead as _, BufReader},
    thread,
    time::{Duration, Instant},
};

use shutdown_coordinator::{EXIT_WATCHDOG, Reason, ShutdownCoordinator};

use crate::{
    Effort,
    measure::{self, Contestant, compete, millis, runtime},
    table::{Group, Table},
};

const DEADLINE: Duration = Duration::from_millis(200);
/// Above what one phase may overrun its deadline by, or it is refused.
const MARGIN: Duration = Duration::from_millis(200);

pub(crate) fn run(effort: Effort, table: &mut Table) {
    let values = compete(effort.rounds(9), vec![Contestant::new("ours", overshoot)]);
    let group = Group::new("watchdog: exit after deadline + margin", "ms", values);
    table.add(group.note("ours", "with the end of the process; a peer's process never ends"));
}

fn overshoot() -> f64 {
    let mut child = measure::child(&["watchdog"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let triggered = Instant::now();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(i32::from(EXIT_WATCHDOG)));
    millis(triggered.elapsed()) - millis(DEADLINE + MARGIN)
}

/// In a child: says that it is triggered, with every worker and this thread blocked.
pub(crate) fn child() {
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").id();
    let (coordinator, handle) = builder.deadline(DEADLINE).watchdog(MARGIN).build().unwrap();
    for _ in 0..4 {
        handle.on(drain, "blocks", |_| async { block() }).unwrap();
    }
    runtime().block_on(async move {
        let begun = handle.token(drain);
        let starve = async {
            begun.cancelled().await;
            block();
        };
        println!("triggered");
        handle.trigger(Reason::Manual("bench".into()));
        tokio::join!(coordinator.run(), starve);
    });
}

fn block() {
    loop {
        thread::park();
    }
}
