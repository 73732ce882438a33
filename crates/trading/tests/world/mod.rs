//! A small world around the engine: a store that is the fold of committed events, a venue that can lose and delay, a
//! clock that is a number. It carries out effects one at a time, so that a test can crash between any two of them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rust_decimal::Decimal;
use trading::command::{Command, NewRobot, Outcome, Record, Wish};
use trading::engine::{Effect, Engine, Input, Settings, Snapshot, Step};
use trading::event::{Event, Recorded};
use trading::exchange::*;
use trading::ids::*;
use trading::market::*;
use trading::money::*;
use trading::order::{Order, Status};
use trading::risk::Limits;
use trading::robot::{RobotConfig, StopPolicy, follower};
use trading::signal::{Action, Signal};
use trading::time::Timestamp;

pub const ACCOUNT: AccountId = AccountId(1);

pub fn symbol() -> Symbol {
    "BTCUSDT".parse().unwrap()
}

pub fn info() -> SymbolInfo {
    SymbolInfo {
        symbol: symbol(),
        base: Asset::new("BTC"),
        quote: Asset::new("USDT"),
        tick: "0.01".parse().unwrap(),
        lot: "0.001".parse().unwrap(),
        min_qty: "0.001".parse().unwrap(),
        min_notional: "5".parse().unwrap(),
        max_open_orders: 200,
    }
}

/// What goes wrong with the next POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// It never reaches the venue, and the sender does not learn that.
    DropRequest,
    /// The venue has it, and the sender does not learn that.
    DropAnswer,
}

#[derive(Debug, Default)]
pub struct Venue {
    pub orders: BTreeMap<ClientOrderId, OrderReport>,
    pub fills: Vec<Fill>,
    pub balances: BTreeMap<Asset, Amount>,
    pub posts: Vec<ClientOrderId>,
    sides: BTreeMap<ClientOrderId, (Side, Qty)>,
}

impl Venue {
    pub fn accept(&mut self, order: &NewOrder, price: Price, now: Timestamp) -> OrderReport {
        self.posts.push(order.client_id.clone());
        let mut report = OrderReport {
            client_id: order.client_id.clone(),
            venue_id: VenueOrderId(i64::try_from(self.orders.len()).unwrap() + 1),
            symbol: order.symbol.clone(),
            status: VenueStatus::New,
            executed: Qty::ZERO,
            fills: Vec::new(),
        };
        self.sides.insert(order.client_id.clone(), (order.side, order.qty));
        if order.kind == OrderKind::Market {
            report = self.fill(report, order.qty, price, now);
        }
        self.orders.insert(order.client_id.clone(), OrderReport { fills: Vec::new(), ..report.clone() });
        report
    }

    /// An order ends, and nobody is told.
    pub fn end(&mut self, client_id: &ClientOrderId, status: VenueStatus) {
        self.orders.get_mut(client_id).unwrap().status = status;
    }

    /// A resting order fills, and nobody is told.
    pub fn fill_silently(&mut self, client_id: &ClientOrderId, qty: &str, price: Price, now: Timestamp) {
        let report = self.fill(self.orders[client_id].clone(), qty.parse().unwrap(), price, now);
        self.orders.insert(client_id.clone(), OrderReport { fills: Vec::new(), ..report });
    }

    fn fill(&mut self, mut report: OrderReport, qty: Qty, price: Price, now: Timestamp) -> OrderReport {
        let (side, ordered) = self.sides[&report.client_id];
        let fee_asset = Asset::new(if side == Side::Buy { "BTC" } else { "USDT" });
        let received = if side == Side::Buy { qty.get() } else { price.notional(qty).get() };
        let fill = Fill {
            trade_id: TradeId(i64::try_from(self.fills.len()).unwrap() + 1),
            client_id: report.client_id.clone(),
            venue_id: report.venue_id,
            symbol: report.symbol.clone(),
            side,
            price,
            qty,
            fee: Amount::new(received * Decimal::new(1, 3)),
            fee_asset,
            maker: false,
            at: now,
        };
        for (asset, change) in trading::position::balance_changes(&fill, &info()) {
            *self.balances.entry(asset).or_default() += change;
        }
        report.executed += qty;
        report.status = if report.executed >= ordered { VenueStatus::Filled } else { VenueStatus::PartiallyFilled };
        self.fills.push(fill.clone());
        report.fills = vec![fill];
        report
    }
}

