//! Intake: wishes from outside, each decided once and durably before it is answered.
//!
//! Signals arrive over REST, from TradingView's webhooks and from a Redis stream. [`Commands`] is the one way from HTTP to an engine; robots and
//! orders use it too.

pub(crate) mod api;
mod redis;
mod service;
pub(crate) mod webhook;
mod wire;

pub use self::redis::{StreamIntake, StreamIntakeDeps};
pub use service::{CommandError, Commands, Decided, IntakeClosed, IntakeGate, IntakeGuard};
pub use wire::{CommandOut, OrderTypeWire, TifWire};
