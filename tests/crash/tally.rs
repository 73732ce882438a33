//! What was done in all, and whether it was everything.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::round::{End, Weakness};

/// Counts of all lanes.
#[derive(Debug)]
pub(crate) struct Tally {
    seed: u64,
    ends: Vec<End>,
    wanted: u64,
    started: Instant,
    bar: ProgressBar,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    rounds: u64,
    kills: u64,
    ends: BTreeMap<String, u64>,
    fired: BTreeMap<String, u64>,
    sent: u64,
    answered: u64,
    orders: u64,
    fills: u64,
    recovery: Vec<Duration>,
}

/// Lines of progress when nobody watches a bar.
const LINE_EVERY: u64 = 250;

impl Tally {
    pub(crate) fn new(seed: u64, wanted: u64, ends: Vec<End>) -> Self {
        eprintln!("seed {seed}, {wanted} kills");
        let bar = ProgressBar::new(wanted);
        let style = "{bar:40} {pos}/{len} kills, {per_sec}, {eta} left {msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap());
        Self { seed, ends, wanted, started: Instant::now(), bar, counts: Mutex::default() }
    }

    /// How this round ends.
    pub(crate) fn end(&self, round: u64) -> End {
        self.ends[usize::try_from(round).unwrap() % self.ends.len()]
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap()
    }

    /// The number of the next round, over all lanes; none once there were enough.
    pub(crate) fn next_round(&self) -> Option<u64> {
        let mut counts = self.counts();
        if counts.kills >= self.wanted {
            return None;
        }
        counts.rounds += 1;
        Some(counts.rounds - 1)
    }

    /// A server was ended like this, and the audit after its recovery was clean.
    pub(crate) fn survived(&self, end: String, kills: u64, recovery: Duration) {
        let mut counts = self.counts();
        counts.kills += kills;
        *counts.ends.entry(end).or_default() += 1;
        counts.recovery.push(recovery);
        self.bar.set_position(counts.kills.min(self.wanted));
        let line = counts.kills / LINE_EVERY > (counts.kills - kills) / LINE_EVERY;
        if self.bar.is_hidden() && line {
            eprintln!("{} of {} kills after {:?}", counts.kills, self.wanted, self.started.elapsed());
        }
    }

    /// How often each fault fired at a venue whose process ends now.
    pub(crate) fn fired(&self, counts: &Value) {
        let mut all = self.counts();
        for (fault, count) in counts.as_object().into_iter().flatten() {
            *all.fired.entry(fault.clone()).or_default() += count.as_u64().unwrap_or_default();
        }
    }

    /// What a data directory has seen in its life.
    pub(crate) fn traded(&self, sent: u64, answered: u64, audit: &Value) {
        let mut counts = self.counts();
        counts.sent += sent;
        counts.answered += answered;
        counts.orders += audit["counts"]["orders"].as_u64().unwrap_or_default();
        counts.fills += audit["counts"]["fills"].as_u64().unwrap_or_default();
    }

    /// Prints what was done, and fails if an end or one of these weaknesses never happened: a fault that did not fire proves
    /// nothing.
    pub(crate) fn conclude(&self, weaknesses: Option<&[Weakness]>) {
        self.bar.finish_and_clear();
        let mut counts = self.counts();
        let took = self.started.elapsed();
        eprintln!(
            "seed {}: {} rounds, {} kills in {:.0} s; lost 0, doubled 0",
            self.seed,
            counts.rounds,
            counts.kills,
            took.as_secs_f64()
        );
        eprintln!(
            "{} signals sent, {} answered; {} orders, {} fills",
            counts.sent, counts.answered, counts.orders, counts.fills
        );
        counts.recovery.sort_unstable();
        let at = |share: usize| counts.recovery.get(counts.recovery.len() * share / 100).copied().unwrap_or_default();
        eprintln!("from the start to ready: half within {:?}, 99 of 100 within {:?}", at(50), at(99));
        for (what, times) in counts.ends.iter().chain(&counts.fired) {
            eprintln!("{times:>8}  {what}");
        }
        let ends = self.ends.iter().map(|end| end.name()).filter(|end| !counts.ends.contains_key(end));
        let faults = weaknesses.into_iter().flatten().map(|weakness| weakness.fault.to_owned());
        let silent =
            faults.filter(|fault| !fault.is_empty() && counts.fired.get(fault).is_none_or(|times| *times == 0));
        let never: Vec<String> = ends.chain(silent).collect();
        assert!(never.is_empty(), "seed {}: these never happened: {never:?}", self.seed);
        assert!(counts.answered > counts.kills, "hardly any signal was answered");
    }
}
