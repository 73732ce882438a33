//! The contract, as functions over any store.

use std::time::Duration;

use futures_util::future::join_all;
use hotgo::store::{
    ApiKey, AuditEntry, CommitError, FillFilter, LeaseError, OrderFilter, Revocation, Role, Store, StoreError,
};
use trading::event::Event;
use trading::ids::{Epoch, Seq, VenueOrderId};
use trading::money::Qty;
use trading::order::{Order, Status};
use trading::time::Timestamp;

pub(crate) use crate::instances::{
    a_lease_that_is_not_held_is_not_transferred, a_transferred_lease_is_its_next_owners_under_the_next_epoch,
    an_account_stays_bound_to_its_first_ledger, an_instance_lives_until_it_leaves,
    an_instance_that_is_not_heard_of_is_dead, leases_tell_who_holds_what,
    leases_that_change_at_once_are_answered_each_for_itself,
};

pub(crate) use crate::inbox::{
    a_command_that_is_decided_while_it_is_stored_does_not_wait, a_command_waits_once_until_it_is_decided,
    a_commit_that_fails_leaves_what_waits, commands_wait_in_the_order_of_their_arrival,
    heads_are_those_of_each_account, no_more_commands_of_an_account_wait_than_there_is_room_for,
};

pub(crate) use crate::notices::{
    a_notice_is_stored_once_as_long_as_it_is_current, current_notices_are_listed_newest_first,
};

use crate::data::{self, Held, TTL, alarm, at, command, fill, opening, order, owner, qty, robot};

/// Long enough for anything; only a failing test waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Every function here, as a test of the adapter whose `start` gives something that derefs to a store in `.store`.
macro_rules! contract {
    ($start:path) => {
        crate::suite::contract! { $start,
            an_account_is_made_once_and_keeps_its_number
            what_is_committed_is_loaded
            the_last_image_of_a_key_is_what_is_stored
            events_are_numbered_without_gaps
            a_commit_under_a_lost_lease_writes_nothing
            a_commit_under_an_expired_lease_writes_nothing
            a_commit_that_contradicts_what_is_stored_writes_nothing
            an_image_that_is_not_newer_is_refused
            events_of_another_account_are_refused
            merged_commits_do_not_fail_for_a_bad_one
            a_dedup_key_is_taken_once_and_answers_the_same
            a_trade_is_booked_once
            every_unique_key_is_taken_once
            a_command_waits_once_until_it_is_decided
            a_commit_that_fails_leaves_what_waits
            commands_wait_in_the_order_of_their_arrival
            a_command_that_is_decided_while_it_is_stored_does_not_wait
            heads_are_those_of_each_account
            no_more_commands_of_an_account_wait_than_there_is_room_for
            an_unconfirmed_commit_that_was_written_is_found_and_not_written_again
            an_unconfirmed_commit_that_was_not_written_can_be_written
            an_order_is_attempted_at_most_once
            orders_are_paged_newest_first
            fills_are_paged_newest_first
            events_are_read_from_any_point
            a_held_lease_is_refused_to_others
            an_expired_lease_is_taken_with_the_next_epoch
            a_released_lease_is_taken_at_once
            a_dead_predecessor_is_not_waited_for
            a_lease_that_was_lost_is_neither_renewed_nor_released
            a_renewed_lease_does_not_expire
            a_transferred_lease_is_its_next_owners_under_the_next_epoch
            a_lease_that_is_not_held_is_not_transferred
            leases_tell_who_holds_what
            leases_that_change_at_once_are_answered_each_for_itself
            an_instance_lives_until_it_leaves
            an_instance_that_is_not_heard_of_is_dead
            an_account_stays_bound_to_its_first_ledger
            ended_orders_that_lack_fills_are_loaded
            api_keys_are_found_by_their_hash
            a_revoked_api_key_is_listed_and_found_no_more
            the_last_admin_key_cannot_be_revoked
            an_api_key_is_found_by_its_id_and_says_whether_it_signs
            a_nonce_is_taken_once_for_each_key
            a_nonce_that_has_expired_is_never_taken
            of_many_callers_with_one_nonce_one_gets_it
            requests_are_counted_together_by_name_and_window
            the_audit_takes_entries
            a_notice_is_stored_once_as_long_as_it_is_current
            current_notices_are_listed_newest_first
            everything_answers_closed_after_close
        }
    };
    ($start:path, $($name:ident)*) => {$(
        #[tokio::test]
        async fn $name() {
            let started = $start().await;
            crate::suite::$name(started.store()).await;
            started.stop().await;
        }
    )*};
}
pub(crate) use contract;

