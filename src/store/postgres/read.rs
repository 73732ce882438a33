//! The readers: a few connections that run the common reads.
//!
//! Not sqlx's pool: a read that is given up in the middle takes its connection with it, so none is ever handed on with half an
//! answer in it. A connection that failed is closed and, if it had been idle, the read is tried once on a fresh one: after a
//! restart of the server nobody sees an error of a connection that died before it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use trading::engine::Snapshot;
use trading::ids::AccountId;

use super::open::{Server, Use, connect};
use super::text::{escape, unescape};
use crate::store::StoreError;
use crate::store::read::{self, Bind, Query, READ_TIMEOUT, Read, Reader, Row};

fn corrupt(what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(what.to_string())
}

impl Row for PgRow {
    fn integer(&self, index: usize) -> Read<Option<i64>> {
        self.try_get(index).map_err(corrupt)
    }

    fn text(&self, index: usize) -> Read<Option<Cow<'_, str>>> {
        Ok(self.try_get::<Option<&str>, _>(index).map_err(corrupt)?.map(unescape))
    }
}

/// PostgreSQL's parameters have numbers.
fn numbered(text: &str) -> String {
    let mut parts = text.split('?');
    let mut numbered = parts.next().unwrap_or_default().to_owned();
    for (n, part) in (1..).zip(parts) {
        // Writing to a String cannot fail.
        let _ok = write!(numbered, "${n}{part}");
    }
    numbered
}

pub(super) async fn fetch(conn: &mut PgConnection, query: Query) -> Read<Vec<PgRow>> {
    let text = AssertSqlSafe(numbered(&query.text));
    let statement = query.binds.into_iter().fold(sqlx::query(text), |query, bind| match bind {
        Bind::Number(number) => query.bind(number),
        Bind::Text(text) => query.bind(escape(&text).into_owned()),
    });
    Ok(statement.fetch_all(conn).await?)
}

/// Connections that only read.
#[derive(Debug)]
pub(super) struct Readers {
    server: Server,
    idle: Mutex<Vec<PgConnection>>,
    permits: Semaphore,
}

/// A connection that is in use. Closed when dropped; [`Lent::give_back`] keeps it.
struct Lent<'a> {
    readers: &'a Readers,
    conn: PgConnection,
    is_fresh: bool,
    _permit: SemaphorePermit<'a>,
}

impl Lent<'_> {
    fn give_back(self) {
        self.readers.idle().push(self.conn);
    }
}

impl Readers {
    pub(super) fn new(server: Server) -> Self {
        // The writer has the other one.
        let most = server.max_connections.saturating_sub(1).max(1);
        let permits = Semaphore::new(usize::try_from(most).unwrap_or(1));
        Self { server, idle: Mutex::default(), permits }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<PgConnection>> {
        // A list of connections is whole at any time.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lend(&self) -> Read<Lent<'_>> {
        let permit = match timeout(READ_TIMEOUT, self.permits.acquire()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(StoreError::Closed),
            Err(_) => return Err(StoreError::Unavailable("every connection is busy".into())),
        };
        let idle = self.idle().pop();
        let is_fresh = idle.is_none();
        let conn = match idle {
            Some(conn) => conn,
            None => connect(&self.server, Use::Read).await?,
        };
        Ok(Lent { readers: self, conn, is_fresh, _permit: permit })
    }

    /// The account as one transaction sees it.
    pub(super) async fn load(&self, account: AccountId) -> Read<Snapshot> {
        loop {
            let mut lent = self.lend().await?;
            match load(&mut lent.conn, account).await {
                Err(StoreError::Unavailable(_)) if !lent.is_fresh => self.idle().clear(),
                Ok(snapshot) => {
                    lent.give_back();
                    return Ok(snapshot);
                }
                other => return other,
            }
        }
    }

    /// Closes what is idle; what is in use ends with its read. Nothing is lent any more.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle());
        for conn in idle {
            if let Err(error) = conn.close().await {
                tracing::debug!(%error, "a reader did not close cleanly");
            }
        }
    }
}

impl Reader for &Readers {
    type Row = PgRow;

    async fn fetch(&mut self, query: Query) -> Read<Vec<PgRow>> {
        loop {
            let mut lent = self.lend().await?;
            match fetch(&mut lent.conn, query.clone()).await {
                // It may have died while it was idle, and the others with it.
                Err(StoreError::Unavailable(_)) if !lent.is_fresh => self.idle().clear(),
                Ok(rows) => {
                    lent.give_back();
                    return Ok(rows);
                }
                other => return other,
            }
        }
    }
}

impl Reader for &mut PgConnection {
    type Row = PgRow;

    async fn fetch(&mut self, query: Query) -> Read<Vec<PgRow>> {
        fetch(self, query).await
    }
}

/// As one transaction sees it, which sees one moment.
async fn load(mut conn: &mut PgConnection, account: AccountId) -> Read<Snapshot> {
    sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *conn).await?;
    let snapshot = read::load(&mut conn, account).await?;
    sqlx::query("ROLLBACK").execute(conn).await?;
    Ok(snapshot)
}
