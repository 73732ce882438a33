//! Reads the accounts of a database. Of an event only as much is parsed as says which row it carries; the rest is
//! compared as text, and parsed where that differs.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use trading::event::{Event, Recorded};
use trading::ids::{AccountId, Epoch, RobotId, Seq, TradeId};
use trading::market::Asset;
use trading::order::Status;
use trading::position::Balance;

use super::ours::{Ours, digest, digest_text, digest_with};
use super::{Key, Progress};
use crate::store::dump::{Dump, StoredEvent, StoredRow};
use crate::store::{Database, StoreError};

/// How many rows that differ from their events are looked at again, to say in what.
const EXPLAINED: usize = 1_000;

/// Reads all accounts of a database, by their labels.
pub(super) fn read(database: &Database, progress: &Progress) -> Result<BTreeMap<String, Account>, StoreError> {
    read_from(&mut Dump::open(database)?, progress)
}

pub(super) fn read_from(dump: &mut Dump, progress: &Progress) -> Result<BTreeMap<String, Account>, StoreError> {
    progress.rows_to_read(dump.rows()?);
    let mut labels = BTreeMap::<AccountId, String>::new();
    let mut accounts = HashMap::<AccountId, Ours>::new();
    dump.tables(&mut |row| {
        progress.row();
        let id = account_of(&row);
        let ours = accounts.entry(id).or_default();
        match row {
            StoredRow::Account(account) => drop(labels.insert(id, account.label)),
            StoredRow::Robot(robot) => ours.add_robot(&robot),
            StoredRow::State(robot, state, seq) => ours.add_state(robot, state, seq.0),
            StoredRow::Order(order) => ours.add_order(order),
            StoredRow::Fill(row) => ours.add_fill(row.robot, &row.fill),
            StoredRow::Position(position) => ours.add_position(position),
            StoredRow::Balance(_, balance) => ours.add_balance(balance),
            StoredRow::Command(_, record) => ours.add_command(record),
        }
    })?;
    accounts.values_mut().for_each(Ours::tables_are_read);
    dump.events(&mut |event| {
        progress.row();
        add_event(accounts.entry(event.account).or_default(), &event)
    })?;
    dump.numbers(&mut |account, seq| accounts.entry(account).or_default().number(seq.0))?;
    let mut drifts = explain(dump, &accounts)?;
    // Rows refer to accounts by foreign keys; where none is there, the number names it.
    let label = |id: AccountId| labels.get(&id).cloned().unwrap_or_else(|| format!("account {id}"));
    let named = |(id, ours)| (label(id), Account { ours, drifts: drifts.remove(&id).unwrap_or_default() });
    Ok(accounts.into_iter().map(named).collect())
}

/// An account, and what its tables and its events disagree about.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) ours: Ours,
    pub(super) drifts: Vec<Drift>,
}

/// A row that is not what its events add up to.
#[derive(Debug)]
pub(super) struct Drift {
    pub(super) key: Key,
    /// The last event that carries the row; 0 if none does.
    pub(super) seq: i64,
    /// What the table and the event say, field by field, if that is known.
    pub(super) fields: Vec<String>,
}

fn account_of(row: &StoredRow) -> AccountId {
    match row {
        StoredRow::Account(account) => account.id,
        StoredRow::Robot(robot) => robot.account,
        StoredRow::State(robot, ..) => robot.account(),
        StoredRow::Order(order) => order.account,
        StoredRow::Fill(fill) => fill.account,
        StoredRow::Position(position) => position.robot.account(),
        StoredRow::Command(account, _) | StoredRow::Balance(account, _) => *account,
    }
}

/// The fields of an event that name the row it carries.
macro_rules! named {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Deserialize)]
        struct $name<'a> {
            #[serde(borrow)]
            event: Cow<'a, str>,
            $($(#[$attribute])* $field: $type,)*
        }

        impl Tag for $name<'_> {
            fn tag(&self) -> &str {
                &self.event
            }
        }
    )*};
}

/// What an event says that it is.
trait Tag {
    fn tag(&self) -> &str;
}

