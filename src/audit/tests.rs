//! Each check finds what it is for, and nothing in a clean input.

use std::path::Path;
use std::time::Duration;

use trading::command::{Command, Outcome, Record, Wish};
use trading::event::{Event, Recorded};
use trading::exchange::{Fill, OrderKind, Side, TimeInForce, VenueBalance, VenueStatus};
use trading::ids::{AccountId, ClientOrderId, Epoch, OrderKey, RobotId, Seq, TradeId, VenueOrderId};
use trading::market::Asset;
use trading::money::{Amount, Qty};
use trading::order::{CancelState, Order, Status};
use trading::position::{Balance, Position};
use trading::risk::Limits;
use trading::robot::{DesiredState, Robot, RobotConfig, RunState, StopPolicy, StrategyState, follower};
use trading::signal::{Action, Signal};
use trading::time::Timestamp;
use venue::ledger::{AccountImage, OrderImage, Post};

use super::report::Findings;
use super::*;

const LABEL: &str = "main";
const ROBOT: RobotId = RobotId(10_001);

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn id(n: i64) -> ClientOrderId {
    ClientOrderId::from_venue(format!("h{n:026}"))
}

fn qty(text: &str) -> Qty {
    text.parse().unwrap()
}

fn balance(asset: &str, opening: &str, total: &str, version: i64) -> Balance {
    let amount = |text: &str| text.parse::<Amount>().unwrap();
    Balance { asset: Asset::new(asset), opening: amount(opening), total: amount(total), version }
}

fn robot() -> Robot {
    Robot {
        id: ROBOT,
        account: AccountId(1),
        name: "robot".into(),
        symbol: "BTCUSDT".parse().unwrap(),
        config: RobotConfig::Follower(follower::Config { default_qty: qty("1") }),
        limits: Limits::default(),
        desired: DesiredState::Running,
        run: RunState::Running,
        reason: None,
        stop_policy: StopPolicy::Keep,
        decision_seq: 1,
        webhook_hash: None,
        created_at: at(1),
        version: 1,
    }
}

fn order(n: i64, status: Status) -> Order {
    Order {
        client_id: id(n),
        account: AccountId(1),
        robot: ROBOT,
        key: OrderKey { decision: n, leg: 0 },
        generation: 0,
        symbol: "BTCUSDT".parse().unwrap(),
        side: Side::Buy,
        kind: OrderKind::Limit { price: "100".parse().unwrap() },
        tif: TimeInForce::Gtc,
        qty: qty("2"),
        status,
        cancel: CancelState::None,
        attempt: 1,
        epoch: Epoch(1),
        sent_at: Some(at(100 + n)),
        deadline: Some(at(200 + n)),
        expires_at: None,
        venue_id: Some(VenueOrderId(n)),
        filled: Qty::ZERO,
        filled_quote: Amount::ZERO,
        reported: Qty::ZERO,
        reason: None,
        created_at: at(n),
        updated_at: at(n),
        version: 1,
    }
}

fn fill() -> Fill {
    Fill {
        trade_id: TradeId(7),
        client_id: id(1),
        venue_id: VenueOrderId(1),
        symbol: "BTCUSDT".parse().unwrap(),
        side: Side::Buy,
        price: "99.5".parse().unwrap(),
        qty: qty("2"),
        fee: "0.002".parse().unwrap(),
        fee_asset: Asset::new("BTC"),
        maker: false,
        at: at(150),
    }
}

fn command(dedup_key: &str, outcome: Outcome) -> Event {
    let wish = Wish::Signal(Signal { robot: ROBOT, action: Action::Close, expires_at: None });
    let command = Command { source: "webhook".into(), dedup_key: dedup_key.into(), wish };
    Event::Command(Record { command, received_at: at(50), outcome })
}

