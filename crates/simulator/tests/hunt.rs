//! What the simulator promises: it finds nothing in the real core, it meets every rare state, it repeats itself to the byte,
//! and it notices what is broken on purpose.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use simulator::{Break, Options, hunt, shrink, simulate};

const SEEDS: u64 = 2_000;

#[test]
fn two_thousand_seeds_lose_and_double_nothing_and_meet_every_rare_state() {
    let report = hunt(0, SEEDS, 2, &Options::default(), &|_| ());
    println!("{report}");
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(report.seeds, SEEDS);
    assert!(report.missing().is_empty(), "never met: {:?}", report.missing());
}

#[test]
fn the_same_seed_gives_the_same_trace_to_the_byte() {
    let options = Options { trace: true, ..Options::default() };
    for seed in 0..20 {
        let (one, other) = (simulate(seed, &options), simulate(seed, &options));
        assert!(!one.trace.is_empty());
        assert_eq!(one.trace, other.trace, "seed {seed}");
    }
}

#[test]
fn a_trace_changes_nothing() {
    for seed in 0..20 {
        let (with, without) =
            (simulate(seed, &Options { trace: true, ..Options::default() }), simulate(seed, &Options::default()));
        assert_eq!((with.events, with.states, with.faults), (without.events, without.states, without.faults));
    }
}

/// Each flaw in what surrounds the core is noticed.
#[track_caller]
fn notices(broken: Break, rules: &[&str]) -> u64 {
    let options = Options { broken: Some(broken), ..Options::default() };
    let failure = (0..SEEDS).find_map(|seed| simulate(seed, &options).violation.map(|violation| (seed, violation)));
    let (seed, violation) = failure.unwrap_or_else(|| panic!("{broken:?} was not noticed"));
    assert!(rules.contains(&violation.rule), "{broken:?}: {violation}");
    seed
}

#[test]
fn a_store_that_lies_about_its_sync_is_noticed() {
    notices(Break::LyingSync, &["C1", "C5", "C7", "C9", "no alarm", "write-ahead", "liveness"]);
}

#[test]
fn a_store_that_checks_no_epochs_is_noticed() {
    notices(Break::NoEpochCheck, &["C9", "C10", "write-ahead"]);
}

#[test]
fn effects_before_their_commit_are_noticed() {
    notices(Break::EffectsFirst, &["write-ahead"]);
}

#[test]
fn an_answer_before_its_commit_is_noticed() {
    notices(Break::AnswersFirst, &["write-ahead", "C5"]);
}

#[test]
fn a_request_that_is_sent_again_is_noticed_and_the_failure_is_made_small() {
    let seed = notices(Break::Resends, &["C7"]);
    let small = shrink(seed, &Options { broken: Some(Break::Resends), ..Options::default() }).unwrap();
    assert_eq!(small.violation.rule, "C7");
    assert!(!small.trace.is_empty());
    // A robot, what makes it trade, an answer that does not come, and what happens to be drawn on the way.
    assert!(small.happenings.len() <= 4, "{:#?}", small.happenings);
    assert!(small.faults <= 4, "{small:#?}");
}
