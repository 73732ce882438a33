//! What is compared, as whole values in memory: for those who judge a model. Files are read by [`super::read`], which keeps
//! less of each row.

use std::collections::{BTreeMap, HashMap};

use trading::command::Record;
use trading::event::{Event, Recorded};
use trading::exchange::Fill;
use trading::ids::{ClientOrderId, Epoch, RobotId, Seq, TradeId};
use trading::market::{Asset, Symbol};
use trading::order::{Order, Status};
use trading::position::{Balance, Position};
use trading::robot::{Robot, StrategyState};
use trading::time::Timestamp;
use venue::ledger::Image;

use super::ours::{Ours, digest, digest_with};
use super::{Answered, Key};

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

/// What an account's events add up to. Of each row only a digest is kept.
#[derive(Debug, Default)]
pub struct History {
    /// The latest time of any event.
    latest: Timestamp,
    /// The numbers, as they came.
    numbers: Vec<i64>,
    /// The last image of each row, and by which event.
    rows: HashMap<Key, (u64, i64)>,
    /// Rows that are written once, and were written again.
    repeated: BTreeMap<Key, i64>,
    attempts: Vec<(ClientOrderId, i64, Epoch)>,
    epochs: Vec<(i64, Epoch, Timestamp)>,
}

impl History {
    /// Takes the account's next event.
    pub fn add(&mut self, recorded: &Recorded) {
        let (seq, event) = (recorded.seq.0, &recorded.event);
        self.numbers.push(seq);
        self.latest = self.latest.max(recorded.at);
        match event {
            Event::Command(record) => {
                self.once(
                    Key::Signal(record.command.source.clone(), record.command.dedup_key.clone()),
                    digest(event),
                    seq,
                );
            }
            Event::Robot(robot) => self.image(Key::Robot(robot.id), digest(event), seq),
            Event::Strategy { robot, .. } => self.image(Key::State(*robot), digest(event), seq),
            Event::Order(order) => {
                if order.status == Status::Sending {
                    self.attempts.push((order.client_id.clone(), seq, order.epoch));
                }
                self.image(Key::Order(order.client_id.clone()), digest(event), seq);
            }
            Event::Fill { fill, position, balances } => {
                let booked = digest_with(digest(fill), position.robot.0);
                self.once(Key::Fill(fill.symbol.clone(), fill.trade_id), booked, seq);
                self.image(Key::Position(position.robot, position.symbol.clone()), digest(position), seq);
                for balance in balances {
                    self.image(Key::Balance(balance.asset.clone()), digest(balance), seq);
                }
            }
            Event::Opening(balance) => self.image(Key::Balance(balance.asset.clone()), digest(balance), seq),
            // Not before what was written before it: the wall clock may have been set back between two processes.
            Event::Started { epoch } => self.epochs.push((seq, *epoch, self.latest)),
            Event::Alarm { .. } | Event::Stopped { .. } => {}
        }
    }

    fn image(&mut self, key: Key, digest: u64, seq: i64) {
        self.rows.insert(key, (digest, seq));
    }

    fn once(&mut self, key: Key, digest: u64, seq: i64) {
        if self.rows.insert(key.clone(), (digest, seq)).is_some() {
            self.repeated.insert(key, seq);
        }
    }
}

impl From<&AccountData> for Ours {
    fn from(data: &AccountData) -> Self {
        let mut ours = Self::default();
        data.robots.values().for_each(|robot| ours.add_robot(robot));
        data.states.iter().for_each(|(robot, (state, seq))| ours.add_state(*robot, state.clone(), seq.0));
        data.orders.values().for_each(|order| ours.add_order(order.clone()));
        data.fills.values().for_each(|(robot, fill)| ours.add_fill(*robot, fill));
        data.positions.values().for_each(|position| ours.add_position(position.clone()));
        data.balances.values().for_each(|balance| ours.add_balance(balance.clone()));
        data.signals.values().for_each(|record| ours.add_command(record.clone()));
        ours.tables_are_read();

        let history = &data.history;
        history.numbers.iter().for_each(|seq| ours.number(*seq));
        for (key, (digest, seq)) in &history.rows {
            match key {
                Key::Order(id) => ours.order_event(id.as_str(), *digest, *seq),
                Key::Fill(symbol, trade_id) => ours.fill_event(symbol, *trade_id, *digest, *seq),
                Key::Signal(source, dedup_key) => ours.command_event(source, dedup_key, *digest, *seq),
                Key::State(robot) => ours.state_event(*robot, *digest, *seq),
                Key::Robot(_) | Key::Position(..) | Key::Balance(_) => ours.other_event(key.clone(), *digest, *seq),
            }
        }
        for (id, seq, epoch) in &history.attempts {
            ours.attempted(id.as_str(), *seq, *epoch);
        }
        history.epochs.iter().for_each(|(seq, epoch, at)| ours.started(*seq, *epoch, *at));
        ours.repeated.extend(history.repeated.iter().map(|(key, seq)| (key.clone(), *seq)));
        ours
    }
}
