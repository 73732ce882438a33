//! The parameters of a transaction.

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::sql;
use super::text::{escape, escape_json};
use crate::store::batch::{Batch, Rows};

/// The call that writes a batch.
pub(super) fn statement(batch: &Batch<'_>) -> Result<Query<'static, Postgres, PgArguments>, serde_json::Error> {
    let tables = batch.tables()?;
    let mut query = sqlx::query(sql::COMMIT);
    for rows in [
        tables.guard,
        tables.robots,
        tables.states,
        tables.signals,
        tables.orders,
        tables.fills,
        tables.positions,
        tables.balances,
    ] {
        query = query.bind(rows.map(|Rows { json, .. }| escape_json(json)));
    }
    let events = batch.events();

    let mut payloads = Vec::with_capacity(events.len());
    for (_, recorded) in events {
        payloads.push(escape(&serde_json::to_string(&recorded.event)?).into_owned());
    }
    Ok(query
        .bind(events.iter().map(|(account, _)| account.0).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, recorded)| recorded.seq.0).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, recorded)| recorded.at.micros()).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, recorded)| recorded.event.kind()).collect::<Vec<_>>())
        .bind(payloads))
}
