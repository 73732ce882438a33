//! The crash harness: real processes ended in every way at every moment, with every weakness of the venue, audited each time.
//!
//! The venue is a process of its own with its own durable ledger, so it survives what the server does not. It looks into the
//! server's database before it takes an order, and refuses one whose row is not committed.
//!
//! The short form runs with the other tests. The long form is `scripts/crash --kills 5000`: it shows its progress, prints the
//! seed, and `--seed` repeats the same rounds (not the scheduler's choices within one).
//!
//! Reading order: `round` (what is done to the server), `lane` (doing it, and judging it), `tally` (what was done in all).

#![cfg(feature = "failpoints")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::as_conversions,
    reason = "tests"
)]

mod lane;
mod lease;
mod round;
#[path = "../support/mod.rs"]
mod support;
mod tally;

use std::sync::Arc;

use tokio::task::JoinSet;

use lane::Lane;
use round::{ENDS, End, WEAKNESSES};
use support::strace;
use tally::Tally;

/// A number from the environment, for people who repeat or prolong a run.
fn number(name: &str, otherwise: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test's own knob, not configuration")]
    let given = std::env::var(name);
    given.ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Enough for every end and every weakness, but not for every pair of them.
const SHORT_KILLS: u64 = 45;
/// From here on every weakness of the venue must have shown. In a shorter run the server may be gone too soon for one.
const LONG_KILLS: u64 = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_under_every_weakness_loses_nothing_and_doubles_nothing() {
    let seed = number("HOTGO_SEED", u64::from(std::process::id()));
    let kills = number("HOTGO_KILLS", SHORT_KILLS);
    let lanes = number("HOTGO_LANES", 4);
    let strace = strace::works();
    let ends: Vec<End> = ENDS.into_iter().filter(|end| *end != End::KillAtSync || strace).collect();
    if !strace {
        eprintln!("NOT TESTED: SIGKILL at the n-th fdatasync. strace is not installed, or may not trace");
    }
    let tally = Arc::new(Tally::new(seed, kills, ends));
    let mut running = JoinSet::new();
    for lane in 0..lanes {
        let tally = Arc::clone(&tally);
        running.spawn(async move {
            let mut lane = Lane::start(seed, lane, tally).await;
            while lane.wants_more() {
                lane.round().await;
            }
            lane.close().await;
        });
    }
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended {
            running.abort_all();
            panic!("seed {seed}: {error}");
        }
    }
    tally.conclude((kills >= LONG_KILLS).then_some(&WEAKNESSES));
}
