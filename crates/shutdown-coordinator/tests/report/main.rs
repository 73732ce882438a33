//! The report of a shutdown: as JSON, as a table, as a picture.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    clippy::needless_pass_by_value,
    reason = "tests"
)]

mod json;
mod picture;
mod random;
mod run;
mod samples;
mod svg;
mod table;
