//! The table for a terminal.

use std::time::Duration;

use shutdown_coordinator::{FailurePolicy, ShutdownCoordinator};

use crate::samples::{all, clean, crowded, forced, read};

#[test]
fn the_verdict_comes_first_then_what_was_left_over_then_the_phases() {
    let text = read(&forced()).to_string();
    let places: Vec<_> = [
        "shutdown not clean, exit code 130\n",
        "forced by SIGINT after 28 s; took 31.4 s of 42 s\n",
        "1 panicked, 1 failed, 1 leaked, 3 timed out, 1 skipped, 1 called unclean\n",
        "left over",
        "task venue poller",
        "gate orders: order 17 BTC-PERP",
        "gate orders: 3 guards",
        "\nphase   ",
        "\nannounce   ",
        "\norder-drain   ",
        "\npersist-state   ",
        "unclean: 5 orders are in doubt",
    ]
    .iter()
    .map(|part| text.find(part).unwrap_or_else(|| panic!("no {part:?} in\n{text}")))
    .collect();
    assert!(places[..4].is_sorted() && places[3] < *places[4..7].iter().min().unwrap(), "{text}");
    assert!(places[4..7].iter().max().unwrap() < &places[7] && places[7..].is_sorted(), "{text}");
}

#[test]
fn a_row_says_when_it_started_how_long_it_took_and_how_it_ended() {
    let text = read(&forced()).to_string();
    let row = |name: &str| text.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
    let words = |name| row(name).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words("persist-state "), "persist-state phase 28.2 s 2.7 s 4 s completed");
    assert_eq!(words("settle fills "), "settle fills hook 5.4 s 22.7 s late by 60 ms");
    // A task that ran before counts from the start of its phase.
    assert_eq!(words("market data "), "market data task 5.4 s 500 ms ok");
    assert_eq!(words("say goodbye "), "say goodbye hook - - skipped");
    // What does not fit into its column comes whole on the next line.
    assert!(
        text.contains(
            "failed\n      failed: POST https://desk.example/hook: 503 <Service Unavailable> & no retry left\n"
        )
    );
}

#[test]
fn nothing_is_wider_than_a_hundred_columns_and_the_columns_are_aligned() {
    for (name, value) in all() {
        let text = read(&value).to_string();
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{name}: {line}");
            assert!(!line.chars().any(char::is_control), "{name}: {line:?}");
        }
    }
    let text = read(&clean()).to_string();
    let column = text.lines().find(|line| line.starts_with("phase ")).unwrap().find("result").unwrap();
    let results = text.lines().filter(|line| line.ends_with(" completed") || line.ends_with(" ok"));
    assert_eq!(results.map(|line| line.rfind("  ").unwrap() + 2).collect::<Vec<_>>(), [column; 17]);
}

#[test]
fn of_many_entries_the_worst_and_longest_are_shown() {
    let text = read(&crowded(3)).to_string();
    for late in ["connection 7 ", "connection 90 ", "connection 173 ", "sessions "] {
        assert!(text.contains(&format!("\n  {late}")), "{late}: {text}");
    }
    assert_eq!(text.matches("\n  connection").count(), 11);
    assert!(text.contains("\n  and 489 more, all ok, longest 977 ms\n"), "{text}");
    assert!(text.contains("\n  and 280 more\n"), "{text}");
    // Of 300 that are left over, the oldest.
    assert!(text.contains("gate sessions: ws 299 ") && !text.contains("gate sessions: ws 0 "), "{text}");
}

#[test]
fn there_is_colour_only_on_request() {
    let report = read(&forced());
    assert!(!report.to_string().contains('\u{1b}'));
    assert_eq!(report.table().colored(false).to_string(), report.to_string());
    let colored = report.table().colored(true).to_string();
    assert!(colored.starts_with("\u{1b}[1;31mshutdown not clean, exit code 130\u{1b}[0m\n"), "{colored}");
    let mut plain = colored;
    for code in ["[0m", "[1m", "[2m", "[32m", "[1;31m"] {
        plain = plain.replace(&format!("\u{1b}{code}"), "");
    }
    assert_eq!(plain, report.to_string());
}

#[test]
fn a_plan_is_a_table_too() {
    let secs = Duration::from_secs;
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("order-drain").timeout(secs(30)).on_failure(FailurePolicy::AbortRest).id();
    let close =
        builder.phase("close-\u{1b}stores").after(&[drain]).reserve(secs(2)).point_of_no_return().sequential().id();
    let (coordinator, handle) = builder.deadline(secs(42)).build().unwrap();
    handle.on(close, "checkpoint", |_| async {}).unwrap();
    let _orders = handle.gate(drain, "orders");
    let text = handle.plan().to_string();
    let expected = [
        "deadline 42 s, grace 100 ms, watchdog off",
        "phase timeout reserve hold ends by",
        "order-drain 30 s - - 40 s",
        "its failure skips what comes after it",
        "gate orders",
        "close-\u{fffd}stores - 2 s - 42 s",
        "after order-drain",
        "no way back from here",
        "one after the other, from the last to the first:",
        "hook checkpoint",
    ];
    let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, expected, "{text}");
    drop(coordinator);
}
