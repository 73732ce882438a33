//! The store on PostgreSQL: one writer connection with group commit, and a few readers.
//!
//! Invariants
//! 1. Only [`Writer`] writes, on a connection that nobody else uses. What waits for it is merged into one transaction, which is
//!    one call of one function and so one round trip; a lone caller waits for nobody.
//! 2. A transaction checks every lease that it writes under by the database's clock, keeps its row locked until it has ended,
//!    and checks that the events continue the stored ones: whoever takes an account over waits for it, or fences it.
//! 3. A merged transaction that is refused is undone, and each of its commits is tried alone: no account fails for another.
//! 4. A commit whose answer was lost is unknown and never tried again here. Before the writer's next connection writes, the
//!    server has ended the one before, so that reading again tells.
//! 5. No operation is given up on a connection that is used again: the connection is closed instead.

mod dump;
mod inbox;
mod instance;
mod lease;
mod notice;
mod once;
mod open;
mod read;
mod rows;
mod sql;
mod text;
mod witness;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;
use trading::command::{Command, Record};
use trading::engine::Snapshot;
use trading::event::Recorded;
use trading::ids::{AccountId, ClientOrderId, RobotId, Seq};
use trading::order::Order;
use trading::position::{Balance, Position};
use trading::robot::Robot;
use trading::time::Timestamp;

pub use dump::Dump;
pub use open::{OpenOptions, Server};
pub use witness::PostgresWitness;
pub use writer::Writer;

pub(super) use instance::living;
pub(super) use open::{Use, check_server, reach};
pub(super) use text::escape;
pub(super) use writer::store_error;

use super::read::bounded;
use super::sqlite::OpenError;
use super::writer::{COMMIT_TIMEOUT, Change, Jobs};
use super::{
    Account, ApiKey, AuditEntry, Commit, CommitError, FillFilter, Head, Instance, InstanceRow, Lease, LeaseError,
    LeaseRow, Notice, OrderFilter, Revocation, Store, StoreError, Stored, StoredFill, StoredNotice, Waiting,
    read as common,
};

const PING_TIMEOUT: Duration = Duration::from_millis(900);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The store on PostgreSQL. Cheap to clone; see the [module](self).
#[derive(Debug, Clone)]
pub struct PostgresStore {
    readers: Arc<read::Readers>,
    jobs: Jobs<PgConnection>,
}

impl PostgresStore {
    /// Opens the database, whose schema is made if it is missing. Nothing is written before the caller runs [`Writer::run`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(server: &Server, options: OpenOptions) -> Result<(Self, Writer), OpenError> {
        let session = open::open(server, &options).await?;
        let (jobs, queue) = Jobs::new(options.queue, writer::is_lost);
        let readers = Arc::new(read::Readers::new(server.clone()));
        Ok((Self { readers, jobs }, Writer::new(server.clone(), session, queue)))
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn ensure_account(&self, venue: &str, label: &str) -> Result<Account, StoreError> {
        if let Some(account) = bounded(common::account(&mut &*self.readers, label)).await? {
            return Ok(account);
        }
        let (venue, label) = (venue.to_owned(), label.to_owned());
        self.jobs.write(move |conn| Box::pin(lease::ensure_account(conn, venue, label))).await
    }

