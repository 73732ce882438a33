//! What instances must not do twice or too often: nonces and counters of requests.

use std::collections::HashMap;

use sqlx::{Connection as _, PgConnection, Row as _};
use trading::time::Timestamp;

use super::text::{escape, unescape};

type Sql<T> = Result<T, sqlx::Error>;

/// How many rows that nobody needs any more are cleared beside those that are written.
const CLEAR: i64 = 64;

/// Whether the nonce was new. Of two instances that offer the same one, the second waits for the first.
pub(super) async fn use_nonce(
    conn: &mut PgConnection,
    key_id: String,
    nonce: String,
    expires_at: Timestamp,
) -> Sql<bool> {
    let done = sqlx::query(
        "WITH cleared AS (
             DELETE FROM hg_sys_nonce WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM hg_sys_nonce
                 WHERE expires_at <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
                 ORDER BY expires_at LIMIT $4 FOR UPDATE SKIP LOCKED)))
         INSERT INTO hg_sys_nonce (key_id, nonce, expires_at)
         SELECT $1, $2, $3 WHERE $3 > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
         ON CONFLICT DO NOTHING",
    )
    .bind(escape(&key_id))
    .bind(escape(&nonce))
    .bind(expires_at.micros())
    .bind(CLEAR)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Adds to these counters; what each counts now, in their order.
pub(super) async fn count_requests(
    conn: &mut PgConnection,
    window_start: Timestamp,
    counts: Vec<(String, u64)>,
    oldest: Timestamp,
) -> Sql<Vec<u64>> {
    if counts.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = conn.begin().await?;
    // In one order everywhere, so that two instances never wait for each other.
    let mut sorted = counts.clone();
    sorted.sort_unstable();
    let names: Vec<_> = sorted.iter().map(|(name, _)| escape(name).into_owned()).collect();
    let adds: Vec<_> = sorted.iter().map(|(_, count)| i64::try_from(*count).unwrap_or(i64::MAX)).collect();
    let rows = sqlx::query(
        "INSERT INTO hg_sys_rate AS stored (name, window_start, count)
         SELECT name, $1, count FROM unnest($2::text[], $3::bigint[]) AS given (name, count)
         ON CONFLICT (name, window_start) DO UPDATE SET count = stored.count + excluded.count
         RETURNING name, count",
    )
    .bind(window_start.micros())
    .bind(names)
    .bind(adds)
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query(
        "DELETE FROM hg_sys_rate WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM hg_sys_rate WHERE window_start < $1 ORDER BY window_start LIMIT $2
             FOR UPDATE SKIP LOCKED))",
    )
    .bind(oldest.micros())
    .bind(CLEAR)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    let mut totals = HashMap::new();
    for row in &rows {
        totals.insert(unescape(row.try_get(0)?).into_owned(), row.try_get::<i64, _>(1)?);
    }
    let total = |name: &String| totals.get(name).and_then(|total| u64::try_from(*total).ok()).unwrap_or(0);
    Ok(counts.iter().map(|(name, _)| total(name)).collect())
}
