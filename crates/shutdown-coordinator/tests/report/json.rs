//! Reading and writing, and the exit code. That the documentation is complete is tested inside the crate.

use serde_json::{Value, json};
use shutdown_coordinator::{Outcome, Report};

use crate::samples::{all, clean, entry, forced, phase, read, report, with};

#[test]
fn a_report_that_was_read_is_written_the_same() {
    for (name, value) in all() {
        let report = read(&value);
        let back: Report = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(back, report, "{name}");
        assert_eq!(serde_json::to_string(&report).unwrap(), report.to_json(), "{name}");
    }
}

#[test]
fn fields_that_are_not_known_are_ignored() {
    let mut value = clean();
    value["colour"] = json!("blue");
    value["phases"][0]["colour"] = json!(["blue"]);
    value["phases"][0]["entries"][0]["colour"] = json!({ "r": 1 });
    assert_eq!(read(&value), read(&clean()));
}

#[test]
fn another_version_is_refused_by_name() {
    for (version, expected) in [
        (json!(2), "this is version 2 of the shutdown report, and only version 1 can be read"),
        (json!(0), "this is version 0 of the shutdown report, and only version 1 can be read"),
        (Value::Null, "expected u32"),
    ] {
        let error = serde_json::from_value::<Report>(with(clean(), &json!({ "version": version }))).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let mut value = clean();
    value.as_object_mut().unwrap().remove("version");
    let error = serde_json::from_value::<Report>(value).unwrap_err();
    assert!(error.to_string().contains("missing field `version`"), "{error}");
}

#[test]
fn what_is_written_begins_with_the_version_and_the_verdict() {
    let json = read(&forced()).to_json();
    assert!(json.starts_with(r#"{"version":1,"exit_code":130,"clean":false,"reason":{"#), "{json}");
    assert!(!json.contains('\n'));
}

#[test]
fn the_exit_code_says_how_it_went() {
    let signal = |number: i64| json!({ "kind": "signal", "detail": number });
    let (upgrade, manual) = (json!({ "kind": "upgrade" }), json!({ "kind": "manual", "detail": "drill" }));
    let base = |status, state| {
        let entry = with(entry("hook", "h", state, Some(0), Some(1)), &json!({ "error": "", "message": "" }));
        report(10, 5, vec![phase("p", &[], status, [0, 5, 10], vec![entry])])
    };
    let by = |reason: &Value, forced: &Value| {
        with(base("completed", "ok"), &json!({ "reason": reason, "forced_by": forced, "forced_after_ms": 1 }))
    };
    let note = |unclean| {
        let note = json!({ "phase": "p", "hook": "h", "text": "", "unclean": unclean });
        with(base("completed", "ok"), &json!({ "notes": [note] }))
    };
    let cases = [
        (base("completed", "ok"), 0),
        (note(false), 0),
        (note(true), 75),
        (base("timed_out", "ok"), 75),
        (base("forced", "ok"), 75),
        (base("skipped", "ok"), 75),
        (base("completed", "failed"), 75),
        (base("completed", "panicked"), 75),
        (base("completed", "timed_out"), 75),
        (base("completed", "leaked"), 75),
        (base("completed", "skipped"), 75),
        (base("completed", "cancelled"), 75),
        // Forced by a signal, or else started by one.
        (by(&upgrade, &signal(2)), 130),
        (by(&signal(15), &signal(2)), 130),
        (by(&signal(15), &manual), 143),
        (by(&signal(1), &signal(127)), 255),
        // No signal at all, or none that has an exit code.
        (by(&upgrade, &manual), 75),
        (by(&upgrade, &signal(128)), 75),
        (by(&upgrade, &signal(-1)), 75),
        (by(&upgrade, &signal(i64::from(i32::MAX))), 75),
    ];
    for (value, code) in cases {
        let report = read(&value);
        assert_eq!(report.exit_code(), code, "{report}");
        let written: Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!((&written["exit_code"], &written["clean"]), (&json!(code), &json!(report.is_clean())));
    }
}

#[test]
fn a_late_entry_says_how_late_and_an_aborted_one_says_null() {
    let report = read(&forced());
    let outcome =
        |name: &str| report.phases[2].entries.iter().find(|entry| entry.name == name).unwrap().outcome.clone();
    assert_eq!(outcome("settle fills"), Outcome::TimedOut { late_by: Some(std::time::Duration::from_millis(60)) });
    assert_eq!(outcome("venue poller"), Outcome::TimedOut { late_by: None });
}
