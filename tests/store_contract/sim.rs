//! The contract on the simulator's model, and the model beside the databases: the same operations must give the same results.

use std::fmt::Write as _;
use std::sync::Arc;

use hotgo::clock::Clock;
use hotgo::store::{Commit, CommitError, Lease, LeaseError, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use simulator::store::SimDatabase;
use trading::event::{Event, Recorded};
use trading::ids::{AccountId, Epoch, Seq, VenueOrderId};
use trading::money::Qty;
use trading::order::{Order, Status};
use trading::robot::{StrategyState, dca};

use crate::data::{TTL, alarm, at, command, fill, opening, order, owner, robot};
use crate::sqlite::Running;

struct Model(SimDatabase);

impl Model {
    #[expect(clippy::unused_async, reason = "as the other adapters start")]
    async fn start() -> Self {
        Self(SimDatabase::new(Clock::start()))
    }

    fn store(&self) -> &dyn Store {
        &self.0
    }

    async fn stop(self) {
        self.0.close().await;
    }
}

crate::suite::contract!(Model::start);

/// Something that is done to both stores. Numbers pick from the few things that there are, so that they meet.
#[derive(Debug, Clone)]
enum Operation {
    Acquire { account: usize, owner: bool, dead: bool },
    Renew { account: usize },
    Release { account: usize },
    Transfer { account: usize, owner: bool },
    Commit { account: usize, old_lease: bool, gap: i64, rows: Vec<Row> },
}

/// A row of a commit, right or wrong.
#[derive(Debug, Clone)]
enum Row {
    Robot { n: i64, version: i64 },
    State { n: i64 },
    Order { robot: i64, n: i64, twin: bool, version: i64, status: usize, attempt: i32, empty: bool },
    Fill { robot: i64, n: i64, trade: i64, version: i64, empty: bool },
    Command { key: u8 },
    Opening { asset: u8, version: i64 },
    Alarm,
    Foreign,
}

const STATUSES: [Status; 6] =
    [Status::Sending, Status::Unknown, Status::Open, Status::Partial, Status::Filled, Status::Canceled];

fn rows() -> impl Strategy<Value = Row> {
    let rare = || prop::bool::weighted(0.05);
    prop_oneof![
        3 => (1..3_i64, 1..6_i64).prop_map(|(n, version)| Row::Robot { n, version }),
        1 => (1..3_i64).prop_map(|n| Row::State { n }),
        8 => (
            (1..3_i64, 1..5_i64, rare(), 1..8_i64),
            (0..STATUSES.len(), rare(), rare()),
        )
            .prop_map(|((robot, n, twin, version), (status, twice, empty))| {
                let attempt = if twice { 2 } else { 1 };
                Row::Order { robot, n, twin, version, status, attempt, empty }
            }),
        5 => (1..3_i64, 1..5_i64, 1..12_i64, 1..20_i64, rare())
            .prop_map(|(robot, n, trade, version, empty)| Row::Fill { robot, n, trade, version, empty }),
        2 => (0..12_u8).prop_map(|key| Row::Command { key }),
        2 => (0..3_u8, 1..6_i64).prop_map(|(asset, version)| Row::Opening { asset, version }),
        2 => Just(Row::Alarm),
        1 => Just(Row::Foreign),
    ]
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let rare = || prop::bool::weighted(0.1);
    let operation = prop_oneof![
        2 => (0..2_usize, any::<bool>(), any::<bool>())
            .prop_map(|(account, owner, dead)| Operation::Acquire { account, owner, dead }),
        1 => (0..2_usize).prop_map(|account| Operation::Renew { account }),
        1 => (0..2_usize).prop_map(|account| Operation::Release { account }),
        1 => (0..2_usize, any::<bool>()).prop_map(|(account, owner)| Operation::Transfer { account, owner }),
        16 => (0..2_usize, rare(), prop_oneof![18 => Just(0_i64), 1 => Just(1), 1 => Just(-1)],
               proptest::collection::vec(rows(), 1..4))
            .prop_map(|(account, old_lease, gap, rows)| Operation::Commit { account, old_lease, gap, rows }),
    ];
    proptest::collection::vec(operation, 1..80)
}

fn event(account: AccountId, row: &Row) -> Event {
    let robot_of = |n| robot(account, n);
    match row {
        Row::Robot { n, version } => {
            let mut robot = robot_of(*n);
            robot.version = *version;
            Event::Robot(robot)
        }
        Row::State { n } => Event::Strategy {
            robot: robot_of(*n).id,
            state: StrategyState::Dca(dca::State { steps: 1, next_at: None }),
        },
        Row::Order { robot, n, twin, version, status, attempt, empty } => {
            let mut order = order(robot_of(*robot).id, *n);
            if *twin {
                order.client_id = crate::data::order(order.robot, n + 100).client_id;
            }
            if *empty {
                order.qty = Qty::ZERO;
            }
            // An order keeps the number that it was given. Those of two robots' orders are the same here.
            order.venue_id = (*version > 2).then_some(VenueOrderId(if *twin { n + 100 } else { *n }));
            (order.version, order.status, order.attempt) = (*version, STATUSES[*status], *attempt);
            Event::Order(order)
        }
        Row::Fill { robot, n, trade, version, empty } => {
            let booked = fill(&order(robot_of(*robot).id, *n), *trade, *version);
            match booked {
                Event::Fill { mut fill, position, balances } if *empty => {
                    fill.qty = Qty::ZERO;
                    Event::Fill { fill, position, balances }
                }
                booked => booked,
            }
        }
        Row::Command { key } => command(robot_of(1).id, &format!("key {key}")),
        Row::Opening { asset, version } => {
            let Event::Opening(mut balance) = opening(["BTC", "USDT", "ETH"][usize::from(*asset)]) else {
                unreachable!()
            };
            balance.version = *version;
            Event::Opening(balance)
        }
        Row::Alarm => alarm("look"),
        Row::Foreign => Event::Robot(robot(AccountId(account.0 + 1), 1)),
    }
}

/// A result in words that both stores must agree on. What a database says of a conflict is its own.
fn outcome(result: &Result<(), CommitError>) -> String {
    match result {
        Err(CommitError::Conflict { account, .. }) => format!("conflict in {account}"),
        other => format!("{other:?}"),
    }
}

fn lease_outcome(result: Result<Lease, LeaseError>) -> (String, Option<Lease>) {
    match result {
        Ok(lease) => (format!("{lease:?}"), Some(lease)),
        Err(LeaseError::Held { owner, .. }) => (format!("held by {owner}"), None),
        Err(other) => (other.to_string(), None),
    }
}

/// One store, with what the test knows of it.
struct Side<'a> {
    store: &'a dyn Store,
    accounts: [AccountId; 2],
    leases: [Vec<Lease>; 2],
}