/// One order filled and one resting, with everything that led there.
fn history() -> Vec<Event> {
    let done = Order { filled: qty("2"), reported: qty("2"), version: 2, ..order(1, Status::Filled) };
    let resting = Order { version: 2, ..order(2, Status::Open) };
    let planned = Outcome::Done { robot: Some(ROBOT), orders: vec![id(1), id(2)] };
    let mut position = Position::empty(ROBOT, "BTCUSDT".parse().unwrap());
    position.version = 1;
    position.qty = "1.998".parse().unwrap();
    position.cost = "199".parse().unwrap();
    position.fees = "0.199".parse().unwrap();
    vec![
        Event::Started { epoch: Epoch(1) },
        Event::Opening(balance("BTC", "1", "1", 1)),
        Event::Opening(balance("USDT", "1000", "1000", 1)),
        Event::Robot(robot()),
        Event::Strategy { robot: ROBOT, state: StrategyState::Follower },
        command("first", planned),
        command("second", Outcome::Skipped { reason: "nothing held".into() }),
        Event::Order(order(1, Status::Sending)),
        Event::Order(order(2, Status::Sending)),
        Event::Order(done),
        Event::Fill {
            fill: fill(),
            position,
            balances: vec![balance("BTC", "1", "2.998", 2), balance("USDT", "1000", "801", 2)],
        },
        Event::Order(resting),
    ]
}

/// The tables and the history that these events make.
fn account(events: Vec<Event>) -> AccountData {
    let mut data = AccountData::default();
    for (event, n) in events.into_iter().zip(1..) {
        data.history.add(&Recorded { seq: Seq(n), at: at(90 + n), event: event.clone() });
        match event {
            Event::Command(record) => {
                let key = (record.command.source.clone(), record.command.dedup_key.clone());
                data.signals.insert(key, record);
            }
            Event::Robot(robot) => drop(data.robots.insert(robot.id, robot)),
            Event::Strategy { robot, state } => drop(data.states.insert(robot, (state, Seq(n)))),
            Event::Order(order) => drop(data.orders.insert(order.client_id.clone(), order)),
            Event::Fill { fill, position, balances } => {
                data.fills.insert((fill.symbol.clone(), fill.trade_id), (position.robot, fill));
                data.positions.insert((position.robot, position.symbol.clone()), position);
                data.balances.extend(balances.into_iter().map(|row| (row.asset.clone(), row)));
            }
            Event::Opening(row) => drop(data.balances.insert(row.asset.clone(), row)),
            Event::Alarm { .. } | Event::Started { .. } | Event::Stopped { .. } => {}
        }
    }
    data
}

fn at_venue(n: i64, status: VenueStatus, executed: Qty) -> OrderImage {
    let order = order(n, Status::Open);
    OrderImage {
        client_id: order.client_id,
        symbol: order.symbol,
        side: order.side,
        kind: order.kind,
        tif: order.tif,
        qty: order.qty,
        status,
        executed,
    }
}

fn post(n: i64) -> Post {
    Post { client_id: id(n), timestamp: at(100 + n), received_at: at(110 + n), accepted: true, reason: None }
}

fn venue() -> AccountImage {
    let balances = |btc: &str, usdt: &str| {
        [("BTC", btc), ("USDT", usdt)]
            .map(|(asset, total)| VenueBalance { asset: Asset::new(asset), total: total.parse().unwrap() })
            .to_vec()
    };
    AccountImage {
        opening: balances("1", "1000"),
        balances: balances("2.998", "801"),
        orders: [
            (VenueOrderId(1), at_venue(1, VenueStatus::Filled, qty("2"))),
            (VenueOrderId(2), at_venue(2, VenueStatus::New, Qty::ZERO)),
        ]
        .into(),
        fills: vec![fill()],
        posts: vec![post(1), post(2)],
    }
}

fn answered(dedup_key: &str) -> Answered {
    Answered { source: "webhook".into(), dedup_key: dedup_key.into() }
}

fn clean() -> AuditInput {
    let mut input = AuditInput::default();
    input.venue.accounts.insert(LABEL.into(), venue());
    input.accounts.insert(LABEL.into(), account(history()));
    input.answered = Some(vec![answered("first"), answered("second")]);
    input
}

/// The report on an input that was clean before it was doctored.
fn doctored(doctor: impl FnOnce(&mut AccountImage, &mut AccountData)) -> AuditReport {
    let mut input = clean();
    doctor(input.venue.accounts.get_mut(LABEL).unwrap(), input.accounts.get_mut(LABEL).unwrap());
    check(&input)
}

/// Asserts that exactly these checks found something, and returns the sentences.
#[track_caller]
fn only(report: &AuditReport, checks: &[u8]) -> String {
    let mut found: Vec<u8> = report.findings.iter().map(|finding| finding.check).collect();
    found.dedup();
    assert_eq!(found, checks, "{report}");
    report.to_string()
}

