//! Who should have which account, and what follows for each engine. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use trading::ids::AccountId;

use crate::engines::{Duty, TakeOver};
use crate::store::{Instance, InstanceRow, LeaseRow};

/// Which instance should have each account. One that nobody is able to trade is missing.
pub type Desired = BTreeMap<AccountId, Arc<str>>;

type Loads<'a> = BTreeMap<&'a Arc<str>, BTreeSet<AccountId>>;

/// Gives every account that some living instance is able to trade, and that is not draining, to one such instance.
///
/// An account stays where it is unless its owner cannot have it, or has at least two more than another that could: so loads
/// differ by one at most where all are able to trade all, and as few as possible move. Equal input gives equal output, and
/// once the accounts are where they should be nothing moves.
///
/// An instance that names a living successor has that one in its place: its accounts go there first. It has only what no other
/// is able to trade. One that stands by for a living one has nothing, unless it is such a successor.
pub fn plan(owners: &BTreeMap<AccountId, Arc<str>>, living: &[Instance]) -> Desired {
    let mut desired = balance(owners, living);
    let reserve = reserve(living);
    for account in reserve.iter().flat_map(|instance| &instance.row.accounts) {
        let able = || reserve.iter().filter(|it| it.row.accounts.contains(account)).map(|it| &it.row.id);
        let stays = || able().find(|id| owners.get(account) == Some(id));
        if let Some(owner) = stays().or_else(|| able().next()) {
            desired.entry(*account).or_insert_with(|| Arc::clone(owner));
        }
    }
    desired
}

/// The successor that an instance names, if that one lives and takes accounts.
pub(super) fn successor_of<'a>(instance: &InstanceRow, living: &'a [Instance]) -> Option<&'a Arc<str>> {
    let named = instance.successor.as_ref()?;
    let takes = |it: &&Instance| it.row.id == *named && it.row.id != instance.id && !it.row.draining;
    living.iter().find(takes).map(|it| &it.row.id)
}

/// Those that accounts are balanced among.
fn is_active(instance: &Instance, living: &[Instance]) -> bool {
    let is_named = || living.iter().any(|it| successor_of(&it.row, living) == Some(&instance.row.id));
    let InstanceRow { draining, standby, .. } = instance.row;
    !draining && successor_of(&instance.row, living).is_none() && (!standby || is_named())
}

/// Those that take what nobody else can, the first to start first. Not those that stand by for another: until that one is gone
/// or names them, what only they are able to trade, such as an account that is new in their configuration, waits.
fn reserve(living: &[Instance]) -> Vec<&Instance> {
    let waits = |it: &Instance| it.row.standby && !is_in_charge(&it.row, living);
    let is_reserve = |it: &&Instance| !it.row.draining && !is_active(it, living) && !waits(it);
    let mut reserve: Vec<&Instance> = living.iter().filter(is_reserve).collect();
    reserve.sort_by_key(|it| (it.row.started_at, &it.row.id));
    reserve
}

/// Whether an instance that was taken for dead, because it stood still, has another of its name in its place.
pub(super) fn is_replaced(me: &InstanceRow, living: &[Instance]) -> bool {
    let replaces = |it: &InstanceRow| {
        it.name == me.name && !it.standby && !it.draining && (it.started_at, &it.id) > (me.started_at, &me.id)
    };
    !me.draining && living.iter().any(|it| replaces(&it.row))
}

/// Whether an instance that stands by has nobody left to stand by for: of its name, all others are gone or on their way, or
/// have started later and stand by too.
pub(super) fn is_in_charge(me: &InstanceRow, living: &[Instance]) -> bool {
    let goes_first = |it: &InstanceRow| !it.standby || (it.started_at, &it.id) < (me.started_at, &me.id);
    !living.iter().any(|it| it.row.id != me.id && it.row.name == me.name && !it.row.draining && goes_first(&it.row))
}

