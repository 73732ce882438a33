//! A model of the durable store: in memory, synchronous, by a clock that is handed in, with the faults of a real one.
//!
//! The history is a list of commits; the tables follow from it. Of the list a prefix is durable: [`SimStore::crash`]
//! keeps that and nothing else. An honest store makes every commit durable before it confirms it, so only a commit that
//! was never confirmed can be lost. [`Flaws`] make a store that is not honest, to show that somebody notices.
//!
//! Leases are always durable: a store that forgot an epoch would break every promise at once.

mod adapter;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hotgo::audit::AccountData;
use hotgo::store::{Account, Commit, CommitError, Lease, LeaseError, LeaseRow, StoreError, StoredFill};
use trading::command::Record;
use trading::engine::{RECENT_TRADES, Snapshot};
use trading::event::{Event, Recorded};
use trading::ids::{AccountId, ClientOrderId, Epoch, RobotId, Seq, TradeId};
use trading::market::{Asset, Symbol};
use trading::money::Amount;
use trading::order::Order;
use trading::position::Position;
use trading::robot::{Robot, StrategyState};
use trading::time::Timestamp;

pub use adapter::SimDatabase;
use tables::{Tables, Versions};

/// What becomes of one commit, if nothing is wrong with it otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// Written, durable and confirmed.
    #[default]
    Confirmed,
    /// Written and durable, but the confirmation is lost.
    WrittenUnconfirmed,
    /// Not written, and nobody says so.
    LostUnconfirmed,
    /// The disk is full.
    Full,
    /// Written, but the disk fails to sync it: it is not confirmed, and the store refuses to go on until it is opened
    /// again.
    SyncFails,
}

/// How a store may be dishonest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flaws {
    /// It confirms commits that are not durable: the last few of them are lost in a crash.
    pub lies_about_sync: bool,
    /// It takes commits under any epoch.
    pub ignores_epochs: bool,
}

/// How many commits a store that lies has not written yet.
const UNWRITTEN: usize = 3;

#[derive(Debug)]
struct Held {
    owner: Arc<str>,
    epoch: Epoch,
    expires_at: Timestamp,
}

/// The model. One database, any number of accounts and users.
#[derive(Debug, Default)]
pub struct SimStore {
    flaws: Flaws,
    accounts: Vec<Account>,
    leases: BTreeMap<AccountId, Held>,
    log: Vec<(AccountId, Arc<[Recorded]>)>,
    /// How many of [`SimStore::log`] survive a crash.
    durable: usize,
    tables: Tables,
    /// The disk failed: nothing is written until the next [`SimStore::crash`].
    broken: bool,
    unavailable_until: Option<Timestamp>,
}

impl SimStore {
    /// An empty store with these flaws.
    pub fn new(flaws: Flaws) -> Self {
        Self { flaws, ..Self::default() }
    }

    /// Refuses everything until then. What was confirmed stays.
    pub fn fail_until(&mut self, at: Timestamp) {
        self.unavailable_until = Some(at);
    }

    /// Loses power and is opened again: what was not durable is gone. Says whether that was anything.
    pub fn crash(&mut self) -> bool {
        let lost = self.log.len() > self.durable;
        self.broken = false;
        if lost {
            self.log.truncate(self.durable);
            self.rebuild();
        }
        lost
    }

    fn rebuild(&mut self) {
        self.tables = Tables::default();
        for (account, events) in &self.log {
            let applied = self.tables.apply(*account, events);
            debug_assert_eq!(applied, Ok(()), "what was applied once can be applied again");
        }
    }

