//! `main audit`: the database against the venue's ledger and the signals that were answered. Changes nothing.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use super::{AuditArgs, ExitCode, Failure, Global, Style};
use crate::audit::{self, Progress};
use crate::store::Database;

/// An audit that takes longer says how far it is, on a terminal.
const SHOW_PROGRESS_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(global: &Global, args: &AuditArgs) -> Result<ExitCode, Failure> {
    let config = global.load(&[])?.config;
    let settle = Duration::from_secs(args.settle);
    let ledger = args.venue_ledger.clone().unwrap_or_else(|| config.venue_ledger());
    check(global, &config.database()?, &ledger, settle, args.answered.as_deref()).await
}

/// Compares, prints what was found, and turns it into an exit code.
pub(super) async fn check(
    global: &Global,
    database: &Database,
    ledger: &Path,
    settle: Duration,
    answered: Option<&Path>,
) -> Result<ExitCode, Failure> {
    let out = global.output();
    let progress = Progress::default();
    let report = tokio::select! {
        report = audit::run(database, ledger, settle, answered, &progress) => report,
        never = show(&progress) => match never {},
    };
    clear_line();
    let report = report?;
    if out.json {
        out.json(&report)?;
    } else {
        out.line(report.to_string())?;
        let verdict =
            if report.is_clean() { out.paint(Style::Good, "clean") } else { out.paint(Style::Bad, "not clean") };
        out.line(verdict)?;
    }
    Ok(if report.is_clean() { ExitCode::Ok } else { ExitCode::AuditFindings })
}

/// Writes the progress over itself, where somebody watches.
pub(super) async fn show(progress: &impl Display) -> std::convert::Infallible {
    let mut stderr = std::io::stderr();
    let mut tick = tokio::time::interval(SHOW_PROGRESS_EVERY);
    tick.tick().await;
    loop {
        tick.tick().await;
        if stderr.is_terminal() {
            // Nobody has to see it.
            let _unseen = write!(stderr, "\r\u{1b}[K{progress}").and_then(|()| stderr.flush());
        }
    }
}

pub(super) fn clear_line() {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _unseen = write!(stderr, "\r\u{1b}[K").and_then(|()| stderr.flush());
    }
}
