//! How SQLite's drivers run the common reads: sqlx for the server, rusqlite for the checker.

use std::borrow::Cow;

use sqlx::sqlite::{SqliteExecutor, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection, SqlitePool, SqliteTransaction};
use trading::engine::Snapshot;
use trading::ids::AccountId;

use crate::store::StoreError;
use crate::store::read::{self, Bind, Query, Read, Reader, Row};

fn corrupt(what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(what.to_string())
}

impl Row for SqliteRow {
    fn integer(&self, index: usize) -> Read<Option<i64>> {
        self.try_get(index).map_err(corrupt)
    }

    fn text(&self, index: usize) -> Read<Option<Cow<'_, str>>> {
        Ok(self.try_get::<Option<&str>, _>(index).map_err(corrupt)?.map(Cow::Borrowed))
    }
}

impl Row for rusqlite::Row<'_> {
    fn integer(&self, index: usize) -> Read<Option<i64>> {
        self.get_ref(index).map_err(corrupt)?.as_i64_or_null().map_err(corrupt)
    }

    fn text(&self, index: usize) -> Read<Option<Cow<'_, str>>> {
        Ok(self.get_ref(index).map_err(corrupt)?.as_str_or_null().map_err(corrupt)?.map(Cow::Borrowed))
    }
}

async fn fetch<'e>(on: impl SqliteExecutor<'e>, query: Query) -> Read<Vec<SqliteRow>> {
    let statement = query.binds.into_iter().fold(sqlx::query(AssertSqlSafe(query.text)), |query, bind| match bind {
        Bind::Number(number) => query.bind(number),
        Bind::Text(text) => query.bind(text),
    });
    Ok(statement.fetch_all(on).await?)
}

impl Reader for &SqlitePool {
    type Row = SqliteRow;

    async fn fetch(&mut self, query: Query) -> Read<Vec<SqliteRow>> {
        fetch(*self, query).await
    }
}

impl Reader for &mut SqliteConnection {
    type Row = SqliteRow;

    async fn fetch(&mut self, query: Query) -> Read<Vec<SqliteRow>> {
        fetch(&mut **self, query).await
    }
}

impl Reader for SqliteTransaction<'_> {
    type Row = SqliteRow;

    async fn fetch(&mut self, query: Query) -> Read<Vec<SqliteRow>> {
        fetch(&mut **self, query).await
    }
}

/// The account as one transaction sees it.
pub(super) async fn load(pool: &SqlitePool, account: AccountId) -> Read<Snapshot> {
    let mut tx = pool.begin().await?;
    let snapshot = read::load(&mut tx, account).await?;
    tx.rollback().await?;
    Ok(snapshot)
}
