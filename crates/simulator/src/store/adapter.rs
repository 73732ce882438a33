//! The model behind the server's own port, so that the contract of all stores can be run against it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hotgo::clock::Clock;
use hotgo::store::{
    Account, ApiKey, AuditEntry, Commit, CommitError, FillFilter, Head, Instance, InstanceRow, Lease, LeaseError,
    LeaseRow, Notice, OrderFilter, Revocation, Role, Store, StoreError, Stored, StoredFill, StoredNotice, Waiting,
};
use trading::command::{Command, Record};
use trading::engine::Snapshot;
use trading::event::{Event, Recorded};
use trading::ids::{AccountId, ClientOrderId, RobotId, Seq};
use trading::order::Order;
use trading::position::{Balance, Position};
use trading::robot::Robot;
use trading::time::Timestamp;

use super::{Fate, SimStore};

/// A [`SimStore`] with a clock, as a [`Store`]. What is not part of the model (API keys, the audit log, instances, the inbox) is kept beside
/// it.
#[derive(Debug)]
pub struct SimDatabase {
    clock: Clock,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    store: SimStore,
    api_keys: Vec<ApiKey>,
    audit: Vec<AuditEntry>,
    notices: Vec<StoredNotice>,
    nonces: BTreeMap<(String, String), Timestamp>,
    rates: BTreeMap<(Timestamp, String), u64>,
    instances: BTreeMap<Arc<str>, (InstanceRow, Timestamp)>,
    ledgers: BTreeMap<AccountId, String>,
    inbox: Vec<Waiting>,
    stored: i64,
    closed: bool,
}

