//! The timeline.

use std::collections::BTreeSet;

use roxmltree::{Document, Node};
use serde_json::{Value, json};
use shutdown_coordinator::Outcome;

use crate::{
    samples::{self, all, clean, crowded, forced, hostile, ok, parallel, phase, read, report, with},
    svg::{check, drawn, has_class, number, texts},
};

fn svg(value: &Value) -> String {
    read(value).to_svg()
}

/// Where this class is drawn.
fn of_class<'a>(picture: &'a Document<'_>, element: &str, class: &str) -> Vec<Node<'a, 'a>> {
    drawn(picture).into_iter().filter(|node| node.has_tag_name(element) && has_class(*node, class)).collect()
}

/// Where a time is, by the first and the last mark of the axis.
fn place(picture: &Document<'_>, seconds: f64) -> f64 {
    let marks = drawn(picture).into_iter().filter(|node| node.attribute("text-anchor") == Some("middle"));
    let marks: Vec<(f64, f64)> = marks
        .map(|mark| (number(mark, "x"), mark.text().unwrap().strip_suffix(" s").unwrap().parse().unwrap()))
        .collect();
    let (zero, last) = (marks[0], marks[marks.len() - 1]);
    assert!(zero.1 == 0.0 && marks.len() > 4, "{marks:?}");
    zero.0 + (last.0 - zero.0) * seconds / last.1
}

fn near(left: f64, right: f64) -> bool {
    (left - right).abs() < 0.05
}

/// Each is written beside the tests' other output, for whoever wants to look.
#[test]
fn every_picture_is_sound_and_the_same_each_time() {
    for (name, value) in all() {
        let svg = svg(&value);
        std::fs::write(format!("{}/{name}.svg", env!("CARGO_TARGET_TMPDIR")), &svg).unwrap();
        check(&svg);
        assert_eq!(svg, read(&value).to_svg(), "{name}");
    }
}

/// Those that the README shows.
#[test]
fn the_pictures_of_the_documentation_are_sound() {
    check(include_str!("../../docs/timeline-clean.svg"));
    check(include_str!("../../docs/timeline-troubled.svg"));
}

#[test]
fn every_phase_and_every_entry_that_went_wrong_is_named_once() {
    for (name, value) in [("clean", clean()), ("forced", forced()), ("parallel", parallel()), ("crowded", crowded(11))]
    {
        let (report, svg) = (read(&value), svg(&value));
        let picture = Document::parse(&svg).unwrap();
        let texts = texts(&picture);
        let count = |wanted: &str| texts.iter().filter(|text| **text == wanted).count();
        for phase in &report.phases {
            assert_eq!(count(&phase.name), 1, "{name}: {}", phase.name);
            for entry in phase.entries.iter().filter(|entry| !entry.outcome.is_ok()) {
                assert_eq!(count(&entry.name), 1, "{name}: {}", entry.name);
            }
        }
    }
}

#[test]
fn what_went_wrong_says_so_in_words_and_by_its_shape() {
    let svg = svg(&forced());
    let picture = Document::parse(&svg).unwrap();
    let group = |name: &str| {
        let mut groups = drawn(&picture).into_iter().filter(|node| node.has_tag_name("g"));
        groups
            .find(|group| group.children().any(|child| child.has_tag_name("text") && child.text() == Some(name)))
            .unwrap()
    };
    let label = |name| group(name).children().rfind(|child| child.has_tag_name("text")).unwrap().text().unwrap();
    assert_eq!(label("orders"), "not empty after 26 s");
    assert_eq!(label("settle fills"), "22.7 s, late by 60 ms");
    assert_eq!(label("venue poller"), "aborted after 22.7 s");
    assert_eq!(label("fsync journal"), "still running after 26 s");
    assert_eq!(
        label("notify desk"),
        "failed after 4.3 s: POST https://desk.example/hook: 503 <Service Unavailable> & no retry left"
    );
    assert_eq!(label("upload snapshot"), "panicked after 850 ms: index out of bounds");
    assert_eq!(label("say goodbye"), "never started");
    assert_eq!(label("order-drain"), "forced, 22.8 s");

    // The first shape of a group, by its form and number of corners.
    let shape = |name| {
        let shape = group(name).children().filter(Node::is_element).nth(1).unwrap();
        let corners = shape.attribute("points").map_or(0, |points| points.split(' ').count());
        (shape.tag_name().name(), corners, has_class(shape, "sc-hollow"), has_class(shape, "sc-leaked"))
    };
    let names = [
        "market data",
        "orders",
        "notify desk",
        "upload snapshot",
        "fsync journal",
        "say goodbye",
        "order-drain",
        "announce",
    ];
    assert_eq!(names.map(shape).into_iter().collect::<BTreeSet<_>>().len(), names.len());
}