#[test]
fn a_clean_input_has_no_findings() {
    let report = check(&clean());
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        report.counts,
        Counts {
            accounts: 1,
            orders: 2,
            fills: 1,
            signals: 2,
            events: 12,
            venue_orders: 2,
            venue_fills: 1,
            venue_posts: 2,
        }
    );
    assert!(report.to_string().ends_with("\nlost 0, doubled 0"), "{report}");
}

#[test]
fn c1_finds_a_venue_order_without_a_row() {
    let report = doctored(|venue, _| {
        venue.orders.insert(VenueOrderId(3), at_venue(3, VenueStatus::New, Qty::ZERO));
    });
    let text = only(&report, &[1]);
    assert!(text.contains(id(3).as_str()) && text.ends_with("lost 1, doubled 0"), "{text}");
}

#[test]
fn c1_finds_an_order_that_is_different_at_the_venue() {
    let report = doctored(|venue, _| venue.orders.get_mut(&VenueOrderId(2)).unwrap().qty = qty("3"));
    assert!(only(&report, &[1]).contains("is to buy 2 BTCUSDT at 100 here, and to buy 3 BTCUSDT at 100 at the venue"));
}

#[test]
fn c1_finds_an_order_that_was_sent_before_its_row_was_committed() {
    // The row is there by now, which is what makes this worth a look at the moment of sending.
    let report = doctored(|venue, ours| {
        let mut events = history();
        events.push(Event::Order(order(3, Status::Sending)));
        events.push(Event::Order(Order { version: 2, ..order(3, Status::Rejected) }));
        *ours = account(events);
        let refusal = "-9000 order was sent before its row was committed".to_owned();
        venue.posts.push(Post { accepted: false, reason: Some(refusal), ..post(3) });
    });
    let text = only(&report, &[1]);
    let sentence = format!("order {} was sent before its row was committed", id(3));
    assert!(text.contains(&sentence) && text.ends_with("lost 1, doubled 0"), "{text}");
}

#[test]
fn c1_leaves_foreign_orders_alone() {
    let report = doctored(|venue, _| {
        let foreign =
            OrderImage { client_id: ClientOrderId::from_venue("web_1"), ..at_venue(9, VenueStatus::New, Qty::ZERO) };
        venue.orders.insert(VenueOrderId(9), foreign);
    });
    assert!(report.is_clean(), "{report}");
}

#[test]
fn c2_finds_a_fill_that_was_not_booked() {
    let report = doctored(|venue, _| {
        venue.fills.push(Fill { trade_id: TradeId(8), client_id: id(2), ..fill() });
    });
    // The venue's own books do not add up either then.
    assert!(only(&report, &[2, 8]).contains("trade 8 of BTCUSDT"));
}

#[test]
fn c2_finds_a_fill_that_the_venue_does_not_have_or_has_otherwise() {
    let report = doctored(|venue, _| venue.fills.clear());
    assert!(only(&report, &[2, 8]).contains("and the venue does not have it"));
    let report = doctored(|venue, _| venue.fills[0].fee = "0.003".parse().unwrap());
    assert!(only(&report, &[2, 8]).contains("(buy 2 at 99.5, fee 0.002 BTC), and is at the venue for order"));
}

#[test]
fn c3_finds_a_status_that_differs() {
    let report = doctored(|venue, _| venue.orders.get_mut(&VenueOrderId(2)).unwrap().status = VenueStatus::Canceled);
    assert!(only(&report, &[3]).contains("is OPEN here (0 filled), and canceled at the venue"));
    let report = doctored(|venue, _| drop(venue.orders.remove(&VenueOrderId(2))));
    assert!(only(&report, &[3]).contains("the venue does not have it"));
}

#[test]
fn c3_finds_a_filled_quantity_that_is_not_the_sum_of_the_fills() {
    let report = doctored(|venue, ours| {
        let mut events = history();
        events.push(Event::Order(Order { filled: qty("1"), version: 3, ..order(2, Status::Partial) }));
        *ours = account(events);
        *venue.orders.get_mut(&VenueOrderId(2)).unwrap() = at_venue(2, VenueStatus::PartiallyFilled, qty("1"));
    });
    assert!(only(&report, &[3]).contains("says that 1 is filled, but its fills here make 0"));
}