    fn available(&self, now: Timestamp) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Unavailable("an earlier write failed in the disk".into()));
        }
        match self.unavailable_until {
            Some(until) if now < until => Err(StoreError::Unavailable("the store does not answer".into())),
            _ => Ok(()),
        }
    }

    /// See [`hotgo::store::Store::ensure_account`].
    pub fn ensure_account(&mut self, venue: &str, label: &str, now: Timestamp) -> Result<Account, StoreError> {
        self.available(now)?;
        if let Some(account) = self.accounts.iter().find(|account| account.label == label) {
            return Ok(account.clone());
        }
        let id = AccountId(i64::try_from(self.accounts.len()).unwrap_or(i64::MAX - 1) + 1);
        let account = Account { id, venue: venue.to_owned(), label: label.to_owned() };
        self.accounts.push(account.clone());
        Ok(account)
    }

    /// See [`hotgo::store::Store::acquire_lease`].
    pub fn acquire_lease(
        &mut self,
        account: AccountId,
        owner: &Arc<str>,
        ttl: Duration,
        predecessor_is_dead: bool,
        now: Timestamp,
    ) -> Result<Lease, LeaseError> {
        self.available(now)?;
        let held = self.leases.get(&account);
        if let Some(held) = held.filter(|held| held.owner != *owner && held.expires_at > now && !predecessor_is_dead) {
            let (owner, remaining) = (held.owner.to_string(), held.expires_at.since(now));
            return Err(LeaseError::Held { account, owner, remaining });
        }
        let epoch = Epoch(held.map_or(0, |held| held.epoch.0) + 1);
        self.leases.insert(account, Held { owner: Arc::clone(owner), epoch, expires_at: now.after(ttl) });
        Ok(Lease { account, owner: Arc::clone(owner), epoch })
    }

    /// See [`hotgo::store::Store::renew_lease`].
    pub fn renew_lease(&mut self, lease: &Lease, ttl: Duration, now: Timestamp) -> Result<(), LeaseError> {
        self.available(now)?;
        let row = self.own_lease(lease).filter(|row| row.expires_at > now);
        row.ok_or(LeaseError::Lost(lease.account))?.expires_at = now.after(ttl);
        Ok(())
    }

    /// See [`hotgo::store::Store::release_lease`].
    pub fn release_lease(&mut self, lease: &Lease, now: Timestamp) -> Result<(), LeaseError> {
        self.available(now)?;
        let row = self.own_lease(lease).ok_or(LeaseError::Lost(lease.account))?;
        row.expires_at = Timestamp::default();
        Ok(())
    }

    /// See [`hotgo::store::Store::transfer_lease`].
    pub fn transfer_lease(&mut self, lease: &Lease, to: &str, ttl: Duration, now: Timestamp) -> Result<(), LeaseError> {
        self.available(now)?;
        let row = self.own_lease(lease).filter(|row| row.expires_at > now).ok_or(LeaseError::Lost(lease.account))?;
        *row = Held { owner: to.into(), epoch: Epoch(row.epoch.0 + 1), expires_at: now.after(ttl) };
        Ok(())
    }

    /// See [`hotgo::store::Store::leases`].
    pub fn leases(&self, now: Timestamp) -> Result<Vec<LeaseRow>, StoreError> {
        self.available(now)?;
        let row = |(account, held): (&AccountId, &Held)| LeaseRow {
            account: *account,
            owner: Arc::clone(&held.owner),
            epoch: held.epoch,
            remaining: held.expires_at.since(now),
            released: held.expires_at == Timestamp::default(),
        };
        Ok(self.leases.iter().map(row).collect())
    }

    fn own_lease(&mut self, lease: &Lease) -> Option<&mut Held> {
        let row = self.leases.get_mut(&lease.account)?;
        (row.owner == lease.owner && row.epoch == lease.epoch).then_some(row)
    }

    /// The newest epoch of an account; zero if nobody ever took it.
    pub fn epoch(&self, account: AccountId) -> Epoch {
        self.leases.get(&account).map_or(Epoch(0), |row| row.epoch)
    }

    /// See [`hotgo::store::Store::commit`].
    pub fn commit(&mut self, commit: &Commit, fate: Fate, now: Timestamp) -> Result<(), CommitError> {
        let account = commit.lease.account;
        check_shape(commit)?;
        let Some(first) = commit.events.first() else { return Ok(()) };
        self.available(now).map_err(|error| CommitError::Unknown(error.to_string()))?;
        match fate {
            Fate::LostUnconfirmed => return Err(CommitError::Unknown("the connection broke".into())),
            Fate::Full => return Err(CommitError::Full),
            Fate::Confirmed | Fate::WrittenUnconfirmed | Fate::SyncFails => {}
        }
        let conflict = |detail: &str| CommitError::Conflict { account, detail: detail.into() };
        let versions = Versions::of(account, &commit.events).map_err(conflict)?;
        let held = self.own_lease(&commit.lease).is_some_and(|row| row.expires_at > now);
        if !held && !self.flaws.ignores_epochs {
            return Err(CommitError::Fenced(account));
        }
        if first.seq.0 != self.last_seq(account).0 + 1 {
            return Err(conflict("the events do not continue the stored ones"));
        }
        self.tables.check_newer(&versions).map_err(conflict)?;
        if let Err(constraint) = self.tables.apply(account, &commit.events) {
            self.rebuild();
            return Err(conflict(constraint));
        }
        self.log.push((account, Arc::clone(&commit.events)));
        if fate == Fate::SyncFails {
            self.broken = true;
            return Err(CommitError::Unknown("the disk failed".into()));
        }
        let unwritten = if self.flaws.lies_about_sync { UNWRITTEN } else { 0 };
        self.durable = self.durable.max(self.log.len().saturating_sub(unwritten));
        if fate == Fate::WrittenUnconfirmed { Err(CommitError::Unknown("the connection broke".into())) } else { Ok(()) }
    }

    /// See [`hotgo::store::Store::load`].
    pub fn load(&self, account: AccountId, now: Timestamp) -> Result<Snapshot, StoreError> {
        self.available(now)?;
        let tables = &self.tables;
        let mut orders: Vec<Order> = tables
            .orders
            .values()
            .filter(|order| order.account == account && (!order.status.is_terminal() || order.reported != order.filled))
            .cloned()
            .collect();
        orders.sort_by(|a, b| (a.created_at, &a.client_id).cmp(&(b.created_at, &b.client_id)));
        let robots: Vec<_> = tables.robots.values().filter(|robot| robot.account == account).cloned().collect();
        let mut symbols: Vec<_> = robots.iter().map(|robot| robot.symbol.clone()).collect();
        symbols.sort();
        symbols.dedup();
        let mut recent_trades = Vec::new();
        for symbol in symbols {
            let ids = tables.trades.iter().filter(|(of, at, _)| *of == account && *at == symbol).map(|(_, _, id)| *id);
            let ids: Vec<_> = ids.collect();
            let skip = ids.len().saturating_sub(RECENT_TRADES);
            recent_trades.extend(ids.into_iter().skip(skip).map(|id| (symbol.clone(), id)));
        }
        let states = tables.states.iter().filter(|(robot, _)| robot.account() == account);
        let positions = tables.positions.values().filter(|position| position.robot.account() == account);
        let balances = tables.balances.iter().filter(|((of, _), _)| *of == account);
        Ok(Snapshot {
            account,
            last_seq: self.last_seq(account),
            robots,
            states: states.map(|(robot, (state, _))| (*robot, state.clone())).collect(),
            orders,
            positions: positions.cloned().collect(),
            balances: balances.map(|(_, balance)| balance.clone()).collect(),
            recent_trades,
        })
    }

    /// See [`hotgo::store::Store::find_command`].
    pub fn find_command(&self, source: &str, dedup_key: &str, now: Timestamp) -> Result<Option<Record>, StoreError> {
        self.available(now)?;
        let key = (source.to_owned(), dedup_key.to_owned());
        Ok(self.tables.signals.get(&key).map(|(_, record)| record.clone()))
    }

    /// See [`hotgo::store::Store::order`].
    pub fn order(&self, client_id: &ClientOrderId, now: Timestamp) -> Result<Option<Order>, StoreError> {
        self.available(now)?;
        Ok(self.tables.orders.get(client_id).cloned())
    }

    /// The number of an account's last event; 0 if there is none.
    pub fn last_seq(&self, account: AccountId) -> Seq {
        Seq(self.tables.last.get(&account).copied().unwrap_or(0))
    }

    /// An order's row, whatever the store says to its users: for those who judge it.
    pub fn peek_order(&self, client_id: &ClientOrderId) -> Option<&Order> {
        self.tables.orders.get(client_id)
    }

    /// Whether a command's outcome is stored.
    pub fn knows_command(&self, source: &str, dedup_key: &str) -> bool {
        self.tables.signals.contains_key(&(source.to_owned(), dedup_key.to_owned()))
    }

    /// Whether a trade is booked.
    pub fn has_trade(&self, account: AccountId, symbol: &Symbol, trade: TradeId) -> bool {
        self.tables.trades.contains(&(account, symbol.clone(), trade))
    }

    /// Whether the disk failed and the store was not opened again since.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Who took the account last.
    pub fn holder(&self, account: AccountId) -> Option<Arc<str>> {
        self.leases.get(&account).map(|row| Arc::clone(&row.owner))
    }

    /// An account's orders.
    pub fn orders(&self, account: AccountId) -> impl Iterator<Item = &Order> {
        self.tables.orders.values().filter(move |order| order.account == account)
    }

    /// An account's orders that have not ended.
    pub fn live_orders(&self, account: AccountId) -> impl Iterator<Item = &Order> {
        self.orders(account).filter(|order| !order.status.is_terminal())
    }

    /// An account's robots.
    pub fn robots(&self, account: AccountId) -> impl Iterator<Item = &Robot> {
        self.tables.robots.values().filter(move |robot| robot.account == account)
    }

    /// What a robot's strategy remembers.
    pub fn state(&self, robot: RobotId) -> Option<&StrategyState> {
        self.tables.states.get(&robot).map(|(state, _)| state)
    }

    /// An account's fills, in the order of their booking.
    pub fn fills(&self, account: AccountId) -> impl Iterator<Item = &StoredFill> {
        self.tables.fills.iter().filter(move |row| row.account == account)
    }

    /// An account's positions.
    pub fn positions(&self, account: AccountId) -> impl Iterator<Item = &Position> {
        self.tables.positions.values().filter(move |position| position.robot.account() == account)
    }

    /// What an account has of an asset.
    pub fn balance(&self, account: AccountId, asset: &str) -> Option<Amount> {
        self.tables.balances.get(&(account, Asset::new(asset))).map(|balance| balance.total)
    }

    /// All events of an account, oldest first.
    pub fn history(&self, account: AccountId) -> impl Iterator<Item = &Recorded> {
        self.log.iter().filter(move |(of, _)| *of == account).flat_map(|(_, events)| events.iter())
    }

    /// An account as the checker reads it.
    pub fn account_data(&self, account: AccountId) -> AccountData {
        let mut data = AccountData::default();
        for recorded in self.history(account) {
            data.history.add(recorded);
        }
        let tables = &self.tables;
        data.orders = tables
            .orders
            .iter()
            .filter(|(_, order)| order.account == account)
            .map(|(id, order)| (id.clone(), order.clone()))
            .collect();
        let fills = tables.fills.iter().filter(|row| row.account == account);
        data.fills =
            fills.map(|row| ((row.fill.symbol.clone(), row.fill.trade_id), (row.robot, row.fill.clone()))).collect();
        let signals = tables.signals.iter().filter(|(_, (of, _))| *of == account);
        data.signals = signals.map(|(key, (_, record))| (key.clone(), record.clone())).collect();
        let robots = tables.robots.iter().filter(|(_, robot)| robot.account == account);
        data.robots = robots.map(|(id, robot)| (*id, robot.clone())).collect();
        let states = tables.states.iter().filter(|(robot, _)| robot.account() == account);
        data.states = states.map(|(robot, state)| (*robot, state.clone())).collect();
        let positions = tables.positions.iter().filter(|((robot, _), _)| robot.account() == account);
        data.positions = positions.map(|(key, position)| (key.clone(), position.clone())).collect();
        let balances = tables.balances.iter().filter(|((of, _), _)| *of == account);
        data.balances = balances.map(|((_, asset), balance)| (asset.clone(), balance.clone())).collect();
        data
    }
}

/// Refuses gaps within a commit, and rows of another account.
fn check_shape(commit: &Commit) -> Result<(), CommitError> {
    let account = commit.lease.account;
    let conflict = |detail: &str| Err(CommitError::Conflict { account, detail: detail.into() });
    if !commit.events.iter().zip(commit.events.iter().skip(1)).all(|(a, b)| a.seq.0.checked_add(1) == Some(b.seq.0)) {
        return conflict("the events are not numbered consecutively");
    }
    let foreign = commit.events.iter().any(|recorded| match &recorded.event {
        Event::Order(order) => order.account != account || order.robot.account() != account,
        Event::Robot(robot) => robot.account != account || robot.id.account() != account,
        Event::Strategy { robot, .. } => robot.account() != account,
        Event::Fill { position, .. } => position.robot.account() != account,
        _ => false,
    });
    if foreign { conflict("an event is about another account") } else { Ok(()) }
}
