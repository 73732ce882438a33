//! Where prices come from: [`synthetic`] ones from a seed, or [`replay`]ed ones from public files.

pub mod replay;
pub mod synthetic;
