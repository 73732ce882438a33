//! The engine, driven through its inputs and judged by its committed events and by what the venue received.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_imports,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests"
)]

mod world;

use std::time::Duration;

use proptest::prelude::*;
use trading::command::{Outcome, Wish};
use trading::engine::{Effect, Input};
use trading::event::Event;
use trading::exchange::{OrderKind, QueryResult, SendResult, Side, StreamEvent, VenueBalance, VenueStatus};
use trading::ids::ClientOrderId;
use trading::market::Asset;
use trading::order::{Order, Status};
use trading::robot::{RobotConfig, RunState, StopPolicy, dca, grid};
use trading::time::Timestamp;
use world::*;

fn grid_config() -> RobotConfig {
    let lower = "90".parse().unwrap();
    let upper = "110".parse().unwrap();
    RobotConfig::Grid(grid::Config { lower, upper, levels: 5, qty: "0.1".parse().unwrap() })
}

#[test]
fn a_signal_becomes_one_filled_order_with_position_and_balances() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    let outcome = world.outcome("a", buy(robot, OrderKind::Market, None));
    let order = world.only_order();
    assert_eq!(outcome, Outcome::Done { robot: Some(robot), orders: vec![order.client_id.clone()] });
    assert_eq!((order.status, order.filled), (Status::Filled, order.qty));
    let tables = fold(&world.events);
    assert_eq!(tables.positions[&robot].qty.to_string(), "0.0999");
    assert_eq!(tables.balances[&Asset::new("USDT")].total.to_string(), "99990");
    assert_eq!(tables.balances[&Asset::new("USDT")].total, world.venue.balances[&Asset::new("USDT")]);
}

#[test]
fn the_same_command_gets_the_same_answer_and_makes_no_second_order() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    let first = world.outcome("a", buy(robot, OrderKind::Market, None));
    for _ in 0..3 {
        assert_eq!(world.outcome("a", buy(robot, OrderKind::Market, None)), first);
    }
    assert_eq!(world.venue.posts.len(), 1);
}

#[test]
fn a_lost_answer_is_resolved_by_asking_and_never_by_sending_again() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.fault = Fault::DropAnswer;
    world.outcome("a", buy(robot, OrderKind::Market, None));
    assert_eq!(world.only_order().status, Status::Filled);
    assert_eq!(world.venue.posts.len(), 1);
}

#[test]
fn a_lost_request_is_absent_only_after_its_deadline_and_then_sent_under_a_new_id() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.fault = Fault::DropRequest;
    let expires = world.now.after(Duration::from_mins(1));
    world.outcome("a", buy(robot, OrderKind::Market, Some(expires)));
    world.pass(Duration::from_secs(14));
    let lost = world.only_order();
    assert_eq!(lost.status, Status::Unknown, "before the deadline `not found` proves nothing");
    world.pass(Duration::from_secs(10));
    let orders = world.orders();
    assert_eq!(orders[&lost.client_id].status, Status::Absent);
    let again = orders.values().find(|order| order.client_id != lost.client_id).expect("a second generation");
    assert_eq!((again.key, again.generation, again.status), (lost.key, 1, Status::Filled));
}

#[test]
fn a_lost_request_of_an_expired_signal_is_not_sent_again() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.fault = Fault::DropRequest;
    let expires = world.now.after(Duration::from_secs(5));
    world.outcome("a", buy(robot, OrderKind::Market, Some(expires)));
    world.pass(Duration::from_secs(40));
    assert_eq!(world.only_order().status, Status::Absent);
    assert!(world.venue.posts.is_empty());
}

#[test]
fn absence_is_not_proven_while_the_stream_is_down() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.fault = Fault::DropRequest;
    world.outcome("a", buy(robot, OrderKind::Market, None));
    world.feed(Input::Stream(StreamEvent::Down));
    world.pass(Duration::from_mins(1));
    assert_eq!(world.only_order().status, Status::Unknown);
    world.settle();
    world.pass(Duration::from_secs(10));
    assert_eq!(world.only_order().status, Status::Absent);
}

