//! An account of the database, small enough that millions of orders fit: of each row what the checks compare, and digests
//! of the rest. The tables come first, then the events.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;

use serde::Serialize;
use trading::command::{Outcome, Record, Wish};
use trading::event::Event;
use trading::exchange::{Fill, OrderKind, Side};
use trading::ids::{ClientOrderId, Epoch, OrderKey, RobotId, TradeId, VenueOrderId};
use trading::market::{Asset, ParseSymbolError, Symbol};
use trading::money::{Amount, Price, Qty};
use trading::order::{Order, Status};
use trading::position::{Balance, Position};
use trading::robot::{Robot, StrategyState};
use trading::time::Timestamp;

use super::Key;

/// A row's digest beside that of the last event that carries the row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Image {
    row: u64,
    event: u64,
    /// The last event's number; 0 if there is none.
    pub(super) seq: i64,
}

impl Image {
    fn of(row: u64) -> Self {
        Self { row, ..Self::default() }
    }

    /// Whether the row is what the last of its events says.
    pub(super) fn agrees(&self) -> bool {
        self.row == self.event && self.seq != 0
    }
}

/// An order of ours.
#[derive(Debug)]
pub(super) struct OurOrder {
    pub(super) id: Arc<str>,
    pub(super) robot: RobotId,
    pub(super) key: OrderKey,
    pub(super) generation: i32,
    pub(super) symbol: Symbol,
    pub(super) side: Side,
    pub(super) kind: OrderKind,
    pub(super) qty: Qty,
    pub(super) status: Status,
    pub(super) filled: Qty,
    pub(super) epoch: Epoch,
    pub(super) sent_at: Option<Timestamp>,
    pub(super) venue_id: Option<VenueOrderId>,
    /// What its fills sum up to.
    pub(super) booked: Qty,
    /// The event that committed the attempt, and under which epoch.
    pub(super) attempt: Option<(i64, Epoch)>,
    pub(super) image: Image,
}

/// A fill of ours.
#[derive(Debug)]
pub(super) struct OurFill {
    pub(super) robot: RobotId,
    pub(super) symbol: Symbol,
    pub(super) trade_id: TradeId,
    /// Which of our orders.
    pub(super) order: Option<usize>,
    pub(super) side: Side,
    pub(super) price: Price,
    pub(super) qty: Qty,
    pub(super) fee: Amount,
    pub(super) fee_asset: Asset,
    pub(super) image: Image,
}

/// Rows in the order in which they came, found by a key.
#[derive(Debug)]
pub(super) struct Rows<K, V> {
    index: HashMap<K, u32>,
    rows: Vec<V>,
}

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self { index: HashMap::new(), rows: Vec::new() }
    }
}

impl<K: Hash + Eq, V> Rows<K, V> {
    fn push(&mut self, key: K, row: V) {
        if let Ok(place) = u32::try_from(self.rows.len()) {
            self.index.insert(key, place);
            self.rows.push(row);
        }
    }

    pub(super) fn place<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        self.index.get(key).and_then(|place| usize::try_from(*place).ok())
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.rows.get(self.place(key)?)
    }

    fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key)?;
        self.rows.get_mut(place)
    }

    pub(super) fn at(&self, place: usize) -> Option<&V> {
        self.rows.get(place)
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, V> {
        self.rows.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }
}

