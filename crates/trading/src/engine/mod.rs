//! The engine: one per account, a single writer. `step` decides; what it decides is committed before anything is done.

mod snapshot;

pub use snapshot::{RECENT_TRADES, Snapshot};
