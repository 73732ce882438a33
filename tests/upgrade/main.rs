//! Two processes of one host, one taking over from the other under load: the real binary, one listener that both inherit, one
//! data directory, one database, one paper ledger. No request fails, no order is lost or doubled, no event is missed or seen
//! twice, whoever dies at whatever moment.

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

mod clients;
mod deaths;
mod host;
mod moves;
