//! A host served over the network in the dialect of Binance's spot API
//! (<https://github.com/binance/binance-spot-api-docs>: `rest-api.md`, `web-socket-api.md`, `user-data-stream.md`,
//! `web-socket-streams.md`, `errors.md`).
//!
//! - REST below `/api/v3`: `ping`, `time`, `exchangeInfo`, `account`, `order` (POST, GET, DELETE), `openOrders`, `allOrders`,
//!   `myTrades`.
//! - The WebSocket API at `/ws-api/v3`, for the account's own stream.
//! - Market streams at `/ws/<stream>` and `/stream?streams=`: `bookTicker` and `trade`.
//!
//! A request for a new order is in the ledger before it is answered, also one that is refused, as soon as its API key says
//! whose it is. Only a request that a fault loses on its way leaves no trace there.
//!
//! Deliberately absent: everything else that Binance has, such as order lists, amendments, order placement over websockets,
//! RSA keys, and the order count that goes down again when an order is filled later than at once.

mod account;
mod control;
mod error;
mod events;
mod general;
mod keys;
mod limits;
mod market;
mod order;
mod params;
mod plan;
mod requests;
mod rest;
mod socket;
mod wire;
mod ws_api;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde::Serialize;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trading::exchange::VenueBalance;
use trading::market::Symbol;
use trading::time::Timestamp;

pub use self::control::control;
use self::error::ApiError;
pub use self::keys::{KeyError, Keys, Verifier};
pub use self::limits::Limits;
use self::limits::Usage;
use self::params::Validity;
use self::plan::Plan;
use self::requests::RequestLog;
pub use self::requests::RequestWriter;
use crate::exchange::Refusal;
use crate::host::{Core, Host};
use crate::witness::Witness;

/// How long the server waits for the exchange before it says that it does not know, as documented.
const BACKEND_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server is like.
#[derive(Debug)]
pub struct Options {
    /// Who may trade.
    pub keys: Keys,
    /// What a new account starts with.
    pub opening: Vec<VenueBalance>,
    /// The window of requests that name none.
    pub recv_window: Duration,
    /// How long every answer takes.
    pub latency: Duration,
    /// How much is allowed.
    pub limits: Limits,
    /// Looks whether an order was written down before it was sent.
    pub witness: Option<Arc<dyn Witness>>,
}

/// The server. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Binance {
    app: Arc<App>,
    opening: Arc<[VenueBalance]>,
}

#[derive(Debug)]
struct App {
    host: Host,
    keys: Keys,
    recv_window: Duration,
    latency: Duration,
    limits: Limits,
    witness: Option<Arc<dyn Witness>>,
    usage: Mutex<Usage>,
    requests: RequestLog,
    /// Requests that are processed, and websockets.
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Binance {
    /// Makes a server of this venue, which notes every request in the file `requests`.
    ///
    /// # Errors
    /// When that file cannot be opened.
    pub fn new(host: Host, options: Options, requests: &Path) -> io::Result<(Self, RequestWriter)> {
        let (requests, writer) = requests::open(requests)?;
        let Options { keys, opening, recv_window, latency, limits, witness } = options;
        let app = App {
            host,
            keys,
            recv_window,
            latency,
            limits,
            witness,
            usage: Mutex::new(Usage::new(limits)),
            requests,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Ok((Self { app: Arc::new(app), opening: opening.into() }, writer))
    }

    /// Opens the accounts of all keys that have none. The host's driver must run.
    ///
    /// # Errors
    /// What the exchange says against it.
    pub async fn open_accounts(&self) -> Result<(), Refusal> {
        for label in self.app.keys.accounts() {
            let (label, opening) = (Arc::clone(label), Arc::clone(&self.opening));
            let opened = self.app.ask(move |core, now| core.exchange.open_account(&label, &opening, now));
            opened.await.map_err(|error| error.refusal)?;
        }
        Ok(())
    }

    /// The routes. Addresses are told apart where the listener says them (`ConnectInfo<SocketAddr>`).
    pub fn router(&self) -> Router {
        Router::new()
            .route("/ws-api/v3", any(ws_api::connect))
            .route("/stream", any(market::combined))
            .route("/ws/{name}", any(market::raw))
            .fallback(rest::serve)
            .with_state(Arc::clone(&self.app))
    }

    /// Ends what would wait for long: websockets are told and closed, silent connections get a 503.
    pub fn close(&self) {
        self.app.stop.cancel();
        self.app.tasks.close();
    }

    /// Waits until no request is processed and no websocket is open. Only after [`Binance::close`].
    ///
    /// Cancel safety: may be called again.
    pub async fn closed(&self) {
        self.app.tasks.wait().await;
    }
}

impl App {
    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the exchange do something, and waits until the ledger has it.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Core, Timestamp) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, ApiError> {
        let asked = async {
            let answer = self.host.ask(None, work).await.map_err(|_| ApiError::down())?;
            answer.await.map_err(|_| ApiError::down())?.map_err(ApiError::from)
        };
        timeout(BACKEND_TIMEOUT, asked)
            .await
            .unwrap_or_else(|_| Err(ApiError::unknown_outcome(StatusCode::GATEWAY_TIMEOUT)))
    }

    /// The same, as long as the request is valid when the exchange comes to it.
    async fn read<T: Send + 'static>(
        &self,
        validity: Validity,
        work: impl FnOnce(&mut Core, Timestamp) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.ask(move |core, now| {
            validity.check(now)?;
            work(core, now)
        })
        .await
    }

    /// Refuses a symbol that is not traded here.
    fn known(&self, symbol: Symbol) -> Result<Symbol, ApiError> {
        let known = self.host.symbols().iter().any(|info| info.symbol == symbol);
        if known { Ok(symbol) } else { Err(ApiError::bad(-1121, "Invalid symbol.")) }
    }

    /// Waits as long as an answer takes on its way. False if the server ended before the answer arrived.
    async fn way_back(&self, plan: &Plan) -> bool {
        let late = self.latency + plan.answer_late.unwrap_or_default();
        // Most answers wait for nothing, also while the server ends.
        if late.is_zero() && !plan.answer_held {
            return true;
        }
        let way = async {
            sleep(late).await;
            if plan.answer_held {
                self.host.released().await;
            }
        };
        self.stop.run_until_cancelled(way).await.is_some()
    }

    /// Says nothing until the client gives up, or the server ends.
    async fn silence(&self) -> Response {
        self.stop.cancelled().await;
        ApiError::unknown_outcome(StatusCode::SERVICE_UNAVAILABLE).into_response()
    }
}

fn json(body: impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(body).map_err(|_| ApiError::down())
}
