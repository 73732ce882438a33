//! `main migrate`: the schema, moved forward or only looked at.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use serde_json::json;

use super::{ExitCode, Failure, Global, MigrateArgs, MigrateCommand, Output, Style, copy};
use crate::build_info::BUILD_ID;
use crate::store::Database;
use crate::store::migrate::{SCHEMA_MAX, SCHEMA_MIN, Schema, State, Step, judge};
use crate::store::sqlite::{OpenError, OpenOptions, SqliteStore};

/// SQLite's name of a database that is empty, in memory, and gone when it is closed.
const EMPTY_DATABASE: &str = ":memory:";

pub(super) async fn run(global: &Global, args: &MigrateArgs) -> Result<ExitCode, Failure> {
    let out = global.output();
    let database = match &args.command {
        Some(MigrateCommand::Copy(args)) => return copy::run(out, args).await,
        _ => global.load(&[])?.config.database()?,
    };
    match &args.command {
        Some(MigrateCommand::Status) => {
            let steps = status(&database).await?;
            show(out, &database, &steps, "pending")?;
            accepted(&steps)?;
        }
        Some(MigrateCommand::Contract(args)) => {
            let due = match &database {
                Database::Sqlite(path) => Schema::sqlite().contract(path, BUILD_ID, args.dry_run).await?,
                Database::Postgres(server) => {
                    Schema::postgres().contract_on_server(server, BUILD_ID, args.dry_run).await?
                }
            };
            tell(out, &database, &due, args.dry_run)?;
        }
        None | Some(MigrateCommand::Up(_) | MigrateCommand::Copy(_)) => {
            let args = if let Some(MigrateCommand::Up(up)) = &args.command { up } else { &args.up };
            if args.dry_run {
                show(out, &database, &status(&database).await?, "would apply")?;
                return Ok(ExitCode::Ok);
            }
            let applied = match &database {
                Database::Sqlite(path) => up(path).await?,
                Database::Postgres(server) => Schema::postgres().up_on_server(server).await?,
            };
            tell(out, &database, &applied, false)?;
        }
    }
    Ok(ExitCode::Ok)
}

/// What was applied, or would be.
fn tell(out: Output, database: &Database, steps: &[Step], dry_run: bool) -> Result<(), Failure> {
    let (key, word) = if dry_run { ("would_apply", "would apply") } else { ("applied", "applied") };
    if out.json {
        out.json(&json!({ "database": database.to_string(), key: steps }))?;
    } else if steps.is_empty() {
        out.line(format!("{database}: nothing to apply"))?;
    }
    for step in steps.iter().filter(|_| !out.json) {
        out.line(format!("{} {} {}", out.paint(Style::Good, word), step.version, step.description))?;
    }
    Ok(())
}

/// Every migration and where it stands. Without a database all of them are pending.
pub(super) async fn status(database: &Database) -> Result<Vec<Step>, Failure> {
    match database {
        Database::Sqlite(path) => status_of_file(path).await,
        Database::Postgres(server) => Ok(Schema::postgres().status_of_server(server).await?),
    }
}

async fn status_of_file(path: &Path) -> Result<Vec<Step>, Failure> {
    let path = if path.exists() { path } else { Path::new(EMPTY_DATABASE) };
    Ok(Schema::default().status(path).await?)
}

/// Applies what is pending. A missing database is made, as the server would.
async fn up(path: &Path) -> Result<Vec<Step>, Failure> {
    if path.exists() {
        return Ok(Schema::default().up(path).await?);
    }
    let pending = status_of_file(path).await?;
    if let Some(dir) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| OpenError::NotWritable { path: dir.to_owned(), detail: error.to_string() })?;
    }
    let (store, writer) = SqliteStore::open(path, OpenOptions::default()).await?;
    drop(store);
    // Ends at once: nobody can hand it anything any more. It checkpoints on the way.
    writer.run().await;
    Ok(pending)
}

/// Whether this binary works on such a schema. A database without any schema is made ready at the first start.
pub(super) fn accepted(steps: &[Step]) -> Result<(), Failure> {
    if steps.iter().any(|step| step.state.is_applied()) {
        Ok(judge(steps, &(SCHEMA_MIN..=SCHEMA_MAX))?)
    } else {
        Ok(())
    }
}

fn show(out: Output, database: &Database, steps: &[Step], pending: &str) -> Result<(), Failure> {
    if out.json {
        let accepted = [SCHEMA_MIN, SCHEMA_MAX];
        return Ok(out.json(&json!({ "database": database.to_string(), "accepted": accepted, "migrations": steps }))?);
    }
    let missing = matches!(database, Database::Sqlite(path) if !path.exists());
    let exists = if missing { " (does not exist yet)" } else { "" };
    out.line(format!("{database}{exists}: this binary accepts schema {SCHEMA_MIN} to {SCHEMA_MAX}"))?;
    for step in steps {
        let (style, state) = match step.state {
            State::Applied => (Style::Good, "applied"),
            State::Altered => (Style::Bad, "altered"),
            State::Pending => (Style::Warn, pending),
            State::Contract => (Style::Warn, "for `main migrate contract`:"),
            State::Unknown => (Style::Warn, "unknown to this binary"),
        };
        out.line(format!("  {:>4}  {} {}", step.version, out.paint(style, state), step.description))?;
    }
    Ok(())
}
