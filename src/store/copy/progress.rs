//! How far a move is, for those who watch it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by a move and those who watch it.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    doing: Mutex<&'static str>,
    rows: AtomicU64,
    of_rows: AtomicU64,
}

impl Progress {
    /// What is done from now on, with so many rows.
    pub fn begin(&self, doing: &'static str, rows: u64) {
        *self.0.doing.lock().unwrap_or_else(PoisonError::into_inner) = doing;
        self.0.rows.store(0, Ordering::Relaxed);
        self.0.of_rows.store(rows, Ordering::Relaxed);
    }

    pub(super) fn row(&self) {
        self.0.rows.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters { doing, rows, of_rows } = &*self.0;
        let (rows, of_rows) = (rows.load(Ordering::Relaxed), of_rows.load(Ordering::Relaxed));
        let percent = rows.saturating_mul(100).checked_div(of_rows).unwrap_or(100).min(100);
        write!(f, "{}: {rows} of {of_rows} rows, {percent} %", doing.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
