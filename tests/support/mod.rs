//! The harness of the black-box tests: the real binary, in its own process, on a data directory of its own.
//!
//! A test starts an [`Installation`] (the directory, which outlives processes) and from it [`Server`]s (one process each).
//! Everything waits for an event or polls for a state, with a deadline, and shows the process's own words when it fails.

#![allow(dead_code, unused_imports, reason = "every test binary uses another part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::as_conversions,
    reason = "a harness fails the test by panicking"
)]

pub(crate) mod audit;
pub(crate) mod client;
pub(crate) mod faults;
pub(crate) mod load;
pub(crate) mod postgres;
pub(crate) mod random;
pub(crate) mod redis;
pub(crate) mod server;
pub(crate) mod strace;
pub(crate) mod venue;
pub(crate) mod wait;
pub(crate) mod websocket;

pub(crate) use client::{Answer, Client};
pub(crate) use load::Load;
pub(crate) use random::Random;
pub(crate) use redis::RedisServer;
pub(crate) use server::{CLEAN, Installation, Server, UNCLEAN};
pub(crate) use venue::Venue;
pub(crate) use wait::{eventually, within};
pub(crate) use websocket::Socket;
