//! The HTTP API over a real store: who gets in, what is refused and how, and that a wish is carried out once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_debug_implementations,
    unreachable_pub,
    reason = "tests"
)]

mod access;
mod input;
mod intake;
mod limits;
mod meters;
mod notices;
mod reads;
mod redis;
mod signed;
mod world;
