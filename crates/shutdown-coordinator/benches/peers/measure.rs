//! Rounds, medians, threads, child processes.

use std::{
    env, fs,
    hint::black_box,
    process::{Command, Stdio},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

/// The argument with which this program runs itself for one figure.
pub(crate) const CHILD: &str = "--child";

/// Something that is measured again and again.
pub(crate) struct Contestant<'a> {
    pub(crate) name: &'static str,
    pub(crate) sample: Box<dyn FnMut() -> f64 + 'a>,
}

impl<'a> Contestant<'a> {
    pub(crate) fn new(name: &'static str, sample: impl FnMut() -> f64 + 'a) -> Self {
        Self { name, sample: Box::new(sample) }
    }
}

/// One round to warm up, then as many as asked for; the median of each contestant, in their order.
pub(crate) fn compete(rounds: usize, mut contestants: Vec<Contestant<'_>>) -> Vec<(&'static str, f64)> {
    let count = contestants.len();
    let mut samples = vec![Vec::new(); count];
    for round in 0..=rounds {
        for turn in 0..count {
            let index = (round + turn) % count;
            let sample = (contestants[index].sample)();
            if round > 0 {
                samples[index].push(sample);
            }
        }
    }
    contestants.iter().zip(samples).map(|(contestant, samples)| (contestant.name, median(samples))).collect()
}

pub(crate) fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Nanoseconds of wall time per call, when this many threads share `total` calls.
pub(crate) fn ns_per_call<T>(threads: usize, total: u32, call: impl Fn() -> T + Sync) -> f64 {
    let each = total / u32::try_from(threads).unwrap();
    let barrier = Barrier::new(threads);
    let work = || {
        barrier.wait();
        let start = Instant::now();
        for _ in 0..each {
            black_box(call());
        }
        (start, Instant::now())
    };
    let times: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let first = times.iter().map(|(start, _)| *start).min().unwrap();
    let last = times.iter().map(|(_, end)| *end).max().unwrap();
    nanos(last - first) / (f64::from(each) * threads as f64)
}

pub(crate) fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// This program again, to do one thing.
pub(crate) fn child(words: &[&str]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.arg(CHILD).args(words).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// The figure that a child prints.
pub(crate) fn figure_of_child(words: &[&str]) -> f64 {
    let output = child(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// How many threads were ready to run on average over the last minute, where the system says so.
pub(crate) fn load() -> String {
    let loads = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    loads.split(' ').next().unwrap_or_default().to_owned()
}

pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
