//! What a person looks at first, for the table and the picture alike.

use std::{cmp::Reverse, time::Duration};

use super::{
    Entry, Note, PhaseReport, Report,
    text::{human, utc},
};
use crate::record::{Outcome, WorkKind};

/// How many entries of a phase are shown one by one.
const SHOWN: usize = 12;

/// From when to when a phase had to do with one of its entries, counted from the trigger.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) from: Duration,
    pub(super) to: Duration,
    /// Not over when the report was made.
    pub(super) open: bool,
}

impl Span {
    pub(super) fn length(self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

/// The entries worth showing, and a word about the others.
pub(super) struct Digest<'a> {
    pub(super) shown: Vec<(&'a Entry, Option<Span>)>,
    pub(super) rest: Option<String>,
}

impl Report {
    /// `None` for what never started. A task that ran before counts from the start of its phase: it had no reason to
    /// end earlier.
    pub(super) fn span(&self, phase: &PhaseReport, entry: &Entry) -> Option<Span> {
        let from = entry.started_after?.max(phase.started_after);
        let to = entry.ended_after.unwrap_or(self.took).max(from);
        Some(Span { from, to, open: entry.ended_after.is_none() })
    }

    /// When the phase had to be over in the end, counted from the trigger: force leaves it only its reserve.
    pub(super) fn limit(&self, phase: &PhaseReport) -> Duration {
        let planned = phase.started_after.saturating_add(phase.budget);
        self.forced_after
            .map_or(planned, |forced| planned.min(forced.max(phase.started_after).saturating_add(phase.reserve)))
    }

    pub(super) fn notes_of<'a>(&'a self, phase: &'a PhaseReport, entry: &'a Entry) -> impl Iterator<Item = &'a Note> {
        // Only hooks have notes, and there may be very many tasks.
        let notes = match entry.kind {
            WorkKind::Hook | WorkKind::BlockingHook => self.notes.as_slice(),
            WorkKind::Gate | WorkKind::Task | WorkKind::Scope => &[],
        };
        notes.iter().filter(move |note| note.phase == phase.name && note.hook == entry.name)
    }

    /// The entries that went wrong come before those that have something to say, those before the long ones; what is
    /// chosen is shown in the order of its start.
    pub(super) fn digest<'a>(&'a self, phase: &'a PhaseReport) -> Digest<'a> {
        let mut all: Vec<_> = phase.entries.iter().map(|entry| (entry, self.span(phase, entry))).collect();
        let length = |span: &Option<Span>| span.map(Span::length).unwrap_or_default();
        let mut rest = None;
        if all.len() > SHOWN + 1 {
            all.sort_by_cached_key(|(entry, span)| {
                let wrong = !entry.outcome.is_ok() || self.notes_of(phase, entry).any(|note| note.unclean);
                let silent = self.notes_of(phase, entry).next().is_none();
                (!wrong, silent, Reverse(length(span)))
            });
            rest = Some(all.split_off(SHOWN));
        }
        all.sort_by_key(|(_, span)| (span.is_none(), span.map(|span| span.from), Reverse(length(span))));
        let rest = rest.map(|rest| {
            let longest = rest.iter().map(|(_, span)| length(span)).max().unwrap_or_default();
            let entries: Vec<_> = rest.into_iter().map(|(entry, _)| entry).collect();
            format!("and {} more, {}, longest {}", entries.len(), tally(&entries), human(longest))
        });
        Digest { shown: all, rest }
    }

    /// Why and when it began and was forced, and how long it took.
    pub(super) fn course(&self) -> String {
        let forced = self.forced_by.as_ref().map_or_else(String::new, |reason| {
            let after = self.forced_after.map(|after| format!(" after {}", human(after))).unwrap_or_default();
            format!(", forced by {reason}{after}")
        });
        let start = utc(self.started_unix_ms);
        format!("{} at {start}{forced}; took {} of {}", self.reason, human(self.took), human(self.deadline))
    }

    /// What went wrong, counted: `2 timed out, 1 leaked`; empty when nothing did.
    pub(super) fn troubles(&self) -> String {
        let wrong = self.phases.iter().flat_map(|phase| &phase.entries).filter(|entry| !entry.outcome.is_ok());
        let mut troubles = counts(&wrong.collect::<Vec<_>>());
        match self.notes.iter().filter(|note| note.unclean).count() {
            0 => {}
            count => troubles.push(format!("{count} called unclean")),
        }
        troubles.join(", ")
    }
}

/// One word for how it ended, without its details.
pub(super) const fn state(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Failed { .. } => "failed",
        Outcome::Panicked { .. } => "panicked",
        Outcome::TimedOut { .. } => "timed out",
        Outcome::Leaked => "leaked",
        Outcome::Skipped => "skipped",
        Outcome::Cancelled => "cancelled",
    }
}

fn tally(entries: &[&Entry]) -> String {
    match counts(entries).as_slice() {
        [_] => format!("all {}", entries.first().map_or("", |entry| state(&entry.outcome))),
        several => several.join(", "),
    }
}

fn counts(entries: &[&Entry]) -> Vec<String> {
    let states = ["panicked", "failed", "leaked", "timed out", "skipped", "cancelled", "ok"];
    let count = |name| entries.iter().filter(|entry| state(&entry.outcome) == name).count();
    states
        .map(|name| (name, count(name)))
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{count} {name}"))
        .collect()
}
