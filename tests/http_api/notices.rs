//! Notices as users see them.

use std::time::Duration;

use hotgo::store::{Notice, Severity};
use serde_json::json;

use crate::world::{NOW, World};

#[tokio::test]
async fn notices_are_shown_until_a_day_after_what_they_are_about_newest_first() {
    let world = World::new().await;
    assert_eq!(world.get("/api/notices").await.json(), json!({ "items": [], "next": null }));
    let (hour, day) = (Duration::from_hours(1), Duration::from_hours(24));
    let notice = |message: &str, created_at, effective_at| Notice {
        severity: Severity::Major,
        message: message.to_owned(),
        created_at,
        effective_at,
    };
    let long_ago = NOW.before(day * 9);
    for given in [
        notice("told a day ago", NOW.before(day), None),
        notice("done a day ago", long_ago, Some(NOW.before(day))),
        notice("told today", NOW.before(hour), None),
        notice("planned long ago", long_ago, Some(NOW.after(day))),
    ] {
        assert!(world.store.add_notice(&given, long_ago.before(day)).await.unwrap());
    }
    let shown = world.get("/api/notices").await.json();
    assert_eq!(
        shown["items"],
        json!([
            {"id": 4, "severity": "major", "message": "planned long ago", "created_at_us": long_ago.micros(),
             "effective_at_us": NOW.after(day).micros()},
            {"id": 3, "severity": "major", "message": "told today", "created_at_us": NOW.before(hour).micros(),
             "effective_at_us": null},
        ])
    );
}