#[test]
fn what_ended_at_the_venue_while_the_stream_was_down_is_found_out_when_it_is_up_again() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    for key in ["stays", "is cancelled", "fills in part and expires"] {
        world.outcome(key, buy(robot, limit("90"), None));
    }
    let ids: Vec<ClientOrderId> = world.venue.posts.clone();
    world.feed(Input::Stream(StreamEvent::Down));
    world.venue.end(&ids[1], VenueStatus::Canceled);
    world.venue.fill_silently(&ids[2], "0.04", world.price, world.now);
    world.venue.end(&ids[2], VenueStatus::Expired);
    world.pass(Duration::from_secs(5));
    assert!(ids.iter().all(|id| world.orders()[id].status == Status::Open), "nobody told us");
    world.settle();
    world.pass(Duration::from_secs(1));
    let statuses: Vec<Status> = ids.iter().map(|id| world.orders()[id].status).collect();
    assert_eq!(statuses, [Status::Open, Status::Canceled, Status::Expired]);
    assert_eq!(world.orders()[&ids[2]].filled.to_string(), "0.04");
}

#[test]
fn a_list_of_open_orders_that_failed_when_the_stream_came_up_is_asked_for_again() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.outcome("a", buy(robot, limit("90"), None));
    let id = world.venue.posts[0].clone();
    world.feed(Input::Stream(StreamEvent::Down));
    world.venue.end(&id, VenueStatus::Canceled);
    world.feed(Input::Stream(StreamEvent::Up));
    world.pending.retain(|effect| *effect != Effect::ListOpenOrders);
    world.feed(Input::OpenOrders(None));
    world.drain_effects();
    assert_eq!(world.only_order().status, Status::Open);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.only_order().status, Status::Canceled);
}

#[test]
fn a_page_after_a_stream_gap_that_was_not_answered_is_asked_for_again() {
    let (mut world, order) = resting_order(limit("100"));
    world.feed(Input::Stream(StreamEvent::Down));
    world.fill_unseen(&order.client_id, "0.05");
    world.feed(Input::Stream(StreamEvent::Up));
    world.pending.retain(|effect| !matches!(effect, Effect::ListOpenOrders));
    world.feed(Input::Fetched { symbol: symbol(), fills: None, more: false });
    world.pending.retain(|effect| !matches!(effect, Effect::FetchFills { .. }));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.only_order().filled.to_string(), "0.05");
}

#[test]
fn a_page_that_was_asked_for_before_a_stream_gap_is_asked_for_again_after_it() {
    let (mut world, order) = resting_order(limit("100"));
    // The first gap's page is answered with what was before the second gap.
    for _ in 0..2 {
        world.feed(Input::Stream(StreamEvent::Down));
        world.feed(Input::Stream(StreamEvent::Up));
    }
    world.fill_unseen(&order.client_id, "0.05");
    world.pending.clear();
    world.feed(Input::Fetched { symbol: symbol(), fills: Some(Vec::new()), more: false });
    world.drain_effects();
    assert_eq!(world.only_order().filled.to_string(), "0.05");
}

/// The two lists of a venue, orders and trades, are not of the same instant.
#[test]
fn a_fill_that_a_page_lacks_is_found_although_a_later_trade_was_on_that_page() {
    let (mut world, order) = resting_order(limit("100"));
    world.outcome("b", buy(order.robot, limit("100"), None));
    let other = world.venue.posts[1].clone();
    world.fill_resting(&other, "0.02");
    world.fill_unseen(&order.client_id, "0.1");
    world.fill_unseen(&other, "0.03");
    world.feed(Input::Stream(StreamEvent::Down));
    world.feed(Input::Stream(StreamEvent::Up));
    world.pending.retain(|effect| !matches!(effect, Effect::FetchFills { .. }));
    let page: Vec<_> = world.venue.fills.iter().filter(|fill| fill.client_id == other).cloned().collect();
    world.feed(Input::Fetched { symbol: symbol(), fills: Some(page), more: false });
    world.drain_effects();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.orders()[&order.client_id].filled.to_string(), "0.1");
}

