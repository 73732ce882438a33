//! The rules of this repository that no compiler knows. Each violation says file, line, rule and remedy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fmt;
use std::path::{Path, PathBuf};

/// Longer files usually hold a second thing.
const FILE_LINES: usize = 600;
/// Longer functions usually do a second thing.
const FUNCTION_LINES: usize = 70;

/// Cargo starts the tests of a package in its root.
const ROOT: &str = ".";

/// A file or function that may be longer, and why.
const LONG: &[(&str, &str)] = &[
    ("tests/blackbox/input.rs: bad_input_is_refused_with_a_4xx_problem_and_changes_nothing", "one table"),
    ("crates/shutdown-coordinator/tests/report/samples.rs: forced", "one report, written out"),
    ("crates/deploy/src/commands.rs: look", "one arm a command"),
];

/// Tests that may sleep, and why.
const SLEEPERS: &[(&str, &str)] = &[
    (
        "crates/shutdown-coordinator/tests/properties.rs",
        "hooks that take their time, real time in one test: that is the test",
    ),
    ("crates/shutdown-coordinator/tests/scorecard/blocking.rs", "a contestant whose job says nothing when it starts"),
    ("crates/shutdown-coordinator/tests/scorecard/websocket.rs", "a client that takes its time to answer a Close"),
    ("crates/shutdown-coordinator/tests/serve/handover.rs", "a client that thinks between two requests"),
    ("tests/blackbox/copy.rs", "kills a process at a time of its own choosing"),
    ("tests/support/postgres.rs", "looks at a process again, outside of any runtime"),
    ("tests/instances/world.rs", "polls for what threads of other runtimes show, with a deadline"),
    (
        "tests/manifests/common.py",
        "polls for what a proxy shows, with a deadline; clients that pause between two requests",
    ),
    ("tests/manifests/proxies", "the time that systemd takes to start a server again"),
    ("tests/manifests/rolling", "clients that pause before they connect again"),
    ("tests/store_contract/instances.rs", "waits for what the store says is left of a lease, by the store's own clock"),
    ("tests/upgrade/clients.rs", "clients that pause between two requests"),
    ("tests/upgrade/moves.rs", "changes its mind at times of its own choosing"),
    ("tests/store_contract/suite.rs", "waits for what the store says is left of a lease, by the store's own clock"),
];

const SLEEPS: &str = "tests do not sleep";

/// What must not be written, where, and what to do instead.
struct Rule {
    name: &'static str,
    applies: fn(&str) -> bool,
    words: &'static [&'static str],
    remedy: &'static str,
    /// Whether code in `#[cfg(test)]` is spared.
    spares_tests: bool,
}

