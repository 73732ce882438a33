//! The trading server. `main.rs` dispatches; `boot` wires; every other module is a feature or a port.

pub mod auth;
pub mod config;
pub mod engines;
pub mod gateway;
pub mod http;
pub mod orders;
pub mod robots;
pub mod signals;
pub mod store;
pub mod stream;
