//! The two databases: how the server opens each, and the best raw writer of the same rows into the same one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use hotgo::store::postgres::{self, PostgresStore, Server};
use hotgo::store::sqlite::{OpenOptions, SqliteStore};
use hotgo::store::{Account, Store};
use rusqlite::types::Value;
use rusqlite::{Connection, TransactionBehavior, params_from_iter};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;

use crate::postgres_server::Postgres;
use crate::raw::{Batch, TABLES, Table};

/// As in production, but for the size.
const SERVER: [&str; 4] = ["shared_buffers=256MB", "autovacuum=on", "max_wal_size=2GB", "min_wal_size=512MB"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Sqlite, Self::Postgres];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// A database that is there to be opened.
pub(crate) enum Database {
    Sqlite(PathBuf),
    Postgres(Server),
}

impl Database {
    /// The store, and its writer for the caller to run.
    pub(crate) async fn open(&self) -> (Arc<dyn Store>, BoxFuture<'static, ()>) {
        match self {
            Self::Sqlite(path) => {
                let (store, writer) = SqliteStore::open(path, OpenOptions::default()).await.unwrap();
                (Arc::new(store), Box::pin(writer.run()))
            }
            Self::Postgres(server) => {
                let (store, writer) = PostgresStore::open(server, postgres::OpenOptions::default()).await.unwrap();
                (Arc::new(store), Box::pin(writer.run()))
            }
        }
    }
}

/// Where databases of a kind are made. PostgreSQL is reached through its Unix socket.
pub(crate) struct Place {
    directory: TempDir,
    server: Option<Postgres>,
}

impl Place {
    pub(crate) fn new(kind: Kind) -> Self {
        let server = (kind == Kind::Postgres).then(|| Postgres::start_with(&SERVER));
        Self { directory: tempfile::tempdir().unwrap(), server }
    }

    pub(crate) async fn database(&self, name: &str) -> Database {
        match &self.server {
            None => Database::Sqlite(self.directory.path().join(name)),
            Some(server) => {
                let name = server.new_database().await;
                Database::Postgres(Server::new(&server.socket_url_of(&name), None).unwrap())
            }
        }
    }

    /// A database with the same schema and settings as the store's, and these accounts, to be written directly.
    pub(crate) async fn raw(&self, accounts: &[Account]) -> Raw {
        let database = match &self.server {
            None => Database::Sqlite(self.directory.path().join("raw.db")),
            Some(server) => Database::Postgres(Server::new(&server.socket_url(), None).unwrap()),
        };
        let (store, writer) = database.open().await;
        let work = async {
            for account in accounts {
                assert_eq!(store.ensure_account(&account.venue, &account.label).await.unwrap(), *account);
            }
            store.close().await;
        };
        tokio::join!(writer, work);
        match (&database, &self.server) {
            (Database::Postgres(_), Some(server)) => Raw::Postgres(RawPostgres::open(&server.socket_url()).await),
            (Database::Sqlite(path), _) => Raw::Sqlite(RawSqlite::open(path)),
            (Database::Postgres(_), None) => unreachable!("it has a server"),
        }
    }
}

/// Values made beforehand, statements prepared, one transaction per batch. It checks no lease and no sequence.
pub(crate) enum Raw {
    Sqlite(RawSqlite),
    Postgres(RawPostgres),
}

impl Raw {
    /// One transaction.
    pub(crate) async fn write(&mut self, batch: &Batch) -> Duration {
        match self {
            Self::Sqlite(raw) => raw.write(batch),
            Self::Postgres(raw) => raw.write(batch).await,
        }
    }

    /// A transaction with one of these rows: an event, under a number that is never used.
    pub(crate) async fn write_one(&mut self, batch: &Batch) -> Duration {
        let mut one = Batch::default();
        let (event, last) = (TABLES.len() - 1, &batch.rows[TABLES.len() - 1][0]);
        let mut row = last.clone();
        let Value::Integer(seq) = row[1] else { panic!("an event has a number") };
        row[1] = Value::Integer(seq + 1_000_000_000);
        one.rows[event].push(row);
        self.write(&one).await
    }
}

