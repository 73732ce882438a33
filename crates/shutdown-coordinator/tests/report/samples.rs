//! Reports of many kinds. They are written as JSON, since only a coordinator can make a report otherwise.

use serde_json::{Value, json};
use shutdown_coordinator::Report;

/// A phase: its name, what it comes after, how it ended, and when it started, what it took and its budget in ms.
pub fn phase(name: &str, after: &[&str], status: &str, [start, took, budget]: [u64; 3], entries: Vec<Value>) -> Value {
    json!({
        "name": name, "after": after, "status": status, "started_after_ms": start, "took_ms": took, "budget_ms": budget,
        "reserve_ms": 0, "hold_ms": 0, "entries": entries, "survivors": [],
    })
}

/// Changes some fields.
pub fn with(mut base: Value, fields: &Value) -> Value {
    base.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    base
}

pub fn ok(kind: &str, name: &str, start: u64, end: u64) -> Value {
    entry(kind, name, "ok", Some(start), Some(end))
}

pub fn entry(kind: &str, name: &str, state: &str, start: Option<u64>, end: Option<u64>) -> Value {
    let took = end.unwrap_or(36_000).saturating_sub(start.unwrap_or(0));
    json!({
        "kind": kind, "name": name, "state": state, "started_after_ms": start, "ended_after_ms": end, "took_ms": took,
    })
}

pub fn guard(phase: &str, gate: &str, name: &str, count: u64, age_ms: u64) -> Value {
    json!({ "phase": phase, "kind": "gate", "gate": gate, "name": name, "count": count, "age_ms": age_ms })
}

/// Times in ms.
pub fn report(deadline: u64, took: u64, phases: Vec<Value>) -> Value {
    json!({
        "version": 1, "reason": { "kind": "signal", "detail": 15 }, "forced_by": null, "forced_after_ms": null,
        "started_unix_ms": 1_798_000_000_000_u64, "deadline_ms": deadline, "took_ms": took, "phases": phases, "notes": [],
    })
}

pub fn read(value: &Value) -> Report {
    serde_json::from_value(value.clone()).unwrap()
}

pub fn clean() -> Value {
    let phases = vec![
        with(
            phase("announce", &[], "completed", [0, 5_000, 30_000], vec![ok("hook", "readiness off", 0, 12)]),
            &json!({ "hold_ms": 5_000 }),
        ),
        phase(
            "stop-accepting",
            &["announce"],
            "completed",
            [5_000, 640, 5_000],
            vec![ok("hook", "close listeners", 5_000, 5_040), ok("gate", "connections", 5_000, 5_640)],
        ),
        phase(
            "stop-new-signals",
            &["stop-accepting"],
            "completed",
            [5_640, 180, 2_000],
            vec![ok("task", "signal intake", 0, 5_820)],
        ),
        phase(
            "order-drain",
            &["stop-new-signals"],
            "completed",
            [5_820, 11_400, 30_180],
            vec![
                ok("hook", "cancel resting orders", 5_820, 9_100),
                ok("gate", "orders", 5_820, 17_220),
                ok("task", "venue poller", 0, 14_000),
                ok("task", "market data", 0, 6_400),
            ],
        ),
        with(
            phase(
                "persist-state",
                &["order-drain"],
                "completed",
                [17_220, 1_900, 22_780],
                vec![
                    ok("hook", "save positions", 17_220, 18_300),
                    ok("blocking_hook", "flush journal", 17_220, 19_120),
                ],
            ),
            &json!({ "reserve_ms": 4_000 }),
        ),
        with(
            phase(
                "close-stores",
                &["persist-state"],
                "completed",
                [19_120, 260, 22_880],
                vec![ok("blocking_hook", "checkpoint", 19_120, 19_380)],
            ),
            &json!({ "reserve_ms": 2_000 }),
        ),
    ];
    let note = json!({ "phase": "persist-state", "hook": "save positions", "text": "412 positions", "unclean": false });
    with(report(42_000, 19_380, phases), &json!({ "notes": [note] }))
}

