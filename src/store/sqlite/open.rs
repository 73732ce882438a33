//! Opening a database file: what it must be, and how its connections are set.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, SqlitePool};

use super::lock::WriteLock;
use super::writer::primary_code;
use crate::store::migrate::Schema;

const READERS: u32 = 3;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// A file up to this size is checked in full at each opening; that takes some tens of milliseconds.
const CHECKED_AT_OPENING_BYTES: u64 = 16 << 20;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file or its directory is missing, or this user may not write there.
    #[error("{path} cannot be opened for writing: {detail}")]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        detail: String,
    },
    /// It is no SQLite database, or a damaged one. It was left as it is.
    #[error("{path} is damaged or no SQLite database: {detail}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A newer release made this schema, and removed something that this binary needs.
    #[error("the schema is version {found}; this binary accepts {} to {}: use a newer release", .accepted.start(), .accepted.end())]
    TooNew {
        /// The database's.
        found: i64,
        /// This binary's.
        accepted: RangeInclusive<i64>,
    },
    /// Migrations are to be applied first.
    #[error("the schema is version {found}; this binary accepts {} to {}: run `migrate up`", .accepted.start(), .accepted.end())]
    NeedsMigration {
        /// The database's; 0 if it is empty.
        found: i64,
        /// This binary's.
        accepted: RangeInclusive<i64>,
    },
    /// What this binary needs comes after a migration that contracts, which is a command of its own.
    #[error("the schema is version {found}; this binary accepts {} to {}, and {version}, which contracts, comes first: run \
             `migrate contract` once no older release runs", .accepted.start(), .accepted.end())]
    NeedsContract {
        /// The database's.
        found: i64,
        /// This binary's.
        accepted: RangeInclusive<i64>,
        /// The migration that contracts.
        version: i64,
    },
    /// An instance lives that need not work on a schema from which something was taken.
    #[error("instance {instance} lives and runs build {build_id}, which need not work on the contracted schema")]
    OtherBuild {
        /// Its name.
        instance: String,
        /// What it runs.
        build_id: String,
        /// When it counts as dead unless it is heard of again.
        remaining: Duration,
    },
    /// An applied migration is not what this binary knows under its number.
    #[error("migration {version} was applied with another text than this binary has")]
    Altered {
        /// The migration.
        version: i64,
    },
    /// Another process migrates, or holds the database, for too long.
    #[error("{0} is locked by another process")]
    Locked(PathBuf),
    /// Another server has it open for writing.
    #[error("{path} is in use by another server, which holds {lock}")]
    InUse {
        /// The database.
        path: PathBuf,
        /// The file whose lock is held.
        lock: PathBuf,
    },
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// The database's server does not answer, or does not let us in.
    #[error("{server} cannot be reached: {detail}")]
    Unreachable {
        /// Without its password.
        server: String,
        /// The system's or the server's words.
        detail: String,
    },
    /// The database's server is not to be trusted with orders as it is set.
    #[error("{server}: {problem}; {remedy}")]
    Unsuitable {
        /// Without its password.
        server: String,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Anything else that the database says.
    #[error("the database: {0}")]
    Database(String),
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        let path = PathBuf::from("the database");
        let detail = error.to_string();
        if let Some(refusal) = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>()) {
            return match refusal.code() {
                // A lock was not to be had in time, or a statement took too long behind one.
                "55P03" | "57014" => OpenError::Locked(path),
                "53100" => OpenError::Full,
                _ => OpenError::Database(detail),
            };
        }
        match primary_code(&error) {
            Some(5 | 6) => OpenError::Locked(path),
            Some(3 | 8 | 14 | 23) => OpenError::NotWritable { path, detail },
            Some(11 | 26) => OpenError::Damaged { path, detail },
            Some(13) => OpenError::Full,
            _ => OpenError::Database(detail),
        }
    }
}

impl OpenError {
    /// Names the file, which the database's own errors do not.
    fn at(self, file: &Path) -> Self {
        let path = file.to_owned();
        match self {
            OpenError::Locked(_) => OpenError::Locked(path),
            OpenError::NotWritable { detail, .. } => OpenError::NotWritable { path, detail },
            OpenError::Damaged { detail, .. } => OpenError::Damaged { path, detail },
            other => other,
        }
    }
}

/// How to open a database.
#[derive(Debug)]
pub struct OpenOptions {
    /// Whether to apply pending migrations. Otherwise a schema that is too old is refused.
    pub migrate: bool,
    /// The schema; this binary's own by default.
    pub schema: Schema,
    /// How many commits and other writes may wait; further ones wait for room.
    pub queue: usize,
    /// Whether other processes that say the same may have it open for writing at the same time: leases keep them apart.
    pub share: bool,
    /// Limits the file's size in pages of 4 KiB, so that a test can fill the disk.
    pub max_pages: Option<u32>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { migrate: true, schema: Schema::sqlite(), queue: 1024, share: false, max_pages: None }
    }
}

