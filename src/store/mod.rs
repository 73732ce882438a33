//! The durable store: a port, and an adapter per database. SQL lives here and nowhere else.
//!
//! A commit carries an account's new events in order. The adapter appends them to the event table and applies the images
//! they carry to the other tables, in one transaction, after it has checked the lease inside that transaction. Commits of
//! several accounts that wait at the same time share one transaction (group commit); no timer delays a lone one.

mod batch;
pub mod copy;
pub mod dump;
pub mod migrate;
mod notice;
pub mod postgres;
mod read;
pub mod sqlite;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use trading::command::{Command, Record, Wish};
use trading::engine::Snapshot;
use trading::event::Recorded;
use trading::exchange::Fill;
use trading::ids::{AccountId, ClientOrderId, Epoch, RobotId, Seq};
use trading::order::Order;
use trading::position::{Balance, Position};
use trading::robot::Robot;
use trading::time::Timestamp;

pub use notice::{Notice, Severity, StoredNotice};

/// Which database. Shown without its password.
#[derive(Debug, Clone)]
pub enum Database {
    /// A file.
    Sqlite(PathBuf),
    /// A server's.
    Postgres(postgres::Server),
}

impl Database {
    /// The database that a `postgres://` URL or a path names.
    ///
    /// # Errors
    /// What is wrong with the URL, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(_) => postgres::Server::new(text, None).map(Self::Postgres),
            None => Ok(Self::Sqlite(text.into())),
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(server) => server.fmt(f),
        }
    }
}

/// An account, as made by configuration. Row of `hg_trading_account`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub id: AccountId,
    /// Which venue, such as `paper`.
    pub venue: String,
    /// What people call it; unique. Also the account's name at the venue.
    pub label: String,
}

/// Who holds an account, and since which take-over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The account.
    pub account: AccountId,
    /// The holder: unique per process start.
    pub owner: Arc<str>,
    /// Grows by one with every take-over.
    pub epoch: Epoch,
}

/// An account's lease as it stands. Row of `hg_trading_lease`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// The account.
    pub account: AccountId,
    /// Who took it last.
    pub owner: Arc<str>,
    /// Since which take-over.
    pub epoch: Epoch,
    /// For how long it is held yet, by the database's clock; nothing once it is free to take.
    pub remaining: Duration,
    /// It was given up; it did not expire.
    pub released: bool,
}

/// One process that trades on this store. Row of `hg_sys_instance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow {
    /// Unique per process start: the owner of its leases.
    pub id: Arc<str>,
    /// What people call it.
    pub name: String,
    /// Where it serves.
    pub address: String,
    /// Which build it runs.
    pub build_id: String,
    /// The accounts that it is able to trade.
    pub accounts: Vec<AccountId>,
    /// It takes no account any more, and gives up those it has.
    pub draining: bool,
    /// It takes accounts only when another hands them over to it, or when nobody else is able to trade them.
    pub standby: bool,
    /// To whom it hands its accounts over, as long as that one lives.
    pub successor: Option<Arc<str>>,
    /// When it started, by its own clock.
    pub started_at: Timestamp,
}

/// An instance that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its row.
    pub row: InstanceRow,
    /// When it counts as dead unless it is heard of again, by the database's clock.
    pub remaining: Duration,
}

/// Why a lease was not given.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another owner holds it and may still live.
    #[error("account {account} is held by {owner} for another {remaining:?}")]
    Held {
        /// The account.
        account: AccountId,
        /// Who holds it.
        owner: String,
        /// For how long at least.
        remaining: Duration,
    },
    /// The renewal or release came too late: somebody else holds it now.
    #[error("the lease of account {0} was lost")]
    Lost(AccountId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// New events of one account.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Under which lease. Checked in the same transaction: owner, epoch and expiry, by the database's clock.
    pub lease: Lease,
    /// The events, with consecutive numbers that continue the account's last one.
    pub events: Arc<[Recorded]>,
}

/// Why a commit failed. After any of these the caller forgets what it believed and loads the account again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// The lease is held by another owner or epoch, or has expired. Nothing was written.
    #[error("the lease of account {0} is not held any more")]
    Fenced(AccountId),
    /// The events do not continue the stored ones: a sequence number, version or unique key is taken. Nothing was written.
    #[error("account {account}: the commit contradicts what is stored: {detail}")]
    Conflict {
        /// The account.
        account: AccountId,
        /// The database's words.
        detail: String,
    },
    /// The disk is full. Nothing was written.
    #[error("the disk is full")]
    Full,
    /// Nobody knows whether it was written: the connection broke, or the commit itself failed.
    #[error("the store did not confirm the commit: {0}")]
    Unknown(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The store did not answer in time or the connection failed. Trying again may help.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// What is stored does not make sense. Trying again does not help.
    #[error("the store holds something unreadable: {0}")]
    Corrupt(String),
}

