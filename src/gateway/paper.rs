//! The built-in simulated venue: a thin port over [`venue::host`].
//!
//! One [`PaperVenue`] per process holds the [`Host`], whose driver has a thread of its own and makes the ledger durable
//! before it answers. One process at a time has the ledger: while it is another's the venue is closed here, and whoever asks
//! waits for it. A [`PaperGateway`] per account is the port to it. Latency and most faults are on the gateway's side,
//! where a network would be; late processing is on the venue's side, so that it happens also when nobody waits any more.

use std::collections::BTreeSet;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use trading::exchange::{
    CancelResult, Fill, NewOrder, OrderReport, QueryResult, SendResult, StreamEvent, VenueBalance,
};
use trading::ids::{ClientOrderId, TradeId};
use trading::market::{Asset, Market, Symbol, SymbolInfo};
use trading::time::Timestamp;
use venue::exchange::{Refusal, Settings, check_opening};
use venue::faults::{Faults, Fired, Injector, Request};
use venue::host::{Core, Driver, Host};
use venue::ledger::{LedgerError, ReadAhead};

use super::{Gateway, GatewayError, RequestWindow};
use crate::config::PaperConfig;

/// How many events of an account's stream may wait for its consumer.
const STREAM_QUEUE: usize = 1024;

/// Why the simulated venue cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum PaperError {
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A fee of 100% or more.
    #[error("venue.paper: a fee of {0} basis points is not below 10000")]
    Fee(u32),
    /// An opening balance that is not computed with exactly.
    #[error("venue.paper.opening: {0}")]
    Opening(Refusal),
}

/// Faults are not allowed by the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("faults are not allowed: venue.paper.allow_faults is off")]
pub struct FaultsForbidden;

/// A handle to the simulated venue. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct PaperVenue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// While the ledger is open here.
    host: watch::Sender<Option<Host>>,
    ledger: PathBuf,
    ahead: Mutex<ReadAhead>,
    settings: Settings,
    window: RequestWindow,
    latency: Duration,
    opening: Vec<VenueBalance>,
    allow_faults: bool,
    /// The accounts that are traded from here.
    labels: Mutex<BTreeSet<String>>,
}

impl PaperVenue {
    /// Opens the venue with its ledger. Nothing is answered until the driver runs.
    ///
    /// Reads the whole ledger: call it where blocking is allowed.
    pub fn open(
        ledger: &Path,
        symbols: Vec<SymbolInfo>,
        config: &PaperConfig,
        window: RequestWindow,
    ) -> Result<(Self, Driver), PaperError> {
        let venue = Self::closed(ledger, symbols, config, window)?;
        let driver = venue.open_ledger()?;
        Ok((venue, driver))
    }

