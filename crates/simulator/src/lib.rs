//! Deterministic simulation of the order core: seeded schedules, crashes at every effect boundary, invariants
//! throughout.
//!
//! The real engine (`trading::engine::Engine`) runs against a simulated store, venue, network and clock. What goes
//! wrong and when is drawn from a seed: the same seed gives the same run, to the byte of its trace. After a time the
//! faults end; then everything must come to rest, and the checker of `main audit` must find nothing. See
//! `docs/simulator.md`.

mod check;
mod clients;
mod counts;
mod database;
mod hunt;
mod network;
mod plan;
mod process;
mod rng;
mod shrink;
pub mod store;
mod venue;
mod world;

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use counts::{Fault, Faults, State, States};
pub use hunt::{Report, hunt};
pub use shrink::{Shrunk, shrink};

use plan::Plan;
use world::{Ran, World};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which: a check of the audit such as `C7`, or an invariant's name.
    pub rule: &'static str,
    /// What was found.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// Something broken on purpose in what surrounds the core, to show that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The store confirms what it has not synced.
    LyingSync,
    /// The store does not check the epoch of a commit.
    NoEpochCheck,
    /// Effects are carried out before their commit.
    EffectsFirst,
    /// Clients are answered before the commit.
    AnswersFirst,
    /// An order whose answer does not come is sent again.
    Resends,
}

impl Break {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("lying-sync", Self::LyingSync),
        ("no-epoch-check", Self::NoEpochCheck),
        ("effects-first", Self::EffectsFirst),
        ("answers-first", Self::AnswersFirst),
        ("resends", Self::Resends),
    ];
}

/// How a seed is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// What is broken on purpose.
    pub broken: Option<Break>,
    /// Whether a trace is kept. It changes nothing else.
    pub trace: bool,
}

/// What of a plan is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mask {
    /// Planned happenings, by their place.
    pub(crate) happenings: BTreeSet<usize>,
    /// Faults that were drawn on the way, by their number.
    pub(crate) faults: BTreeSet<u32>,
    /// Faults end at this time instead, in microseconds.
    pub(crate) end: Option<i64>,
}

/// What a seed came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The promise that was broken, if any.
    pub violation: Option<Violation>,
    /// Which faults fired how often.
    pub faults: Faults,
    /// Which states were reached how often.
    pub states: States,
    /// How many events were simulated.
    pub events: u64,
    /// What happened, line by line, if [`Options::trace`] asked for it.
    pub trace: Vec<String>,
}

/// Runs one seed.
pub fn simulate(seed: u64, options: &Options) -> Outcome {
    let plan = Plan::draw(seed);
    let Ran { violation, faults, states, events, trace, .. } = run(seed, &plan, &Mask::default(), *options);
    Outcome { violation, faults, states, events, trace }
}

fn run(seed: u64, plan: &Plan, mask: &Mask, options: Options) -> Ran {
    let world = World::new(seed, plan, mask, options);
    // The strategies' panics are caught in the engine itself; this is for any other.
    catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|payload| Ran {
        violation: Some(Violation { rule: "no panic", what: words(payload.as_ref()) }),
        faults: Faults::default(),
        states: States::default(),
        events: 0,
        fired: 0,
        trace: Vec::new(),
    })
}

fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}
