//! The report as a picture.

mod canvas;
mod lane;
mod mark;
mod scale;

use std::collections::BTreeSet;

use self::{
    canvas::{Anchor, Canvas, fit, px, text_width},
    lane::{END, Lane, MARGIN},
    mark::Mark,
    scale::{LEFT, RIGHT, Scale},
};
use super::{EXIT_CLEAN, PhaseReport, PhaseStatus, Report, text::human};

const WIDTH: i64 = px(1120);

/// See [`Report::to_svg`].
pub(super) fn draw(report: &Report) -> String {
    let scale = Scale::new(report);
    let lanes: Vec<_> = report.phases.iter().map(|phase| Lane::new(report, phase)).collect();
    let mut canvas = Canvas::default();
    let mut y = header(&mut canvas, report);
    let markers = y;
    y += if report.forced_after.is_some() { px(44) } else { px(28) };
    let top = y + px(22);
    let heights = lanes.iter().map(Lane::height);
    let tops: Vec<_> = heights.scan(top, |top, height| Some(std::mem::replace(top, *top + height))).collect();
    let bottom = top + if lanes.is_empty() { px(30) } else { lanes.iter().map(Lane::height).sum() };

    axis(&mut canvas, &scale, y, bottom);
    moments(&mut canvas, &scale, report, (markers, y, bottom));
    edges(&mut canvas, &scale, report, &tops);
    for (lane, top) in lanes.iter().zip(&tops) {
        lane.draw(&mut canvas, &scale, *top);
    }
    if lanes.is_empty() {
        canvas.text("sc-dim", (MARGIN, bottom - px(11)), Anchor::Start, "there are no phases");
    }
    canvas.line("sc-rule", (MARGIN, bottom), (END, bottom));
    let height = legend(&mut canvas, report, &lanes, bottom + px(24));
    canvas.document((WIDTH, height), &title(report), &description(report))
}

fn title(report: &Report) -> String {
    let kind = match (&report.forced_by, report.is_clean()) {
        (Some(_), _) => "Forced",
        (None, true) => "Clean",
        (None, false) => "Unclean",
    };
    format!("{kind} shutdown in {}", human(report.took))
}

/// The picture for those who cannot see it.
fn description(report: &Report) -> String {
    let phase = |phase: &PhaseReport| {
        let left_over: Vec<_> = phase.survivors.iter().take(12).map(ToString::to_string).collect();
        let left_over =
            if left_over.is_empty() { String::new() } else { format!(" Left over: {}.", left_over.join("; ")) };
        format!(" {}: {} after {}.{left_over}", phase.name, phase.status, human(phase.took))
    };
    let phases: String = report.phases.iter().map(phase).collect();
    format!("{}, exit code {}. {}.{phases}", report.course(), report.exit_code(), problems(report))
}

fn problems(report: &Report) -> String {
    let left_over: usize = report.survivors().fold(0, |count, blocker| count.saturating_add(blocker.count));
    match (report.troubles(), left_over) {
        (troubles, 0) if troubles.is_empty() => "Everything ended well and in time".to_owned(),
        (troubles, 0) => troubles,
        (troubles, count) if troubles.is_empty() => format!("{count} left over at the deadline of a phase"),
        (troubles, count) => format!("{troubles}; {count} left over at the deadline of a phase"),
    }
}

/// Returns where it ends.
fn header(canvas: &mut Canvas, report: &Report) -> i64 {
    let clean = report.exit_code() == EXIT_CLEAN;
    let mark = if clean { Mark::Ok } else { Mark::Failed };
    mark.draw(canvas, (MARGIN + px(5), px(31)));
    canvas.text("sc-title", (MARGIN + px(18), px(38)), Anchor::Start, &title(report));
    let class = if clean { "sc-code sc-good-text" } else { "sc-code sc-bad-text" };
    canvas.text(class, (END, px(38)), Anchor::End, &format!("exit code {}", report.exit_code()));
    let room = END - MARGIN - px(18);
    let lines = [("sc-line sc-dim", report.course(), px(60)), ("sc-line", problems(report), px(78))];
    for (class, line, y) in lines {
        canvas.text(class, (MARGIN + px(18), y), Anchor::Start, &fit(&line, 12, room));
    }
    px(92)
}

fn axis(canvas: &mut Canvas, scale: &Scale, top: i64, bottom: i64) {
    for tick in scale.ticks() {
        let x = scale.x(tick);
        canvas.line("sc-grid", (x, top + px(18)), (x, bottom));
        canvas.text("sc-dim", (x, top + px(13)), Anchor::Middle, &human(tick));
    }
}

