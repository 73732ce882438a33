//! The report for a terminal of 100 columns.

use std::{cmp::Reverse, fmt};

use super::{
    Entry, PhaseReport, PhaseStatus, Report,
    digest::{self, Span},
    text::{cell, char_width, clean, human, shorten, width, wrap},
};
use crate::record::Outcome;

const COLUMNS: usize = 100;
/// What is left for the result after the other columns.
const RESULT: usize = COLUMNS - 84;
/// How many things that were left over, and notes, are shown.
const LISTED: usize = 20;
/// How many lines an error or a note may take.
const LINES: usize = 6;

/// A report as a table of at most 100 columns, see [`Report::table`].
///
/// What matters most comes first: the verdict with the exit code, what was left over and for how long, then the phases
/// with their hooks, gates and tasks. Of more than 13 entries in a phase the worst and longest are shown. Long names
/// are shortened, and control characters replaced.
///
/// ```text
/// shutdown not clean, exit code 130
/// SIGTERM at 2026-11-23 04:26:15 UTC, forced by SIGINT after 28 s; took 31.3 s of 42 s
/// 1 failed, 1 leaked, 3 timed out
///
/// left over at the deadline of its phase                                                         for
///   order-drain                    gate orders: order 17 BTC-PERP                               35 s
///   order-drain                    hook settle fills                                          22.6 s
///   order-drain                    gate orders: 3 guards                                      22.6 s
///
/// phase                            kind                start        took      budget  result
/// announce                         phase                 0 s         5 s        36 s  completed
///   readiness off                  hook                  0 s       12 ms              ok
/// order-drain                      phase               5.4 s      22.7 s        30 s  forced
///   fsync journal                  blocking hook       5.4 s      25.9 s              leaked
///   orders                         gate                5.4 s      25.9 s              timed out
///   settle fills                   hook                5.4 s      22.7 s              late by 60 ms
///   notify desk                    hook                5.4 s       4.3 s              failed
///       failed: POST https://desk.example/hook: 503 Service Unavailable
/// persist-state                    phase              28.1 s       2.7 s         4 s  completed
///   save positions                 hook               28.1 s       2.7 s              ok
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a table is to be printed"]
pub struct ReportTable<'a> {
    report: &'a Report,
    colored: bool,
}

#[derive(Clone, Copy)]
enum Style {
    Dim,
    Bold,
    Good,
    Bad,
}

impl<'a> ReportTable<'a> {
    pub(super) const fn new(report: &'a Report) -> Self {
        Self { report, colored: false }
    }

    /// Whether to use the colours of ANSI terminals. Whether there is such a terminal is the caller's to know.
    pub const fn colored(mut self, colored: bool) -> Self {
        self.colored = colored;
        self
    }

