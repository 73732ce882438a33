//! Everything that a database holds, as one transaction sees it: for the checker. Blocking.

use trading::command::Record;
use trading::event::Recorded;
use trading::ids::{AccountId, RobotId, Seq};
use trading::order::Order;
use trading::position::{Balance, Position};
use trading::robot::{Robot, StrategyState};
use trading::time::Timestamp;

use super::read::{self, Columns, Read, Row};
use super::{Account, Database, StoreError, StoredFill, postgres, sqlite};

/// One row of a database, but of no event.
#[derive(Debug)]
pub enum StoredRow {
    /// Of `hg_trading_account`. These come first.
    Account(Account),
    /// Of `hg_trading_robot`.
    Robot(Robot),
    /// Of `hg_trading_strategy_state`, with the number of the event that it comes from.
    State(RobotId, StrategyState, Seq),
    /// Of `hg_trading_order`.
    Order(Order),
    /// Of `hg_trading_fill`, in the order in which they were booked.
    Fill(StoredFill),
    /// Of `hg_trading_position`.
    Position(Position),
    /// Of `hg_trading_balance`.
    Balance(AccountId, Balance),
    /// Of `hg_trading_signal`. These come after everything that they may refer to.
    Command(AccountId, Record),
}

/// One row of `hg_trading_event`, as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct StoredEvent<'a> {
    /// Whose.
    pub account: AccountId,
    /// Its number.
    pub seq: Seq,
    /// When it was decided.
    pub at: Timestamp,
    /// What kind it is.
    pub kind: &'a str,
    /// The event as JSON.
    pub payload: &'a str,
}

/// A database that is read, all from one moment. Works while a server writes.
#[derive(Debug)]
pub enum Dump {
    /// Of a file.
    Sqlite(sqlite::Dump),
    /// Of a server.
    Postgres(postgres::Dump),
}

impl Dump {
    /// Opens it for reading only. For a server's this must be called, as all that follows, from a thread of a tokio runtime
    /// that may block.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it cannot be opened or read, as from all that follow.
    pub fn open(database: &Database) -> Result<Self, StoreError> {
        Ok(match database {
            Database::Sqlite(path) => Self::Sqlite(sqlite::Dump::open(path)?),
            Database::Postgres(server) => Self::Postgres(postgres::Dump::open(server)?),
        })
    }

    /// How many rows there are, more or less.
    pub fn rows(&mut self) -> Result<u64, StoreError> {
        match self {
            Self::Sqlite(dump) => dump.rows(),
            Self::Postgres(dump) => dump.rows(),
        }
    }

    /// Hands every row but the events to `each`.
    pub fn tables(&mut self, each: &mut dyn FnMut(StoredRow)) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(dump) => dump.tables(each),
            Self::Postgres(dump) => dump.tables(each),
        }
    }

    /// Hands every event to `each`, those of an account in the order of their numbers, unless somebody changed the file.
    pub fn events(
        &mut self,
        each: &mut dyn FnMut(StoredEvent<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(dump) => dump.events(each),
            Self::Postgres(dump) => dump.events(each),
        }
    }

    /// Hands the number of every event to `each`, ordered by account and number.
    pub fn numbers(&mut self, each: &mut dyn FnMut(AccountId, Seq)) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(dump) => dump.numbers(each),
            Self::Postgres(dump) => dump.numbers(each),
        }
    }

    /// One event.
    pub fn event(&mut self, account: AccountId, seq: Seq) -> Result<Option<Recorded>, StoreError> {
        match self {
            Self::Sqlite(dump) => dump.event(account, seq),
            Self::Postgres(dump) => dump.event(account, seq),
        }
    }
}

/// How many rows [`Dump`] gives, more or less.
pub(super) const COUNT: &str = "SELECT (SELECT count(*) FROM hg_trading_order) + (SELECT count(*) FROM hg_trading_fill)
    + (SELECT count(*) FROM hg_trading_signal) + (SELECT count(*) FROM hg_trading_event)";

/// A table, but that of the events.
#[derive(Debug, Clone, Copy)]
pub(super) enum Table {
    Accounts,
    Robots,
    States,
    Orders,
    Fills,
    Positions,
    Balances,
    Signals,
}

impl Table {
    /// In the order in which they are read.
    pub(super) const ALL: [Self; 8] = [
        Self::Accounts,
        Self::Robots,
        Self::States,
        Self::Orders,
        Self::Fills,
        Self::Positions,
        Self::Balances,
        Self::Signals,
    ];

    pub(super) fn select(self) -> String {
        match self {
            Self::Accounts => read::ACCOUNT.to_owned(),
            Self::Robots => read::ROBOT.to_owned(),
            Self::States => "SELECT robot, state, at_seq FROM hg_trading_strategy_state".to_owned(),
            Self::Orders => read::ORDER.to_owned(),
            Self::Fills => format!("{} ORDER BY id", read::FILL),
            Self::Positions => read::POSITION.to_owned(),
            Self::Balances => "SELECT asset, total, opening, version, account FROM hg_trading_balance".to_owned(),
            Self::Signals => {
                "SELECT source, dedup_key, payload, received_at, detail, account FROM hg_trading_signal".to_owned()
            }
        }
    }

    pub(super) fn to_row<R: Row>(self, row: &R) -> Read<StoredRow> {
        Ok(match self {
            Self::Accounts => StoredRow::Account(read::to_account(row)?),
            Self::Robots => StoredRow::Robot(read::to_robot(row)?),
            Self::States => {
                let mut row = Columns::of(row);
                StoredRow::State(RobotId(row.integer()?), row.json()?, Seq(row.integer()?))
            }
            Self::Orders => StoredRow::Order(read::to_order(row)?),
            Self::Fills => StoredRow::Fill(read::to_fill(row)?),
            Self::Positions => StoredRow::Position(read::to_position(row)?),
            Self::Balances => {
                let mut row = Columns::of(row);
                let balance = read::to_balance(&mut row)?;
                StoredRow::Balance(AccountId(row.integer()?), balance)
            }
            Self::Signals => {
                let mut row = Columns::of(row);
                let record = read::to_record(&mut row)?;
                StoredRow::Command(AccountId(row.integer()?), record)
            }
        })
    }
}