impl SimDatabase {
    /// An empty store. Leases are timed by this clock.
    pub fn new(clock: Clock) -> Self {
        Self { clock, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.lock();
        if inner.closed { Err(StoreError::Closed) } else { Ok(inner) }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl Inner {
    fn waiting(&self, source: &str, dedup_key: &str) -> Option<&Waiting> {
        self.inbox.iter().find(|waiting| waiting.source == source && waiting.dedup_key == dedup_key)
    }
}

fn is_of(account: Option<AccountId>, robot: RobotId) -> bool {
    account.is_none_or(|account| robot.account() == account)
}

fn page<T>(rows: impl Iterator<Item = T>, limit: u32) -> Vec<T> {
    rows.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect()
}

fn current(notices: &[StoredNotice], since: Timestamp) -> impl DoubleEndedIterator<Item = &StoredNotice> {
    notices.iter().filter(move |it| it.notice.effective_at.unwrap_or(it.notice.created_at) > since)
}

#[async_trait]
impl Store for SimDatabase {
    async fn ensure_account(&self, venue: &str, label: &str) -> Result<Account, StoreError> {
        self.open()?.store.ensure_account(venue, label, self.now())
    }

    async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        Ok(self.open()?.store.accounts.clone())
    }

    async fn acquire_lease(
        &self,
        account: AccountId,
        owner: &Arc<str>,
        ttl: Duration,
        predecessor_is_dead: bool,
    ) -> Result<Lease, LeaseError> {
        self.open()?.store.acquire_lease(account, owner, ttl, predecessor_is_dead, self.now())
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<(), LeaseError> {
        self.open()?.store.renew_lease(lease, ttl, self.now())
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        self.open()?.store.release_lease(lease, self.now())
    }

    async fn transfer_lease(&self, lease: &Lease, to: &str, ttl: Duration) -> Result<(), LeaseError> {
        self.open()?.store.transfer_lease(lease, to, ttl, self.now())
    }

    async fn leases(&self) -> Result<Vec<LeaseRow>, StoreError> {
        self.open()?.store.leases(self.now())
    }

    async fn beat(&self, row: &InstanceRow, ttl: Duration) -> Result<Vec<Instance>, StoreError> {
        let (mut inner, now) = (self.open()?, self.now());
        inner.instances.insert(Arc::clone(&row.id), (row.clone(), now.after(ttl)));
        inner.instances.retain(|_, (_, expires_at)| *expires_at > now);
        let living = inner.instances.values();
        Ok(living.map(|(row, expires_at)| Instance { row: row.clone(), remaining: expires_at.since(now) }).collect())
    }

    async fn leave(&self, id: &str) -> Result<(), StoreError> {
        self.open()?.instances.remove(id);
        Ok(())
    }

    async fn bind_ledger(&self, account: AccountId, ledger: &str) -> Result<String, StoreError> {
        Ok(self.open()?.ledgers.entry(account).or_insert_with(|| ledger.to_owned()).clone())
    }

    async fn load(&self, account: AccountId) -> Result<Snapshot, StoreError> {
        self.open()?.store.load(account, self.now())
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(CommitError::Closed);
        }
        inner.store.commit(&commit, Fate::Confirmed, self.now())?;
        let Inner { store, inbox, .. } = &mut *inner;
        if commit.events.iter().any(|recorded| matches!(recorded.event, Event::Command(_))) {
            inbox.retain(|waiting| !store.knows_command(&waiting.source, &waiting.dedup_key));
        }
        Ok(())
    }

    async fn find_command(&self, source: &str, dedup_key: &str) -> Result<Option<Record>, StoreError> {
        self.open()?.store.find_command(source, dedup_key, self.now())
    }

    async fn store_command(
        &self,
        account: AccountId,
        command: &Command,
        at: Timestamp,
        room: u32,
    ) -> Result<Stored, StoreError> {
        let mut inner = self.open()?;
        let Command { source, dedup_key, wish } = command.clone();
        if let Some(record) = inner.store.find_command(&source, &dedup_key, self.now())? {
            return Ok(Stored::Decided(Box::new(record)));
        }
        if let Some(waiting) = inner.waiting(&source, &dedup_key) {
            return Ok(Stored::Waiting(Box::new(waiting.clone())));
        }
        let waiting = inner.inbox.iter().filter(|waiting| waiting.account == account).count();
        if waiting >= usize::try_from(room).unwrap_or(usize::MAX) {
            return Ok(Stored::Full);
        }
        inner.stored += 1;
        let id = inner.stored;
        inner.inbox.push(Waiting { id, account, source, dedup_key, wish: Ok(wish), received_at: at });
        Ok(Stored::New)
    }

    async fn waiting_commands(&self, accounts: &[AccountId], limit: u32) -> Result<Vec<Waiting>, StoreError> {
        let inner = self.open()?;
        Ok(page(inner.inbox.iter().filter(|waiting| accounts.contains(&waiting.account)).cloned(), limit))
    }

    async fn waiting_command(&self, source: &str, dedup_key: &str) -> Result<Option<Waiting>, StoreError> {
        Ok(self.open()?.waiting(source, dedup_key).cloned())
    }

    async fn robots(&self, account: Option<AccountId>) -> Result<Vec<Robot>, StoreError> {
        let inner = self.open()?;
        Ok(inner.store.tables.robots.values().filter(|robot| is_of(account, robot.id)).cloned().collect())
    }

    async fn robot(&self, robot: RobotId) -> Result<Option<Robot>, StoreError> {
        Ok(self.open()?.store.tables.robots.get(&robot).cloned())
    }

    async fn order(&self, client_id: &ClientOrderId) -> Result<Option<Order>, StoreError> {
        self.open()?.store.order(client_id, self.now())
    }

    async fn orders(&self, filter: &OrderFilter) -> Result<Vec<Order>, StoreError> {
        let inner = self.open()?;
        let wanted = |order: &&Order| {
            is_of(filter.account, order.robot)
                && filter.robot.is_none_or(|robot| order.robot == robot)
                && !(filter.live && order.status.is_terminal())
                && filter.before.as_ref().is_none_or(|(at, id)| (order.created_at, &order.client_id) < (*at, id))
        };
        let mut orders: Vec<&Order> = inner.store.tables.orders.values().filter(wanted).collect();
        orders.sort_by(|a, b| (b.created_at, &b.client_id).cmp(&(a.created_at, &a.client_id)));
        Ok(page(orders.into_iter().cloned(), filter.limit))
    }

    async fn fills(&self, filter: &FillFilter) -> Result<Vec<StoredFill>, StoreError> {
        let inner = self.open()?;
        let wanted = |row: &&StoredFill| {
            is_of(filter.account, row.robot)
                && filter.robot.is_none_or(|robot| row.robot == robot)
                && filter.order.as_ref().is_none_or(|order| row.fill.client_id == *order)
                && filter.before.is_none_or(|before| row.row < before)
        };
        Ok(page(inner.store.tables.fills.iter().rev().filter(wanted).cloned(), filter.limit))
    }

    async fn positions(&self, account: Option<AccountId>) -> Result<Vec<Position>, StoreError> {
        let inner = self.open()?;
        Ok(inner.store.tables.positions.values().filter(|position| is_of(account, position.robot)).cloned().collect())
    }

    async fn balances(&self, account: AccountId) -> Result<Vec<Balance>, StoreError> {
        let inner = self.open()?;
        let balances = inner.store.tables.balances.iter().filter(|((of, _), _)| *of == account);
        Ok(balances.map(|(_, balance)| balance.clone()).collect())
    }

    async fn events(&self, account: AccountId, since: Seq, limit: u32) -> Result<Vec<Recorded>, StoreError> {
        let inner = self.open()?;
        let later = inner.store.history(account).filter(|recorded| recorded.seq > since).cloned();
        Ok(page(later, limit))
    }

    async fn head(&self, account: AccountId) -> Result<Head, StoreError> {
        Ok(Head { account, seq: self.open()?.store.last_seq(account) })
    }

    async fn heads(&self, accounts: &[AccountId]) -> Result<Vec<Head>, StoreError> {
        let inner = self.open()?;
        Ok(accounts.iter().map(|account| Head { account: *account, seq: inner.store.last_seq(*account) }).collect())
    }

    async fn add_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        let mut inner = self.open()?;
        if inner.api_keys.iter().any(|known| known.id == key.id || known.hash == key.hash) {
            return Err(StoreError::Corrupt("UNIQUE api_key (id), (hash)".into()));
        }
        inner.api_keys.push(key.clone());
        inner.api_keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(())
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        Ok(self.open()?.api_keys.clone())
    }

    async fn api_key(&self, hash: &str) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.open()?.api_keys.iter().find(|key| key.hash == hash).cloned())
    }

    async fn api_key_by_id(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.open()?.api_keys.iter().find(|key| key.id == id).cloned())
    }

    async fn revoke_api_key(&self, id: &str, at: Timestamp) -> Result<Revocation, StoreError> {
        let mut inner = self.open()?;
        let is_admin = |key: &ApiKey| key.role == Role::Admin && key.revoked_at.is_none();
        let another_admin = inner.api_keys.iter().any(|key| key.id != id && is_admin(key));
        let Some(key) = inner.api_keys.iter_mut().find(|key| key.id == id) else { return Ok(Revocation::NotFound) };
        if is_admin(key) && !another_admin {
            return Ok(Revocation::LastAdmin);
        }
        if key.revoked_at.is_none() {
            (key.revoked_at, key.hash) = (Some(at), format!("revoked:{id}"));
        }
        Ok(Revocation::Revoked)
    }

    async fn has_api_keys(&self) -> Result<bool, StoreError> {
        Ok(!self.open()?.api_keys.is_empty())
    }

    async fn append_audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        self.open()?.audit.push(entry.clone());
        Ok(())
    }

    async fn add_notice(&self, notice: &Notice, since: Timestamp) -> Result<bool, StoreError> {
        let mut inner = self.open()?;
        let what = |it: &Notice| (it.severity, it.message.clone(), it.effective_at);
        let is_known = current(&inner.notices, since).any(|known| what(&known.notice) == what(notice));
        if !is_known {
            let id = inner.notices.last().map_or(1, |last| last.id + 1);
            inner.notices.push(StoredNotice { id, notice: notice.clone() });
        }
        Ok(!is_known)
    }

    async fn notices(&self, since: Timestamp) -> Result<Vec<StoredNotice>, StoreError> {
        Ok(current(&self.open()?.notices, since).rev().take(100).cloned().collect())
    }

    async fn use_nonce(&self, key_id: &str, nonce: &str, expires_at: Timestamp) -> Result<bool, StoreError> {
        let (now, mut inner) = (self.now(), self.open()?);
        inner.nonces.retain(|_, expires_at| *expires_at > now);
        let name = (key_id.to_owned(), nonce.to_owned());
        Ok(expires_at > now && inner.nonces.insert(name, expires_at).is_none())
    }

    async fn count_requests(
        &self,
        window_start: Timestamp,
        counts: &[(String, u64)],
        oldest: Timestamp,
    ) -> Result<Vec<u64>, StoreError> {
        let mut inner = self.open()?;
        let totals = counts.iter().map(|(name, add)| {
            let total = inner.rates.entry((window_start, name.clone())).or_default();
            *total = total.saturating_add(*add);
            *total
        });
        let totals = totals.collect();
        inner.rates.retain(|(window_start, _), _| *window_start >= oldest);
        Ok(totals)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.open()?.store.available(self.now())
    }

    async fn close(&self) {
        self.lock().closed = true;
    }
}