impl<'a> Side<'a> {
    async fn new(store: &'a dyn Store) -> Self {
        let mut side = Self { store, accounts: [AccountId(0); 2], leases: [Vec::new(), Vec::new()] };
        for (n, label) in ["a", "b"].into_iter().enumerate() {
            let account = store.ensure_account("paper", label).await.unwrap().id;
            side.accounts[n] = account;
            side.leases[n].push(store.acquire_lease(account, &owner("one"), TTL, false).await.unwrap());
        }
        side
    }

    /// Does it, and says what came of it.
    async fn perform(&mut self, operation: &Operation) -> String {
        match operation {
            Operation::Acquire { account, owner: first, dead } => {
                let name: Arc<str> = owner(if *first { "one" } else { "two" });
                let taken = self.store.acquire_lease(self.accounts[*account], &name, TTL, *dead).await;
                let (said, lease) = lease_outcome(taken);
                self.leases[*account].extend(lease);
                said
            }
            Operation::Renew { account } => {
                format!("{:?}", self.store.renew_lease(self.newest(*account), TTL).await.map_err(|e| e.to_string()))
            }
            Operation::Release { account } => {
                format!("{:?}", self.store.release_lease(self.newest(*account)).await.map_err(|e| e.to_string()))
            }
            Operation::Transfer { account, owner: first } => {
                let to = if *first { "one" } else { "two" };
                let moved = self.store.transfer_lease(self.newest(*account), to, TTL).await.map_err(|e| e.to_string());
                let held = self.store.leases().await.unwrap();
                let held: Vec<_> = held.iter().map(|row| (row.account, &row.owner, row.epoch, row.released)).collect();
                format!("{moved:?} {held:?}")
            }
            Operation::Commit { account, old_lease, gap, rows } => {
                let id = self.accounts[*account];
                let leases = &self.leases[*account];
                let lease = if *old_lease { &leases[leases.len() / 2] } else { self.newest(*account) };
                let next = self.store.head(id).await.unwrap().seq.0 + 1 + gap;
                let events = rows.iter().map(|row| event(id, row)).zip(next..);
                let events = events.map(|(event, seq)| Recorded { seq: Seq(seq), at: at(seq), event }).collect();
                outcome(&self.store.commit(Commit { lease: lease.clone(), events }).await)
            }
        }
    }