fn balance(owners: &BTreeMap<AccountId, Arc<str>>, living: &[Instance]) -> Desired {
    let able: Loads<'_> = living
        .iter()
        .filter(|instance| is_active(instance, living))
        .map(|instance| (&instance.row.id, instance.row.accounts.iter().copied().collect()))
        .collect();
    let successors: BTreeMap<&Arc<str>, &Arc<str>> =
        living.iter().filter_map(|it| Some((&it.row.id, successor_of(&it.row, living)?))).collect();
    let mut loads: Loads<'_> = able.keys().map(|id| (*id, BTreeSet::new())).collect();
    let accounts: BTreeSet<AccountId> = able.values().flatten().copied().collect();
    let stays = |account: &AccountId| {
        let owner = owners.get(account)?;
        let owner = successors.get(owner).copied().unwrap_or(owner);
        able.get(owner).filter(|accounts| accounts.contains(account)).map(|_| owner)
    };
    for account in &accounts {
        if let Some(load) = stays(account).and_then(|owner| loads.get_mut(owner)) {
            load.insert(*account);
        }
    }
    for account in accounts.iter().filter(|account| stays(account).is_none()) {
        let could = loads.iter_mut().filter(|(id, _)| able.get(*id).is_some_and(|its| its.contains(account)));
        if let Some((_, load)) = could.min_by_key(|(_, load)| load.len()) {
            load.insert(*account);
        }
    }
    while let Some((account, from, to)) = next_move(&able, &loads) {
        if let Some(load) = loads.get_mut(from) {
            load.remove(&account);
        }
        if let Some(load) = loads.get_mut(to) {
            load.insert(account);
        }
    }
    let owned = loads.into_iter().flat_map(|(id, accounts)| accounts.into_iter().map(|it| (it, Arc::clone(id))));
    owned.collect()
}

/// An account to move from one with much to one with at least two less.
fn next_move<'a>(able: &Loads<'a>, loads: &Loads<'a>) -> Option<(AccountId, &'a Arc<str>, &'a Arc<str>)> {
    let mut by_load: Vec<(&'a Arc<str>, &BTreeSet<AccountId>)> = loads.iter().map(|(id, its)| (*id, its)).collect();
    by_load.sort_by_key(|(_, its)| its.len());
    by_load.iter().rev().find_map(|(from, has)| {
        let less = by_load.iter().take_while(|(_, its)| its.len() + 1 < has.len());
        less.filter_map(|(to, _)| Some((to, able.get(to)?)))
            .find_map(|(to, its)| Some((has.intersection(its).next().copied()?, *from, *to)))
    })
}

/// Who looks: which instance, how long its leases last, whether a lock proves that it is alone with the database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looker<'a> {
    pub(super) id: &'a Arc<str>,
    pub(super) ttl: Duration,
    pub(super) alone: bool,
    pub(super) standby: bool,
    pub(super) now: Instant,
}

/// What the driver of an account has to do, given its lease and who should have it.
pub(super) fn duty(lease: Option<&LeaseRow>, heir: Option<&Arc<str>>, me: Looker<'_>) -> Duty {
    let held = lease.filter(|lease| !lease.remaining.is_zero());
    let is_mine = held.is_some_and(|lease| lease.owner == *me.id);
    let taken = || match lease {
        None => TakeOver::First,
        // Handed over to this instance; or it has it already, and is told so once more.
        Some(lease) if is_mine => {
            let ago = me.ttl.saturating_sub(lease.remaining);
            TakeOver::Planned { since: me.now.checked_sub(ago).unwrap_or(me.now) }
        }
        Some(lease) if lease.released => TakeOver::Planned { since: me.now },
        Some(_) => TakeOver::Forced,
    };
    match heir {
        Some(heir) if heir == me.id && (is_mine || held.is_none() || me.alone) => Duty::Run(taken()),
        Some(heir) if heir != me.id && is_mine => Duty::HandOver { to: Arc::clone(heir) },
        // Nobody else is to have it, also where the lease ran out in its owner's hands: a jump of the database's clock does that.
        None if lease.is_some_and(|lease| lease.owner == *me.id && !lease.released) => Duty::Run(taken()),
        heir => {
            let owner = held.map(|lease| Arc::clone(&lease.owner));
            // What nobody is able to trade yet comes here when this instance stands by no more.
            let heir = heir.or(Some(me.id).filter(|_| me.standby && owner.is_none())).cloned();
            Duty::Standby { owner, heir }
        }
    }
}

#[cfg(test)]
mod tests;
