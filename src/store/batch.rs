//! What a transaction writes, whichever database: the last image of each key, as one JSON array a table.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::Serialize;
use trading::command::{Outcome, Record, Wish};
use trading::event::{Event, Recorded};
use trading::exchange::{Fill, OrderKind};
use trading::ids::{AccountId, ClientOrderId, RobotId, Seq};
use trading::market::{Asset, Symbol};
use trading::order::Order;
use trading::position::{Balance, Position};
use trading::robot::{Robot, StrategyState};

use super::{Commit, CommitError, Lease};

/// Refuses what no database needs to be asked about: gaps within the commit, and rows of another account.
pub(super) fn check_shape(commit: &Commit) -> Result<(), CommitError> {
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

/// What one transaction writes.
#[derive(Default)]
pub(super) struct Batch<'a> {
    accounts: BTreeMap<AccountId, Span<'a>>,
    robots: BTreeMap<RobotId, &'a Robot>,
    states: BTreeMap<RobotId, (Seq, &'a StrategyState)>,
    signals: Vec<(AccountId, &'a Record)>,
    orders: BTreeMap<(AccountId, &'a ClientOrderId), &'a Order>,
    fills: Vec<(AccountId, RobotId, &'a Fill)>,
    positions: BTreeMap<(RobotId, &'a Symbol), &'a Position>,
    balances: BTreeMap<(AccountId, &'a Asset), &'a Balance>,
    events: Vec<(AccountId, &'a Recorded)>,
}

struct Span<'a> {
    lease: &'a Lease,
    first: i64,
    next: i64,
}

/// The commits do not fit into one transaction; each alone may.
#[derive(Debug)]
pub(super) struct Misfit(pub(super) &'static str);

impl<'a> Batch<'a> {
    /// Merges commits.
    pub(super) fn of(commits: impl Iterator<Item = &'a Commit>) -> Result<Self, Misfit> {
        let mut batch = Self::default();
        for commit in commits {
            batch.add(commit)?;
        }
        Ok(batch)
    }

    fn add(&mut self, commit: &'a Commit) -> Result<(), Misfit> {
        let (Some(first), Some(last)) = (commit.events.first(), commit.events.last()) else { return Ok(()) };
        let account = commit.lease.account;
        let next = last.seq.0.saturating_add(1);
        match self.accounts.entry(account) {
            Entry::Vacant(entry) => {
                entry.insert(Span { lease: &commit.lease, first: first.seq.0, next });
            }
            Entry::Occupied(mut entry) => {
                let span = entry.get_mut();
                if span.next != first.seq.0 || *span.lease != commit.lease {
                    return Err(Misfit("the events do not continue those before them"));
                }
                span.next = next;
            }
        }
        commit.events.iter().try_for_each(|recorded| self.add_event(account, recorded))
    }

    fn add_event(&mut self, account: AccountId, recorded: &'a Recorded) -> Result<(), Misfit> {
        self.events.push((account, recorded));
        match &recorded.event {
            Event::Command(record) => self.signals.push((account, record)),
            Event::Robot(robot) => newer(&mut self.robots, robot.id, robot, |robot| robot.version)?,
            Event::Strategy { robot, state } => {
                self.states.insert(*robot, (recorded.seq, state));
            }
            Event::Order(order) => {
                newer(&mut self.orders, (account, &order.client_id), order, |order| order.version)?;
            }
            Event::Fill { fill, position, balances } => {
                self.fills.push((account, position.robot, fill));
                newer(&mut self.positions, (position.robot, &position.symbol), position, |row| row.version)?;
                for balance in balances {
                    newer(&mut self.balances, (account, &balance.asset), balance, |row| row.version)?;
                }
            }
            Event::Opening(balance) => {
                newer(&mut self.balances, (account, &balance.asset), balance, |row| row.version)?;
            }
            Event::Alarm { .. } | Event::Started { .. } | Event::Stopped { .. } => {}
        }
        Ok(())
    }

    /// The rows of each table.
    pub(super) fn tables(&self) -> Result<Tables, serde_json::Error> {
        Ok(Tables {
            guard: table(&self.accounts, |row, (account, span)| {
                row.put(&lease_name(*account))?;
                row.put(&span.lease.owner)?;
                row.put(&span.lease.epoch)?;
                row.put(account)?;
                row.put(&span.first)
            })?,
            robots: table(self.robots.values(), |row, robot| put_robot(row, robot))?,
            states: table(&self.states, |row, (robot, (seq, state))| {
                row.put(robot)?;
                row.put(&robot.account())?;
                row.put_json(state)?;
                row.put(seq)
            })?,
            signals: table(&self.signals, |row, (account, record)| put_record(row, *account, record))?,
            orders: table(self.orders.values(), |row, order| put_order(row, order))?,
            fills: table(&self.fills, |row, (account, robot, fill)| put_fill(row, *account, *robot, fill))?,
            positions: table(self.positions.values(), |row, position| put_position(row, position))?,
            balances: table(&self.balances, |row, ((account, _), balance)| {
                row.put(account)?;
                row.put(&balance.asset)?;
                row.put(&balance.total)?;
                row.put(&balance.opening)?;
                row.put(&balance.version)
            })?,
        })
    }

    /// All events, those of an account in their order.
    pub(super) fn events(&self) -> &[(AccountId, &'a Recorded)] {
        &self.events
    }
}

/// The rows that a transaction writes into each table but that of the events; none where there is nothing to write.
pub(super) struct Tables {
    /// `[lease name, owner, epoch, account, first sequence number]` per account.
    pub(super) guard: Option<Rows>,
    pub(super) robots: Option<Rows>,
    pub(super) states: Option<Rows>,
    pub(super) signals: Option<Rows>,
    pub(super) orders: Option<Rows>,
    pub(super) fills: Option<Rows>,
    pub(super) positions: Option<Rows>,
    pub(super) balances: Option<Rows>,
}

/// One table's rows as a JSON array of arrays, each in the order of its statement's columns. JSON in a column is a text.
#[derive(Clone)]
pub(super) struct Rows {
    pub(super) json: String,
    pub(super) count: i64,
}

/// The rows that `put` makes of these, if there are any.
pub(super) fn table<T>(
    rows: impl IntoIterator<Item = T>,
    mut put: impl FnMut(&mut Row<'_>, T) -> Result<(), serde_json::Error>,
) -> Result<Option<Rows>, serde_json::Error> {
    let mut json = Vec::with_capacity(256);
    let mut count = 0_i64;
    for row in rows {
        json.push(if count == 0 { b'[' } else { b',' });
        json.push(b'[');
        put(&mut Row { json: &mut json, first: true }, row)?;
        json.push(b']');
        count += 1;
    }
    if count == 0 {
        return Ok(None);
    }
    json.push(b']');
    let json = String::from_utf8(json).map_err(serde::ser::Error::custom)?;
    Ok(Some(Rows { json, count }))
}

/// The name of an account's lease.
pub(super) fn lease_name(account: AccountId) -> String {
    format!("account/{account}")
}

/// Keeps the newer image of a key. Within a transaction versions must grow as they must in the table.
fn newer<K: Ord, T>(images: &mut BTreeMap<K, T>, key: K, image: T, version: impl Fn(&T) -> i64) -> Result<(), Misfit> {
    match images.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(image);
        }
        Entry::Occupied(mut entry) => {
            if version(&image) <= version(entry.get()) {
                return Err(Misfit("an image is not newer than the one before it"));
            }
            entry.insert(image);
        }
    }
    Ok(())
}

/// One row as a JSON array, written value by value in the order of its statement's columns.
pub(super) struct Row<'a> {
    json: &'a mut Vec<u8>,
    first: bool,
}

impl Row<'_> {
    pub(super) fn put<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), serde_json::Error> {
        if !self.first {
            self.json.push(b',');
        }
        self.first = false;
        serde_json::to_writer(&mut *self.json, value)
    }

    /// A value that is kept as JSON: as the text of it, which no database reads on the way.
    fn put_json<T: Serialize>(&mut self, value: &T) -> Result<(), serde_json::Error> {
        self.put(&serde_json::to_string(value)?)
    }
}

fn put_robot(row: &mut Row<'_>, robot: &Robot) -> Result<(), serde_json::Error> {
    row.put(&robot.id)?;
    row.put(&robot.account)?;
    row.put(&robot.name)?;
    row.put(robot.config.kind())?;
    row.put(&robot.symbol)?;
    row.put_json(&robot.config)?;
    row.put_json(&robot.limits)?;
    row.put(&robot.desired)?;
    row.put(&robot.run)?;
    row.put(&robot.reason)?;
    row.put(&robot.stop_policy)?;
    row.put(&robot.decision_seq)?;
    row.put(&robot.webhook_hash)?;
    row.put(&robot.created_at)?;
    row.put(&robot.version)
}

fn put_record(row: &mut Row<'_>, account: AccountId, record: &Record) -> Result<(), serde_json::Error> {
    let (robot, expires_at) = match &record.command.wish {
        Wish::Signal(signal) => (Some(signal.robot), signal.expires_at),
        Wish::StartRobot { robot } | Wish::StopRobot { robot, .. } | Wish::HaltRobot { robot, .. } => {
            (Some(*robot), None)
        }
        Wish::CreateRobot(_) | Wish::Kill { .. } | Wish::CancelOrder { .. } => (None, None),
    };
    let (robot, outcome) = match &record.outcome {
        Outcome::Done { robot: about, .. } => (robot.or(*about), "done"),
        Outcome::Denied { .. } => (robot, "denied"),
        Outcome::Skipped { .. } => (robot, "skipped"),
        Outcome::Invalid { .. } => (robot, "invalid"),
        Outcome::NotFound { .. } => (robot, "not_found"),
    };
    row.put(&record.command.source)?;
    row.put(&record.command.dedup_key)?;
    row.put(&account)?;
    row.put(&robot)?;
    row.put_json(&record.command.wish)?;
    row.put(&record.received_at)?;
    row.put(&expires_at)?;
    row.put(outcome)?;
    row.put_json(&record.outcome)
}

fn put_order(row: &mut Row<'_>, order: &Order) -> Result<(), serde_json::Error> {
    let (kind, stop_price) = match order.kind {
        OrderKind::Market => ("market", None),
        OrderKind::Limit { .. } => ("limit", None),
        OrderKind::PostOnly { .. } => ("post_only", None),
        OrderKind::StopLimit { stop_price, .. } => ("stop_limit", Some(stop_price)),
    };
    row.put(&order.client_id)?;
    row.put(&order.account)?;
    row.put(&order.robot)?;
    row.put(&order.key.decision)?;
    row.put(&order.key.leg)?;
    row.put(&order.generation)?;
    row.put(&order.symbol)?;
    row.put(&order.side)?;
    row.put(kind)?;
    row.put(&order.kind.price())?;
    row.put(&stop_price)?;
    row.put(&order.tif)?;
    row.put(&order.qty)?;
    row.put(order.status.as_str())?;
    row.put(order.cancel.as_str())?;
    row.put(&order.attempt)?;
    row.put(&order.epoch)?;
    row.put(&order.sent_at)?;
    row.put(&order.deadline)?;
    row.put(&order.expires_at)?;
    row.put(&order.venue_id)?;
    row.put(&order.filled)?;
    row.put(&order.filled_quote)?;
    row.put(&order.reported)?;
    row.put(&order.reason)?;
    row.put(&order.created_at)?;
    row.put(&order.updated_at)?;
    row.put(&order.version)
}

fn put_fill(row: &mut Row<'_>, account: AccountId, robot: RobotId, fill: &Fill) -> Result<(), serde_json::Error> {
    row.put(&account)?;
    row.put(&robot)?;
    row.put(&fill.client_id)?;
    row.put(&fill.venue_id)?;
    row.put(&fill.symbol)?;
    row.put(&fill.trade_id)?;
    row.put(&fill.side)?;
    row.put(&fill.price)?;
    row.put(&fill.qty)?;
    row.put(&fill.fee)?;
    row.put(&fill.fee_asset)?;
    row.put(&fill.maker)?;
    row.put(&fill.at)
}

fn put_position(row: &mut Row<'_>, position: &Position) -> Result<(), serde_json::Error> {
    row.put(&position.robot)?;
    row.put(&position.symbol)?;
    row.put(&position.robot.account())?;
    row.put(&position.qty)?;
    row.put(&position.cost)?;
    row.put(&position.realized)?;
    row.put(&position.fees)?;
    row.put(&position.version)
}

/// A unit variant's name, as serde writes it.
pub(super) fn name_of<T: Serialize>(value: &T) -> Result<String, sqlx::Error> {
    let json = serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))?;
    Ok(json.trim_matches('"').to_owned())
}
