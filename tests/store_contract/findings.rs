//! Each kind of finding, on real files: a database and a ledger that agree are doctored by hand, and the checker says what
//! was done to them in the very words of `docs/audit.md`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hotgo::audit::{self, Progress};
use hotgo::store::Database;
use hotgo::store::sqlite::OpenOptions;
use rusqlite::{Connection, params};
use tempfile::TempDir;
use trading::command::{Outcome, Record as Decided};
use trading::event::Event;
use trading::exchange::{OrderKind, VenueBalance};
use trading::ids::{ClientOrderId, Epoch, OrderKey, TradeId, VenueOrderId};
use trading::market::Asset;
use trading::order::{Order, Status};
use venue::ledger::{Ledger, Post};
use venue::record::{Entry, Record};

use crate::data::{Held, TTL, alarm, amount, at, command, fill, opening, order, owner, qty, robot};
use crate::sqlite::Running;

const LABEL: &str = "main";
/// Tests run in the root of their package.
const DOCUMENT: &str = "docs/audit.md";

/// Order 1 is partly filled, order 2 rests.
struct World {
    _directory: TempDir,
    database: PathBuf,
    ledger: PathBuf,
    answered: PathBuf,
    held: Held,
    orders: [Order; 2],
}

fn id(n: i64) -> ClientOrderId {
    ClientOrderId::from_venue(format!("h{n:026}"))
}

fn sent(n: i64, account: trading::ids::AccountId) -> Order {
    let kind = OrderKind::Limit { price: "101".parse().unwrap() };
    Order { client_id: id(n), kind, ..order(robot(account, 1).id, n) }
}

fn resting(order: &Order) -> Order {
    let venue_id = Some(VenueOrderId(order.key.decision));
    Order { status: Status::Open, venue_id, version: 2, ..order.clone() }
}

/// The fill of half a coin, with the position and the balances that it makes.
fn booking(order: &Order) -> Event {
    let Event::Fill { fill, mut position, mut balances } = fill(order, 1, 1) else { unreachable!() };
    (position.cost, position.fees) = (amount("50.5"), amount("0.0505"));
    balances[0].total = amount("1000.4995");
    balances[1].total = amount("949.5");
    Event::Fill { fill, position, balances }
}

fn post(order: &Order, accepted: bool) -> Record {
    let reason = (!accepted).then(|| "-2010 Duplicate order sent".to_owned());
    let (timestamp, received_at) = (at(order.key.decision), at(order.key.decision + 1));
    Record::Post {
        account: LABEL.into(),
        post: Post { client_id: order.client_id.clone(), timestamp, received_at, accepted, reason },
    }
}

