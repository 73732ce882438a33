//! What instances must not do twice or too often: nonces and counters of requests.
//!
//! A nonce costs an fsync, so those that wait share one: each caller leaves its nonce with the others and asks the writer to
//! take all that are there. The first to be served takes them for everybody; the others find nothing left to do.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{Row as _, SqliteConnection};
use tokio::sync::oneshot;
use trading::time::Timestamp;

use crate::store::StoreError;

/// How many rows that nobody needs any more are cleared beside those that are written, at least.
const CLEAR: usize = 64;

type Answer = oneshot::Sender<Result<bool, StoreError>>;
type Sql<T> = Result<T, sqlx::Error>;

#[derive(Debug)]
struct Nonce {
    key_id: String,
    text: String,
    expires_at: Timestamp,
    answer: Answer,
}

/// Nonces that wait for the writer.
#[derive(Debug, Clone, Default)]
pub(super) struct Nonces(Arc<Mutex<Vec<Nonce>>>);

impl Nonces {
    /// Leaves a nonce here. Somebody has to call [`Nonces::take_all`] after that.
    pub(super) fn add(
        &self,
        key_id: &str,
        nonce: &str,
        expires_at: Timestamp,
    ) -> oneshot::Receiver<Result<bool, StoreError>> {
        let (answer, answered) = oneshot::channel();
        let waiting = Nonce { key_id: key_id.to_owned(), text: nonce.to_owned(), expires_at, answer };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(waiting);
        answered
    }

    /// Takes those that wait, in one transaction, and answers their callers.
    pub(super) async fn take_all(&self, conn: &mut SqliteConnection) -> Sql<()> {
        let waiting = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if waiting.is_empty() {
            return Ok(());
        }
        let taken = in_transaction(conn, async |conn| use_nonces(conn, &waiting).await).await;
        let (mut taken, failure) = match taken {
            Ok(taken) => (taken, None),
            Err(error) => (HashSet::new(), Some(error)),
        };
        let failed = failure.as_ref().map(|error| StoreError::Unavailable(error.to_string()));
        for Nonce { key_id, text, answer, .. } in waiting {
            // Of equals in one transaction the first gets it.
            let first = taken.remove(&(key_id, text));
            let _gone = answer.send(failed.clone().map_or(Ok(first), Err));
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Those that were new.
async fn use_nonces(conn: &mut SqliteConnection, waiting: &[Nonce]) -> Sql<HashSet<(String, String)>> {
    let given: Vec<_> = waiting.iter().map(|it| (&it.key_id, &it.text, it.expires_at.micros())).collect();
    let rows = sqlx::query(
        "INSERT INTO hg_sys_nonce (key_id, nonce, expires_at)
         SELECT value ->> 0, value ->> 1, value ->> 2 FROM jsonb_each(?)
         WHERE value ->> 2 > CAST(unixepoch('subsec') * 1000000 AS INTEGER)
         ON CONFLICT DO NOTHING RETURNING key_id, nonce",
    )
    .bind(json(&given)?)
    .fetch_all(&mut *conn)
    .await?;
    let clear = i64::try_from(waiting.len() + CLEAR).unwrap_or(i64::MAX);
    sqlx::query(
        "DELETE FROM hg_sys_nonce WHERE (key_id, nonce) IN (
             SELECT key_id, nonce FROM hg_sys_nonce
             WHERE expires_at <= CAST(unixepoch('subsec') * 1000000 AS INTEGER) ORDER BY expires_at LIMIT ?)",
    )
    .bind(clear)
    .execute(conn)
    .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Adds to these counters; what each counts now, in their order.
pub(super) async fn count_requests(
    conn: &mut SqliteConnection,
    window_start: Timestamp,
    counts: Vec<(String, u64)>,
    oldest: Timestamp,
) -> Sql<Vec<u64>> {
    if counts.is_empty() {
        return Ok(Vec::new());
    }
    let totals = in_transaction(conn, async |conn| {
        let rows = sqlx::query(
            "INSERT INTO hg_sys_rate AS stored (name, window_start, count)
             SELECT value ->> 0, ?1, value ->> 1 FROM jsonb_each(?2) WHERE true
             ON CONFLICT (name, window_start) DO UPDATE SET count = stored.count + excluded.count
             RETURNING name, count",
        )
        .bind(window_start.micros())
        .bind(json(&counts)?)
        .fetch_all(&mut *conn)
        .await?;
        let clear = i64::try_from(counts.len() + CLEAR).unwrap_or(i64::MAX);
        sqlx::query(
            "DELETE FROM hg_sys_rate WHERE (name, window_start) IN (
                 SELECT name, window_start FROM hg_sys_rate WHERE window_start < ? ORDER BY window_start LIMIT ?)",
        )
        .bind(oldest.micros())
        .bind(clear)
        .execute(conn)
        .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Sql<HashMap<String, i64>>>()
    })
    .await?;
    let total = |name: &String| totals.get(name).and_then(|total| u64::try_from(*total).ok()).unwrap_or(0);
    Ok(counts.iter().map(|(name, _)| total(name)).collect())
}

fn json<T: serde::Serialize>(rows: &T) -> Sql<String> {
    serde_json::to_string(rows).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// What several statements do, with nobody in between.
pub(super) async fn in_transaction<T>(
    conn: &mut SqliteConnection,
    work: impl AsyncFnOnce(&mut SqliteConnection) -> Sql<T>,
) -> Sql<T> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await?;
    let done = match work(&mut *conn).await {
        Ok(done) => sqlx::query("COMMIT").execute(&mut *conn).await.map(|_| done),
        Err(error) => Err(error),
    };
    if done.is_err() {
        // Many errors have undone the transaction already; then this fails and says nothing.
        let _undone = sqlx::query("ROLLBACK").execute(conn).await;
    }
    done
}