#[test]
fn time_is_drawn_to_scale() {
    let svg = svg(&forced());
    let picture = Document::parse(&svg).unwrap();
    for (class, seconds) in [("sc-deadline", 42.0), ("sc-force", 28.0), ("sc-limit", 28.0)] {
        for line in of_class(&picture, "line", class) {
            let in_legend = number(line, "x1") < place(&picture, 20.0);
            assert!(in_legend || near(number(line, "x1"), place(&picture, seconds)), "{class}: {line:?}");
            assert!(near(number(line, "x1"), number(line, "x2")), "{class}: {line:?}");
        }
    }
    let bars = |class| -> Vec<_> {
        let bars = of_class(&picture, "rect", class).into_iter();
        bars.map(|bar| (number(bar, "x"), number(bar, "x") + number(bar, "width"))).collect()
    };
    for (class, from, to) in [
        ("sc-forced", 5.4, 28.15),
        ("sc-ghost", 5.4, 36.0),
        ("sc-reserve", 28.15, 32.15),
        ("sc-hatch-hold", 0.0, 5.0),
        ("sc-hatch-late", 28.0, 28.06),
        ("sc-hatch-late", 28.0, 28.15),
        ("sc-leaked", 5.4, 31.35),
        ("sc-guard", 8.5, 31.35),
        ("sc-ok", 5.4, 8.9),
    ] {
        let wanted = (place(&picture, from), place(&picture, to));
        let found = bars(class);
        // Nothing is thinner than a pixel.
        let end = wanted.1.max(wanted.0 + 1.0);
        let hit = |(from, to): &(f64, f64)| near(*from, wanted.0) && near(*to, end);
        assert!(found.iter().any(hit), "{class}: {found:?}, not {wanted:?}");
    }
}

#[test]
fn a_deadline_far_away_is_named_and_not_drawn() {
    for (value, budgets) in [(samples::short(), 3), (samples::empty(), 0)] {
        let svg = svg(&value);
        let picture = Document::parse(&svg).unwrap();
        assert!(of_class(&picture, "line", "sc-deadline").is_empty());
        assert!(texts(&picture).contains(&"deadline 30 s \u{2192}"));
        // Budgets that go on beyond the axis have no end.
        assert_eq!(of_class(&picture, "polyline", "sc-ghost").len(), budgets);
    }
}

#[test]
fn an_overrun_of_the_deadline_is_drawn_beyond_its_line() {
    let late = with(ok("hook", "slow", 0, 6_000), &json!({ "state": "timed_out", "late_by_ms": 2_000 }));
    let svg = svg(&report(5_000, 6_000, vec![phase("only", &[], "timed_out", [0, 6_000, 4_000], vec![late])]));
    check(&svg);
    let picture = Document::parse(&svg).unwrap();
    let deadline = number(of_class(&picture, "line", "sc-deadline")[0], "x1");
    assert!(near(deadline, place(&picture, 5.0)));
    let bar = of_class(&picture, "rect", "sc-timed-out")[1];
    assert!(number(bar, "x") + number(bar, "width") > deadline);
}

#[test]
fn parallel_phases_begin_side_by_side() {
    let svg = svg(&parallel());
    let picture = Document::parse(&svg).unwrap();
    let start = place(&picture, 0.3);
    let bars = of_class(&picture, "rect", "sc-completed").into_iter();
    assert_eq!(bars.filter(|bar| number(*bar, "height") > 10.0 && near(number(*bar, "x"), start)).count(), 3);
}

#[test]
fn who_held_up_a_phase_is_named_with_count_and_age() {
    let svg = svg(&forced());
    let picture = Document::parse(&svg).unwrap();
    let whole: Vec<String> = drawn(&picture)
        .into_iter()
        .filter(|node| node.has_tag_name("text"))
        .map(|node| {
            node.descendants().filter(Node::is_text).filter_map(|text| text.text()).collect::<Vec<_>>().join(" ")
        })
        .collect();
    for wanted in ["order 17 BTC-PERP held for 31 s", "3 guards held for 22.6 s", "order 23 ETH-PERP held for 19.5 s"] {
        assert_eq!(whole.iter().filter(|text| **text == wanted).count(), 1, "{wanted}: {whole:?}");
    }
    let rows = ["order 17 ", "3 guards ", "order 23 "].map(|name| whole.iter().position(|text| text.starts_with(name)));
    assert!(rows.is_sorted(), "the oldest come first: {whole:?}");

    let crowded = self::svg(&crowded(3));
    let picture = Document::parse(&crowded).unwrap();
    assert!(texts(&picture).contains(&"and 294 more left over, for up to 1 min"));
}