/// From the end of each phase to the start of those that waited for it.
fn edges(canvas: &mut Canvas, scale: &Scale, report: &Report, tops: &[i64]) {
    let with_tops = || report.phases.iter().zip(tops);
    for (phase, top) in with_tops() {
        for (before, before_top) in with_tops().filter(|(before, _)| phase.after.contains(&before.name)) {
            let (from, to) = (before.started_after.saturating_add(before.took), phase.started_after);
            if phase.status == PhaseStatus::Skipped || before.status == PhaseStatus::Skipped {
                continue;
            }
            let (from, to) = ((scale.x(from), Lane::bar(*before_top)), (scale.x(to), Lane::bar(*top)));
            canvas.polyline("sc-edge", &[from, (from.0, to.1), to]);
        }
    }
}

/// The global deadline and the moment of force, through all lanes.
fn moments(canvas: &mut Canvas, scale: &Scale, report: &Report, (top, axis, bottom): (i64, i64, i64)) {
    let deadline = format!("deadline {}", human(report.deadline));
    if scale.shows(report.deadline) {
        let x = scale.x(report.deadline);
        vertical(canvas, "sc-deadline", x, top + px(14), axis, bottom);
        moment(canvas, "sc-deadline-text sc-halo", x, top + px(10), &deadline);
    } else {
        canvas.text("sc-deadline-text", (RIGHT, top + px(10)), Anchor::End, &format!("{deadline} \u{2192}"));
    }
    if let Some(forced) = report.forced_after {
        let (x, y) = (scale.x(forced), top + px(30));
        vertical(canvas, "sc-force", x, y - px(10), axis, bottom);
        let reason = report.forced_by.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
        let text = fit(&format!("forced after {}{reason}", human(forced)), 12, (RIGHT - LEFT) / 2 - px(8));
        moment(canvas, "sc-force-text sc-halo", x, y, &text);
    }
}

/// Without the place where the marks of the axis are written.
fn vertical(canvas: &mut Canvas, class: &str, x: i64, top: i64, axis: i64, bottom: i64) {
    canvas.line(class, (x, top), (x, axis + px(2)));
    canvas.line(class, (x, axis + px(17)), (x, bottom));
}

/// A label on the side of the line where there is more room.
fn moment(canvas: &mut Canvas, class: &str, x: i64, y: i64, text: &str) {
    let (x, anchor) =
        if x > i64::midpoint(LEFT, RIGHT) { (x - px(5), Anchor::End) } else { (x + px(5), Anchor::Start) };
    canvas.text(class, (x, y), anchor, text);
}

enum Swatch {
    Mark(Mark),
    Bar(&'static [&'static str]),
    Line(&'static str),
}

/// What occurs, explained. Returns the height of the picture.
fn legend(canvas: &mut Canvas, report: &Report, lanes: &[Lane<'_>], top: i64) -> i64 {
    let ran = || report.phases.iter().filter(|phase| phase.status != PhaseStatus::Skipped);
    let bars = [
        (ran().next().is_some(), Swatch::Bar(&["sc-ghost"]), "budget: what the phase could have taken"),
        (ran().any(|phase| !phase.reserve.is_zero()), Swatch::Bar(&["sc-reserve"]), "reserve: kept for it"),
        (ran().any(|phase| !phase.hold.is_zero()), Swatch::Bar(&["sc-completed", "sc-hatch-hold"]), "hold"),
        (
            lanes.iter().any(Lane::is_late),
            Swatch::Bar(&["sc-timed-out", "sc-hatch-late"]),
            "after the phase's deadline",
        ),
        (lanes.iter().any(Lane::is_late), Swatch::Line("sc-limit"), "the phase's deadline"),
        (lanes.iter().any(Lane::has_guards), Swatch::Bar(&["sc-guard"]), "held up the phase"),
    ];
    let marks: BTreeSet<_> = lanes.iter().flat_map(Lane::marks).collect();
    let bars = bars.into_iter().filter(|(occurs, ..)| *occurs).map(|(_, swatch, text)| (swatch, text));
    let (mut x, mut y) = (MARGIN, top);
    for (swatch, text) in marks.into_iter().map(|mark| (Swatch::Mark(mark), mark.label())).chain(bars) {
        let width = px(24) + text_width(text, 11);
        if x + width > END {
            (x, y) = (MARGIN, y + px(18));
        }
        match swatch {
            Swatch::Mark(mark) => mark.draw(canvas, (x + px(9), y - px(4))),
            Swatch::Bar(classes) => {
                for class in classes {
                    canvas.rect(class, (x, y - px(9)), (px(18), px(10)));
                }
            }
            Swatch::Line(class) => canvas.line(class, (x + px(9), y - px(10)), (x + px(9), y + px(2))),
        }
        canvas.text("sc-dim", (x + px(24), y), Anchor::Start, text);
        x += width + px(18);
    }
    y + px(18)
}
