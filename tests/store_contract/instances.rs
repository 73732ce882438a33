//! The contract's part on instances and on who holds what.

use std::time::Duration;

use futures_util::future::join_all;
use hotgo::store::{CommitError, Instance, InstanceRow, LeaseError, LeaseRow, Store};
use trading::ids::AccountId;

use crate::data::{Held, TTL, alarm, at, owner};
use crate::suite::DEADLINE;

async fn lease_of(store: &dyn Store, held: &Held) -> LeaseRow {
    store.leases().await.unwrap().into_iter().find(|row| row.account == held.account.id).unwrap()
}

pub(crate) async fn a_transferred_lease_is_its_next_owners_under_the_next_epoch(store: &dyn Store) {
    let mut held = Held::new(store).await;
    store.transfer_lease(&held.lease, "two", TTL).await.unwrap();
    let row = lease_of(store, &held).await;
    assert_eq!((&*row.owner, row.epoch.0), ("two", held.lease.epoch.0 + 1));
    assert!(row.remaining > TTL / 2 && row.remaining <= TTL, "{:?}", row.remaining);
    assert!(matches!(held.commit(store, vec![alarm("too late")]).await, Err(CommitError::Fenced(_))));
    assert!(matches!(store.renew_lease(&held.lease, TTL).await, Err(LeaseError::Lost(_))));
    for other in ["one", "three"] {
        let refused = store.acquire_lease(held.account.id, &owner(other), TTL, false).await;
        assert!(matches!(refused, Err(LeaseError::Held { .. })), "{other}: {refused:?}");
    }
    held.lease = store.acquire_lease(held.account.id, &owner("two"), TTL, false).await.unwrap();
    assert!(held.lease.epoch > row.epoch);
    held.commit(store, vec![alarm("at once")]).await.unwrap();
}

pub(crate) async fn a_lease_that_is_not_held_is_not_transferred(store: &dyn Store) {
    let held = Held::new(store).await;
    store.release_lease(&held.lease).await.unwrap();
    assert!(matches!(store.transfer_lease(&held.lease, "two", TTL).await, Err(LeaseError::Lost(_))), "it is given up");
    let next = store.acquire_lease(held.account.id, &owner("three"), TTL, false).await.unwrap();
    assert!(matches!(store.transfer_lease(&held.lease, "two", TTL).await, Err(LeaseError::Lost(_))), "it is another's");
    let row = lease_of(store, &held).await;
    assert_eq!((row.owner, row.epoch), (next.owner, next.epoch));
}

pub(crate) async fn leases_tell_who_holds_what(store: &dyn Store) {
    let (one, two) = (Held::new(store).await, Held::new(store).await);
    for held in [&one, &two] {
        let row = lease_of(store, held).await;
        assert_eq!((row.owner, row.epoch, row.released), (owner("one"), held.lease.epoch, false));
        assert!(row.remaining > TTL / 2 && row.remaining <= TTL, "{:?}", row.remaining);
    }
    store.release_lease(&one.lease).await.unwrap();
    let given_up = lease_of(store, &one).await;
    assert_eq!((given_up.remaining, given_up.released), (Duration::ZERO, true));
    let short = Duration::from_millis(1);
    store.acquire_lease(two.account.id, &owner("one"), short, false).await.unwrap();
    let expired = async {
        while lease_of(store, &two).await.remaining > Duration::ZERO {
            tokio::time::sleep(short).await;
        }
    };
    tokio::time::timeout(DEADLINE, expired).await.unwrap();
    assert!(!lease_of(store, &two).await.released);
}

