//! How far an audit is, for those who watch it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by an audit and those who watch it.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    looks: AtomicU64,
    rows: AtomicU64,
    of_rows: AtomicU64,
    bytes: AtomicU64,
    of_bytes: AtomicU64,
}

impl Progress {
    pub(super) fn look(&self) {
        self.0.looks.fetch_add(1, Ordering::Relaxed);
        for counter in [&self.0.rows, &self.0.of_rows, &self.0.bytes, &self.0.of_bytes] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn rows_to_read(&self, rows: u64) {
        self.0.of_rows.store(rows, Ordering::Relaxed);
    }

    pub(super) fn row(&self) {
        self.0.rows.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn bytes_to_read(&self, bytes: u64) {
        self.0.of_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self, bytes: u64) {
        self.0.bytes.store(bytes, Ordering::Relaxed);
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(100).min(100)
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { looks, rows, of_rows, bytes, of_bytes } = &*self.0;
        let (rows, ledger) = (percent(read(rows), read(of_rows)), percent(read(bytes), read(of_bytes)));
        if rows == 100 && ledger == 100 {
            write!(f, "look {}: comparing", read(looks))
        } else {
            write!(f, "look {}: {rows} % of the database, {ledger} % of the venue's ledger", read(looks))
        }
    }
}