#[test]
fn an_order_that_ended_in_a_stream_gap_without_a_fill_is_found_out() {
    let (mut world, order) = resting_order(limit("90"));
    world.feed(Input::Stream(StreamEvent::Down));
    world.venue.orders.get_mut(&order.client_id).unwrap().status = VenueStatus::Expired;
    world.feed(Input::Stream(StreamEvent::Up));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.only_order().status, Status::Expired);
}

#[test]
fn balances_that_are_older_than_the_last_fill_raise_no_alarm() {
    let (mut world, order) = resting_order(limit("100"));
    let alarms = |world: &World| world.events.iter().filter(|event| matches!(event.event, Event::Alarm { .. })).count();
    world.crash();
    world.feed(Input::Stream(StreamEvent::Up));
    // The balances are asked for last, and read at the venue before the order is filled.
    while !matches!(world.pending.front(), Some(Effect::ListBalances)) {
        assert!(world.do_one());
    }
    let old = world.venue.balances.iter().map(|(asset, total)| VenueBalance { asset: asset.clone(), total: *total });
    let old = old.collect();
    world.pending.clear();
    world.fill_resting(&order.client_id, "0.1");
    world.feed(Input::Balances(Some(old)));
    assert!(world.engine.is_ready());
    assert_eq!(alarms(&world), 0);
}

#[test]
fn an_order_whose_answer_is_lost_is_asked_for_although_a_fill_of_it_came_by_another_way() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.submit("a", buy(robot, limit("100"), None));
    let Some(Effect::Send(order)) = world.pending.pop_front() else { panic!("nothing is sent") };
    world.venue.accept(&order, world.price, world.now);
    world.fill_unseen(&order.client_id, "0.05");
    world.venue.orders.get_mut(&order.client_id).unwrap().status = VenueStatus::Expired;
    world.feed(Input::Fetched { symbol: symbol(), fills: Some(world.venue.fills.clone()), more: false });
    assert_eq!(world.only_order().status, Status::Partial);
    let result = SendResult::Unknown { reason: "timed out".into() };
    world.feed(Input::Sent { client_id: order.client_id.clone(), result });
    world.pass(Duration::from_secs(1));
    assert_eq!(world.only_order().status, Status::Expired);
}

/// Found by the simulator: the page told of a fill, and the query that would have told of the end had failed.
#[test]
fn an_unknown_order_is_asked_for_although_a_page_has_told_of_a_fill() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.fault = Fault::DropAnswer;
    world.submit("a", buy(robot, limit("90"), None));
    while !matches!(world.pending.front(), Some(Effect::Query { .. })) {
        assert!(world.do_one());
    }
    let id = world.venue.posts[0].clone();
    world.fill_unseen(&id, "0.05");
    world.venue.end(&id, VenueStatus::Expired);
    world.pending.clear();
    world.feed(Input::Queried { client_id: id, result: QueryResult::Failed { reason: "-1000".into() } });
    world.feed(Input::Fetched { symbol: symbol(), fills: Some(world.venue.fills.clone()), more: false });
    assert_eq!(world.only_order().status, Status::Partial);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.only_order().status, Status::Expired);
}

fn resting_order(kind: OrderKind) -> (World, Order) {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.outcome("a", buy(robot, kind, None));
    let order = world.only_order();
    assert_eq!(order.status, Status::Open);
    (world, order)
}

#[test]
fn while_an_outcome_is_unknown_a_new_entry_waits_as_an_intent() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.fault = Fault::DropRequest;
    world.outcome("a", buy(robot, OrderKind::Market, None));
    let Outcome::Done { orders, .. } = world.outcome("b", buy(robot, OrderKind::Market, None)) else { panic!() };
    assert_eq!(world.orders()[&orders[0]].status, Status::Intent);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.orders()[&orders[0]].status, Status::Filled);
    assert_eq!(world.venue.posts.len(), 1, "only the second one ever left");
}

#[test]
fn before_the_first_price_an_entry_waits_as_an_intent() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.crash();
    world.settle();
    world.outcome("a", buy(robot, OrderKind::Market, None));
    assert_eq!(world.only_order().status, Status::Intent);
    world.quote();
    world.drain_effects();
    assert_eq!(world.only_order().status, Status::Filled);
}