const RULES: &[Rule] = &[
    Rule {
        name: "the core is pure",
        applies: |path| path.starts_with("crates/trading/src/"),
        words: &[
            "tokio",
            "sqlx",
            "axum",
            "redis",
            "HashMap",
            "HashSet",
            "SystemTime",
            "Instant::now",
            "rand::",
            "std::net",
            "std::fs",
        ],
        remedy: "time, ids and chance come in as input, effects go out as data; use BTreeMap where order could show",
        spares_tests: true,
    },
    Rule {
        name: "the coordinator knows nothing of ours",
        applies: |path| path.starts_with("crates/shutdown-coordinator/"),
        words: &["trading::", "venue::", "hotgo::", "sqlx"],
        remedy: "pass a closure or a future in; the coordinator is embedded in other services",
        spares_tests: false,
    },
    Rule {
        name: "SQL lives in the store",
        applies: |path| is_code(path) && !lives_with_sql(path),
        words: &["sqlx::", "\"SELECT ", "\"INSERT ", "\"UPDATE ", "\"DELETE FROM", "\"CREATE TABLE", "\"PRAGMA "],
        remedy: "add a method to the port in src/store/mod.rs and write the query in its adapter",
        spares_tests: true,
    },
    Rule {
        name: "axum stays in the rooms that speak HTTP",
        applies: |path| is_code(path) && !speaks_http(path),
        words: &["axum::"],
        remedy: "routes and wire types belong into the feature's api.rs, what is common to them into src/http/",
        spares_tests: true,
    },
    Rule {
        name: "the environment is read in config/",
        // The variables by which systemd speaks to a process are no configuration; nor is the one by which a test asks to hold
        // it at points, of which what is shipped has none.
        applies: |path| {
            let spoken_to = ["points.rs", "systemd/mod.rs", "serve/inherited.rs"];
            let file = path.strip_prefix("crates/shutdown-coordinator/src/");
            // The deployment tool has settings of its own.
            let of_the_server = !path.starts_with("src/config/") && !path.starts_with("crates/deploy/");
            is_code(path) && of_the_server && !file.is_some_and(|file| spoken_to.contains(&file))
        },
        words: &["env::var", "env::vars"],
        remedy: "make it a setting in src/config/ and pass the value in",
        spares_tests: false,
    },
    Rule {
        name: "no task that nobody tracks",
        applies: is_code,
        words: &["tokio::spawn(", "task::spawn("],
        remedy: "spawn through a phase, a TaskTracker or a JoinSet: shutdown must know of it",
        spares_tests: false,
    },
    Rule {
        name: SLEEPS,
        applies: |path| path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs"),
        words: &["sleep("],
        remedy: "wait for the event, or poll for the state with support::eventually; both have a deadline",
        spares_tests: false,
    },
    Rule {
        name: "nothing is left to do",
        applies: |path| is_rust(path),
        words: &["todo!(", "unimplemented!("],
        remedy: "write it, or leave it out",
        spares_tests: false,
    },
    Rule {
        name: "no path of one machine",
        applies: |_| true,
        words: &["/home/", "/root/", "/work/", "/Users/"],
        remedy: "make it relative to the repository, or configurable",
        spares_tests: false,
    },
];

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

fn is_code(path: &str) -> bool {
    is_rust(path) && (path.starts_with("src/") || (path.starts_with("crates/") && path.contains("/src/")))
}

fn lives_with_sql(path: &str) -> bool {
    // The checker reads both ledgers on its own: it must not believe the store it judges.
    path.starts_with("src/store/") || path.starts_with("src/audit/")
}

fn speaks_http(path: &str) -> bool {
    ["src/http/", "src/admin/", "src/stream/", "src/boot/", "crates/shutdown-coordinator/", "crates/venue/src/binance/"]
        .iter()
        .any(|room| path.starts_with(room))
        || path.ends_with("/api.rs")
        // Parts of a feature's api, split by subject.
        || ["src/orders/", "src/signals/webhook.rs"].iter().any(|part| path.starts_with(part))
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    path: String,
    line: usize,
    rule: &'static str,
    found: String,
    remedy: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule, found, remedy } = self;
        write!(f, "{path}:{line}: {rule}: `{found}`\n    remedy: {remedy}")
    }
}

