//! Connecting: where the server is, how sessions are set, and what the server must be.

use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _};
use tokio::time::timeout;

use super::sql;
use crate::store::migrate::Schema;
use crate::store::sqlite::OpenError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A session that a lost connection left behind has so long to end.
const END_PREDECESSOR: Duration = Duration::from_secs(1);
/// The oldest release that is supported upstream.
const MIN_VERSION: i32 = 140_000;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Use {
    Write,
    Read,
    Migrate,
    /// A reader that may take its time.
    Audit,
    /// One long transaction that fills an empty database.
    Copy,
}

impl Use {
    /// The settings of its session, whatever the server's configuration says.
    fn settings(self) -> Vec<(&'static str, &'static str)> {
        let (statement, lock) = match self {
            Use::Write => ("5s", "2s"),
            Use::Read => ("10s", "2s"),
            Use::Migrate => ("5s", "1s"),
            Use::Audit | Use::Copy => ("0", "2s"),
        };
        let idle = match self {
            Use::Audit => "0",
            // What it reads from may be slow.
            Use::Copy => "60s",
            _ => "10s",
        };
        let mut settings = vec![
            ("statement_timeout", statement),
            ("lock_timeout", lock),
            ("idle_in_transaction_session_timeout", idle),
            ("synchronous_commit", "on"),
            // Compiling a plan takes a hundred times as long as any statement of ours. A scan that is off has a cost that would
            // always ask for it.
            ("jit", "off"),
            // A connection whose other end is gone is ended: within seconds, and not after hours.
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "10000"),
            ("client_connection_check_interval", "1s"),
        ];
        if self == Use::Write {
            // The one statement is always the same: it is planned once, when tables may still be empty, and looks rows up by
            // their keys. A plan that reads whole tables would stay when they have grown.
            settings.push(("plan_cache_mode", "force_generic_plan"));
            for scan in ["enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"] {
                settings.push((scan, "off"));
            }
        } else if matches!(self, Use::Read | Use::Audit) {
            settings.push(("default_transaction_read_only", "on"));
        }
        settings
    }

    fn name(self) -> &'static str {
        match self {
            Use::Write => "hotgo writer",
            Use::Read => "hotgo reader",
            Use::Migrate => "hotgo migrate",
            Use::Audit => "hotgo audit",
            Use::Copy => "hotgo copy",
        }
    }
}

/// Where a database is, and how many connections it may have. Shown without its password.
#[derive(Clone)]
pub struct Server {
    options: Arc<PgConnectOptions>,
    name: Arc<str>,
    pub(super) max_connections: u32,
}

impl Server {
    /// Reads `postgres://user@host:port/database`, or `postgres:///database?host=/run/postgresql` for a Unix socket. The
    /// password, if one is given, takes the place of the URL's own.
    ///
    /// # Errors
    /// What is wrong, in words. They never hold the password.
    pub fn new(url: &str, password: Option<&str>) -> Result<Self, String> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err("must begin with postgres://".into());
        }
        let options = PgConnectOptions::from_str(url).map_err(|error| match error {
            sqlx::Error::Configuration(error) => error.to_string(),
            other => other.to_string(),
        })?;
        if options.get_database().is_none() {
            return Err("names no database; write postgres://user@host:port/database".into());
        }
        let options = match password {
            Some(password) => options.password(password),
            None => options,
        };
        let options = options.disable_statement_logging();
        let place = match options.get_socket() {
            Some(directory) => format!("{}:{}", directory.display(), options.get_port()),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let database = options.get_database().unwrap_or_default();
        let name = format!("postgres://{}@{place}/{database}", options.get_username());
        Ok(Self { options: Arc::new(options), name: name.into(), max_connections: 8 })
    }

    /// The same with at most this many connections, the writer's included; at least two.
    #[must_use]
    pub fn with_connections(self, max_connections: u32) -> Self {
        Self { max_connections, ..self }
    }
}

impl Server {
    /// Whether it answers and is fit to keep orders. Changes nothing.
    ///
    /// # Errors
    /// [`OpenError::Unreachable`] and [`OpenError::Unsuitable`].
    pub async fn check(&self) -> Result<(), OpenError> {
        let mut conn = reach(self, Use::Migrate).await?;
        check_server(&mut conn, self).await?;
        Ok(conn.close().await?)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({}, {} connections)", self.name, self.max_connections)
    }
}

/// How to open a database.
#[derive(Debug)]
pub struct OpenOptions {
    /// Whether to apply pending migrations. Otherwise a schema that is too old is refused.
    pub migrate: bool,
    /// The schema; this binary's own by default.
    pub schema: Schema,
    /// How many commits and other writes may wait; further ones wait for room.
    pub queue: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { migrate: true, schema: Schema::postgres(), queue: 1024 }
    }
}

/// A connection with the settings of its use, or an error within [`CONNECT_TIMEOUT`].
pub(in crate::store) async fn connect(server: &Server, to: Use) -> Result<PgConnection, sqlx::Error> {
    let options = PgConnectOptions::clone(&server.options).application_name(to.name()).options(to.settings());
    timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options))
        .await
        .unwrap_or_else(|_| Err(unusable(format!("{server} did not answer within {CONNECT_TIMEOUT:?}"))))
}