named! {
    AnyEvent {}
    CommandEvent { #[serde(borrow)] source: Cow<'a, str>, #[serde(borrow)] dedup_key: Cow<'a, str>, }
    RobotEvent { id: RobotId, }
    StateEvent { robot: RobotId, }
    OrderEvent { #[serde(borrow)] client_id: Cow<'a, str>, status: Status, epoch: Epoch, }
    FillEvent {
        #[serde(borrow)] fill: &'a RawValue,
        #[serde(borrow)] position: &'a RawValue,
        #[serde(borrow)] balances: Vec<&'a RawValue>,
    }
    StartedEvent { epoch: Epoch, }
}

#[derive(Deserialize)]
struct FillName<'a> {
    #[serde(borrow)]
    symbol: Cow<'a, str>,
    trade_id: TradeId,
}

#[derive(Deserialize)]
struct PositionName<'a> {
    robot: RobotId,
    #[serde(borrow)]
    symbol: Cow<'a, str>,
}

#[derive(Deserialize)]
struct BalanceName<'a> {
    #[serde(borrow)]
    asset: Cow<'a, str>,
}

fn corrupt(event: &StoredEvent<'_>, detail: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("event {} of account {}: {detail}", event.seq, event.account))
}

fn parse<'a, T: Deserialize<'a> + Tag>(event: &StoredEvent<'a>) -> Result<T, StoreError> {
    let parsed: T = serde_json::from_str(event.payload).map_err(|error| corrupt(event, error))?;
    if parsed.tag() == event.kind {
        Ok(parsed)
    } else {
        Err(corrupt(event, format_args!("it says that it is `{}`, its row `{}`", parsed.tag(), event.kind)))
    }
}