    /// The venue without its ledger, which may be another process's at this moment: see [`PaperVenue::open_ledger`].
    pub fn closed(
        ledger: &Path,
        symbols: Vec<SymbolInfo>,
        config: &PaperConfig,
        window: RequestWindow,
    ) -> Result<Self, PaperError> {
        if let Some(fee) = [config.maker_fee_bps, config.taker_fee_bps].into_iter().find(|bps| *bps >= 10_000) {
            return Err(PaperError::Fee(fee));
        }
        let opening: Vec<VenueBalance> = config
            .opening
            .iter()
            .map(|(asset, total)| VenueBalance { asset: Asset::new(asset), total: *total })
            .collect();
        check_opening(&opening).map_err(PaperError::Opening)?;
        let settings = Settings {
            symbols,
            maker_fee_bps: config.maker_fee_bps,
            taker_fee_bps: config.taker_fee_bps,
            recv_window: window.recv_window,
        };
        let shared = Shared {
            host: watch::Sender::new(None),
            ledger: ledger.to_owned(),
            ahead: Mutex::default(),
            settings,
            window,
            latency: Duration::from_millis(config.latency_ms),
            opening,
            allow_faults: config.allow_faults,
            labels: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads what another process has written into the ledger so far, so that opening it takes less time.
    ///
    /// Blocks.
    ///
    /// # Errors
    /// What [`PaperVenue::open_ledger`] would say.
    pub fn read_ahead(&self) -> Result<(), LedgerError> {
        self.shared.ahead.lock().unwrap_or_else(PoisonError::into_inner).go_on(&self.shared.ledger)
    }

    /// Opens the ledger. Nothing is answered until the driver runs; then whoever waits is answered.
    ///
    /// Reads what was not read ahead: call it where blocking is allowed.
    ///
    /// # Errors
    /// [`LedgerError::Locked`] as long as another process has it.
    pub fn open_ledger(&self) -> Result<Driver, LedgerError> {
        let Shared { ledger, settings, ahead, .. } = &*self.shared;
        let mut ahead = ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let (host, driver, torn) = Host::open_after(ledger, &mut ahead, settings.clone())?;
        if let Some(torn) = torn {
            tracing::warn!(ledger = %ledger.display(), torn.offset, torn.bytes, "cut off the venue ledger's torn last line");
        }
        self.shared.host.send_replace(Some(host));
        Ok(driver)
    }

    /// Opens the accounts that are traded from here, if the ledger has none of their labels. To be called once its driver runs.
    ///
    /// Cancel safety: as [`PaperVenue::gateway`].
    pub async fn open_accounts(&self) -> Result<(), GatewayError> {
        let labels = self.shared.labels().clone();
        for label in labels {
            self.open_account(&label).await?;
        }
        Ok(())
    }

    /// The venue itself, for whoever serves it to others; nothing while its ledger is closed.
    pub fn host(&self) -> Option<Host> {
        self.shared.host.borrow().clone()
    }

    /// What a new account starts with.
    pub fn opening(&self) -> &[VenueBalance] {
        &self.shared.opening
    }

    /// The port of one account, which is opened if there is none of this label.
    ///
    /// Cancel safety: the account may be opened all the same, which does no harm.
    pub async fn gateway(&self, label: &str) -> Result<PaperGateway, GatewayError> {
        self.open_account(label).await?;
        Ok(self.port(label))
    }

    /// The port of one account, which is opened by [`PaperVenue::open_accounts`].
    pub fn port(&self, label: &str) -> PaperGateway {
        self.shared.labels().insert(label.to_owned());
        PaperGateway { shared: Arc::clone(&self.shared), account: label.into() }
    }

    async fn open_account(&self, label: &str) -> Result<(), GatewayError> {
        let (account, opening) = (label.to_owned(), self.shared.opening.clone());
        let work = move |core: &mut Core, now| core.exchange.open_account(&account, &opening, now);
        let opened = self.shared.ask(None, Plan::default(), work).await?;
        opened.map(drop).map_err(|refusal| GatewayError::Unavailable(refusal.to_string()))
    }

    /// Hands a market event to the venue. Waits while its queue is full, so that a fast feed is held back and not dropped.
    ///
    /// A venue whose ledger is closed does not hear it.
    ///
    /// Cancel safety: the event is handed over as a whole or not at all.
    pub async fn on_market(&self, market: Arc<Market>) {
        if let Some(host) = self.host() {
            let _closed = host.on_market(market).await;
        }
    }

    /// Replaces all faults. Answers that were held back go out once the new faults do not hold them. A venue whose ledger is
    /// closed has none, and gets none.
    pub fn set_faults(&self, faults: Faults) -> Result<(), FaultsForbidden> {
        if !self.shared.allow_faults {
            return Err(FaultsForbidden);
        }
        if let Some(host) = self.host() {
            host.set_faults(faults);
        }
        Ok(())
    }

    /// The faults that are set, with the times that they have left, and how often each fired.
    pub fn faults(&self) -> (Faults, Fired) {
        self.host().map_or_else(Default::default, |host| host.faults())
    }

    /// Where the ledger is.
    pub fn ledger(&self) -> &Path {
        &self.shared.ledger
    }

    /// Tells the ledger from every other: an account's balances mean something in one only. Nothing as long as another process
    /// makes it.
    pub fn ledger_id(&self) -> Result<Option<String>, LedgerError> {
        match self.host() {
            Some(host) => Ok(Some(host.ledger_id().to_owned())),
            None => venue::ledger::id(&self.shared.ledger),
        }
    }

    /// Lets the driver end: see [`Host::close`]. The ledger is free once it has.
    pub fn close(&self) {
        if let Some(host) = self.shared.host.send_replace(None) {
            host.close();
        }
    }
}

/// What befalls one request.
#[derive(Debug, Default)]
struct Plan {
    drop_request: bool,
    delay_processing: Option<Duration>,
    drop_answer: bool,
    delay_answer: Option<Duration>,
    hold_answer: bool,
}

impl Plan {
    fn of(injector: &mut Injector, request: Request) -> Self {
        if injector.drops_request(request) {
            return Self { drop_request: true, ..Self::default() };
        }
        Self {
            drop_request: false,
            delay_processing: injector.delays_processing(request),
            drop_answer: injector.drops_answer(request),
            delay_answer: injector.delays_answer(request),
            hold_answer: injector.holds_answer(request),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
enum Lost {
    /// The request did not leave.
    NotSent(&'static str),
    /// The request left.
    NoAnswer(&'static str),
    /// The venue is closed. The request did not leave.
    Closed,
}

impl From<Lost> for GatewayError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::NotSent(reason) | Lost::NoAnswer(reason) => GatewayError::Unavailable(reason.to_owned()),
            Lost::Closed => GatewayError::Closed,
        }
    }
}

impl Shared {
    fn labels(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The venue, once its ledger is open here.
    async fn host(&self, deadline: Instant) -> Result<Host, Lost> {
        let mut host = self.host.subscribe();
        let open = timeout_at(deadline, host.wait_for(Option::is_some)).await;
        let host = open.ok().and_then(|open| open.ok()?.clone());
        host.ok_or(Lost::NotSent("the venue's ledger is in another process"))
    }

    /// Has the venue's thread do `work`, and waits for its result until the request's time is up. Without a `host` the venue is
    /// waited for.
    async fn ask<T: Send + 'static>(
        &self,
        host: Option<Host>,
        plan: Plan,
        work: impl FnOnce(&mut Core, Timestamp) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let deadline = Instant::now() + self.window.request_timeout;
        let host = match host {
            Some(host) => host,
            None => self.host(deadline).await?,
        };
        let answer = if plan.drop_request {
            None
        } else {
            let asked = timeout_at(deadline, host.ask(plan.delay_processing, work)).await;
            Some(asked.map_err(|_| Lost::NotSent("the venue's queue is full"))?.map_err(|_| Lost::Closed)?)
        };
        let arrival = async {
            let Some(answer) = answer.filter(|_| !plan.drop_answer) else { return pending().await };
            let result = answer.await.map_err(|_| Lost::NoAnswer("the venue is down"))?;
            sleep(self.latency + plan.delay_answer.unwrap_or_default()).await;
            if plan.hold_answer {
                host.released().await;
            }
            Ok(result)
        };
        timeout_at(deadline, arrival).await.unwrap_or(Err(Lost::NoAnswer("no answer in time")))
    }
}

/// One account's port to the simulated venue.
#[derive(Debug, Clone)]
pub struct PaperGateway {
    shared: Arc<Shared>,
    account: Arc<str>,
}

impl PaperGateway {
    /// Asks on behalf of this account, with the faults that are set.
    async fn ask<T: Send + 'static>(
        &self,
        request: Request,
        work: impl FnOnce(&mut Core, &str, Timestamp) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let host = self.shared.host.borrow().clone();
        self.ask_at(host, request, work).await
    }

    /// Asks this venue, and no other that is opened later; without one, the next that is.
    async fn ask_at<T: Send + 'static>(
        &self,
        host: Option<Host>,
        request: Request,
        work: impl FnOnce(&mut Core, &str, Timestamp) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let plan = host.as_ref().map_or_else(Plan::default, |host| Plan::of(&mut host.injector(), request));
        let account = Arc::clone(&self.account);
        self.shared.ask(host, plan, move |core, now| work(core, &account, now)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Core, &str, Timestamp) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, GatewayError> {
        let answer = self.ask(Request::Read, work).await?;
        answer.map_err(|refusal| GatewayError::Unavailable(refusal.to_string()))
    }
}

#[async_trait]
impl Gateway for PaperGateway {
    fn window(&self) -> RequestWindow {
        self.shared.window
    }

    async fn symbols(&self) -> Result<Vec<SymbolInfo>, GatewayError> {
        let symbols = self.shared.settings.symbols.clone();
        self.read(move |_, _, _| Ok(symbols)).await
    }

    async fn balances(&self) -> Result<Vec<VenueBalance>, GatewayError> {
        self.read(|core, account, _| core.exchange.balances(account)).await
    }

    async fn send(&self, order: &NewOrder) -> SendResult {
        let order = order.clone();
        // Whoever has the ledger by now has the account too: an order must not wait for it to come back.
        let Some(host) = self.shared.host.borrow().clone() else {
            return SendResult::NotSent { reason: "the venue is closed".to_owned() };
        };
        let answer = self
            .ask_at(Some(host), Request::Post, move |core, account, now| core.submit(account, &order, None, now))
            .await;
        crate::failpoints::hit("p5").await;
        match answer {
            Ok(Ok(report)) => SendResult::Accepted(report),
            Ok(Err(refusal)) if refusal.is_definitive() => {
                SendResult::Refused { code: refusal.code, reason: refusal.reason }
            }
            Ok(Err(refusal)) => SendResult::Unknown { reason: refusal.to_string() },
            Err(Lost::NoAnswer(reason)) => SendResult::Unknown { reason: reason.to_owned() },
            Err(Lost::NotSent(reason)) => SendResult::NotSent { reason: reason.to_owned() },
            Err(Lost::Closed) => SendResult::NotSent { reason: "the venue is closed".to_owned() },
        }
    }

    async fn cancel(&self, symbol: &Symbol, client_id: &ClientOrderId) -> CancelResult {
        let (symbol, client_id) = (symbol.clone(), client_id.clone());
        let work = move |core: &mut Core, account: &str, now| core.exchange.cancel(account, &symbol, &client_id, now);
        match self.ask(Request::Cancel, work).await {
            Ok(Ok(report)) => CancelResult::Canceled(report),
            Ok(Err(Refusal { code: -2011, .. })) => CancelResult::UnknownOrder,
            Ok(Err(refusal)) => CancelResult::Refused { reason: refusal.to_string() },
            Err(lost) => CancelResult::Unknown { reason: GatewayError::from(lost).to_string() },
        }
    }

    async fn query(&self, symbol: &Symbol, client_id: &ClientOrderId, thorough: bool) -> QueryResult {
        let (symbol, client_id) = (symbol.clone(), client_id.clone());
        let work = move |core: &mut Core, account: &str, _| core.query(account, &symbol, &client_id);
        match self.ask(Request::Query, work).await {
            Ok(Ok(report)) => QueryResult::Found(report),
            // One look-up sees every order that ever was, so every "no" of this venue is a thorough one when asked for.
            Ok(Err(Refusal { code: -2013, .. })) => QueryResult::NotFound { thorough },
            Ok(Err(refusal)) => QueryResult::Failed { reason: refusal.to_string() },
            Err(lost) => QueryResult::Failed { reason: GatewayError::from(lost).to_string() },
        }
    }

    async fn open_orders(&self) -> Result<Vec<OrderReport>, GatewayError> {
        self.read(|core, account, _| core.exchange.open_orders(account)).await
    }

    async fn fills(&self, symbol: &Symbol, after: Option<TradeId>, limit: u32) -> Result<Vec<Fill>, GatewayError> {
        let (symbol, limit) = (symbol.clone(), usize::try_from(limit).unwrap_or(usize::MAX));
        self.read(move |core, account, _| core.fills(account, &symbol, after, limit)).await
    }

    async fn subscribe(&self) -> Result<mpsc::Receiver<StreamEvent>, GatewayError> {
        let (events, receiver) = mpsc::channel(STREAM_QUEUE);
        let account = Arc::clone(&self.account);
        self.read(move |core, _, _| {
            core.subscribe(account, events);
            Ok(receiver)
        })
        .await
    }
}

#[cfg(test)]
mod tests;
