//! The pure trading core: money, ids, the order machine, robots, risk, and the engine's `step`.
//!
//! Nothing here reads a clock, a socket, a file or a random number; nothing is async. Time and ids come in as input, and
//! what should happen outside goes out as data. So production, the simulator and every test drive the very same code.

pub mod candle;
pub mod command;
pub mod engine;
pub mod event;
pub mod exchange;
pub mod ids;
pub mod market;
pub mod money;
pub mod order;
pub mod position;
pub mod risk;
pub mod robot;
pub mod signal;
pub mod time;
