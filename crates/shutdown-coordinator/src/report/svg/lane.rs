//! One phase: what it could have taken, what it took, and what it waited for.

use std::{cmp::Reverse, time::Duration};

use super::{
    canvas::{Anchor, Canvas, fit, px, text_width},
    mark::Mark,
    scale::{LEFT, RIGHT, Scale},
};
use crate::{
    progress::Blocker,
    record::{Outcome, WorkKind},
    report::{
        Entry, Note, PhaseReport, PhaseStatus, Report,
        digest::{Digest, Span},
        text::human,
    },
};

/// How many guards of a gate, and notes of a hook, are shown one by one.
const SHOWN: usize = 6;
const FONT: i64 = 11;
/// Of the left edge, of the names of phases, of entries, and of what belongs to an entry.
pub(super) const MARGIN: i64 = px(24);
/// Of the right edge; what is right of the plot is for labels.
pub(super) const END: i64 = px(1096);
const PHASE_NAME: i64 = MARGIN + px(16);
const ENTRY_NAME: i64 = MARGIN + px(30);
const DETAIL: i64 = MARGIN + px(44);
const PHASE_HEIGHT: i64 = px(38);
const ROW_HEIGHT: i64 = px(17);
const PADDING: i64 = px(7);

pub(super) struct Lane<'a> {
    report: &'a Report,
    pub(super) phase: &'a PhaseReport,
    rows: Vec<Row<'a>>,
}