#[test]
fn after_a_crash_in_mid_order_the_venue_is_asked_before_anything_else_is_done() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.submit("a", buy(robot, OrderKind::Market, None));
    // SENDING is committed, nothing has left.
    world.crash();
    assert!(!world.engine.is_ready());
    world.settle();
    assert!(world.engine.is_ready(), "the venue has answered about everything");
    assert_eq!(world.only_order().status, Status::Unknown);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.only_order().status, Status::Absent);
    assert_eq!(world.engine.unresolved().count(), 0);
}

/// The stored deadline is a time of the dead process's clock; the next one may have another.
#[test]
fn after_a_restart_absence_is_proven_by_the_new_clock_whatever_the_old_one_said() {
    let hour = Duration::from_hours(1);
    let mut set_back = World::new();
    set_back.now = set_back.now.after(hour);
    let mut set_forward = World::new();
    for (world, ahead) in [(&mut set_back, false), (&mut set_forward, true)] {
        let robot = world.follower(StopPolicy::Keep);
        world.fault = Fault::DropRequest;
        world.outcome("a", buy(robot, OrderKind::Market, None));
        let now = if ahead { world.now.micros() + 3_600_000_000 } else { world.now.micros() - 3_600_000_000 };
        world.now = Timestamp::from_micros(now);
        world.crash();
        world.settle();
        world.pass(Duration::from_secs(14));
        assert_eq!(world.only_order().status, Status::Unknown, "ahead: {ahead}: the request may still arrive");
        world.pass(Duration::from_secs(10));
        assert_eq!(world.only_order().status, Status::Absent, "ahead: {ahead}");
    }
}

/// A venue counts requests: a grid of two hundred orders must not cost two hundred of them at each start.
#[test]
fn resting_orders_are_recovered_by_one_list_and_only_those_it_lacks_are_asked_for() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    for key in ["a", "b", "c", "d"] {
        world.outcome(key, buy(robot, limit("90"), None));
    }
    let ids: Vec<ClientOrderId> = world.venue.posts.clone();
    world.venue.end(&ids[2], VenueStatus::Canceled);
    world.crash();
    assert!(!world.pending.iter().any(|effect| matches!(effect, Effect::Query { .. })), "{:?}", world.pending);
    assert!(!world.engine.is_ready());
    world.settle();
    assert!(world.engine.is_ready());
    let statuses: Vec<Status> = ids.iter().map(|id| world.orders()[id].status).collect();
    assert_eq!(statuses, [Status::Open, Status::Open, Status::Canceled, Status::Open]);
}

#[test]
fn fills_that_happened_while_the_process_was_dead_are_booked_at_the_start() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.outcome("a", buy(robot, limit("99"), None));
    let order = world.only_order();
    assert_eq!(order.status, Status::Open);
    world.price = "99".parse().unwrap();
    let engine_never_hears = world.events.len();
    world.fill_resting(&order.client_id, "0.04");
    world.events.truncate(engine_never_hears);
    world.crash();
    world.settle();
    assert_eq!(world.only_order().status, Status::Partial);
    assert_eq!(world.only_order().filled.to_string(), "0.04");
}

#[test]
fn a_ledger_older_than_the_venue_takes_no_commands() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    let backup = world.events.clone();
    world.outcome("a", buy(robot, limit("99"), None));
    world.events = backup;
    world.crash();
    world.settle();
    assert!(!world.engine.is_ready());
    assert!(world.engine.quarantine().unwrap().contains("the ledger is older"));
    assert_eq!(alarms(&world), 1);
    world.settle();
    world.pass(Duration::from_mins(1));
    assert_eq!(alarms(&world), 1, "it is said once");
}

fn alarms(world: &World) -> usize {
    let said = |event: &Event| matches!(event, Event::Alarm { message, .. } if message.contains("the ledger is older"));
    world.events.iter().filter(|recorded| said(&recorded.event)).count()
}

