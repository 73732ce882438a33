//! The store on SQLite: one writer connection with group commit, and a small pool of readers.
//!
//! Invariants
//! 1. Only [`Writer`] writes. What waits for it is merged into one `BEGIN IMMEDIATE` transaction, so 512 waiting callers
//!    share one fsync; a lone caller waits for nobody.
//! 2. A transaction checks every lease that it writes under, and that the events continue the stored ones, inside itself.
//! 3. A merged transaction that fails is undone, and each of its commits is tried alone: no account fails for another.
//! 4. After an I/O error nothing is written until the store is opened again. The kernel drops pages that it could not write
//!    and SQLite lets the next commit succeed as if nothing had happened ("fsyncgate"): only recovery from the file tells.
//! 5. One process at a time has a database open for writing, or several that were told to share it: the [`Writer`] holds the
//!    lock of the file itself. Between those, `BEGIN IMMEDIATE` with a busy timeout serialises the transactions, and the leases
//!    checked inside each of them keep the accounts apart. Only one that is alone migrates. 4 holds for each of them: what a
//!    failed commit left in the log is not in the log's index, so the other one's next commit overwrites it.

mod dump;
mod inbox;
mod instance;
mod lease;
mod lock;
mod notice;
mod once;
mod open;
mod read;
mod rows;
mod sql;
mod witness;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::{SqliteConnection, SqlitePool};
use trading::command::{Command, Record};
use trading::engine::Snapshot;
use trading::event::Recorded;
use trading::ids::{AccountId, ClientOrderId, RobotId, Seq};
use trading::order::Order;
use trading::position::{Balance, Position};
use trading::robot::Robot;
use trading::time::Timestamp;

pub use dump::Dump;
pub use open::{OpenError, OpenOptions, integrity_check};
pub use witness::SqliteWitness;
pub use writer::Writer;

pub(super) use instance::living;
pub(super) use lock::WriteLock;
pub(super) use open::connect_options;
pub(super) use writer::store_error;

use super::read as common;
use super::read::bounded;
use super::writer::{COMMIT_TIMEOUT, Change, Jobs};
use super::{
    Account, ApiKey, AuditEntry, Commit, CommitError, FillFilter, Head, Instance, InstanceRow, Lease, LeaseError,
    LeaseRow, Notice, OrderFilter, Revocation, Store, StoreError, Stored, StoredFill, StoredNotice, Waiting,
};
use once::Nonces;

const PING_TIMEOUT: Duration = Duration::from_secs(1);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The store on SQLite. Cheap to clone; see the [module](self).
#[derive(Debug, Clone)]
pub struct SqliteStore {
    readers: SqlitePool,
    jobs: Jobs<SqliteConnection>,
    broken: Arc<AtomicBool>,
    nonces: Nonces,
}

