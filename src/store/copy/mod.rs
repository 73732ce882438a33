//! Moves a ledger: every row of a database file into an empty database of a server, in one transaction of the server's.
//!
//! Rows are streamed, so memory stays bounded however many there are. Nobody can write meanwhile: the file's write lock is
//! held here, and the server's tables are locked. What was written is read back and compared before anything is committed;
//! whoever dies in between leaves an empty database behind. Blocks; to be used on a thread that may, of a tokio runtime.

mod progress;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use tokio::runtime::Handle;

pub use progress::Progress;

use super::StoreError;
use super::dump::Dump;
use super::migrate::Schema;
use super::postgres::{self, Server, Use, escape, reach};
use super::read::Row as _;
use super::sqlite::{OpenError, WriteLock, integrity_check};

/// Every table, after those that it refers to. `hg_sys_instance` is none of them: whoever lived there lives here no more.
const TABLES: [&str; 16] = [
    "hg_trading_account",
    "hg_trading_lease",
    "hg_trading_robot",
    "hg_trading_signal",
    "hg_trading_order",
    "hg_trading_fill",
    "hg_trading_position",
    "hg_trading_balance",
    "hg_trading_strategy_state",
    "hg_trading_event",
    "hg_trading_inbox",
    "hg_sys_api_key",
    "hg_sys_audit",
    "hg_sys_notice",
    "hg_sys_nonce",
    "hg_sys_rate",
];
const LEFT_BEHIND: [&str; 1] = ["hg_sys_instance"];
/// Those whose `id` the database gives.
const COUNTED: [&str; 5] =
    ["hg_trading_account", "hg_trading_fill", "hg_trading_inbox", "hg_sys_audit", "hg_sys_notice"];
/// So many bytes go to the server at once.
const BATCH_BYTES: usize = 256 << 10;
/// How long a `COMMIT` may take.
const COMMIT_TIMEOUT: Duration = Duration::from_mins(1);
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a ledger was not moved. Unless it says so, nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is no such file.
    #[error("there is no database at {0}")]
    Missing(PathBuf),
    /// The file, or the server, cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It holds something already.
    #[error("{target} is not empty: {table} has rows")]
    NotEmpty {
        /// The server's database, without its password.
        target: String,
        /// The first table that has rows.
        table: &'static str,
    },
    /// A table of one has columns that the other has not.
    #[error("{table} has the columns {found} in the source and {expected} in the target")]
    Schema {
        /// The table, or `the schema`.
        table: String,
        /// The source's.
        found: String,
        /// The target's.
        expected: String,
    },
    /// A value that the target cannot hold.
    #[error("{table} holds something that cannot be copied: {detail}")]
    Value {
        /// The table.
        table: &'static str,
        /// What, in words.
        detail: String,
    },
    /// What was read back is not what was sent.
    #[error(
        "{table} is not the same on both sides: {source_rows} rows with digest {source_digest}, {target_rows} with {target_digest}"
    )]
    Differs {
        /// The table.
        table: &'static str,
        /// How many rows were sent.
        source_rows: u64,
        /// What they add up to.
        source_digest: String,
        /// How many came back.
        target_rows: u64,
        /// What those add up to.
        target_digest: String,
    },
    /// Reading the source failed.
    #[error("the source: {0}")]
    Source(#[from] rusqlite::Error),
    /// Writing or reading the target failed.
    #[error("the target: {0}")]
    Target(#[from] StoreError),
    /// The server was told to commit and did not confirm. It may hold everything, or nothing.
    #[error("the target did not confirm the commit: {0}")]
    Unknown(String),
}

impl From<sqlx::Error> for CopyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Target(error.into())
    }
}

/// What a table holds: the same for the same rows, in whatever order they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    rows: u64,
    digest: u128,
}

impl Sum {
    /// Adds one row. The sum of the rows' hashes does not know their order, but all that they hold.
    fn add(&mut self, row: Sha256) {
        let hash = row.finalize();
        let first = hash.first_chunk::<16>().map_or(0, |bytes| u128::from_be_bytes(*bytes));
        self.rows += 1;
        self.digest = self.digest.wrapping_add(first);
    }

    fn digest(&self) -> String {
        format!("{:032x}", self.digest)
    }
}

