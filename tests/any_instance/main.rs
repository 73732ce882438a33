//! Any instance serves any client: two instances on one database in one process, of which one owns nothing.
//!
//! Each test runs with a bus between the two and without one, where only the database tells.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::too_many_lines,
    clippy::as_conversions,
    let_underscore_drop,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "tests"
)]

mod commands;
mod events;
mod kill;
#[path = "../stream_support/mod.rs"]
mod stream_support;
mod venue;
mod wire;
mod world;
