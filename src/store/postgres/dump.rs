//! Everything that a server's database holds, as one transaction sees it: for the checker.
//!
//! Rows are read from the socket as they are used, so that memory stays bounded however many there are.

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::runtime::Handle;
use trading::event::Recorded;
use trading::ids::{AccountId, Seq};

use super::open::{Server, Use, connect};
use crate::store::StoreError;
use crate::store::dump::{COUNT, StoredEvent, StoredRow, Table};
use crate::store::read::{self, Columns, Row as _};

/// A database that is read, all from one moment. Blocks; to be used on a thread that may.
#[derive(Debug)]
pub struct Dump {
    conn: PgConnection,
    runtime: Handle,
}

impl Dump {
    /// Connects, and begins a transaction that only reads.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], as from all that follow.
    pub fn open(server: &Server) -> Result<Self, StoreError> {
        let runtime = Handle::try_current().map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let opening = async {
            let mut conn = connect(server, Use::Audit).await?;
            sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut conn).await?;
            Ok::<_, sqlx::Error>(conn)
        };
        let conn = runtime.block_on(opening)?;
        Ok(Self { conn, runtime })
    }

    /// What this connection's transaction sees, its own writes included.
    pub(in crate::store) fn of(conn: PgConnection, runtime: Handle) -> Self {
        Self { conn, runtime }
    }

    /// The connection, in its transaction still.
    pub(in crate::store) fn into_conn(self) -> PgConnection {
        self.conn
    }

    fn each(&mut self, sql: String, each: &mut dyn FnMut(&PgRow) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.runtime.block_on(async {
            let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut self.conn);
            while let Some(row) = rows.try_next().await? {
                each(&row)?;
            }
            Ok(())
        })
    }

    /// See [`crate::store::dump::Dump::rows`].
    pub fn rows(&mut self) -> Result<u64, StoreError> {
        let mut count = 0;
        self.each(COUNT.to_owned(), &mut |row| {
            count = row.integer(0)?.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
            Ok(())
        })?;
        Ok(count)
    }

    /// See [`crate::store::dump::Dump::tables`].
    pub fn tables(&mut self, each: &mut dyn FnMut(StoredRow)) -> Result<(), StoreError> {
        for table in Table::ALL {
            self.each(table.select(), &mut |row| {
                each(table.to_row(row)?);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// See [`crate::store::dump::Dump::events`].
    pub fn events(
        &mut self,
        each: &mut dyn FnMut(StoredEvent<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let select = "SELECT account, seq, at, kind, payload FROM hg_trading_event ORDER BY account, seq";
        self.each(select.to_owned(), &mut |row| {
            let mut row = Columns::of(row);
            let (account, seq, at) = (AccountId(row.integer()?), Seq(row.integer()?), row.time()?);
            let (kind, payload) = (row.text()?, row.text()?);
            each(StoredEvent { account, seq, at, kind: &kind, payload: &payload })
        })
    }

    /// See [`crate::store::dump::Dump::numbers`].
    pub fn numbers(&mut self, each: &mut dyn FnMut(AccountId, Seq)) -> Result<(), StoreError> {
        self.each("SELECT account, seq FROM hg_trading_event ORDER BY account, seq".to_owned(), &mut |row| {
            let mut row = Columns::of(row);
            each(AccountId(row.integer()?), Seq(row.integer()?));
            Ok(())
        })
    }

    /// See [`crate::store::dump::Dump::event`].
    pub fn event(&mut self, account: AccountId, seq: Seq) -> Result<Option<Recorded>, StoreError> {
        let mut found = None;
        let select =
            format!("SELECT seq, at, payload FROM hg_trading_event WHERE account = {} AND seq = {}", account.0, seq.0);
        self.each(select, &mut |row| {
            found = Some(read::to_event(&mut Columns::of(row))?);
            Ok(())
        })?;
        Ok(found)
    }
}
