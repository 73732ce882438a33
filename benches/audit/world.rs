//! What a server and a venue leave behind after N orders: most filled, some cancelled, refused or denied.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hotgo::store::sqlite::{OpenOptions, SqliteStore};
use hotgo::store::{Commit, Lease, Store};
use tokio::task::JoinSet;
use trading::command::{Command, Outcome, Record as Decided, Wish};
use trading::event::{Event, Recorded};
use trading::exchange::{Fill, OrderKind, Side, TimeInForce, VenueBalance, VenueStatus};
use trading::ids::{AccountId, ClientOrderId, Epoch, OrderKey, RobotId, Seq, TradeId, VenueOrderId};
use trading::market::{Asset, Symbol, SymbolInfo};
use trading::money::{Amount, Qty};
use trading::order::{CancelState, Order, Status};
use trading::position::{Balance, Position, balance_changes};
use trading::risk::Limits;
use trading::robot::{DesiredState, Robot, RobotConfig, RunState, StopPolicy, StrategyState, follower};
use trading::signal::{Action, Signal};
use trading::time::Timestamp;
use venue::ledger::{Ledger, Post};
use venue::record::{Entry, Record};

const LABEL: &str = "main";
const ROBOTS: i64 = 8;
/// How many orders share a commit, and a write of the ledger.
const TOGETHER: i64 = 1_000;
const EPOCHS: i64 = 10;