/// The lines of a file that are part of the program: without comments and, if asked for, without its `mod tests`.
fn program(text: &str, spares_tests: bool) -> impl Iterator<Item = (usize, &str)> {
    let end = if spares_tests { text.find("#[cfg(test)]").unwrap_or(text.len()) } else { text.len() };
    let numbered = text.get(..end).unwrap_or(text).lines().enumerate();
    numbered.map(|(index, line)| (index + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn check(path: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    // Under a paused clock a sleep is a step of the clock, not a hope.
    let steps_the_clock = text.contains("start_paused = true") || text.contains("time::pause()");
    let may_sleep = steps_the_clock || SLEEPERS.iter().any(|(sleeper, _)| *sleeper == path);
    let rules = RULES.iter().filter(|rule| (rule.applies)(path) && !(rule.name == SLEEPS && may_sleep));
    for rule in rules {
        for (line, content) in program(text, rule.spares_tests) {
            if let Some(word) = rule.words.iter().find(|word| holds(content, word)) {
                let (path, found_word) = (path.to_owned(), (*word).to_owned());
                found.push(Violation { path, line, rule: rule.name, found: found_word, remedy: rule.remedy });
            }
        }
    }
    if is_rust(path) {
        found.extend(too_long(path, text));
    }
    found
}

/// Whether the line holds the word, not as the end of a longer name.
fn holds(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_') || !word.starts_with(char::is_alphanumeric)
    })
}

fn excepted(name: &str) -> bool {
    LONG.iter().any(|(excepted, _)| *excepted == name)
}

fn too_long(path: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > FILE_LINES && !excepted(path) {
        found.push(Violation {
            path: path.to_owned(),
            line: lines.len(),
            rule: "a file has at most 600 lines",
            found: format!("{} lines", lines.len()),
            remedy: "split it where the second thing begins, or name it in LONG in tests/tidy.rs with the reason",
        });
    }
    for (start, name, length) in functions(&lines) {
        if length > FUNCTION_LINES && !excepted(&format!("{path}: {name}")) {
            found.push(Violation {
                path: path.to_owned(),
                line: start,
                rule: "a function has at most 70 lines",
                found: format!("{name}, {length} lines"),
                remedy: "take a step of it out and name it, or name it in LONG in tests/tidy.rs with the reason",
            });
        }
    }
    found
}

/// Each function's first line, name and length. rustfmt puts its closing brace at the indentation of its head.
fn functions<'a>(lines: &[&'a str]) -> Vec<(usize, &'a str, usize)> {
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let head = code.find("fn ").filter(|at| {
            let before = code.get(..*at).unwrap_or_default();
            before.split_whitespace().all(|word| {
                word.starts_with("pub") || matches!(word, "async" | "const" | "in" | "crate)" | "extern" | "super)")
            })
        });
        let Some(name) = head.and_then(|at| code.get(at + 3..)) else { continue };
        let name = name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        let indent = line.len() - code.len();
        let closes = |other: &str| other.len() == indent + 1 && other.ends_with('}') && other.trim() == "}";
        if line.trim_end().ends_with('}') || line.trim_end().ends_with(';') {
            continue;
        }
        if let Some(length) = lines.get(index..).unwrap_or_default().iter().position(|other| closes(other)) {
            found.push((index + 1, name, length + 1));
        }
    }
    found
}

/// Every text file that belongs to the repository, by its path in it.
fn files() -> Vec<(String, String)> {
    let root = Path::new(ROOT);
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = [
        "src",
        "crates",
        "tests",
        "benches",
        "examples",
        "scripts",
        "manifest",
        "docs",
        ".ci",
        ".config",
        "migrations",
    ]
    .iter()
    .map(|room| root.join(room))
    .collect();
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                open.push(path);
            } else if name != "tests/tidy.rs"
                && !name.starts_with("tests/data/")
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                found.push((name, text));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_repository_keeps_its_own_rules() {
    let files = files();
    assert!(files.len() > 30, "the repository was not found: {} files", files.len());
    let found: Vec<_> = files.iter().flat_map(|(path, text)| check(path, text)).collect();
    let list: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "{} violations\n{}", list.len(), list.join("\n"));
}

#[test]
fn the_core_depends_on_no_runtime_database_or_socket() {
    let root = Path::new(ROOT);
    let manifest = std::fs::read_to_string(root.join("crates/trading/Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    for banned in ["tokio", "sqlx", "axum", "hyper", "rand", "redis", "futures"] {
        let named = section.lines().any(|line| line.starts_with(banned));
        assert!(!named, "crates/trading/Cargo.toml depends on {banned}: the core is pure");
    }
}

/// In backticks, a file, a colon and a name: the tests that a document names.
fn named_tests(document: &str) -> Vec<(&str, &str)> {
    let quoted = document.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|text| text.split_once(": "))
        .filter(|(path, _)| path.contains('/') && !path.contains(' '))
        .collect()
}

/// In Rust, Python and the shell.
fn defines(text: &str, name: &str) -> bool {
    [format!("fn {name}("), format!("def {name}("), format!("\n{name}() {{")].iter().any(|head| text.contains(head))
}

#[test]
fn each_test_that_a_table_of_the_documents_names_exists() {
    for (document, at_least) in [("docs/reliability.md", 31), ("docs/upgrade.md", 31)] {
        let text = std::fs::read_to_string(document).unwrap();
        let named = named_tests(&text);
        assert!(named.len() >= at_least, "the table of {document} was not found: {} tests", named.len());
        for (path, name) in named {
            let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(defines(&text, name), "{document}: there is no {name} in {path}");
        }
    }
}

