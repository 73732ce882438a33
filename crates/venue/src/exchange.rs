//! The exchange: takes requests, decides, and says what follows as records.

use std::collections::BTreeMap;
use std::time::Duration;

use trading::exchange::{Fill, NewOrder, OrderReport, VenueBalance, VenueStatus};
use trading::ids::{ClientOrderId, TradeId, VenueOrderId};
use trading::market::{Quote, Symbol, SymbolInfo};
use trading::time::Timestamp;

use crate::book::OrderRef;
pub use crate::filters::{MAX_AHEAD, Refusal, check_opening, check_time};
use crate::filters::{check_filters, check_order};
use crate::ledger::Post;
use crate::record::{Entry, Label, Record};
use crate::state::{Account, State};

/// What an exchange is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What can be traded.
    pub symbols: Vec<SymbolInfo>,
    /// The fee of orders that rested, in hundredths of a percent of what is received. Below 10000.
    pub maker_fee_bps: u32,
    /// The fee of orders that took, likewise.
    pub taker_fee_bps: u32,
    /// A request that arrives later than its timestamp plus this is refused.
    pub recv_window: Duration,
}

/// A simulated exchange. Synchronous and deterministic.
///
/// Every call that changes something leaves one [`Entry`] behind. The caller takes them with
/// [`Exchange::take_entries`] and makes them durable *before* it passes on any answer.
#[derive(Debug)]
pub struct Exchange {
    pub(crate) symbols: BTreeMap<Symbol, SymbolInfo>,
    pub(crate) maker_fee_bps: u32,
    pub(crate) taker_fee_bps: u32,
    recv_window: Duration,
    pub(crate) state: State,
    /// The market now; quantities shrink as our orders take them. Not part of the state: it comes anew with the feed.
    pub(crate) quotes: BTreeMap<Symbol, Quote>,
    entries: Vec<Entry>,
    entry: Entry,
}

impl Exchange {
    /// Continues from what a ledger says.
    pub fn new(settings: Settings, state: State) -> Self {
        Self {
            symbols: settings.symbols.into_iter().map(|info| (info.symbol.clone(), info)).collect(),
            maker_fee_bps: settings.maker_fee_bps,
            taker_fee_bps: settings.taker_fee_bps,
            recv_window: settings.recv_window,
            state,
            quotes: BTreeMap::new(),
            entries: Vec::new(),
            entry: Entry::new(),
        }
    }

    /// What the records so far add up to.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What can be traded.
    pub fn symbols(&self) -> impl Iterator<Item = &SymbolInfo> {
        self.symbols.values()
    }

