//! `main audit`: the database against the venue's ledger and the signals that were answered. Changes nothing.

use std::path::Path;
use std::time::Duration;

use super::{AuditArgs, ExitCode, Failure, Global, Style};
use crate::audit;

pub(super) async fn run(global: &Global, args: &AuditArgs) -> Result<ExitCode, Failure> {
    let config = global.load(&[])?.config;
    let settle = Duration::from_secs(args.settle);
    check(global, &config.database(), &config.venue_ledger(), settle, args.answered.as_deref()).await
}

/// Compares, prints what was found, and turns it into an exit code.
pub(super) async fn check(
    global: &Global,
    database: &Path,
    ledger: &Path,
    settle: Duration,
    answered: Option<&Path>,
) -> Result<ExitCode, Failure> {
    let out = global.output();
    let report = audit::run(database, ledger, settle, answered).await?;
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