impl SqliteStore {
    /// Opens the database at `path`, made if it is missing. Nothing is written before the caller runs [`Writer::run`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(path: &Path, options: OpenOptions) -> Result<(Self, Writer), OpenError> {
        let (lock, conn, readers) = open::open(path, &options).await?;
        let broken = Arc::new(AtomicBool::new(false));
        let (jobs, queue) = Jobs::new(options.queue, writer::is_io_error);
        let writer = Writer::new(lock, conn, queue, Arc::clone(&broken));
        Ok((Self { readers, jobs, broken, nonces: Nonces::default() }, writer))
    }

    /// Whether the disk failed and nothing is written any more. Only opening the store anew tells what is durable.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Runs `work` on the writer's connection, between transactions.
    async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
    {
        if self.is_broken() {
            return Err(StoreError::Unavailable(writer::BROKEN.into()));
        }
        self.jobs.write(work).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn ensure_account(&self, venue: &str, label: &str) -> Result<Account, StoreError> {
        if let Some(account) = bounded(common::account(&mut &self.readers, label)).await? {
            return Ok(account);
        }
        let (venue, label) = (venue.to_owned(), label.to_owned());
        self.write(move |conn| Box::pin(lease::ensure_account(conn, venue, label))).await
    }

    async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        bounded(common::accounts(&mut &self.readers)).await
    }

    async fn acquire_lease(
        &self,
        account: AccountId,
        owner: &Arc<str>,
        ttl: Duration,
        predecessor_is_dead: bool,
    ) -> Result<Lease, LeaseError> {
        let owner = Arc::clone(owner);
        self.jobs.lease(Change::Acquire { account, owner, ttl, predecessor_is_dead }).await
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<(), LeaseError> {
        self.jobs.lease(Change::Renew { lease: lease.clone(), ttl }).await.map(drop)
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        self.jobs.lease(Change::Release { lease: lease.clone() }).await.map(drop)
    }

    async fn transfer_lease(&self, lease: &Lease, to: &str, ttl: Duration) -> Result<(), LeaseError> {
        self.jobs.lease(Change::Transfer { lease: lease.clone(), to: to.into(), ttl }).await.map(drop)
    }

    async fn leases(&self) -> Result<Vec<LeaseRow>, StoreError> {
        bounded(common::leases(&mut &self.readers, lease::NOW)).await
    }

    async fn beat(&self, row: &InstanceRow, ttl: Duration) -> Result<Vec<Instance>, StoreError> {
        let row = row.clone();
        self.write(move |conn| Box::pin(instance::beat(conn, row, ttl))).await
    }

    async fn leave(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write(move |conn| Box::pin(instance::leave(conn, id))).await
    }

    async fn bind_ledger(&self, account: AccountId, ledger: &str) -> Result<String, StoreError> {
        if let Some(bound) = bounded(common::ledger(&mut &self.readers, account)).await? {
            return Ok(bound);
        }
        let ledger = ledger.to_owned();
        self.write(move |conn| Box::pin(instance::bind_ledger(conn, account, ledger))).await
    }

    async fn load(&self, account: AccountId) -> Result<Snapshot, StoreError> {
        // Longer than other reads: a large account is loaded once, at the start, and there is nothing to do without it.
        tokio::time::timeout(COMMIT_TIMEOUT, read::load(&self.readers, account))
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer within {COMMIT_TIMEOUT:?}"))))
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        self.jobs.commit(commit).await
    }

    async fn find_command(&self, source: &str, dedup_key: &str) -> Result<Option<Record>, StoreError> {
        bounded(common::command(&mut &self.readers, source, dedup_key)).await
    }

    async fn store_command(
        &self,
        account: AccountId,
        command: &Command,
        at: Timestamp,
        room: u32,
    ) -> Result<Stored, StoreError> {
        let command = command.clone();
        self.write(move |conn| Box::pin(inbox::store(conn, account, command, at, room))).await?
    }

    async fn waiting_commands(&self, accounts: &[AccountId], limit: u32) -> Result<Vec<Waiting>, StoreError> {
        bounded(common::waiting_commands(&mut &self.readers, accounts, limit)).await
    }

    async fn waiting_command(&self, source: &str, dedup_key: &str) -> Result<Option<Waiting>, StoreError> {
        bounded(common::waiting_command(&mut &self.readers, source, dedup_key)).await
    }

    async fn robots(&self, account: Option<AccountId>) -> Result<Vec<Robot>, StoreError> {
        bounded(common::robots(&mut &self.readers, account)).await
    }

    async fn robot(&self, robot: RobotId) -> Result<Option<Robot>, StoreError> {
        bounded(common::robot(&mut &self.readers, robot)).await
    }

    async fn order(&self, client_id: &ClientOrderId) -> Result<Option<Order>, StoreError> {
        bounded(common::order(&mut &self.readers, client_id)).await
    }

    async fn orders(&self, filter: &OrderFilter) -> Result<Vec<Order>, StoreError> {
        bounded(common::orders(&mut &self.readers, filter)).await
    }

    async fn fills(&self, filter: &FillFilter) -> Result<Vec<StoredFill>, StoreError> {
        bounded(common::fills(&mut &self.readers, filter)).await
    }

    async fn positions(&self, account: Option<AccountId>) -> Result<Vec<Position>, StoreError> {
        bounded(common::positions(&mut &self.readers, account)).await
    }

    async fn balances(&self, account: AccountId) -> Result<Vec<Balance>, StoreError> {
        bounded(common::balances(&mut &self.readers, account)).await
    }

    async fn events(&self, account: AccountId, since: Seq, limit: u32) -> Result<Vec<Recorded>, StoreError> {
        bounded(common::events(&mut &self.readers, account, since, limit)).await
    }

    async fn head(&self, account: AccountId) -> Result<Head, StoreError> {
        bounded(common::head(&mut &self.readers, account)).await
    }

    async fn heads(&self, accounts: &[AccountId]) -> Result<Vec<Head>, StoreError> {
        bounded(common::heads(&mut &self.readers, accounts)).await
    }

    async fn add_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        let key = key.clone();
        self.write(move |conn| Box::pin(lease::add_api_key(conn, key))).await
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        bounded(common::api_keys(&mut &self.readers)).await
    }

    async fn api_key(&self, hash: &str) -> Result<Option<ApiKey>, StoreError> {
        bounded(common::api_key(&mut &self.readers, hash)).await
    }

    async fn api_key_by_id(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        bounded(common::api_key_by_id(&mut &self.readers, id)).await
    }

    async fn revoke_api_key(&self, id: &str, at: Timestamp) -> Result<Revocation, StoreError> {
        let id = id.to_owned();
        self.write(move |conn| Box::pin(lease::revoke_api_key(conn, id, at))).await
    }

    async fn has_api_keys(&self) -> Result<bool, StoreError> {
        bounded(common::has_api_keys(&mut &self.readers)).await
    }

    async fn append_audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        let entry = entry.clone();
        self.write(move |conn| Box::pin(lease::append_audit(conn, entry))).await
    }

    async fn add_notice(&self, notice: &Notice, since: Timestamp) -> Result<bool, StoreError> {
        let notice = notice.clone();
        self.write(move |conn| Box::pin(notice::add(conn, notice, since))).await
    }

    async fn notices(&self, since: Timestamp) -> Result<Vec<StoredNotice>, StoreError> {
        bounded(super::notice::notices(&mut &self.readers, since)).await
    }

    async fn use_nonce(&self, key_id: &str, nonce: &str, expires_at: Timestamp) -> Result<bool, StoreError> {
        let (waiting, answer) = (self.nonces.clone(), self.nonces.add(key_id, nonce, expires_at));
        self.jobs.write(move |conn| Box::pin(async move { waiting.take_all(conn).await })).await?;
        // Whatever ran before that write, or in it, has answered.
        answer.await.map_err(|_| StoreError::Unavailable("the writer did not answer".into()))?
    }

    async fn count_requests(
        &self,
        window_start: Timestamp,
        counts: &[(String, u64)],
        oldest: Timestamp,
    ) -> Result<Vec<u64>, StoreError> {
        let counts = counts.to_vec();
        self.write(move |conn| Box::pin(once::count_requests(conn, window_start, counts, oldest))).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let probe = async {
            sqlx::query("SELECT 1").execute(&self.readers).await?;
            // Takes the write lock and gives it back: nothing reaches the disk.
            self.write(|conn| {
                Box::pin(async move { sqlx::query("BEGIN IMMEDIATE; ROLLBACK").execute(conn).await.map(drop) })
            })
            .await
        };
        tokio::time::timeout(PING_TIMEOUT, probe)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer within {PING_TIMEOUT:?}"))))
    }

    async fn close(&self) {
        let close = async {
            // Readers first: a checkpoint cannot truncate the log while one is open.
            self.readers.close().await;
            self.jobs.close().await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, close).await.is_err() {
            tracing::warn!("the store did not close within {CLOSE_TIMEOUT:?}; its log is replayed at the next start");
        }
    }
}
