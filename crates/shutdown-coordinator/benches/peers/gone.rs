//! From the trigger until the last of many tasks is gone.

use std::{
    cell::RefCell,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{
    Effort,
    measure::{Contestant, compete, median, millis, runtime},
    peers::{OURS_GUARD, OURS_NAMED, OURS_SPAWN, PEERS, Peer, Started, Stop},
    table::{Group, SUBSYSTEMS, TRACKER, Table},
};

pub(crate) fn run(effort: Effort, table: &mut Table) {
    let mut sizes = vec![(1_000, 31), (10_000, 15), (100_000, if effort.quick { 1 } else { 7 })];
    if effort.million {
        sizes.push((1_000_000, 3));
    }
    for (count, rounds) in sizes {
        let peers: Vec<&Peer> = PEERS.iter().filter(|peer| peer.most >= count).collect();
        let starts: Vec<_> = peers.iter().map(|_| RefCell::new(Vec::new())).collect();
        let sample = |peer: &Peer, starts: &RefCell<Vec<f64>>| {
            let (start, stop) = once(peer, count);
            starts.borrow_mut().push(start * 1e6 / count as f64);
            stop
        };
        let contestants =
            peers.iter().zip(&starts).map(|(peer, starts)| Contestant::new(peer.name, move || sample(peer, starts)));
        let mut group = Group::new(
            format!("trigger to all gone, {count} tasks"),
            "ms",
            compete(effort.rounds(rounds), contestants.collect()),
        );
        for ours in [OURS_GUARD, OURS_SPAWN, OURS_NAMED] {
            group = group.target(ours, 1.0, TRACKER).target(ours, 0.2, SUBSYSTEMS);
        }
        table.add(group.against(TRACKER));
        // Seeing that all have started takes up to a millisecond.
        if count >= 10_000 {
            let starts = peers.iter().zip(starts).map(|(peer, starts)| (peer.name, median(starts.into_inner())));
            let title = format!("spawn until it waits, of {count} tasks");
            table.add(Group::new(title, "ns/task", starts.collect()).against(TRACKER));
        }
    }
}

/// Milliseconds to start and to stop so many tasks.
fn once(peer: &Peer, count: usize) -> (f64, f64) {
    runtime().block_on(async {
        let start = Instant::now();
        let stop = all_waiting(peer, count).await;
        let started = start.elapsed();
        // Those that were counted last are about to wait.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let start = Instant::now();
        let leftovers = stop.await;
        let gone = start.elapsed();
        drop(leftovers);
        (millis(started), millis(gone))
    })
}

/// Spawns the tasks and waits until each has started.
pub(crate) async fn all_waiting(peer: &Peer, count: usize) -> Stop {
    let started = Started::default();
    let stop = (peer.spawn)(count, &Arc::clone(&started));
    while started.load(Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stop
}
