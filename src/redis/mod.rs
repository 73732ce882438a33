//! Redis: connections of which nothing waits without a limit, behind a circuit breaker.
//!
//! Redis makes things quicker and decides nothing. Whoever uses it has another way when it is not there, and takes that way at
//! once while the breaker is open.

mod breaker;
mod heartbeat;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind,
};
use tokio::time::timeout;

use crate::config::{RedisConfig, parse_redis_url};

pub use breaker::{Breaker, Pass, Rules, State};
pub use heartbeat::Heartbeat;

/// Connections of the pool.
const CONNECTIONS: usize = 8;
/// How long a command waits for one of them.
const WAIT: Duration = Duration::from_millis(250);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(1);
/// How long a connection of the pool may take to show that it still lives.
const RECYCLE: Duration = Duration::from_millis(500);
/// How long an answer may take.
const RESPONSE: Duration = Duration::from_secs(1);
/// How long all of this may take together.
const IN_ALL: Duration = Duration::from_millis(1_500);
/// Data that the other side does not acknowledge for this long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);
/// When it opens, and how often it is tried again.
const RULES: Rules =
    Rules { failures: 3, first_wait: Duration::from_millis(250), longest_wait: Duration::from_secs(3) };

/// Why there is no answer. Any but [`RedisFailure::Refused`] says nothing about whether a command was carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RedisFailure {
    /// Nothing was sent: it did not answer several times in a row, and is not asked for the moment.
    #[error("Redis is not asked for the moment: it has failed several times in a row")]
    Open,
    /// It took too long.
    #[error("Redis did not answer in time")]
    TimedOut,
    /// The connection broke or could not be made.
    #[error("Redis failed: {0}")]
    Failed(String),
    /// It answered, with an error of this code.
    #[error("Redis refused: {code} {detail}")]
    Refused {
        /// Such as `NOGROUP`.
        code: String,
        /// Its words.
        detail: String,
    },
}

/// Why Redis cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum RedisSetupError {
    /// The URL.
    #[error("redis.url {0}")]
    Url(String),
    /// The file with the password.
    #[error("redis.password_file = {}: {source}", path.display())]
    Password {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The pool.
    #[error("the connections to Redis cannot be set up: {0}")]
    Pool(String),
}

/// A Redis server. Cheap to clone.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    client: Client,
    pool: Pool,
    breaker: Mutex<Breaker>,
    address: String,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("address", &self.0.address).field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Redis {
    /// As configured; `None` if there is none. Connects to nothing yet.
    ///
    /// # Errors
    /// See [`RedisSetupError`].
    pub fn open(config: &RedisConfig) -> Result<Option<Self>, RedisSetupError> {
        let Some(url) = &config.url else { return Ok(None) };
        let info = parse_redis_url(url).map_err(RedisSetupError::Url)?;
        let mut settings = info.redis_settings().clone();
        if let Some(path) = &config.password_file {
            let read = std::fs::read_to_string(path);
            let text = read.map_err(|source| RedisSetupError::Password { path: path.clone(), source })?;
            settings = settings.set_password(text.trim_end_matches(['\r', '\n']));
        }
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_user_timeout(UNACKNOWLEDGED)
            .set_keepalive(TcpKeepalive::new().with_time(UNACKNOWLEDGED).with_interval(UNACKNOWLEDGED));
        let info = info.set_redis_settings(settings.set_skip_set_lib_name()).set_tcp_settings(tcp);
        Ok(Some(Self::at(info)?))
    }

    fn at(info: ConnectionInfo) -> Result<Self, RedisSetupError> {
        let failed = |error: &dyn fmt::Display| RedisSetupError::Pool(error.to_string());
        let address = info.addr().to_string();
        let client = Client::open(info.clone()).map_err(|error| failed(&error))?;
        let manager = Manager::new_with_config(info, settings(RESPONSE)).map_err(|error| failed(&error))?;
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .wait_timeout(Some(WAIT))
            .create_timeout(Some(CONNECT))
            .recycle_timeout(Some(RECYCLE))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| failed(&error))?;
        describe_metrics();
        Ok(Self(Arc::new(Inner { client, pool, breaker: Mutex::new(Breaker::new(RULES)), address })))
    }

    /// Where it is, without credentials.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Where its breaker stands.
    pub fn state(&self) -> State {
        self.0.breaker.lock().unwrap_or_else(PoisonError::into_inner).state()
    }

    /// Whether it is asked at all.
    pub fn is_well(&self) -> bool {
        matches!(self.state(), State::Closed { .. })
    }

    /// Does something over a connection of the pool: bounded in time, and at once [`RedisFailure::Open`] while the breaker is.
    ///
    /// Cancel safety: what was sent may have been carried out.
    ///
    /// # Errors
    /// See [`RedisFailure`].
    pub async fn run<T, F>(&self, work: impl FnOnce(MultiplexedConnection) -> F) -> Result<T, RedisFailure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let asking = Box::pin(async {
            let pooled = self.0.pool.get().await.map_err(|error| no_connection(&error))?;
            let result = work(MultiplexedConnection::clone(&pooled)).await.map_err(|error| classified(&error));
            if matches!(&result, Err(failure) if !matches!(failure, RedisFailure::Refused { .. })) {
                // What comes late over this connection must not meet the next caller.
                drop(Connection::take(pooled));
            }
            result
        });
        self.guarded(IN_ALL, asking).await
    }

    /// One command, as [`Redis::run`].
    ///
    /// # Errors
    /// See [`RedisFailure`].
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisFailure> {
        self.run(|mut connection| async move { command.query_async(&mut connection).await }).await
    }

    /// A connection of the caller's own, whose answers may take as long as `answers_within` says: for commands that block.
    ///
    /// # Errors
    /// See [`RedisFailure`].
    pub async fn connect(&self, answers_within: Duration) -> Result<MultiplexedConnection, RedisFailure> {
        let settings = settings(answers_within);
        let connecting = async {
            let mut connection = self.0.client.get_multiplexed_async_connection_with_config(&settings).await?;
            // Of a server that stands still the kernel takes connections, too.
            redis::cmd("PING").query_async::<()>(&mut connection).await?;
            Ok(connection)
        };
        self.over(CONNECT * 2, Box::pin(connecting)).await
    }

    /// Does something over a connection that [`Redis::connect`] made, bounded in time and as far as the breaker lets it.
    ///
    /// # Errors
    /// See [`RedisFailure`]. After any but [`RedisFailure::Refused`] the connection is of no more use.
    pub async fn over<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, RedisFailure> {
        self.guarded(limit, async { work.await.map_err(|error| classified(&error)) }).await
    }

    /// A connection of its own that hears what is published on a channel.
    ///
    /// # Errors
    /// See [`RedisFailure`].
    pub async fn subscribe(&self, channel: &str) -> Result<PubSub, RedisFailure> {
        let subscribing = async {
            let mut subscriber = self.0.client.get_async_pubsub().await?;
            subscriber.subscribe(channel).await?;
            Ok(subscriber)
        };
        self.over(CONNECT * 2, Box::pin(subscribing)).await
    }

    /// Closes the pool. Later commands fail.
    pub fn close(&self) {
        self.0.pool.close();
    }

    /// Asks the breaker first, bounds the time, and tells the breaker how it went.
    async fn guarded<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, RedisFailure>>,
    ) -> Result<T, RedisFailure> {
        let Some(mut asking) = Asking::admitted(&self.0) else {
            metrics::counter!("hotgo_redis_refused_total").increment(1);
            return Err(RedisFailure::Open);
        };
        let result = timeout(limit, work).await.unwrap_or(Err(RedisFailure::TimedOut));
        asking.ended(result.as_ref().err());
        result
    }
}

