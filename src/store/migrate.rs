//! Schema migrations, embedded in the binary.
//!
//! The rule is expand, wait, contract: a migration only adds, so the release before it works on it too. A binary therefore
//! declares a range of schemas that it accepts, one newer than its own included; beyond that it refuses to start.
//!
//! sqlx's own migration lock does nothing on SQLite, so an exclusive lock on a file beside the database takes its place. On
//! PostgreSQL it waits for ever, within a statement; so an advisory lock is polled for instead.

use std::fs::{File, OpenOptions, TryLockError};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{Connection as _, PgConnection, SqliteConnection};
use tokio::time::Instant;

use super::postgres::{Server, Use, check_server, reach};
use super::sqlite::{OpenError, connect_options};

/// The oldest schema that this binary works on.
pub const SCHEMA_MIN: i64 = 5;
/// The newest schema that this binary works on: one ahead of its own, since migrations only add.
pub const SCHEMA_MAX: i64 = 6;

const TABLE: &str = "_sqlx_migrations";
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Of our own choosing; a database has its own advisory locks.
const ADVISORY_LOCK: i64 = 0x686f_7467_6f00;

/// What became of a migration in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It was applied as this binary knows it.
    Applied,
    /// It was applied, but its text has changed since.
    Altered,
    /// It is still to be applied.
    Pending,
    /// A newer binary applied it; this one does not know it.
    Unknown,
}

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    /// Its number.
    pub version: i64,
    /// What it is, from its file name; empty for an unknown one.
    pub description: String,
    /// Where it stands.
    pub state: State,
    /// SHA-384 of its text in hex: as applied, or as this binary has it.
    pub checksum: String,
}

/// A schema: the migrations that make it, and the range of schemas that is accepted.
#[derive(Debug)]
pub struct Schema {
    migrator: Migrator,
    accepted: RangeInclusive<i64>,
}

impl Default for Schema {
    /// This binary's on SQLite.
    fn default() -> Self {
        Self::sqlite()
    }
}

impl Schema {
    /// This binary's on SQLite.
    pub fn sqlite() -> Self {
        Self::new(sqlx::migrate!("migrations/sqlite"), SCHEMA_MIN..=SCHEMA_MAX)
    }

    /// This binary's on PostgreSQL: the same numbers and tables.
    pub fn postgres() -> Self {
        Self::new(sqlx::migrate!("migrations/postgres"), SCHEMA_MIN..=SCHEMA_MAX)
    }

    /// These migrations, accepting this range of versions.
    pub fn new(mut migrator: Migrator, accepted: RangeInclusive<i64>) -> Self {
        migrator.set_ignore_missing(true).set_locking(false);
        Self { migrator, accepted }
    }

    /// Lists every migration known to this binary or applied to the database. Changes nothing, so it is the dry run too.
    ///
    /// # Errors
    /// When there is no database at `path`, or it cannot be read.
    pub async fn status(&self, path: &Path) -> Result<Vec<Step>, OpenError> {
        let mut conn = SqliteConnection::connect_with(&connect_options(path).read_only(true)).await?;
        let steps = self.steps(&mut conn).await;
        conn.close().await?;
        steps
    }

    /// Applies what is pending, under the lock, and returns what was applied. The database must exist.
    ///
    /// # Errors
    /// [`OpenError::Locked`] when another process migrates for longer than ten seconds, [`OpenError::TooNew`] when the
    /// schema is beyond this binary, [`OpenError::Altered`] when an applied migration's text has changed.
    pub async fn up(&self, path: &Path) -> Result<Vec<Step>, OpenError> {
        let lock = MigrationLock::take(path).await?;
        let mut conn = SqliteConnection::connect_with(&connect_options(path)).await?;
        let applied = self.up_on(&mut conn).await;
        conn.close().await?;
        drop(lock);
        applied
    }

    /// As [`Schema::status`], of the database of a server.
    ///
    /// # Errors
    /// When it cannot be reached or read.
    pub async fn status_of_server(&self, server: &Server) -> Result<Vec<Step>, OpenError> {
        let mut conn = reach(server, Use::Read).await?;
        let steps = self.steps(&mut conn).await?;
        conn.close().await?;
        Ok(steps)
    }

