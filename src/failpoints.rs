//! Named points in an order's life at which tests hold it: P0 read, P1 authorised, P2 before the intent's commit, P3 committed
//! and unanswered, P4 SENDING committed, P5 on the wire, P6 answer in memory, P7 result committed.
//!
//! Without the cargo feature `failpoints` they compile to nothing; with it they ask the test that started the process, if one
//! did. See [`shutdown_coordinator::points`].

pub use shutdown_coordinator::points::point as hit;