    /// The operations since the last call, oldest first.
    pub fn take_entries(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    /// Opens an account. One that exists is left as it is, whatever `opening` says. Refuses what [`check_opening`] does.
    pub fn open_account(&mut self, label: &str, opening: &[VenueBalance], now: Timestamp) -> Result<(), Refusal> {
        if self.state.account(label).is_some() {
            return Ok(());
        }
        check_opening(opening)?;
        self.record(Record::Account { label: label.into(), opening: opening.to_vec(), at: now });
        self.commit();
        Ok(())
    }

    /// Takes a request for a new order. What can be filled at once is in the report.
    pub fn submit(&mut self, account: &str, order: &NewOrder, now: Timestamp) -> Result<OrderReport, Refusal> {
        self.submit_within(account, order, self.recv_window, now)
    }

    /// The same with a window of the request's own instead of the venue's.
    pub fn submit_within(
        &mut self,
        account: &str,
        order: &NewOrder,
        recv_window: Duration,
        now: Timestamp,
    ) -> Result<OrderReport, Refusal> {
        let label = self.label(account)?;
        let checked = self.check(&label, order, recv_window, now);
        self.record_post(&label, &order.client_id, order.timestamp, checked.as_ref().err(), now);
        let info = match checked {
            Ok(info) => info,
            Err(refusal) => {
                self.commit();
                return Err(refusal);
            }
        };
        let reference = OrderRef { account: label, venue_id: self.state.next_order() };
        self.record(Record::Order {
            account: reference.account.clone(),
            venue_id: reference.venue_id,
            base: info.base,
            quote: info.quote,
            order: Box::new(order.clone()),
            at: now,
        });
        self.take(&reference, now);
        let fills = self.entry.iter().filter_map(|record| match record {
            Record::Fill { fill, .. } => Some(Fill::clone(fill)),
            _ => None,
        });
        let report = self.state.report(&reference, fills.collect());
        self.commit();
        report.ok_or_else(|| Refusal::new(-1000, "An unknown error occurred while processing the request."))
    }

    /// Records a request for a new order that is refused before it is looked at: by a fault, by its signature, by a limit.
    /// Does nothing for an account that does not exist.
    pub fn refuse(
        &mut self,
        account: &str,
        client_id: &ClientOrderId,
        timestamp: Timestamp,
        refusal: &Refusal,
        now: Timestamp,
    ) {
        if let Ok(label) = self.label(account) {
            self.record_post(&label, client_id, timestamp, Some(refusal), now);
            self.commit();
        }
    }

    fn record_post(
        &mut self,
        account: &Label,
        client_id: &ClientOrderId,
        timestamp: Timestamp,
        refusal: Option<&Refusal>,
        now: Timestamp,
    ) {
        let post = Post {
            client_id: client_id.clone(),
            timestamp,
            received_at: now,
            accepted: refusal.is_none(),
            reason: refusal.map(ToString::to_string),
        };
        self.record(Record::Post { account: account.clone(), post });
    }

    fn check(
        &self,
        account: &Label,
        order: &NewOrder,
        recv_window: Duration,
        now: Timestamp,
    ) -> Result<SymbolInfo, Refusal> {
        check_time(order.timestamp, recv_window, now)?;
        let info = self.symbols.get(&order.symbol).ok_or_else(|| Refusal::new(-1121, "Invalid symbol."))?;
        let account = self.account(account)?;
        let quote = self.quotes.get(&order.symbol);
        check_filters(order, info, account, quote)?;
        check_order(order, info, account, quote)?;
        Ok(info.clone())
    }

    /// Cancels an open order. Refuses with -2011 when there is no open order of this id.
    pub fn cancel(
        &mut self,
        account: &str,
        symbol: &Symbol,
        client_id: &ClientOrderId,
        now: Timestamp,
    ) -> Result<OrderReport, Refusal> {
        let label = self.label(account)?;
        let open = self.account(account)?.by_client(client_id).filter(|order| order.is_open());
        let venue_id = open
            .filter(|order| order.new.symbol == *symbol)
            .map(|order| order.venue_id)
            .ok_or_else(|| Refusal::new(-2011, "Unknown order sent."))?;
        let reference = OrderRef { account: label, venue_id };
        self.end(&reference, VenueStatus::Canceled, now);
        self.commit();
        self.state.report(&reference, Vec::new()).ok_or_else(|| Refusal::new(-2011, "Unknown order sent."))
    }

    /// The newest order of this client id, without its fills. Refuses with -2013 when there is none.
    pub fn query(&self, account: &str, symbol: &Symbol, client_id: &ClientOrderId) -> Result<OrderReport, Refusal> {
        let found = self.account(account)?.by_client(client_id).filter(|order| order.new.symbol == *symbol);
        found.map(|order| order.report(Vec::new())).ok_or_else(|| Refusal::new(-2013, "Order does not exist."))
    }

    /// The open orders, oldest first, without their fills.
    pub fn open_orders(&self, account: &str) -> Result<Vec<OrderReport>, Refusal> {
        Ok(self.account(account)?.open_orders().map(|order| order.report(Vec::new())).collect())
    }

    /// The fills of a symbol after this trade, oldest first, at most `limit`.
    pub fn fills(
        &self,
        account: &str,
        symbol: &Symbol,
        after: Option<TradeId>,
        limit: usize,
    ) -> Result<Vec<Fill>, Refusal> {
        Ok(self.account(account)?.fills(symbol, after).iter().take(limit).cloned().collect())
    }

    /// What the account has.
    pub fn balances(&self, account: &str) -> Result<Vec<VenueBalance>, Refusal> {
        Ok(self.account(account)?.balances())
    }

    /// What `entries` changed: each order once, in the order of the first change, as it is now, with its new fills.
    pub fn reports(&self, entries: &[Entry]) -> Vec<(Label, OrderReport)> {
        let mut order: Vec<OrderRef> = Vec::new();
        let mut fills: BTreeMap<VenueOrderId, Vec<Fill>> = BTreeMap::new();
        for record in entries.iter().flatten() {
            let (account, venue_id, fill) = match record {
                Record::Order { account, venue_id, .. }
                | Record::Trigger { account, venue_id, .. }
                | Record::End { account, venue_id, .. } => (account, *venue_id, None),
                Record::Fill { account, fill } => (account, fill.venue_id, Some(Fill::clone(fill))),
                Record::Format { .. } | Record::Account { .. } | Record::Post { .. } => continue,
            };
            let known = fills.entry(venue_id).or_insert_with(|| {
                order.push(OrderRef { account: account.clone(), venue_id });
                Vec::new()
            });
            known.extend(fill);
        }
        order
            .into_iter()
            .filter_map(|reference| {
                let fills = fills.remove(&reference.venue_id).unwrap_or_default();
                let report = self.state.report(&reference, fills)?;
                Some((reference.account, report))
            })
            .collect()
    }

    /// An account. Refuses with -2015 when there is none of this label.
    pub fn account(&self, label: &str) -> Result<&Account, Refusal> {
        let unknown = || Refusal::new(-2015, "Invalid API-key, IP, or permissions for action.");
        self.state.account(label).ok_or_else(unknown)
    }

    fn label(&self, label: &str) -> Result<Label, Refusal> {
        self.account(label).map(|_| label.into())
    }

    /// Ends an open order.
    pub(crate) fn end(&mut self, order: &OrderRef, status: VenueStatus, now: Timestamp) {
        self.record(Record::End { account: order.account.clone(), venue_id: order.venue_id, status, at: now });
    }

    /// Applies a record and keeps it. What the exchange decides never contradicts its own state; were it to, the record
    /// would be left out and this would be false.
    pub(crate) fn record(&mut self, record: Record) -> bool {
        let applied = self.state.apply(&record);
        debug_assert_eq!(applied, Ok(()), "{record:?}");
        if applied.is_ok() {
            self.entry.push(record);
        }
        applied.is_ok()
    }

    /// Ends the operation.
    pub(crate) fn commit(&mut self) {
        if !self.entry.is_empty() {
            self.entries.push(std::mem::take(&mut self.entry));
        }
    }
}

#[cfg(test)]
mod tests;
