//! Holds `docs/report.md` and the JSON together: neither can change without the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;

use super::{Entry, Note, PhaseReport, PhaseStatus, Report, Version};
use crate::{
    progress::Blocker,
    reason::Reason,
    record::{Outcome, WorkKind},
};

const DOCUMENTATION: &str = include_str!("../../docs/report.md");

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// All of them. A new one does not compile until it has its place in `next`, and then it is in here.
fn all<T: Clone>(first: T, next: impl Fn(&T) -> Option<T>) -> Vec<T> {
    std::iter::successors(Some(first), |item| next(item)).collect()
}

fn reasons() -> Vec<Reason> {
    all(Reason::Signal(15), |reason| match reason {
        Reason::Signal(_) => Some(Reason::Manual("by hand".to_owned())),
        Reason::Manual(_) => Some(Reason::Upgrade),
        Reason::Upgrade => Some(Reason::Error("disk".to_owned())),
        Reason::Error(_) => Some(Reason::Rehearsal),
        Reason::Rehearsal => None,
    })
}

fn statuses() -> Vec<PhaseStatus> {
    all(PhaseStatus::Completed, |status| match status {
        PhaseStatus::Completed => Some(PhaseStatus::TimedOut),
        PhaseStatus::TimedOut => Some(PhaseStatus::Forced),
        PhaseStatus::Forced => Some(PhaseStatus::Skipped),
        PhaseStatus::Skipped => None,
    })
}

fn kinds() -> Vec<WorkKind> {
    all(WorkKind::Hook, |kind| match kind {
        WorkKind::Hook => Some(WorkKind::BlockingHook),
        WorkKind::BlockingHook => Some(WorkKind::Gate),
        WorkKind::Gate => Some(WorkKind::Task),
        WorkKind::Task => Some(WorkKind::Scope),
        WorkKind::Scope => None,
    })
}

fn outcomes() -> Vec<Outcome> {
    all(Outcome::Ok, |outcome| match outcome {
        Outcome::Ok => Some(Outcome::Failed { error: "no".to_owned() }),
        Outcome::Failed { .. } => Some(Outcome::Panicked { message: "oops".to_owned() }),
        Outcome::Panicked { .. } => Some(Outcome::TimedOut { late_by: Some(ms(7)) }),
        Outcome::TimedOut { late_by: Some(_) } => Some(Outcome::TimedOut { late_by: None }),
        Outcome::TimedOut { late_by: None } => Some(Outcome::Leaked),
        Outcome::Leaked => Some(Outcome::Skipped),
        Outcome::Skipped => Some(Outcome::Cancelled),
        Outcome::Cancelled => None,
    })
}

/// In every phase every kind of entry in every state, and every kind of survivor.
fn report(reason: Reason, forced_by: Option<Reason>) -> Report {
    let entry = |kind, outcome: &Outcome| Entry {
        kind,
        name: "entry".to_owned(),
        outcome: outcome.clone(),
        started_after: (*outcome != Outcome::Skipped).then_some(ms(10)),
        ended_after: matches!(outcome, Outcome::Ok).then_some(ms(40)),
        took: ms(30),
    };
    let survivor = |kind| Blocker {
        phase: "phase".to_owned(),
        kind,
        gate: (kind == WorkKind::Gate).then(|| "gate".to_owned()),
        name: "survivor".to_owned(),
        count: 2,
        age: ms(20),
    };
    let entries = || {
        kinds().into_iter().flat_map(|kind| outcomes().iter().map(|outcome| entry(kind, outcome)).collect::<Vec<_>>())
    };
    let phase = |status| PhaseReport {
        name: format!("{status}"),
        after: vec!["other".to_owned()],
        status,
        started_after: ms(1),
        took: ms(50),
        budget: ms(60),
        reserve: ms(5),
        hold: ms(2),
        entries: entries().collect(),
        survivors: kinds().into_iter().map(survivor).collect(),
    };
    let note = |unclean| Note { phase: "phase".to_owned(), hook: "hook".to_owned(), text: "text".to_owned(), unclean };
    Report {
        version: Version,
        reason,
        forced_after: forced_by.as_ref().map(|_| ms(25)),
        forced_by,
        started_unix_ms: 1_798_000_000_000,
        deadline: ms(100),
        took: ms(51),
        phases: statuses().into_iter().map(phase).collect(),
        notes: vec![note(false), note(true)],
    }
}

