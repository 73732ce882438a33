//! Looks into a server's database from outside, for a simulated exchange that wants to know whether an order was written
//! down before it was sent.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Mutex;
use trading::ids::ClientOrderId;
use venue::witness::{Blind, Witness};

use super::connect_options;

/// A read-only look at a database, which may not exist yet, and may be made anew.
#[derive(Debug)]
pub struct SqliteWitness {
    path: PathBuf,
    /// Open as long as it answers. One that says no is not believed: the file may be another one by now.
    connection: Mutex<Option<SqliteConnection>>,
}

impl SqliteWitness {
    /// Nothing is opened before the first look.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), connection: Mutex::new(None) }
    }
}

async fn look(connection: &mut SqliteConnection, client_id: &ClientOrderId) -> Result<bool, sqlx::Error> {
    // Each statement outside of a transaction sees what is committed when it begins.
    let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM hg_trading_order WHERE client_id = ?")
        .bind(client_id.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(found.is_some())
}

#[async_trait]
impl Witness for SqliteWitness {
    async fn is_committed(&self, client_id: &ClientOrderId) -> Result<bool, Blind> {
        // One look at a time; each is bounded by SQLite's busy time-out.
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_mut()
            && let Ok(true) = look(connection, client_id).await
        {
            return Ok(true);
        }
        *held = None;
        if !self.path.exists() {
            return Ok(false);
        }
        let blind = |error: sqlx::Error| Blind(error.to_string());
        let options = connect_options(&self.path).read_only(true);
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(blind)?;
        let found = look(&mut connection, client_id).await.map_err(blind)?;
        *held = Some(connection);
        Ok(found)
    }
}
