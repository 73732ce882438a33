//! What is compared: the rows of an account, and what its events add up to.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hasher as _};
use std::path::Path;

use serde::Serialize;
use trading::command::Record;
use trading::event::{Event, Recorded};
use trading::exchange::Fill;
use trading::ids::{AccountId, ClientOrderId, Epoch, RobotId, Seq, TradeId};
use trading::market::{Asset, Symbol};
use trading::order::{Order, Status};
use trading::position::{Balance, Position};
use trading::robot::{Robot, StrategyState};
use trading::time::Timestamp;
use venue::ledger::Image;

use super::Answered;
use crate::store::StoreError;
use crate::store::sqlite::{StoredRow, dump};

/// Everything that is compared.
#[derive(Debug, Default)]
pub struct AuditInput {
    /// The venue's word.
    pub venue: Image,
    /// Ours, by the account's label.
    pub accounts: BTreeMap<String, AccountData>,
    /// The signals that were answered with 2xx, if they are known.
    pub answered: Option<Vec<Answered>>,
}

/// An account in the database.
#[derive(Debug, Default)]
pub struct AccountData {
    /// `hg_trading_order`.
    pub orders: BTreeMap<ClientOrderId, Order>,
    /// `hg_trading_fill`.
    pub fills: BTreeMap<(Symbol, TradeId), (RobotId, Fill)>,
    /// `hg_trading_signal`, by source and dedup key.
    pub signals: BTreeMap<(String, String), Record>,
    /// `hg_trading_robot`.
    pub robots: BTreeMap<RobotId, Robot>,
    /// `hg_trading_strategy_state`, with the number of the event that it comes from.
    pub states: BTreeMap<RobotId, (StrategyState, Seq)>,
    /// `hg_trading_position`.
    pub positions: BTreeMap<(RobotId, Symbol), Position>,
    /// `hg_trading_balance`.
    pub balances: BTreeMap<Asset, Balance>,
    /// What `hg_trading_event` adds up to.
    pub history: History,
}

/// Names a row that events make.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Order(ClientOrderId),
    Fill(Symbol, TradeId),
    Signal(String, String),
    Robot(RobotId),
    State(RobotId),
    Position(RobotId, Symbol),
    Balance(Asset),
}

/// What an account's events add up to. Of each row only a digest is kept, so that a million of them fit.
#[derive(Debug, Default)]
pub struct History {
    pub(super) events: usize,
    pub(super) last: i64,
    /// The latest time of any event.
    latest: Timestamp,
    /// Where the numbering breaks: the number before, and the one after.
    pub(super) gaps: Vec<(i64, i64)>,
    pub(super) rows: HashMap<Key, u64>,
    /// Rows that are written once, and were written again.
    pub(super) repeated: Vec<Key>,
    /// When each epoch began, in the order of the events.
    pub(super) epochs: Vec<(Epoch, Timestamp)>,
    /// Orders attempted after a newer epoch had begun: order, its epoch, the newer one.
    pub(super) stale: Vec<(ClientOrderId, Epoch, Epoch)>,
}

impl History {
    /// Takes the account's next event.
    pub fn add(&mut self, recorded: &Recorded) {
        let seq = recorded.seq.0;
        if Some(seq) != self.last.checked_add(1) {
            self.gaps.push((self.last, seq));
        }
        self.last = seq;
        self.events += 1;
        self.latest = self.latest.max(recorded.at);
        match &recorded.event {
            Event::Command(record) => self.once(signal_key(record), digest(record)),
            Event::Robot(robot) => self.image(Key::Robot(robot.id), digest(robot)),
            Event::Strategy { robot, state } => self.image(Key::State(*robot), digest(&(state, recorded.seq))),
            Event::Order(order) => {
                self.check_epoch(order);
                self.image(Key::Order(order.client_id.clone()), digest(order));
            }
            Event::Fill { fill, position, balances } => {
                self.once(Key::Fill(fill.symbol.clone(), fill.trade_id), digest(&(position.robot, fill)));
                self.image(Key::Position(position.robot, position.symbol.clone()), digest(position));
                for balance in balances {
                    self.image(Key::Balance(balance.asset.clone()), digest(balance));
                }
            }
            Event::Opening(balance) => self.image(Key::Balance(balance.asset.clone()), digest(balance)),
            // Not before what was written before it: the wall clock may have been set back between two processes.
            Event::Started { epoch } => self.epochs.push((*epoch, recorded.at.max(self.latest))),
            Event::Alarm { .. } | Event::Stopped { .. } => {}
        }
    }

    fn image(&mut self, key: Key, digest: u64) {
        self.rows.insert(key, digest);
    }

