//! Real sockets: serving and draining.
#![cfg(feature = "axum")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_futures,
    reason = "tests"
)]

#[path = "../common/mod.rs"]
mod common;

mod drain;
mod faults;
mod frames;
mod handover;
mod http2;
#[cfg(unix)]
mod inherited;
mod limits;
mod rig;
mod websockets;
