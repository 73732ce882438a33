//! Intake: wishes from outside, each decided once and durably before it is answered.
//!
//! Signals arrive over REST and from TradingView's webhooks. [`Commands`] is the one way from HTTP to an engine, of this
//! instance or of another one; robots and orders use it too.

pub(crate) mod api;
mod remote;
mod service;
pub(crate) mod webhook;
mod wire;

pub use remote::Remote;
pub use service::{CommandError, Commands, Decided, Decision, IntakeClosed, IntakeGate, IntakeGuard, Pending};
pub use wire::{CommandOut, OrderTypeWire, OutcomeWire, TifWire};
