//! Redis, for real: servers that a test starts, kills, freezes and empties. Whatever happens to Redis, no order is lost and none
//! is doubled, and nobody waits for it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::as_conversions,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod breaker;
mod bus;
mod intake;
#[cfg(feature = "failpoints")]
mod moments;
mod server;