pub(crate) async fn an_account_is_made_once_and_keeps_its_number(store: &dyn Store) {
    let held = Held::new(store).await;
    let again = store.ensure_account("paper", &held.account.label).await.unwrap();
    assert_eq!(again, held.account);
    assert!(store.accounts().await.unwrap().contains(&again));
    assert_ne!(Held::new(store).await.account.id, again.id);
}

/// A robot, an order, its answer and a fill, in two commits.
async fn trade(store: &dyn Store) -> (Held, Order, Vec<Event>) {
    let mut held = Held::new(store).await;
    let robot = robot(held.account.id, 1);
    let mut order = order(robot.id, 1);
    let mut events = vec![
        Event::Started { epoch: Epoch(1) },
        opening("BTC"),
        opening("USDT"),
        Event::Robot(robot.clone()),
        command(robot.id, "first"),
        Event::Order(order.clone()),
    ];
    held.commit(store, events.clone()).await.unwrap();
    order.status = Status::Partial;
    order.filled = qty("0.5");
    order.reported = qty("0.5");
    order.version = 2;
    let answer = vec![Event::Order(order.clone()), fill(&order, 1, 1), alarm("look")];
    held.commit(store, answer.clone()).await.unwrap();
    events.extend(answer);
    (held, order, events)
}

pub(crate) async fn what_is_committed_is_loaded(store: &dyn Store) {
    let (held, order, events) = trade(store).await;
    let snapshot = store.load(held.account.id).await.unwrap();
    assert_eq!(snapshot, crate::fold::snapshot(held.account.id, &events));
    assert_eq!(store.order(&order.client_id).await.unwrap(), Some(order.clone()));
    assert_eq!(store.robot(order.robot).await.unwrap(), snapshot.robots.first().cloned());
    assert_eq!(store.positions(Some(held.account.id)).await.unwrap(), snapshot.positions);
    assert_eq!(store.balances(held.account.id).await.unwrap(), snapshot.balances);
    let stored = store.events(held.account.id, Seq(0), 100).await.unwrap();
    assert_eq!(stored.into_iter().map(|recorded| recorded.event).collect::<Vec<_>>(), events);
}

pub(crate) async fn the_last_image_of_a_key_is_what_is_stored(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let first = order(robot.id, 1);
    let (mut second, mut third) = (first.clone(), first.clone());
    (second.version, second.status) = (2, Status::Open);
    (third.version, third.status, third.reason) = (3, Status::Canceled, Some("it's \\over\u{1F600}\0".into()));
    let events = [first, second, third.clone()].map(Event::Order);
    held.commit(store, events.to_vec()).await.unwrap();
    assert_eq!(store.order(&third.client_id).await.unwrap(), Some(third));
}

pub(crate) async fn events_are_numbered_without_gaps(store: &dyn Store) {
    let (mut held, _) = Held::with_robot(store).await;
    for wrong in [held.seq - 1, held.seq + 1] {
        let commit = Held { seq: wrong, ..held.clone() }.next(vec![alarm("out of order")]);
        assert!(matches!(store.commit(commit).await, Err(CommitError::Conflict { .. })), "{wrong}");
    }
    let mut torn = held.next(vec![alarm("a"), alarm("b"), alarm("c")]);
    torn.events = [torn.events[0].clone(), torn.events[2].clone()].into();
    assert!(matches!(store.commit(torn).await, Err(CommitError::Conflict { .. })));
    assert_eq!(held.head(store).await, 1);
    held.commit(store, vec![alarm("in order")]).await.unwrap();
}

