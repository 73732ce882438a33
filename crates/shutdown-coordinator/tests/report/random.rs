//! Whatever a report holds, it can be written, read, printed and drawn.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};

use crate::{
    samples::{entry, read, report, with},
    svg::check,
};

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..200u64, 4 => 0..100_000u64, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z-]{1,12}", 1 => any::<String>(), 1 => ".{0,200}", 1 => "[<>&\"'\u{0}-\u{1f}\u{7f}-\u{9f}\u{fffe}]{0,9}"]
}

fn kind() -> impl Strategy<Value = &'static str> {
    select(vec!["hook", "blocking_hook", "gate", "task"])
}

fn an_entry() -> impl Strategy<Value = Value> {
    let state = select(vec!["ok", "failed", "panicked", "timed_out", "leaked", "skipped", "cancelled"]);
    (kind(), name(), state, option::of(time()), option::of(time()), name(), option::of(time())).prop_map(
        |(kind, name, state, start, end, text, late)| {
            with(entry(kind, &name, state, start, end), &json!({ "error": text, "message": text, "late_by_ms": late }))
        },
    )
}

fn a_survivor() -> impl Strategy<Value = Value> {
    (kind(), option::of(name()), name(), any::<usize>(), time()).prop_map(|(kind, gate, name, count, age)| {
        let blocker = json!({ "phase": "p", "kind": kind, "name": name, "count": count, "age_ms": age });
        gate.map_or(blocker.clone(), |gate| with(blocker, &json!({ "gate": gate })))
    })
}

fn a_phase() -> impl Strategy<Value = Value> {
    let status = select(vec!["completed", "timed_out", "forced", "skipped"]);
    let times = [time(), time(), time(), time(), time()];
    let lists = (vec(name(), 0..3), vec(an_entry(), 0..20), vec(a_survivor(), 0..12));
    (name(), status, times, lists).prop_map(
        |(name, status, [start, took, budget, reserve, hold], (after, entries, survivors))| {
            json!({
                "name": name, "after": after, "status": status, "started_after_ms": start, "took_ms": took,
                "budget_ms": budget, "reserve_ms": reserve, "hold_ms": hold, "entries": entries, "survivors": survivors,
            })
        },
    )
}

fn a_reason() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i32>().prop_map(|number| json!({ "kind": "signal", "detail": number })),
        name().prop_map(|text| json!({ "kind": "manual", "detail": text })),
        Just(json!({ "kind": "rehearsal" })),
    ]
}

fn a_report() -> impl Strategy<Value = Value> {
    let notes = vec((name(), name(), name(), any::<bool>()), 0..5);
    let reasons = (a_reason(), option::of(a_reason()), option::of(time()), any::<u64>());
    (time(), time(), vec(a_phase(), 0..6), notes, reasons).prop_map(
        |(deadline, took, phases, notes, (reason, forced_by, forced_after, unix))| {
            // Some notes belong to a hook of the first phase.
            let first = phases.first().map(|phase| (phase["name"].clone(), phase["entries"][0]["name"].clone()));
            let notes = notes.into_iter().map(|(phase, hook, text, unclean)| {
                let (phase, hook) = first.clone().filter(|_| unclean).unwrap_or((json!(phase), json!(hook)));
                let hook = if hook.is_null() { json!("") } else { hook };
                json!({ "phase": phase, "hook": hook, "text": text, "unclean": unclean })
            });
            let fields = json!({
                "reason": reason, "forced_by": forced_by, "forced_after_ms": forced_after, "started_unix_ms": unix,
                "notes": notes.collect::<Vec<_>>(),
            });
            with(report(deadline, took, phases), &fields)
        },
    )
}

/// What is written over another character and takes no room.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200f}' | '\u{20d0}'..='\u{20ff}' | '\u{fe00}'..='\u{fe0f}')
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_report_can_be_drawn_printed_and_read_back(value in a_report()) {
        let report = read(&value);
        check(&report.to_svg());
        for line in report.to_string().lines() {
            prop_assert!(line.chars().filter(|c| !is_mark(*c)).count() <= 100, "{}", line);
        }
        prop_assert_eq!(serde_json::from_str::<shutdown_coordinator::Report>(&report.to_json()).unwrap(), report);
    }
}
