#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use proptest::prelude::*;
use trading::ids::Epoch;
use trading::time::Timestamp;

use super::*;
use crate::store::InstanceRow;

fn id(n: usize) -> Arc<str> {
    format!("i{n}").into()
}

fn instance(n: usize, draining: bool, accounts: impl IntoIterator<Item = i64>) -> Instance {
    let row = InstanceRow {
        id: id(n),
        name: String::new(),
        address: String::new(),
        build_id: String::new(),
        accounts: accounts.into_iter().map(AccountId).collect(),
        draining,
        standby: false,
        successor: None,
        started_at: Timestamp::default(),
    };
    Instance { row, remaining: Duration::from_secs(1) }
}

/// `instances` that are all able to trade all of `accounts`.
fn equals(instances: std::ops::Range<usize>, accounts: i64) -> Vec<Instance> {
    instances.map(|n| instance(n, false, 0..accounts)).collect()
}

fn loads(desired: &Desired, living: &[Instance]) -> Vec<usize> {
    living.iter().map(|it| desired.values().filter(|owner| **owner == it.row.id).count()).collect()
}

fn moved(from: &Desired, to: &Desired) -> Vec<AccountId> {
    from.iter().filter(|(account, owner)| to.get(account) != Some(owner)).map(|(account, _)| *account).collect()
}

prop_compose! {
    /// Owners that live, that drain, that are gone.
    fn owners(accounts: i64)(of in prop::collection::btree_map(0..accounts, 0..8_usize, 0..40)) -> Desired {
        of.into_iter().map(|(account, owner)| (AccountId(account), id(owner))).collect()
    }
}

prop_compose! {
    /// Some stand by, some name a successor: another one, themselves, or somebody who is gone.
    fn any_instances()(of in prop::collection::vec(
        (any::<bool>(), any::<bool>(), prop::option::of(0..8_usize), prop::collection::btree_set(0..40_i64, 0..40)), 0..7
    )) -> Vec<Instance> {
        let instances = of.into_iter().enumerate().map(|(n, (draining, standby, successor, accounts))| {
            let mut made = instance(n, draining, accounts);
            (made.row.standby, made.row.successor) = (standby, successor.map(id));
            made
        });
        instances.collect()
    }
}

proptest! {
    #[test]
    fn every_account_that_somebody_can_have_has_one_owner_that_can(owners in owners(40), living in any_instances()) {
        let desired = plan(&owners, &living);
        let able = |it: &Instance, account: &AccountId| !it.row.draining && it.row.accounts.contains(account);
        let waits = |it: &Instance| it.row.standby && !is_in_charge(&it.row, &living);
        for account in (0..40).map(AccountId) {
            match desired.get(&account) {
                Some(owner) => prop_assert!(living.iter().any(|it| it.row.id == *owner && able(it, &account))),
                None => prop_assert!(living.iter().filter(|it| able(it, &account)).all(waits)),
            }
        }
    }

    #[test]
    fn what_was_carried_out_moves_nothing_more(owners in owners(40), living in any_instances()) {
        let desired = plan(&owners, &living);
        prop_assert_eq!(plan(&desired, &living), desired);
    }

    #[test]
    fn equals_have_equally_much(owners in owners(40), instances in 1..7_usize) {
        let living = equals(0..instances, 40);
        let loads = loads(&plan(&owners, &living), &living);
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
    }

    #[test]
    fn who_joins_takes_only_from_those_with_more_and_no_more_than_its_share(owners in owners(40), old in 1..6_usize) {
        let before = plan(&owners, &equals(0..old, 40));
        let living = equals(0..old + 1, 40);
        let after = plan(&before, &living);
        let moved = moved(&before, &after);
        prop_assert!(moved.iter().all(|account| after[account] == id(old)));
        prop_assert_eq!(moved.len(), 40 / (old + 1));
    }

    #[test]
    fn of_one_that_drains_or_leaves_only_its_own_move(owners in owners(40), instances in 2..7_usize, drains: bool) {
        let mut living = equals(0..instances, 40);
        let before = plan(&owners, &living);
        if drains { living[0].row.draining = true } else { drop(living.remove(0)) }
        let after = plan(&before, &living);
        prop_assert!(moved(&before, &after).iter().all(|account| before[account] == id(0)));
        prop_assert_eq!(after.len(), 40);
    }

    #[test]
    fn no_two_are_told_to_trade_the_same_account(owners in owners(40), living in any_instances(), held in 0..3_u64) {
        let desired = plan(&owners, &living);
        for account in (0..40).map(AccountId) {
            let lease = owners.get(&account).map(|owner| lease(account, owner, Duration::from_secs(held)));
            let runs = living.iter().filter(|it| {
                matches!(duty(lease.as_ref(), desired.get(&account), looker(&it.row.id)), Duty::Run(_))
            });
            prop_assert!(runs.count() <= 1);
        }
    }
}

fn lease(account: AccountId, owner: &Arc<str>, remaining: Duration) -> LeaseRow {
    LeaseRow { account, owner: Arc::clone(owner), epoch: Epoch(1), remaining, released: false }
}

fn looker(id: &Arc<str>) -> Looker<'_> {
    Looker { id, ttl: Duration::from_secs(15), alone: false, standby: false, now: Instant::now() }
}

