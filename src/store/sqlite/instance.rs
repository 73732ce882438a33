//! Who is here, and who holds what.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Row as _, SqliteConnection};
use trading::ids::AccountId;
use trading::time::Timestamp;

use super::lease::micros;
use crate::store::{Instance, InstanceRow};

type Sql<T> = Result<T, sqlx::Error>;

/// An instance that died is remembered for an hour, in microseconds: for those who look.
const REMEMBERED: i64 = 3_600_000_000;

fn until(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

pub(super) async fn beat(conn: &mut SqliteConnection, row: InstanceRow, ttl: Duration) -> Sql<Vec<Instance>> {
    let accounts: Vec<i64> = row.accounts.iter().map(|account| account.0).collect();
    sqlx::query(
        "INSERT INTO hg_sys_instance (id, name, address, build_id, accounts, draining, started_at, expires_at, standby, successor)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, CAST(unixepoch('subsec') * 1000000 AS INTEGER) + ?8, ?9, ?10)
         ON CONFLICT (id) DO UPDATE SET
             name = excluded.name, address = excluded.address, build_id = excluded.build_id,
             accounts = excluded.accounts, draining = excluded.draining, expires_at = excluded.expires_at,
             standby = excluded.standby, successor = excluded.successor",
    )
    .bind(row.id.as_ref())
    .bind(row.name)
    .bind(row.address)
    .bind(row.build_id)
    .bind(serde_json::to_string(&accounts).map_err(|error| sqlx::Error::Encode(error.into()))?)
    .bind(row.draining)
    .bind(row.started_at.micros())
    .bind(micros(ttl))
    .bind(row.standby)
    .bind(row.successor.as_deref())
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM hg_sys_instance WHERE expires_at < CAST(unixepoch('subsec') * 1000000 AS INTEGER) - ?")
        .bind(REMEMBERED)
        .execute(&mut *conn)
        .await?;
    living(conn).await
}

/// Those that were heard of lately.
pub(in crate::store) async fn living(conn: &mut SqliteConnection) -> Sql<Vec<Instance>> {
    let rows = sqlx::query(
        "SELECT id, name, address, build_id, accounts, draining, started_at,
             expires_at - CAST(unixepoch('subsec') * 1000000 AS INTEGER) AS remaining, standby, successor
         FROM hg_sys_instance WHERE remaining > 0 ORDER BY id",
    )
    .fetch_all(conn)
    .await?;
    rows.iter().map(instance).collect()
}

fn instance(row: &sqlx::sqlite::SqliteRow) -> Sql<Instance> {
    let accounts: Vec<i64> =
        serde_json::from_str(row.try_get(4)?).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let found = InstanceRow {
        id: Arc::from(row.try_get::<&str, _>(0)?),
        name: row.try_get(1)?,
        address: row.try_get(2)?,
        build_id: row.try_get(3)?,
        accounts: accounts.into_iter().map(AccountId).collect(),
        draining: row.try_get(5)?,
        started_at: Timestamp::from_micros(row.try_get(6)?),
        standby: row.try_get(8)?,
        successor: row.try_get::<Option<&str>, _>(9)?.map(Arc::from),
    };
    Ok(Instance { row: found, remaining: until(row.try_get(7)?) })
}

pub(super) async fn leave(conn: &mut SqliteConnection, id: String) -> Sql<()> {
    sqlx::query("DELETE FROM hg_sys_instance WHERE id = ?").bind(id).execute(conn).await.map(drop)
}

pub(super) async fn bind_ledger(conn: &mut SqliteConnection, account: AccountId, ledger: String) -> Sql<String> {
    sqlx::query_scalar("UPDATE hg_trading_account SET ledger = coalesce(ledger, ?2) WHERE id = ?1 RETURNING ledger")
        .bind(account.0)
        .bind(ledger)
        .fetch_all(conn)
        .await?
        .pop()
        .ok_or(sqlx::Error::RowNotFound)
}