/// What every connection has in common.
pub(in crate::store) fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .synchronous(SqliteSynchronous::Full)
        .pragma("temp_store", "MEMORY")
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging()
}

type Open = (WriteLock, SqliteConnection, SqlitePool);

pub(super) async fn open(path: &Path, options: &OpenOptions) -> Result<Open, OpenError> {
    create(path)?;
    let lock = WriteLock::take(path, options.share).await?;
    check_header(path)?;
    let (conn, readers) = open_checked(path, options, &lock).await.map_err(|error| error.at(path))?;
    lock.opened()?;
    Ok((lock, conn, readers))
}

async fn open_checked(
    path: &Path,
    options: &OpenOptions,
    lock: &WriteLock,
) -> Result<(SqliteConnection, SqlitePool), OpenError> {
    let writable = connect_options(path)
        .journal_mode(SqliteJournalMode::Wal)
        .pragma("journal_size_limit", "67108864")
        .statement_cache_capacity(64)
        .row_buffer_size(64);
    let mut conn = SqliteConnection::connect_with(&writable).await?;
    if fs::metadata(path).is_ok_and(|file| file.len() <= CHECKED_AT_OPENING_BYTES) {
        quick_check(&mut conn, path).await?;
    }
    // Beside a living process nothing is migrated: it has to be done before, by a command of its own.
    if options.migrate && lock.was_alone() {
        // Migrates on a connection of its own, under the lock.
        options.schema.up(path).await?;
    }
    options.schema.check(&mut conn).await?;
    if lock.shares() && lock.was_alone() {
        forget_the_dead(&mut conn).await?;
    }
    sync_directory(path)?;
    if let Some(pages) = options.max_pages {
        let limit = format!("PRAGMA max_page_count = {pages}");
        sqlx::query(sqlx::AssertSqlSafe(limit)).execute(&mut conn).await?;
    }
    super::sql::install_refusals(&mut conn).await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .min_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(connect_options(path).read_only(true))
        .await?;
    Ok((conn, readers))
}

/// What instances left here that ended without a word. Who does not share need not: nobody else can come.
async fn forget_the_dead(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    // Leases that have expired, and were not given up.
    sqlx::query("UPDATE hg_trading_lease SET expires_at = 1 WHERE expires_at > 1").execute(&mut *conn).await?;
    sqlx::query("DELETE FROM hg_sys_instance").execute(conn).await.map(drop)
}

/// Makes the file, for its owner only: SQLite gives its log the same mode.
fn create(path: &Path) -> Result<(), OpenError> {
    let not_writable =
        |error: std::io::Error| OpenError::NotWritable { path: path.to_owned(), detail: error.to_string() };
    match fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
        Ok(_) => sync_directory(path),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::OpenOptions::new().read(true).write(true).open(path).map(drop).map_err(not_writable)
        }
        Err(error) => Err(not_writable(error)),
    }
}

/// SQLite syncs what it writes into its files, but not the directory entry of a new database.
fn sync_directory(path: &Path) -> Result<(), OpenError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| OpenError::NotWritable { path: directory.to_owned(), detail: error.to_string() })
}

/// An empty file becomes a database; anything else must be one already.
fn check_header(path: &Path) -> Result<(), OpenError> {
    let mut header = Vec::with_capacity(MAGIC.len());
    fs::File::open(path)
        .and_then(|file| file.take(16).read_to_end(&mut header))
        .map_err(|error| OpenError::NotWritable { path: path.to_owned(), detail: error.to_string() })?;
    if header.is_empty() || header == MAGIC {
        Ok(())
    } else {
        Err(OpenError::Damaged { path: path.to_owned(), detail: "its first bytes are not SQLite's".into() })
    }
}

async fn quick_check(conn: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let found: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(conn).await?;
    if found == "ok" { Ok(()) } else { Err(OpenError::Damaged { path: path.to_owned(), detail: found }) }
}

/// Checks the whole file, indexes and foreign keys included. Takes about a second per 200 MB; meant for `check`.
///
/// # Errors
/// [`OpenError::Damaged`] with the first thing found, or what kept the check from running.
pub async fn integrity_check(path: &Path) -> Result<(), OpenError> {
    check_header(path)?;
    let check = async {
        let mut conn = SqliteConnection::connect_with(&connect_options(path).read_only(true)).await?;
        let found: String = sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut conn).await?;
        let orphans = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut conn).await?;
        conn.close().await?;
        Ok::<_, sqlx::Error>((found, orphans.len()))
    };
    let (found, orphans) = check.await.map_err(|error| OpenError::from(error).at(path))?;
    if found != "ok" {
        return Err(OpenError::Damaged { path: path.to_owned(), detail: found });
    }
    if orphans > 0 {
        return Err(OpenError::Damaged { path: path.to_owned(), detail: format!("{orphans} rows refer to nothing") });
    }
    Ok(())
}
