//! The inbox: commands that wait for the owner of their account.
//!
//! The decision of a command can be committed while the same command is being stored here by another instance, so that neither
//! sees the other. What was decided is therefore never read from the inbox, and swept when the account's inbox is next used.

use sqlx::PgConnection;
use trading::command::Command;
use trading::ids::AccountId;
use trading::time::Timestamp;

use super::text::{escape, escape_json};
use crate::store::Stored;
use crate::store::read::{self, Read};

pub(super) async fn store(
    mut conn: &mut PgConnection,
    account: AccountId,
    command: Command,
    at: Timestamp,
    room: u32,
) -> Result<Read<Stored>, sqlx::Error> {
    let Command { source, dedup_key, wish } = command;
    let wish = serde_json::to_string(&wish).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(
        "DELETE FROM hg_trading_inbox AS waiting USING hg_trading_signal AS decided
         WHERE waiting.account = $1 AND decided.source = waiting.source AND decided.dedup_key = waiting.dedup_key",
    )
    .bind(account.0)
    .execute(&mut *conn)
    .await?;
    let done = sqlx::query(
        "INSERT INTO hg_trading_inbox (account, source, dedup_key, wish, received_at)
         SELECT $1, $2, $3, $4, $5
         WHERE NOT EXISTS (SELECT 1 FROM hg_trading_signal WHERE source = $2 AND dedup_key = $3)
           AND (SELECT count(*) FROM (SELECT 1 FROM hg_trading_inbox WHERE account = $1 LIMIT $6) AS its) < $6
         ON CONFLICT (source, dedup_key) DO NOTHING",
    )
    .bind(account.0)
    .bind(escape(&source))
    .bind(escape(&dedup_key))
    .bind(escape_json(wish))
    .bind(at.micros())
    .bind(i64::from(room))
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(Ok(Stored::New));
    }
    Ok(read::not_stored(&mut conn, &source, &dedup_key).await)
}