enum Row<'a> {
    Entry(&'a Entry, Option<Span>),
    Guard(&'a Blocker, Option<Span>),
    Note(&'a Note),
    More(String),
}

impl<'a> Lane<'a> {
    pub(super) fn new(report: &'a Report, phase: &'a PhaseReport) -> Self {
        let Digest { shown, rest } = report.digest(phase);
        let mut rows = Vec::new();
        for &(entry, span) in &shown {
            rows.push(Row::Entry(entry, span));
            rows.extend(report.notes_of(phase, entry).take(SHOWN).map(Row::Note));
            if entry.kind == WorkKind::Gate {
                guards(&mut rows, span, phase.survivors.iter().filter(|guard| is_guard_of(guard, entry)));
            }
        }
        rows.extend(rest.map(Row::More));
        let unseen = |blocker: &&Blocker| match blocker.kind {
            WorkKind::Gate => !shown.iter().any(|(entry, _)| is_guard_of(blocker, entry)),
            _ => !phase.entries.iter().any(|entry| entry.kind == blocker.kind && entry.name == blocker.name),
        };
        guards(&mut rows, None, phase.survivors.iter().filter(unseen));
        Self { report, phase, rows }
    }

    pub(super) fn height(&self) -> i64 {
        let rows = i64::try_from(self.rows.len()).unwrap_or(i64::MAX / ROW_HEIGHT);
        PHASE_HEIGHT + rows * ROW_HEIGHT + PADDING
    }

    /// Where the phase's own bar has its middle.
    pub(super) const fn bar(top: i64) -> i64 {
        top + px(17)
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = Mark> {
        let entries = self.rows.iter().filter_map(|row| match row {
            Row::Entry(entry, _) => Some(Mark::from(&entry.outcome)),
            Row::Guard(..) | Row::Note(_) | Row::More(_) => None,
        });
        entries.chain([Mark::from(self.phase.status)])
    }

    pub(super) fn has_guards(&self) -> bool {
        self.rows.iter().any(|row| matches!(row, Row::Guard(..)))
    }

    /// Whether something in it went on after the phase's deadline.
    pub(super) fn is_late(&self) -> bool {
        let limit = self.report.limit(self.phase);
        let own = self.phase.started_after.saturating_add(self.phase.took) > limit;
        own || self.rows.iter().any(|row| matches!(row, Row::Entry(_, Some(span)) if span.to > limit))
    }

    pub(super) fn draw(&self, canvas: &mut Canvas, scale: &Scale, top: i64) {
        let limit = self.report.limit(self.phase);
        canvas.line("sc-rule", (MARGIN, top), (END, top));
        self.draw_phase(canvas, scale, top, limit);
        let mut y = top + PHASE_HEIGHT;
        for row in &self.rows {
            match row {
                Row::Entry(entry, span) => self.draw_entry(canvas, scale, y, entry, *span),
                Row::Guard(guard, gate) => draw_guard(canvas, scale, y, guard, *gate, limit),
                Row::Note(note) => {
                    let class = if note.unclean { "sc-bad-text sc-halo" } else { "sc-dim sc-halo" };
                    let text = if note.unclean { format!("unclean: {}", note.text) } else { note.text.clone() };
                    canvas.text(class, (DETAIL, y + px(12)), Anchor::Start, &fit(&text, FONT, END - DETAIL));
                }
                Row::More(text) => {
                    let text = fit(text, FONT, END - ENTRY_NAME);
                    canvas.text("sc-dim sc-halo", (ENTRY_NAME, y + px(12)), Anchor::Start, &text);
                }
            }
            y += ROW_HEIGHT;
        }
        if scale.shows(limit) && self.phase.status != PhaseStatus::Skipped && self.is_late() {
            let x = scale.x(limit);
            canvas.line("sc-limit", (x, top + px(2)), (x, y + px(2)));
        }
    }

    fn draw_phase(&self, canvas: &mut Canvas, scale: &Scale, top: i64, limit: Duration) {
        let phase = self.phase;
        let (from, to) = (phase.started_after, phase.started_after.saturating_add(phase.took));
        canvas.begin(&format!(
            "{}: {} after {} of {}",
            phase.name,
            phase.status,
            human(phase.took),
            human(phase.budget)
        ));
        let mark = Mark::from(phase.status);
        mark.draw(canvas, (MARGIN + px(5), top + px(15)));
        let name = fit(&phase.name, 14, LEFT - PHASE_NAME - px(16));
        canvas.text("sc-phase-name", (PHASE_NAME, top + px(19)), Anchor::Start, &name);
        let skipped = phase.status == PhaseStatus::Skipped;
        let course =
            if skipped { "left out".to_owned() } else { format!("{} of {}", human(phase.took), human(phase.budget)) };
        let extras = [("reserve", phase.reserve), ("hold", phase.hold)].into_iter().filter(|(_, time)| !time.is_zero());
        let info: Vec<_> =
            [course].into_iter().chain(extras.map(|(word, time)| format!("{word} {}", human(time)))).collect();
        canvas.text("sc-dim", (PHASE_NAME, top + px(33)), Anchor::Start, &info.join(", "));
        let y = Lane::bar(top) - px(9);
        if !skipped {
            ghost(canvas, scale, (from, from.saturating_add(phase.budget)), (y, px(18)));
            if !phase.reserve.is_zero() {
                bar(canvas, scale, "sc-reserve", (from, from.saturating_add(phase.reserve)), (y + px(19), px(3)));
            }
            let y = y + px(2);
            bar(canvas, scale, mark.class(), (from, to), (y, px(14)));
            if !phase.hold.is_zero() {
                bar(canvas, scale, "sc-hatch-hold", (from, from.saturating_add(phase.hold).min(to)), (y, px(14)));
            }
            if to > limit {
                bar(canvas, scale, "sc-hatch-late", (limit.max(from), to), (y, px(14)));
            }
        }
        let text = match phase.status {
            PhaseStatus::Completed => human(phase.took),
            PhaseStatus::TimedOut => format!("timed out, {}", human(phase.took)),
            PhaseStatus::Forced => format!("forced, {}", human(phase.took)),
            PhaseStatus::Skipped => "skipped".to_owned(),
        };
        label(canvas, "sc-bold", (scale.x(from), scale.x(to)), top + px(21), &text);
        canvas.end();
    }

    fn draw_entry(&self, canvas: &mut Canvas, scale: &Scale, y: i64, entry: &Entry, span: Option<Span>) {
        canvas.begin(&format!("{} {}: {}, {}", entry.kind, entry.name, entry.outcome, human(entry.took)));
        let mark = Mark::from(&entry.outcome);
        mark.draw(canvas, (MARGIN + px(20), y + px(8)));
        let kind = entry.kind.to_string();
        let room = LEFT - ENTRY_NAME - px(18) - text_width(&kind, 10);
        canvas.text_and("sc-name", (ENTRY_NAME, y + px(12)), Anchor::Start, &fit(&entry.name, FONT, room), &kind);
        let class = if entry.outcome.is_ok() { "sc-dim" } else { "sc-name" };
        let Some(span) = span else {
            let start = scale.x(self.phase.started_after);
            label(canvas, class, (start, start), y + px(12), &words(entry, Duration::ZERO));
            canvas.end();
            return;
        };
        let limit = self.report.limit(self.phase);
        bar(canvas, scale, mark.class(), (span.from, span.to), (y + px(4), px(8)));
        if span.to > limit {
            bar(canvas, scale, "sc-hatch-late", (limit.max(span.from), span.to), (y + px(4), px(8)));
        }
        let mut end = scale.x(span.to);
        if span.open {
            end = arrow(canvas, mark.class(), end, y + px(8));
        }
        label(canvas, class, (scale.x(span.from), end), y + px(12), &words(entry, span.length()));
        canvas.end();
    }
}

fn is_guard_of(blocker: &Blocker, entry: &Entry) -> bool {
    entry.kind == WorkKind::Gate && blocker.kind == WorkKind::Gate && blocker.gate.as_ref() == Some(&entry.name)
}

/// The oldest come first.
fn guards<'a>(rows: &mut Vec<Row<'a>>, gate: Option<Span>, guards: impl Iterator<Item = &'a Blocker>) {
    let mut guards: Vec<_> = guards.collect();
    guards.sort_by_key(|guard| Reverse(guard.age));
    let hidden = if guards.len() > SHOWN + 1 { guards.split_off(SHOWN) } else { Vec::new() };
    rows.extend(guards.into_iter().map(|guard| Row::Guard(guard, gate)));
    if let Some(oldest) = hidden.first() {
        let count = hidden.iter().fold(0usize, |count, guard| count.saturating_add(guard.count));
        rows.push(Row::More(format!("and {count} more left over, for up to {}", human(oldest.age))));
    }
}

/// A guard was left over at the phase's deadline; how much longer it was held is known only if that was for ever.
fn draw_guard(canvas: &mut Canvas, scale: &Scale, y: i64, guard: &Blocker, gate: Option<Span>, limit: Duration) {
    canvas.begin(&guard.to_string());
    let nameless = guard.gate.as_ref() == Some(&guard.name);
    let name = match guard.count {
        1 if nameless => "1 guard".to_owned(),
        count if nameless => format!("{count} guards"),
        _ => guard.name.clone(),
    };
    let age = format!("held for {}", human(guard.age));
    let name = fit(&name, FONT, LEFT - DETAIL - px(24) - text_width(&age, 10));
    canvas.text_and("sc-name", (DETAIL, y + px(12)), Anchor::Start, &name, &age);
    let open = gate.is_some_and(|gate| gate.open);
    let to = gate.filter(|gate| gate.open).map_or(limit, |gate| gate.to.max(limit));
    let from = limit.saturating_sub(guard.age);
    bar(canvas, scale, "sc-guard", (from, to), (y + px(5), px(6)));
    if guard.age > limit {
        let y = y + px(8);
        canvas.polygon("sc-guard", &[(LEFT, y - px(5)), (LEFT - px(7), y), (LEFT, y + px(5))]);
    }
    if open {
        arrow(canvas, "sc-timed-out", scale.x(to), y + px(8));
    }
    canvas.end();
}

/// From one time to another, and wide enough to be seen.
fn bar(canvas: &mut Canvas, scale: &Scale, class: &str, (from, to): (Duration, Duration), (y, height): (i64, i64)) {
    let (from, to) = (scale.x(from), scale.x(to));
    let width = (to - from).max(px(1));
    canvas.rect(class, (from.min(RIGHT - width), y), (width, height));
}

/// A dashed frame, open to the right where it goes on beyond the axis.
fn ghost(canvas: &mut Canvas, scale: &Scale, (from, to): (Duration, Duration), (y, height): (i64, i64)) {
    if scale.shows(to) {
        bar(canvas, scale, "sc-ghost", (from, to), (y, height));
    } else {
        let from = scale.x(from);
        canvas.polyline("sc-ghost", &[(RIGHT, y), (from, y), (from, y + height), (RIGHT, y + height)]);
    }
}

/// Says that a bar goes on. Returns where its point is.
fn arrow(canvas: &mut Canvas, class: &str, x: i64, y: i64) -> i64 {
    canvas.polygon(class, &[(x, y - px(7)), (x + px(8), y), (x, y + px(7))]);
    x + px(8)
}

/// Right of the bar if there is room, else left of it, else where there is more room and shortened.
fn label(canvas: &mut Canvas, class: &str, (from, to): (i64, i64), y: i64, text: &str) {
    let gap = px(6);
    let (right, left) = (END - to - gap, from - gap - LEFT);
    let (x, anchor, room) = if text_width(text, FONT) <= right || right >= left {
        (to + gap, Anchor::Start, right)
    } else {
        (from - gap, Anchor::End, left)
    };
    canvas.text(&format!("{class} sc-halo"), (x, y), anchor, &fit(text, FONT, room));
}

fn words(entry: &Entry, length: Duration) -> String {
    let length = human(length);
    let is_gate = entry.kind == WorkKind::Gate;
    match &entry.outcome {
        Outcome::Ok => length,
        Outcome::Failed { error } => format!("failed after {length}: {error}"),
        Outcome::Panicked { message } => format!("panicked after {length}: {message}"),
        Outcome::TimedOut { late_by: Some(late_by) } => format!("{length}, late by {}", human(*late_by)),
        Outcome::TimedOut { late_by: None } if is_gate => format!("not empty after {length}"),
        Outcome::TimedOut { late_by: None } => format!("aborted after {length}"),
        Outcome::Leaked => format!("still running after {length}"),
        Outcome::Skipped => "never started".to_owned(),
        Outcome::Cancelled => format!("cancelled after {length}"),
    }
}
