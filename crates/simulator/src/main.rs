//! `simulate`: hunts over many seeds, or repeats one. Exit codes: 0 clean, 1 a promise was broken, 2 usage, 3 a fault
//! or state was never met.

use std::io::{IsTerminal as _, Write as _, stderr, stdout};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use simulator::{Break, Fault, Options, Report, State, hunt, shrink, simulate};

/// Hunts lost and doubled orders in the order core, by seeds.
#[derive(Debug, Parser)]
#[command(name = "simulate", version)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many threads; as many as there are processors if absent.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// One JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Runs this one seed.
    #[arg(long, conflicts_with_all = ["seeds", "from", "threads", "json"])]
    seed: Option<u64>,
    /// Writes what happens, line by line.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Does not make a failing seed smaller.
    #[arg(long)]
    no_shrink: bool,
    /// Breaks something on purpose: `lying-sync`, `no-epoch-check`, `effects-first`, `answers-first` or `resends`.
    #[arg(long = "break", value_parser = parse_break)]
    broken: Option<Break>,
}

fn parse_break(text: &str) -> Result<Break, String> {
    let found = Break::ALL.iter().find(|(name, _)| *name == text).map(|(_, broken)| *broken);
    found.ok_or_else(|| format!("known: {}", Break::ALL.map(|(name, _)| name).join(", ")))
}

const BROKEN: u8 = 1;
const NEVER_MET: u8 = 3;
/// Lines of a trace that are shown of a failure.
const SHOWN: usize = 80;
/// So many seeds should meet everything.
const ENOUGH: u64 = 2_000;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.seed {
        Some(seed) => one(seed, &args),
        None => many(&args),
    };
    // Nobody reads any more: then nothing is left to say.
    result.unwrap_or(ExitCode::from(BROKEN))
}

fn one(seed: u64, args: &Args) -> std::io::Result<ExitCode> {
    let outcome = simulate(seed, &Options { broken: args.broken, trace: args.trace });
    let mut out = stdout().lock();
    for line in &outcome.trace {
        writeln!(out, "{line}")?;
    }
    let Some(violation) = outcome.violation else {
        writeln!(out, "seed {seed}: clean after {} events", outcome.events)?;
        return Ok(ExitCode::SUCCESS);
    };
    writeln!(out, "seed {seed}: {violation}")?;
    if !args.no_shrink {
        explain(seed, args.broken)?;
    }
    Ok(ExitCode::from(BROKEN))
}

/// Says how little a seed needs to fail.
fn explain(seed: u64, broken: Option<Break>) -> std::io::Result<()> {
    let Some(small) = shrink(seed, &Options { broken, trace: false }) else { return Ok(()) };
    let mut out = stdout().lock();
    let (count, faults, runs) = (small.happenings.len(), small.faults, small.runs);
    writeln!(out, "\nsmallest failure of seed {seed}, after {runs} runs: {count} happenings and {faults} faults")?;
    for happening in &small.happenings {
        writeln!(out, "  {happening}")?;
    }
    let skipped = small.trace.len().saturating_sub(SHOWN);
    if skipped > 0 {
        writeln!(out, "  .. {skipped} lines ..")?;
    }
    for line in small.trace.iter().skip(skipped) {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

fn many(args: &Args) -> std::io::Result<ExitCode> {
    let threads = args.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let options = Options { broken: args.broken, trace: false };
    let report = if stderr().is_terminal() {
        let bar = ProgressBar::new(args.seeds);
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} seeds, {per_sec}, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(200));
        let report = hunt(args.from, args.seeds, threads, &options, &|done| {
            if done.is_multiple_of(64) {
                bar.set_position(done);
            }
        });
        bar.finish_and_clear();
        report
    } else {
        let (seeds, step) = (args.seeds, (args.seeds / 10).max(1));
        hunt(args.from, seeds, threads, &options, &|done| {
            if done.is_multiple_of(step) {
                // Progress is a courtesy.
                let _unread = writeln!(stderr(), "{done} of {seeds} seeds");
            }
        })
    };
    show(&report, args)
}

fn show(report: &Report, args: &Args) -> std::io::Result<ExitCode> {
    let missing = if args.seeds >= ENOUGH { report.missing() } else { Vec::new() };
    let mut out = stdout().lock();
    if args.json {
        writeln!(out, "{}", to_json(report, &missing))?;
    } else {
        writeln!(out, "{report}")?;
        for what in &missing {
            writeln!(out, "never met: {what}")?;
        }
        for (seed, violation) in &report.failures {
            writeln!(out, "seed {seed}: {violation}")?;
        }
    }
    drop(out);
    if let Some((seed, _)) = report.failures.first() {
        if !args.json && !args.no_shrink {
            explain(*seed, args.broken)?;
        }
        return Ok(ExitCode::from(BROKEN));
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NEVER_MET) })
}

fn to_json(report: &Report, missing: &[&str]) -> serde_json::Value {
    let faults: serde_json::Map<String, serde_json::Value> =
        Fault::ALL.iter().map(|fault| (fault.as_str().to_owned(), report.faults.get(*fault).into())).collect();
    let states: serde_json::Map<String, serde_json::Value> =
        State::ALL.iter().map(|state| (state.as_str().to_owned(), report.states.get(*state).into())).collect();
    let failures: Vec<serde_json::Value> = report
        .failures
        .iter()
        .map(|(seed, violation)| serde_json::json!({ "seed": seed, "rule": violation.rule, "what": violation.what }))
        .collect();
    serde_json::json!({
        "seeds": report.seeds,
        "events": report.events,
        "elapsed_ms": u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX),
        "seeds_per_second": report.seeds_per_second(),
        "faults": faults,
        "states": states,
        "never_met": missing,
        "failures": failures,
    })
}