#[test]
fn of_many_entries_the_worst_and_longest_are_shown_and_the_others_counted() {
    for (late, rest) in [(0, "all ok"), (3, "all ok"), (6, "all ok")] {
        let svg = svg(&crowded(late));
        let picture = Document::parse(&svg).unwrap();
        let texts = texts(&picture);
        assert_eq!(texts.iter().filter(|text| text.starts_with("connection")).count(), 11, "{texts:?}");
        let more: Vec<_> = texts.iter().filter(|text| text.starts_with("and 489 more, ")).collect();
        assert!(more.len() == 1 && more[0].contains(rest), "{more:?}");
    }
    let all_late = (0..100).map(|number| {
        with(ok("task", &format!("t{number}"), 0, 900 + number), &json!({ "state": "leaked", "ended_after_ms": null }))
    });
    let fine = (0..50).map(|number| ok("task", &format!("f{number}"), 0, 1));
    let svg =
        svg(&report(2_000, 1_000, vec![phase("p", &[], "timed_out", [0, 1_000, 900], all_late.chain(fine).collect())]));
    let picture = Document::parse(&svg).unwrap();
    assert!(texts(&picture).contains(&"and 138 more, 88 leaked, 50 ok, longest 1 s"), "{:?}", texts(&picture));
}

#[test]
fn a_short_failure_and_a_short_note_are_shown_among_many_long_entries() {
    let long = (0..40).map(|number| ok("hook", &format!("long {number}"), 0, 900));
    let failed = with(ok("task", "stumbled", 0, 1), &json!({ "state": "failed", "error": "no" }));
    let uneasy = ok("hook", "uneasy", 0, 1);
    let entries = long.chain([failed, ok("hook", "talkative", 0, 1), uneasy]).collect();
    let note = |hook, unclean| json!({ "phase": "p", "hook": hook, "text": format!("of {hook}"), "unclean": unclean });
    let notes = json!({ "notes": [note("talkative", false), note("uneasy", true)] });
    let value = with(report(2_000, 1_000, vec![phase("p", &[], "completed", [0, 1_000, 1_500], entries)]), &notes);
    let svg = svg(&value);
    let picture = Document::parse(&svg).unwrap();
    let texts = texts(&picture);
    for text in
        ["stumbled", "talkative", "of talkative", "uneasy", "unclean: of uneasy", "and 31 more, all ok, longest 900 ms"]
    {
        assert!(texts.contains(&text), "{text}: {texts:?}");
    }
}

#[test]
fn hostile_names_are_text() {
    let svg = svg(&hostile());
    check(&svg);
    let picture = Document::parse(&svg).unwrap();
    assert!(drawn(&picture).iter().all(|node| !node.has_tag_name("script")));
    // Shortened where one reads, whole where a pointer rests.
    let titles: Vec<_> =
        drawn(&picture).into_iter().filter(|node| node.has_tag_name("title")).filter_map(|node| node.text()).collect();
    for name in [
        samples::MARKUP,
        &"W".repeat(200),
        &"注文の取り消しと約定の確認".repeat(6),
        "a\u{fffd}[2J\u{fffd}b c\u{fffd}d\u{fffd}",
    ] {
        assert!(titles.iter().any(|title| title.starts_with(&format!("{name}: completed"))), "{name}: {titles:?}");
    }
    assert!(texts(&picture).iter().all(|text| text.chars().count() < 170), "{:?}", texts(&picture));
}

#[test]
fn the_legend_explains_what_occurs_and_nothing_else() {
    let legend = |value: &Value| {
        let svg = svg(value);
        let picture = Document::parse(&svg).unwrap();
        let known = [
            "phase completed",
            "ok",
            "timed out",
            "failed",
            "panicked",
            "leaked",
            "forced",
            "skipped",
            "cancelled",
            "budget: what the phase could have taken",
            "reserve: kept for it",
            "hold",
            "after the phase's deadline",
            "the phase's deadline",
            "held up the phase",
        ];
        let frame = number(picture.root_element(), "height");
        let low =
            drawn(&picture).into_iter().filter(|node| node.has_tag_name("text") && number(*node, "y") > frame - 40.0);
        low.filter_map(|node| node.text()).filter(|text| known.contains(text)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(legend(&samples::empty()).is_empty());
    assert_eq!(
        legend(&parallel()),
        ["phase completed", "ok", "budget: what the phase could have taken", "reserve: kept for it"]
    );
    let all = legend(&forced());
    assert_eq!(all.len(), 14, "everything but cancelled: {all:?}");
}

#[test]
fn the_description_tells_the_story() {
    let svg = svg(&forced());
    let picture = Document::parse(&svg).unwrap();
    let root = picture.root_element();
    let part = |name| root.children().find(|node| node.has_tag_name(name)).unwrap().text().unwrap().to_owned();
    assert_eq!(part("title"), "Forced shutdown in 31.4 s");
    let story = part("desc");
    for words in [
        "exit code 130",
        "forced by SIGINT after 28 s",
        "order-drain: forced after 22.8 s",
        "order 17 BTC-PERP, for 31.0s",
    ] {
        assert!(story.contains(words), "{words}: {story}");
    }
    assert_eq!(root.attribute("role"), Some("img"));
    assert!(read(&forced()).phases[2].entries.iter().any(|entry| entry.outcome == Outcome::Leaked));
}
