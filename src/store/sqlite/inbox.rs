//! The inbox: commands that wait for the owner of their account.

use sqlx::sqlite::SqliteRow;
use sqlx::{SqliteConnection, SqlitePool};
use trading::command::Command;
use trading::ids::AccountId;
use trading::time::Timestamp;

use super::read::{self, Columns, Read};
use crate::store::{Stored, Waiting};

/// Nobody writes between the statements: this is the only connection that does.
pub(super) async fn store(
    conn: &mut SqliteConnection,
    account: AccountId,
    command: Command,
    at: Timestamp,
    room: u32,
) -> Result<Read<Stored>, sqlx::Error> {
    let Command { source, dedup_key, wish } = command;
    let wish = serde_json::to_string(&wish).map_err(|error| sqlx::Error::Encode(error.into()))?;
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
    Ok(found(conn, &source, &dedup_key).await)
}

async fn found(conn: &mut SqliteConnection, source: &str, dedup_key: &str) -> Read<Stored> {
    if let Some(record) = read::command(&mut *conn, source, dedup_key).await? {
        return Ok(Stored::Decided(Box::new(record)));
    }
    let rows = sqlx::query(ONE).bind(source).bind(dedup_key).fetch_all(conn).await?;
    let waiting = rows.first().map(to_waiting).transpose()?;
    Ok(waiting.map_or(Stored::Full, |waiting| Stored::Waiting(Box::new(waiting))))
}

const ONE: &str = "SELECT id, account, source, dedup_key, wish, received_at FROM hg_trading_inbox
     WHERE source = ? AND dedup_key = ?";

pub(super) async fn waiting_one(pool: &SqlitePool, source: &str, dedup_key: &str) -> Read<Option<Waiting>> {
    let rows = sqlx::query(ONE).bind(source).bind(dedup_key).fetch_all(pool).await?;
    rows.first().map(to_waiting).transpose()
}

pub(super) async fn waiting(pool: &SqlitePool, accounts: &[AccountId], limit: u32) -> Read<Vec<Waiting>> {
    // The plus keeps the search to these accounts, however many commands of others wait.
    let rows = sqlx::query(
        "SELECT id, account, source, dedup_key, wish, received_at FROM hg_trading_inbox
         WHERE account IN (SELECT value FROM json_each(?)) ORDER BY +id LIMIT ?",
    )
    .bind(read::numbers(accounts)?)
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?;
    rows.iter().map(to_waiting).collect()
}

fn to_waiting(row: &SqliteRow) -> Read<Waiting> {
    let mut row = Columns::of(row);
    Ok(Waiting {
        id: row.integer()?,
        account: AccountId(row.integer()?),
        source: row.text()?.to_owned(),
        dedup_key: row.text()?.to_owned(),
        wish: serde_json::from_str(row.text()?).map_err(|error| error.to_string()),
        received_at: row.time()?,
    })
}
