//! Notices: what they are, and how they are read.

use serde::{Deserialize, Serialize};
use trading::time::Timestamp;
use utoipa::ToSchema;

use super::read::{Columns, Query, Read, Reader, Row};

const MAX_NOTICES: u32 = 100;

/// How much a release matters to users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// May affect trading: told a day ahead.
    Major,
    /// Told afterwards.
    Minor,
    /// Told at once, with what was fixed.
    Hotfix,
}

/// What users are told about a release. Row of `hg_sys_notice`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub severity: Severity,
    /// In words.
    pub message: String,
    /// When it was told.
    pub created_at: Timestamp,
    /// When what it is about happens, if it did not already.
    pub effective_at: Option<Timestamp>,
}

/// A notice with its number; later ones have higher numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredNotice {
    /// Its number.
    pub id: i64,
    /// The notice.
    pub notice: Notice,
}

pub(super) async fn notices(on: &mut impl Reader, since: Timestamp) -> Read<Vec<StoredNotice>> {
    Query::new("SELECT id, severity, message, created_at, effective_at FROM hg_sys_notice")
        .filter("COALESCE(effective_at, created_at) > ?", Some(since.micros()))
        .page("id DESC", MAX_NOTICES)
        .all(on, to_notice)
        .await
}

fn to_notice<R: Row>(row: &R) -> Read<StoredNotice> {
    let mut row = Columns::of(row);
    let id = row.integer()?;
    let (severity, message) = (row.parse()?, row.text()?.into_owned());
    let notice = Notice { severity, message, created_at: row.time()?, effective_at: row.time_opt()? };
    Ok(StoredNotice { id, notice })
}