    async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        bounded(common::accounts(&mut &*self.readers)).await
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
        bounded(common::leases(&mut &*self.readers, lease::NOW)).await
    }

    async fn beat(&self, row: &InstanceRow, ttl: Duration) -> Result<Vec<Instance>, StoreError> {
        let row = row.clone();
        self.jobs.write(move |conn| Box::pin(instance::beat(conn, row, ttl))).await
    }

    async fn leave(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.jobs.write(move |conn| Box::pin(instance::leave(conn, id))).await
    }

    async fn bind_ledger(&self, account: AccountId, ledger: &str) -> Result<String, StoreError> {
        if let Some(bound) = bounded(common::ledger(&mut &*self.readers, account)).await? {
            return Ok(bound);
        }
        let ledger = ledger.to_owned();
        self.jobs.write(move |conn| Box::pin(instance::bind_ledger(conn, account, ledger))).await
    }

    async fn load(&self, account: AccountId) -> Result<Snapshot, StoreError> {
        // Longer than other reads: a large account is loaded once, at the start, and there is nothing to do without it.
        tokio::time::timeout(COMMIT_TIMEOUT, self.readers.load(account))
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer within {COMMIT_TIMEOUT:?}"))))
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        self.jobs.commit(commit).await
    }

    async fn find_command(&self, source: &str, dedup_key: &str) -> Result<Option<Record>, StoreError> {
        bounded(common::command(&mut &*self.readers, source, dedup_key)).await
    }

    async fn store_command(
        &self,
        account: AccountId,
        command: &Command,
        at: Timestamp,
        room: u32,
    ) -> Result<Stored, StoreError> {
        let command = command.clone();
        self.jobs.write(move |conn| Box::pin(inbox::store(conn, account, command, at, room))).await?
    }

    async fn waiting_commands(&self, accounts: &[AccountId], limit: u32) -> Result<Vec<Waiting>, StoreError> {
        bounded(common::waiting_commands(&mut &*self.readers, accounts, limit)).await
    }

    async fn waiting_command(&self, source: &str, dedup_key: &str) -> Result<Option<Waiting>, StoreError> {
        bounded(common::waiting_command(&mut &*self.readers, source, dedup_key)).await
    }

    async fn robots(&self, account: Option<AccountId>) -> Result<Vec<Robot>, StoreError> {
        bounded(common::robots(&mut &*self.readers, account)).await
    }

    async fn robot(&self, robot: RobotId) -> Result<Option<Robot>, StoreError> {
        bounded(common::robot(&mut &*self.readers, robot)).await
    }

    async fn order(&self, client_id: &ClientOrderId) -> Result<Option<Order>, StoreError> {
        bounded(common::order(&mut &*self.readers, client_id)).await
    }

    async fn orders(&self, filter: &OrderFilter) -> Result<Vec<Order>, StoreError> {
        bounded(common::orders(&mut &*self.readers, filter)).await
    }

    async fn fills(&self, filter: &FillFilter) -> Result<Vec<StoredFill>, StoreError> {
        bounded(common::fills(&mut &*self.readers, filter)).await
    }

    async fn positions(&self, account: Option<AccountId>) -> Result<Vec<Position>, StoreError> {
        bounded(common::positions(&mut &*self.readers, account)).await
    }

    async fn balances(&self, account: AccountId) -> Result<Vec<Balance>, StoreError> {
        bounded(common::balances(&mut &*self.readers, account)).await
    }

    async fn events(&self, account: AccountId, since: Seq, limit: u32) -> Result<Vec<Recorded>, StoreError> {
        bounded(common::events(&mut &*self.readers, account, since, limit)).await
    }

    async fn head(&self, account: AccountId) -> Result<Head, StoreError> {
        bounded(common::head(&mut &*self.readers, account)).await
    }

    async fn heads(&self, accounts: &[AccountId]) -> Result<Vec<Head>, StoreError> {
        bounded(common::heads(&mut &*self.readers, accounts)).await
    }

    async fn add_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        let key = key.clone();
        self.jobs.write(move |conn| Box::pin(lease::add_api_key(conn, key))).await
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        bounded(common::api_keys(&mut &*self.readers)).await
    }

    async fn api_key(&self, hash: &str) -> Result<Option<ApiKey>, StoreError> {
        bounded(common::api_key(&mut &*self.readers, hash)).await
    }

    async fn api_key_by_id(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        bounded(common::api_key_by_id(&mut &*self.readers, id)).await
    }

    async fn revoke_api_key(&self, id: &str, at: Timestamp) -> Result<Revocation, StoreError> {
        let id = id.to_owned();
        self.jobs.write(move |conn| Box::pin(lease::revoke_api_key(conn, id, at))).await
    }

    async fn has_api_keys(&self) -> Result<bool, StoreError> {
        bounded(common::has_api_keys(&mut &*self.readers)).await
    }

    async fn append_audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        let entry = entry.clone();
        self.jobs.write(move |conn| Box::pin(lease::append_audit(conn, entry))).await
    }

    async fn add_notice(&self, notice: &Notice, since: Timestamp) -> Result<bool, StoreError> {
        let notice = notice.clone();
        self.jobs.write(move |conn| Box::pin(notice::add(conn, notice, since))).await
    }

    async fn notices(&self, since: Timestamp) -> Result<Vec<StoredNotice>, StoreError> {
        bounded(super::notice::notices(&mut &*self.readers, since)).await
    }

    async fn use_nonce(&self, key_id: &str, nonce: &str, expires_at: Timestamp) -> Result<bool, StoreError> {
        let (key_id, nonce) = (key_id.to_owned(), nonce.to_owned());
        self.jobs.write(move |conn| Box::pin(once::use_nonce(conn, key_id, nonce, expires_at))).await
    }

    async fn count_requests(
        &self,
        window_start: Timestamp,
        counts: &[(String, u64)],
        oldest: Timestamp,
    ) -> Result<Vec<u64>, StoreError> {
        let counts = counts.to_vec();
        self.jobs.write(move |conn| Box::pin(once::count_requests(conn, window_start, counts, oldest))).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let probe = async {
            common::has_api_keys(&mut &*self.readers).await?;
            let takes_writes = self.jobs.write(|conn| Box::pin(lease::takes_writes(conn))).await?;
            if takes_writes { Ok(()) } else { Err(StoreError::Unavailable("the server only takes reads".into())) }
        };
        tokio::time::timeout(PING_TIMEOUT, probe)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer within {PING_TIMEOUT:?}"))))
    }

    async fn close(&self) {
        let close = async {
            self.jobs.close().await;
            self.readers.close().await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, close).await.is_err() {
            tracing::warn!("the store did not close within {CLOSE_TIMEOUT:?}");
        }
    }
}
