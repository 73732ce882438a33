//! How long `main audit` takes, and in how much memory: a consistent database and venue ledger of N orders are written
//! through the store and the ledger themselves, and then compared.
//!
//! `HOTGO_AUDIT_ORDERS` sets N (20,000 unless told), `HOTGO_AUDIT_DIR` a directory to write to and keep, where files of an
//! earlier run are used again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench"
)]

mod world;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hotgo::audit::{self, Progress};
use hotgo::store::Database;

fn main() {
    let orders: i64 = std::env::var("HOTGO_AUDIT_ORDERS").map_or(20_000, |text| text.parse().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let directory = std::env::var("HOTGO_AUDIT_DIR").map_or_else(|_| scratch.path().to_owned(), PathBuf::from);
    std::fs::create_dir_all(&directory).unwrap();
    let (database, ledger) = (directory.join("hotgo.db"), directory.join("venue.ledger"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if !database.exists() {
        let started = Instant::now();
        runtime.block_on(world::write(&database, &ledger, orders));
        println!("written in                   {:>9.2} s", started.elapsed().as_secs_f64());
    }
    println!(
        "database, with its log       {:>9.1} MB",
        megabytes(&database) + megabytes(&directory.join("hotgo.db-wal"))
    );
    println!("venue's ledger               {:>9.1} MB", megabytes(&ledger));

    // First the audit: the high-water mark of the process is its own then.
    let before = peak_mb();
    let started = Instant::now();
    let report = runtime
        .block_on(audit::run(&Database::Sqlite(database.clone()), &ledger, Duration::ZERO, None, &Progress::default()))
        .unwrap();
    let took = started.elapsed().as_secs_f64();
    assert!(report.is_clean(), "{report}");
    let counts = report.counts;
    let rows = counts.orders + counts.fills + counts.signals + counts.events;
    println!("{report}");
    println!("audit                        {took:>9.2} s");
    println!("rows of ours                 {rows:>9}");
    println!("rows/s                       {:>9.0}", rows as f64 / took);
    println!("orders/s                     {:>9.0}", counts.orders as f64 / took);
    println!("peak memory (VmHWM)          {:>9.0} MB (before: {before:.0})", peak_mb());

    let started = Instant::now();
    let image = venue::ledger::read(&ledger).unwrap();
    println!("ledger, read as an image     {:>9.2} s", started.elapsed().as_secs_f64());
    drop(image);
    let started = Instant::now();
    let opened = venue::ledger::Ledger::open(&ledger).unwrap();
    println!("ledger, opened by its venue  {:>9.2} s", started.elapsed().as_secs_f64());
    drop(opened);
}

fn megabytes(path: &Path) -> f64 {
    std::fs::metadata(path).map_or(0.0, |file| file.len() as f64 / 1e6)
}

/// The largest resident size that this process ever had.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1e3
}