pub struct World {
    pub now: Timestamp,
    pub epoch: i64,
    pub events: Vec<Recorded>,
    pub engine: Engine,
    pub pending: VecDeque<Effect>,
    pub venue: Venue,
    pub answers: BTreeMap<u64, Record>,
    pub fault: Fault,
    pub price: Price,
    next_ticket: u64,
}

pub fn settings() -> Settings {
    Settings {
        namespace: "test".into(),
        limits: Limits::default(),
        recv_window: Duration::from_secs(5),
        absence_margin: Duration::from_secs(10),
    }
}

impl World {
    pub fn new() -> Self {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let mut venue = Venue::default();
        venue.balances.insert(Asset::new("USDT"), "100000".parse().unwrap());
        venue.balances.insert(Asset::new("BTC"), "10".parse().unwrap());
        let (engine, first) = Engine::recover(settings(), snapshot(&[]), Epoch(1), vec![info()], now);
        let mut world = World {
            now,
            epoch: 1,
            events: Vec::new(),
            engine,
            pending: VecDeque::new(),
            venue,
            answers: BTreeMap::new(),
            fault: Fault::None,
            price: "100".parse().unwrap(),
            next_ticket: 0,
        };
        world.commit(first);
        world.settle();
        world.quote();
        world
    }

    /// Events become durable; only then are effects known outside.
    pub fn commit(&mut self, step: Step) {
        self.events.extend(step.events);
        self.pending.extend(step.effects);
    }

    pub fn feed(&mut self, input: Input) {
        self.now = self.now.after(Duration::from_micros(1));
        for input in [input, Input::Tick] {
            let step = self.engine.step(input, self.now);
            self.commit(step);
        }
    }

    /// The process dies and starts again: what was committed is all that is left.
    pub fn crash(&mut self) {
        self.epoch += 1;
        self.pending.clear();
        let snapshot = snapshot(&self.events);
        let (engine, first) = Engine::recover(settings(), snapshot, Epoch(self.epoch), vec![info()], self.now);
        self.engine = engine;
        self.commit(first);
    }

    pub fn quote(&mut self) {
        let one = "1".parse().unwrap();
        let quote =
            Quote { symbol: symbol(), bid: self.price, bid_qty: one, ask: self.price, ask_qty: one, at: self.now };
        self.feed(Input::Market(Market::Quote(quote)));
    }