#[test]
fn c4_finds_what_nobody_resolved() {
    for status in [Status::Sending, Status::Unknown] {
        let report = doctored(|_, ours| {
            let mut events = history();
            events.push(Event::Order(Order { version: 3, ..order(2, status) }));
            *ours = account(events);
        });
        assert!(only(&report, &[4]).contains("is unresolved"));
    }
}

#[test]
fn c5_finds_an_answered_signal_that_was_forgotten() {
    let mut input = clean();
    input.answered.as_mut().unwrap().push(answered("third"));
    assert!(only(&check(&input), &[5]).contains("`third`"));
}

#[test]
fn c5_finds_a_signal_whose_order_does_not_exist_or_that_has_no_reason() {
    let with = |outcome| {
        doctored(|_, ours| {
            let mut events = history();
            events.push(command("third", outcome));
            *ours = account(events);
        })
    };
    let report = with(Outcome::Done { robot: None, orders: vec![id(3)] });
    assert!(only(&report, &[5]).contains(id(3).as_str()));
    only(&with(Outcome::Denied { reason: String::new() }), &[5]);
}

#[test]
fn c6_finds_a_leg_that_was_ordered_twice() {
    // A second generation, although the first one had reached the venue.
    let report = doctored(|venue, ours| {
        let twin = Order { key: OrderKey { decision: 2, leg: 0 }, generation: 1, ..order(3, Status::Open) };
        let mut events = history();
        events.push(Event::Order(twin));
        *ours = account(events);
        venue.orders.insert(VenueOrderId(3), at_venue(3, VenueStatus::New, Qty::ZERO));
    });
    let text = only(&report, &[6]);
    assert!(
        text.contains("leg 0 of decision 2 of robot 10001 has 2 orders at the venue: 2 (")
            && text.ends_with("lost 0, doubled 1"),
        "{text}"
    );
}

#[test]
fn c6_finds_a_client_id_that_was_used_twice() {
    let report = doctored(|venue, _| {
        venue.orders.insert(VenueOrderId(3), at_venue(2, VenueStatus::New, Qty::ZERO));
    });
    only(&report, &[6]);
}

#[test]
fn c7_finds_a_request_that_was_sent_twice_even_if_it_was_refused() {
    let report = doctored(|venue, _| venue.posts.push(Post { accepted: false, ..post(2) }));
    let text = only(&report, &[7]);
    assert!(text.contains("2 requests") && text.ends_with("lost 0, doubled 1"), "{text}");
}

#[test]
fn c8_finds_a_balance_that_does_not_add_up() {
    let report = doctored(|venue, _| venue.balances[1].total = "801.00000001".parse().unwrap());
    assert!(
        only(&report, &[8])
            .contains("USDT is 801.00000001, but its opening 1000 and its fills make 801, which is 0.00000001 off")
    );
    let report = doctored(|_, ours| {
        let mut events = history();
        events.push(Event::Opening(balance("USDT", "1000", "800", 3)));
        *ours = account(events);
    });
    assert!(only(&report, &[8]).contains("our balance of USDT"));
}

#[test]
fn c8_finds_openings_that_differ() {
    let report = doctored(|_, ours| {
        let mut events = history();
        events.push(Event::Opening(balance("USDT", "999", "800", 3)));
        *ours = account(events);
    });
    assert!(only(&report, &[8]).contains("USDT began with 1000 at the venue and with 999 here"));
}

#[test]
fn c9_finds_a_gap_in_the_events() {
    let report = doctored(|_, ours| {
        ours.history.add(&Recorded { seq: Seq(14), at: at(500), event: Event::Started { epoch: Epoch(1) } });
    });
    assert!(only(&report, &[9]).contains("event 13 is missing: event 12 is followed by event 14"));
}

#[test]
fn c9_finds_a_row_that_its_events_do_not_make() {
    let report = doctored(|_, ours| ours.orders.get_mut(&id(2)).unwrap().reason = Some("edited".into()));
    only(&report, &[9]);
    let report = doctored(|_, ours| ours.robots.clear());
    let text = only(&report, &[5, 9]);
    assert!(text.contains("was done for robot 10001, which does not exist here"), "{text}");
    assert!(text.contains("robot 10001 is told of by event 4, but is not in its table"), "{text}");
}

