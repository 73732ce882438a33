//! Intake: wishes from outside, each decided once and durably before it is answered.
//!
//! Signals arrive over REST, from TradingView's webhooks and from a Redis stream. [`Commands`] is their one way to an engine, of
//! this instance or of another one; robots and orders use it too.

pub(crate) mod api;
mod redis;
mod remote;
mod service;
pub(crate) mod webhook;
mod wire;

pub use self::redis::{StreamIntake, StreamIntakeDeps};
pub use remote::Remote;
pub use service::{CommandError, Commands, Decided, Decision, IntakeClosed, IntakeGate, IntakeGuard, Pending};
pub use wire::{CommandOut, OrderTypeWire, OutcomeWire, TifWire};