fn hash_number(row: &mut Sha256, number: i64) {
    row.update(b"i");
    row.update(number.to_be_bytes());
}

fn hash_text(row: &mut Sha256, text: &str) {
    row.update(b"t");
    row.update(text.len().to_be_bytes());
    row.update(text.as_bytes());
}

fn hash_value<T>(row: &mut Sha256, value: Option<T>, hash: impl FnOnce(&mut Sha256, T)) {
    match value {
        Some(value) => hash(row, value),
        None => row.update(b"n"),
    }
}

/// A table that was copied, read back and found to be the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// The table.
    pub table: &'static str,
    /// How many rows.
    pub rows: u64,
    /// The sum of the rows' SHA-256, of 128 bits each.
    #[serde(serialize_with = "hex")]
    pub digest: u128,
}

fn hex<S: Serializer>(digest: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{digest:032x}"))
}

/// An account that lives in a ledger of the paper venue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// The account.
    pub label: String,
    /// The ledger's id.
    pub ledger: String,
}

/// A move that has begun: nothing of it is there for others before [`Move::commit`].
#[derive(Debug)]
pub struct Move {
    source: Connection,
    // After the connection: nobody opens the file before it is closed.
    lock: WriteLock,
    target: PgConnection,
    name: String,
    runtime: Handle,
    sums: Vec<(&'static str, Columns, Sum)>,
}

#[derive(Debug)]
struct Columns(Vec<String>);

impl Columns {
    fn list(&self) -> String {
        self.0.join(", ")
    }
}

impl Move {
    /// Locks both sides, makes the target's schema and begins both transactions.
    ///
    /// # Errors
    /// [`CopyError::Open`] with [`OpenError::InUse`] while a server has the file open, [`CopyError::NotEmpty`].
    pub fn begin(path: &Path, server: &Server) -> Result<Self, CopyError> {
        if !path.is_file() {
            return Err(CopyError::Missing(path.to_owned()));
        }
        let runtime = Handle::try_current().map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let lock = runtime.block_on(WriteLock::take(path, false))?;
        let target = runtime.block_on(async {
            integrity_check(path).await?;
            server.check().await?;
            Schema::postgres().up_on_server(server).await?;
            Ok::<_, CopyError>(locked(server).await?)
        })?;
        let source = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        source.busy_timeout(BUSY_TIMEOUT)?;
        source.execute_batch("PRAGMA trusted_schema = OFF; BEGIN")?;
        let mut this = Self { source, lock, target, name: server.to_string(), runtime, sums: Vec::new() };
        this.check_tables()?;
        for table in TABLES.into_iter().chain(LEFT_BEHIND) {
            if this.ask::<bool>(format!("SELECT EXISTS (SELECT FROM {table})"))? {
                return Err(CopyError::NotEmpty { target: this.name, table });
            }
        }
        Ok(this)
    }

    fn ask<T>(&mut self, sql: String) -> Result<T, CopyError>
    where
        T: Send + Unpin + sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
    {
        Ok(self.runtime.block_on(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.target))?)
    }

    /// Refuses a table that this binary does not know: it would be left behind.
    fn check_tables(&self) -> Result<(), CopyError> {
        let mut known: Vec<&str> = TABLES.into_iter().chain(LEFT_BEHIND).collect();
        known.sort_unstable();
        let mut select = self
            .source
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'hg%' ORDER BY name")?;
        let found: Vec<String> = select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        if found == known {
            Ok(())
        } else {
            Err(CopyError::Schema {
                table: "the schema".to_owned(),
                found: found.join(", "),
                expected: known.join(", "),
            })
        }
    }

