//! Notices.

use sqlx::{Connection as _, PgConnection};
use trading::time::Timestamp;

use super::text::escape;
use crate::store::Notice;
use crate::store::batch::name_of;

pub(super) async fn add(conn: &mut PgConnection, notice: Notice, since: Timestamp) -> Result<bool, sqlx::Error> {
    let mut tx = conn.begin().await?;
    // Otherwise two that say the same at once would not see each other.
    sqlx::query("LOCK TABLE hg_sys_notice IN SHARE ROW EXCLUSIVE MODE").execute(&mut *tx).await?;
    let done = sqlx::query(
        "INSERT INTO hg_sys_notice (severity, message, created_at, effective_at)
         SELECT $1, $2, $3, $4 WHERE NOT EXISTS (
             SELECT 1 FROM hg_sys_notice
             WHERE severity = $1 AND message = $2 AND effective_at IS NOT DISTINCT FROM $4 AND COALESCE(effective_at, created_at) > $5)",
    )
        .bind(name_of(&notice.severity)?)
        .bind(escape(&notice.message))
        .bind(notice.created_at.micros())
        .bind(notice.effective_at.map(Timestamp::micros))
        .bind(since.micros())
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(done.rows_affected() == 1)
}
