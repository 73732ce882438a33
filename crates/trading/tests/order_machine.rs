//! The order machine against a naive model: a table of the transitions that the design allows, applied to the whole history.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{amount, at, limit, price, qty};
use proptest::prelude::*;
use rust_decimal::Decimal;
use trading::exchange::{Side, VenueStatus};
use trading::ids::{Epoch, OrderKey, VenueOrderId};
use trading::money::{Amount, Qty};
use trading::order::{CancelState, Order, OrderEvent, Status, Transition};

const QTY: i64 = 10;
const VENUE: VenueOrderId = VenueOrderId(7);

fn units(n: i64) -> Qty {
    Qty::new(Decimal::from(n))
}

fn new_order() -> Order {
    common::order(&limit(Side::Buy, price("2"), units(QTY)), OrderKey { decision: 1, leg: 0 }, at(0))
}

fn attempt() -> OrderEvent {
    OrderEvent::Attempt { epoch: Epoch(3), deadline: at(9_000) }
}

fn report(status: VenueStatus, executed: i64) -> OrderEvent {
    OrderEvent::Report { venue_id: VENUE, status, executed: units(executed) }
}

fn filled(n: i64) -> OrderEvent {
    OrderEvent::Fill { qty: units(n), notional: Amount::new(Decimal::from(2 * n)) }
}

fn after(events: &[OrderEvent]) -> (Order, Transition) {
    let mut order = new_order();
    let mut last = Transition::Ignored;
    for (i, event) in events.iter().enumerate() {
        last = order.apply(event, at(i64::try_from(i).unwrap()));
    }
    (order, last)
}

/// The states that the venue can report, each with what it makes of an order.
const REPORTED: [(VenueStatus, &str); 6] = [
    (VenueStatus::New, "OPEN"),
    (VenueStatus::PartiallyFilled, "OPEN"),
    (VenueStatus::Filled, "FILLED"),
    (VenueStatus::Canceled, "CANCELED"),
    (VenueStatus::Rejected, "REJECTED"),
    (VenueStatus::Expired, "EXPIRED"),
];

/// The design's table of what an event other than a report or a fill does to the status: all that is not here does nothing.
const TABLE: [(&str, &str, &str); 7] = [
    ("INTENT", "deny", "DENIED"),
    ("INTENT", "skip", "SKIPPED"),
    ("INTENT", "attempt", "SENDING"),
    ("SENDING", "refuse", "REJECTED"),
    ("SENDING", "lose", "UNKNOWN"),
    // The answer to the one POST came after all, after its time-out.
    ("UNKNOWN", "refuse", "REJECTED"),
    ("UNKNOWN", "prove", "ABSENT"),
];

/// The same for the cancellation, while the order lives.
const CANCEL_TABLE: [(&str, &str, &str); 6] = [
    ("NONE", "request", "REQUESTED"),
    ("REJECTED", "request", "REQUESTED"),
    ("REQUESTED", "send", "SENT"),
    ("UNKNOWN", "send", "SENT"),
    ("SENT", "refuse cancel", "REJECTED"),
    ("SENT", "lose cancel", "UNKNOWN"),
];

fn name(event: &OrderEvent) -> &'static str {
    match event {
        OrderEvent::Attempt { .. } => "attempt",
        OrderEvent::Deny(_) => "deny",
        OrderEvent::Skip(_) => "skip",
        OrderEvent::Refuse(_) => "refuse",
        OrderEvent::Lose(_) => "lose",
        OrderEvent::Report { .. } => "report",
        OrderEvent::Fill { .. } => "fill",
        OrderEvent::ProveAbsent => "prove",
        OrderEvent::RequestCancel => "request",
        OrderEvent::SendCancel => "send",
        OrderEvent::RefuseCancel(_) => "refuse cancel",
        OrderEvent::LoseCancel(_) => "lose cancel",
    }
}

/// Everything the model knows, in the simplest terms.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    status: &'static str,
    cancel: &'static str,
    venue: Option<i64>,
    fills: Vec<i64>,
    reported: i64,
}

#[derive(Debug, PartialEq)]
enum Expected {
    Changed,
    Alarm,
    Ignored,
}

const TERMINAL: [&str; 7] = ["FILLED", "CANCELED", "EXPIRED", "REJECTED", "ABSENT", "DENIED", "SKIPPED"];

impl Model {
    fn new() -> Self {
        Self { status: "INTENT", cancel: "NONE", venue: None, fills: Vec::new(), reported: 0 }
    }

    fn thought_absent(&self) -> bool {
        ["INTENT", "ABSENT", "DENIED", "SKIPPED"].contains(&self.status)
            || (self.status == "REJECTED" && self.venue.is_none())
    }