    /// Carries out one effect.
    pub fn do_one(&mut self) -> bool {
        let Some(effect) = self.pending.pop_front() else { return false };
        match effect {
            Effect::Reply { ticket, record } => {
                self.answers.insert(ticket, *record);
            }
            Effect::Send(order) => self.send(&order),
            Effect::Cancel { client_id, .. } => {
                let live = matches!(
                    self.venue.orders.get(&client_id).map(|order| order.status),
                    Some(VenueStatus::New | VenueStatus::PartiallyFilled)
                );
                let result = match self.venue.orders.get_mut(&client_id) {
                    Some(order) if live => {
                        order.status = VenueStatus::Canceled;
                        CancelResult::Canceled(order.clone())
                    }
                    _ => CancelResult::UnknownOrder,
                };
                self.feed(Input::CancelEnded { client_id, result });
            }
            Effect::Query { client_id, thorough, .. } => {
                let result = match self.venue.orders.get(&client_id) {
                    Some(order) => QueryResult::Found(order.clone()),
                    None => QueryResult::NotFound { thorough },
                };
                self.feed(Input::Queried { client_id, result });
            }
            Effect::FetchFills { symbol, after } => {
                let after = after.map_or(0, |id| id.0);
                let fills = self.venue.fills.iter().filter(|fill| fill.trade_id.0 > after).cloned().collect();
                self.feed(Input::Fetched { symbol, fills: Some(fills), more: false });
            }
            Effect::ListOpenOrders => {
                let open =
                    |order: &&OrderReport| matches!(order.status, VenueStatus::New | VenueStatus::PartiallyFilled);
                let reports = self.venue.orders.values().filter(open).cloned().collect();
                self.feed(Input::OpenOrders(Some(reports)));
            }
            Effect::ListBalances => {
                let balances = self.venue.balances.iter();
                let balances =
                    balances.map(|(asset, total)| VenueBalance { asset: asset.clone(), total: *total }).collect();
                self.feed(Input::Balances(Some(balances)));
            }
            Effect::Recall(client_id) => {
                let order = fold(&self.events).orders.remove(&client_id);
                self.feed(Input::Recalled { client_id, order });
            }
        }
        true
    }

    fn send(&mut self, order: &NewOrder) {
        let committed = fold(&self.events).orders.get(&order.client_id).map(|order| order.status);
        assert_eq!(committed, Some(Status::Sending), "an order left before SENDING was committed");
        assert!(!self.venue.posts.contains(&order.client_id), "a second POST of {}", order.client_id);
        let result = match std::mem::replace(&mut self.fault, Fault::None) {
            Fault::None => SendResult::Accepted(self.venue.accept(order, self.price, self.now)),
            Fault::DropRequest => SendResult::Unknown { reason: "timed out".into() },
            Fault::DropAnswer => {
                self.venue.accept(order, self.price, self.now);
                SendResult::Unknown { reason: "connection reset".into() }
            }
        };
        self.feed(Input::Sent { client_id: order.client_id.clone(), result });
    }

    /// Carries out everything, and lets no time pass.
    pub fn settle(&mut self) {
        self.feed(Input::Stream(StreamEvent::Up));
        self.drain_effects();
    }

    pub fn drain_effects(&mut self) {
        let mut left = 10_000;
        while self.do_one() {
            left -= 1;
            assert!(left > 0, "effects without end");
        }
    }

    /// Lets time pass in steps, carrying out everything on the way.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(100)).min(end);
            self.feed(Input::Tick);
            self.drain_effects();
        }
    }

    /// Fills a resting order at the venue, and tells nobody.
    pub fn fill_unseen(&mut self, client_id: &ClientOrderId, qty: &str) -> OrderReport {
        let report = self.venue.orders[client_id].clone();
        let (qty, price) = (qty.parse().unwrap(), self.price);
        let report = self.venue.fill(report, qty, price, self.now);
        self.venue.orders.insert(client_id.clone(), OrderReport { fills: Vec::new(), ..report.clone() });
        report
    }

    /// Fills a resting order at the venue and tells the stream.
    pub fn fill_resting(&mut self, client_id: &ClientOrderId, qty: &str) {
        let report = self.fill_unseen(client_id, qty);
        self.feed(Input::Stream(StreamEvent::Report(report)));
        self.drain_effects();
    }

    pub fn submit(&mut self, key: &str, wish: Wish) -> u64 {
        self.next_ticket += 1;
        let command = Command { source: "test".into(), dedup_key: key.into(), wish };
        self.feed(Input::Command { ticket: self.next_ticket, command });
        self.next_ticket
    }

    pub fn outcome(&mut self, key: &str, wish: Wish) -> Outcome {
        let ticket = self.submit(key, wish);
        self.drain_effects();
        self.answers[&ticket].outcome.clone()
    }

    pub fn robot(&mut self, config: RobotConfig, stop_policy: StopPolicy) -> RobotId {
        let key = format!("robot {}", self.events.len());
        let new = NewRobot {
            name: "r".into(),
            symbol: symbol(),
            config,
            limits: Limits::default(),
            stop_policy,
            start: true,
            webhook_hash: None,
        };
        match self.outcome(&key, Wish::CreateRobot(new)) {
            Outcome::Done { robot: Some(robot), .. } => robot,
            other => panic!("{other:?}"),
        }
    }

    pub fn follower(&mut self, stop_policy: StopPolicy) -> RobotId {
        self.robot(RobotConfig::Follower(follower::Config { default_qty: "0.1".parse().unwrap() }), stop_policy)
    }

    pub fn orders(&self) -> BTreeMap<ClientOrderId, Order> {
        fold(&self.events).orders
    }

    pub fn only_order(&self) -> Order {
        let orders = self.orders();
        assert_eq!(orders.len(), 1, "{orders:#?}");
        orders.into_values().next().unwrap()
    }
}

