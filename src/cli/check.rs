//! `main check`: whether `main http` would start, and with what. Changes nothing.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::{ExitCode, Failure, Global, Output, Style, migrate};
use crate::build_info::BUILD_ID;
use crate::config::{BINANCE, Config, Loaded, Migrate, Origin, ShutdownConfig};
use crate::gateway::binance::Credentials;
use crate::redis::{Redis, RedisSetupError};
use crate::store::Database;
use crate::store::migrate::{SCHEMA_MAX, SCHEMA_MIN, State, Step, judge};
use crate::store::sqlite::integrity_check;

pub(super) async fn run(global: &Global) -> Result<ExitCode, Failure> {
    let out = global.output();
    let loaded = global.load(&[])?;
    let accounts = accounts(&loaded.config)?;
    writable(&loaded.config.data_dir)?;
    let database = loaded.config.database()?;
    let steps = migrate::status(&database).await?;
    match &database {
        Database::Sqlite(path) if !path.exists() => {}
        Database::Sqlite(path) => {
            integrity_check(path).await?;
            migrate::accepted(&steps)?;
        }
        Database::Postgres(server) => {
            server.check().await?;
            migrate::accepted(&steps)?;
        }
    }
    if loaded.config.store.migrate == Migrate::Never {
        judge(&steps, &(SCHEMA_MIN..=SCHEMA_MAX))?;
    }
    let redis = redis(&loaded.config).await?;
    if out.json {
        let settings: Vec<_> = loaded
            .settings()
            .into_iter()
            .map(|setting| json!({ "key": setting.key, "value": setting.value, "origin": setting.origin.to_string() }))
            .collect();
        out.json(&json!({
            "build_id": BUILD_ID,
            "config": settings,
            "accounts": accounts,
            "database": database.to_string(),
            "migrations": steps,
            "redis": redis,
            "plan": loaded.config.shutdown.plan(),
        }))?;
    } else {
        out.line(config_text(out, &loaded))?;
        out.line(accounts_text(out, &accounts))?;
        out.line(database_text(out, &database, &steps))?;
        out.line(redis_text(out, redis.as_ref()))?;
        out.line(plan_text(out, &loaded.config.shutdown))?;
    }
    Ok(ExitCode::Ok)
}