    fn step(&mut self, event: &OrderEvent) -> Expected {
        let before = self.clone();
        let mut alarm = false;
        match event {
            OrderEvent::Report { venue_id, status, executed } => {
                if self.venue.is_some_and(|known| known != venue_id.0) {
                    return Expected::Alarm;
                }
                let contradicted =
                    self.thought_absent() && !(self.status == "REJECTED" && *status == VenueStatus::Rejected);
                alarm = contradicted;
                self.venue = Some(venue_id.0);
                let executed = i64::try_from(executed.get().mantissa()).unwrap();
                let executed = if *status == VenueStatus::Filled { executed.max(QTY) } else { executed };
                self.reported = self.reported.max(executed);
                if contradicted || !TERMINAL.contains(&self.status) {
                    let next = REPORTED.iter().find(|(reported, _)| reported == status).unwrap().1;
                    self.status = if next == "OPEN" && !self.fills.is_empty() { "PARTIAL" } else { next };
                }
            }
            OrderEvent::Fill { qty, .. } => {
                let contradicted = self.thought_absent();
                self.fills.push(i64::try_from(qty.get().mantissa()).unwrap());
                let sum: i64 = self.fills.iter().sum();
                let unannounced = TERMINAL.contains(&self.status) && sum > self.reported;
                alarm = contradicted || unannounced || sum > QTY;
                self.reported = self.reported.max(sum);
                if sum >= QTY {
                    self.status = "FILLED";
                } else if contradicted || !TERMINAL.contains(&self.status) {
                    self.status = "PARTIAL";
                }
            }
            other => {
                let event = name(other);
                let blocked = event == "send" && ["INTENT", "SENDING"].contains(&self.status);
                if let Some((_, _, next)) = TABLE.iter().find(|(from, by, _)| (*from, *by) == (self.status, event)) {
                    self.status = next;
                } else if !TERMINAL.contains(&self.status)
                    && !blocked
                    && let Some((_, _, next)) =
                        CANCEL_TABLE.iter().find(|(from, by, _)| (*from, *by) == (self.cancel, event))
                {
                    self.cancel = next;
                }
            }
        }
        let changed = alarm || *self != before;
        if changed && TERMINAL.contains(&self.status) && self.cancel != "NONE" {
            self.cancel = if self.status == "CANCELED" { "DONE" } else { "REJECTED" };
        }
        if alarm {
            Expected::Alarm
        } else if changed {
            Expected::Changed
        } else {
            Expected::Ignored
        }
    }
}

fn any_venue_status() -> impl Strategy<Value = VenueStatus> {
    prop::sample::select(REPORTED.map(|(status, _)| status).to_vec())
}

