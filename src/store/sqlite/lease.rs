//! Leases and the other small writes. Times are the database's clock, in microseconds.
//!
//! Writes that return rows are read to their end (`fetch_all`): sqlx resets a statement after the first row of `fetch_one`,
//! and an error of the commit that happens then would be lost.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Row as _, SqliteConnection};
use trading::ids::{AccountId, Epoch};
use trading::time::Timestamp;

use super::once::in_transaction;
use crate::store::batch::{lease_name, name_of};
use crate::store::writer::{Change, Leased};
use crate::store::{Account, ApiKey, AuditEntry, Lease, LeaseError, Revocation};

type Sql<T> = Result<T, sqlx::Error>;

/// The clock.
pub(super) const NOW: &str = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)";

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2).min(i64::MAX / 2)
}

pub(super) async fn ensure_account(conn: &mut SqliteConnection, venue: String, label: String) -> Sql<Account> {
    // `DO UPDATE` changes nothing, but returns the row that is there.
    let row = sqlx::query(
        "INSERT INTO hg_trading_account (venue, label) VALUES (?1, ?2)
         ON CONFLICT (label) DO UPDATE SET label = excluded.label RETURNING id, venue, label",
    )
    .bind(venue)
    .bind(label)
    .fetch_all(conn)
    .await?
    .pop()
    .ok_or(sqlx::Error::RowNotFound)?;
    Ok(Account { id: AccountId(row.try_get(0)?), venue: row.try_get(1)?, label: row.try_get(2)? })
}

/// Makes the change. Each is one statement, but for what tells who else holds it.
pub(super) async fn change(conn: &mut SqliteConnection, change: &Change) -> Sql<Leased> {
    let (lease, held) = match change {
        Change::Acquire { account, owner, ttl, predecessor_is_dead } => {
            return acquire(conn, *account, Arc::clone(owner), *ttl, *predecessor_is_dead).await;
        }
        Change::Renew { lease, ttl } => (lease, renew(conn, lease, *ttl).await?),
        Change::Release { lease } => (lease, release(conn, lease).await?),
        Change::Transfer { lease, to, ttl } => (lease, transfer(conn, lease, to, *ttl).await?),
    };
    Ok(if held { Ok(lease.clone()) } else { Err(LeaseError::Lost(lease.account)) })
}

async fn acquire(
    conn: &mut SqliteConnection,
    account: AccountId,
    owner: Arc<str>,
    ttl: Duration,
    predecessor_is_dead: bool,
) -> Sql<Leased> {
    let epoch: Option<i64> = sqlx::query_scalar(
        "INSERT INTO hg_trading_lease AS held (name, owner, epoch, expires_at)
         VALUES (?1, ?2, 1, CAST(unixepoch('subsec') * 1000000 AS INTEGER) + ?3)
         ON CONFLICT (name) DO UPDATE
         SET owner = excluded.owner, epoch = held.epoch + 1, expires_at = excluded.expires_at
         WHERE ?4 OR held.owner = excluded.owner
            OR held.expires_at <= CAST(unixepoch('subsec') * 1000000 AS INTEGER)
         RETURNING epoch",
    )
    .bind(lease_name(account))
    .bind(owner.as_ref())
    .bind(micros(ttl))
    .bind(predecessor_is_dead)
    .fetch_all(&mut *conn)
    .await?
    .pop();
    if let Some(epoch) = epoch {
        return Ok(Ok(Lease { account, owner, epoch: Epoch(epoch) }));
    }
    let holder = sqlx::query(
        "SELECT owner, expires_at - CAST(unixepoch('subsec') * 1000000 AS INTEGER) FROM hg_trading_lease WHERE name = ?",
    )
    .bind(lease_name(account))
    .fetch_one(conn)
    .await?;
    let remaining = Duration::from_micros(u64::try_from(holder.try_get::<i64, _>(1)?).unwrap_or(0));
    Ok(Err(LeaseError::Held { account, owner: holder.try_get(0)?, remaining }))
}

/// Whether the lease was still held, and so was prolonged.
async fn renew(conn: &mut SqliteConnection, lease: &Lease, ttl: Duration) -> Sql<bool> {
    let done = sqlx::query(
        "UPDATE hg_trading_lease SET expires_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) + ?4
         WHERE name = ?1 AND owner = ?2 AND epoch = ?3
           AND expires_at > CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
    )
    .bind(lease_name(lease.account))
    .bind(lease.owner.as_ref())
    .bind(lease.epoch.0)
    .bind(micros(ttl))
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether the lease was this owner's to give up. The row stays, for its epoch.
async fn release(conn: &mut SqliteConnection, lease: &Lease) -> Sql<bool> {
    let done = sqlx::query("UPDATE hg_trading_lease SET expires_at = 0 WHERE name = ?1 AND owner = ?2 AND epoch = ?3")
        .bind(lease_name(lease.account))
        .bind(lease.owner.as_ref())
        .bind(lease.epoch.0)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether the lease was still held, and so went over to its next owner.
async fn transfer(conn: &mut SqliteConnection, lease: &Lease, to: &str, ttl: Duration) -> Sql<bool> {
    let done = sqlx::query(
        "UPDATE hg_trading_lease
         SET owner = ?4, epoch = epoch + 1, expires_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) + ?5
         WHERE name = ?1 AND owner = ?2 AND epoch = ?3
           AND expires_at > CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
    )
    .bind(lease_name(lease.account))
    .bind(lease.owner.as_ref())
    .bind(lease.epoch.0)
    .bind(to)
    .bind(micros(ttl))
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn add_api_key(conn: &mut SqliteConnection, key: ApiKey) -> Sql<()> {
    let role = name_of(&key.role)?;
    sqlx::query("INSERT INTO hg_sys_api_key (id, name, hash, signed, role, created_at) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(key.id)
        .bind(key.name)
        .bind(key.hash)
        .bind(key.signed)
        .bind(role)
        .bind(key.created_at.micros())
        .execute(conn)
        .await?;
    Ok(())
}

pub(super) async fn revoke_api_key(conn: &mut SqliteConnection, id: String, at: Timestamp) -> Sql<Revocation> {
    in_transaction(conn, async |conn| revoke(conn, id, at).await).await
}

async fn revoke(conn: &mut SqliteConnection, id: String, at: Timestamp) -> Sql<Revocation> {
    let done = sqlx::query(
        "UPDATE hg_sys_api_key SET revoked_at = ?2, hash = 'revoked:' || id
         WHERE id = ?1 AND revoked_at IS NULL AND (role <> 'admin' OR EXISTS (
             SELECT 1 FROM hg_sys_api_key WHERE id <> ?1 AND role = 'admin' AND revoked_at IS NULL))",
    )
    .bind(&id)
    .bind(at.micros())
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(Revocation::Revoked);
    }
    let known: Option<Option<i64>> =
        sqlx::query_scalar("SELECT revoked_at FROM hg_sys_api_key WHERE id = ?").bind(id).fetch_optional(conn).await?;
    Ok(match known {
        None => Revocation::NotFound,
        Some(Some(_)) => Revocation::Revoked,
        Some(None) => Revocation::LastAdmin,
    })
}

pub(super) async fn append_audit(conn: &mut SqliteConnection, entry: AuditEntry) -> Sql<()> {
    sqlx::query("INSERT INTO hg_sys_audit (at, actor, act, target) VALUES (?, ?, ?, ?)")
        .bind(entry.at.micros())
        .bind(entry.actor)
        .bind(entry.act)
        .bind(entry.target)
        .execute(conn)
        .await?;
    Ok(())
}
