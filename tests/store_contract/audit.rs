//! The checker on real files: a database that a store wrote, and a ledger that a venue wrote.

use std::sync::Arc;
use std::time::Duration;

use hotgo::audit::{self, Progress};
use hotgo::store::{Database, Store};
use trading::event::Event;
use trading::exchange::{OrderKind, VenueBalance, VenueStatus};
use trading::ids::{ClientOrderId, VenueOrderId};
use trading::market::Asset;
use trading::money::Qty;
use trading::order::{Order, Status};
use venue::ledger::{Ledger, Post};
use venue::record::Record;

use crate::data::{Held, amount, at, command, fill, opening, order, qty, robot};
use crate::postgres;
use crate::sqlite::Running;

fn booked(order: &Order) -> Order {
    Order {
        status: Status::Partial,
        venue_id: Some(VenueOrderId(1)),
        filled: qty("0.5"),
        reported: qty("0.5"),
        version: 2,
        ..order.clone()
    }
}

#[tokio::test]
async fn what_a_store_and_a_venue_wrote_is_compared() {
    let running = Running::start().await;
    compare(running.store(), &Database::Sqlite(running.path.clone())).await;
    running.stop().await;
}

#[tokio::test]
async fn what_postgresql_and_a_venue_wrote_is_compared() {
    let running = postgres::Running::start().await;
    let database = Database::parse(&running.server.as_ref().unwrap().url()).unwrap();
    compare(running.store(), &database).await;
    running.stop().await;
}

async fn compare(store: &dyn Store, database: &Database) {
    let directory = tempfile::tempdir().unwrap();
    let mut held = Held::new(store).await;
    let robot = robot(held.account.id, 1);
    let order = Order {
        client_id: ClientOrderId::from_venue(format!("h{:026}", 1)),
        kind: OrderKind::Limit { price: "101".parse().unwrap() },
        ..order(robot.id, 1)
    };
    let events = vec![
        opening("BTC"),
        opening("USDT"),
        Event::Robot(robot.clone()),
        command(robot.id, "key"),
        Event::Order(order.clone()),
    ];
    held.commit(store, events).await.unwrap();

    let ledger = directory.path().join("venue.ledger");
    let label: Arc<str> = held.account.label.as_str().into();
    let balance = |asset| VenueBalance { asset: Asset::new(asset), total: amount("1000") };
    let post =
        Post { client_id: order.client_id.clone(), timestamp: at(1), received_at: at(2), accepted: true, reason: None };
    let Event::Fill { fill: trade, .. } = fill(&order, 1, 1) else { unreachable!() };
    let records = vec![
        Record::Account { label: label.clone(), opening: vec![balance("BTC"), balance("USDT")], at: at(0) },
        Record::Post { account: label.clone(), post },
        Record::Order {
            account: label.clone(),
            venue_id: VenueOrderId(1),
            base: Asset::new("BTC"),
            quote: Asset::new("USDT"),
            order: Box::new(order.to_request()),
            at: at(2),
        },
        Record::Fill { account: label, fill: Box::new(trade) },
    ];
    let mut opened = Ledger::open(&ledger).unwrap();
    opened.ledger.append(&[records]).unwrap();

    let answered = directory.path().join("answered.jsonl");
    std::fs::write(&answered, format!("{{\"source\":\"webhook:{}\",\"dedup_key\":\"key\"}}\n", robot.id)).unwrap();
    let audit = async || {
        audit::run(database, &ledger, Duration::from_millis(1), Some(&answered), &Progress::default()).await.unwrap()
    };

    // The answer is still on its way: the order is unresolved and its fill is not booked, however often one looks.
    let report = audit().await;
    assert!(report.findings.iter().map(|finding| finding.check).eq([2, 4]), "{report}");
    assert_eq!(VenueStatus::PartiallyFilled, ledger_status(&ledger, &held.account.label));

    // Then it is booked, while the checker may look.
    let Event::Fill { fill: trade, mut position, mut balances } = fill(&order, 1, 1) else { unreachable!() };
    (position.cost, position.fees) = (amount("50.5"), amount("0.0505"));
    balances[0].total = amount("1000.4995");
    balances[1].total = amount("949.5");
    let answer = vec![Event::Order(booked(&order)), Event::Fill { fill: trade, position, balances }];
    held.commit(store, answer).await.unwrap();
    let report = audit().await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.counts.orders, report.counts.fills, report.counts.events), (1, 1, 7));

    let lost = Order { version: 3, filled: Qty::ZERO, ..booked(&order) };
    held.commit(store, vec![Event::Order(lost)]).await.unwrap();
    let report = audit().await;
    assert!(report.lost > 0 && report.findings.iter().all(|finding| finding.check == 3), "{report}");
}

fn ledger_status(path: &std::path::Path, label: &str) -> VenueStatus {
    venue::ledger::read(path).unwrap().accounts[label].orders[&VenueOrderId(1)].status
}
