//! The one writer: takes what waits, merges it, commits it, answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use trading::ids::AccountId;

use super::lock::WriteLock;
use super::rows::Batch;
use super::sql;
use crate::store::{Commit, CommitError, StoreError};

/// A transaction takes no further commit once it has this many events, so that its callers do not wait long.
const MAX_EVENTS: usize = 4096;

pub(super) const BROKEN: &str = "an earlier write failed in the disk; the store must be opened again";

type Answer = oneshot::Sender<Result<(), CommitError>>;
/// Work between transactions. Says whether the disk failed.
pub(super) type Task = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, bool> + Send>;

pub(super) enum Job {
    Commit(Commit, Answer),
    Task(Task),
    Close(oneshot::Sender<()>),
}

/// The writing half of a [`SqliteStore`](super::SqliteStore). Nothing is written unless [`Writer::run`] runs.
#[derive(Debug)]
pub struct Writer {
    conn: SqliteConnection,
    queue: mpsc::Receiver<Job>,
    broken: Arc<AtomicBool>,
    // The last field, so that the connection is gone before another process may write.
    lock: WriteLock,
}

impl Writer {
    pub(super) fn new(
        lock: WriteLock,
        conn: SqliteConnection,
        queue: mpsc::Receiver<Job>,
        broken: Arc<AtomicBool>,
    ) -> Self {
        Self { conn, queue, broken, lock }
    }

    /// Writes until the store is closed or dropped; then checkpoints. Track this future: when it ends, all is written.
    ///
    /// Cancel safety: none. Dropping it leaves the commits in hand unanswered; they may or may not have been written.
    pub async fn run(mut self) {
        let mut closers = Vec::new();
        let mut put_back = None;
        loop {
            let job = match put_back.take() {
                Some(job) => job,
                None => match self.queue.recv().await {
                    Some(job) => job,
                    None => break,
                },
            };
            match job {
                Job::Commit(commit, answer) => {
                    // Lets callers that are ready to commit do so: not a wait, only their turn.
                    tokio::task::yield_now().await;
                    put_back = self.commit_waiting(commit, answer).await;
                }
                // Dropping a task tells its caller that nothing was done.
                Job::Task(_) if self.is_broken() => {}
                Job::Task(task) => {
                    if task(&mut self.conn).await {
                        self.set_broken("a small write");
                    }
                }
                Job::Close(reply) => {
                    // What was accepted before is still received.
                    self.queue.close();
                    closers.push(reply);
                }
            }
        }
        self.end().await;
        for reply in closers {
            // The closer may have stopped waiting.
            let _gone = reply.send(());
        }
    }

    /// Commits this one and those that wait behind it. Returns the first job that is no commit.
    async fn commit_waiting(&mut self, commit: Commit, answer: Answer) -> Option<Job> {
        let mut events = commit.events.len();
        let mut commits = vec![commit];
        let mut answers = vec![answer];
        let mut other = None;
        while events < MAX_EVENTS {
            match self.queue.try_recv() {
                Ok(Job::Commit(commit, answer)) => {
                    events += commit.events.len();
                    commits.push(commit);
                    answers.push(answer);
                }
                Ok(job) => {
                    other = Some(job);
                    break;
                }
                Err(_) => break,
            }
        }
        let merged = self.commit(&commits).await;
        if let ([_, _, ..], Err(_)) = (commits.as_slice(), &merged) {
            for (commit, answer) in commits.iter().zip(answers) {
                let result = self.commit(std::slice::from_ref(commit)).await;
                let _gone = answer.send(result);
            }
        } else {
            for answer in answers {
                let _gone = answer.send(merged.clone());
            }
        }
        other
    }

    async fn commit(&mut self, commits: &[Commit]) -> Result<(), CommitError> {
        let Some(account) = commits.first().map(|commit| commit.lease.account) else { return Ok(()) };
        if self.is_broken() {
            return Err(CommitError::Unknown(BROKEN.into()));
        }
        let conflict = |detail: String| CommitError::Conflict { account, detail };
        let statement = Batch::of(commits.iter())
            .map_err(|misfit| conflict(misfit.0.into()))?
            .to_statement()
            .map_err(|error| conflict(error.to_string()))?;
        let Err(error) = statement.into_query().execute(&mut self.conn).await else { return Ok(()) };
        // Many errors have undone the transaction already; then this fails and says nothing.
        let undone = sqlx::query("ROLLBACK").execute(&mut self.conn).await;
        if is_io_error(&error) || undone.is_err_and(|error| is_io_error(&error)) {
            self.set_broken(&error.to_string());
        }
        Err(classify(&error, account))
    }

    async fn end(mut self) {
        if !self.is_broken() {
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

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
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

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match (&error, primary_code(&error)) {
            (sqlx::Error::PoolClosed, _) => StoreError::Closed,
            (_, Some(13)) => StoreError::Full,
            (_, Some(11 | 19 | 26)) | (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => {
                StoreError::Corrupt(error.to_string())
            }
            _ => StoreError::Unavailable(error.to_string()),
        }
    }
}