/// Which orders to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct OrderFilter {
    /// Only of this account.
    pub account: Option<AccountId>,
    /// Only of this robot.
    pub robot: Option<RobotId>,
    /// Only those that have not ended.
    pub live: bool,
    /// Only those decided before this one (its `created_at` and id), for paging.
    pub before: Option<(Timestamp, ClientOrderId)>,
    /// At most this many.
    pub limit: u32,
}

/// Which fills to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct FillFilter {
    /// Only of this account.
    pub account: Option<AccountId>,
    /// Only of this robot.
    pub robot: Option<RobotId>,
    /// Only of this order.
    pub order: Option<ClientOrderId>,
    /// Only those stored before the one with this row id, for paging.
    pub before: Option<i64>,
    /// At most this many.
    pub limit: u32,
}

/// A fill with what the store knows about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFill {
    /// For paging.
    pub row: i64,
    /// Whose.
    pub account: AccountId,
    /// Whose.
    pub robot: RobotId,
    /// The fill.
    pub fill: Fill,
}

/// What a credential may do. Each includes the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Trade.
    Trader,
    /// Everything, shutdown included.
    Admin,
}

/// An API key. Row of `hg_sys_api_key`. The key itself is shown once and kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Names it in logs and audit: not a secret.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// SHA-256 of the key in hex, or of its SHA-256 if it is `signed`; something that no key has, once it is revoked.
    pub hash: String,
    /// Whether its requests are signed; then it is refused as a bearer token.
    pub signed: bool,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked: nobody is let in with it any more.
    pub revoked_at: Option<Timestamp>,
}

/// What became of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// The key is revoked, by this call or an earlier one.
    Revoked,
    /// There is no such key.
    NotFound,
    /// Nothing was done: nobody could make keys any more.
    LastAdmin,
}

/// A privileged act. Row of `hg_sys_audit`, append-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Which credential: the id of the API key, or `cli`.
    pub actor: String,
    /// What was done, such as `shutdown.trigger`.
    pub act: String,
    /// To what.
    pub target: String,
}

/// Where an account's history stands: for health, the stream and the checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The account.
    pub account: AccountId,
    /// The number of its last event; 0 if there is none.
    pub seq: Seq,
}

/// A command that waits for the owner of its account. Row of `hg_trading_inbox`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Grows with every command that is stored.
    pub id: i64,
    /// The account that it is about.
    pub account: AccountId,
    /// Who wished it.
    pub source: String,
    /// Their name for it.
    pub dedup_key: String,
    /// What is wished; or why this binary cannot read it: a newer one wrote it.
    pub wish: Result<Wish, String>,
    /// When it was stored.
    pub received_at: Timestamp,
}

/// What a command found when it was to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// Its place: it waits from now on.
    New,
    /// One of the same name, which waits already. Nothing was written.
    Waiting(Box<Waiting>),
    /// One of the same name, which was decided already. Nothing was written.
    Decided(Box<Record>),
    /// As many commands of the account wait as may. Nothing was written.
    Full,
}