pub(crate) async fn leases_that_change_at_once_are_answered_each_for_itself(store: &dyn Store) {
    let mut all = Vec::new();
    for _ in 0..30 {
        all.push(Held::new(store).await);
    }
    // Every second one is lost already.
    for held in all.iter().step_by(2) {
        store.release_lease(&held.lease).await.unwrap();
        store.acquire_lease(held.account.id, &owner("thief"), TTL, false).await.unwrap();
    }
    // More than one transaction holds.
    let changes = |turns: std::ops::Range<u32>| {
        let of = move |(n, held)| turns.clone().map(move |turn| (n, held, turn));
        all.iter().enumerate().flat_map(of)
    };
    let answered = async |(n, held, turn): (usize, &Held, u32)| {
        let own = match turn {
            19 => store.transfer_lease(&held.lease, "two", TTL).await,
            turn if turn % 2 == 0 => store.renew_lease(&held.lease, TTL).await,
            _ => {
                let refused = store.acquire_lease(held.account.id, &owner("three"), TTL, false).await;
                assert!(matches!(refused, Err(LeaseError::Held { account, .. }) if account == held.account.id));
                return;
            }
        };
        match own {
            Ok(()) => assert!(n % 2 == 1),
            Err(error) => {
                assert!(n % 2 == 0 && matches!(error, LeaseError::Lost(id) if id == held.account.id), "{error}");
            }
        }
    };
    // The transfers come last, among each other in any order.
    for turns in [0..19, 19..20] {
        tokio::time::timeout(DEADLINE * 3, join_all(changes(turns).map(answered))).await.unwrap();
    }
    for (n, held) in all.iter().enumerate() {
        let row = lease_of(store, held).await;
        let holder = owner(if n % 2 == 0 { "thief" } else { "two" });
        assert_eq!((row.owner, row.epoch.0), (holder, held.lease.epoch.0 + 1));
    }
}

fn instance() -> InstanceRow {
    InstanceRow {
        id: format!("test-{}", rand::random::<u64>()).into(),
        name: "host \"quoted\" é".into(),
        address: "127.0.0.1:8000".into(),
        build_id: "build".into(),
        accounts: vec![AccountId(1), AccountId(7)],
        draining: false,
        standby: false,
        successor: None,
        started_at: at(5),
    }
}

fn find(living: Vec<Instance>, row: &InstanceRow) -> Option<Instance> {
    living.into_iter().find(|instance| instance.row.id == row.id)
}

pub(crate) async fn an_instance_lives_until_it_leaves(store: &dyn Store) {
    let (mut one, two) = (instance(), instance());
    let first = find(store.beat(&one, TTL).await.unwrap(), &one).unwrap();
    assert_eq!(first.row, one);
    assert!(first.remaining > TTL / 2 && first.remaining <= TTL, "{:?}", first.remaining);
    (one.draining, one.accounts) = (true, Vec::new());
    store.beat(&one, TTL).await.unwrap();
    let living = store.beat(&two, TTL).await.unwrap();
    assert!(living.is_sorted_by_key(|instance| instance.row.id.clone()));
    assert_eq!(find(living.clone(), &one).unwrap().row, one, "as it said last");
    assert_eq!(find(living, &two).unwrap().row, two);
    store.leave(&one.id).await.unwrap();
    store.leave(&one.id).await.unwrap();
    assert_eq!(find(store.beat(&two, TTL).await.unwrap(), &one), None);
    store.leave(&two.id).await.unwrap();
}

pub(crate) async fn an_instance_that_is_not_heard_of_is_dead(store: &dyn Store) {
    let (one, two) = (instance(), instance());
    store.beat(&one, Duration::from_millis(1)).await.unwrap();
    let dead = async { while find(store.beat(&two, TTL).await.unwrap(), &one).is_some() {} };
    tokio::time::timeout(DEADLINE, dead).await.unwrap();
    assert!(find(store.beat(&one, TTL).await.unwrap(), &one).is_some(), "it is heard of again");
    for row in [&one, &two] {
        store.leave(&row.id).await.unwrap();
    }
}

pub(crate) async fn an_account_stays_bound_to_its_first_ledger(store: &dyn Store) {
    let (one, two) = (Held::new(store).await, Held::new(store).await);
    assert_eq!(store.bind_ledger(one.account.id, "first").await.unwrap(), "first");
    assert_eq!(store.bind_ledger(one.account.id, "second").await.unwrap(), "first");
    assert_eq!(store.bind_ledger(two.account.id, "second").await.unwrap(), "second");
}
