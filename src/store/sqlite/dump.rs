//! Everything that a database file holds, as one transaction sees it: for the checker.
//!
//! Blocking, on a driver that lends what it reads instead of copying it to another thread: an audit reads millions of rows.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};
use trading::event::Recorded;
use trading::ids::{AccountId, Seq};

use crate::store::StoreError;
use crate::store::dump::{COUNT, StoredEvent, StoredRow, Table};
use crate::store::read::{self, Columns};

const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// A database that is read, all from one moment. Works while a server writes: it only keeps the log from being truncated
/// meanwhile.
#[derive(Debug)]
pub struct Dump {
    conn: Connection,
}

fn unavailable(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            StoreError::Corrupt(error.to_string())
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        unavailable(&error)
    }
}

impl Dump {
    /// Opens the database at `path` for reading.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(BUSY_TIMEOUT)?;
        conn.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cache_size = -65536; BEGIN")?;
        Ok(Self { conn })
    }

    /// How many rows there are to read, events included.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it cannot be read.
    pub fn rows(&self) -> Result<u64, StoreError> {
        Ok(u64::try_from(self.conn.query_row(COUNT, [], |row| row.get::<_, i64>(0))?).unwrap_or(0))
    }

    /// Hands every row but the events to `each`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database cannot be read, [`StoreError::Corrupt`] when a row makes no sense, and
    /// whatever `each` returns.
    pub fn tables(&self, mut each: impl FnMut(StoredRow)) -> Result<(), StoreError> {
        for table in Table::ALL {
            // Orders and signals have no key that grows: in the order in which they are stored.
            let order = if matches!(table, Table::Orders | Table::Signals) { " ORDER BY rowid" } else { "" };
            let mut statement = self.conn.prepare(&format!("{}{order}", table.select()))?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                each(table.to_row(row)?);
            }
        }
        Ok(())
    }

    /// Hands every event to `each`, in the order in which they are stored. For each account that is the order of their
    /// numbers, unless somebody changed the file.
    ///
    /// # Errors
    /// As [`Dump::tables`].
    pub fn events(&self, mut each: impl FnMut(StoredEvent<'_>) -> Result<(), StoreError>) -> Result<(), StoreError> {
        // Not by account and number: the index would be followed to every row.
        let select = "SELECT account, seq, at, kind, payload FROM hg_trading_event ORDER BY rowid";
        let mut statement = self.conn.prepare(select)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mut row = Columns::of(row);
            let (account, seq, at) = (AccountId(row.integer()?), Seq(row.integer()?), row.time()?);
            let (kind, payload) = (row.text()?, row.text()?);
            each(StoredEvent { account, seq, at, kind: &kind, payload: &payload })?;
        }
        Ok(())
    }

    /// Hands the number of every event to `each`, ordered by account and number.
    ///
    /// # Errors
    /// As [`Dump::tables`].
    pub fn numbers(&self, mut each: impl FnMut(AccountId, Seq)) -> Result<(), StoreError> {
        let mut statement = self.conn.prepare("SELECT account, seq FROM hg_trading_event ORDER BY account, seq")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mut row = Columns::of(row);
            each(AccountId(row.integer()?), Seq(row.integer()?));
        }
        Ok(())
    }

    /// One event.
    ///
    /// # Errors
    /// As [`Dump::tables`].
    pub fn event(&self, account: AccountId, seq: Seq) -> Result<Option<Recorded>, StoreError> {
        let select = "SELECT seq, at, payload FROM hg_trading_event WHERE account = ? AND seq = ?";
        let mut statement = self.conn.prepare_cached(select)?;
        let mut rows = statement.query(params![account.0, seq.0])?;
        rows.next()?.map(|row| read::to_event(&mut Columns::of(row))).transpose()
    }
}