/// The port. Every method is bounded in time by the adapter (a few seconds) and safe to cancel: a cancelled
/// [`Store::commit`] may or may not have been written.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The account with this label, made if it is new.
    async fn ensure_account(&self, venue: &str, label: &str) -> Result<Account, StoreError>;
    /// All accounts.
    async fn accounts(&self) -> Result<Vec<Account>, StoreError>;

    /// Takes the account's lease: the epoch grows by one. Refused while another owner's lease has not expired by the
    /// database's clock, unless `predecessor_is_dead` (the caller holds the lock that only one living process can hold).
    async fn acquire_lease(
        &self,
        account: AccountId,
        owner: &Arc<str>,
        ttl: Duration,
        predecessor_is_dead: bool,
    ) -> Result<Lease, LeaseError>;
    /// Prolongs a lease that is still held to `ttl` from now, by the database's clock.
    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<(), LeaseError>;
    /// Gives a lease up, so that a successor need not wait.
    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError>;
    /// Hands a lease that is still held to another owner, for `ttl` from now by the database's clock, in one statement. The
    /// epoch grows by one: nothing is committed under the old one any more. The new owner takes it with
    /// [`Store::acquire_lease`].
    async fn transfer_lease(&self, lease: &Lease, to: &str, ttl: Duration) -> Result<(), LeaseError>;
    /// Every account's lease that was ever taken, by account.
    async fn leases(&self) -> Result<Vec<LeaseRow>, StoreError>;

    /// Says that an instance lives, for `ttl` from now by the database's clock, and returns all that do, itself included, by
    /// id. Those that have been dead for long are forgotten.
    async fn beat(&self, row: &InstanceRow, ttl: Duration) -> Result<Vec<Instance>, StoreError>;
    /// Forgets an instance that ends. One that is not known is no error.
    async fn leave(&self, id: &str) -> Result<(), StoreError>;
    /// Binds an account to the paper venue's ledger it lives in, unless it is bound already. Returns the one it is bound to.
    async fn bind_ledger(&self, account: AccountId, ledger: &str) -> Result<String, StoreError>;

    /// The account as last committed.
    async fn load(&self, account: AccountId) -> Result<Snapshot, StoreError>;
    /// Writes new events and the rows they carry, durably: when this returns `Ok`, they survive a power loss. Commands that
    /// are decided by it wait no more.
    async fn commit(&self, commit: Commit) -> Result<(), CommitError>;

    /// What became of a command, if it was ever decided.
    async fn find_command(&self, source: &str, dedup_key: &str) -> Result<Option<Record>, StoreError>;
    /// Stores a command for the owner of an account that exists, durably, unless one of its name waits or was decided, or
    /// `room` commands of the account wait.
    async fn store_command(
        &self,
        account: AccountId,
        command: &Command,
        at: Timestamp,
        room: u32,
    ) -> Result<Stored, StoreError>;
    /// The commands of these accounts that wait, oldest first, at most `limit`; none that was decided.
    async fn waiting_commands(&self, accounts: &[AccountId], limit: u32) -> Result<Vec<Waiting>, StoreError>;
    /// The command of this name, if it waits.
    async fn waiting_command(&self, source: &str, dedup_key: &str) -> Result<Option<Waiting>, StoreError>;
    /// All robots of an account, or of all accounts.
    async fn robots(&self, account: Option<AccountId>) -> Result<Vec<Robot>, StoreError>;
    /// One robot.
    async fn robot(&self, robot: RobotId) -> Result<Option<Robot>, StoreError>;
    /// One order.
    async fn order(&self, client_id: &ClientOrderId) -> Result<Option<Order>, StoreError>;
    /// Orders, newest first.
    async fn orders(&self, filter: &OrderFilter) -> Result<Vec<Order>, StoreError>;
    /// Fills, newest first.
    async fn fills(&self, filter: &FillFilter) -> Result<Vec<StoredFill>, StoreError>;
    /// Positions of an account, or of all.
    async fn positions(&self, account: Option<AccountId>) -> Result<Vec<Position>, StoreError>;
    /// Balances of an account.
    async fn balances(&self, account: AccountId) -> Result<Vec<Balance>, StoreError>;
    /// Events after `since`, oldest first, at most `limit`.
    async fn events(&self, account: AccountId, since: Seq, limit: u32) -> Result<Vec<Recorded>, StoreError>;
    /// Where the account's history stands.
    async fn head(&self, account: AccountId) -> Result<Head, StoreError>;
    /// Where the histories of these accounts stand, read in one go.
    async fn heads(&self, accounts: &[AccountId]) -> Result<Vec<Head>, StoreError>;

    /// Stores an API key.
    async fn add_api_key(&self, key: &ApiKey) -> Result<(), StoreError>;
    /// All API keys, revoked ones too, oldest first.
    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError>;
    /// The API key with this hash. A revoked one has none.
    async fn api_key(&self, hash: &str) -> Result<Option<ApiKey>, StoreError>;
    /// The API key with this id, revoked or not.
    async fn api_key_by_id(&self, id: &str) -> Result<Option<ApiKey>, StoreError>;
    /// Revokes the API key with this id, unless it is the last admin's: checked and done in one transaction.
    async fn revoke_api_key(&self, id: &str, at: Timestamp) -> Result<Revocation, StoreError>;
    /// Whether there is any API key, revoked or not: there is none before the first start.
    async fn has_api_keys(&self) -> Result<bool, StoreError>;
    /// Notes a privileged act.
    async fn append_audit(&self, entry: &AuditEntry) -> Result<(), StoreError>;

    /// Stores a notice, unless one that [`Store::notices`] gives for the same `since` says the same for the same time. Whether
    /// it was stored.
    async fn add_notice(&self, notice: &Notice, since: Timestamp) -> Result<bool, StoreError>;
    /// Notices of what happens after `since`, or that were told after it if they are about nothing to come; newest first, 100
    /// at most.
    async fn notices(&self, since: Timestamp) -> Result<Vec<StoredNotice>, StoreError>;

    /// Takes a nonce of a signed request, durably: true for one caller, ever. Of calls with the same key and nonce, in
    /// whatever process, one gets true, and none once `expires_at` has passed by the database's clock: so what has
    /// expired can be forgotten, and is, a few at a time.
    async fn use_nonce(&self, key_id: &str, nonce: &str, expires_at: Timestamp) -> Result<bool, StoreError>;
    /// Adds to counters of requests of one window of time, and gives what each then counts over all instances. Windows that
    /// began before `oldest` are forgotten, a few at a time. A name stands in `counts` once.
    async fn count_requests(
        &self,
        window_start: Timestamp,
        counts: &[(String, u64)],
        oldest: Timestamp,
    ) -> Result<Vec<u64>, StoreError>;

    /// Whether the store answers and takes writes: a cheap write-free probe, bounded to a second.
    async fn ping(&self) -> Result<(), StoreError>;
    /// Waits for the commits that were accepted, checkpoints, and closes. Later calls answer `Closed`.
    async fn close(&self);
}
