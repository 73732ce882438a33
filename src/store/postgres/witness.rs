//! Looks into a server's database from outside, for a simulated exchange that wants to know whether an order was written
//! down before it was sent.

use async_trait::async_trait;
use sqlx::PgConnection;
use tokio::sync::Mutex;
use tokio::time::timeout;
use trading::ids::ClientOrderId;
use venue::witness::{Blind, Witness};

use super::open::{Server, Use, connect};
use super::text::escape;
use crate::store::read::READ_TIMEOUT;

/// A read-only look at a database.
#[derive(Debug)]
pub struct PostgresWitness {
    server: Server,
    /// Open as long as it answers.
    connection: Mutex<Option<PgConnection>>,
}

impl PostgresWitness {
    /// Nothing is opened before the first look.
    pub fn new(server: Server) -> Self {
        Self { server, connection: Mutex::new(None) }
    }
}

async fn look(connection: &mut PgConnection, client_id: &ClientOrderId) -> Result<bool, sqlx::Error> {
    // Each statement outside of a transaction sees what is committed when it begins.
    let found: Option<i32> = sqlx::query_scalar("SELECT 1 FROM hg_trading_order WHERE client_id = $1")
        .bind(escape(client_id.as_str()))
        .fetch_optional(connection)
        .await?;
    Ok(found.is_some())
}

#[async_trait]
impl Witness for PostgresWitness {
    async fn is_committed(&self, client_id: &ClientOrderId) -> Result<bool, Blind> {
        let mut held = self.connection.lock().await;
        // Taken out: one that fails or is given up is closed.
        if let Some(mut connection) = held.take()
            && let Ok(Ok(found)) = timeout(READ_TIMEOUT, look(&mut connection, client_id)).await
        {
            *held = Some(connection);
            return Ok(found);
        }
        let blind = |error: sqlx::Error| Blind(error.to_string());
        let looking = async {
            let mut connection = connect(&self.server, Use::Read).await.map_err(blind)?;
            let found = look(&mut connection, client_id).await.map_err(blind)?;
            Ok((connection, found))
        };
        let late = Err(Blind(format!("no answer within {READ_TIMEOUT:?}")));
        let (connection, found) = timeout(READ_TIMEOUT, looking).await.unwrap_or(late)?;
        *held = Some(connection);
        Ok(found)
    }
}
