//! Every promise in `docs/properties.md` has a test that names its number.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{collections::BTreeSet, fs, path::Path};

/// The numbers at the beginning of lines: `12. A signal ...`.
fn promised() -> BTreeSet<u32> {
    let text = include_str!("../docs/properties.md");
    text.lines().filter_map(|line| line.split_once(". ")?.0.parse().ok()).collect()
}

/// The numbers in doc comments like `/// Properties 16 and 18: ...`.
fn named(line: &str, numbers: &mut BTreeSet<u32>) {
    for word in ["Property ", "Properties "] {
        for (_, rest) in line.match_indices(word).map(|(at, _)| line.split_at(at + word.len())) {
            let words = rest.split([' ', ',']).filter(|word| !word.is_empty() && *word != "and");
            numbers.extend(words.map_while(|word| word.trim_end_matches([':', '.', ';']).parse::<u32>().ok()));
        }
    }
}

fn read(directory: &Path, numbers: &mut BTreeSet<u32>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, numbers);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            for line in text.lines().filter(|line| line.trim_start().starts_with("//")) {
                named(line, numbers);
            }
        }
    }
}

#[test]
fn every_promise_has_a_test_that_names_it() {
    let promised = promised();
    assert_eq!(promised.iter().copied().collect::<Vec<_>>(), (1..=50).collect::<Vec<_>>());
    let mut tested = BTreeSet::new();
    read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")), &mut tested);
    let untested: Vec<_> = promised.difference(&tested).collect();
    assert!(untested.is_empty(), "no test names properties {untested:?}");
    let unknown: Vec<_> = tested.difference(&promised).collect();
    assert!(unknown.is_empty(), "tests name properties that docs/properties.md does not have: {unknown:?}");
}