/// Reports that have everything among them.
fn reports() -> Vec<Report> {
    let forced = reasons().into_iter().map(Some).chain([None]);
    forced.flat_map(|forced_by| reasons().into_iter().map(move |reason| report(reason, forced_by.clone()))).collect()
}

/// What occurs at each path: the JSON types, and the strings.
#[derive(Default)]
struct Found {
    types: BTreeMap<String, BTreeSet<&'static str>>,
    strings: BTreeMap<String, BTreeSet<String>>,
}

impl Found {
    fn collect(&mut self, path: &str, value: &Value) {
        let name = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_u64() => "integer",
            Value::Number(_) => "number",
            Value::String(text) => {
                self.strings.entry(path.to_owned()).or_default().insert(text.clone());
                "string"
            }
            Value::Array(items) => {
                for item in items {
                    self.collect(&format!("{path}[]"), item);
                }
                "array"
            }
            Value::Object(fields) => {
                let dot = if path.is_empty() { "" } else { "." };
                fields.iter().for_each(|(key, item)| self.collect(&format!("{path}{dot}{key}"), item));
                "object"
            }
        };
        self.types.entry(path.to_owned()).or_default().insert(name);
    }

    fn in_reports() -> Self {
        let mut found = Self::default();
        for report in reports() {
            found.collect("", &serde_json::from_str(&report.to_json()).unwrap());
        }
        // The objects in an array are described by their fields.
        found.types.retain(|path, types| !(path.is_empty() || path.ends_with("[]") && types.contains("object")));
        found
    }
}

/// The rows of the documentation's tables, each under the path that stands before its table, if one does.
fn documented() -> Vec<(Option<&'static str>, Vec<&'static str>)> {
    let mut owner = None;
    let mut rows = Vec::new();
    for line in DOCUMENTATION.lines() {
        if let Some(path) = line.strip_prefix('`').and_then(|line| line.strip_suffix("`:")) {
            owner = Some(path);
        }
        if let Some(row) = line.strip_prefix("| `").and_then(|line| line.strip_suffix(" |")) {
            rows.push((owner, row.split(" | ").map(|cell| cell.trim_end_matches('`')).collect()));
        }
    }
    rows
}

#[test]
fn every_field_is_documented_with_its_types_and_every_documented_field_exists() {
    let rows = documented();
    let fields = rows.iter().filter(|(owner, _)| owner.is_none());
    let described: BTreeMap<_, BTreeSet<_>> =
        fields.map(|(_, row)| (row[0].to_owned(), row[1].split(" or ").collect())).collect();
    assert_eq!(Found::in_reports().types, described);
}

#[test]
fn every_state_is_documented_and_every_documented_state_exists() {
    let mut described = BTreeMap::<_, BTreeSet<_>>::new();
    for (owner, row) in documented() {
        if let Some(path) = owner {
            described.entry(path.to_owned()).or_default().insert(row[0].to_owned());
        }
    }
    assert_eq!(described.len(), 4, "the enumerations are four");
    let mut strings = Found::in_reports().strings;
    for (same, path) in [("forced_by.kind", "reason.kind"), ("phases[].survivors[].kind", "phases[].entries[].kind")] {
        assert_eq!(strings.get(same), strings.get(path));
    }
    strings.retain(|path, _| described.contains_key(path));
    assert_eq!(strings, described);
}

#[test]
fn what_is_written_can_be_read_back() {
    for report in reports() {
        let json = report.to_json();
        let back: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(back, report);
        assert_eq!(back.to_json(), json);
    }
}
