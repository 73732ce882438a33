//! The trading server. `main.rs` dispatches; `boot` wires; every other module is a feature or a port.

pub mod admin;
pub mod audit;
pub mod auth;
pub mod boot;
pub mod build_info;
pub mod bus;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engines;
pub mod failpoints;
pub mod gateway;
pub mod http;
pub mod instance;
pub mod lock;
pub mod market;
pub mod notice;
pub mod orders;
pub mod redis;
pub mod robots;
pub mod signals;
pub mod store;
pub mod stream;
pub mod telemetry;
