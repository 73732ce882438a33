//! `store`: which database.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::binance::secret_file_fault;
use super::show::redact;
use crate::store::Database;
use crate::store::postgres::Server;

/// `store`: the database. SQLite unless there is a URL.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The SQLite file; `hotgo.db` in the data directory if absent.
    pub path: Option<PathBuf>,
    /// A PostgreSQL database: `postgres://user@host:port/database`, with `?host=/run/postgresql` for a Unix socket.
    pub url: Option<String>,
    /// The file that holds the password for `url`; for its owner only.
    pub password_file: Option<PathBuf>,
    /// Whether the server migrates the database when it starts.
    pub migrate: Migrate,
    /// At most this many connections to PostgreSQL: one writes, the others read.
    pub max_connections: u32,
}

/// Whether the server migrates the database when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Migrate {
    /// What is pending and does not contract, unless another process of its data directory lives.
    AtBoot,
    /// It refuses to start on a schema that it does not accept: `main migrate up` is a step of its own.
    Never,
}

/// A setting that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct StoreFault {
    /// Such as `store.url`.
    pub key: &'static str,
    /// What is wrong with it, and what to do.
    pub problem: String,
}

impl StoreConfig {
    /// The database that these settings name. Reads the password.
    ///
    /// # Errors
    /// [`StoreFault`] when they contradict each other or name nothing.
    pub fn database(&self, data_dir: &Path) -> Result<Database, StoreFault> {
        let fault = |key, problem: String| StoreFault { key, problem };
        // Empty means absent, so that a flag or variable can take it back.
        let Some(url) = self.url.as_deref().filter(|url| !url.is_empty()) else {
            if self.password_file.is_some() {
                return Err(fault("store.password_file", "is of no use without store.url; remove it".into()));
            }
            return Ok(Database::Sqlite(self.path.clone().unwrap_or_else(|| data_dir.join("hotgo.db"))));
        };
        if self.path.is_some() {
            let problem = "contradicts store.path: one is PostgreSQL, the other SQLite; remove one of them";
            return Err(fault("store.url", problem.into()));
        }
        if url.split_once('?').is_some_and(|(_, query)| query.contains("password")) {
            let problem = "write the password into store.password_file, not into the query";
            return Err(fault("store.url", problem.into()));
        }
        let password = self.password_file.as_deref().map(password).transpose()?;
        let server = Server::new(url, password.as_deref()).map_err(|problem| fault("store.url", problem))?;
        Ok(Database::Postgres(server.with_connections(self.max_connections)))
    }
}

fn password(path: &Path) -> Result<String, StoreFault> {
    let fault = |problem: String| StoreFault { key: "store.password_file", problem };
    if let Some(problem) = secret_file_fault(path) {
        return Err(fault(problem));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(fault("is empty; write the password into it".into())),
        password => Ok(password.to_owned()),
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("path", &self.path)
            .field("url", &self.url.as_deref().map(|url| redact("store.url", url)))
            .field("password_file", &self.password_file)
            .field("migrate", &self.migrate)
            .field("max_connections", &self.max_connections)
            .finish()
    }
}
