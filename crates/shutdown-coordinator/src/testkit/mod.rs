//! For the tests of services that use this crate.

mod assert;
mod drill;
mod failure;
#[cfg(unix)]
mod output;
#[cfg(unix)]
mod points;
#[cfg(unix)]
mod process;
mod signal;

pub use assert::{assert_clean, assert_order, entry, outcome, phase};
pub use drill::Drill;
pub use failure::Failure;
#[cfg(unix)]
pub use points::{Held, Points};
#[cfg(unix)]
pub use process::{Exit, Process};
pub use signal::Signal;

pub use crate::{
    points::{point, point_blocking},
    signal::Reaction,
};
