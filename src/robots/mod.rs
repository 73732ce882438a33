//! Robots over HTTP: made, looked at, started, stopped, halted.

pub(crate) mod api;
mod wire;

pub use wire::{RobotOut, StateOut};