pub(crate) async fn a_commit_under_a_lost_lease_writes_nothing(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let successor = store.acquire_lease(held.account.id, &owner("two"), TTL, true).await.unwrap();
    let result = held.commit(store, vec![Event::Order(order(robot.id, 1))]).await;
    assert!(matches!(result, Err(CommitError::Fenced(account)) if account == held.account.id), "{result:?}");
    assert_eq!(store.order(&order(robot.id, 1).client_id).await.unwrap(), None);
    assert_eq!(held.head(store).await, 1);
    held.lease = successor;
    held.commit(store, vec![Event::Order(order(robot.id, 1))]).await.unwrap();
    // The right owner under an old epoch is as bad.
    let current = held.lease.epoch;
    held.lease.epoch = Epoch(current.0 - 1);
    assert!(matches!(held.commit(store, vec![alarm("old epoch")]).await, Err(CommitError::Fenced(_))));
}

pub(crate) async fn a_commit_under_an_expired_lease_writes_nothing(store: &dyn Store) {
    let (mut held, _) = Held::with_robot(store).await;
    held.lease = store.acquire_lease(held.account.id, &owner("one"), Duration::ZERO, false).await.unwrap();
    let result = held.commit(store, vec![alarm("late")]).await;
    assert!(matches!(result, Err(CommitError::Fenced(_))), "{result:?}");
    assert_eq!(held.head(store).await, 1);
}

pub(crate) async fn a_commit_that_contradicts_what_is_stored_writes_nothing(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    held.commit(store, vec![Event::Order(order(robot.id, 1))]).await.unwrap();
    // Another order under the same key of the same robot.
    let mut twin = order(robot.id, 1);
    twin.client_id = order(robot.id, 99).client_id;
    let before = store.load(held.account.id).await.unwrap();
    let result = held.commit(store, vec![Event::Order(order(robot.id, 2)), Event::Order(twin)]).await;
    assert!(matches!(result, Err(CommitError::Conflict { .. })), "{result:?}");
    assert_eq!(store.load(held.account.id).await.unwrap(), before);
    // An order of a robot that does not exist, and one that buys nothing.
    let stray = order(data::robot(held.account.id, 7).id, 1);
    assert!(matches!(held.commit(store, vec![Event::Order(stray)]).await, Err(CommitError::Conflict { .. })));
    let empty = Order { qty: Qty::ZERO, ..order(robot.id, 3) };
    assert!(matches!(held.commit(store, vec![Event::Order(empty)]).await, Err(CommitError::Conflict { .. })));
    assert_eq!(store.load(held.account.id).await.unwrap(), before);
}

pub(crate) async fn an_image_that_is_not_newer_is_refused(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let first = order(robot.id, 1);
    held.commit(store, vec![Event::Order(first.clone())]).await.unwrap();
    let same = Order { status: Status::Open, ..first.clone() };
    let result = held.commit(store, vec![Event::Order(same.clone())]).await;
    assert!(matches!(result, Err(CommitError::Conflict { .. })), "{result:?}");
    let second = Order { version: 2, ..same };
    let twice = vec![Event::Order(second.clone()), Event::Order(second.clone())];
    assert!(matches!(held.commit(store, twice).await, Err(CommitError::Conflict { .. })));
    assert_eq!(store.order(&first.client_id).await.unwrap(), Some(first));
    assert_eq!(held.head(store).await, 2);
    held.commit(store, vec![Event::Order(second)]).await.unwrap();
}

pub(crate) async fn events_of_another_account_are_refused(store: &dyn Store) {
    let (mut held, _) = Held::with_robot(store).await;
    let (other, robot) = Held::with_robot(store).await;
    let theirs = order(robot.id, 1);
    let result = held.commit(store, vec![Event::Order(theirs.clone())]).await;
    assert!(matches!(result, Err(CommitError::Conflict { .. })), "{result:?}");
    assert_eq!(store.order(&theirs.client_id).await.unwrap(), None);
    assert_eq!(other.head(store).await, 1);
}

