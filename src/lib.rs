//! The trading server. `main.rs` dispatches; `boot` wires; every other module is a feature or a port.

pub mod admin;
pub mod audit;
pub mod build_info;
pub mod cli;
pub mod config;
pub mod engines;
pub mod gateway;
pub mod store;
pub mod stream;
pub mod telemetry;