#[test]
fn c10_finds_an_attempt_under_an_old_epoch() {
    let report = doctored(|venue, ours| {
        let mut events = history();
        events.push(Event::Started { epoch: Epoch(2) });
        events.push(Event::Order(order(3, Status::Sending)));
        events.push(Event::Order(Order { version: 2, ..order(3, Status::Open) }));
        *ours = account(events);
        venue.orders.insert(VenueOrderId(3), at_venue(3, VenueStatus::New, Qty::ZERO));
    });
    assert!(only(&report, &[10]).contains("under epoch 1, although epoch 2 had begun"));
}

#[test]
fn c10_finds_a_request_that_was_sent_after_a_newer_epoch_had_begun() {
    let report = doctored(|venue, ours| {
        let mut events = history();
        // It begins at 103; the requests of orders 1 and 2 say what their rows do, until one is doctored.
        events.push(Event::Started { epoch: Epoch(2) });
        *ours = account(events);
        venue.posts[1].timestamp = at(2_000_104);
    });
    assert!(only(&report, &[10]).contains("after epoch 2 had begun"));
}

#[test]
fn c10_is_about_our_clock_and_not_the_venues() {
    let report = doctored(|venue, ours| {
        let mut events = history();
        events.push(Event::Started { epoch: Epoch(2) });
        *ours = account(events);
        // The venue's clock is an hour ahead, and was measured once more between the two requests.
        for (post, ahead) in venue.posts.iter_mut().zip([3_600_000_000, 3_600_150_000]) {
            post.timestamp = Timestamp::from_micros(post.timestamp.micros() + ahead);
        }
    });
    assert_eq!(report.findings, []);
}

#[test]
fn what_is_found_counts_only_if_it_is_found_again_word_for_word() {
    let look = |found: &[(&str, &str)]| {
        let mut findings = Findings::default();
        for (what, now) in found {
            findings.find_now(3, (*what).into(), (*now).into(), "look");
        }
        AuditReport::new(findings, Counts::default())
    };
    let first = look(&[("moved", ""), ("stays", "was so")]);
    let both = first.and(look(&[("moved on", ""), ("stays", "is so"), ("new", "")]));
    assert_eq!(both.findings.iter().map(|finding| finding.what.as_str()).collect::<Vec<_>>(), ["stays"]);
    assert_eq!(both.findings[0].now.as_deref(), Some("is so"), "what may move is told as it is last seen");
    assert_eq!((both.lost, both.looks), (1, 2));
}

#[test]
fn a_million_findings_are_counted_and_a_thousand_are_kept() {
    let mut findings = Findings::default();
    (0..1_500).for_each(|n| findings.find(7, format!("request {n}"), "look"));
    let report = AuditReport::new(findings, Counts::default());
    assert_eq!((report.doubled, report.findings.len(), report.more), (1_500, 1_000, 500));
    assert!(report.to_string().contains("\nand 1400 more\n"), "{report}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["more"], &json["took_ms"]), (&500.into(), &0.into()));
}

#[tokio::test]
async fn files_that_are_missing_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let there = directory.path().join("there");
    std::fs::write(&there, "").unwrap();
    let nowhere = Path::new("/nonexistent/file");
    let missing = async |database: &Path, ledger: &Path, answered: Option<&Path>| match run(
        &Database::Sqlite(database.to_owned()),
        ledger,
        Duration::ZERO,
        answered,
        &Progress::default(),
    )
    .await
    {
        Err(AuditError::Missing { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(nowhere, &there, None).await, "database");
    assert_eq!(missing(&there, nowhere, None).await, "ledger");
    assert_eq!(missing(&there, &there, Some(nowhere)).await, "file of answered signals");
}

#[test]
fn an_unfinished_last_line_of_answered_signals_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("answered.jsonl");
    std::fs::write(&path, "{\"source\":\"a\",\"dedup_key\":\"1\",\"status\":202}\n{\"source\":\"a\",\"ded").unwrap();
    assert_eq!(read_answered(&path).unwrap(), [Answered { source: "a".into(), dedup_key: "1".into() }]);
    std::fs::write(&path, "{}\n").unwrap();
    assert!(matches!(read_answered(&path), Err(AuditError::Answered { line: 1, .. })));
}