/// Writes both files.
pub(crate) async fn write(database: &Path, ledger: &Path, orders: i64) {
    let (store, writer) = SqliteStore::open(database, OpenOptions::default()).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(writer.run());
    let account = store.ensure_account("paper", LABEL).await.unwrap().id;
    let lease = store.acquire_lease(account, &"bench".into(), Duration::from_hours(1), true).await.unwrap();
    let mut ledger = Ledger::open(ledger).unwrap().ledger;
    let mut world = World::new(account);
    world.begin();
    for n in 0..orders {
        if n % (orders / EPOCHS).max(1) == 0 {
            world.epoch += 1;
            world.event(Event::Started { epoch: Epoch(world.epoch) });
        }
        world.order(n);
        if (n + 1) % TOGETHER == 0 {
            world.flush(&store, &lease, &mut ledger).await;
        }
    }
    world.flush(&store, &lease, &mut ledger).await;
    store.close().await;
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

struct World {
    account: AccountId,
    label: Arc<str>,
    symbol: SymbolInfo,
    positions: Vec<Position>,
    balances: [Balance; 2],
    seq: i64,
    now: i64,
    epoch: i64,
    trades: i64,
    accepted: i64,
    events: Vec<Recorded>,
    entries: Vec<Entry>,
}

fn symbol() -> Symbol {
    "BTCUSDT".parse().unwrap()
}

fn balance(asset: &str, opening: &str) -> Balance {
    let opening: Amount = opening.parse().unwrap();
    Balance { asset: Asset::new(asset), total: opening, opening, version: 1 }
}

impl World {
    fn new(account: AccountId) -> Self {
        let symbol_info = SymbolInfo {
            symbol: symbol(),
            base: Asset::new("BTC"),
            quote: Asset::new("USDT"),
            tick: "0.01".parse().unwrap(),
            lot: "0.00001".parse().unwrap(),
            min_qty: "0.00001".parse().unwrap(),
            min_notional: "5".parse().unwrap(),
            max_open_orders: 200,
        };
        let robots = (1..=ROBOTS).map(|n| RobotId::nth(account, n).unwrap());
        Self {
            account,
            label: LABEL.into(),
            symbol: symbol_info,
            positions: robots.map(|robot| Position::empty(robot, symbol())).collect(),
            balances: [balance("BTC", "1000"), balance("USDT", "10000000")],
            seq: 0,
            now: 1_700_000_000_000_000,
            epoch: 0,
            trades: 0,
            accepted: 0,
            events: Vec::new(),
            entries: Vec::new(),
        }
    }

    fn tick(&mut self) -> Timestamp {
        self.now += 137;
        Timestamp::from_micros(self.now)
    }

    fn event(&mut self, event: Event) {
        self.seq += 1;
        let at = self.tick();
        self.events.push(Recorded { seq: Seq(self.seq), at, event });
    }

    fn begin(&mut self) {
        let opening = |balance: &Balance| VenueBalance { asset: balance.asset.clone(), total: balance.total };
        let opening = self.balances.iter().map(opening).collect();
        let at = self.tick();
        self.entries.push(vec![Record::Account { label: self.label.clone(), opening, at }]);
        for balance in self.balances.clone() {
            self.event(Event::Opening(balance));
        }
        for n in 1..=ROBOTS {
            let robot = robot(self.account, n, self.tick());
            let id = robot.id;
            self.event(Event::Robot(robot));
            self.event(Event::Strategy { robot: id, state: StrategyState::Follower });
        }
    }

    /// One signal, its order, and what became of it.
    fn order(&mut self, n: i64) {
        let index = usize::try_from(n % ROBOTS).unwrap();
        let robot = self.positions[index].robot;
        let key = OrderKey { decision: n / ROBOTS + 1, leg: 0 };
        let side = if (n / ROBOTS) % 2 == 0 { Side::Buy } else { Side::Sell };
        let price = rust_decimal::Decimal::new(8_712_345 + n % 5_000, 2).to_string().parse().unwrap();
        let kind = OrderKind::Limit { price };
        let qty: Qty = rust_decimal::Decimal::new(100 + n % 7, 5).to_string().parse().unwrap();
        let now = self.tick();
        let mut order = Order {
            client_id: ClientOrderId::derive("bench", robot, key, 0),
            account: self.account,
            robot,
            key,
            generation: 0,
            symbol: symbol(),
            side,
            kind,
            tif: TimeInForce::Gtc,
            qty,
            status: Status::Sending,
            cancel: CancelState::None,
            attempt: 1,
            epoch: Epoch(self.epoch),
            sent_at: Some(now),
            deadline: Some(now.after(Duration::from_secs(15))),
            expires_at: None,
            venue_id: None,
            filled: Qty::ZERO,
            filled_quote: Amount::ZERO,
            reported: Qty::ZERO,
            reason: None,
            created_at: now,
            updated_at: now,
            version: 1,
        };
        self.command(robot, &order, n);
        self.event(Event::Order(order.clone()));
        order.version = 2;
        order.updated_at = self.tick();
        match n % 50 {
            17 => {
                self.post(&order, false);
                order.status = Status::Rejected;
                order.reason = Some("-1013 Filter failure: PERCENT_PRICE".into());
                self.event(Event::Order(order));
            }
            33 => {
                self.accept(&mut order);
                let (account, venue_id, at) = (self.label.clone(), VenueOrderId(self.accepted), self.tick());
                self.entries.push(vec![Record::End { account, venue_id, status: VenueStatus::Canceled, at }]);
                order.status = Status::Canceled;
                self.event(Event::Order(order));
            }
            _ => self.fill(order, index),
        }
    }

    fn command(&mut self, robot: RobotId, order: &Order, n: i64) {
        let action = match order.side {
            Side::Buy => Action::Buy { qty: Some(order.qty), order: order.kind, tif: order.tif },
            Side::Sell => Action::Sell { qty: Some(order.qty), order: order.kind, tif: order.tif },
        };
        let wish = Wish::Signal(Signal { robot, action, expires_at: None });
        let dedup_key = format!("alert-{n:010}");
        let command = Command { source: format!("webhook:{robot}"), dedup_key, wish };
        let outcome = Outcome::Done { robot: Some(robot), orders: vec![order.client_id.clone()] };
        self.event(Event::Command(Decided { command, received_at: order.created_at, outcome }));
    }

    fn post(&mut self, order: &Order, accepted: bool) {
        let reason = (!accepted).then(|| "-1013 Filter failure: PERCENT_PRICE".to_owned());
        let timestamp = order.created_at;
        let received_at = timestamp.after(Duration::from_micros(50));
        let post = Post { client_id: order.client_id.clone(), timestamp, received_at, accepted, reason };
        self.entries.push(vec![Record::Post { account: self.label.clone(), post }]);
    }

    fn accept(&mut self, order: &mut Order) {
        self.post(order, true);
        self.accepted += 1;
        order.venue_id = Some(VenueOrderId(self.accepted));
        let record = Record::Order {
            account: self.label.clone(),
            venue_id: VenueOrderId(self.accepted),
            base: self.symbol.base.clone(),
            quote: self.symbol.quote.clone(),
            order: Box::new(order.to_request()),
            at: order.updated_at,
        };
        self.entries.last_mut().unwrap().push(record);
    }

    fn fill(&mut self, mut order: Order, index: usize) {
        self.accept(&mut order);
        self.trades += 1;
        let price = order.kind.price().unwrap();
        let (fee, fee_asset) = match order.side {
            Side::Buy => (order.qty.get(), &self.symbol.base),
            Side::Sell => (price.get() * order.qty.get(), &self.symbol.quote),
        };
        let fill = Fill {
            trade_id: TradeId(self.trades),
            client_id: order.client_id.clone(),
            venue_id: VenueOrderId(self.accepted),
            symbol: symbol(),
            side: order.side,
            price,
            qty: order.qty,
            fee: Amount::new((fee / rust_decimal::Decimal::from(1000)).round_dp(8)),
            fee_asset: fee_asset.clone(),
            maker: true,
            at: order.updated_at,
        };
        self.entries.push(vec![Record::Fill { account: self.label.clone(), fill: Box::new(fill.clone()) }]);
        order.status = Status::Filled;
        order.filled = order.qty;
        order.reported = order.qty;
        order.filled_quote = price.notional(order.qty);
        self.event(Event::Order(order));
        self.positions[index].book(&fill, &self.symbol);
        for (asset, change) in balance_changes(&fill, &self.symbol) {
            let balance = self.balances.iter_mut().find(|balance| balance.asset == asset).unwrap();
            balance.total += change;
            balance.version += 1;
        }
        let (position, balances) = (self.positions[index].clone(), self.balances.to_vec());
        self.event(Event::Fill { fill, position, balances });
    }

    async fn flush(&mut self, store: &SqliteStore, lease: &Lease, ledger: &mut Ledger) {
        let events = std::mem::take(&mut self.events).into();
        store.commit(Commit { lease: lease.clone(), events }).await.unwrap();
        ledger.append(&std::mem::take(&mut self.entries)).unwrap();
    }
}

fn robot(account: AccountId, n: i64, created_at: Timestamp) -> Robot {
    Robot {
        id: RobotId::nth(account, n).unwrap(),
        account,
        name: format!("robot {n}"),
        symbol: symbol(),
        config: RobotConfig::Follower(follower::Config { default_qty: "0.001".parse().unwrap() }),
        limits: Limits::default(),
        desired: DesiredState::Running,
        run: RunState::Running,
        reason: None,
        stop_policy: StopPolicy::Keep,
        decision_seq: 0,
        webhook_hash: None,
        created_at,
        version: 1,
    }
}
