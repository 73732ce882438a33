//! One account's requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Method;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};
use trading::exchange::{CancelResult, Fill, NewOrder, OrderReport, QueryResult, SendResult, VenueBalance};
use trading::ids::{ClientOrderId, TradeId, VenueOrderId};
use trading::market::{Asset, Symbol, SymbolInfo};

use super::Shared;
use super::classify::{self, Failure};
use super::limiter::{Class, OrderCounts};
use super::rest::{Call, Signed, lock};
use super::sign::Credentials;
use super::wire::{self, ExchangeInfo, OrderRow, TradeRow};
use crate::gateway::GatewayError;

const ORDER: &str = "/api/v3/order";
const OPEN_ORDERS: &str = "/api/v3/openOrders";
const ALL_ORDERS: &str = "/api/v3/allOrders";
/// The longest page of orders and trades.
const PAGE: usize = 1_000;
/// After this time the venue's lists hold everything that happened.
const LISTS_LAG: Duration = Duration::from_hours(1);
/// How many orders' names are remembered.
const NAMES: usize = 50_000;

/// An account at the venue.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) label: String,
    pub(super) venue: Arc<Shared>,
    pub(super) credentials: Credentials,
    orders: Mutex<OrderCounts>,
    names: Mutex<Names>,
    /// The assets of what is traded.
    assets: Mutex<Vec<Asset>>,
    /// Each symbol's latest listing; whoever reads a newer one holds its lock.
    listings: Mutex<BTreeMap<Symbol, Latest>>,
}

type Latest = Arc<tokio::sync::Mutex<Option<Arc<Listing>>>>;

/// A symbol's open and latest orders.
#[derive(Debug)]
struct Listing {
    /// Before the first of its requests.
    begun: Instant,
    rows: Vec<OrderRow>,
}

/// Which client id belongs to the venue's number of an order: trades are listed without it.
#[derive(Debug, Default)]
struct Names {
    known: BTreeMap<(Symbol, VenueOrderId), ClientOrderId>,
    oldest: VecDeque<(Symbol, VenueOrderId)>,
}