/// A drain that is held up until it is forced, a thread that never ends, a hook that fails and one that panics.
pub fn forced() -> Value {
    let drain = vec![
        ok("hook", "cancel resting orders", 5_400, 8_900),
        with(entry("hook", "settle fills", "timed_out", Some(5_400), Some(28_060)), &json!({ "late_by_ms": 60 })),
        with(entry("gate", "orders", "timed_out", Some(5_400), None), &json!({ "late_by_ms": null })),
        with(entry("task", "venue poller", "timed_out", Some(0), Some(28_100)), &json!({ "late_by_ms": null })),
        entry("blocking_hook", "fsync journal", "leaked", Some(5_400), None),
        with(
            entry("hook", "notify desk", "failed", Some(5_400), Some(9_700)),
            &json!({ "error": "POST https://desk.example/hook: 503 <Service Unavailable> & no retry left" }),
        ),
        ok("task", "market data", 0, 5_900),
    ];
    let survivors = vec![
        json!({ "phase": "order-drain", "kind": "hook", "name": "settle fills", "count": 1, "age_ms": 22_600 }),
        json!({ "phase": "order-drain", "kind": "blocking_hook", "name": "fsync journal", "count": 1, "age_ms": 22_600 }),
        json!({ "phase": "order-drain", "kind": "task", "name": "venue poller", "count": 1, "age_ms": 5_000_000 }),
        guard("order-drain", "orders", "order 17 BTC-PERP", 1, 31_000),
        guard("order-drain", "orders", "order 23 ETH-PERP", 1, 19_500),
        guard("order-drain", "orders", "orders", 3, 22_600),
    ];
    let phases = vec![
        with(
            phase("announce", &[], "completed", [0, 5_000, 36_000], vec![ok("hook", "readiness off", 0, 12)]),
            &json!({ "hold_ms": 5_000 }),
        ),
        phase(
            "stop-accepting",
            &["announce"],
            "completed",
            [5_000, 400, 5_000],
            vec![ok("gate", "connections", 5_000, 5_400)],
        ),
        with(
            phase("order-drain", &["stop-accepting"], "forced", [5_400, 22_750, 30_600], drain),
            &json!({ "survivors": survivors }),
        ),
        with(
            phase(
                "persist-state",
                &["order-drain"],
                "completed",
                [28_150, 2_700, 4_000],
                vec![
                    ok("hook", "save positions", 28_150, 30_850),
                    with(
                        entry("hook", "upload snapshot", "panicked", Some(28_150), Some(29_000)),
                        &json!({ "message": "index out of bounds" }),
                    ),
                ],
            ),
            &json!({ "reserve_ms": 4_000 }),
        ),
        phase(
            "report-upstream",
            &["order-drain"],
            "skipped",
            [28_150, 0, 0],
            vec![entry("hook", "say goodbye", "skipped", None, None)],
        ),
        with(
            phase(
                "close-stores",
                &["persist-state"],
                "completed",
                [30_850, 500, 2_000],
                vec![ok("blocking_hook", "checkpoint", 30_850, 31_350)],
            ),
            &json!({ "reserve_ms": 2_000 }),
        ),
    ];
    let notes = json!([
        { "phase": "persist-state", "hook": "save positions", "text": "5 orders are in doubt: 17, 23, 31, 32, 40", "unclean": true },
    ]);
    let forced = json!({
        "forced_by": { "kind": "signal", "detail": 2 }, "forced_after_ms": 28_000, "notes": notes,
    });
    with(report(42_000, 31_350, phases), &forced)
}

pub fn parallel() -> Value {
    let phases = vec![
        phase("stop-accepting", &[], "completed", [0, 300, 2_000], vec![ok("gate", "connections", 0, 300)]),
        phase(
            "drain-eu",
            &["stop-accepting"],
            "completed",
            [300, 2_400, 7_000],
            vec![ok("gate", "eu orders", 300, 2_700)],
        ),
        phase(
            "drain-us",
            &["stop-accepting"],
            "completed",
            [300, 4_100, 7_000],
            vec![ok("gate", "us orders", 300, 4_400)],
        ),
        phase(
            "drain-asia",
            &["stop-accepting"],
            "completed",
            [300, 900, 7_000],
            vec![ok("gate", "asia orders", 300, 1_200)],
        ),
        phase(
            "archive-asia",
            &["drain-asia"],
            "completed",
            [1_200, 2_000, 3_000],
            vec![ok("blocking_hook", "upload", 1_200, 3_200)],
        ),
        with(
            phase(
                "persist",
                &["drain-eu", "drain-us", "archive-asia"],
                "completed",
                [4_400, 800, 2_000],
                vec![ok("hook", "save", 4_400, 5_200)],
            ),
            &json!({ "reserve_ms": 1_000 }),
        ),
    ];
    report(8_000, 5_200, phases)
}

