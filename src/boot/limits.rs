//! What the operating system allows this process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// File descriptors that are not connections': the database, the ledger, the runtime, logs, and the private listener with
/// somebody asking there.
const OWN_DESCRIPTORS: usize = 40;

/// How many connections can be open at once: what is configured, or what the limit of file descriptors leaves, after it was
/// raised as far as it may be. Beyond it connections wait in the kernel's queue; the process never runs out of descriptors
/// for its own files and the private listener.
pub(super) fn connections(configured: usize) -> usize {
    let Some(descriptors) = descriptors() else { return configured };
    let room = descriptors.saturating_sub(OWN_DESCRIPTORS).max(1);
    if room < configured {
        tracing::warn!(
            configured,
            room,
            descriptors,
            "server.max_connections is more than the limit of file descriptors allows"
        );
    }
    room.min(configured)
}

/// The limit of file descriptors, raised to the hard one. `None` if it is not known.
fn descriptors() -> Option<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    // A refusal leaves the soft one in force.
    let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    usize::try_from(if raised { hard } else { soft }).ok()
}
