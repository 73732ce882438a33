//! Looking at reports, with failures that show them.

use std::fmt::Write as _;

use crate::{
    record::{Outcome, Steps, WorkKind},
    report::{Entry, PhaseReport, PhaseStatus, Report},
};

/// The phase with this name.
///
/// # Panics
/// If there is none.
#[track_caller]
#[expect(clippy::panic, reason = "an assertion")]
pub fn phase<'a>(report: &'a Report, name: &str) -> &'a PhaseReport {
    let found = report.phases.iter().find(|phase| phase.name == name);
    found.unwrap_or_else(|| panic!("no phase is called {name:?}\n{report}"))
}

/// The one hook, gate or task with this name, which may be written `phase/name` where several phases have one.
///
/// # Panics
/// If there is none, or more than one.
#[track_caller]
#[expect(clippy::panic, reason = "an assertion")]
pub fn entry<'a>(report: &'a Report, name: &str) -> &'a Entry {
    let mut found = entries(report, name);
    match (found.next(), found.next()) {
        (Some((_, entry)), None) => entry,
        (None, _) => panic!("no hook, gate or task is called {name:?}\n{report}"),
        (Some((one, _)), Some((other, _))) => panic!(
            "{name:?} is in the report twice, in the phases {:?} and {:?}; write `phase/name`\n{report}",
            one.name, other.name
        ),
    }
}

/// How the one hook, gate or task with this name ended. See [`entry`].
///
/// # Panics
/// If there is none, or more than one.
#[track_caller]
pub fn outcome<'a>(report: &'a Report, name: &str) -> &'a Outcome {
    &entry(report, name).outcome
}

/// Everything ended well and in time, and nothing was forced.
///
/// # Panics
/// If not, naming what is wrong and showing the report.
#[track_caller]
pub fn assert_clean(report: &Report) {
    let phases = report.phases.iter().filter(|phase| phase.status != PhaseStatus::Completed);
    let mut wrong: Vec<String> = phases.map(|phase| format!("phase {:?}: {}", phase.name, phase.status)).collect();
    for phase in &report.phases {
        let bad = phase.entries.iter().filter(|entry| !entry.outcome.is_ok());
        wrong.extend(bad.map(|entry| format!("{} {:?}: {}", entry.kind, entry.name, entry.outcome)));
    }
    wrong.extend(report.notes.iter().filter(|note| note.unclean).map(|note| format!("unclean: {}", note.text)));
    wrong.extend(report.forced_by.iter().map(|reason| format!("forced by {reason}")));
    let clean = wrong.is_empty() && report.exit_code() == 0;
    assert!(clean, "the shutdown was not clean:\n  {}\n{report}", wrong.join("\n  "));
}

/// Each of these phases, hooks and gates was over before the next one started. Exact also under a paused clock, where
/// everything happens at once. A task, which runs from before the shutdown, has no place in this order: name its phase.
///
/// # Panics
/// If not, showing what happened in which order; or if a name is not in the report, or there twice. Then write
/// `phase/name`.
#[track_caller]
#[expect(clippy::panic, reason = "an assertion")]
pub fn assert_order<'a>(report: &Report, names: impl IntoIterator<Item = &'a str>) {
    let mut before: Option<(&str, u64)> = None;
    for name in names {
        let Steps { first: Some(first), last: Some(last) } = steps(report, name) else {
            let is_task = entries(report, name).any(|(_, entry)| entry.kind == WorkKind::Task);
            assert!(
                !is_task,
                "{name:?} is a task, which runs from before the shutdown: name its phase instead\n{report}"
            );
            panic!("{name:?} did not both start and end\n{}{report}", course(report));
        };
        if let Some((other, over)) = before {
            assert!(over < first, "{other:?} was not over when {name:?} started\n{}{report}", course(report));
        }
        before = Some((name, last));
    }
}

fn entries<'a>(report: &'a Report, name: &str) -> impl Iterator<Item = (&'a PhaseReport, &'a Entry)> {
    let all = report.phases.iter().flat_map(|phase| phase.entries.iter().map(move |entry| (phase, entry)));
    all.filter(move |(phase, entry)| {
        entry.name == name
            || name.strip_prefix(&*phase.name).and_then(|rest| rest.strip_prefix('/')) == Some(&*entry.name)
    })
}

#[track_caller]
#[expect(clippy::panic, reason = "an assertion")]
fn steps(report: &Report, name: &str) -> Steps {
    let phases = report.phases.iter().filter(|phase| phase.name == name).map(|phase| phase.steps);
    let found: Vec<Steps> = phases.chain(entries(report, name).map(|(_, entry)| entry.steps)).collect();
    match *found.as_slice() {
        [steps] => steps,
        [] => panic!("nothing is called {name:?}\n{report}"),
        _ => panic!("{name:?} is in the report {} times; write `phase/name`\n{report}", found.len()),
    }
}

/// Every start and end, in order.
fn course(report: &Report) -> String {
    let mut events = Vec::new();
    let mut add = |steps: Steps, what: String| {
        events.extend(steps.first.map(|step| (step, format!("{what} starts"))));
        events.extend(steps.last.map(|step| (step, format!("{what} is over"))));
    };
    for phase in &report.phases {
        add(phase.steps, format!("phase {:?}", phase.name));
        for entry in phase.entries.iter().filter(|entry| entry.kind != WorkKind::Gate) {
            add(entry.steps, format!("{} {:?}", entry.kind, entry.name));
        }
    }
    events.sort();
    let mut text = String::from("what happened:\n");
    for (_, event) in events {
        let _infallible = writeln!(text, "  {event}");
    }
    text
}