fn config_text(out: Output, loaded: &Loaded) -> String {
    let settings = loaded.settings();
    let width = settings.iter().map(|setting| setting.key.len()).max().unwrap_or_default();
    let values = settings.iter().map(|setting| setting.value.len()).max().unwrap_or_default().min(40);
    let mut lines = vec![out.paint(Style::Bold, "configuration")];
    for setting in settings {
        let origin = match setting.origin {
            Origin::Default => out.paint(Style::Dim, "default"),
            other => other.to_string(),
        };
        lines.push(format!("  {:width$}  {:values$}  {origin}", setting.key, setting.value));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// An account, and how it gets into its venue.
#[derive(Debug, Serialize)]
struct AccountLine {
    label: String,
    venue: String,
    /// What kind of key it signs with.
    key: Option<&'static str>,
    url: Option<String>,
}

/// Reads the accounts' secrets, so that one that cannot be used shows here and not at the start. Nothing is sent.
fn accounts(config: &Config) -> Result<Vec<AccountLine>, Failure> {
    let read = |(index, account): (usize, &crate::config::AccountConfig)| {
        let mut line = AccountLine { label: account.label.clone(), venue: account.venue.clone(), key: None, url: None };
        if account.venue == BINANCE {
            let file = account.secret_file.as_deref().unwrap_or(Path::new(""));
            let api_key = account.api_key.as_deref().unwrap_or_default();
            let credentials = Credentials::load(api_key, file).map_err(|error| {
                let what = format!("trading.accounts[{index}].secret_file = {}: {error}", file.display());
                Failure::new(ExitCode::ConfigInvalid, what)
                    .help("the file holds one HMAC secret, or one Ed25519 private key as PKCS#8 PEM")
            })?;
            line.key = Some(credentials.kind());
            line.url = Some(config.venue.binance.rest_url.clone());
        }
        Ok(line)
    };
    config.trading.accounts.iter().enumerate().map(read).collect()
}

fn accounts_text(out: Output, accounts: &[AccountLine]) -> String {
    let mut lines = vec![out.paint(Style::Bold, "accounts")];
    for AccountLine { label, venue, key, url } in accounts {
        let reached = match (key, url) {
            (Some(key), Some(url)) => format!(" at {url}, {key} key"),
            _ => String::new(),
        };
        lines.push(format!("  {label}: {venue}{reached}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Asks the system, by making and removing a file; a directory that is missing is made at the start.
fn writable(data_dir: &Path) -> Result<(), Failure> {
    if !data_dir.exists() {
        return Ok(());
    }
    let probe = data_dir.join(format!(".check-{}", std::process::id()));
    let written =
        fs::OpenOptions::new().write(true).create_new(true).open(&probe).and_then(|_| fs::remove_file(&probe));
    written.map_err(|error| {
        Failure::new(ExitCode::DataDir, format!("data_dir = {}: cannot be written: {error}", data_dir.display()))
            .help("make it a directory that this user can write, or name another")
    })
}

/// Redis, and what it answered.
#[derive(Debug, Serialize)]
struct RedisLine {
    address: String,
    /// Its version; none if it does not answer.
    version: Option<String>,
    /// Why it does not, or what is unwise about how it is set.
    warning: Option<String>,
}

/// Asks Redis, bounded. The server starts without it as well, so nothing that is found here is a failure.
async fn redis(config: &Config) -> Result<Option<RedisLine>, Failure> {
    let wrong = |error: RedisSetupError| Failure::of(ExitCode::ConfigInvalid, &error);
    let Some(redis) = Redis::open(&config.redis).map_err(wrong)? else { return Ok(None) };
    let (address, mut info) = (redis.address().to_owned(), redis::cmd("INFO"));
    let answer = redis.query::<String>(info.arg("server").arg("memory")).await;
    redis.close();
    let (version, warning) = match answer {
        Ok(answer) => {
            let field = |name: &str| {
                answer
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                    .map(|value| value.trim().to_owned())
            };
            let evicts = field("maxmemory_policy").filter(|policy| policy != "noeviction");
            let warning = evicts.filter(|_| config.redis.signals.is_some()).map(|policy| {
                format!("maxmemory-policy {policy} may drop the stream of signals; set maxmemory-policy noeviction")
            });
            (field("redis_version"), warning)
        }
        Err(error) => (None, Some(format!("{error}; the server starts without it, degraded"))),
    };
    Ok(Some(RedisLine { address, version, warning }))
}

fn redis_text(out: Output, redis: Option<&RedisLine>) -> String {
    let state = redis.map_or_else(
        || out.paint(Style::Dim, "none configured"),
        |RedisLine { address, version, warning }| {
            let answer = version.as_ref().map_or_else(
                || out.paint(Style::Warn, "does not answer"),
                |version| format!("{}, version {version}", out.paint(Style::Good, "answers")),
            );
            let warning = warning.iter().map(|warning| out.paint(Style::Warn, &format!("\n  {warning}")));
            format!("{address}: {answer}{}", warning.collect::<String>())
        },
    );
    format!("{}\n  {state}\n", out.paint(Style::Bold, "redis"))
}

fn database_text(out: Output, database: &Database, steps: &[Step]) -> String {
    let pending = steps.iter().filter(|step| step.state == State::Pending).count();
    let missing = matches!(database, Database::Sqlite(path) if !path.exists());
    let state = match (!missing, pending) {
        (false, _) => "made at the first start".to_owned(),
        (true, 0) => format!("{}, no migration pending", out.paint(Style::Good, "sound")),
        (true, pending) => format!("{}, {pending} migrations pending", out.paint(Style::Good, "sound")),
    };
    format!("{}\n  {database}: {state}\n", out.paint(Style::Bold, "database"))
}

fn plan_text(out: Output, shutdown: &ShutdownConfig) -> String {
    let plan = shutdown.plan();
    let mut lines = vec![
        out.paint(Style::Bold, "shutdown plan (ms)"),
        format!("  {:18} {:>7} {:>9} {:>10}", "phase", "limit", "reserved", "latest end"),
    ];
    for phase in plan {
        let reserved = if phase.reserved { "yes" } else { "" };
        lines.push(format!("  {:18} {:>7} {reserved:>9} {:>10}", phase.name, phase.limit_ms, phase.latest_end_ms));
    }
    lines.push(format!(
        "  deadline {}, watchdog {}, supervisor's limit {}: {}",
        shutdown.deadline_ms,
        shutdown.deadline_ms.saturating_add(shutdown.watchdog_ms),
        shutdown.stop_budget_ms,
        out.paint(Style::Good, "fits"),
    ));
    lines.join("\n")
}
