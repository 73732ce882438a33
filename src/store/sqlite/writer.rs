//! SQLite's side of the writer: one transaction as one text, and what its errors mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::mpsc;
use trading::ids::AccountId;

use super::lease;
use super::lock::WriteLock;
use super::rows::Statement;
use super::sql;
use crate::store::batch::Batch;
use crate::store::writer::{self, Backend, Change, Job, Leased, Task};
use crate::store::{Commit, CommitError, StoreError};

pub(super) const BROKEN: &str = "an earlier write failed in the disk; the store must be opened again";

/// The writing half of a [`SqliteStore`](super::SqliteStore). Nothing is written unless [`Writer::run`] runs.
#[derive(Debug)]
pub struct Writer {
    file: File,
    queue: mpsc::Receiver<Job<SqliteConnection>>,
}

impl Writer {
    pub(super) fn new(
        lock: WriteLock,
        conn: SqliteConnection,
        queue: mpsc::Receiver<Job<SqliteConnection>>,
        broken: Arc<AtomicBool>,
    ) -> Self {
        Self { file: File { conn, broken, lock }, queue }
    }

    /// Writes until the store is closed or dropped; then checkpoints. Track this future: when it ends, all is written.
    ///
    /// Cancel safety: none. Dropping it leaves the commits in hand unanswered; they may or may not have been written.
    pub async fn run(self) {
        writer::run(self.file, self.queue).await;
    }
}

/// The database, open for writing.
#[derive(Debug)]
struct File {
    conn: SqliteConnection,
    broken: Arc<AtomicBool>,
    // The last field, so that the connection is gone before another process may write.
    lock: WriteLock,
}

impl Backend for File {
    type Conn = SqliteConnection;

    async fn commit(&mut self, commits: &[Commit]) -> Result<(), CommitError> {
        let Some(account) = commits.first().map(|commit| commit.lease.account) else { return Ok(()) };
        if self.is_broken() {
            return Err(CommitError::Unknown(BROKEN.into()));
        }
        let conflict = |detail: String| CommitError::Conflict { account, detail };
        let batch = Batch::of(commits.iter()).map_err(|misfit| conflict(misfit.0.into()))?;
        let statement = Statement::of(&batch).map_err(|error| conflict(error.to_string()))?;
        let Err(error) = statement.into_query().execute(&mut self.conn).await else { return Ok(()) };
        self.undo(&error).await;
        Err(classify(&error, account))
    }

    async fn leases(&mut self, changes: &[Change]) -> Result<Vec<Leased>, StoreError> {
        if self.is_broken() {
            return Err(StoreError::Unavailable(BROKEN.into()));
        }
        let error = match change_leases(&mut self.conn, changes).await {
            Ok(answers) => return Ok(answers),
            Err(error) => error,
        };
        self.undo(&error).await;
        Err(error.into())
    }

    fn is_up(&self) -> bool {
        !self.is_broken()
    }

    async fn perform(&mut self, task: Task<SqliteConnection>) {
        if !self.is_broken() && task(&mut self.conn).await {
            self.set_broken("a small write");
        }
    }

    async fn end(mut self) {
        // Whoever closes the database last checkpoints, too. Truncating would hold up those that go on writing.
        if !self.is_broken() && !self.lock.shares() {
            match sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut self.conn).await {
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "no checkpoint at the end; the log is replayed at the next start"),
            }
        }
        if let Err(error) = self.conn.close().await {
            tracing::warn!(%error, "the database did not close cleanly");
        }
        drop(self.lock);
    }
}

/// In one transaction: one sync of the file for all of them.
async fn change_leases(conn: &mut SqliteConnection, changes: &[Change]) -> Result<Vec<Leased>, sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await?;
    let mut answers = Vec::with_capacity(changes.len());
    for change in changes {
        answers.push(lease::change(conn, change).await?);
    }
    sqlx::query("COMMIT").execute(conn).await?;
    Ok(answers)
}

impl File {
    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Ends the transaction that failed so.
    async fn undo(&mut self, error: &sqlx::Error) {
        // Many errors have undone the transaction already; then this fails and says nothing.
        let undone = sqlx::query("ROLLBACK").execute(&mut self.conn).await;
        if is_io_error(error) || undone.is_err_and(|error| is_io_error(&error)) {
            self.set_broken(&error.to_string());
        }
    }

    fn set_broken(&self, detail: &str) {
        tracing::error!(detail, "{BROKEN}");
        self.broken.store(true, Ordering::Release);
    }
}

/// SQLite's primary result code.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<i32>().ok().map(|code| code & 0xff)
}

/// Whether nobody knows any more what the file holds: an I/O error, damage, or a connection that died.
pub(super) fn is_io_error(error: &sqlx::Error) -> bool {
    const IOERR: i32 = 10;
    const CORRUPT: i32 = 11;
    const NOTADB: i32 = 26;
    match error {
        sqlx::Error::Database(_) => matches!(primary_code(error), Some(IOERR | CORRUPT | NOTADB) | None),
        sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        _ => false,
    }
}

fn classify(error: &sqlx::Error, account: AccountId) -> CommitError {
    const FULL: i32 = 13;
    const CONSTRAINT: i32 = 19;
    let detail = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    match primary_code(error) {
        Some(FULL) => CommitError::Full,
        Some(CONSTRAINT) if detail == sql::FENCED => CommitError::Fenced(account),
        Some(CONSTRAINT) => CommitError::Conflict { account, detail },
        _ => CommitError::Unknown(detail),
    }
}

pub(in crate::store) fn store_error(error: &sqlx::Error) -> StoreError {
    match primary_code(error) {
        Some(13) => StoreError::Full,
        Some(11 | 19 | 26) => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}
