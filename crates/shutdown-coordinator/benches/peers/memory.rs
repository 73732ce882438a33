//! Memory of a task and of a guard: the growth of a process of its own, in which nothing else happens.

use std::{fs, future::pending, hint::black_box, time::Duration};

use async_shutdown::ShutdownManager;
use tokio_graceful::Shutdown;
use tokio_util::task::TaskTracker;

use crate::{
    Effort,
    gone::all_waiting,
    measure::{Contestant, compete, figure_of_child, runtime},
    peers::{OURS_GUARD, OURS_NAMED, OURS_SPAWN, PEERS, coordinator},
    table::{Group, SUBSYSTEMS, TRACKER, Table},
};

const GUARDS: [&str; 6] =
    ["ours: Gate::enter", "ours: Gate::enter_named", TRACKER, "tokio-graceful", "drain", "async-shutdown"];

pub(crate) fn run(effort: Effort, table: &mut Table) {
    let rounds = effort.rounds(3);
    let sample = |kind: &'static str, name: &'static str, count: &'static str| {
        Contestant::new(name, move || figure_of_child(&[kind, name, count]))
    };
    let tasks = PEERS.iter().map(|peer| sample("tasks", peer.name, "10000")).collect();
    let mut group = Group::new("memory of a waiting task, of 10,000", "bytes", compete(rounds, tasks)).against(TRACKER);
    for ours in [OURS_GUARD, OURS_SPAWN, OURS_NAMED] {
        group = group.target(ours, 0.1, SUBSYSTEMS);
    }
    table.add(group);
    let guards = GUARDS.iter().map(|name| sample("guards", name, "1000000")).collect();
    table.add(Group::new("memory of a guard, of a million", "bytes", compete(rounds, guards)).against(TRACKER));
}

/// In a child: prints the bytes per task.
pub(crate) fn tasks(name: &str, count: usize) {
    let peer = PEERS.iter().find(|peer| peer.name == name).unwrap();
    runtime().block_on(async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let before = resident();
        let stop = all_waiting(peer, count).await;
        println!("{}", (resident() - before) / count as f64);
        drop(stop.await);
    });
}

/// In a child: prints the bytes per guard.
pub(crate) fn guards(name: &str, count: usize) {
    let runtime = runtime();
    let _entered = runtime.enter();
    let (_coordinator, handle, phase) = coordinator();
    let gate = handle.gate(phase, "requests");
    let tracker = TaskTracker::new();
    let graceful = Shutdown::new(pending::<()>());
    let (_signal, watch) = drain::channel();
    let manager = ShutdownManager::<()>::new();
    match name {
        "ours: Gate::enter" => hold(count, || gate.enter().unwrap()),
        "ours: Gate::enter_named" => hold(count, || gate.enter_named("request").unwrap()),
        TRACKER => hold(count, || tracker.token()),
        "tokio-graceful" => hold(count, || graceful.guard()),
        "drain" => hold(count, || watch.clone().ignore_signaled()),
        "async-shutdown" => hold(count, || manager.delay_shutdown_token().unwrap()),
        _ => panic!("no guard {name}"),
    }
}

fn hold<T>(count: usize, take: impl Fn() -> T) {
    let mut held = Vec::with_capacity(count);
    let before = resident();
    held.extend((0..count).map(|_| take()));
    println!("{}", (resident() - before) / count as f64);
    black_box(held);
}

/// The bytes of memory that this process really has.
fn resident() -> f64 {
    let line = fs::read_to_string("/proc/self/status").unwrap();
    let kilobytes = line.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<f64>().unwrap() * 1024.0
}
