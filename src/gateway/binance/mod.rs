//! Binance spot: a thin client of about ten REST endpoints and one stream.
//!
//! One [`BinanceVenue`] per process holds what all accounts share: connections, the request weight of this address, and the
//! venue's clock. A [`BinanceGateway`] per account is the port to it. [`BinanceDriver`] is the work in the background (the
//! clock, the accounts' streams): a future that the caller runs, which tracks everything that it starts.
//!
//! Written to the public documentation (github.com/binance/binance-spot-api-docs: rest-api, web-socket-api,
//! user-data-stream, errors, filters, enums). What is never done: a POST is never repeated, no redirect is followed, nothing
//! is sent while the venue has told us to stop. See `docs/binance.md`.

mod account;
mod beliefs;
mod classify;
mod limiter;
mod outlet;
mod rest;
mod sign;
pub(crate) mod socket;
mod stream;
mod time;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use trading::exchange::{
    CancelResult, Fill, NewOrder, OrderReport, QueryResult, SendResult, StreamEvent, VenueBalance,
};
use trading::ids::{ClientOrderId, TradeId};
use trading::market::{Symbol, SymbolInfo};
use trading::time::Timestamp;

use self::account::Account;
use self::limiter::Class;
use self::rest::{Call, Rest};
pub use self::sign::{Credentials, SecretError};
use self::socket::Dialer;
use self::stream::Subscription;
use self::time::VenueClock;
use self::wire::ServerTime;
use super::{Gateway, GatewayError, RequestWindow};
use crate::clock::Clock;
use crate::config::BinanceConfig;

/// How many events of an account's stream may wait for its consumer.
const STREAM_QUEUE: usize = 1_024;
/// How many subscriptions may wait for the driver.
const SUBSCRIPTIONS: usize = 16;
/// Between two doubts about the clock, and after a sample that was no good.
const CLOCK_RETRY: Duration = Duration::from_secs(1);

/// Why Binance cannot be reached from here at all.
#[derive(Debug, thiserror::Error)]
pub enum BinanceError {
    /// There is nothing to check certificates with.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The client cannot be made.
    #[error("the HTTP client cannot be made: {0}")]
    Client(#[from] reqwest::Error),
}

/// What all accounts at the venue share. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct BinanceVenue {
    shared: Arc<Shared>,
    subscriptions: mpsc::Sender<Subscription>,
}

#[derive(Debug)]
struct Shared {
    rest: Rest,
    dialer: Dialer,
    ws_api_url: String,
    window: RequestWindow,
    reconcile: Duration,
    rotate: Duration,
    clock_sync: Duration,
    symbols: Vec<Symbol>,
}

/// TLS as this machine trusts it. If none of these URLs needs it, nobody is trusted.
pub(crate) fn tls_for(urls: &[&str]) -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = if urls.iter().any(|url| url.starts_with("https:") || url.starts_with("wss:")) {
        builder.with_platform_verifier()?
    } else {
        builder.with_root_certificates(rustls::RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

impl BinanceVenue {
    /// Prepares the venue. Nothing is sent yet; streams and the clock need the driver to run. `symbols` are what is traded.
    pub fn open(
        config: &BinanceConfig,
        window: RequestWindow,
        symbols: Vec<Symbol>,
        clock: Clock,
    ) -> Result<(Self, BinanceDriver), BinanceError> {
        let tls = tls_for(&[&config.rest_url, &config.ws_api_url])?;
        let clock = Arc::new(VenueClock::new(clock, window.absence_margin));
        let rest = Rest::new(&config.rest_url, tls.clone(), window, clock, config.weight_reserve_percent)?;
        let dialer = Dialer {
            tls: Arc::new(tls),
            connect_timeout: window.request_timeout,
            silence: Duration::from_millis(config.silence_ms),
        };
        let shared = Arc::new(Shared {
            rest,
            dialer,
            ws_api_url: config.ws_api_url.clone(),
            window,
            reconcile: Duration::from_millis(config.reconcile_ms),
            rotate: Duration::from_millis(config.rotate_ms),
            clock_sync: Duration::from_millis(config.clock_sync_ms),
            symbols,
        });
        let (subscriptions, wanted) = mpsc::channel(SUBSCRIPTIONS);
        let driver = BinanceDriver { shared: Arc::clone(&shared), wanted };
        Ok((Self { shared, subscriptions }, driver))
    }

    /// Where requests go.
    pub fn rest_url(&self) -> &str {
        self.shared.rest.base()
    }

    /// The port of one account.
    pub fn gateway(&self, label: &str, credentials: Credentials) -> BinanceGateway {
        let account = Arc::new(Account::new(label, Arc::clone(&self.shared), credentials));
        BinanceGateway { account, subscriptions: self.subscriptions.clone() }
    }
}

impl Shared {
    /// Measures the venue's clock, unless it is known.
    async fn know_time(&self) -> Result<(), GatewayError> {
        if self.rest.clock.is_known() { Ok(()) } else { self.measure_time().await }
    }

    async fn measure_time(&self) -> Result<(), GatewayError> {
        let clock = &self.rest.clock;
        // The connection first: its handshake is no part of the round trip.
        let ping = || Call {
            method: Method::GET,
            path: "/api/v3/time",
            params: Vec::new(),
            class: Class::Resolve,
            weight: 1,
            signed: None,
        };
        let _warm: ServerTime = self.rest.call(ping()).await?;
        let sent = clock.ours();
        let ServerTime { server_time } = self.rest.call(ping()).await?;
        if clock.sample(sent, clock.ours(), Timestamp::from_millis(server_time)) {
            Ok(())
        } else {
            Err(GatewayError::Unavailable("the venue took too long to tell its time".to_owned()))
        }
    }

    /// Keeps the venue's clock known. Never ends; cancel safe.
    async fn keep_time(self: Arc<Self>) {
        let mut tick = interval(self.clock_sync);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.rest.clock.doubted() => {}
            }
            if let Err(error) = self.measure_time().await {
                tracing::warn!(%error, "the venue's clock was not measured");
                self.rest.clock.doubt();
            }
            sleep(CLOCK_RETRY).await;
        }
    }
}

