use proptest::prelude::*;

use super::*;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(60_000 * 1_000 + ms)
}

fn weights(limit: u32, reserve_percent: u32) -> Weights {
    let mut weights = Weights::new(reserve_percent);
    weights.set_limit(limit);
    weights
}

#[test]
fn entries_and_reads_leave_the_reserve_and_cancels_may_use_it() {
    let mut weights = weights(100, 20);
    let entry = weights.admit(Class::Entry, 80, at(0)).unwrap();
    weights.settle(&entry, None, at(1));
    for class in [Class::Entry, Class::Read] {
        let busy = weights.admit(class, 1, at(1_000)).unwrap_err();
        assert_eq!(busy.wait, Duration::from_secs(59), "until the venue's next minute");
    }
    let query = weights.admit(Class::Resolve, 10, at(1_000)).unwrap();
    weights.settle(&query, None, at(1_000));
    assert!(weights.admit(Class::Resolve, 1, at(1_000)).is_err(), "queries leave half of the reserve to cancels");
    for _ in 0..10 {
        let cancel = weights.admit(Class::Cancel, 1, at(2_000)).unwrap();
        weights.settle(&cancel, None, at(2_000));
    }
    assert!(weights.admit(Class::Cancel, 1, at(2_000)).is_err());
    let _next_minute = weights.admit(Class::Entry, 80, at(60_000)).unwrap();
}

#[test]
fn what_the_venue_says_is_used_counts_also_when_others_used_it() {
    let mut weights = weights(100, 20);
    let ticket = weights.admit(Class::Read, 1, at(0)).unwrap();
    weights.settle(&ticket, Some(79), at(10));
    let _last = weights.admit(Class::Entry, 1, at(20)).unwrap();
    assert!(weights.admit(Class::Entry, 1, at(30)).is_err());
}

#[test]
fn what_was_used_in_the_minute_before_says_nothing_of_this_one() {
    let mut weights = weights(100, 20);
    let ticket = weights.admit(Class::Read, 1, at(59_990)).unwrap();
    weights.settle(&ticket, Some(100), at(60_010));
    assert!(weights.admit(Class::Entry, 80, at(60_020)).is_err(), "the request itself may count in the new minute");
    assert!(weights.admit(Class::Entry, 79, at(60_020)).is_ok());
}

#[test]
fn a_request_under_way_counts_until_it_is_over() {
    let mut weights = weights(10, 20);
    let all = weights.admit(Class::Entry, 8, at(0)).unwrap();
    assert!(weights.admit(Class::Entry, 1, at(60_000)).is_err(), "the venue may count it in the new minute");
    weights.settle(&all, None, at(60_001));
    let next = weights.admit(Class::Entry, 8, at(120_000)).unwrap();
    weights.cancel(&next);
    assert!(weights.admit(Class::Entry, 8, at(120_000)).is_ok(), "what was not sent after all takes nothing");
}

#[test]
fn after_a_429_nothing_is_sent_until_the_time_that_the_venue_named() {
    let mut weights = weights(6_000, 20);
    weights.ban(Some(Duration::from_secs(30)), at(0));
    weights.ban(Some(Duration::from_secs(1)), at(1));
    for class in [Class::Entry, Class::Read, Class::Resolve, Class::Cancel] {
        assert!(weights.admit(class, 1, at(30_500)).is_err(), "{class:?}");
        assert!(weights.admit(class, 1, at(31_000)).is_ok(), "{class:?}");
    }
    weights.ban(None, at(60_000));
    assert!(weights.admit(Class::Cancel, 1, at(60_000 + 120_000)).is_err(), "no time named: the shortest ban");
}

#[test]
fn an_accounts_orders_are_counted_by_interval_and_corrected_by_the_venue() {
    let mut orders = OrderCounts::default();
    let second = |seconds, limit| OrderLimit { interval: Duration::from_secs(seconds), limit };
    orders.set_limits(&[second(10, 2), second(86_400, 3)]);
    for _ in 0..2 {
        orders.admit(at(0)).unwrap();
    }
    assert_eq!(orders.admit(at(0)).unwrap_err().wait, Duration::from_secs(10), "both are under way");
    orders.settle(&[], at(1));
    orders.settle(&[(Duration::from_secs(10), 1), (Duration::from_hours(24), 1)], at(1));
    orders.admit(at(2)).expect("a filled order is taken off the venue's count");
    orders.settle(&[], at(3));
    assert!(orders.admit(at(4)).is_err());
    orders.set_limits(&[second(10, 2), second(86_400, 3)]);
    assert!(orders.admit(at(5)).is_err(), "asking for the limits again forgets no order");
    orders.admit(at(10_000)).unwrap();
    orders.settle(&[], at(10_001));
    assert!(orders.admit(at(20_000)).unwrap_err().wait > Duration::from_mins(1), "the day is used up");
}

#[derive(Debug, Clone)]
enum Deed {
    Ask(Class, u32),
    /// One of those under way ends; whether the venue's header came with it.
    End(usize, bool),
    Pass(i64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let class = prop_oneof![Just(Class::Entry), Just(Class::Read), Just(Class::Resolve)];
    prop_oneof![
        4 => (class, 1..30_u32).prop_map(|(class, weight)| Deed::Ask(class, weight)),
        4 => (0..50_usize, any::<bool>()).prop_map(|(which, header)| Deed::End(which, header)),
        1 => (1..40_000_i64).prop_map(Deed::Pass),
    ]
}

proptest! {
    /// Whatever entries, reads and queries do, cancels find their part of the reserve; and the venue's limit holds.
    #[test]
    fn the_reserve_is_never_eaten_by_anything_but_cancels(deeds in prop::collection::vec(deed(), 1..200)) {
        const LIMIT: u32 = 200;
        const FOR_CANCELS: u32 = 20; // half of 20 %
        let mut weights = weights(LIMIT, 20);
        let mut now = 0;
        let mut minute = 0;
        let mut sent = 0_u32;
        let mut under_way: Vec<Ticket> = Vec::new();
        for deed in deeds {
            match deed {
                Deed::Ask(class, weight) => {
                    if let Ok(ticket) = weights.admit(class, weight, at(now)) {
                        sent += weight;
                        under_way.push(ticket);
                    }
                }
                Deed::End(which, header) if !under_way.is_empty() => {
                    let ticket = under_way.swap_remove(which % under_way.len());
                    weights.settle(&ticket, header.then_some(sent), at(now));
                }
                Deed::End(..) => {}
                Deed::Pass(ms) => {
                    now += ms;
                    if now / 60_000 > minute {
                        minute = now / 60_000;
                        // The venue may count whatever is still under way in its new minute.
                        sent = under_way.iter().map(|ticket| ticket.weight).sum();
                    }
                }
            }
            prop_assert!(sent <= LIMIT - FOR_CANCELS, "{sent} sent in one minute");
        }
        let mut cancels = Vec::new();
        for _ in 0..FOR_CANCELS {
            cancels.push(weights.admit(Class::Cancel, 1, at(now)).expect("a place for a cancel"));
        }
    }
}
