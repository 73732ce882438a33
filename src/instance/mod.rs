//! Several processes on one store: who is here, and who trades what.
//!
//! Each instance says that it lives, reads who else does, and plans from the same facts by the same rule. The leases in the
//! database decide: a plan only says who asks for which. See `docs/architecture.md`.

pub mod api;
pub mod inbox;
mod plan;
mod service;

pub use plan::{Desired, plan};
pub use service::{HandOverError, Instances, Settings, View};