pub(crate) async fn merged_commits_do_not_fail_for_a_bad_one(store: &dyn Store) {
    let mut all = Vec::new();
    for _ in 0..20 {
        all.push(Held::with_robot(store).await);
    }
    // One has lost its lease, one contradicts what is stored.
    store.acquire_lease(all[3].0.account.id, &owner("two"), TTL, true).await.unwrap();
    let twin = Order { client_id: order(all[4].1.id, 99).client_id, ..order(all[4].1.id, 1) };
    all[4].0.commit(store, vec![Event::Order(twin)]).await.unwrap();
    let commits = all.iter().map(|(held, robot)| store.commit(held.next(vec![Event::Order(order(robot.id, 1))])));
    let results = join_all(commits).await;
    for (n, (result, (held, robot))) in results.iter().zip(&all).enumerate() {
        let stored = store.order(&order(robot.id, 1).client_id).await.unwrap();
        match n {
            3 => assert!(matches!(result, Err(CommitError::Fenced(account)) if *account == held.account.id)),
            4 => assert!(matches!(result, Err(CommitError::Conflict { account, .. }) if *account == held.account.id)),
            _ => assert!(result.is_ok(), "{n}: {result:?}"),
        }
        assert_eq!(stored.is_some(), result.is_ok(), "{n}");
    }
}

pub(crate) async fn a_dedup_key_is_taken_once_and_answers_the_same(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let Event::Command(record) = command(robot.id, "key") else { unreachable!() };
    let source = record.command.source.clone();
    assert_eq!(store.find_command(&source, "key").await.unwrap(), None);
    held.commit(store, vec![Event::Command(record.clone())]).await.unwrap();
    let again = held.commit(store, vec![Event::Command(record.clone())]).await;
    assert!(matches!(again, Err(CommitError::Conflict { .. })), "{again:?}");
    assert_eq!(store.find_command(&source, "key").await.unwrap(), Some(record));
    assert_eq!(store.find_command("webhook:0", "key").await.unwrap(), None);
}

pub(crate) async fn a_trade_is_booked_once(store: &dyn Store) {
    let (mut held, order, _) = trade(store).await;
    let newer = Order { version: 3, ..order.clone() };
    let result = held.commit(store, vec![Event::Order(newer), fill(&order, 1, 2)]).await;
    assert!(matches!(result, Err(CommitError::Conflict { .. })), "{result:?}");
    assert_eq!(store.order(&order.client_id).await.unwrap().unwrap().version, 2);
}

pub(crate) async fn every_unique_key_is_taken_once(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let first = Order { venue_id: Some(VenueOrderId(7)), ..order(robot.id, 1) };
    let signal = command(robot.id, "key");
    held.commit(store, vec![Event::Order(first.clone()), signal.clone(), fill(&first, 1, 1)]).await.unwrap();
    let before = store.load(held.account.id).await.unwrap();
    let other = order(robot.id, 2);
    let same_client_id = Order { client_id: first.client_id.clone(), ..other.clone() };
    let same_decision = Order { key: first.key, ..other.clone() };
    let same_venue_id = Order { venue_id: first.venue_id, ..other.clone() };
    for (what, event) in [
        ("client id", Event::Order(same_client_id)),
        ("decision, leg and generation", Event::Order(same_decision)),
        ("symbol and venue id", Event::Order(same_venue_id)),
        ("trade", fill(&first, 1, 5)),
        ("source and dedup key", signal),
    ] {
        let result = held.commit(store, vec![alarm("before it"), event]).await;
        assert!(matches!(result, Err(CommitError::Conflict { .. })), "{what}: {result:?}");
        assert_eq!(store.load(held.account.id).await.unwrap(), before, "{what}: something was written");
    }
    let next_generation = Order { key: first.key, generation: 1, ..other };
    held.commit(store, vec![Event::Order(next_generation), fill(&first, 2, 5)]).await.unwrap();
}

