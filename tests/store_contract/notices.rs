//! The contract of notices.

use hotgo::store::{Notice, Severity, Store};

use crate::data::at;

fn notice(message: &str, micros: i64, effective: Option<i64>) -> Notice {
    let message = message.to_owned();
    Notice { severity: Severity::Hotfix, message, created_at: at(micros), effective_at: effective.map(at) }
}

pub(crate) async fn a_notice_is_stored_once_as_long_as_it_is_current(store: &dyn Store) {
    let (now, planned) = (notice("it's \u{fffd} \\ \"升级\"", 100, None), notice("planned", 100, Some(900)));
    for given in [&now, &planned] {
        assert!(store.add_notice(given, at(50)).await.unwrap());
        let again = Notice { created_at: at(120), ..given.clone() };
        assert!(!store.add_notice(&again, at(50)).await.unwrap(), "{given:?}");
    }
    assert!(store.add_notice(&Notice { severity: Severity::Minor, ..now.clone() }, at(50)).await.unwrap());
    assert!(store.add_notice(&notice("planned", 100, Some(901)), at(50)).await.unwrap());
    assert!(store.add_notice(&notice("planned", 100, None), at(50)).await.unwrap());
    assert!(store.add_notice(&Notice { created_at: at(300), ..now }, at(200)).await.unwrap(), "the first one is old");
    let at_once = [notice("at once", 1, None), notice("at once", 2, None)];
    let both = tokio::join!(store.add_notice(&at_once[0], at(0)), store.add_notice(&at_once[1], at(0)));
    assert_ne!(both.0.unwrap(), both.1.unwrap(), "one of them is stored");
}

pub(crate) async fn current_notices_are_listed_newest_first(store: &dyn Store) {
    let given = [notice("a", 1, None), notice("b", 5, None), notice("c", 1, Some(9)), notice("d", 6, Some(5))];
    for one in &given {
        assert!(store.add_notice(one, at(0)).await.unwrap());
    }
    let listed = async |since| {
        let listed: Vec<_> = store.notices(at(since)).await.unwrap().into_iter().map(|it| it.notice).collect();
        listed
    };
    let [a, b, c, d] = given;
    assert_eq!(listed(0).await, [d.clone(), c.clone(), b.clone(), a]);
    assert_eq!(listed(4).await, [d, c.clone(), b]);
    assert_eq!(listed(5).await, [c]);
    assert!(listed(9).await.is_empty());
    let ids: Vec<_> = store.notices(at(0)).await.unwrap().into_iter().map(|it| it.id).collect();
    assert!(ids.is_sorted_by(|a, b| a > b), "{ids:?}");
}