/// Names a process of the server, so that it can be ended, and no other that has its number by then.
#[derive(Debug, Clone, Default)]
pub(super) struct Backing {
    pid: i32,
    since: String,
}

/// The writer's connection, ready to write.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) conn: PgConnection,
    pub(super) backend: Backing,
}

impl Session {
    /// Connects, ends what the writer's last connection left behind, and makes the session ready.
    pub(super) async fn open(server: &Server, predecessor: Option<&Backing>) -> Result<Self, sqlx::Error> {
        let mut conn = connect(server, Use::Write).await?;
        let backend = timeout(CONNECT_TIMEOUT, prepare(&mut conn, predecessor)).await.unwrap_or_else(|_| {
            Err(unusable(format!("{server} did not make the session ready within {CONNECT_TIMEOUT:?}")))
        })?;
        Ok(Self { conn, backend })
    }
}

fn unusable(why: String) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other(why))
}

async fn prepare(conn: &mut PgConnection, predecessor: Option<&Backing>) -> Result<Backing, sqlx::Error> {
    conn.execute(sql::INSTALL).await?;
    let none = Backing::default();
    let predecessor = predecessor.unwrap_or(&none);
    let row: PgRow = sqlx::query(
        "SELECT own.pid, own.backend_start::text, pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean,
             (SELECT bool_and(pg_terminate_backend(old.pid, $3)) FROM pg_stat_activity AS old
              WHERE old.pid = $1 AND old.backend_start::text = $2)
         FROM pg_stat_activity AS own WHERE own.pid = pg_backend_pid()",
    )
    .bind(predecessor.pid)
    .bind(&predecessor.since)
    .bind(i64::try_from(END_PREDECESSOR.as_millis()).unwrap_or(i64::MAX))
    .fetch_one(conn)
    .await?;
    if row.try_get(2)? {
        return Err(unusable("the server only takes reads".into()));
    }
    if row.try_get::<Option<bool>, _>(3)? == Some(false) {
        return Err(unusable("what the last connection asked for has not ended yet".into()));
    }
    Ok(Backing { pid: row.try_get(0)?, since: row.try_get(1)? })
}

pub(super) async fn open(server: &Server, options: &OpenOptions) -> Result<Session, OpenError> {
    server.check().await?;
    if options.migrate {
        options.schema.up_on_server(server).await?;
    } else {
        options.schema.accepts_server(server).await?;
    }
    Session::open(server, None).await.map_err(|error| unreachable_server(server, &error))
}

/// Connects, or says in an operator's words why that does not work.
pub(in crate::store) async fn reach(server: &Server, to: Use) -> Result<PgConnection, OpenError> {
    connect(server, to).await.map_err(|error| unreachable_server(server, &error))
}

fn unreachable_server(server: &Server, error: &sqlx::Error) -> OpenError {
    let detail = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    OpenError::Unreachable { server: server.to_string(), detail }
}

/// Refuses a server that could lose what it confirmed, or that does not behave as the commits expect.
pub(in crate::store) async fn check_server(conn: &mut PgConnection, server: &Server) -> Result<(), OpenError> {
    let row: PgRow = sqlx::query(
        "SELECT current_setting('server_version_num')::integer, pg_is_in_recovery(),
             current_setting('transaction_read_only'), current_setting('fsync'), current_setting('full_page_writes'),
             current_setting('transaction_isolation'), current_setting('server_encoding')",
    )
    .fetch_one(conn)
    .await?;
    let setting = |index: usize| row.try_get::<String, _>(index);
    let fault = if row.try_get::<i32, _>(0)? < MIN_VERSION {
        Some(("it is older than PostgreSQL 14".to_owned(), "upgrade it"))
    } else if row.try_get(1)? {
        Some(("it is a standby, in recovery".to_owned(), "name the primary in store.url, or promote this one"))
    } else if setting(2)? != "off" {
        Some((
            "its transactions only read".to_owned(),
            "set default_transaction_read_only = off for this database and this user",
        ))
    } else if setting(3)? != "on" {
        Some((
            "fsync is off: a power failure would lose orders that were confirmed".to_owned(),
            "set fsync = on in postgresql.conf, and run pg_ctl reload",
        ))
    } else if setting(4)? != "on" {
        Some((
            "full_page_writes is off: a power failure could tear pages".to_owned(),
            "set full_page_writes = on in postgresql.conf, and run pg_ctl reload",
        ))
    } else if setting(5)? != "read committed" {
        Some((
            format!("its transactions are {} by default", setting(5)?),
            "set default_transaction_isolation = 'read committed' for this database and this user",
        ))
    } else if setting(6)? != "UTF8" {
        Some((
            format!("the database's encoding is {}", setting(6)?),
            "make it anew: CREATE DATABASE .. ENCODING 'UTF8' TEMPLATE template0",
        ))
    } else {
        None
    };
    match fault {
        Some((problem, remedy)) => Err(OpenError::Unsuitable { server: server.to_string(), problem, remedy }),
        None => Ok(()),
    }
}
