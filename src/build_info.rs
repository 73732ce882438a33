//! Which build this is.

/// The version, the commit, and `.dirty` if the tree differed from it: `0.1.0+3babe6312345`. Health, logs and metrics name
/// it, and a deployment waits for it.
pub const BUILD_ID: &str = env!("HOTGO_BUILD_ID");
