//! Notices.

use sqlx::SqliteConnection;
use trading::time::Timestamp;

use crate::store::Notice;
use crate::store::batch::name_of;

pub(super) async fn add(conn: &mut SqliteConnection, notice: Notice, since: Timestamp) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO hg_sys_notice (severity, message, created_at, effective_at)
         SELECT ?1, ?2, ?3, ?4 WHERE NOT EXISTS (
             SELECT 1 FROM hg_sys_notice
             WHERE severity = ?1 AND message = ?2 AND effective_at IS ?4 AND COALESCE(effective_at, created_at) > ?5)",
    )
    .bind(name_of(&notice.severity)?)
    .bind(notice.message)
    .bind(notice.created_at.micros())
    .bind(notice.effective_at.map(Timestamp::micros))
    .bind(since.micros())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}