    fn newest(&self, account: usize) -> &Lease {
        self.leases[account].last().unwrap()
    }

    /// All that can be read.
    async fn everything(&self) -> String {
        let mut said = String::new();
        for account in self.accounts {
            let snapshot = self.store.load(account).await.unwrap();
            let events = self.store.events(account, Seq(0), 10_000).await.unwrap();
            let orders = hotgo::store::OrderFilter { account: Some(account), limit: 10_000, ..Default::default() };
            let fills = hotgo::store::FillFilter { account: Some(account), limit: 10_000, ..Default::default() };
            let orders: Vec<Order> = self.store.orders(&orders).await.unwrap();
            let fills: Vec<_> = self.store.fills(&fills).await.unwrap().into_iter().map(|row| row.fill).collect();
            write!(said, "{snapshot:#?}\n{events:#?}\n{orders:#?}\n{fills:#?}\n").unwrap();
        }
        said
    }
}

/// A real store, made anew for each sequence of operations.
trait Real {
    fn store(&self) -> &dyn Store;
    async fn stop(self);
}

impl Real for Running {
    fn store(&self) -> &dyn Store {
        self.store()
    }

    async fn stop(self) {
        self.stop().await;
    }
}

/// One server for all sequences: its tables are emptied before each.
struct Emptied(Arc<crate::postgres::Running>);

impl Real for Emptied {
    fn store(&self) -> &dyn Store {
        self.0.store()
    }

    async fn stop(self) {}
}

fn answers_like_the_model<R: Real>(cases: u32, start: impl AsyncFn() -> R) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let mut met = std::collections::BTreeMap::<String, usize>::new();
    let seen = std::cell::RefCell::new(&mut met);
    let run = runner.run(&operations(), |operations| {
        runtime.block_on(async {
            let (started, model) = (start().await, Model::start().await);
            let (mut real, mut modelled) = (Side::new(started.store()).await, Side::new(model.store()).await);
            for operation in &operations {
                let (expected, found) = (real.perform(operation).await, modelled.perform(operation).await);
                prop_assert_eq!(&expected, &found, "{:?}", operation);
                let kind = expected.split(' ').next().unwrap_or_default().to_owned();
                *seen.borrow_mut().entry(kind).or_default() += 1;
            }
            prop_assert_eq!(real.everything().await, modelled.everything().await);
            started.stop().await;
            model.stop().await;
            Ok(())
        })
    });
    run.unwrap();
    // Otherwise nothing was compared.
    for kind in ["Ok(())", "conflict", "Err(Fenced(AccountId(1)))", "held"] {
        assert!(met.contains_key(kind), "never met `{kind}`: {met:?}");
    }
}

#[test]
fn the_model_and_sqlite_answer_alike_whatever_is_done_to_them() {
    answers_like_the_model(48, Running::start);
}

#[test]
fn the_model_and_postgresql_answer_alike_whatever_is_done_to_them() {
    let running = tokio::sync::OnceCell::new();
    answers_like_the_model(24, async || {
        let running = running.get_or_init(async || Arc::new(crate::postgres::Running::start().await)).await;
        let server = running.server.as_ref().unwrap();
        server.execute("TRUNCATE hg_trading_account, hg_trading_lease RESTART IDENTITY CASCADE").await;
        Emptied(Arc::clone(running))
    });
}

#[tokio::test]
async fn epochs_only_grow_in_both() {
    let (sqlite, model) = (Running::start().await, Model::start().await);
    for store in [sqlite.store(), model.store()] {
        let account = store.ensure_account("paper", "a").await.unwrap().id;
        for (expected, name) in (1..).zip(["one", "one", "two", "one"]) {
            let lease = store.acquire_lease(account, &owner(name), TTL, true).await.unwrap();
            assert_eq!(lease.epoch, Epoch(expected));
            store.release_lease(&lease).await.unwrap();
        }
    }
    sqlite.stop().await;
}
