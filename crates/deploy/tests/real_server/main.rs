//! The tool upgrades the real server under a real systemd, while clients of all kinds work: nobody notices.
//!
//! `scripts/systemd-box` boots one, where the machine allows it. `scripts/test` runs the first test; all of them, with 20
//! upgrades in a row:
//!
//! ```text
//! cargo build --workspace --release --all-features --bins --examples
//! export BOX_NAME=dev BOX_BIND="$PWD/target/release:/usr/local/lib/hotgo-test:ro" BOX_DISK="$(mktemp -d)"
//! scripts/systemd-box up
//! HOTGO_UPGRADES=20 HOTGO_BLOWS=100 cargo nextest run --workspace --release --all-features --run-ignored all -E 'binary(real_server)'
//! scripts/systemd-box down
//! ```
#![cfg(feature = "failpoints")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::unused_self,
    missing_docs,
    reason = "tests"
)]

mod deaths;
#[path = "../support/inside.rs"]
mod inside;
mod reboot;
mod site;
mod upgrades;