#[test]
fn a_ledger_that_knows_nothing_of_orders_that_were_filled_since_is_never_ready() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    let backup = world.events.clone();
    for key in ["a", "b", "c"] {
        world.outcome(key, buy(robot, OrderKind::Market, None));
    }
    world.events = backup;
    world.crash();
    world.feed(Input::Stream(StreamEvent::Up));
    // A slow store: what it knows of the orders comes last.
    while !world.pending.iter().all(|effect| matches!(effect, Effect::Recall(_))) {
        match world.pending.pop_front() {
            Some(recall @ Effect::Recall(_)) => world.pending.push_back(recall),
            Some(other) => {
                world.pending.push_front(other);
                world.do_one();
            }
            None => break,
        }
        assert!(!world.engine.is_ready(), "it may not trade for a moment either");
    }
    assert!(!world.pending.is_empty(), "a fill of an unknown order was found");
    world.drain_effects();
    world.pass(Duration::from_mins(1));
    assert!(!world.engine.is_ready());
    assert_eq!(alarms(&world), 1, "it is said once");
    let known: Vec<_> = world.venue.posts.clone();
    assert!(known.iter().any(|id| world.engine.quarantine().unwrap().contains(id.as_str())));
    assert_eq!(world.venue.posts.len(), 3, "nothing was sent");
}

#[test]
fn a_drain_leaves_resting_orders_under_keep_and_cancels_them_under_cancel() {
    for (policy, expected) in [(StopPolicy::Keep, Status::Open), (StopPolicy::Cancel, Status::Canceled)] {
        let mut world = World::new();
        let robot = world.follower(policy);
        world.outcome("a", buy(robot, limit("99"), None));
        world.feed(Input::StopEntries);
        world.feed(Input::Drain);
        assert_eq!(world.engine.is_drained(), policy == StopPolicy::Keep);
        world.drain_effects();
        assert!(world.engine.is_drained());
        assert_eq!(world.only_order().status, expected);
    }
}

#[test]
fn flatten_sells_the_position_once_and_the_robot_runs_again_after_a_restart() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Flatten);
    world.outcome("a", buy(robot, OrderKind::Market, None));
    world.feed(Input::StopEntries);
    world.feed(Input::Drain);
    world.drain_effects();
    assert!(world.engine.is_drained());
    let sells: Vec<_> = world.orders().into_values().filter(|order| order.side == Side::Sell).collect();
    assert_eq!(sells.len(), 1);
    assert_eq!((sells[0].status, sells[0].qty.to_string()), (Status::Filled, "0.099".to_owned()));
    world.crash();
    world.settle();
    assert_eq!(fold(&world.events).robots[&robot].run, RunState::Running);
    assert_eq!(world.orders().len(), 2);
}

#[test]
fn giving_up_leaves_what_is_on_its_way_as_unknown() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.submit("a", buy(robot, OrderKind::Market, None));
    world.feed(Input::Drain);
    assert!(!world.engine.is_drained());
    world.feed(Input::GiveUp);
    assert_eq!(world.only_order().status, Status::Unknown);
    let step = world.engine.stopped(world.now);
    assert!(matches!(step.events.last().unwrap().event, Event::Stopped { unresolved: 1, .. }));
}

#[test]
fn the_kill_switch_cancels_buys_denies_entries_and_lets_the_position_be_closed() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.outcome("a", buy(robot, OrderKind::Market, None));
    world.outcome("b", buy(robot, limit("99"), None));
    world.outcome("kill", Wish::Kill { reason: "test".into() });
    assert!(world.engine.live_orders().next().is_none());
    let denied = world.outcome("c", buy(robot, OrderKind::Market, None));
    assert!(matches!(denied, Outcome::Denied { .. }), "{denied:?}");
    let close =
        Wish::Signal(trading::signal::Signal { robot, action: trading::signal::Action::Close, expires_at: None });
    assert!(matches!(world.outcome("d", close), Outcome::Done { .. }));
    assert_eq!(world.orders().values().filter(|o| o.side == Side::Sell && o.status == Status::Filled).count(), 1);
}

