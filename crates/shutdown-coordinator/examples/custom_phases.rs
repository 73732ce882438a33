//! Phases from a configuration file: `cargo run --example custom_phases [FILE]`.
//!
//! Reads the graph from JSON, prints the plan, shows what is said about files with mistakes, and shuts down.
#![allow(clippy::print_stdout, reason = "an example")]

use std::{env, error::Error, fs, process::ExitCode, time::Duration};

use serde::Deserialize;
use shutdown_coordinator::{
    Builder, PhaseSpec, Reason, Report, ShutdownCoordinator, ShutdownHandle, SignalPolicy, run_main,
};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/custom_phases.json");

/// What the file says about the shutdown. The phases are the crate's own type, in any order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    deadline_ms: u64,
    watchdog_ms: u64,
    phases: Vec<PhaseSpec>,
}

fn main() -> ExitCode {
    run_main(Duration::from_secs(1), service())
}

async fn service() -> Result<Report, Box<dyn Error>> {
    let file = env::args().nth(1).unwrap_or_else(|| EXAMPLE.to_owned());
    let json = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let (coordinator, handle) = build(&json)?;
    println!("{}", handle.plan());
    for (mistake, json) in MISTAKES {
        match build(json) {
            Ok(_) => println!("{mistake}: nobody noticed"),
            Err(error) => println!("{mistake}: {error}"),
        }
    }

    // Code finds its phase by name. A file may leave out a phase; what code cannot do without, it must ask for.
    let persist = handle.phase("persist").ok_or("the configuration has no phase \"persist\"")?;
    handle.on(persist, "save", |cx| async move { cx.note(format!("saved in phase {}", cx.phase())) })?;
    if let Some(reports) = handle.phase("drain-reports") {
        handle.on(reports, "cancel reports", |_| async {})?;
    }

    handle.trigger(Reason::Manual("the example is over".to_owned()));
    let report = coordinator.run().await;
    println!("{report}");
    Ok(report)
}

fn build(json: &str) -> Result<(ShutdownCoordinator, ShutdownHandle), Box<dyn Error>> {
    let settings: Settings = serde_json::from_str(json)?;
    let builder = Builder::from_specs(settings.phases)?
        .deadline(Duration::from_millis(settings.deadline_ms))
        .watchdog(Duration::from_millis(settings.watchdog_ms))
        .signals(SignalPolicy::default());
    Ok(builder.build()?)
}

const MISTAKES: &[(&str, &str)] = &[
    (
        "an unknown phase",
        r#"{ "deadline_ms": 20000, "watchdog_ms": 2000, "phases": [
            { "name": "drain" },
            { "name": "persist", "after": ["drian"] } ] }"#,
    ),
    (
        "a cycle",
        r#"{ "deadline_ms": 20000, "watchdog_ms": 2000, "phases": [
            { "name": "drain", "after": ["persist"] },
            { "name": "persist", "after": ["flush"] },
            { "name": "flush", "after": ["drain"] } ] }"#,
    ),
    (
        "reserves above the deadline",
        r#"{ "deadline_ms": 5000, "watchdog_ms": 2000, "phases": [
            { "name": "persist", "reserve_ms": 4000 },
            { "name": "close", "after": ["persist"], "reserve_ms": 2000 } ] }"#,
    ),
    (
        "a watchdog that would bark too soon",
        r#"{ "deadline_ms": 5000, "watchdog_ms": 100, "phases": [
            { "name": "drain" },
            { "name": "close", "after": ["drain"] } ] }"#,
    ),
    (
        "a setting that does not exist",
        r#"{ "deadline_ms": 5000, "watchdog_ms": 2000, "phases": [ { "name": "drain", "time_out_ms": 1000 } ] }"#,
    ),
];
