//! Everything that a database holds, as one transaction sees it: for the checker.

use std::path::Path;

use futures_util::TryStreamExt as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, SqliteConnection};
use trading::command::Record;
use trading::event::Recorded;
use trading::ids::{AccountId, RobotId, Seq};
use trading::order::Order;
use trading::position::{Balance, Position};
use trading::robot::{Robot, StrategyState};

use super::read::{self, Columns, Read};
use super::{OpenError, connect_options};
use crate::store::{Account, StoreError, StoredFill};

/// One row of a database.
#[derive(Debug)]
pub enum StoredRow {
    /// Of `hg_trading_account`. These come first.
    Account(Account),
    /// Of `hg_trading_robot`.
    Robot(Robot),
    /// Of `hg_trading_strategy_state`, with the number of the event that it comes from.
    State(RobotId, StrategyState, Seq),
    /// Of `hg_trading_signal`.
    Command(AccountId, Record),
    /// Of `hg_trading_order`.
    Order(Order),
    /// Of `hg_trading_fill`.
    Fill(StoredFill),
    /// Of `hg_trading_position`.
    Position(Position),
    /// Of `hg_trading_balance`.
    Balance(AccountId, Balance),
    /// Of `hg_trading_event`, ordered by account and number.
    Event(AccountId, Recorded),
}

/// Hands every row of the database at `path` to `each`, all from one moment. Works while a server writes: it only keeps
/// the log from being truncated meanwhile.
///
/// # Errors
/// [`StoreError::Unavailable`] when the database cannot be opened or read, [`StoreError::Corrupt`] when a row makes no sense.
pub async fn dump(path: &Path, mut each: impl FnMut(StoredRow) + Send) -> Result<(), StoreError> {
    let unavailable = |error: OpenError| StoreError::Unavailable(error.to_string());
    let mut conn = SqliteConnection::connect_with(&connect_options(path).read_only(true).row_buffer_size(1024))
        .await
        .map_err(|error| unavailable(error.into()))?;
    let mut tx = conn.begin().await?;
    for (select, to_row) in TABLES {
        let mut rows = sqlx::query(*select).fetch(&mut *tx);
        while let Some(row) = rows.try_next().await? {
            each(to_row(&row)?);
        }
    }
    tx.rollback().await?;
    conn.close().await?;
    Ok(())
}

type Table = (&'static str, fn(&SqliteRow) -> Read<StoredRow>);

const TABLES: &[Table] = &[
    (read::ACCOUNT, |row| read::to_account(row).map(StoredRow::Account)),
    (read::ROBOT, |row| read::to_robot(row).map(StoredRow::Robot)),
    ("SELECT robot, state, at_seq FROM hg_trading_strategy_state", |row| {
        let mut row = Columns::of(row);
        Ok(StoredRow::State(RobotId(row.get()?), row.json()?, Seq(row.get()?)))
    }),
    ("SELECT source, dedup_key, payload, received_at, detail, account FROM hg_trading_signal", |row| {
        let mut columns = Columns::of(row);
        let record = read::to_record(&mut columns)?;
        Ok(StoredRow::Command(AccountId(columns.get()?), record))
    }),
    (read::ORDER, |row| read::to_order(row).map(StoredRow::Order)),
    (read::FILL, |row| read::to_fill(row).map(StoredRow::Fill)),
    (read::POSITION, |row| read::to_position(row).map(StoredRow::Position)),
    ("SELECT asset, total, opening, version, account FROM hg_trading_balance", |row| {
        let mut columns = Columns::of(row);
        let balance = read::to_balance(&mut columns)?;
        Ok(StoredRow::Balance(AccountId(columns.get()?), balance))
    }),
    ("SELECT seq, at, payload, account FROM hg_trading_event ORDER BY account, seq", |row| {
        let mut columns = Columns::of(row);
        let recorded = read::to_event(&mut columns)?;
        Ok(StoredRow::Event(AccountId(columns.get()?), recorded))
    }),
];
