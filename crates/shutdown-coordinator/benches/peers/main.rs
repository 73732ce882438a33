//! The coordinator against its peers, in one table from one run: `cargo bench -p shutdown-coordinator`.
//!
//! After `--`: words choose parts (`guards`, `gone`, `memory`, `whole`, `watchdog`), `--quick` takes less than 20 s, `--million`
//! adds a million tasks, `--json` prints one JSON document instead of the table.
//!
//! Contestants take turns, each round in another order, and each gets the median of its rounds, so that whatever else the
//! machine does befalls all of them. Criterion measures one after the other for seconds each, so that a drift of the machine
//! between two of them is part of their ratio; nor does it time several threads, or processes.
//!
//! The load is printed with the table: while other programs use the cores, threads hardly ever meet, and a figure that is
//! said to be of two or eight threads is one of a single thread.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench"
)]

mod gone;
mod guards;
mod measure;
mod memory;
mod peers;
mod table;
mod watchdog;
mod whole;

use table::Table;

/// How much to measure.
#[derive(Clone, Copy)]
struct Effort {
    quick: bool,
    million: bool,
}

impl Effort {
    /// As many rounds as asked for, or a third.
    fn rounds(self, rounds: usize) -> usize {
        if self.quick { rounds.div_ceil(3) } else { rounds }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(child) = arguments.iter().position(|argument| argument == measure::CHILD) {
        let words: Vec<&str> = arguments[child + 1..].iter().map(String::as_str).collect();
        match words[..] {
            ["watchdog"] => watchdog::child(),
            ["tasks", peer, count] => memory::tasks(peer, count.parse().unwrap()),
            ["guards", peer, count] => memory::guards(peer, count.parse().unwrap()),
            _ => panic!("no child {words:?}"),
        }
        return;
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let parts: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|word| *word == part);
    let effort = Effort { quick: has("--quick"), million: has("--million") };
    let mut table = Table::new(has("--json"));
    table.say(&format!("{} cores, load {}", measure::cores(), measure::load()));
    if wanted("guards") {
        guards::run(effort, &mut table);
    }
    if wanted("gone") {
        gone::run(effort, &mut table);
    }
    if wanted("memory") {
        memory::run(effort, &mut table);
    }
    if wanted("whole") {
        whole::run(effort, &mut table);
    }
    if wanted("watchdog") {
        watchdog::run(effort, &mut table);
    }
    table.say(&format!("\nload {}", measure::load()));
    table.finish();
}
