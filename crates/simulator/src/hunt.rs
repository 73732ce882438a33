//! Runs many seeds on several threads.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Fault, Faults, Options, State, States, Violation, simulate};

/// So many failures are enough.
const MOST_FAILURES: usize = 10;

/// What many seeds came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many seeds were run.
    pub seeds: u64,
    /// How many events they had.
    pub events: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// The seeds that failed, in ascending order; after the first few the hunt ends.
    pub failures: Vec<(u64, Violation)>,
    /// Which faults fired how often.
    pub faults: Faults,
    /// Which states were reached how often.
    pub states: States,
}

impl Report {
    /// How many seeds were run in a second.
    #[expect(
        clippy::float_arithmetic,
        clippy::as_conversions,
        clippy::cast_precision_loss,
        reason = "a rate to be shown"
    )]
    pub fn seeds_per_second(&self) -> f64 {
        self.seeds as f64 / self.elapsed.as_secs_f64().max(0.001)
    }

    /// What was never met, in words.
    pub fn missing(&self) -> Vec<&'static str> {
        let faults = Fault::ALL.iter().filter(|fault| self.faults.get(**fault) == 0).map(|fault| fault.as_str());
        let states = State::ALL.iter().filter(|state| self.states.get(**state) == 0).map(|state| state.as_str());
        faults.chain(states).collect()
    }

    fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.failures.extend(other.failures);
        self.faults.merge(&other.faults);
        self.states.merge(&other.states);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>12}  fault", "fired")?;
        for fault in Fault::ALL {
            writeln!(f, "{:>12}  {}", self.faults.get(*fault), fault.as_str())?;
        }
        writeln!(f, "\n{:>12}  state", "reached")?;
        for state in State::ALL {
            writeln!(f, "{:>12}  {}", self.states.get(*state), state.as_str())?;
        }
        let (rate, seconds) = (self.seeds_per_second(), self.elapsed.as_secs_f64());
        write!(
            f,
            "\n{} seeds, {} events in {seconds:.1} s: {rate:.0} seeds a second; {} failed",
            self.seeds,
            self.events,
            self.failures.len()
        )
    }
}

/// Runs `count` seeds from `first` on so many threads. `progress` is called with every finished seed's count so far.
pub fn hunt(first: u64, count: u64, threads: usize, options: &Options, progress: &(dyn Fn(u64) + Sync)) -> Report {
    let start = Instant::now();
    let (next, done, enough) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new(Report::default());
    let work = || {
        let mut report = Report::default();
        while !enough.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                break;
            }
            let seed = first.wrapping_add(n);
            let outcome = simulate(seed, options);
            report.seeds += 1;
            report.events += outcome.events;
            report.faults.merge(&outcome.faults);
            report.states.merge(&outcome.states);
            if let Some(violation) = outcome.violation {
                report.failures.push((seed, violation));
                enough.store(report.failures.len() >= MOST_FAILURES, Ordering::Relaxed);
            }
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        }
        total.lock().unwrap_or_else(PoisonError::into_inner).merge(report);
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            scope.spawn(work);
        }
        work();
    });
    let mut report = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.failures.sort_by_key(|(seed, _)| *seed);
    report.elapsed = start.elapsed();
    report
}
