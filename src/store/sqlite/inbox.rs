//! The inbox: commands that wait for the owner of their account.

use sqlx::SqliteConnection;
use trading::command::Command;
use trading::ids::AccountId;
use trading::time::Timestamp;

use super::once::in_transaction;
use crate::store::Stored;
use crate::store::read::{self, Read};

pub(super) async fn store(
    conn: &mut SqliteConnection,
    account: AccountId,
    command: Command,
    at: Timestamp,
    room: u32,
) -> Result<Read<Stored>, sqlx::Error> {
    let Command { source, dedup_key, wish } = command;
    let wish = serde_json::to_string(&wish).map_err(|error| sqlx::Error::Encode(error.into()))?;
    in_transaction(conn, async |mut conn| {
        let done = sqlx::query(
            "INSERT INTO hg_trading_inbox (account, source, dedup_key, wish, received_at)
         SELECT ?1, ?2, ?3, ?4, ?5
         WHERE NOT EXISTS (SELECT 1 FROM hg_trading_signal WHERE source = ?2 AND dedup_key = ?3)
           AND (SELECT count(*) FROM (SELECT 1 FROM hg_trading_inbox WHERE account = ?1 LIMIT ?6)) < ?6
         ON CONFLICT (source, dedup_key) DO NOTHING",
        )
        .bind(account.0)
        .bind(&source)
        .bind(&dedup_key)
        .bind(wish)
        .bind(at.micros())
        .bind(i64::from(room))
        .execute(&mut *conn)
        .await?;
        if done.rows_affected() == 1 {
            return Ok(Ok(Stored::New));
        }
        Ok(read::not_stored(&mut conn, &source, &dedup_key).await)
    })
    .await
}
