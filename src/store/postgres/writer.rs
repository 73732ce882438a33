//! PostgreSQL's side of the writer: one connection that it alone uses, and what its errors mean.
//!
//! The connection is never used again after an operation on it was given up: it is closed, and before the next one writes, the
//! server has ended what the old one left behind. So an answer "unknown" is settled by reading again.

use std::time::Duration;

use sqlx::postgres::PgDatabaseError;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use trading::ids::AccountId;

use super::open::{Backing, Server, Session};
use super::{lease, rows, sql};
use crate::store::batch::Batch;
use crate::store::writer::{self, Backend, COMMIT_TIMEOUT, Change, Job, Leased, Task};
use crate::store::{Commit, CommitError, StoreError};

/// Before the callers give up, so that they are told.
const WRITE_TIMEOUT: Duration = COMMIT_TIMEOUT.saturating_sub(Duration::from_secs(2));
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
const BACKOFF: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_millis(500);

/// The writing half of a [`PostgresStore`](super::PostgresStore). Nothing is written unless [`Writer::run`] runs.
#[derive(Debug)]
pub struct Writer {
    link: Link,
    queue: mpsc::Receiver<Job<PgConnection>>,
}

impl Writer {
    pub(super) fn new(server: Server, session: Session, queue: mpsc::Receiver<Job<PgConnection>>) -> Self {
        let (backend, conn) = (session.backend, Some(session.conn));
        Self { link: Link { server, conn, backend, retry_at: Instant::now(), pause: Duration::ZERO }, queue }
    }

    /// Writes until the store is closed or dropped. Track this future: when it ends, all is written.
    ///
    /// Cancel safety: none. Dropping it leaves the commits in hand unanswered; they may or may not have been written.
    pub async fn run(self) {
        writer::run(self.link, self.queue).await;
    }
}

/// The connection, made anew whenever it is lost.
#[derive(Debug)]
struct Link {
    server: Server,
    conn: Option<PgConnection>,
    /// The server's process of the last connection.
    backend: Backing,
    retry_at: Instant,
    pause: Duration,
}

impl Link {
    /// The connection, if there is one or one can be made. Between two attempts it says no at once: whoever waits behind
    /// is told soon.
    async fn conn(&mut self) -> Result<&mut PgConnection, String> {
        if self.conn.is_none() {
            if Instant::now() < self.retry_at {
                return Err("the server cannot be reached".into());
            }
            match Session::open(&self.server, Some(&self.backend)).await {
                Ok(session) => {
                    tracing::info!(server = %self.server, "connected again");
                    self.backend = session.backend;
                    self.conn = Some(session.conn);
                    self.pause = Duration::ZERO;
                }
                Err(error) => {
                    self.pause = (self.pause * 2).clamp(*BACKOFF.start(), *BACKOFF.end());
                    self.retry_at = Instant::now() + self.pause.mul_f64(rand::random_range(0.5..1.5));
                    return Err(error.to_string());
                }
            }
        }
        self.conn.as_mut().ok_or_else(|| "there is no connection".to_owned())
    }

    fn lose(&mut self, why: &str) {
        tracing::warn!(server = %self.server, why, "the writer's connection was lost");
        // Closes the socket; the server notices, and the next session ends what is left.
        self.conn = None;
        self.retry_at = Instant::now();
    }
}

impl Backend for Link {
    type Conn = PgConnection;

    async fn commit(&mut self, commits: &[Commit]) -> Result<(), CommitError> {
        let Some(account) = commits.first().map(|commit| commit.lease.account) else { return Ok(()) };
        let conflict = |detail: String| CommitError::Conflict { account, detail };
        let batch = Batch::of(commits.iter()).map_err(|misfit| conflict(misfit.0.into()))?;
        let statement = rows::statement(&batch).map_err(|error| conflict(error.to_string()))?;
        let conn = self.conn().await.map_err(CommitError::Unknown)?;
        match timeout(WRITE_TIMEOUT, statement.execute(conn)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                if is_lost(&error) {
                    self.lose(&error.to_string());
                }
                Err(classify(&error, account))
            }
            Err(_) => {
                let why = format!("no answer within {WRITE_TIMEOUT:?}");
                self.lose(&why);
                Err(CommitError::Unknown(why))
            }
        }
    }

    async fn leases(&mut self, changes: &[Change]) -> Result<Vec<Leased>, StoreError> {
        let conn = self.conn().await.map_err(StoreError::Unavailable)?;
        match timeout(WRITE_TIMEOUT, change_leases(conn, changes)).await {
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(error)) => {
                if is_lost(&error) {
                    self.lose(&error.to_string());
                }
                Err(error.into())
            }
            Err(_) => {
                let why = format!("no answer within {WRITE_TIMEOUT:?}");
                self.lose(&why);
                Err(StoreError::Unavailable(why))
            }
        }
    }

    fn is_up(&self) -> bool {
        self.conn.is_some()
    }

    async fn perform(&mut self, task: Task<PgConnection>) {
        let Ok(conn) = self.conn().await else { return };
        match timeout(WRITE_TIMEOUT, task(conn)).await {
            Ok(false) => {}
            Ok(true) => self.lose("a small write failed"),
            Err(_) => self.lose("a small write was not answered"),
        }
    }

    async fn end(self) {
        let Some(conn) = self.conn else { return };
        match timeout(CLOSE_TIMEOUT, conn.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the database did not close cleanly"),
            Err(_) => tracing::warn!("the database did not close within {CLOSE_TIMEOUT:?}"),
        }
    }
}

/// In one transaction: one sync of the log for all of them.
async fn change_leases(conn: &mut PgConnection, changes: &[Change]) -> Result<Vec<Leased>, sqlx::Error> {
    if let [only] = changes {
        return Ok(vec![lease::change(conn, only).await?]);
    }
    let mut transaction = conn.begin().await?;
    let mut answers = Vec::with_capacity(changes.len());
    for change in changes {
        answers.push(lease::change(&mut transaction, change).await?);
    }
    transaction.commit().await?;
    Ok(answers)
}

fn refusal(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// Whether the connection is of no use any more: it broke, or the server ends it.
pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    match refusal(error) {
        // Class 08: connection exceptions; 57P: the server shuts down, crashed or starts. 25006: it only reads by now.
        Some(refusal) => {
            let code = refusal.code();
            code.starts_with("08") || code.starts_with("57P") || code == "25006"
        }
        None => !matches!(error, sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)),
    }
}

/// By SQLSTATE: PostgreSQL's documentation, appendix A.
fn classify(error: &sqlx::Error, account: AccountId) -> CommitError {
    let Some(refusal) = refusal(error) else { return CommitError::Unknown(error.to_string()) };
    let detail = refusal.message().to_owned();
    match refusal.code() {
        sql::FENCED => CommitError::Fenced(account),
        "53100" => CommitError::Full,
        // Class 22: a value that does not fit; 23: a constraint.
        code if code == sql::CONFLICT || code.starts_with("22") || code.starts_with("23") => {
            CommitError::Conflict { account, detail }
        }
        _ => CommitError::Unknown(detail),
    }
}

pub(in crate::store) fn store_error(refusal: &PgDatabaseError) -> StoreError {
    let code = refusal.code();
    let detail = refusal.message().to_owned();
    match code {
        "53100" => StoreError::Full,
        // XX001 and XX002: damage of a table or an index.
        "XX001" | "XX002" => StoreError::Corrupt(detail),
        _ if code.starts_with("22") || code.starts_with("23") => StoreError::Corrupt(detail),
        _ => StoreError::Unavailable(detail),
    }
}
