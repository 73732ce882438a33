//! What every store promises, run against each adapter, and what is SQLite's own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    reason = "tests"
)]

#[path = "../support/postgres.rs"]
pub(crate) mod postgres_server;
#[path = "../support/proxy.rs"]
pub(crate) mod proxy;

mod audit;
mod data;
mod findings;
mod fold;
mod inbox;
mod instances;
mod notices;
mod postgres;
mod sim;
mod sqlite;
mod suite;