fn any_event() -> impl Strategy<Value = OrderEvent> {
    let why = || "why".to_owned();
    prop_oneof![
        2 => Just(attempt()),
        1 => Just(OrderEvent::Deny(why())),
        1 => Just(OrderEvent::Skip(why())),
        1 => Just(OrderEvent::Refuse(why())),
        2 => Just(OrderEvent::Lose(why())),
        2 => Just(OrderEvent::ProveAbsent),
        4 => (any_venue_status(), 0..=QTY + 2).prop_map(|(status, executed)| report(status, executed)),
        1 => Just(OrderEvent::Report { venue_id: VenueOrderId(8), status: VenueStatus::New, executed: units(1) }),
        4 => (1..=QTY).prop_map(filled),
        2 => Just(OrderEvent::RequestCancel),
        2 => Just(OrderEvent::SendCancel),
        1 => Just(OrderEvent::RefuseCancel(why())),
        1 => Just(OrderEvent::LoseCancel(why())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_where_the_table_says(events in prop::collection::vec(any_event(), 1..14), sent in any::<bool>()) {
        let (mut order, mut model) = (new_order(), Model::new());
        let events = sent.then(attempt).into_iter().chain(events);
        for (i, event) in events.enumerate() {
            let before = order.clone();
            let done = order.apply(&event, at(100 + i64::try_from(i).unwrap()));
            let expected = model.step(&event);
            let done_kind = match done {
                Transition::Changed => Expected::Changed,
                Transition::Alarm(_) => Expected::Alarm,
                Transition::Ignored => Expected::Ignored,
            };
            prop_assert_eq!(done_kind, expected, "{:?} on {:?}", event, before);
            prop_assert_eq!(order.status.as_str(), model.status);
            prop_assert_eq!(order.cancel.as_str(), model.cancel);
            prop_assert_eq!(order.venue_id.map(|id| id.0), model.venue);
            let sum = model.fills.iter().sum::<i64>();
            prop_assert_eq!(order.filled, units(sum));
            prop_assert_eq!(order.filled_quote, Amount::new(Decimal::from(2 * sum)));
            prop_assert_eq!(order.reported, units(model.reported));
            prop_assert_eq!(order.lacks_fills(), model.reported > sum);
            prop_assert_eq!(order.remaining(), units((QTY - sum).max(0)));
            prop_assert!(order.attempt <= 1, "one POST, ever");
            if done == Transition::Ignored {
                prop_assert_eq!(&order, &before);
            } else {
                prop_assert_eq!(order.version, before.version + 1);
            }
            if name(&event).contains("cancel") || ["request", "send"].contains(&name(&event)) {
                prop_assert_eq!(order.status, before.status);
            } else if !order.status.is_terminal() {
                prop_assert_eq!(order.cancel, before.cancel);
            }
            if order.status.is_terminal() {
                prop_assert!(matches!(order.cancel, CancelState::None | CancelState::Done | CancelState::Rejected));
            }
        }
    }

    #[test]
    fn reports_that_are_repeated_or_come_in_any_order_converge(
        parts in prop::collection::vec(1..=3_i64, 0..4),
        end in prop::sample::select(vec![VenueStatus::Filled, VenueStatus::Canceled, VenueStatus::Expired]),
        repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        lost in any::<bool>(),
        shuffle in any::<u64>(),
    ) {
        let mut sum = 0;
        let mut history = vec![report(VenueStatus::New, 0)];
        for part in parts {
            sum += part;
            history.push(report(VenueStatus::PartiallyFilled, sum));
            history.push(filled(part));
        }
        if end == VenueStatus::Filled {
            history.push(filled(QTY - sum));
            sum = QTY;
        }
        history.push(report(end, sum));
        let start = if lost { vec![attempt(), OrderEvent::Lose("why".into())] } else { vec![attempt()] };
        let (straight, _) = after(&[start.clone(), history.clone()].concat());
        // A fill is told once (its trade id is unique); a report may be told again.
        let again: Vec<_> = repeats.iter().map(|i| i.get(&history).clone()).filter(|e| name(e) == "report").collect();
        history.extend(again);
        let mut seed = shuffle;
        for i in (1..history.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            history.swap(i, usize::try_from(seed >> 33).unwrap() % (i + 1));
        }
        let (shuffled, _) = after(&[start, history].concat());
        let end = |order: &Order| (order.status, order.filled, order.filled_quote, order.reported, order.venue_id);
        prop_assert_eq!(end(&straight), end(&shuffled));
        prop_assert!(shuffled.status.is_terminal() && !shuffled.lacks_fills());
    }
}

#[test]
fn more_fills_than_ordered_are_booked_with_an_alarm() {
    let (order, last) = after(&[attempt(), filled(QTY), filled(1)]);
    assert_eq!(last, Transition::Alarm("filled more than was ordered"));
    assert_eq!((order.status, order.filled), (Status::Filled, units(QTY + 1)));
}

#[test]
fn an_order_proven_absent_that_the_venue_has_after_all_is_adopted_with_an_alarm() {
    for (status, adopted) in [
        (VenueStatus::New, Status::Open),
        (VenueStatus::Filled, Status::Filled),
        (VenueStatus::Canceled, Status::Canceled),
        (VenueStatus::Rejected, Status::Rejected),
    ] {
        let (order, last) =
            after(&[attempt(), OrderEvent::Lose("reset".into()), OrderEvent::ProveAbsent, report(status, 0)]);
        assert!(matches!(last, Transition::Alarm(_)), "{status:?}");
        assert_eq!((order.status, order.venue_id), (adopted, Some(VENUE)));
    }
}

#[test]
fn an_order_that_the_venue_has_before_it_was_sent_is_adopted_and_never_sent_again() {
    let (mut order, last) = after(&[report(VenueStatus::New, 0)]);
    assert!(matches!(last, Transition::Alarm(_)));
    assert_eq!(order.apply(&attempt(), at(1)), Transition::Ignored);
    assert_eq!(order.status, Status::Open);
}

#[test]
fn an_order_that_the_venue_rejected_is_not_opened_again_by_an_older_report() {
    let (order, last) = after(&[attempt(), report(VenueStatus::Rejected, 0), report(VenueStatus::New, 0)]);
    assert_eq!((order.status, last), (Status::Rejected, Transition::Ignored));
}

#[test]
fn a_second_venue_order_under_one_client_id_raises_an_alarm_and_replaces_nothing() {
    let other = OrderEvent::Report { venue_id: VenueOrderId(8), status: VenueStatus::Filled, executed: units(QTY) };
    let (order, last) = after(&[attempt(), report(VenueStatus::New, 0), other]);
    assert_eq!(last, Transition::Alarm("the venue has two orders under one client id"));
    assert_eq!((order.status, order.venue_id), (Status::Open, Some(VENUE)));
}

#[test]
fn fills_that_a_report_announced_come_late_without_an_alarm_and_others_with_one() {
    let canceled = [attempt(), report(VenueStatus::Canceled, 4)];
    let (order, last) = after(&[&canceled[..], &[filled(4)]].concat());
    assert_eq!((order.status, last), (Status::Canceled, Transition::Changed));
    let (order, last) = after(&[&canceled[..], &[filled(5)]].concat());
    assert_eq!((order.status, last), (Status::Canceled, Transition::Alarm("a fill after the order had ended")));
}

#[test]
fn an_order_filled_by_report_keeps_its_funds_reserved_until_its_fills_are_booked() {
    let (mut order, _) = after(&[attempt(), report(VenueStatus::Filled, QTY)]);
    assert!(order.status == Status::Filled && order.lacks_fills());
    assert_eq!(order.outstanding(), units(QTY));
    assert_eq!(order.apply(&filled(QTY), at(5)), Transition::Changed);
    assert_eq!((order.outstanding(), order.lacks_fills()), (Qty::ZERO, false));
    assert_eq!(order.filled_quote, amount("20"));
    assert_eq!(qty("10"), order.filled);
}
