//! The real binary, driven from outside: what comes in, what its end leaves, and what it tells others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::as_conversions,
    reason = "tests"
)]

mod binance;
mod copy;
mod crash;
mod input;
mod market;
mod migrations;
mod restore;
mod shutdown;
#[path = "../support/mod.rs"]
mod support;
mod systemd;
mod venue;