    /// How many rows there are to copy.
    fn count(&self) -> Result<u64, CopyError> {
        let counts: Vec<String> = TABLES.iter().map(|table| format!("(SELECT count(*) FROM {table})")).collect();
        let count: i64 = self.source.query_row(&format!("SELECT {}", counts.join(" + ")), [], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Copies every table.
    ///
    /// # Errors
    /// When one of them cannot be read or written.
    pub fn copy(&mut self, progress: &Progress) -> Result<(), CopyError> {
        let rows = self.count()?;
        progress.begin("copying", rows);
        for table in TABLES {
            let columns = self.columns(table)?;
            let sum = self.copy_table(table, &columns, progress)?;
            self.sums.push((table, columns, sum));
        }
        Ok(())
    }

    /// The columns, which both sides must have.
    fn columns(&mut self, table: &'static str) -> Result<Columns, CopyError> {
        let mut select = self.source.prepare("SELECT name FROM pragma_table_info(?) ORDER BY name")?;
        let found: Vec<String> = select.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?;
        drop(select);
        let expected: String = self.ask(format!(
            "SELECT coalesce(string_agg(attname::text, ', ' ORDER BY attname::text COLLATE \"C\"), '') FROM pg_attribute
             WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped"
        ))?;
        let columns = Columns(found);
        if columns.list() == expected {
            Ok(columns)
        } else {
            Err(CopyError::Schema { table: table.to_owned(), found: columns.list(), expected })
        }
    }

    fn copy_table(&mut self, table: &'static str, columns: &Columns, progress: &Progress) -> Result<Sum, CopyError> {
        // Whoever held a lease is dead: the file's lock proves it. The server's clock need not be the file's.
        let wanted: Vec<&str> = columns.0.iter().map(|column| taken(table, column)).collect();
        let mut select = self.source.prepare(&format!("SELECT {} FROM {table}", wanted.join(", ")))?;
        let mut rows = select.query([])?;
        let statement = format!("COPY {table} ({}) FROM STDIN", columns.list());
        let mut sink = self.runtime.block_on(self.target.copy_in_raw(&statement))?;
        let (mut sum, mut batch) = (Sum::default(), Vec::with_capacity(BATCH_BYTES * 2));
        while let Some(row) = rows.next()? {
            let mut hash = Sha256::new();
            for index in 0..columns.0.len() {
                if index > 0 {
                    batch.push(b'\t');
                }
                put(table, row.get_ref(index)?, &mut hash, &mut batch)?;
            }
            batch.push(b'\n');
            sum.add(hash);
            progress.row();
            if batch.len() >= BATCH_BYTES {
                self.runtime.block_on(sink.send(batch.as_slice()))?;
                batch.clear();
            }
        }
        self.runtime.block_on(async {
            sink.send(batch.as_slice()).await?;
            sink.finish().await
        })?;
        Ok(sum)
    }

    /// Reads back what was written, and compares it with what was sent.
    ///
    /// # Errors
    /// [`CopyError::Differs`].
    pub fn compare(&mut self, progress: &Progress) -> Result<Vec<Copied>, CopyError> {
        progress.begin("comparing", self.sums.iter().map(|(_, _, sum)| sum.rows).sum());
        let (runtime, target) = (&self.runtime, &mut self.target);
        let mut copied = Vec::with_capacity(TABLES.len());
        for (table, columns, sent) in &self.sums {
            let select = format!("SELECT {} FROM {table}", columns.list());
            let back = runtime.block_on(sum_of(target, select, columns.0.len(), progress))?;
            if back != *sent {
                return Err(CopyError::Differs {
                    table,
                    source_rows: sent.rows,
                    source_digest: sent.digest(),
                    target_rows: back.rows,
                    target_digest: back.digest(),
                });
            }
            copied.push(Copied { table, rows: back.rows, digest: back.digest });
        }
        Ok(copied)
    }

    /// The accounts that live in a ledger of the paper venue, which stays where it is.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub fn bound(&self) -> Result<Vec<Bound>, CopyError> {
        let sql = "SELECT label, ledger FROM hg_trading_account WHERE ledger IS NOT NULL ORDER BY id";
        let mut select = self.source.prepare(sql)?;
        let rows = select.query_map([], |row| Ok(Bound { label: row.get(0)?, ledger: row.get(1)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Lends the target as it will be once it is committed.
    ///
    /// # Errors
    /// None of its own: only if the target is no server's.
    pub fn look<T>(self, look: impl FnOnce(&mut Dump) -> T) -> Result<(Self, T), CopyError> {
        let Self { source, lock, target, name, runtime, sums } = self;
        let mut dump = Dump::Postgres(postgres::Dump::of(target, runtime.clone()));
        let seen = look(&mut dump);
        let Dump::Postgres(dump) = dump else { return Err(StoreError::Closed.into()) };
        Ok((Self { source, lock, target: dump.into_conn(), name, runtime, sums }, seen))
    }

    /// Sets the counters behind the ids that were copied, and commits.
    ///
    /// # Errors
    /// [`CopyError::Unknown`] if the server did not confirm it.
    pub fn commit(mut self) -> Result<(), CopyError> {
        for table in COUNTED {
            // Ids of rows that are gone are not given again either.
            let gone = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?";
            let gone: i64 = self.source.query_row(gone, [table], |row| row.get(0))?;
            self.ask::<Option<i64>>(format!(
                "SELECT setval(pg_get_serial_sequence('{table}', 'id'), nullif(greatest(max(id), {gone}), 0)) FROM {table}"
            ))?;
        }
        let (runtime, target) = (&self.runtime, &mut self.target);
        let committed = runtime.block_on(async {
            match tokio::time::timeout(COMMIT_TIMEOUT, target.execute("COMMIT")).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(CopyError::Unknown(error.to_string())),
                Err(_) => Err(CopyError::Unknown(format!("no answer within {COMMIT_TIMEOUT:?}"))),
            }
        });
        committed?;
        // Only makes the first reads quicker; the server does it by itself later on.
        let _later =
            self.runtime.block_on(self.target.execute(AssertSqlSafe(format!("ANALYZE {}", TABLES.join(", ")))));
        Ok(())
    }
}

/// A transaction on a server's database in which nobody else writes.
async fn locked(server: &Server) -> Result<PgConnection, OpenError> {
    let mut conn = reach(server, Use::Copy).await?;
    conn.execute("BEGIN").await?;
    let all: Vec<&str> = TABLES.into_iter().chain(LEFT_BEHIND).collect();
    let lock = format!("LOCK TABLE {} IN EXCLUSIVE MODE", all.join(", "));
    match conn.execute(AssertSqlSafe(lock)).await.map_err(OpenError::from) {
        Ok(_) => Ok(conn),
        Err(OpenError::Locked(_)) => Err(OpenError::Locked(server.to_string().into())),
        Err(error) => Err(error),
    }
}

/// A column as it is read from the source.
fn taken<'a>(table: &str, column: &'a str) -> &'a str {
    match (table, column) {
        ("hg_trading_lease", "expires_at") => "min(expires_at, 1)",
        (_, column) => column,
    }
}

/// Appends a value in the text format of `COPY`.
fn put(table: &'static str, value: ValueRef<'_>, hash: &mut Sha256, batch: &mut Vec<u8>) -> Result<(), CopyError> {
    let wrong = |detail: String| CopyError::Value { table, detail };
    match value {
        ValueRef::Null => {
            hash_value::<i64>(hash, None, hash_number);
            batch.extend_from_slice(b"\\N");
        }
        ValueRef::Integer(number) => {
            hash_number(hash, number);
            batch.extend_from_slice(number.to_string().as_bytes());
        }
        ValueRef::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|error| wrong(error.to_string()))?;
            hash_text(hash, text);
            for byte in escape(text).bytes() {
                match byte {
                    b'\\' => batch.extend_from_slice(b"\\\\"),
                    b'\n' => batch.extend_from_slice(b"\\n"),
                    b'\r' => batch.extend_from_slice(b"\\r"),
                    b'\t' => batch.extend_from_slice(b"\\t"),
                    other => batch.push(other),
                }
            }
        }
        ValueRef::Real(_) | ValueRef::Blob(_) => return Err(wrong(format!("a value of type {}", value.data_type()))),
    }
    Ok(())
}

/// What a statement's rows add up to.
async fn sum_of(
    target: &mut PgConnection,
    select: String,
    columns: usize,
    progress: &Progress,
) -> Result<Sum, CopyError> {
    use sqlx::{Column as _, Row as _, TypeInfo as _};
    let mut sum = Sum::default();
    let mut rows = sqlx::query(AssertSqlSafe(select)).fetch(target);
    while let Some(row) = rows.try_next().await? {
        let row: &PgRow = &row;
        let mut hash = Sha256::new();
        for index in 0..columns {
            if row.column(index).type_info().name() == "INT8" {
                hash_value(&mut hash, row.integer(index)?, hash_number);
            } else {
                hash_value(&mut hash, row.text(index)?.as_deref(), hash_text);
            }
        }
        sum.add(hash);
        progress.row();
    }
    Ok(sum)
}
