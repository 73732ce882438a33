//! Schema migrations, embedded in the binary.
//!
//! The rule is expand, wait, contract: a migration only adds, so the release before it works on it too. A binary therefore
//! declares a range of schemas that it accepts, one newer than its own included; beyond that it refuses to start.
//!
//! What removes or restricts is a migration whose file name begins with `contract`. It is applied by a command of its own
//! ([`Schema::contract`]), and its number leaves one out, so that it is beyond what the release before accepts. All are applied
//! in the order of their numbers, so that a number says all about a schema. See docs/migrations.md.
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

use super::Instance;
use super::postgres::{Server, Use, check_server, reach};
use super::sqlite::{OpenError, connect_options};

/// The oldest schema that this binary works on.
pub const SCHEMA_MIN: i64 = 5;
/// The newest schema that this binary works on: one ahead of its own, since migrations only add.
pub const SCHEMA_MAX: i64 = 6;

/// How the description of a migration begins that contracts: the first word of its file name.
const CONTRACT: &str = "contract ";
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
    /// It is still to be applied, and removes or restricts: [`Schema::contract`] does it, and [`Schema::up`] stops before it.
    /// In an empty database, where no older release can be, it is [`State::Pending`] like any other.
    Contract,
    /// A newer binary applied it; this one does not know it.
    Unknown,
}

impl State {
    /// Whether the database has it.
    pub fn is_applied(self) -> bool {
        matches!(self, Self::Applied | Self::Altered | Self::Unknown)
    }
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

    /// Applies what is pending, up to the first that contracts, under the lock, and returns what was applied. The database
    /// must exist.
    ///
    /// # Errors
    /// [`OpenError::Locked`] when another process migrates for longer than ten seconds, [`OpenError::TooNew`] when the
    /// schema is beyond this binary, [`OpenError::Altered`] when an applied migration's text has changed,
    /// [`OpenError::NeedsContract`] when what this binary needs comes after one that contracts.
    pub async fn up(&self, path: &Path) -> Result<Vec<Step>, OpenError> {
        self.work_on_file(path, Work::Expand).await
    }

    /// Applies what contracts and is next, under the lock, and returns it; if `dry_run`, it is only returned. `build_id` is
    /// that of this binary, which accepts the result: so does every other process that runs it.
    ///
    /// # Errors
    /// As [`Schema::up`]; [`OpenError::OtherBuild`] as long as an instance lives that runs another build;
    /// [`OpenError::NeedsMigration`] when something else is to be applied first.
    pub async fn contract(&self, path: &Path, build_id: &str, dry_run: bool) -> Result<Vec<Step>, OpenError> {
        if dry_run {
            let mut conn = SqliteConnection::connect_with(&connect_options(path).read_only(true)).await?;
            let due = self.contracts(&mut conn, build_id).await;
            conn.close().await?;
            return due;
        }
        self.work_on_file(path, Work::Contract { build_id }).await
    }

    async fn work_on_file(&self, path: &Path, work: Work<'_>) -> Result<Vec<Step>, OpenError> {
        let lock = MigrationLock::take(path).await?;
        let mut conn = SqliteConnection::connect_with(&connect_options(path)).await?;
        let applied = self.work_on(&mut conn, work).await;
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
        self.work_on_server(server, Work::Expand).await
    }

    /// As [`Schema::contract`], in the database of a server, with the patience of [`Schema::up_on_server`].
    ///
    /// # Errors
    /// As [`Schema::contract`].
    pub async fn contract_on_server(
        &self,
        server: &Server,
        build_id: &str,
        dry_run: bool,
    ) -> Result<Vec<Step>, OpenError> {
        if dry_run {
            let mut conn = reach(server, Use::Read).await?;
            let due = self.contracts(&mut conn, build_id).await?;
            conn.close().await?;
            return Ok(due);
        }
        self.work_on_server(server, Work::Contract { build_id }).await
    }