/// The work in the background. The caller runs it; it ends when it is told to, and with it everything that it started.
#[derive(Debug)]
#[must_use = "no stream lives until it runs"]
pub struct BinanceDriver {
    shared: Arc<Shared>,
    wanted: mpsc::Receiver<Subscription>,
}

impl BinanceDriver {
    /// Runs until `stop`. Cancel safe: dropping it ends all streams.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut jobs = JoinSet::new();
        jobs.spawn(Arc::clone(&self.shared).keep_time());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(subscription) = self.wanted.recv() => {
                    jobs.spawn(subscription.follow());
                }
                Some(ended) = jobs.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a stream of the venue ended badly");
                    }
                }
            }
        }
        jobs.shutdown().await;
    }
}

/// One account's port to Binance.
#[derive(Debug, Clone)]
pub struct BinanceGateway {
    account: Arc<Account>,
    subscriptions: mpsc::Sender<Subscription>,
}

#[async_trait]
impl Gateway for BinanceGateway {
    fn window(&self) -> RequestWindow {
        self.account.venue.window
    }

    async fn symbols(&self) -> Result<Vec<SymbolInfo>, GatewayError> {
        let limit = self.account.venue.window.request_timeout;
        timeout(limit, self.account.symbols()).await.unwrap_or_else(|_| late())
    }

    async fn balances(&self) -> Result<Vec<VenueBalance>, GatewayError> {
        self.account.balances().await
    }

    async fn send(&self, order: &NewOrder) -> SendResult {
        self.account.send(order).await
    }

    async fn cancel(&self, symbol: &Symbol, client_id: &ClientOrderId) -> CancelResult {
        self.account.cancel(symbol, client_id).await
    }

    async fn query(&self, symbol: &Symbol, client_id: &ClientOrderId, thorough: bool) -> QueryResult {
        self.account.query(symbol, client_id, thorough).await
    }

    async fn open_orders(&self) -> Result<Vec<OrderReport>, GatewayError> {
        self.account.open_orders().await
    }

    async fn fills(&self, symbol: &Symbol, after: Option<TradeId>, limit: u32) -> Result<Vec<Fill>, GatewayError> {
        self.account.fills(symbol, after, limit).await
    }

    /// Returns once the first connection is subscribed, so that whatever is asked for afterwards misses nothing.
    async fn subscribe(&self) -> Result<mpsc::Receiver<StreamEvent>, GatewayError> {
        let (events, receiver) = mpsc::channel(STREAM_QUEUE);
        let (ready, answer) = oneshot::channel();
        let subscription = Subscription { account: Arc::clone(&self.account), events, ready };
        self.subscriptions.try_send(subscription).map_err(|_| GatewayError::Closed)?;
        match timeout(self.account.venue.window.request_timeout, answer).await {
            Ok(Ok(answer)) => answer.map(|()| receiver),
            Ok(Err(_)) => Err(GatewayError::Closed),
            Err(_) => late(),
        }
    }
}

fn late<T>() -> Result<T, GatewayError> {
    Err(GatewayError::Unavailable("no answer in time".to_owned()))
}