fn accepted(order: &Order, venue_id: i64) -> Entry {
    let record = Record::Order {
        account: LABEL.into(),
        venue_id: VenueOrderId(venue_id),
        base: Asset::new("BTC"),
        quote: Asset::new("USDT"),
        order: Box::new(order.to_request()),
        at: at(2),
    };
    vec![post(order, true), record]
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [database, ledger, answered] =
            ["hotgo.db", "venue.ledger", "answered.jsonl"].map(|name| directory.path().join(name));
        let running = Running::open(&database, OpenOptions::default()).await.unwrap();
        let store = running.store();
        let account = store.ensure_account("paper", LABEL).await.unwrap();
        let lease = store.acquire_lease(account.id, &owner("one"), TTL, false).await.unwrap();
        let mut held = Held { account, lease, seq: 0 };
        let orders = [sent(1, held.account.id), sent(2, held.account.id)];
        let Event::Command(record) = command(orders[0].robot, "key") else { unreachable!() };
        let planned = orders.iter().map(|order| order.client_id.clone()).collect();
        let outcome = Outcome::Done { robot: Some(orders[0].robot), orders: planned };
        let partial = Order {
            status: Status::Partial,
            filled: qty("0.5"),
            reported: qty("0.5"),
            filled_quote: amount("50.5"),
            ..resting(&orders[0])
        };
        let events = vec![
            Event::Started { epoch: Epoch(1) },
            opening("BTC"),
            opening("USDT"),
            Event::Robot(robot(held.account.id, 1)),
            Event::Command(Decided { outcome, ..record }),
            Event::Order(orders[0].clone()),
            Event::Order(orders[1].clone()),
            alarm("look"),
            Event::Order(partial),
            booking(&orders[0]),
            Event::Order(resting(&orders[1])),
        ];
        held.commit(store, events).await.unwrap();
        running.stop().await;

        let balance = |asset| VenueBalance { asset: Asset::new(asset), total: amount("1000") };
        let opening = vec![balance("BTC"), balance("USDT")];
        let account: Arc<str> = LABEL.into();
        let Event::Fill { fill, .. } = booking(&orders[0]) else { unreachable!() };
        let entries = [
            vec![Record::Account { label: account.clone(), opening, at: at(0) }],
            accepted(&orders[0], 1),
            accepted(&orders[1], 2),
            vec![Record::Fill { account, fill: Box::new(fill) }],
        ];
        Ledger::open(&ledger).unwrap().ledger.append(&entries).unwrap();
        let robot = orders[0].robot;
        std::fs::write(&answered, format!("{{\"source\":\"webhook:{robot}\",\"dedup_key\":\"key\"}}\n")).unwrap();
        Self { _directory: directory, database, ledger, answered, held, orders }
    }

    fn sql(&self) -> Connection {
        Connection::open(&self.database).unwrap()
    }

    /// Changes a column and what the last event says of it, as somebody does who knows of both.
    fn rewrite(&self, update: &str, event: i64, path: &str, value: &str) {
        let sql = self.sql();
        assert_eq!(sql.execute(update, [value]).unwrap(), 1);
        let text = "UPDATE hg_trading_event SET payload = json_set(payload, ?1, ?2) WHERE seq = ?3";
        assert_eq!(sql.execute(text, params![path, value, event]).unwrap(), 1);
    }

    fn rewrite_order(&self, column: &str, path: &str, value: &str) {
        let update = format!("UPDATE hg_trading_order SET {column} = ? WHERE client_id = '{}'", id(2));
        self.rewrite(&update, 11, path, value);
    }

    fn append(&self, entries: &[Entry]) {
        Ledger::open(&self.ledger).unwrap().ledger.append(entries).unwrap();
    }

    async fn commit(&mut self, events: Vec<Event>) {
        let running = Running::open(&self.database, OpenOptions::default()).await.unwrap();
        self.held.commit(running.store(), events).await.unwrap();
        running.stop().await;
    }

    /// Asserts that exactly these checks find something, and that what they say is documented word for word.
    async fn finds(&self, checks: &[u8]) {
        let progress = Progress::default();
        let report = audit::run(
            &Database::Sqlite(self.database.clone()),
            &self.ledger,
            Duration::ZERO,
            Some(&self.answered),
            &progress,
        )
        .await
        .unwrap();
        let mut found: Vec<u8> = report.findings.iter().map(|finding| finding.check).collect();
        found.dedup();
        assert_eq!(found, checks, "{report}");
        let document = std::fs::read_to_string(DOCUMENT).unwrap();
        let said = report.findings.iter().map(ToString::to_string);
        let undocumented: Vec<String> = said.filter(|finding| !document.lines().any(|line| line == finding)).collect();
        assert!(undocumented.is_empty(), "not in {DOCUMENT}: {undocumented:#?}");
    }
}

#[tokio::test]
async fn files_that_agree_have_no_findings() {
    World::new().await.finds(&[]).await;
}

#[tokio::test]
async fn c1_an_order_at_the_venue_that_has_no_row_or_another_one() {
    let world = World::new().await;
    world.append(&[accepted(&sent(3, world.held.account.id), 3)]);
    world.finds(&[1]).await;
    let world = World::new().await;
    world.rewrite_order("qty", "$.qty", "3");
    world.finds(&[1]).await;
}

#[tokio::test]
async fn c2_a_trade_that_is_not_booked_or_otherwise_or_not_at_the_venue() {
    let world = World::new().await;
    let Event::Fill { mut fill, .. } = booking(&world.orders[1]) else { unreachable!() };
    fill.trade_id = TradeId(2);
    world.append(&[vec![Record::Fill { account: LABEL.into(), fill: Box::new(fill) }]]);
    world.finds(&[2, 3]).await;

    let world = World::new().await;
    world.rewrite("UPDATE hg_trading_fill SET price = ?", 10, "$.fill.price", "102");
    world.finds(&[2, 8]).await;

    let world = World::new().await;
    let text = std::fs::read_to_string(&world.ledger).unwrap();
    let fill = text.trim_end().rfind('\n').unwrap() + 1;
    std::fs::write(&world.ledger, &text[..fill]).unwrap();
    world.finds(&[2, 3]).await;
}