/// What a caller does that was not told what became of its commit: it reads, and tries again what is not there.
async fn settle(store: &dyn Store, held: &mut Held, events: Vec<Event>, written: bool) {
    let commit = held.next(events.clone());
    let last = commit.events.last().unwrap().seq.0;
    assert_eq!(held.head(store).await == last, written);
    if written {
        let again = store.commit(commit).await;
        assert!(matches!(again, Err(CommitError::Conflict { .. })), "it was written twice: {again:?}");
    } else {
        store.commit(commit).await.unwrap();
    }
    held.seq = last;
    assert_eq!(held.head(store).await, last);
    let stored = store.events(held.account.id, Seq(last - i64::try_from(events.len()).unwrap()), 100).await.unwrap();
    assert_eq!(stored.into_iter().map(|recorded| recorded.event).collect::<Vec<_>>(), events);
    held.commit(store, vec![alarm("and on")]).await.unwrap();
}

/// The answer is lost on the way: the caller stopped waiting, and the store went on.
pub(crate) async fn an_unconfirmed_commit_that_was_written_is_found_and_not_written_again(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let events = vec![command(robot.id, "key"), Event::Order(order(robot.id, 1))];
    let commit = held.next(events.clone());
    let last = commit.events.last().unwrap().seq.0;
    {
        // Given up after the first look, as a caller does whose own deadline passes.
        let mut given_up = Box::pin(store.commit(commit));
        let _unheard = futures_util::poll!(&mut given_up);
    }
    let written = async {
        while held.head(store).await != last {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, written).await.unwrap();
    settle(store, &mut held, events, true).await;
    assert_eq!(
        store.orders(&OrderFilter { robot: Some(robot.id), limit: 9, ..OrderFilter::default() }).await.unwrap().len(),
        1
    );
}

pub(crate) async fn an_unconfirmed_commit_that_was_not_written_can_be_written(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let events = vec![command(robot.id, "key"), Event::Order(order(robot.id, 1))];
    // Never looked at: it was lost before it arrived.
    drop(store.commit(held.next(events.clone())));
    settle(store, &mut held, events, false).await;
}

pub(crate) async fn an_order_is_attempted_at_most_once(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let twice = Order { attempt: 2, ..order(robot.id, 1) };
    let result = held.commit(store, vec![Event::Order(twice)]).await;
    assert!(matches!(result, Err(CommitError::Conflict { .. })), "{result:?}");
}

pub(crate) async fn orders_are_paged_newest_first(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let mut orders: Vec<Order> = (1..=10).map(|n| order(robot.id, n)).collect();
    for order in orders.iter_mut().take(4) {
        order.status = Status::Filled;
    }
    held.commit(store, orders.iter().cloned().map(Event::Order).collect()).await.unwrap();
    orders.sort_by(|a, b| (b.created_at, &b.client_id).cmp(&(a.created_at, &a.client_id)));
    let mut filter = OrderFilter { robot: Some(robot.id), limit: 3, ..OrderFilter::default() };
    let mut paged = Vec::new();
    loop {
        let page = store.orders(&filter).await.unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        filter.before = Some((last.created_at, last.client_id.clone()));
        paged.extend(page);
    }
    assert_eq!(paged, orders);
    let live = OrderFilter { account: Some(held.account.id), live: true, limit: 100, ..OrderFilter::default() };
    let expected: Vec<Order> = orders.into_iter().filter(|order| !order.status.is_terminal()).collect();
    assert_eq!(store.orders(&live).await.unwrap(), expected);
}

pub(crate) async fn fills_are_paged_newest_first(store: &dyn Store) {
    let (mut held, order, _) = trade(store).await;
    let events = (2..=6).map(|n| fill(&order, n, n)).collect();
    held.commit(store, events).await.unwrap();
    let mut filter = FillFilter { account: Some(held.account.id), limit: 4, ..FillFilter::default() };
    let first = store.fills(&filter).await.unwrap();
    filter.before = first.last().map(|fill| fill.row);
    let second = store.fills(&filter).await.unwrap();
    let trades: Vec<i64> = first.iter().chain(&second).map(|stored| stored.fill.trade_id.0).collect();
    assert_eq!(trades, [6, 5, 4, 3, 2, 1]);
    assert!(first.iter().all(|stored| stored.robot == order.robot && stored.account == held.account.id));
    let of_order = FillFilter { order: Some(order.client_id), limit: 100, ..FillFilter::default() };
    assert_eq!(store.fills(&of_order).await.unwrap().len(), 6);
}

pub(crate) async fn events_are_read_from_any_point(store: &dyn Store) {
    let (mut held, _) = Held::with_robot(store).await;
    held.commit(store, (0..9).map(|n| alarm(n.to_string())).collect()).await.unwrap();
    let seqs = |events: Vec<trading::event::Recorded>| events.iter().map(|event| event.seq.0).collect::<Vec<_>>();
    assert_eq!(seqs(store.events(held.account.id, Seq(0), 3).await.unwrap()), [1, 2, 3]);
    assert_eq!(seqs(store.events(held.account.id, Seq(8), 3).await.unwrap()), [9, 10]);
    assert_eq!(seqs(store.events(held.account.id, Seq(10), 3).await.unwrap()), [0_i64; 0]);
}

pub(crate) async fn a_held_lease_is_refused_to_others(store: &dyn Store) {
    let held = Held::new(store).await;
    match store.acquire_lease(held.account.id, &owner("two"), TTL, false).await {
        Err(LeaseError::Held { account, owner, remaining }) => {
            assert_eq!((account, owner.as_str()), (held.account.id, "one"));
            assert!(remaining > TTL / 2 && remaining <= TTL, "{remaining:?}");
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn an_expired_lease_is_taken_with_the_next_epoch(store: &dyn Store) {
    let held = Held::new(store).await;
    let short = Duration::from_millis(50);
    let first = store.acquire_lease(held.account.id, &owner("one"), short, false).await.unwrap();
    let take = async {
        loop {
            match store.acquire_lease(held.account.id, &owner("two"), TTL, false).await {
                Ok(lease) => break lease,
                Err(LeaseError::Held { remaining, .. }) => {
                    assert!(remaining <= short);
                    tokio::time::sleep(remaining).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
    };
    let second = tokio::time::timeout(DEADLINE, take).await.unwrap();
    assert_eq!(second.epoch.0, first.epoch.0 + 1);
    assert!(matches!(store.renew_lease(&first, TTL).await, Err(LeaseError::Lost(_))));
}

pub(crate) async fn a_released_lease_is_taken_at_once(store: &dyn Store) {
    let held = Held::new(store).await;
    store.release_lease(&held.lease).await.unwrap();
    let next = store.acquire_lease(held.account.id, &owner("two"), TTL, false).await.unwrap();
    assert_eq!(next.epoch.0, held.lease.epoch.0 + 1);
}

pub(crate) async fn a_dead_predecessor_is_not_waited_for(store: &dyn Store) {
    let held = Held::new(store).await;
    let next = store.acquire_lease(held.account.id, &owner("two"), TTL, true).await.unwrap();
    assert_eq!(next.epoch.0, held.lease.epoch.0 + 1);
}

pub(crate) async fn a_lease_that_was_lost_is_neither_renewed_nor_released(store: &dyn Store) {
    let held = Held::new(store).await;
    let next = store.acquire_lease(held.account.id, &owner("two"), TTL, true).await.unwrap();
    assert!(matches!(store.renew_lease(&held.lease, TTL).await, Err(LeaseError::Lost(_))));
    assert!(matches!(store.release_lease(&held.lease).await, Err(LeaseError::Lost(_))));
    store.renew_lease(&next, TTL).await.unwrap();
}

pub(crate) async fn a_renewed_lease_does_not_expire(store: &dyn Store) {
    let mut held = Held::new(store).await;
    held.lease = store.acquire_lease(held.account.id, &owner("one"), Duration::from_secs(5), false).await.unwrap();
    store.renew_lease(&held.lease, TTL).await.unwrap();
    match store.acquire_lease(held.account.id, &owner("two"), TTL, false).await {
        Err(LeaseError::Held { remaining, .. }) => assert!(remaining > Duration::from_secs(5)),
        other => panic!("{other:?}"),
    }
    held.commit(store, vec![alarm("still held")]).await.unwrap();
}

pub(crate) async fn ended_orders_that_lack_fills_are_loaded(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let done = Order { status: Status::Filled, filled: qty("2"), reported: qty("2"), ..order(robot.id, 1) };
    let lacking = Order { status: Status::Canceled, reported: qty("1"), ..order(robot.id, 2) };
    held.commit(store, vec![Event::Order(done), Event::Order(lacking.clone())]).await.unwrap();
    assert_eq!(store.load(held.account.id).await.unwrap().orders, [lacking]);
}

fn api_key(id: &str, role: Role, micros: i64) -> ApiKey {
    let (id, hash) = (id.to_owned(), format!("hash of {id}"));
    ApiKey { id, name: "ops".into(), hash, signed: false, role, created_at: at(micros), revoked_at: None }
}

pub(crate) async fn api_keys_are_found_by_their_hash(store: &dyn Store) {
    assert!(!store.has_api_keys().await.unwrap());
    let key = api_key("k1", Role::Trader, 1);
    store.add_api_key(&key).await.unwrap();
    assert!(store.has_api_keys().await.unwrap());
    assert_eq!(store.api_key("hash of k1").await.unwrap(), Some(key.clone()));
    assert_eq!(store.api_key("hash of k").await.unwrap(), None);
    assert!(store.add_api_key(&key).await.is_err());
}

pub(crate) async fn a_revoked_api_key_is_listed_and_found_no_more(store: &dyn Store) {
    let (first, second) = (api_key("k2", Role::Admin, 1), api_key("k1", Role::Trader, 2));
    for key in [&second, &first] {
        store.add_api_key(key).await.unwrap();
    }
    assert_eq!(store.api_keys().await.unwrap(), [first.clone(), second.clone()]);
    assert_eq!(store.revoke_api_key("k", at(9)).await.unwrap(), Revocation::NotFound);
    assert_eq!(store.revoke_api_key("k1", at(9)).await.unwrap(), Revocation::Revoked);
    assert_eq!(store.api_key(&second.hash).await.unwrap(), None);
    assert_eq!(store.api_key(&first.hash).await.unwrap(), Some(first));
    assert_eq!(store.revoke_api_key("k1", at(10)).await.unwrap(), Revocation::Revoked);
    let listed = store.api_keys().await.unwrap();
    assert_eq!((listed[0].revoked_at, listed[1].revoked_at), (None, Some(at(9))), "the first revocation counts");
    assert!(!listed[1].hash.contains(&second.hash), "a binary that does not know of revocation refuses it too");
}

pub(crate) async fn the_last_admin_key_cannot_be_revoked(store: &dyn Store) {
    for key in [api_key("a", Role::Admin, 1), api_key("b", Role::Admin, 2), api_key("t", Role::Trader, 3)] {
        store.add_api_key(&key).await.unwrap();
    }
    let both = tokio::join!(store.revoke_api_key("a", at(4)), store.revoke_api_key("b", at(4)));
    let both = [both.0.unwrap(), both.1.unwrap()];
    assert!(both.contains(&Revocation::Revoked) && both.contains(&Revocation::LastAdmin), "{both:?}");
    assert_eq!(store.revoke_api_key("t", at(5)).await.unwrap(), Revocation::Revoked);
    let left: Vec<_> = store.api_keys().await.unwrap().into_iter().filter(|key| key.revoked_at.is_none()).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(store.api_key(&left[0].hash).await.unwrap().as_ref(), Some(&left[0]), "it still lets its owner in");
}

pub(crate) async fn an_api_key_is_found_by_its_id_and_says_whether_it_signs(store: &dyn Store) {
    let bearer = api_key("k1", Role::Trader, 1);
    let signed = ApiKey { signed: true, ..api_key("k2", Role::Admin, 2) };
    for key in [&bearer, &signed] {
        store.add_api_key(key).await.unwrap();
    }
    assert_eq!(store.api_key_by_id("k1").await.unwrap(), Some(bearer.clone()));
    assert_eq!(store.api_key_by_id("k2").await.unwrap(), Some(signed.clone()));
    assert_eq!(store.api_keys().await.unwrap(), [bearer, signed]);
    assert_eq!(store.api_key_by_id("k").await.unwrap(), None);
    assert_eq!(store.revoke_api_key("k1", at(9)).await.unwrap(), Revocation::Revoked);
    let revoked = store.api_key_by_id("k1").await.unwrap().unwrap();
    assert_eq!(revoked.revoked_at, Some(at(9)));
}

/// Far beyond any clock of a test.
const NEVER: Timestamp = Timestamp::from_millis(9_000_000_000_000);

pub(crate) async fn a_nonce_is_taken_once_for_each_key(store: &dyn Store) {
    for (key, nonce, first) in
        [("a", "1", true), ("a", "1", false), ("b", "1", true), ("a", "2", true), ("b", "1", false)]
    {
        assert_eq!(store.use_nonce(key, nonce, NEVER).await.unwrap(), first, "{key} {nonce}");
    }
}

pub(crate) async fn a_nonce_that_has_expired_is_never_taken(store: &dyn Store) {
    assert!(store.use_nonce("a", "lives", NEVER).await.unwrap());
    for _ in 0..3 {
        assert!(!store.use_nonce("a", "expired", Timestamp::from_millis(1)).await.unwrap());
    }
    assert!(!store.use_nonce("a", "lives", NEVER).await.unwrap(), "what has not expired is kept");
}

pub(crate) async fn of_many_callers_with_one_nonce_one_gets_it(store: &dyn Store) {
    let callers = (0..64).map(|n| async move { store.use_nonce("a", &(n % 4).to_string(), NEVER).await.unwrap() });
    assert_eq!(join_all(callers).await.into_iter().filter(|first| *first).count(), 4);
}

pub(crate) async fn requests_are_counted_together_by_name_and_window(store: &dyn Store) {
    let count = async |window, counts: &[(&str, u64)], oldest| {
        let counts: Vec<_> = counts.iter().map(|(name, add)| ((*name).to_owned(), *add)).collect();
        store.count_requests(at(window), &counts, at(oldest)).await.unwrap()
    };
    assert_eq!(count(60, &[("a", 3), ("b", 0)], 0).await, [3, 0]);
    assert_eq!(count(60, &[("b", 2), ("a", 1)], 0).await, [2, 4]);
    assert_eq!(count(120, &[("a", 1)], 60).await, [1], "a window of its own");
    assert_eq!(count(60, &[("a", 0)], 60).await, [4]);
    assert_eq!(count(120, &[("a", 0)], 120).await, [1]);
    assert_eq!(count(60, &[("a", 0)], 60).await, [0], "the first window was forgotten");
    assert_eq!(count(60, &[], 60).await, [] as [u64; 0]);
    let both = tokio::join!(count(60, &[("c", 1)], 60), count(60, &[("c", 1)], 60));
    assert_eq!(both.0[0] + both.1[0], 3, "one saw the other");
}

pub(crate) async fn the_audit_takes_entries(store: &dyn Store) {
    let entry = AuditEntry { at: at(1), actor: "cli".into(), act: "shutdown.trigger".into(), target: "server".into() };
    store.append_audit(&entry).await.unwrap();
    store.append_audit(&entry).await.unwrap();
    store.ping().await.unwrap();
}

pub(crate) async fn everything_answers_closed_after_close(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    store.close().await;
    assert!(matches!(held.commit(store, vec![alarm("late")]).await, Err(CommitError::Closed)));
    assert!(matches!(store.load(held.account.id).await, Err(StoreError::Closed)));
    assert!(matches!(store.ping().await, Err(StoreError::Closed)));
    let late =
        store.store_command(held.account.id, &crate::inbox::wish_of(robot.id, "late"), at(9), crate::inbox::ROOM).await;
    assert!(matches!(late, Err(StoreError::Closed)));
    assert!(matches!(store.renew_lease(&held.lease, TTL).await, Err(LeaseError::Store(StoreError::Closed))));
    store.close().await;
}
