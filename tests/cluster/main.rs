//! Three instances, one PostgreSQL, one Redis, one venue: whatever is killed, frozen or cut off, no order is lost or doubled.
//!
//! The instances reach PostgreSQL and Redis over wires of their own, which the test cuts. The venue is a process with its own
//! ledger; it looks into PostgreSQL before it takes an order, and refuses one whose row is not committed. Signals go to any
//! instance, whoever owns the account. Each round ends with all accounts owned and trading again, and with the audit.
//!
//! `HOTGO_SEED` and `HOTGO_BLOWS` repeat and prolong a run. Reading order: `blow`, `cluster`, `link`.

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

mod blow;
mod cluster;
mod link;
#[path = "../support/mod.rs"]
mod support;

use blow::BLOWS;
use cluster::Cluster;

/// A number from the environment, for people who repeat or prolong a run.
fn number(name: &str, otherwise: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test's own knob, not configuration")]
    let given = std::env::var(name);
    given.ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_nothing_and_doubles_nothing_whatever_is_done_to_it() {
    let seed = number("HOTGO_SEED", u64::from(std::process::id()));
    let blows = number("HOTGO_BLOWS", BLOWS.len().try_into().unwrap());
    eprintln!("seed {seed}, {blows} blows");
    let mut cluster = Cluster::found(seed).await;
    for n in 0..blows {
        let blow = BLOWS[usize::try_from(n).unwrap() % BLOWS.len()];
        cluster.strike(blow).await;
        eprintln!("{n:>4} {blow:?}: {}", cluster.figures());
    }
    cluster.close().await;
}
