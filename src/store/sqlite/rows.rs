//! The statements and the parameters of a transaction.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteArguments;

use super::sql;
use crate::store::batch::{self, Batch, Rows};

/// A text of several statements, with the parameters of all of them.
pub(super) struct Statement {
    text: String,
    arguments: Vec<Argument>,
}

enum Argument {
    Text(String),
    Blob(Vec<u8>),
    Number(i64),
}

impl Statement {
    /// The text and the parameters of the transaction.
    pub(super) fn of(batch: &Batch<'_>) -> Result<Self, serde_json::Error> {
        let mut to = Self { text: sql::BEGIN.to_owned(), arguments: Vec::new() };
        let tables = batch.tables()?;
        let decided = tables.signals.clone();
        for (sql, all_newer, rows) in [
            (sql::GUARD, false, tables.guard),
            (sql::ROBOTS, true, tables.robots),
            (sql::STATES, true, tables.states),
            (sql::SIGNALS, false, tables.signals),
            (sql::ORDERS, true, tables.orders),
            (sql::FILLS, false, tables.fills),
            (sql::POSITIONS, true, tables.positions),
            (sql::BALANCES, true, tables.balances),
        ] {
            to.table(sql, all_newer, rows);
        }
        to.table(sql::DECIDED, false, decided);
        to.events(batch)?;
        to.text.push_str(sql::COMMIT);
        Ok(to)
    }

    /// Adds one table's rows, if there are any.
    fn table(&mut self, sql: &str, all_newer: bool, rows: Option<Rows>) {
        let Some(Rows { json, count }) = rows else { return };
        self.text.push_str(sql);
        self.arguments.push(Argument::Text(json));
        if all_newer {
            self.text.push_str(sql::ALL_NEWER);
            self.arguments.push(Argument::Number(count));
        }
    }

    fn events(&mut self, batch: &Batch<'_>) -> Result<(), serde_json::Error> {
        let events = batch.events();
        let mut payloads = Vec::with_capacity(events.len() * 512);
        let mut ends = Vec::with_capacity(events.len());
        for (_, recorded) in events {
            serde_json::to_writer(&mut payloads, &recorded.event)?;
            ends.push(payloads.len());
        }
        self.arguments.push(Argument::Blob(payloads));
        let mut start = 0;
        let rows = batch::table(events.iter().zip(ends), |row, ((account, recorded), end)| {
            row.put(account)?;
            row.put(&recorded.seq)?;
            row.put(&recorded.at)?;
            row.put(recorded.event.kind())?;
            row.put(&(start + 1))?;
            row.put(&(end - start))?;
            start = end;
            Ok(())
        })?;
        self.table(sql::EVENTS, false, rows);
        Ok(())
    }

    pub(super) fn into_query<'q>(self) -> sqlx::query::Query<'q, sqlx::Sqlite, SqliteArguments> {
        let query = sqlx::query(AssertSqlSafe(self.text));
        self.arguments.into_iter().fold(query, |query, argument| match argument {
            Argument::Text(text) => query.bind(text),
            Argument::Blob(bytes) => query.bind(bytes),
            Argument::Number(number) => query.bind(number),
        })
    }
}
