//! The tables: the last image of each key, with the constraints of the migrations.

use std::collections::{BTreeMap, BTreeSet};

use hotgo::store::StoredFill;
use trading::command::Record;
use trading::event::{Event, Recorded};
use trading::exchange::Fill;
use trading::ids::{AccountId, ClientOrderId, RobotId, Seq, TradeId, VenueOrderId};
use trading::market::{Asset, Symbol};
use trading::money::{Price, Qty};
use trading::order::Order;
use trading::position::{Balance, Position};
use trading::robot::{Robot, StrategyState};

/// Which constraint a row breaks.
pub(super) type Broken = &'static str;

/// What the events so far add up to.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) last: BTreeMap<AccountId, i64>,
    pub(super) robots: BTreeMap<RobotId, Robot>,
    pub(super) states: BTreeMap<RobotId, (StrategyState, Seq)>,
    pub(super) signals: BTreeMap<(String, String), (AccountId, Record)>,
    pub(super) orders: BTreeMap<ClientOrderId, Order>,
    /// In the order of their booking: a row's number is its place, counted from 1.
    pub(super) fills: Vec<StoredFill>,
    pub(super) trades: BTreeSet<(AccountId, Symbol, TradeId)>,
    pub(super) positions: BTreeMap<(RobotId, Symbol), Position>,
    pub(super) balances: BTreeMap<(AccountId, Asset), Balance>,
    decisions: BTreeSet<(RobotId, i64, i32, i32)>,
    at_venue: BTreeMap<(AccountId, Symbol, VenueOrderId), ClientOrderId>,
}

fn check(holds: bool, constraint: Broken) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(constraint) }
}

impl Tables {
    /// Takes in the next events of an account. After an error the tables are half changed: build them anew.
    pub(super) fn apply(&mut self, account: AccountId, events: &[Recorded]) -> Result<(), Broken> {
        for recorded in events {
            self.apply_one(account, recorded)?;
        }
        if let Some(last) = events.last() {
            self.last.insert(account, last.seq.0);
        }
        Ok(())
    }

    fn apply_one(&mut self, account: AccountId, recorded: &Recorded) -> Result<(), Broken> {
        match &recorded.event {
            Event::Command(record) => {
                let key = (record.command.source.clone(), record.command.dedup_key.clone());
                let old = self.signals.insert(key, (account, record.clone()));
                check(old.is_none(), "UNIQUE signal (source, dedup_key)")
            }
            Event::Robot(robot) => {
                let old = self.robots.insert(robot.id, robot.clone());
                check(old.is_none_or(|old| old.version < robot.version), "a robot's image is not newer")
            }
            Event::Strategy { robot, state } => {
                check(self.robots.contains_key(robot), "FOREIGN KEY state (robot)")?;
                self.states.insert(*robot, (state.clone(), recorded.seq));
                Ok(())
            }
            Event::Order(order) => self.apply_order(order),
            Event::Fill { fill, position, balances } => {
                self.apply_fill(account, position.robot, fill)?;
                let key = (position.robot, position.symbol.clone());
                let old = self.positions.insert(key, position.clone());
                check(old.is_none_or(|old| old.version < position.version), "a position's image is not newer")?;
                balances.iter().try_for_each(|balance| self.apply_balance(account, balance))
            }
            Event::Opening(balance) => self.apply_balance(account, balance),
            Event::Alarm { .. } | Event::Started { .. } | Event::Stopped { .. } => Ok(()),
        }
    }

    /// Stricter than SQL in one respect: what never changes of an order must not change.
    fn apply_order(&mut self, order: &Order) -> Result<(), Broken> {
        check(matches!(order.attempt, 0 | 1), "CHECK order (attempt)")?;
        check(order.qty > Qty::ZERO && order.filled >= Qty::ZERO, "CHECK order (qty, filled)")?;
        let known_venue_id = if let Some(stored) = self.orders.get_mut(&order.client_id) {
            check(stored.version < order.version, "an order's image is not newer")?;
            check(is_same(stored, order), "what never changes of an order changed")?;
            let venue_id = stored.venue_id;
            stored.clone_from(order);
            venue_id
        } else {
            check(self.robots.contains_key(&order.robot), "FOREIGN KEY order (robot)")?;
            let key = (order.robot, order.key.decision, order.key.leg, order.generation);
            check(self.decisions.insert(key), "UNIQUE order (robot, decision, leg, generation)")?;
            self.orders.insert(order.client_id.clone(), order.clone());
            None
        };
        match order.venue_id {
            Some(venue_id) if known_venue_id.is_none() => {
                let key = (order.account, order.symbol.clone(), venue_id);
                let old = self.at_venue.insert(key, order.client_id.clone());
                check(old.is_none_or(|old| old == order.client_id), "UNIQUE order (account, symbol, venue_id)")
            }
            venue_id => check(venue_id == known_venue_id, "an order's venue_id changed"),
        }
    }

    fn apply_fill(&mut self, account: AccountId, robot: RobotId, fill: &Fill) -> Result<(), Broken> {
        let order = self.orders.get(&fill.client_id);
        check(order.is_some_and(|order| order.account == account), "FOREIGN KEY fill (client_id, account)")?;
        check(fill.qty > Qty::ZERO && fill.price > Price::ZERO, "CHECK fill (qty, price)")?;
        let key = (account, fill.symbol.clone(), fill.trade_id);
        check(self.trades.insert(key), "UNIQUE fill (account, symbol, trade_id)")?;
        let row = i64::try_from(self.fills.len()).unwrap_or(i64::MAX).saturating_add(1);
        self.fills.push(StoredFill { row, account, robot, fill: fill.clone() });
        Ok(())
    }

    fn apply_balance(&mut self, account: AccountId, balance: &Balance) -> Result<(), Broken> {
        let old = self.balances.insert((account, balance.asset.clone()), balance.clone());
        check(old.is_none_or(|old| old.version < balance.version), "a balance's image is not newer")
    }
}

fn is_same(stored: &Order, order: &Order) -> bool {
    let fixed = |order: &Order| {
        (order.account, order.robot, order.key, order.generation, order.side, order.kind, order.tif, order.qty)
    };
    fixed(stored) == fixed(order)
        && (stored.symbol == order.symbol && stored.created_at == order.created_at)
        && stored.expires_at == order.expires_at
}
