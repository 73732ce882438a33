//! The checker: compares the venue's ledger, our database and the signals that were answered.
//!
//! | check | what it finds | severity |
//! |---|---|---|
//! | C1 | an order at the venue with our kind of id that has no row here, or a different one, or that was sent without one | lost |
//! | C2 | a fill that only one of the two knows, or knows differently | lost |
//! | C3 | a status or filled quantity that differs, or is not the sum of the fills | lost |
//! | C4 | an order that nobody resolved | lost |
//! | C5 | an answered signal without its one outcome | lost |
//! | C6 | two venue orders for one leg of one decision | doubled |
//! | C7 | two requests with one client id | doubled |
//! | C8 | a balance that is not its opening plus its fills less their fees | lost |
//! | C9 | a gap in the events, or a table that is not what the events add up to | other |
//! | C10 | an order sent under an epoch that had ended | other |
//!
//! While a server works, something is always on its way between the two. So what is found counts only if it is found
//! again, word for word, in every further look until `settle` has passed: whatever moves is not lost.

mod checks;
mod data;
mod money;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use venue::ledger::LedgerError;

pub use checks::check;
pub use data::{AccountData, AuditInput, History};

use crate::store::StoreError;

/// How long to wait between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How many findings are written out.
const SHOWN: usize = 100;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something happened that we do not know of, or the other way round.
    Lost,
    /// Something happened twice.
    Doubled,
    /// Neither, but not as it should be.
    Other,
}

/// One contradiction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Finding {
    /// Which check found it: 1 to 10.
    pub check: u8,
    /// How bad it is.
    pub severity: Severity,
    /// What it is, with the ids to look for.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Lost => "lost",
            Severity::Doubled => "doubled",
            Severity::Other => "other",
        };
        write!(f, "C{} {severity}: {}", self.check, self.what)
    }
}

/// How much was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Orders in the database.
    pub orders: usize,
    /// Fills in the database.
    pub fills: usize,
    /// Signals and commands in the database.
    pub signals: usize,
    /// Events in the database.
    pub events: usize,
}

/// What the checker has to say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct AuditReport {
    /// How many findings mean that something was lost.
    pub lost: usize,
    /// How many findings mean that something was doubled.
    pub doubled: usize,
    /// Every finding, ordered by check.
    pub findings: Vec<Finding>,
    /// How much was compared.
    pub counts: Counts,
}

impl AuditReport {
    fn new(mut findings: Vec<Finding>, counts: Counts) -> Self {
        findings.sort();
        findings.dedup();
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        Self { lost: count(Severity::Lost), doubled: count(Severity::Doubled), findings, counts }
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// What was found in both looks.
    fn and(self, later: &Self) -> Self {
        let lasting = self.findings.into_iter().filter(|finding| later.findings.binary_search(finding).is_ok());
        Self::new(lasting.collect(), later.counts)
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in self.findings.iter().take(SHOWN) {
            writeln!(f, "{finding}")?;
        }
        if let Some(more) = self.findings.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            writeln!(f, "and {more} more")?;
        }
        let Counts { orders, fills, signals, events } = self.counts;
        writeln!(f, "compared {orders} orders, {fills} fills, {signals} signals, {events} events")?;
        write!(f, "lost {}, doubled {}", self.lost, self.doubled)
    }
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

/// Checks the database at `database` against the venue's ledger at `ledger`, and against the answered signals if a file of
/// them is given. Works while a server and a venue write to them.
///
/// A clean first look ends it; otherwise it looks again until `settle` has passed, and at least once more.
///
/// # Errors
/// [`AuditError`] when something cannot be read. What is found is no error.
pub async fn run(
    database: &Path,
    ledger: &Path,
    settle: Duration,
    answered: Option<&Path>,
) -> Result<AuditReport, AuditError> {
    let deadline = Instant::now() + settle;
    // Read first: a signal that is answered while the database is read would seem lost.
    let answered = answered.map(read_answered).transpose()?;
    let mut report = look(database, ledger, answered.clone()).await?;
    while !report.is_clean() && !settle.is_zero() {
        let last = Instant::now() >= deadline;
        tokio::time::sleep(LOOK_AGAIN).await;
        report = report.and(&look(database, ledger, answered.clone()).await?);
        if last {
            break;
        }
    }
    Ok(report)
}

async fn look(database: &Path, ledger: &Path, answered: Option<Vec<Answered>>) -> Result<AuditReport, AuditError> {
    must_exist("database", database)?;
    must_exist("ledger", ledger)?;
    let accounts = data::read(database).await?;
    let ledger = ledger.to_owned();
    tokio::task::spawn_blocking(move || {
        let venue = venue::ledger::read(&ledger)?;
        Ok(check(&AuditInput { venue, accounts, answered }))
    })
    .await
    .map_err(|error| AuditError::Failed(error.to_string()))?
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