/// A phase with 500 tasks, of which so many did not end in time.
pub fn crowded(late: u64) -> Value {
    let tasks = (0..500).map(|number| {
        let name = format!("connection {number}");
        if number % 83 == 7 && number / 83 < late {
            with(entry("task", &name, "timed_out", Some(0), Some(3_100 + number / 83)), &json!({ "late_by_ms": null }))
        } else {
            ok("task", &name, 0, 1_000 + number * 7 % 997)
        }
    });
    let names = (0..300).map(|number| {
        guard("drain", "sessions", &format!("ws {number} from 10.0.0.{}", number % 250), 1, 60_000 + number)
    });
    let gate = with(entry("gate", "sessions", "timed_out", Some(1_000), Some(3_080)), &json!({ "late_by_ms": 80 }));
    let drain = with(
        phase("drain", &[], "timed_out", [1_000, 2_150, 2_000], tasks.chain([gate]).collect()),
        &json!({ "survivors": names.collect::<Vec<_>>() }),
    );
    report(10_000, 3_150, vec![drain])
}

pub fn short() -> Value {
    let phases = vec![
        phase("stop", &[], "completed", [0, 1, 5_000], vec![ok("hook", "close listener", 0, 1)]),
        phase("drain", &["stop"], "completed", [1, 2, 29_999], vec![ok("gate", "orders", 1, 3)]),
        phase("close", &["drain"], "completed", [3, 0, 29_997], vec![ok("hook", "flush", 3, 3)]),
    ];
    report(30_000, 3, phases)
}

pub fn long() -> Value {
    let phases = vec![
        phase("stop", &[], "completed", [0, 30_000, 60_000], vec![ok("gate", "connections", 0, 30_000)]),
        phase(
            "drain",
            &["stop"],
            "completed",
            [30_000, 490_000, 500_000],
            vec![ok("gate", "uploads", 30_000, 520_000)],
        ),
        phase(
            "close",
            &["drain"],
            "completed",
            [520_000, 80_000, 80_000],
            vec![ok("blocking_hook", "compact", 520_000, 600_000)],
        ),
    ];
    report(600_000, 600_000, phases)
}

pub const MARKUP: &str = "</text><script>alert(\"1\")</script>&amp;<!--";

pub fn hostile() -> Value {
    let names = [
        MARKUP.to_owned(),
        "W".repeat(200),
        "注文の取り消しと約定の確認".repeat(6),
        "a\u{1b}[2J\u{0}b\nc\u{202e}d\u{ffff}".to_owned(),
    ];
    let phases = names.iter().enumerate().map(|(index, name)| {
        let start = 1_000 * u64::try_from(index).unwrap();
        let failed = with(entry("hook", name, "failed", Some(start), Some(start + 800)), &json!({ "error": name }));
        with(
            phase(name, &[], "completed", [start, 1_000, 1_000], vec![failed]),
            &json!({ "survivors": [guard(name, name, &format!("{name} guard"), 7, 10)] }),
        )
    });
    let notes = names.iter().map(|name| json!({ "phase": name, "hook": name, "text": name, "unclean": true }));
    let fields =
        json!({ "notes": notes.collect::<Vec<_>>(), "reason": { "kind": "error", "detail": MARKUP.repeat(9) } });
    with(report(5_000, 4_000, phases.collect()), &fields)
}

pub fn empty() -> Value {
    report(30_000, 0, Vec::new())
}

pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("clean", clean()),
        ("forced", forced()),
        ("parallel", parallel()),
        ("crowded", crowded(3)),
        ("short", short()),
        ("long", long()),
        ("hostile", hostile()),
        ("empty", empty()),
    ]
}
