//! SIGHUP: the configuration is read again, and what can change in a running server does.
//!
//! All or nothing: a configuration that is refused, or that changes anything else, changes nothing. The log says which key
//! it was, and so does the status.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use shutdown_coordinator::systemd::Systemd;
use tokio::sync::watch;
use trading::time::Timestamp;

use crate::admin::ReloadReport;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::engines::EngineRegistry;
use crate::telemetry::{SetFilter, TelemetryError};

/// What takes effect without a restart.
const RELOADABLE: [&str; 2] = ["log.filter", "trading.limits"];

/// How a running server gets at a new configuration.
#[derive(Clone)]
pub struct Reload {
    /// Reads it again from where it came from.
    pub read: Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    /// Puts a log filter in the place of the one in force.
    pub set_filter: SetFilter,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{} cannot change in a running server: restart it", .0.join(", "))]
    NeedsRestart(Vec<String>),
    #[error(transparent)]
    Filter(#[from] TelemetryError),
    #[error("the configuration could not be read: {0}")]
    Reader(#[from] tokio::task::JoinError),
}

/// What came of the last reload.
#[derive(Debug, Clone)]
pub(super) struct LastReload {
    at: Timestamp,
    ok: bool,
    detail: String,
}

impl LastReload {
    pub(super) fn report(&self, now: Timestamp) -> ReloadReport {
        let age_ms = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        ReloadReport { age_ms, ok: self.ok, detail: self.detail.clone() }
    }
}

/// Who reloads, and tells of it.
pub(super) struct Reloader {
    pub(super) reload: Reload,
    pub(super) config: Config,
    pub(super) registry: Arc<EngineRegistry>,
    pub(super) systemd: Systemd,
    pub(super) clock: Clock,
    pub(super) last: watch::Sender<Option<LastReload>>,
}

impl Reloader {
    /// Reloads whenever it is asked to. Ends when there is nobody left who could ask.
    pub(super) async fn run(mut self, mut asked: watch::Receiver<u64>) {
        while asked.changed().await.is_ok() {
            let _reloading = self.systemd.reloading();
            let (ok, detail) = match self.once().await {
                Ok(changed) if changed.is_empty() => (true, "nothing has changed".to_owned()),
                Ok(changed) => (true, format!("changed: {}", changed.join(", "))),
                Err(error) => (false, error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")),
            };
            if ok {
                tracing::info!(%detail, "configuration reloaded");
            } else {
                tracing::error!(%detail, "configuration not reloaded; the old one stays in force");
            }
            self.last.send_replace(Some(LastReload { at: self.clock.now(), ok, detail }));
        }
    }

    /// Takes a new configuration over, and says which keys it changed.
    async fn once(&mut self) -> Result<Vec<String>, ReloadError> {
        let read = Arc::clone(&self.reload.read);
        // Reading blocks for as long as its disk does.
        let new = tokio::task::spawn_blocking(move || read()).await??;
        let changed = differences(&self.config, &new);
        let fixed: Vec<String> = changed.iter().filter(|key| !is_reloadable(key)).cloned().collect();
        if !fixed.is_empty() {
            return Err(ReloadError::NeedsRestart(fixed));
        }
        if new.log.filter != self.config.log.filter {
            (self.reload.set_filter)(&new.log.filter)?;
        }
        if new.trading.limits != self.config.trading.limits {
            self.registry.set_limits(new.trading.limits.clone());
        }
        self.config = new;
        Ok(changed)
    }
}

fn is_reloadable(key: &str) -> bool {
    RELOADABLE.iter().any(|known| key.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// The keys whose values differ.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    let value = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    let mut found = Vec::new();
    compare("", &value(old), &value(new), &mut found);
    found
}

fn compare(key: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
            for name in names {
                let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                let [old, new] = [old, new].map(|object| object.get(name).unwrap_or(&Value::Null));
                compare(&inner, old, new, found);
            }
        }
        _ if old == new => {}
        _ => found.push(key.to_owned()),
    }
}