    fn paint(self, text: &str, style: Style) -> String {
        let code = match style {
            Style::Dim => "2",
            Style::Bold => "1",
            Style::Good => "32",
            Style::Bad => "1;31",
        };
        if self.colored { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn head(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.report;
        let (verdict, style) = if report.is_clean() { ("clean", Style::Good) } else { ("not clean", Style::Bad) };
        writeln!(f, "{}", self.paint(&format!("shutdown {verdict}, exit code {}", report.exit_code()), style))?;
        self.paragraph(f, ("", Style::Dim), &report.course())?;
        match report.troubles() {
            troubles if troubles.is_empty() => Ok(()),
            troubles => writeln!(f, "{troubles}"),
        }
    }

    fn left_over(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.report.survivors().count();
        if count == 0 {
            return Ok(());
        }
        let title = format!("\n{}  {:>11}", cell("left over at the deadline of its phase", 85), "for");
        writeln!(f, "{}", self.paint(&title, Style::Dim))?;
        let mut oldest_first: Vec<_> = self.report.survivors().collect();
        oldest_first.sort_by_key(|blocker| Reverse(blocker.age));
        for blocker in oldest_first.into_iter().take(LISTED) {
            let name = match &blocker.gate {
                Some(gate) if *gate != blocker.name => format!("{gate}: {}", blocker.name),
                Some(_) if blocker.count != 1 => format!("{}: {} guards", blocker.name, blocker.count),
                _ => blocker.name.clone(),
            };
            let what = cell(&format!("{} {name}", blocker.kind), 52);
            writeln!(f, "  {}  {what}  {:>11}", cell(&blocker.phase, 29), human(blocker.age))?;
        }
        if count > LISTED {
            writeln!(f, "  and {} more", count - LISTED)?;
        }
        Ok(())
    }

    fn phase(self, f: &mut fmt::Formatter<'_>, phase: &PhaseReport) -> fmt::Result {
        let name = self.paint(&cell(&phase.name, 31), Style::Bold);
        let row = row(&name, "phase", [human(phase.started_after), human(phase.took), human(phase.budget)]);
        let style = if phase.status == PhaseStatus::Completed { Style::Good } else { Style::Bad };
        writeln!(f, "{row}  {}", self.paint(&phase.status.to_string(), style))?;
        let digest = self.report.digest(phase);
        for (entry, span) in digest.shown {
            self.entry(f, entry, span)?;
        }
        // Every kind of ending there is makes more than a line.
        let lines = digest.rest.iter().flat_map(|rest| wrap(rest, COLUMNS - 2));
        lines.into_iter().try_for_each(|line| writeln!(f, "  {line}"))
    }

    fn entry(self, f: &mut fmt::Formatter<'_>, entry: &Entry, span: Option<Span>) -> fmt::Result {
        let [start, took] =
            span.map_or(["-".to_owned(), "-".to_owned()], |span| [human(span.from), human(span.length())]);
        let row = row(&format!("  {}", cell(&entry.name, 29)), &entry.kind.to_string(), [start, took, String::new()]);
        let style = if entry.outcome.is_ok() { Style::Good } else { Style::Bad };
        let result = clean(&result(&entry.outcome));
        if width(&result) <= RESULT {
            return writeln!(f, "{row}  {}", self.paint(&result, style));
        }
        writeln!(f, "{row}  {}", self.paint(digest::state(&entry.outcome), style))?;
        self.paragraph(f, ("      ", style), &result)
    }

    /// The text in as many lines as it needs, up to [`LINES`], all as far to the right as the first.
    fn paragraph(self, f: &mut fmt::Formatter<'_>, (mark, style): (&str, Style), text: &str) -> fmt::Result {
        let indent = width(mark);
        let text = shorten(&clean(text), (COLUMNS - indent) * LINES, char_width);
        let mut mark = self.paint(mark, style);
        for line in wrap(&text, COLUMNS - indent) {
            writeln!(f, "{mark}{line}")?;
            mark = " ".repeat(indent);
        }
        Ok(())
    }

    fn notes(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What made the exit code is not to be cut off.
        let (unclean, other): (Vec<_>, Vec<_>) = self.report.notes.iter().partition(|note| note.unclean);
        if !self.report.notes.is_empty() {
            writeln!(f)?;
        }
        for note in unclean.into_iter().chain(other).take(LISTED) {
            let mark = if note.unclean { ("unclean: ", Style::Bad) } else { ("note: ", Style::Dim) };
            self.paragraph(f, mark, &format!("{} ({}, {})", note.text, note.phase, note.hook))?;
        }
        match self.report.notes.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => writeln!(f, "and {more} more notes"),
        }
    }
}

fn row(name: &str, kind: &str, [start, took, budget]: [String; 3]) -> String {
    format!("{name}  {kind:13} {start:>11} {took:>11} {budget:>11}")
}

impl fmt::Display for ReportTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        self.left_over(f)?;
        if !self.report.phases.is_empty() {
            let title = row(&cell("phase", 31), "kind", ["start", "took", "budget"].map(str::to_owned));
            writeln!(f, "\n{}", self.paint(&format!("{title}  result"), Style::Dim))?;
        }
        for phase in &self.report.phases {
            self.phase(f, phase)?;
        }
        self.notes(f)
    }
}

/// As `Display` of [`Outcome`], in the same units as the rest of the table.
fn result(outcome: &Outcome) -> String {
    match outcome {
        Outcome::TimedOut { late_by: Some(late_by) } => format!("late by {}", human(*late_by)),
        other => other.to_string(),
    }
}