#[tokio::test]
async fn c3_a_status_or_a_quantity_that_differs() {
    let world = World::new().await;
    world.rewrite_order("status", "$.status", "CANCELED");
    world.finds(&[3]).await;
    let world = World::new().await;
    world.rewrite_order("filled", "$.filled", "1");
    world.finds(&[3]).await;
}

#[tokio::test]
async fn c4_an_order_that_nobody_resolved() {
    let world = World::new().await;
    world.rewrite_order("status", "$.status", "UNKNOWN");
    world.finds(&[4]).await;
}

#[tokio::test]
async fn c5_a_signal_without_the_outcome_that_it_was_promised() {
    let world = World::new().await;
    std::fs::write(&world.answered, "{\"source\":\"webhook:10001\",\"dedup_key\":\"other\"}\n").unwrap();
    world.finds(&[5]).await;

    let mut world = World::new().await;
    let robot = world.orders[0].robot;
    let decided = |key: &str, outcome| match command(robot, key) {
        Event::Command(record) => Event::Command(Decided { outcome, ..record }),
        _ => unreachable!(),
    };
    let orders = vec![id(2), id(4)];
    world
        .commit(vec![
            decided("second", Outcome::Done { robot: Some(robot), orders }),
            decided("third", Outcome::Skipped { reason: String::new() }),
        ])
        .await;
    world.finds(&[5]).await;
}

#[tokio::test]
async fn c6_a_leg_that_was_ordered_twice() {
    let mut world = World::new().await;
    let twin = Order { key: OrderKey { decision: 2, leg: 0 }, generation: 1, ..sent(3, world.held.account.id) };
    let rests = Order { venue_id: Some(VenueOrderId(3)), ..resting(&twin) };
    world.commit(vec![Event::Order(twin.clone()), Event::Order(rests)]).await;
    world.append(&[accepted(&twin, 3)]);
    world.finds(&[6]).await;
}

#[tokio::test]
async fn c7_a_request_that_was_sent_twice() {
    let world = World::new().await;
    world.append(&[vec![post(&world.orders[1], false)]]);
    world.finds(&[7]).await;
}

#[tokio::test]
async fn c8_a_balance_or_a_position_that_does_not_add_up() {
    let world = World::new().await;
    let update = "UPDATE hg_trading_balance SET total = ? WHERE asset = 'USDT'";
    world.rewrite(update, 10, "$.balances[1].total", "949.51");
    world.finds(&[8]).await;
    let world = World::new().await;
    world.rewrite("UPDATE hg_trading_position SET qty = ?", 10, "$.position.qty", "0.5");
    world.finds(&[8]).await;
}

#[tokio::test]
async fn c9_events_that_are_missing_and_rows_that_they_do_not_make() {
    let world = World::new().await;
    world.sql().execute("DELETE FROM hg_trading_event WHERE seq = 8", []).unwrap();
    world.finds(&[9]).await;
    let world = World::new().await;
    world.sql().execute("UPDATE hg_trading_order SET reason = 'edited' WHERE client_id = ?", [id(2).as_str()]).unwrap();
    world.finds(&[9]).await;
    let world = World::new().await;
    world.sql().execute("UPDATE hg_trading_robot SET desired_state = 'stopped'", []).unwrap();
    world.finds(&[9]).await;
    let world = World::new().await;
    let state = "INSERT INTO hg_trading_strategy_state VALUES (10001, 1, '{\"kind\":\"follower\"}', 4)";
    world.sql().execute(state, []).unwrap();
    world.finds(&[9]).await;
    let world = World::new().await;
    world.sql().execute("DELETE FROM hg_trading_balance WHERE asset = 'BTC'", []).unwrap();
    world.finds(&[8, 9]).await;
}

#[tokio::test]
async fn c10_an_order_that_was_sent_under_an_old_epoch() {
    let mut world = World::new().await;
    let late = sent(30, world.held.account.id);
    let late = Order { client_id: id(3), ..late };
    let rests = Order { venue_id: Some(VenueOrderId(3)), ..resting(&late) };
    let events = vec![Event::Started { epoch: Epoch(2) }, Event::Order(late.clone()), Event::Order(rests)];
    world.commit(events).await;
    world.append(&[accepted(&late, 3)]);
    world.finds(&[10]).await;
}