#[test]
fn a_test_that_a_document_names_is_told_from_other_words() {
    let document = "| a fault | `tests/a.rs: it_is_found`, `at: noon`, `a/b` |";
    assert_eq!(named_tests(document), [("tests/a.rs", "it_is_found")]);
    for text in ["async fn it_is_found() {", "def it_is_found(a):", "a\nit_is_found() {"] {
        assert!(defines(text, "it_is_found") && !defines(text, "is_found") && !defines(text, "it_is"), "{text}");
    }
}

/// The rules that a snippet at a path breaks.
fn broken(path: &str, text: &str) -> Vec<&'static str> {
    check(path, text).into_iter().map(|violation| violation.rule).collect()
}

#[test]
fn each_rule_finds_what_it_is_there_for() {
    for (path, text, rule) in [
        ("crates/trading/src/a.rs", "use std::collections::HashMap;", "the core is pure"),
        ("crates/trading/src/a.rs", "let now = SystemTime::now();", "the core is pure"),
        ("crates/shutdown-coordinator/src/a.rs", "use trading::order::Order;", "the coordinator knows nothing of ours"),
        ("src/orders/service.rs", "let sql = \"SELECT 1\";", "SQL lives in the store"),
        ("src/engines/a.rs", "use axum::Router;", "axum stays in the rooms that speak HTTP"),
        ("src/engines/a.rs", "std::env::var(\"HOME\")", "the environment is read in config/"),
        ("src/engines/a.rs", "tokio::spawn(work);", "no task that nobody tracks"),
        ("tests/a.rs", "tokio::time::sleep(second).await;", "tests do not sleep"),
        ("src/a.rs", "    todo!()", "nothing is left to do"),
        ("docs/a.md", "see /home/me/notes", "no path of one machine"),
    ] {
        assert_eq!(broken(path, text), [rule], "{path}: {text}");
    }
}

#[test]
fn each_rule_leaves_alone_what_is_allowed() {
    for (path, text) in [
        ("crates/trading/src/a.rs", "// a HashMap would show its order here"),
        ("crates/trading/src/a.rs", "use std::collections::BTreeMap;\n#[cfg(test)]\nmod tests { use std::fs; }"),
        ("src/store/sqlite/read.rs", "let sql = \"SELECT 1\";"),
        ("src/robots/api.rs", "use axum::Router;"),
        ("src/http/router.rs", "use axum::Router;"),
        ("tests/a.rs", "#[tokio::test(start_paused = true)]\nasync fn a() {\n    sleep(second).await;\n}"),
        ("src/config/mod.rs", "std::env::vars_os()"),
        ("src/engines/a.rs", "tracker.spawn(work); my_tokio_spawner();"),
        ("src/engines/a.rs", "tokio::time::sleep(backoff).await;"),
    ] {
        assert_eq!(broken(path, text), Vec::<&str>::new(), "{path}: {text}");
    }
}

#[test]
fn a_violation_says_where_what_and_what_to_do() {
    let shown = check("src/engines/a.rs", "fn a() {\n    tokio::spawn(work);\n}")[0].to_string();
    for part in ["src/engines/a.rs:2", "no task that nobody tracks", "tokio::spawn(", "remedy: spawn through"] {
        assert!(shown.contains(part), "{shown}");
    }
}

#[test]
fn long_files_and_functions_are_found_and_named() {
    let long_function = format!("impl A {{\n    fn much() {{\n{}    }}\n}}\n", "        work();\n".repeat(70));
    assert_eq!(broken("src/a.rs", &long_function), ["a function has at most 70 lines"]);
    assert!(check("src/a.rs", &long_function)[0].to_string().contains("much, 72 lines"));
    let fitting = format!("pub async fn fits() {{\n{}}}\n", "    work();\n".repeat(68));
    assert_eq!(broken("src/a.rs", &fitting), Vec::<&str>::new());
    assert_eq!(broken("src/a.rs", &"//\n".repeat(601)), ["a file has at most 600 lines"]);
}
