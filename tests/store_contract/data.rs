//! Small valid things to store.

use std::sync::Arc;
use std::time::Duration;

use hotgo::store::{Account, Commit, CommitError, Lease, Store};
use rand::RngExt as _;
use trading::command::{Command, Outcome, Record, Wish};
use trading::event::{Event, Recorded};
use trading::exchange::{Fill, OrderKind, Side, TimeInForce};
use trading::ids::{AccountId, ClientOrderId, Epoch, OrderKey, RobotId, Seq, TradeId, VenueOrderId};
use trading::market::{Asset, Symbol};
use trading::money::{Amount, Qty};
use trading::order::{CancelState, Order, Status};
use trading::position::{Balance, Position};
use trading::risk::Limits;
use trading::robot::{DesiredState, Robot, RobotConfig, RunState, StopPolicy, follower};
use trading::signal::{Action, Signal};
use trading::time::Timestamp;

pub(crate) const TTL: Duration = Duration::from_mins(1);

pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + micros)
}

pub(crate) fn symbol() -> Symbol {
    "BTCUSDT".parse().unwrap()
}

pub(crate) fn amount(text: &str) -> Amount {
    text.parse().unwrap()
}

pub(crate) fn qty(text: &str) -> Qty {
    text.parse().unwrap()
}

pub(crate) fn robot(account: AccountId, n: i64) -> Robot {
    Robot {
        id: RobotId::nth(account, n).unwrap(),
        account,
        name: format!("robot {n} \"quoted\" é"),
        symbol: symbol(),
        config: RobotConfig::Follower(follower::Config { default_qty: qty("0.5") }),
        limits: Limits { max_open_orders: Some(3), ..Limits::default() },
        desired: DesiredState::Running,
        run: RunState::Running,
        reason: None,
        stop_policy: StopPolicy::Flatten,
        decision_seq: 0,
        webhook_hash: Some("ab".into()),
        created_at: at(0),
        version: 1,
    }
}

/// The `n`-th order of a robot, sent and unanswered.
pub(crate) fn order(robot: RobotId, n: i64) -> Order {
    let key = OrderKey { decision: n, leg: 0 };
    Order {
        client_id: ClientOrderId::from_venue(format!("h{:0>14}{:0>12}", robot.0, n)),
        account: robot.account(),
        robot,
        key,
        generation: 0,
        symbol: symbol(),
        side: Side::Buy,
        kind: OrderKind::StopLimit { stop_price: "100.5".parse().unwrap(), price: "101".parse().unwrap() },
        tif: TimeInForce::Gtc,
        qty: qty("2"),
        status: Status::Sending,
        cancel: CancelState::None,
        attempt: 1,
        epoch: Epoch(1),
        sent_at: Some(at(n)),
        deadline: Some(at(n + 5)),
        expires_at: None,
        venue_id: None,
        filled: Qty::ZERO,
        filled_quote: Amount::ZERO,
        reported: Qty::ZERO,
        reason: None,
        created_at: at(n / 3),
        updated_at: at(n),
        version: 1,
    }
}

pub(crate) fn fill(order: &Order, trade: i64, version: i64) -> Event {
    let fill = Fill {
        trade_id: TradeId(trade),
        client_id: order.client_id.clone(),
        venue_id: VenueOrderId(order.key.decision),
        symbol: order.symbol.clone(),
        side: order.side,
        price: "101".parse().unwrap(),
        qty: qty("0.5"),
        fee: amount("0.0005"),
        fee_asset: Asset::new("BTC"),
        maker: true,
        at: at(trade),
    };
    let mut position = Position::empty(order.robot, order.symbol.clone());
    position.qty = amount("0.4995");
    position.version = version;
    let balance = |asset, total| Balance {
        asset: Asset::new(asset),
        total: amount(total),
        opening: amount("1000"),
        version: version + 1,
    };
    Event::Fill { fill, position, balances: vec![balance("BTC", "0.4995"), balance("USDT", "949.5")] }
}

pub(crate) fn opening(asset: &str) -> Event {
    Event::Opening(Balance { asset: Asset::new(asset), total: amount("1000"), opening: amount("1000"), version: 1 })
}

pub(crate) fn command(robot: RobotId, dedup_key: &str) -> Event {
    Event::Command(Record {
        command: Command {
            source: format!("webhook:{robot}"),
            dedup_key: dedup_key.into(),
            wish: Wish::Signal(Signal { robot, action: Action::Close, expires_at: Some(at(9)) }),
        },
        received_at: at(1),
        outcome: Outcome::Skipped { reason: "nothing held".into() },
    })
}

pub(crate) fn alarm(message: impl Into<String>) -> Event {
    Event::Alarm { message: message.into(), order: None, robot: None }
}

pub(crate) fn owner(name: &str) -> Arc<str> {
    name.into()
}

/// An account that the test holds, and where its history stands.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) account: Account,
    pub(crate) lease: Lease,
    pub(crate) seq: i64,
}

impl Held {
    /// A new account; labels differ, so that adapters with one database for all tests can run them.
    pub(crate) async fn new(store: &dyn Store) -> Self {
        let label = format!("test-{}", rand::rng().random::<u64>());
        let account = store.ensure_account("paper", &label).await.unwrap();
        let lease = store.acquire_lease(account.id, &owner("one"), TTL, false).await.unwrap();
        Self { account, lease, seq: 0 }
    }

    /// A new account with one robot.
    pub(crate) async fn with_robot(store: &dyn Store) -> (Self, Robot) {
        let mut held = Self::new(store).await;
        let robot = robot(held.account.id, 1);
        held.commit(store, vec![Event::Robot(robot.clone())]).await.unwrap();
        (held, robot)
    }

    /// The next commit, with these events.
    pub(crate) fn next(&self, events: Vec<Event>) -> Commit {
        let numbered = events.into_iter().zip(self.seq + 1..);
        let events = numbered.map(|(event, seq)| Recorded { seq: Seq(seq), at: at(seq), event }).collect();
        Commit { lease: self.lease.clone(), events }
    }

    /// Commits the events; the history moves on if that works.
    pub(crate) async fn commit(&mut self, store: &dyn Store, events: Vec<Event>) -> Result<(), CommitError> {
        let commit = self.next(events);
        let last = commit.events.last().map_or(self.seq, |event| event.seq.0);
        store.commit(commit).await?;
        self.seq = last;
        Ok(())
    }

    pub(crate) async fn head(&self, store: &dyn Store) -> i64 {
        store.head(self.account.id).await.unwrap().seq.0
    }
}