pub fn buy(robot: RobotId, order: OrderKind, expires_at: Option<Timestamp>) -> Wish {
    Wish::Signal(Signal { robot, action: Action::Buy { qty: None, order, tif: TimeInForce::Gtc }, expires_at })
}

pub fn limit(price: &str) -> OrderKind {
    OrderKind::Limit { price: price.parse().unwrap() }
}

/// The tables, as the last image of each key.
#[derive(Default)]
pub struct Tables {
    pub orders: BTreeMap<ClientOrderId, Order>,
    pub robots: BTreeMap<RobotId, trading::robot::Robot>,
    pub states: BTreeMap<RobotId, trading::robot::StrategyState>,
    pub positions: BTreeMap<RobotId, trading::position::Position>,
    pub balances: BTreeMap<Asset, trading::position::Balance>,
    pub fills: Vec<Fill>,
}

pub fn fold(events: &[Recorded]) -> Tables {
    let mut tables = Tables::default();
    for (n, recorded) in events.iter().enumerate() {
        assert_eq!(recorded.seq.0, i64::try_from(n).unwrap() + 1, "a gap in the sequence");
        match recorded.event.clone() {
            Event::Order(order) => {
                let old = tables.orders.insert(order.client_id.clone(), order.clone());
                assert!(old.is_none_or(|old| old.version < order.version), "versions must grow");
            }
            Event::Robot(robot) => {
                let version = robot.version;
                let old = tables.robots.insert(robot.id, robot);
                assert!(old.is_none_or(|old| old.version < version), "versions must grow");
            }
            Event::Strategy { robot, state } => {
                tables.states.insert(robot, state);
            }
            Event::Fill { fill, position, balances } => {
                let twice = tables.fills.iter().any(|old| old.trade_id == fill.trade_id);
                assert!(!twice, "trade {} booked twice", fill.trade_id);
                tables.fills.push(fill);
                tables.positions.insert(position.robot, position);
                for balance in balances {
                    tables.balances.insert(balance.asset.clone(), balance);
                }
            }
            Event::Opening(balance) => {
                tables.balances.insert(balance.asset.clone(), balance);
            }
            Event::Command(_) | Event::Alarm { .. } | Event::Started { .. } | Event::Stopped { .. } => {}
        }
    }
    tables
}

fn snapshot(events: &[Recorded]) -> Snapshot {
    let tables = fold(events);
    let live = |order: &Order| !order.status.is_terminal() || order.lacks_fills();
    Snapshot {
        account: ACCOUNT,
        last_seq: events.last().map_or(Seq(0), |recorded| recorded.seq),
        robots: tables.robots.into_values().collect(),
        states: tables.states.into_iter().collect(),
        orders: tables.orders.into_values().filter(live).collect(),
        positions: tables.positions.into_values().collect(),
        balances: tables.balances.into_values().collect(),
        recent_trades: tables.fills.iter().map(|fill| (fill.symbol.clone(), fill.trade_id)).collect(),
    }
}