    fn once(&mut self, key: Key, digest: u64) {
        if self.rows.insert(key.clone(), digest).is_some() {
            self.repeated.push(key);
        }
    }

    fn check_epoch(&mut self, order: &Order) {
        if order.status != Status::Sending {
            return;
        }
        if let Some(newest) = self.epochs.iter().map(|(epoch, _)| *epoch).max().filter(|newest| *newest > order.epoch) {
            self.stale.push((order.client_id.clone(), order.epoch, newest));
        }
    }
}

impl AccountData {
    /// Each row's name with its digest, to be compared with the history's.
    pub(super) fn rows(&self) -> impl Iterator<Item = (Key, u64)> + '_ {
        let orders = self.orders.values().map(|order| (Key::Order(order.client_id.clone()), digest(order)));
        let fills = self.fills.values().map(|row| (Key::Fill(row.1.symbol.clone(), row.1.trade_id), digest(row)));
        let signals = self.signals.values().map(|record| (signal_key(record), digest(record)));
        let robots = self.robots.values().map(|robot| (Key::Robot(robot.id), digest(robot)));
        let states = self.states.iter().map(|(robot, row)| (Key::State(*robot), digest(row)));
        let positions = self.positions.values().map(|row| (Key::Position(row.robot, row.symbol.clone()), digest(row)));
        let balances = self.balances.values().map(|row| (Key::Balance(row.asset.clone()), digest(row)));
        orders.chain(fills).chain(signals).chain(robots).chain(states).chain(positions).chain(balances)
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        match key {
            Key::Order(id) => self.orders.contains_key(id),
            Key::Fill(symbol, trade) => self.fills.contains_key(&(symbol.clone(), *trade)),
            Key::Signal(source, dedup_key) => self.signals.contains_key(&(source.clone(), dedup_key.clone())),
            Key::Robot(robot) => self.robots.contains_key(robot),
            Key::State(robot) => self.states.contains_key(robot),
            Key::Position(robot, symbol) => self.positions.contains_key(&(*robot, symbol.clone())),
            Key::Balance(asset) => self.balances.contains_key(asset),
        }
    }
}

fn signal_key(record: &Record) -> Key {
    Key::Signal(record.command.source.clone(), record.command.dedup_key.clone())
}

/// Equal values have equal digests; that of a value that cannot be written is zero.
fn digest<T: Serialize>(value: &T) -> u64 {
    struct HashWriter(DefaultHasher);
    impl std::io::Write for HashWriter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.write(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = HashWriter(DefaultHasher::new());
    match serde_json::to_writer(&mut writer, value) {
        Ok(()) => writer.0.finish(),
        Err(_) => 0,
    }
}

/// Reads all accounts of a database.
pub(super) async fn read(path: &Path) -> Result<BTreeMap<String, AccountData>, StoreError> {
    let mut labels = BTreeMap::<AccountId, String>::new();
    let mut accounts = HashMap::<AccountId, AccountData>::new();
    dump(path, |row| {
        let id = match &row {
            StoredRow::Account(account) => account.id,
            StoredRow::Robot(robot) => robot.account,
            StoredRow::State(robot, ..) => robot.account(),
            StoredRow::Order(order) => order.account,
            StoredRow::Fill(fill) => fill.account,
            StoredRow::Position(position) => position.robot.account(),
            StoredRow::Command(account, _) | StoredRow::Balance(account, _) | StoredRow::Event(account, _) => *account,
        };
        let data = accounts.entry(id).or_default();
        match row {
            StoredRow::Account(account) => drop(labels.insert(id, account.label)),
            StoredRow::Robot(robot) => drop(data.robots.insert(robot.id, robot)),
            StoredRow::State(robot, state, seq) => drop(data.states.insert(robot, (state, seq))),
            StoredRow::Order(order) => drop(data.orders.insert(order.client_id.clone(), order)),
            StoredRow::Fill(row) => {
                data.fills.insert((row.fill.symbol.clone(), row.fill.trade_id), (row.robot, row.fill));
            }
            StoredRow::Position(row) => drop(data.positions.insert((row.robot, row.symbol.clone()), row)),
            StoredRow::Command(_, record) => {
                let key = (record.command.source.clone(), record.command.dedup_key.clone());
                data.signals.insert(key, record);
            }
            StoredRow::Balance(_, balance) => drop(data.balances.insert(balance.asset.clone(), balance)),
            StoredRow::Event(_, recorded) => data.history.add(&recorded),
        }
    })
    .await?;
    // Rows refer to accounts by foreign keys; where none is there, the number names it.
    let label = |id: AccountId| labels.get(&id).cloned().unwrap_or_else(|| format!("account {id}"));
    Ok(accounts.into_iter().map(|(id, data)| (label(id), data)).collect())
}