#[test]
fn an_account_that_its_owner_holds_is_not_taken_by_its_heir_before_it_is_handed_over() {
    let (one, two) = (id(1), id(2));
    let held = lease(AccountId(1), &one, Duration::from_secs(3));
    assert_eq!(duty(Some(&held), Some(&two), looker(&one)), Duty::HandOver { to: id(2) });
    let waits = Duty::Standby { owner: Some(id(1)), heir: Some(id(2)) };
    assert_eq!(duty(Some(&held), Some(&two), looker(&two)), waits);
    let given = lease(AccountId(1), &two, Duration::from_secs(14));
    let taken = duty(Some(&given), Some(&two), looker(&two));
    assert!(matches!(taken, Duty::Run(TakeOver::Planned { .. })), "{taken:?}");
    assert_eq!(duty(Some(&given), Some(&two), looker(&one)), Duty::Standby { owner: Some(id(2)), heir: Some(id(2)) });
}

#[test]
fn an_expired_lease_is_taken_by_the_heir_alone() {
    let (one, two) = (id(1), id(2));
    let expired = lease(AccountId(1), &one, Duration::ZERO);
    assert_eq!(duty(Some(&expired), Some(&two), looker(&two)), Duty::Run(TakeOver::Forced));
    assert_eq!(duty(Some(&expired), Some(&two), looker(&one)), Duty::Standby { owner: None, heir: Some(id(2)) });
}

#[test]
fn who_drains_keeps_what_nobody_else_can_have() {
    let held = lease(AccountId(1), &id(1), Duration::from_secs(3));
    assert!(matches!(duty(Some(&held), None, looker(&id(1))), Duty::Run(_)));
}

/// 0 trades accounts 0 to 9; 1 stands by beside it; 2, elsewhere, trades accounts 10 to 19.
fn host_with_two_slots() -> (Desired, Vec<Instance>) {
    let mut living = equals(0..3, 20);
    living[1].row.standby = true;
    let owners = (0..20).map(|n| (AccountId(n), id(if n < 10 { 0 } else { 2 }))).collect();
    (owners, living)
}

#[test]
fn one_that_stands_by_gets_nothing_until_it_is_named() {
    let (owners, living) = host_with_two_slots();
    assert_eq!(plan(&owners, &living), owners);
}

#[test]
fn what_only_one_that_stands_by_is_able_to_trade_waits_until_it_is_named() {
    let (_, mut living) = host_with_two_slots();
    living[1].row.accounts.insert(0, AccountId(99));
    let after = plan(&Desired::new(), &living);
    assert_eq!(after.get(&AccountId(99)), None);
    let me = id(1);
    let waits = Duty::Standby { owner: None, heir: Some(Arc::clone(&me)) };
    assert_eq!(duty(None, None, Looker { standby: true, ..looker(&me) }), waits);
    living[0].row.successor = Some(id(1));
    assert_eq!(plan(&Desired::new(), &living).get(&AccountId(99)), Some(&me));
}

#[test]
fn a_successor_gets_what_its_predecessor_had_and_gives_it_back_when_it_is_named_no_more() {
    let (owners, mut living) = host_with_two_slots();
    living[0].row.successor = Some(id(1));
    let after = plan(&owners, &living);
    assert_eq!(loads(&after, &living), [0, 10, 10]);
    assert!(moved(&owners, &after).iter().all(|account| owners[account] == id(0)), "others are not moved");
    living[0].row.successor = None;
    assert_eq!(plan(&after, &living), owners);
}

#[test]
fn what_a_dead_successor_had_is_its_predecessors_again() {
    let (owners, mut living) = host_with_two_slots();
    living[0].row.successor = Some(id(1));
    let after = plan(&owners, &living);
    living.remove(1);
    assert_eq!(plan(&after, &living), owners);
}

#[test]
fn one_that_stands_by_takes_over_when_nobody_else_is_left() {
    let (owners, living) = host_with_two_slots();
    let alone = [living[1].clone()];
    assert_eq!(loads(&plan(&owners, &alone), &alone), [20]);
}

#[test]
fn one_is_in_charge_once_all_before_it_of_its_name_are_gone_or_on_their_way() {
    let mut living = equals(0..3, 1);
    (living[1].row.standby, living[2].row.standby) = (true, true);
    let in_charge = |n: usize, living: &[Instance]| is_in_charge(&living[n].row, living);
    assert!(!in_charge(1, &living), "the first one serves");
    living[0].row.successor = Some(id(1));
    assert!(!in_charge(1, &living), "the first one may take its accounts back");
    living[0].row.draining = true;
    assert!(in_charge(1, &living));
    assert!(!in_charge(2, &living), "another stood by before it");
    living.remove(0);
    assert!(is_in_charge(&living[0].row, &living));
}

#[test]
fn one_that_was_taken_for_dead_stands_by_for_the_one_that_replaced_it() {
    let mut living = equals(0..2, 1);
    assert!(
        is_replaced(&living[0].row, &living),
        "both are in charge: the later one is so because the earlier was gone"
    );
    assert!(!is_replaced(&living[1].row, &living));
    living[1].row.standby = true;
    assert!(!is_replaced(&living[0].row, &living));
}