/// rusqlite, a prepared statement per table.
pub(crate) struct RawSqlite {
    database: Connection,
    statements: Vec<String>,
}

impl RawSqlite {
    fn open(path: &Path) -> Self {
        let database = Connection::open(path).unwrap();
        database.pragma_update(None, "journal_mode", "WAL").unwrap();
        database.pragma_update(None, "synchronous", "FULL").unwrap();
        database.pragma_update(None, "foreign_keys", true).unwrap();
        database.set_prepared_statement_cache_capacity(16);
        let marks = |table: &Table| format!("VALUES ({})", vec!["?"; table.columns.len()].join(","));
        Self { database, statements: TABLES.iter().map(|table| table.insert(&marks(table))).collect() }
    }

    fn write(&mut self, batch: &Batch) -> Duration {
        let started = Instant::now();
        let tx = self.database.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        for (sql, rows) in self.statements.iter().zip(&batch.rows).filter(|(_, rows)| !rows.is_empty()) {
            let mut statement = tx.prepare_cached(sql).unwrap();
            for row in rows {
                statement.execute(params_from_iter(row)).unwrap();
            }
        }
        tx.commit().unwrap();
        started.elapsed()
    }
}

/// One prepared statement for all tables of a batch, each by UNNEST: one round trip, one transaction, one plan for ever.
pub(crate) struct RawPostgres(PgConnection);

/// The columns that are no text.
const INTEGERS: &str = " id account robot decision_seq created_at version received_at expires_at decision leg generation attempt \
                        epoch sent_at deadline venue_id updated_at trade_id maker at seq ";

fn is_integer(column: &str) -> bool {
    INTEGERS.contains(&format!(" {column} "))
}

enum Column {
    Integers(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
}

impl Column {
    fn of(name: &str, index: usize, rows: &[Vec<Value>]) -> Self {
        let integer = |row: &Vec<Value>| match &row[index] {
            Value::Integer(value) => Some(*value),
            Value::Null => None,
            other => panic!("{name}: {other:?}"),
        };
        let text = |row: &Vec<Value>| match &row[index] {
            Value::Text(value) => Some(value.clone()),
            Value::Null => None,
            other => panic!("{name}: {other:?}"),
        };
        if is_integer(name) {
            Self::Integers(rows.iter().map(integer).collect())
        } else {
            Self::Texts(rows.iter().map(text).collect())
        }
    }
}

impl RawPostgres {
    async fn open(url: &str) -> Self {
        let mut conn = PgConnection::connect(url).await.unwrap();
        conn.execute("SET synchronous_commit = on; SET plan_cache_mode = force_generic_plan").await.unwrap();
        Self(conn)
    }

    async fn write(&mut self, batch: &Batch) -> Duration {
        let (mut parts, mut columns) = (Vec::new(), Vec::new());
        for (table, rows) in TABLES.iter().zip(&batch.rows).filter(|(_, rows)| !rows.is_empty()) {
            let mut arrays = Vec::new();
            for (index, (name, _)) in table.columns.iter().enumerate() {
                columns.push(Column::of(name, index, rows));
                arrays.push(format!("${}::{}[]", columns.len(), if is_integer(name) { "bigint" } else { "text" }));
            }
            parts.push(table.insert(&format!("SELECT * FROM unnest({})", arrays.join(","))));
        }
        let last = parts.pop().expect("a batch has events");
        let before: Vec<String> = parts.iter().enumerate().map(|(n, part)| format!("t{n} AS ({part})")).collect();
        let with = if before.is_empty() { String::new() } else { format!("WITH {} ", before.join(",")) };
        let sql = format!("{with}{last}");
        let started = Instant::now();
        let query = columns.into_iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, column| match column {
            Column::Integers(values) => query.bind(values),
            Column::Texts(values) => query.bind(values),
        });
        query.execute(&mut self.0).await.unwrap();
        started.elapsed()
    }
}
