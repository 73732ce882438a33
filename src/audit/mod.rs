//! The checker: compares the venue's ledger, our database and the signals that were answered.
//!
//! | check | what it finds | severity |
//! |---|---|---|
//! | C1 | an order at the venue with our kind of id that has no row here, or a different one, or that was sent without one | lost |
//! | C2 | a fill that only one of the two knows, or knows differently | lost |
//! | C3 | a status or filled quantity that differs, or is not the sum of the fills | lost |
//! | C4 | an order that nobody resolved | lost |
//! | C5 | an answered signal without an outcome, or a command whose outcome is not what was done | lost |
//! | C6 | two venue orders for one leg of one decision | doubled |
//! | C7 | two requests with one client id | doubled |
//! | C8 | a balance that is not its opening plus its fills less their fees, a position that is not the sum of its fills | lost |
//! | C9 | a gap in the events, or a table that is not what the events add up to | other |
//! | C10 | an order sent under an epoch that had ended | other |
//!
//! An example of each finding, and what to do about it, is in `docs/audit.md`.
//!
//! While a server works, something is always on its way between the two. So what is found counts only if it is found
//! again, word for word, in every further look until `settle` has passed: whatever moves is not lost.

mod checks;
mod data;
mod money;
mod ours;
mod progress;
mod read;
mod report;
#[cfg(test)]
mod tests;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::Instant;
use trading::ids::{ClientOrderId, RobotId, TradeId};
use trading::market::{Asset, Symbol};
use venue::ledger::LedgerError;

pub use checks::check;
pub use data::{AccountData, AuditInput, History};
pub use progress::Progress;
pub use report::{AuditReport, Counts, Finding, Severity};

use crate::store::dump::Dump;
use crate::store::{Database, StoreError};

/// How long to wait between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Names a row that events make.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Order(ClientOrderId),
    Fill(Symbol, TradeId),
    Signal(String, String),
    Robot(RobotId),
    State(RobotId),
    Position(RobotId, Symbol),
    Balance(Asset),
}

/// A signal that was answered with 2xx: a line of JSON in the file of answered signals.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Answered {
    /// See [`trading::command::Command::source`].
    pub source: String,
    /// See [`trading::command::Command::dedup_key`].
    pub dedup_key: String,
}

/// Why the checker could not check.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// There is no file there.
    #[error("there is no {what} at {path}")]
    Missing {
        /// `database`, `ledger` or `file of answered signals`.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The venue's ledger cannot be used.
    #[error("the venue's ledger: {0}")]
    Ledger(#[from] LedgerError),
    /// The database cannot be used.
    #[error("the database: {0}")]
    Database(#[from] StoreError),
    /// A line of the file of answered signals is not `{"source": .., "dedup_key": ..}`.
    #[error("{path}, line {line}: {detail}")]
    Answered {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        detail: String,
    },
    /// The checker itself failed.
    #[error("the check did not end: {0}")]
    Failed(String),
}

impl From<JoinError> for AuditError {
    fn from(error: JoinError) -> Self {
        AuditError::Failed(error.to_string())
    }
}

/// Checks the database against the venue's ledger at `ledger`, and against the answered signals if a file of
/// them is given. Works while a server and a venue write to them.
///
/// A clean first look ends it; otherwise it looks again until `settle` has passed, and at least once more.
///
/// # Errors
/// [`AuditError`] when something cannot be read. What is found is no error.
pub async fn run(
    database: &Database,
    ledger: &Path,
    settle: Duration,
    answered: Option<&Path>,
    progress: &Progress,
) -> Result<AuditReport, AuditError> {
    let began = Instant::now();
    // Read first: a signal that is answered while the database is read would seem lost.
    let answered = answered.map(read_answered).transpose()?.unwrap_or_default();
    let mut report = look(database, ledger, &answered, progress).await?;
    while !report.is_clean() && !settle.is_zero() {
        let last = began.elapsed() >= settle;
        tokio::time::sleep(LOOK_AGAIN).await;
        report = report.and(look(database, ledger, &answered, progress).await?);
        if last {
            break;
        }
    }
    report.took = began.elapsed();
    Ok(report)
}

/// Whether the events of a database are complete and its tables are what they add up to: C9, and nothing else. Blocks.
///
/// # Errors
/// [`StoreError`] when something cannot be read. What is found is no error.
pub fn fold(dump: &mut Dump, progress: &Progress) -> Result<AuditReport, StoreError> {
    progress.look();
    Ok(checks::histories(&read::read_from(dump, progress)?))
}

/// The database and the ledger are read at the same time, each by a thread of its own.
async fn look(
    database: &Database,
    ledger: &Path,
    answered: &[Answered],
    progress: &Progress,
) -> Result<AuditReport, AuditError> {
    if let Database::Sqlite(path) = database {
        must_exist("database", path)?;
    }
    must_exist("ledger", ledger)?;
    progress.look();
    let (database, ledger, answered) = (database.clone(), ledger.to_owned(), answered.to_owned());
    let (rows, bytes) = (progress.clone(), progress.clone());
    let ours = spawn_blocking(move || read::read(&database, &rows));
    let theirs = spawn_blocking(move || {
        bytes.bytes_to_read(std::fs::metadata(&ledger).map_or(0, |file| file.len()));
        venue::ledger::read_with(&ledger, |read| bytes.bytes(read))
    });
    // Both are waited for: neither may be left behind running.
    let (ours, theirs) = tokio::join!(ours, theirs);
    let (accounts, venue) = (ours??, theirs??);
    Ok(spawn_blocking(move || checks::compare(&venue, &accounts, &answered)).await?)
}

fn must_exist(what: &'static str, path: &Path) -> Result<(), AuditError> {
    if path.is_file() { Ok(()) } else { Err(AuditError::Missing { what, path: path.to_owned() }) }
}

/// A last line without a newline is one that its writer did not finish.
fn read_answered(path: &Path) -> Result<Vec<Answered>, AuditError> {
    const WHAT: &str = "file of answered signals";
    must_exist(WHAT, path)?;
    let failed = |line, detail: String| AuditError::Answered { path: path.to_owned(), line, detail };
    let file = std::fs::File::open(path).map_err(|error| failed(0, error.to_string()))?;
    let mut reader = BufReader::new(file);
    let (mut answered, mut text, mut line) = (Vec::new(), String::new(), 0);
    loop {
        text.clear();
        line += 1;
        reader.read_line(&mut text).map_err(|error| failed(line, error.to_string()))?;
        if !text.ends_with('\n') {
            return Ok(answered);
        }
        if !text.trim().is_empty() {
            answered.push(serde_json::from_str(&text).map_err(|error| failed(line, error.to_string()))?);
        }
    }
}
