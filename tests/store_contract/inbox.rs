//! The contract's part on commands that wait for the owner of their account, and on where histories stand.

use hotgo::store::{CommitError, Head, Store, Stored};
use trading::command::{Command, Wish};
use trading::event::Event;
use trading::ids::{AccountId, RobotId, Seq};
use trading::money::Qty;
use trading::order::Order;

use crate::data::{Held, TTL, alarm, at, command, order, owner};

/// More than any test needs.
pub(crate) const ROOM: u32 = 100;

pub(crate) fn wish_of(robot: RobotId, dedup_key: &str) -> Command {
    let Event::Command(record) = command(robot, dedup_key) else { unreachable!() };
    record.command
}

/// What waits, by key. Unreadable wishes fail.
async fn waits(store: &dyn Store, accounts: &[AccountId], limit: u32) -> Vec<String> {
    let page = store.waiting_commands(accounts, limit).await.unwrap();
    assert!(page.is_sorted_by_key(|waiting| waiting.id));
    page.into_iter().map(|waiting| waiting.dedup_key).collect()
}

pub(crate) async fn a_command_waits_once_until_it_is_decided(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let account = held.account.id;
    let wished = wish_of(robot.id, "key");
    assert_eq!(store.waiting_command(&wished.source, "key").await.unwrap(), None);
    assert_eq!(store.store_command(account, &wished, at(5), ROOM).await.unwrap(), Stored::New);
    let other = Command { wish: Wish::StartRobot { robot: robot.id }, ..wished.clone() };
    let mut found = Vec::new();
    for again in [&wished, &other] {
        match store.store_command(account, again, at(6), ROOM).await.unwrap() {
            Stored::Waiting(waiting) => found.push(*waiting),
            other => panic!("{other:?}"),
        }
    }
    found.push(store.waiting_command(&wished.source, "key").await.unwrap().unwrap());
    for waiting in found {
        let Command { source, dedup_key, wish } = wished.clone();
        assert_eq!((waiting.account, waiting.source, waiting.dedup_key), (account, source, dedup_key));
        assert_eq!((waiting.wish, waiting.received_at), (Ok(wish), at(5)), "the first of its name is what waits");
    }
    assert_eq!(store.waiting_command("webhook:0", "key").await.unwrap(), None);
    assert_eq!(waits(store, &[account], 10).await, ["key"]);

    let Event::Command(record) = command(robot.id, "key") else { unreachable!() };
    held.commit(store, vec![Event::Command(record.clone()), command(robot.id, "another")]).await.unwrap();
    assert_eq!(waits(store, &[account], 10).await, [""; 0], "the decision and the wait end together");
    assert_eq!(store.waiting_command(&wished.source, "key").await.unwrap(), None);
    let known = store.store_command(account, &wished, at(7), ROOM).await.unwrap();
    assert_eq!(known, Stored::Decided(Box::new(record)));
    assert_eq!(waits(store, &[account], 10).await, [""; 0]);
}

pub(crate) async fn a_commit_that_fails_leaves_what_waits(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let account = held.account.id;
    store.store_command(account, &wish_of(robot.id, "key"), at(5), ROOM).await.unwrap();
    let empty = Order { qty: Qty::ZERO, ..order(robot.id, 3) };
    let refused = held.commit(store, vec![command(robot.id, "key"), Event::Order(empty)]).await;
    assert!(matches!(refused, Err(CommitError::Conflict { .. })), "{refused:?}");
    assert_eq!(waits(store, &[account], 10).await, ["key"]);
    store.acquire_lease(account, &owner("two"), TTL, true).await.unwrap();
    assert!(held.commit(store, vec![command(robot.id, "key")]).await.is_err());
    assert_eq!(waits(store, &[account], 10).await, ["key"]);
}

pub(crate) async fn commands_wait_in_the_order_of_their_arrival(store: &dyn Store) {
    let (mut one, robot) = Held::with_robot(store).await;
    let (other, theirs) = Held::with_robot(store).await;
    let (here, there) = (one.account.id, other.account.id);
    for key in ["c", "a", "b"] {
        store.store_command(here, &wish_of(robot.id, key), at(5), ROOM).await.unwrap();
        store.store_command(there, &wish_of(theirs.id, key), at(5), ROOM).await.unwrap();
    }
    assert_eq!(waits(store, &[here], 10).await, ["c", "a", "b"]);
    assert_eq!(waits(store, &[here, there], 10).await, ["c", "c", "a", "a", "b", "b"]);
    assert_eq!(waits(store, &[here, there], 3).await, ["c", "c", "a"]);
    assert_eq!(waits(store, &[], 10).await, [""; 0]);
    one.commit(store, vec![command(robot.id, "a")]).await.unwrap();
    assert_eq!(waits(store, &[here], 10).await, ["c", "b"]);
    assert_eq!(waits(store, &[there], 10).await, ["c", "a", "b"], "names of different sources never meet");
}

/// Stored and decided at the same time, again and again: whichever comes first, nothing waits in the end.
pub(crate) async fn a_command_that_is_decided_while_it_is_stored_does_not_wait(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    for n in 0..50 {
        let key = format!("key-{n}");
        let wished = wish_of(robot.id, &key);
        let account = held.account.id;
        let (stored, decided) = futures_util::future::join(
            store.store_command(account, &wished, at(5), ROOM),
            held.commit(store, vec![command(robot.id, &key)]),
        )
        .await;
        decided.unwrap();
        let stored = stored.unwrap();
        assert!(matches!(stored, Stored::New | Stored::Decided(_)), "{stored:?}");
        assert_eq!(waits(store, &[account], 10).await, [""; 0]);
        assert!(matches!(store.store_command(account, &wished, at(6), ROOM).await.unwrap(), Stored::Decided(_)));
    }
}

pub(crate) async fn heads_are_those_of_each_account(store: &dyn Store) {
    let (mut one, _) = Held::with_robot(store).await;
    one.commit(store, vec![alarm("a"), alarm("b")]).await.unwrap();
    let empty = Held::new(store).await;
    let mut heads = store.heads(&[empty.account.id, one.account.id]).await.unwrap();
    heads.sort_by_key(|head| head.account);
    let head = |held: &Held| Head { account: held.account.id, seq: Seq(held.seq) };
    assert_eq!(heads, [head(&one), head(&empty)]);
    assert_eq!(one.seq, 3);
    assert_eq!(store.heads(&[]).await.unwrap(), []);
}

pub(crate) async fn no_more_commands_of_an_account_wait_than_there_is_room_for(store: &dyn Store) {
    let (mut held, robot) = Held::with_robot(store).await;
    let (other, theirs) = Held::with_robot(store).await;
    let (here, there) = (held.account.id, other.account.id);
    for key in ["a", "b"] {
        assert_eq!(store.store_command(here, &wish_of(robot.id, key), at(5), 2).await.unwrap(), Stored::New);
    }
    let third = wish_of(robot.id, "c");
    assert_eq!(store.store_command(here, &third, at(5), 2).await.unwrap(), Stored::Full);
    let known = store.store_command(here, &wish_of(robot.id, "b"), at(5), 2).await.unwrap();
    assert!(matches!(known, Stored::Waiting(_)), "{known:?}");
    assert_eq!(store.store_command(there, &wish_of(theirs.id, "c"), at(5), 2).await.unwrap(), Stored::New);
    held.commit(store, vec![command(robot.id, "a")]).await.unwrap();
    assert_eq!(store.store_command(here, &third, at(5), 2).await.unwrap(), Stored::New);
    assert_eq!(waits(store, &[here], 10).await, ["b", "c"]);
}
