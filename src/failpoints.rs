//! Named points in an order's life at which tests hold it: P0 read, P1 authorised, P2 before the intent's commit, P3 committed
//! and unanswered, P4 SENDING committed, P5 on the wire, P6 answer in memory, P7 result committed.
//!
//! And in the life of an account that is handed over: U1 its last word committed, U2 its lease given up, U3 the paper ledger closed
//! by the one that had it, U4 about to be opened by the next, U5 opened, U6 the lease taken.
//!
//! Without the cargo feature `failpoints` they compile to nothing; with it they ask the test that started the process, if one
//! did. See [`shutdown_coordinator::points`].
//!
//! Two more faults are of this feature: the point `stall`, at which a request blocks the worker thread it runs on, and
//! [`strategy`], which has a bug.

pub use shutdown_coordinator::points::{point as hit, point_blocking as stall};

/// A robot with this name panics at its first signal.
#[cfg(feature = "failpoints")]
pub const BUGGY_ROBOT: &str = "failpoint-panic";

/// [`trading::robot::decide`], but for robots named [`BUGGY_ROBOT`].
///
/// # Panics
/// That is what it is for.
#[cfg(feature = "failpoints")]
pub fn strategy(
    view: &trading::robot::View<'_>,
    state: &trading::robot::StrategyState,
    occasion: trading::robot::Occasion<'_>,
) -> trading::robot::Answer {
    let signal = matches!(occasion, trading::robot::Occasion::Signal(_));
    assert!(view.robot.name != BUGGY_ROBOT || !signal, "a bug that a test asked for");
    trading::robot::decide(view, state, occasion)
}
