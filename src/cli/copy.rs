//! `main migrate copy`: moves a ledger from a file to a server, or does nothing.

use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::task::spawn_blocking;

use super::audit::{clear_line, show};
use super::{CopyArgs, ExitCode, Failure, Output, Style};
use crate::audit::{self, AuditReport};
use crate::config::StoreConfig;
use crate::store::Database;
use crate::store::copy::{Bound, Copied, CopyError, Move, Progress};
use crate::store::postgres::Server;

pub(super) const HELP: &str = "\
Example:
  systemctl stop hotgo
  createdb --owner hotgo hotgo
  main migrate copy --from sqlite:/var/lib/hotgo/hotgo.db --to postgres://hotgo@db.internal/hotgo --password-file /etc/hotgo/pg
  HOTGO__STORE__URL=postgres://hotgo@db.internal/hotgo HOTGO__STORE__PASSWORD_FILE=/etc/hotgo/pg main check
  systemctl start hotgo    # with the same two settings

Exit codes: 0 copied and found equal; 2 a wrong URL; 4 a server has the source open; 5 the source is damaged; 6 the schemas differ;
8 both sides differ, or the events do not add up to the tables; 9 the target is not empty; 10 the target does not answer.
Unless it is 0, the target holds nothing.";

/// What was moved.
#[derive(Debug)]
struct Moved {
    tables: Vec<Copied>,
    accounts: Vec<Bound>,
}

pub(super) async fn run(out: Output, args: &CopyArgs) -> Result<ExitCode, Failure> {
    let (path, server) = (source(&args.from)?, target(&args.to, args.password_file.as_deref())?);
    let progress = Progress::default();
    let (from, to, watched) = (path.clone(), server.clone(), progress.clone());
    let work = spawn_blocking(move || transfer(&from, &to, &progress));
    let moved = tokio::select! {
        moved = work => moved,
        never = show(&watched) => match never {},
    };
    clear_line();
    let moved = moved.map_err(|error| Failure::of(ExitCode::Unexpected, &error))??;
    tell(out, &path, &server, &moved)?;
    Ok(ExitCode::Ok)
}

fn transfer(path: &Path, server: &Server, progress: &Progress) -> Result<Moved, Failure> {
    let mut copy = Move::begin(path, server)?;
    copy.copy(progress)?;
    let tables = copy.compare(progress)?;
    progress.begin("adding up the events", tables.iter().map(|table| table.rows).sum());
    let (copy, report) = copy.look(|dump| audit::fold(dump, &audit::Progress::default()))?;
    judge(&report.map_err(CopyError::from)?)?;
    let accounts = copy.bound()?;
    copy.commit()?;
    Ok(Moved { tables, accounts })
}

fn judge(report: &AuditReport) -> Result<(), Failure> {
    if report.is_clean() {
        return Ok(());
    }
    let what: Vec<String> = report.findings.iter().take(SHOWN).map(ToString::to_string).collect();
    let all = report.findings.len() + report.more;
    let message = format!("the events do not add up to the tables; {all} findings, such as\n{}", what.join("\n"));
    Err(Failure::new(ExitCode::AuditFindings, message)
        .help("nothing was written; run `main audit` on the source, and do not trade on it before that is understood"))
}

const SHOWN: usize = 5;

fn source(from: &str) -> Result<PathBuf, Failure> {
    let path = from.strip_prefix("sqlite:").filter(|path| !path.is_empty() && !path.starts_with("//"));
    path.map(PathBuf::from).ok_or_else(|| {
        Failure::new(ExitCode::Usage, "--from names no database file")
            .help("write --from sqlite:PATH, such as sqlite:/var/lib/hotgo/hotgo.db; only files are copied from")
    })
}

fn target(to: &str, password_file: Option<&Path>) -> Result<Server, Failure> {
    let config = StoreConfig {
        path: None,
        url: Some(to.to_owned()),
        password_file: password_file.map(Path::to_owned),
        migrate: crate::config::Migrate::Never,
        max_connections: 2,
    };
    let wrong = |problem: String| Failure::new(ExitCode::Usage, problem);
    match config.database(Path::new("")) {
        Ok(Database::Postgres(server)) => Ok(server),
        Ok(Database::Sqlite(_)) => {
            Err(wrong("--to names no database; write postgres://user@host:port/database".into()))
        }
        Err(fault) if fault.key == "store.password_file" => Err(wrong(format!("--password-file: {}", fault.problem))),
        Err(fault) => Err(wrong(format!("--to: {}", fault.problem.replace("store.password_file", "--password-file")))),
    }
}

fn tell(out: Output, path: &Path, server: &Server, moved: &Moved) -> Result<(), Failure> {
    let Moved { tables, accounts } = moved;
    if out.json {
        let from = path.display().to_string();
        let (tables, accounts) = (json!(tables), json!(accounts));
        return Ok(
            out.json(&json!({ "from": from, "to": server.to_string(), "tables": tables, "paper_accounts": accounts }))?
        );
    }
    for Copied { table, rows, digest } in tables {
        out.line(format!("  {table:26} {rows:>10} rows  {digest:032x}"))?;
    }
    let all: u64 = tables.iter().map(|table| table.rows).sum();
    out.line(format!(
        "{} {all} rows from {} to {server}: the same on both sides, and the events add up to the tables",
        out.paint(Style::Good, "copied"),
        path.display()
    ))?;
    for Bound { label, ledger } in accounts {
        out.line(format!(
            "account {label} stays bound to the paper venue's ledger {ledger}, which was not copied: keep venue.ledger in \
             its data directory, or name it with venue.paper.ledger"
        ))?;
    }
    out.line(format!(
        "next: set store.url, start the server, and keep {} as it is; never start a server on it again",
        path.display()
    ))?;
    Ok(())
}