/// One that the breaker let through. Dropped before it has ended, it is abandoned.
struct Asking<'a> {
    inner: &'a Inner,
    pass: Option<Pass>,
}

impl<'a> Asking<'a> {
    fn admitted(inner: &'a Inner) -> Option<Self> {
        let pass = inner.breaker.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())?;
        Some(Self { inner, pass: Some(pass) })
    }

    fn ended(&mut self, failure: Option<&RedisFailure>) {
        let Some(pass) = self.pass.take() else { return };
        metrics::counter!("hotgo_redis_commands_total").increment(1);
        let mut breaker = self.inner.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let was_closed = matches!(breaker.state(), State::Closed { .. });
        match failure {
            // It answers, and that is all that the breaker is about.
            None | Some(RedisFailure::Refused { .. }) => breaker.succeeded(pass),
            Some(_) => breaker.failed(pass, Instant::now(), rand::random()),
        }
        let is_closed = matches!(breaker.state(), State::Closed { .. });
        drop(breaker);
        if let Some(failure) = failure {
            metrics::counter!("hotgo_redis_failures_total").increment(1);
            if was_closed && !is_closed {
                tracing::warn!(address = %self.inner.address, %failure, "Redis is not asked any more, but for probes; everything goes on without it");
            }
        }
        if was_closed != is_closed {
            metrics::gauge!("hotgo_redis_breaker_open").set(if is_closed { 0.0 } else { 1.0 });
            if is_closed {
                tracing::info!(address = %self.inner.address, "Redis answers again");
            }
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.inner.breaker.lock().unwrap_or_else(PoisonError::into_inner).abandoned(pass, Instant::now());
        }
    }
}

fn describe_metrics() {
    metrics::describe_counter!("hotgo_redis_commands_total", "Commands and connections tried");
    metrics::describe_counter!("hotgo_redis_failures_total", "Of these, those that failed");
    metrics::describe_counter!("hotgo_redis_refused_total", "Commands not tried, while the breaker was open");
    metrics::describe_gauge!("hotgo_redis_breaker_open", "1 while Redis is not asked, but for probes");
    metrics::gauge!("hotgo_redis_breaker_open").set(0.0);
}

fn settings(response: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(response))
}

fn no_connection(error: &PoolError) -> RedisFailure {
    match error {
        PoolError::Timeout(_) => RedisFailure::TimedOut,
        PoolError::Backend(error) => classified(error),
        other => RedisFailure::Failed(other.to_string()),
    }
}

/// What an error of the client says about the server.
pub(crate) fn classified(error: &redis::RedisError) -> RedisFailure {
    // It answers, but will not do anything for anybody before it is itself again.
    let useless = [ServerErrorKind::BusyLoading, ServerErrorKind::MasterDown, ServerErrorKind::ClusterDown];
    match (error.kind(), error.code()) {
        (ErrorKind::Server(kind), _) if useless.contains(&kind) => RedisFailure::Failed(error.to_string()),
        (ErrorKind::AuthenticationFailed, _) => RedisFailure::Failed(error.to_string()),
        (_, Some(code)) => {
            RedisFailure::Refused { code: code.to_owned(), detail: error.detail().unwrap_or_default().to_owned() }
        }
        _ if error.is_timeout() => RedisFailure::TimedOut,
        _ => RedisFailure::Failed(error.to_string()),
    }
}
