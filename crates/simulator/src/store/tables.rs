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

/// The version of the last image of each row in a commit.
#[derive(Debug, Default)]
pub(super) struct Versions<'a> {
    robots: BTreeMap<RobotId, i64>,
    orders: BTreeMap<&'a ClientOrderId, i64>,
    positions: BTreeMap<(RobotId, &'a Symbol), i64>,
    balances: BTreeMap<(AccountId, &'a Asset), i64>,
}

impl<'a> Versions<'a> {
    /// Refuses images of one row that do not follow each other: no database needs to be asked about that.
    pub(super) fn of(account: AccountId, events: &'a [Recorded]) -> Result<Self, Broken> {
        let newer = |old: Option<i64>, version| check(old.is_none_or(|old| old < version), "an image is not newer");
        let mut last = Self::default();
        for recorded in events {
            match &recorded.event {
                Event::Robot(robot) => newer(last.robots.insert(robot.id, robot.version), robot.version)?,
                Event::Order(order) => newer(last.orders.insert(&order.client_id, order.version), order.version)?,
                Event::Fill { position, balances, .. } => {
                    let key = (position.robot, &position.symbol);
                    newer(last.positions.insert(key, position.version), position.version)?;
                    for balance in balances {
                        newer(last.balances.insert((account, &balance.asset), balance.version), balance.version)?;
                    }
                }
                Event::Opening(balance) => {
                    newer(last.balances.insert((account, &balance.asset), balance.version), balance.version)?;
                }
                _ => {}
            }
        }
        Ok(last)
    }
}

fn check(holds: bool, constraint: Broken) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(constraint) }
}

/// Whether a later event of the same commit has another image of this order: an adapter writes only the last.
fn is_overwritten(event: &Event, later: &[Recorded]) -> bool {
    let Event::Order(order) = event else { return false };
    later.iter().any(|after| matches!(&after.event, Event::Order(newer) if newer.client_id == order.client_id))
}

impl Tables {
    /// Takes in the next events of an account. After an error the tables are half changed: build them anew.
    pub(super) fn apply(&mut self, account: AccountId, events: &[Recorded]) -> Result<(), Broken> {
        for (place, recorded) in events.iter().enumerate() {
            if !is_overwritten(&recorded.event, events.get(place + 1..).unwrap_or_default()) {
                self.apply_one(account, recorded)?;
            }
        }
        for recorded in events {
            self.check_references(account, &recorded.event)?;
        }
        if let Some(last) = events.last() {
            self.last.insert(account, last.seq.0);
        }
        Ok(())
    }

    /// Whether the last image of each row is newer than the stored one: an adapter writes no other.
    pub(super) fn check_newer(&self, last: &Versions<'_>) -> Result<(), Broken> {
        let robots = last.robots.iter().all(|(id, last)| self.robots.get(id).is_none_or(|old| old.version < *last));
        let orders = last.orders.iter().all(|(id, last)| self.orders.get(*id).is_none_or(|old| old.version < *last));
        let positions = last.positions.iter().all(|((robot, symbol), last)| {
            self.positions.get(&(*robot, (*symbol).clone())).is_none_or(|old| old.version < *last)
        });
        let balances = last.balances.iter().all(|((account, asset), last)| {
            self.balances.get(&(*account, (*asset).clone())).is_none_or(|old| old.version < *last)
        });
        check(robots && orders && positions && balances, "an image is not newer than the stored one")
    }

    /// Foreign keys hold once all events of a commit are taken in: an adapter writes them table by table.
    fn check_references(&self, account: AccountId, event: &Event) -> Result<(), Broken> {
        match event {
            Event::Strategy { robot, .. } => check(self.robots.contains_key(robot), "FOREIGN KEY state (robot)"),
            Event::Order(order) => check(self.robots.contains_key(&order.robot), "FOREIGN KEY order (robot)"),
            Event::Fill { fill, .. } => {
                let order = self.orders.get(&fill.client_id);
                check(order.is_some_and(|order| order.account == account), "FOREIGN KEY fill (client_id, account)")
            }
            _ => Ok(()),
        }
    }

    fn apply_one(&mut self, account: AccountId, recorded: &Recorded) -> Result<(), Broken> {
        match &recorded.event {
            Event::Command(record) => {
                let key = (record.command.source.clone(), record.command.dedup_key.clone());
                let old = self.signals.insert(key, (account, record.clone()));
                check(old.is_none(), "UNIQUE signal (source, dedup_key)")
            }
            Event::Robot(robot) => {
                self.robots.insert(robot.id, robot.clone());
                Ok(())
            }
            Event::Strategy { robot, state } => {
                self.states.insert(*robot, (state.clone(), recorded.seq));
                Ok(())
            }
            Event::Order(order) => self.apply_order(order),
            Event::Fill { fill, position, balances } => {
                self.apply_fill(account, position.robot, fill)?;
                let key = (position.robot, position.symbol.clone());
                self.positions.insert(key, position.clone());
                for balance in balances {
                    self.apply_balance(account, balance);
                }
                Ok(())
            }
            Event::Opening(balance) => {
                self.apply_balance(account, balance);
                Ok(())
            }
            Event::Alarm { .. } | Event::Started { .. } | Event::Stopped { .. } => Ok(()),
        }
    }

    /// Stricter than SQL in one respect: what never changes of an order must not change.
    fn apply_order(&mut self, order: &Order) -> Result<(), Broken> {
        check(matches!(order.attempt, 0 | 1), "CHECK order (attempt)")?;
        check(order.qty > Qty::ZERO && order.filled >= Qty::ZERO, "CHECK order (qty, filled)")?;
        let known_venue_id = if let Some(stored) = self.orders.get_mut(&order.client_id) {
            check(is_same(stored, order), "what never changes of an order changed")?;
            let venue_id = stored.venue_id;
            stored.clone_from(order);
            venue_id
        } else {
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
        check(fill.qty > Qty::ZERO && fill.price > Price::ZERO, "CHECK fill (qty, price)")?;
        let key = (account, fill.symbol.clone(), fill.trade_id);
        check(self.trades.insert(key), "UNIQUE fill (account, symbol, trade_id)")?;
        let row = i64::try_from(self.fills.len()).unwrap_or(i64::MAX).saturating_add(1);
        self.fills.push(StoredFill { row, account, robot, fill: fill.clone() });
        Ok(())
    }

    fn apply_balance(&mut self, account: AccountId, balance: &Balance) {
        self.balances.insert((account, balance.asset.clone()), balance.clone());
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