    async fn work_on_server(&self, server: &Server, work: Work<'_>) -> Result<Vec<Step>, OpenError> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match self.try_on_server(server, work).await {
                Err(OpenError::Locked(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(LOCK_POLL.mul_f64(rand::random_range(1.0..10.0))).await;
                }
                Err(OpenError::Locked(_)) => return Err(OpenError::Locked(server.to_string().into())),
                other => return other,
            }
        }
    }

    async fn try_on_server(&self, server: &Server, work: Work<'_>) -> Result<Vec<Step>, OpenError> {
        let mut conn = reach(server, Use::Migrate).await?;
        check_server(&mut conn, server).await?;
        // The session holds it, and so loses it with its end, however it ends.
        let locked: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(ADVISORY_LOCK).fetch_one(&mut conn).await?;
        if !locked {
            return Err(OpenError::Locked(server.to_string().into()));
        }
        let applied = self.work_on(&mut conn, work).await;
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

    async fn work_on(&self, conn: &mut impl Ledger, work: Work<'_>) -> Result<Vec<Step>, OpenError> {
        match work {
            Work::Expand => {
                let steps = self.workable(conn).await?;
                let due = waiting(&steps).take_while(|step| step.state == State::Pending).cloned().collect();
                let applied = self.apply(conn, due).await?;
                self.check(conn).await?;
                Ok(applied)
            }
            Work::Contract { build_id } => {
                let due = self.contracts(conn, build_id).await?;
                self.apply(conn, due).await
            }
        }
    }

    /// What contracts and is next, if nobody is in the way.
    async fn contracts(&self, conn: &mut impl Ledger, build_id: &str) -> Result<Vec<Step>, OpenError> {
        let steps = self.workable(conn).await?;
        let due: Vec<Step> = waiting(&steps).take_while(|step| step.state == State::Contract).cloned().collect();
        if due.is_empty() {
            // One that contracts comes after another that does not.
            if steps.iter().any(|step| step.state == State::Contract) {
                return Err(OpenError::NeedsMigration { found: found(&steps), accepted: self.accepted.clone() });
            }
            return Ok(due);
        }
        match conn.living().await?.into_iter().find(|instance| instance.row.build_id != build_id) {
            Some(other) => Err(OpenError::OtherBuild {
                instance: other.row.name,
                build_id: other.row.build_id,
                remaining: other.remaining,
            }),
            None => Ok(due),
        }
    }

    /// Every migration, unless this binary must keep its hands off the database.
    async fn workable(&self, conn: &mut impl Ledger) -> Result<Vec<Step>, OpenError> {
        let steps = self.steps(conn).await?;
        match judge(&steps, &self.accepted) {
            Ok(()) | Err(OpenError::NeedsMigration { .. } | OpenError::NeedsContract { .. }) => Ok(steps),
            Err(error) => Err(error),
        }
    }

    /// Each is one transaction, with its line in the ledger.
    async fn apply(&self, conn: &mut impl Ledger, due: Vec<Step>) -> Result<Vec<Step>, OpenError> {
        if due.is_empty() {
            return Ok(due);
        }
        conn.ensure_migrations_table(TABLE).await?;
        if let Some(version) = conn.dirty_version(TABLE).await? {
            return Err(MigrateError::Dirty(version).into());
        }
        for migration in self.migrator.iter().filter(|known| due.iter().any(|step| step.version == known.version)) {
            conn.apply(TABLE, migration).await?;
        }
        Ok(due)
    }

    /// Whether this binary works on the database's schema.
    pub(super) async fn check(&self, conn: &mut impl Ledger) -> Result<(), OpenError> {
        judge(&self.steps(conn).await?, &self.accepted)
    }

    async fn steps(&self, conn: &mut impl Ledger) -> Result<Vec<Step>, OpenError> {
        let applied = if conn.exists().await? { conn.list_applied_migrations(TABLE).await? } else { Vec::new() };
        let mut steps: Vec<Step> = self
            .migrator
            .iter()
            .map(|known| {
                let found = applied.iter().find(|applied| applied.version == known.version);
                let state = match found {
                    None if known.description.starts_with(CONTRACT) && !applied.is_empty() => State::Contract,
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

/// What is done to a database under its migration lock.
#[derive(Debug, Clone, Copy)]
enum Work<'a> {
    Expand,
    Contract { build_id: &'a str },
}

/// What is still to be applied, in order.
fn waiting(steps: &[Step]) -> impl Iterator<Item = &Step> {
    steps.iter().filter(|step| !step.state.is_applied())
}

/// The schema's version; 0 if it is empty.
fn found(steps: &[Step]) -> i64 {
    steps.iter().filter(|step| step.state.is_applied()).map(|step| step.version).max().unwrap_or(0)
}

/// Whether a binary that accepts these schemas works on the one that these steps have made.
///
/// # Errors
/// Why not.
pub fn judge(steps: &[Step], accepted: &RangeInclusive<i64>) -> Result<(), OpenError> {
    if let Some(step) = steps.iter().find(|step| step.state == State::Altered) {
        return Err(OpenError::Altered { version: step.version });
    }
    let (found, accepted) = (found(steps), accepted.clone());
    if found > *accepted.end() {
        return Err(OpenError::TooNew { found, accepted });
    }
    if found >= *accepted.start() {
        return Ok(());
    }
    match waiting(steps).next() {
        Some(next) if next.state == State::Contract => {
            Err(OpenError::NeedsContract { found, accepted, version: next.version })
        }
        _ => Err(OpenError::NeedsMigration { found, accepted }),
    }
}

/// The table of what was applied, and those who work on its database.
pub(super) trait Ledger: Migrate + Send {
    /// Whether it is there; otherwise nothing was applied.
    fn exists(&mut self) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
    /// The instances that live.
    fn living(&mut self) -> impl Future<Output = Result<Vec<Instance>, sqlx::Error>> + Send;
}

impl Ledger for SqliteConnection {
    async fn exists(&mut self) -> Result<bool, sqlx::Error> {
        let count = "SELECT count(*) > 0 FROM sqlite_schema WHERE name = ?";
        sqlx::query_scalar(count).bind(TABLE).fetch_one(self).await
    }

    async fn living(&mut self) -> Result<Vec<Instance>, sqlx::Error> {
        super::sqlite::living(self).await
    }
}

impl Ledger for PgConnection {
    async fn exists(&mut self) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(TABLE).fetch_one(self).await
    }

    async fn living(&mut self) -> Result<Vec<Instance>, sqlx::Error> {
        super::postgres::living(self).await
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