/// An account in the database.
#[derive(Debug, Default)]
pub(super) struct Ours {
    pub(super) orders: Rows<Arc<str>, OurOrder>,
    pub(super) fills: Rows<(Symbol, i64), OurFill>,
    /// By source and dedup key, put together by [`signal_name`].
    signals: Rows<Arc<str>, (Arc<str>, Image)>,
    pub(super) robots: BTreeSet<RobotId>,
    pub(super) positions: BTreeMap<(RobotId, Symbol), Position>,
    pub(super) balances: BTreeMap<Asset, Balance>,
    /// The few rows that are not orders, fills or signals.
    others: BTreeMap<Key, Image>,
    /// C5: what is wrong with the outcomes of commands, in sentences.
    pub(super) commands: Vec<String>,
    /// Which signal planned an order, by the order's place.
    planned: HashMap<usize, Arc<str>>,
    /// Rows that events tell of and no table has.
    pub(super) rowless: BTreeMap<Key, i64>,
    /// Rows that are written once, and were written again: by which event.
    pub(super) repeated: BTreeMap<Key, i64>,
    /// Where the numbering breaks: the number before, and the one after.
    pub(super) gaps: Vec<(i64, i64)>,
    last: i64,
    pub(super) events: usize,
    /// The latest time of any event so far.
    latest: Timestamp,
    /// When each epoch began: the event's number, the epoch, its time.
    pub(super) epochs: Vec<(i64, Epoch, Timestamp)>,
    symbols: BTreeSet<Symbol>,
    assets: BTreeSet<Asset>,
}

/// The one copy of an equal name.
fn shared<T: Ord + Clone>(names: &mut BTreeSet<T>, name: &T) -> T {
    if let Some(known) = names.get(name) {
        return known.clone();
    }
    names.insert(name.clone());
    name.clone()
}

/// A signal's name as one text. No source holds the separator.
pub(super) fn signal_name(source: &str, dedup_key: &str) -> String {
    format!("{source}\n{dedup_key}")
}

/// Its source and dedup key.
pub(super) fn signal_parts(name: &str) -> (&str, &str) {
    name.split_once('\n').unwrap_or((name, ""))
}

/// The tables.
impl Ours {
    pub(super) fn add_order(&mut self, order: Order) {
        let (id, robot, key, generation) =
            (Arc::from(order.client_id.as_str()), order.robot, order.key, order.generation);
        let symbol = shared(&mut self.symbols, &order.symbol);
        let event = Event::Order(order);
        let image = Image::of(digest(&event));
        let Event::Order(order) = event else { return };
        let row = OurOrder {
            id: Arc::clone(&id),
            robot,
            key,
            generation,
            symbol,
            side: order.side,
            kind: order.kind,
            qty: order.qty,
            status: order.status,
            filled: order.filled,
            epoch: order.epoch,
            sent_at: order.sent_at,
            venue_id: order.venue_id,
            booked: Qty::ZERO,
            attempt: None,
            image,
        };
        self.orders.push(id, row);
    }

    pub(super) fn add_fill(&mut self, robot: RobotId, fill: &Fill) {
        let symbol = shared(&mut self.symbols, &fill.symbol);
        let order = self.orders.place(fill.client_id.as_str());
        if let Some(order) = self.orders.get_mut(fill.client_id.as_str()) {
            order.booked += fill.qty;
        }
        let row = OurFill {
            robot,
            symbol: symbol.clone(),
            trade_id: fill.trade_id,
            order,
            side: fill.side,
            price: fill.price,
            qty: fill.qty,
            fee: fill.fee,
            fee_asset: shared(&mut self.assets, &fill.fee_asset),
            image: Image::of(digest_with(digest(fill), robot.0)),
        };
        self.fills.push((symbol, fill.trade_id.0), row);
    }

    pub(super) fn add_robot(&mut self, robot: &Robot) {
        self.robots.insert(robot.id);
        self.others.insert(Key::Robot(robot.id), Image::of(digest(&Event::Robot(robot.clone()))));
    }

    /// The number of the event is part of the row.
    pub(super) fn add_state(&mut self, robot: RobotId, state: StrategyState, seq: i64) {
        let row = digest_with(digest(&Event::Strategy { robot, state }), seq);
        self.others.insert(Key::State(robot), Image::of(row));
    }

    pub(super) fn add_position(&mut self, position: Position) {
        let key = (position.robot, position.symbol.clone());
        self.others.insert(Key::Position(key.0, key.1.clone()), Image::of(digest(&position)));
        self.positions.insert(key, position);
    }