#[test]
fn a_cancel_whose_answer_is_lost_is_asked_for_and_sent_again() {
    let mut world = World::new();
    let robot = world.follower(StopPolicy::Keep);
    world.outcome("a", buy(robot, limit("99"), None));
    let id = world.only_order().client_id;
    world.submit("c", Wish::CancelOrder { order: id.clone() });
    world.pending.retain(|effect| !matches!(effect, trading::engine::Effect::Cancel { .. }));
    let result = trading::exchange::CancelResult::Unknown { reason: "timed out".into() };
    world.feed(Input::CancelEnded { client_id: id, result });
    world.pass(Duration::from_secs(2));
    assert_eq!(world.only_order().status, Status::Canceled);
}

#[test]
fn a_restarted_grid_recreates_no_level_that_lives() {
    let mut world = World::new();
    world.robot(grid_config(), StopPolicy::Keep);
    world.quote();
    world.drain_effects();
    let before: Vec<ClientOrderId> = world.engine.live_orders().map(|order| order.client_id.clone()).collect();
    assert!(!before.is_empty());
    world.crash();
    world.settle();
    world.quote();
    world.drain_effects();
    let after: Vec<ClientOrderId> = world.engine.live_orders().map(|order| order.client_id.clone()).collect();
    assert_eq!(before, after);
}

#[test]
fn a_dca_robot_repeats_no_step_after_a_crash() {
    let mut world = World::new();
    let config = dca::Config { quote_per_step: "50".parse().unwrap(), interval_ms: 1_000, max_steps: 3 };
    world.robot(RobotConfig::Dca(config), StopPolicy::Keep);
    for _ in 0..6 {
        world.pass(Duration::from_millis(900));
        world.crash();
        world.settle();
        world.quote();
    }
    world.pass(Duration::from_secs(10));
    assert_eq!(world.venue.posts.len(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever is lost and wherever the process dies: once things are quiet nothing is unresolved, what we booked is what the
    /// venue booked, and no id was ever sent twice (asserted by the world at every send).
    #[test]
    fn crashes_at_every_effect_boundary_lose_and_double_nothing(
        script in prop::collection::vec((0_u8..9, 0_u8..8), 1..60),
    ) {
        let mut world = World::new();
        let robots = [world.follower(StopPolicy::Keep), world.follower(StopPolicy::Cancel)];
        let grid = world.robot(grid_config(), StopPolicy::Keep);
        for (n, (what, detail)) in script.into_iter().enumerate() {
            let robot = robots[usize::from(detail) % 2];
            match what {
                0 => { world.submit(&format!("s{n}"), buy(robot, OrderKind::Market, None)); }
                1 => { world.submit(&format!("s{n}"), buy(robot, limit("95"), Some(world.now.after(Duration::from_secs(20))))); }
                2 => world.fault = Fault::DropRequest,
                3 => world.fault = Fault::DropAnswer,
                4 => for _ in 0..detail { world.do_one(); },
                5 => { world.crash(); world.feed(Input::Stream(StreamEvent::Up)); }
                6 => { world.price = (95 + u32::from(detail)).to_string().parse().unwrap(); world.quote(); }
                7 => {
                    let resting = world.engine.live_orders().find(|order| order.status == Status::Open).map(|o| o.client_id.clone());
                    if let Some(id) = resting { world.fill_resting(&id, "0.01"); }
                }
                _ => world.pass(Duration::from_secs(u64::from(detail))),
            }
        }
        world.fault = Fault::None;
        world.outcome("stop grid", Wish::StopRobot { robot: grid, policy: None });
        world.crash();
        world.settle();
        world.pass(Duration::from_mins(1));
        prop_assert!(world.engine.is_ready());
        prop_assert_eq!(world.engine.unresolved().count(), 0);
        let tables = fold(&world.events);
        let mut booked: Vec<_> = tables.fills.clone();
        booked.sort_by_key(|fill| fill.trade_id);
        prop_assert_eq!(&booked, &world.venue.fills);
        for (asset, balance) in &tables.balances {
            prop_assert_eq!(balance.total, world.venue.balances[asset]);
        }
        for (id, report) in &world.venue.orders {
            prop_assert_eq!(tables.orders[id].filled, report.executed);
        }
    }
}