    /// As [`Schema::up`], in the database of a server. Each migration is one transaction; one that does not get its locks
    /// within a second is tried again, so that those who trade are not held up behind it.
    ///
    /// # Errors
    /// As [`Schema::up`].
    pub async fn up_on_server(&self, server: &Server) -> Result<Vec<Step>, OpenError> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match self.try_up_on_server(server).await {
                Err(OpenError::Locked(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(LOCK_POLL.mul_f64(rand::random_range(1.0..10.0))).await;
                }
                Err(OpenError::Locked(_)) => return Err(OpenError::Locked(server.to_string().into())),
                other => return other,
            }
        }
    }

    async fn try_up_on_server(&self, server: &Server) -> Result<Vec<Step>, OpenError> {
        let mut conn = reach(server, Use::Migrate).await?;
        check_server(&mut conn, server).await?;
        // The session holds it, and so loses it with its end, however it ends.
        let locked: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(ADVISORY_LOCK).fetch_one(&mut conn).await?;
        if !locked {
            return Err(OpenError::Locked(server.to_string().into()));
        }
        let applied = self.up_on(&mut conn).await;
        conn.close().await?;
        applied
    }

    /// Whether this binary works on the schema of the database at `path`.
    ///
    /// # Errors
    /// Why not.
    pub async fn accepts(&self, path: &Path) -> Result<(), OpenError> {
        let mut conn = SqliteConnection::connect_with(&connect_options(path).read_only(true)).await?;
        let accepted = self.check(&mut conn).await;
        conn.close().await?;
        accepted
    }

    /// Whether this binary works on the schema of a server's database.
    ///
    /// # Errors
    /// Why not, or the server cannot be asked.
    pub async fn accepts_server(&self, server: &Server) -> Result<(), OpenError> {
        let mut conn = reach(server, Use::Read).await?;
        self.check(&mut conn).await?;
        Ok(conn.close().await?)
    }

    async fn up_on(&self, conn: &mut impl Ledger) -> Result<Vec<Step>, OpenError> {
        let pending: Vec<Step> =
            self.steps(conn).await?.into_iter().filter(|step| step.state == State::Pending).collect();
        match self.check(conn).await {
            Ok(()) | Err(OpenError::NeedsMigration { .. }) => {}
            Err(error) => return Err(error),
        }
        if !pending.is_empty() {
            self.migrator.run_direct(None, conn, false).await?;
        }
        Ok(pending)
    }

    /// Whether this binary works on the database's schema.
    pub(super) async fn check(&self, conn: &mut impl Ledger) -> Result<(), OpenError> {
        let steps = self.steps(conn).await?;
        if let Some(step) = steps.iter().find(|step| step.state == State::Altered) {
            return Err(OpenError::Altered { version: step.version });
        }
        let found =
            steps.iter().filter(|step| step.state != State::Pending).map(|step| step.version).max().unwrap_or(0);
        if found > *self.accepted.end() {
            Err(OpenError::TooNew { found, accepted: self.accepted.clone() })
        } else if found < *self.accepted.start() {
            Err(OpenError::NeedsMigration { found, accepted: self.accepted.clone() })
        } else {
            Ok(())
        }
    }

    async fn steps(&self, conn: &mut impl Ledger) -> Result<Vec<Step>, OpenError> {
        let applied = if conn.exists().await? { conn.list_applied_migrations(TABLE).await? } else { Vec::new() };
        let mut steps: Vec<Step> = self
            .migrator
            .iter()
            .map(|known| {
                let found = applied.iter().find(|applied| applied.version == known.version);
                let state = match found {
                    None => State::Pending,
                    Some(applied) if applied.checksum == known.checksum => State::Applied,
                    Some(_) => State::Altered,
                };
                let checksum = found.map_or(&known.checksum, |applied| &applied.checksum);
                Step {
                    version: known.version,
                    description: known.description.to_string(),
                    state,
                    checksum: hex(checksum),
                }
            })
            .collect();
        steps.extend(applied.iter().filter(|applied| !self.migrator.version_exists(applied.version)).map(|applied| {
            Step {
                version: applied.version,
                description: String::new(),
                state: State::Unknown,
                checksum: hex(&applied.checksum),
            }
        }));
        steps.sort_by_key(|step| step.version);
        Ok(steps)
    }
}

/// The table of what was applied.
pub(super) trait Ledger: Migrate + Send {
    /// Whether it is there; otherwise nothing was applied.
    fn exists(&mut self) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
}

impl Ledger for SqliteConnection {
    async fn exists(&mut self) -> Result<bool, sqlx::Error> {
        let count = "SELECT count(*) > 0 FROM sqlite_schema WHERE name = ?";
        sqlx::query_scalar(count).bind(TABLE).fetch_one(self).await
    }
}

impl Ledger for PgConnection {
    async fn exists(&mut self) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(TABLE).fetch_one(self).await
    }
}

impl From<MigrateError> for OpenError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            MigrateError::VersionMismatch(version) => OpenError::Altered { version },
            other => OpenError::Database(other.to_string()),
        }
    }
}

/// Held while migrating. The operating system frees it when the process ends, however it ends.
#[derive(Debug)]
struct MigrationLock(#[expect(dead_code, reason = "holding the file is holding the lock")] File);

impl MigrationLock {
    async fn take(database: &Path) -> Result<Self, OpenError> {
        let path = lock_path(database);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| OpenError::NotWritable { path: path.clone(), detail: error.to_string() })?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    tokio::time::sleep(LOCK_POLL).await;
                }
                Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(path)),
                Err(TryLockError::Error(error)) => {
                    return Err(OpenError::NotWritable { path, detail: error.to_string() });
                }
            }
        }
    }
}

fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".migrate.lock");
    PathBuf::from(name)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ok = write!(text, "{byte:02x}");
        text
    })
}