    pub(super) fn add_balance(&mut self, balance: Balance) {
        self.others.insert(Key::Balance(balance.asset.clone()), Image::of(digest(&balance)));
        self.balances.insert(balance.asset.clone(), balance);
    }

    /// After the orders and the robots, to which it may refer.
    pub(super) fn add_command(&mut self, record: Record) {
        let name: Arc<str> = signal_name(&record.command.source, &record.command.dedup_key).into();
        let event = Event::Command(record);
        let image = Image::of(digest(&event));
        if let Event::Command(record) = &event {
            self.judge(&name, record);
        }
        self.signals.push(Arc::clone(&name), (name, image));
    }

    /// C5: every command has one outcome, and that is what was done.
    fn judge(&mut self, name: &Arc<str>, record: &Record) {
        let (source, dedup_key) = signal_parts(name);
        let mut find = |what: String| self.commands.push(format!("signal `{dedup_key}` of `{source}` {what}"));
        let unsaid = |what: &str, text: &str| text.trim().is_empty().then(|| format!("was {what} without a reason"));
        let (robot, orders) = match &record.outcome {
            Outcome::Done { robot, orders } => (robot, orders),
            Outcome::Denied { reason } => return unsaid("denied", reason).into_iter().for_each(find),
            Outcome::Skipped { reason } => return unsaid("skipped", reason).into_iter().for_each(find),
            Outcome::Invalid { reason, .. } => return unsaid("called invalid", reason).into_iter().for_each(find),
            Outcome::NotFound { what } => return unsaid("answered with `not found`", what).into_iter().for_each(find),
        };
        match robot {
            Some(robot) if !self.robots.contains(robot) => {
                find(format!("was done for robot {robot}, which does not exist here"));
            }
            None if matches!(record.command.wish, Wish::CreateRobot(_)) => {
                find("made a robot, but its outcome names none".to_owned());
            }
            _ => {}
        }
        for id in orders {
            match self.orders.place(id.as_str()) {
                None => find(format!("planned order {id}, which does not exist here")),
                Some(place) if matches!(record.command.wish, Wish::Signal(_)) => {
                    if let Some(other) = self.planned.insert(place, Arc::clone(name)) {
                        let (source, dedup_key) = signal_parts(&other);
                        find(format!("planned order {id}, which signal `{dedup_key}` of `{source}` planned too"));
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// The tables are read: what only that needed is let go.
    pub(super) fn tables_are_read(&mut self) {
        self.planned = HashMap::new();
    }

    pub(super) fn has_signal(&self, source: &str, dedup_key: &str) -> bool {
        self.signals.place(signal_name(source, dedup_key).as_str()).is_some()
    }

    pub(super) fn signals(&self) -> usize {
        self.signals.len()
    }
}

/// The events.
impl Ours {
    /// The next number, in the order of the numbers.
    pub(super) fn number(&mut self, seq: i64) {
        if Some(seq) != self.last.checked_add(1) {
            self.gaps.push((self.last, seq));
        }
        self.last = seq;
        self.events += 1;
    }

    pub(super) fn order_event(&mut self, id: &str, event: u64, seq: i64) {
        match self.orders.get_mut(id) {
            Some(order) => newer(&mut order.image, event, seq),
            None => self.without_row(Key::Order(ClientOrderId::from_venue(id)), seq),
        }
    }

    /// The event with this number committed an attempt of the order.
    pub(super) fn attempted(&mut self, id: &str, seq: i64, epoch: Epoch) {
        if let Some(order) = self.orders.get_mut(id) {
            order.attempt = Some((seq, epoch));
        }
    }

    /// `event` is that of the fill with its robot.
    pub(super) fn fill_event(&mut self, symbol: &Symbol, trade_id: TradeId, event: u64, seq: i64) {
        let key = || Key::Fill(symbol.clone(), trade_id);
        match self.fills.get_mut(&(symbol.clone(), trade_id.0)) {
            Some(fill) => {
                if once(&mut fill.image, event, seq) {
                    self.repeated.insert(key(), seq);
                }
            }
            None => self.without_row(key(), seq),
        }
    }

    pub(super) fn command_event(&mut self, source: &str, dedup_key: &str, event: u64, seq: i64) {
        let key = || Key::Signal(source.to_owned(), dedup_key.to_owned());
        match self.signals.get_mut(signal_name(source, dedup_key).as_str()) {
            Some((_, image)) => {
                if once(image, event, seq) {
                    self.repeated.insert(key(), seq);
                }
            }
            None => self.without_row(key(), seq),
        }
    }

    pub(super) fn state_event(&mut self, robot: RobotId, event: u64, seq: i64) {
        self.other_event(Key::State(robot), digest_with(event, seq), seq);
    }

    pub(super) fn other_event(&mut self, key: Key, event: u64, seq: i64) {
        match self.others.get_mut(&key) {
            Some(image) => newer(image, event, seq),
            None => self.without_row(key, seq),
        }
    }

    /// The one copy of a symbol's name.
    pub(super) fn symbol(&mut self, text: &str) -> Result<Symbol, ParseSymbolError> {
        if let Some(known) = self.symbols.iter().find(|known| known.as_str() == text) {
            return Ok(known.clone());
        }
        let symbol: Symbol = text.parse()?;
        self.symbols.insert(symbol.clone());
        Ok(symbol)
    }

    /// Something was written at this time.
    pub(super) fn wrote(&mut self, at: Timestamp) {
        self.latest = self.latest.max(at);
    }

    /// An epoch began. Not before what was written before it: the wall clock may have been set back between two processes.
    pub(super) fn started(&mut self, seq: i64, epoch: Epoch, at: Timestamp) {
        self.epochs.push((seq, epoch, at.max(self.latest)));
    }

    fn without_row(&mut self, key: Key, seq: i64) {
        let last = self.rowless.entry(key).or_default();
        *last = seq.max(*last);
    }

    /// Rows that are not what the last of their events says, with that event's number.
    pub(super) fn odd(&self) -> impl Iterator<Item = (Key, i64)> + '_ {
        let orders = self.orders.iter().filter(|order| !order.image.agrees());
        let fills = self.fills.iter().filter(|fill| !fill.image.agrees());
        let signals = self.signals.iter().filter(|(_, image)| !image.agrees());
        let others = self.others.iter().filter(|(_, image)| !image.agrees());
        let orders = orders.map(|order| (Key::Order(ClientOrderId::from_venue(&*order.id)), order.image.seq));
        let fills = fills.map(|fill| (Key::Fill(fill.symbol.clone(), fill.trade_id), fill.image.seq));
        let signals = signals.map(|(name, image)| {
            let (source, dedup_key) = signal_parts(name);
            (Key::Signal(source.to_owned(), dedup_key.to_owned()), image.seq)
        });
        orders.chain(fills).chain(signals).chain(others.map(|(key, image)| (key.clone(), image.seq)))
    }
}

/// Takes the event's image if it is the newest so far.
fn newer(image: &mut Image, event: u64, seq: i64) {
    if seq > image.seq {
        (image.event, image.seq) = (event, seq);
    }
}

/// The same for a row that is written once. Says whether it was written before.
fn once(image: &mut Image, event: u64, seq: i64) -> bool {
    let again = image.seq != 0;
    newer(image, event, seq);
    again
}

/// Of a value as it is written into an event. Equal values have equal digests; that of a value that cannot be written is zero.
pub(super) fn digest<T: Serialize>(value: &T) -> u64 {
    serde_json::to_string(value).map_or(0, |text| digest_text(&text))
}

/// The same of a text that was written before.
pub(super) fn digest_text(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// The same of a value and a number.
pub(super) fn digest_with(digest: u64, number: i64) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(digest);
    hasher.write_i64(number);
    hasher.finish()
}