impl Names {
    fn note(&mut self, symbol: &Symbol, number: VenueOrderId, name: ClientOrderId) {
        let key = (symbol.clone(), number);
        if self.known.insert(key.clone(), name).is_none() {
            self.oldest.push_back(key);
        }
        while self.oldest.len() > NAMES {
            if let Some(oldest) = self.oldest.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

impl From<Failure> for GatewayError {
    fn from(failure: Failure) -> Self {
        GatewayError::Unavailable(failure.to_string())
    }
}

impl From<wire::Unreadable> for GatewayError {
    fn from(error: wire::Unreadable) -> Self {
        GatewayError::Unavailable(error.to_string())
    }
}

impl Account {
    pub(super) fn new(label: &str, venue: Arc<Shared>, credentials: Credentials) -> Self {
        let (orders, names, assets, listings) = Default::default();
        Self { label: label.to_owned(), venue, credentials, orders, names, assets, listings }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &'static str,
        params: Vec<(&'static str, String)>,
        (class, weight): (Class, u32),
    ) -> Result<T, Failure> {
        let signed = Signed { credentials: &self.credentials, orders: &self.orders, timestamp: None };
        self.venue.rest.call(Call { method, path, params, class, weight, signed: Some(signed) }).await
    }

    pub(super) async fn symbols(&self) -> Result<Vec<SymbolInfo>, GatewayError> {
        self.venue.know_time().await?;
        let names: Vec<&str> = self.venue.symbols.iter().map(Symbol::as_str).collect();
        let names = serde_json::to_string(&names).unwrap_or_default();
        let call = Call {
            method: Method::GET,
            path: "/api/v3/exchangeInfo",
            params: vec![("symbols", names)],
            class: Class::Read,
            weight: 20,
            signed: None,
        };
        let info: ExchangeInfo = self.venue.rest.call(call).await?;
        if let Some(limit) = info.weight_limit() {
            lock(&self.venue.rest.weights).set_limit(limit);
        }
        lock(&self.orders).set_limits(&info.order_limits());
        let symbols = info.symbols(&self.venue.symbols)?;
        if symbols.len() < self.venue.symbols.len() {
            tracing::warn!(account = %self.label, known = symbols.len(), "the venue does not trade all of market.symbols");
        }
        *lock(&self.assets) = symbols.iter().flat_map(|info| [info.base.clone(), info.quote.clone()]).collect();
        Ok(symbols)
    }

    pub(super) async fn balances(&self) -> Result<Vec<VenueBalance>, GatewayError> {
        let account: wire::Account = self.call(Method::GET, "/api/v3/account", Vec::new(), (Class::Read, 20)).await?;
        Ok(account.balances(&lock(&self.assets))?)
    }

    /// The one POST.
    pub(super) async fn send(&self, order: &NewOrder) -> SendResult {
        let call = Call {
            method: Method::POST,
            path: ORDER,
            params: wire::order_params(order),
            class: Class::Entry,
            weight: 1,
            signed: Some(Signed {
                credentials: &self.credentials,
                orders: &self.orders,
                timestamp: Some(order.timestamp),
            }),
        };
        let answer = self.venue.rest.call::<OrderRow>(call).await;
        crate::failpoints::hit("p5").await;
        match answer.map(|row| row.report()) {
            Ok(Ok(report)) if report.client_id == order.client_id && report.symbol == order.symbol => {
                self.note_name(&report);
                SendResult::Accepted(report)
            }
            Ok(Ok(report)) => SendResult::Unknown { reason: format!("the answer is about order {}", report.client_id) },
            Ok(Err(error)) => SendResult::Unknown { reason: error.to_string() },
            Err(failure) => classify::post(failure),
        }
    }

    pub(super) async fn cancel(&self, symbol: &Symbol, client_id: &ClientOrderId) -> CancelResult {
        let params = vec![
            ("symbol", symbol.to_string()),
            ("origClientOrderId", client_id.to_string()),
            ("newClientOrderId", wire::cancel_id(client_id)),
        ];
        match self.call::<OrderRow>(Method::DELETE, ORDER, params, (Class::Cancel, 1)).await {
            Ok(row) => match self.named(client_id, &row) {
                Ok(report) => CancelResult::Canceled(report),
                Err(error) => CancelResult::Unknown { reason: error.to_string() },
            },
            Err(failure) => classify::cancel(failure),
        }
    }

    /// One order by our id; thoroughly, also among the open and the past ones.
    pub(super) async fn query(&self, symbol: &Symbol, client_id: &ClientOrderId, thorough: bool) -> QueryResult {
        let deadline = Instant::now() + self.venue.window.request_timeout;
        let asking = async {
            let params = vec![("symbol", symbol.to_string()), ("origClientOrderId", client_id.to_string())];
            let found = match self.call::<OrderRow>(Method::GET, ORDER, params, (Class::Resolve, 4)).await {
                Ok(row) => self.named(client_id, &row),
                Err(failure) => match classify::query(&failure) {
                    QueryResult::NotFound { .. } if thorough => return self.search(symbol, client_id).await,
                    result => return result,
                },
            };
            found.map_or_else(|error| QueryResult::Failed { reason: error.to_string() }, QueryResult::Found)
        };
        let late = |_| QueryResult::Failed { reason: "no answer in time".to_owned() };
        timeout_at(deadline, asking).await.unwrap_or_else(late)
    }

    /// Looks for an order in the lists: a look-up by id may be answered from another place than they are.
    async fn search(&self, symbol: &Symbol, client_id: &ClientOrderId) -> QueryResult {
        match self.listing(symbol).await {
            Ok(listing) => match listing.rows.iter().find(|row| row.client_id() == *client_id) {
                Some(row) => self
                    .named(client_id, row)
                    .map_or_else(|error| QueryResult::Failed { reason: error.to_string() }, QueryResult::Found),
                None => QueryResult::NotFound { thorough: true },
            },
            Err(failure) => QueryResult::Failed { reason: failure.to_string() },
        }
    }

    /// The symbol's open and latest orders, read after this call began. Everybody who waits shares the next reading: a
    /// restart asks for hundreds of orders at once, and a list for each would use up the venue's weight for minutes.
    async fn listing(&self, symbol: &Symbol) -> Result<Arc<Listing>, Failure> {
        let asked = Instant::now();
        let latest = Arc::clone(lock(&self.listings).entry(symbol.clone()).or_default());
        let mut latest = latest.lock().await;
        if let Some(listing) = latest.as_ref().filter(|listing| listing.begun >= asked) {
            return Ok(Arc::clone(listing));
        }
        let begun = Instant::now();
        let symbol = ("symbol", symbol.to_string());
        let open = self.call(Method::GET, OPEN_ORDERS, vec![symbol.clone()], (Class::Resolve, 6));
        let mut rows: Vec<OrderRow> = open.await?;
        let page = vec![symbol, ("limit", PAGE.to_string())];
        rows.extend(self.call::<Vec<OrderRow>>(Method::GET, ALL_ORDERS, page, (Class::Resolve, 20)).await?);
        let listing = Arc::new(Listing { begun, rows });
        *latest = Some(Arc::clone(&listing));
        Ok(listing)
    }

    pub(super) async fn open_orders(&self) -> Result<Vec<OrderReport>, GatewayError> {
        let rows: Vec<OrderRow> = self.call(Method::GET, OPEN_ORDERS, Vec::new(), (Class::Read, 80)).await?;
        let reports = wire::reports(&rows)?;
        for report in &reports {
            self.note_name(report);
        }
        Ok(reports)
    }

    pub(super) async fn fills(
        &self,
        symbol: &Symbol,
        after: Option<TradeId>,
        limit: u32,
    ) -> Result<Vec<Fill>, GatewayError> {
        let from = after.map_or(0, |after| after.0.saturating_add(1));
        let limit = usize::try_from(limit).unwrap_or(PAGE).min(PAGE);
        let deadline = Instant::now() + self.venue.window.request_timeout;
        let fetching = async {
            let params =
                vec![("symbol", symbol.to_string()), ("fromId", from.to_string()), ("limit", limit.to_string())];
            let rows: Vec<TradeRow> = self.call(Method::GET, "/api/v3/myTrades", params, (Class::Read, 20)).await?;
            self.learn_names(symbol, &rows).await?;
            let mut fills = Vec::with_capacity(rows.len());
            for row in &rows {
                fills.push(row.fill(symbol, self.name_of(symbol, row).await?)?);
            }
            Ok(fills)
        };
        let late = |_| Err(GatewayError::Unavailable("no answer in time".to_owned()));
        timeout_at(deadline, fetching).await.unwrap_or_else(late)
    }

    /// The client id of the order that a trade belongs to. The lists of orders may lag behind the trades, so one that they lack
    /// is asked for; if that fails too, a trade of now is not given out: taken for a foreign one it would be lost.
    async fn name_of(&self, symbol: &Symbol, trade: &TradeRow) -> Result<ClientOrderId, GatewayError> {
        let number = VenueOrderId(trade.order_id);
        let known = lock(&self.names).known.get(&(symbol.clone(), number)).cloned();
        if let Some(name) = known {
            return Ok(name);
        }
        let params = vec![("symbol", symbol.to_string()), ("orderId", number.to_string())];
        match self.call::<OrderRow>(Method::GET, ORDER, params, (Class::Read, 4)).await {
            Ok(row) => {
                self.learn_name(symbol, number, row.client_id());
                Ok(row.client_id())
            }
            Err(failure) => {
                let settled = self.venue.rest.clock.now().before(LISTS_LAG);
                let foreign = matches!(classify::query(&failure), QueryResult::NotFound { .. }) && trade.at() < settled;
                if foreign { Ok(ClientOrderId::from_venue(format!("order-{number}"))) } else { Err(failure.into()) }
            }
        }
    }

    /// Finds out the client ids of the orders that these trades belong to.
    async fn learn_names(&self, symbol: &Symbol, trades: &[TradeRow]) -> Result<(), GatewayError> {
        let nameless = |from: i64| {
            let names = lock(&self.names);
            let unknown = |id: &i64| *id >= from && !names.known.contains_key(&(symbol.clone(), VenueOrderId(*id)));
            trades.iter().map(|trade| trade.order_id).filter(unknown).min()
        };
        let mut next = nameless(i64::MIN);
        while let Some(from) = next {
            let params =
                vec![("symbol", symbol.to_string()), ("orderId", from.to_string()), ("limit", PAGE.to_string())];
            let rows: Vec<OrderRow> = self.call(Method::GET, ALL_ORDERS, params, (Class::Read, 20)).await?;
            let mut last = from;
            for row in &rows {
                last = last.max(row.number());
                self.learn_name(symbol, VenueOrderId(row.number()), row.client_id());
            }
            next = if rows.len() < PAGE { None } else { nameless(last.saturating_add(1)) };
        }
        Ok(())
    }

    /// The report of an order that was asked for by this id, under which the venue may show another one.
    fn named(&self, client_id: &ClientOrderId, row: &OrderRow) -> Result<OrderReport, wire::Unreadable> {
        let report = OrderReport { client_id: client_id.clone(), ..row.report()? };
        self.note_name(&report);
        Ok(report)
    }

    /// Remembers whose number this is. What we asked for by our own id outweighs what a list shows.
    pub(super) fn note_name(&self, report: &OrderReport) {
        lock(&self.names).note(&report.symbol, report.venue_id, report.client_id.clone());
    }

    fn learn_name(&self, symbol: &Symbol, number: VenueOrderId, name: ClientOrderId) {
        let mut names = lock(&self.names);
        if !names.known.contains_key(&(symbol.clone(), number)) {
            names.note(symbol, number, name);
        }
    }
}