fn add_event(ours: &mut Ours, event: &StoredEvent<'_>) -> Result<(), StoreError> {
    let (text, seq) = (event.payload, event.seq.0);
    ours.wrote(event.at);
    match event.kind {
        "order" => {
            let order: OrderEvent<'_> = parse(event)?;
            ours.order_event(&order.client_id, digest_text(text), seq);
            if order.status == Status::Sending {
                ours.attempted(&order.client_id, seq, order.epoch);
            }
        }
        "command" => {
            let command: CommandEvent<'_> = parse(event)?;
            ours.command_event(&command.source, &command.dedup_key, digest_text(text), seq);
        }
        "fill" => add_fill(ours, event)?,
        "robot" => ours.other_event(Key::Robot(parse::<RobotEvent<'_>>(event)?.id), digest_text(text), seq),
        "strategy" => ours.state_event(parse::<StateEvent<'_>>(event)?.robot, digest_text(text), seq),
        "opening" => {
            let opening: Event = serde_json::from_str(text).map_err(|error| corrupt(event, error))?;
            let Event::Opening(balance) = opening else { return Err(corrupt(event, "it is no opening")) };
            ours.other_event(Key::Balance(balance.asset.clone()), digest(&balance), seq);
        }
        "started" => ours.started(seq, parse::<StartedEvent<'_>>(event)?.epoch, event.at),
        "alarm" | "stopped" => drop(parse::<AnyEvent<'_>>(event)?),
        other => return Err(corrupt(event, format_args!("nothing is known of events of kind `{other}`"))),
    }
    Ok(())
}

fn add_fill(ours: &mut Ours, event: &StoredEvent<'_>) -> Result<(), StoreError> {
    fn name<'a, T: Deserialize<'a>>(event: &StoredEvent<'_>, text: &'a RawValue) -> Result<T, StoreError> {
        serde_json::from_str(text.get()).map_err(|error| corrupt(event, error))
    }
    let FillEvent { fill, position, balances, .. } = parse(event)?;
    let seq = event.seq.0;
    let FillName { symbol, trade_id } = name(event, fill)?;
    let symbol = ours.symbol(&symbol).map_err(|error| corrupt(event, error))?;
    let PositionName { robot, symbol: held } = name(event, position)?;
    ours.fill_event(&symbol, trade_id, digest_with(digest_text(fill.get()), robot.0), seq);
    let symbol = ours.symbol(&held).map_err(|error| corrupt(event, error))?;
    ours.other_event(Key::Position(robot, symbol), digest_text(position.get()), seq);
    for balance in balances {
        let BalanceName { asset } = name(event, balance)?;
        ours.other_event(Key::Balance(Asset::new(&asset)), digest_text(balance.get()), seq);
    }
    Ok(())
}

/// Looks again at the rows whose text is not that of their last event: an equal value may have been written in another way.
fn explain(dump: &mut Dump, accounts: &HashMap<AccountId, Ours>) -> Result<HashMap<AccountId, Vec<Drift>>, StoreError> {
    let mut drifts = HashMap::<AccountId, Vec<Drift>>::new();
    let mut wanted = BTreeSet::new();
    for (account, ours) in accounts {
        for (key, seq) in ours.odd() {
            if wanted.len() < EXPLAINED && seq != 0 {
                wanted.insert((*account, key.clone()));
            }
            drifts.entry(*account).or_default().push(Drift { key, seq, fields: Vec::new() });
        }
    }
    if wanted.is_empty() {
        return Ok(drifts);
    }
    let mut rows = BTreeMap::new();
    dump.tables(&mut |row| {
        let account = account_of(&row);
        if let Some((key, value)) = row_image(row)
            && wanted.contains(&(account, key.clone()))
        {
            rows.insert((account, key), value);
        }
    })?;
    for (account, drifts) in &mut drifts {
        let mut lasting = Vec::new();
        for mut drift in drifts.drain(..) {
            if let Some(row) = rows.get(&(*account, drift.key.clone()))
                && let Some(event) = dump.event(*account, Seq(drift.seq))?
            {
                drift.fields = differences(row, &event_image(&event, &drift.key));
                if drift.fields.is_empty() {
                    continue;
                }
            }
            lasting.push(drift);
        }
        *drifts = lasting;
    }
    Ok(drifts)
}

fn row_image(row: StoredRow) -> Option<(Key, Value)> {
    let value = |value: Result<Value, serde_json::Error>| value.unwrap_or(Value::Null);
    Some(match row {
        StoredRow::Account(_) => return None,
        StoredRow::Robot(robot) => (Key::Robot(robot.id), value(serde_json::to_value(robot))),
        StoredRow::State(robot, state, seq) => {
            (Key::State(robot), serde_json::json!({ "state": state, "at_seq": seq }))
        }
        StoredRow::Order(order) => (Key::Order(order.client_id.clone()), value(serde_json::to_value(order))),
        StoredRow::Fill(row) => {
            let key = Key::Fill(row.fill.symbol.clone(), row.fill.trade_id);
            (key, serde_json::json!({ "robot": row.robot, "fill": row.fill }))
        }
        StoredRow::Position(row) => (Key::Position(row.robot, row.symbol.clone()), value(serde_json::to_value(row))),
        StoredRow::Balance(_, balance) => (Key::Balance(balance.asset.clone()), value(serde_json::to_value(balance))),
        StoredRow::Command(_, record) => {
            let key = Key::Signal(record.command.source.clone(), record.command.dedup_key.clone());
            (key, value(serde_json::to_value(record)))
        }
    })
}

/// The row that an event carries, in the same form.
fn event_image(recorded: &Recorded, key: &Key) -> Value {
    let balance_of = |balances: &[Balance]| match key {
        Key::Balance(asset) => balances.iter().find(|balance| balance.asset == *asset).map(serde_json::to_value),
        _ => None,
    };
    let image = match &recorded.event {
        Event::Command(record) => Some(serde_json::to_value(record)),
        Event::Robot(robot) => Some(serde_json::to_value(robot)),
        Event::Strategy { state, .. } => Some(Ok(serde_json::json!({ "state": state, "at_seq": recorded.seq }))),
        Event::Order(order) => Some(serde_json::to_value(order)),
        Event::Fill { fill, position, .. } if matches!(key, Key::Fill(..)) => {
            Some(Ok(serde_json::json!({ "robot": position.robot, "fill": fill })))
        }
        Event::Fill { position, .. } if matches!(key, Key::Position(..)) => Some(serde_json::to_value(position)),
        Event::Fill { balances, .. } => balance_of(balances),
        Event::Opening(balance) => Some(serde_json::to_value(balance)),
        Event::Alarm { .. } | Event::Started { .. } | Event::Stopped { .. } => None,
    };
    image.and_then(Result::ok).unwrap_or(Value::Null)
}

fn differences(row: &Value, event: &Value) -> Vec<String> {
    let (Value::Object(row), Value::Object(event)) = (row, event) else {
        return if row == event { Vec::new() } else { vec!["it is another kind of row".to_owned()] };
    };
    let names: BTreeSet<&String> = row.keys().chain(event.keys()).collect();
    let differing = names.into_iter().filter(|name| row.get(*name) != event.get(*name));
    let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    differing.map(|name| format!("{name} is {} and {}", shown(row.get(name)), shown(event.get(name)))).collect()
}
