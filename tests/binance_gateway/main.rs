//! The Binance gateway against hand-made servers that misbehave on the wire. What is judged is what arrived there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests"
)]

mod posts;
mod reads;
mod stream;
mod wire;
