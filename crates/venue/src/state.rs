//! What the records add up to: accounts, orders, fills and books. It changes through [`State::apply`] alone.

use std::collections::{BTreeMap, BTreeSet};

use trading::exchange::{Fill, NewOrder, OrderKind, OrderReport, Side, TimeInForce, VenueBalance, VenueStatus};
use trading::ids::{ClientOrderId, TradeId, VenueOrderId};
use trading::market::{Asset, Symbol};
use trading::money::{Amount, Price, Qty};
use trading::time::Timestamp;

use crate::book::{Book, OrderRef, Priority};
use crate::record::{Label, Record};

/// A record that contradicts what came before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Contradiction(&'static str);

/// How much there is of an asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holding {
    /// Free and locked together.
    pub total: Amount,
    /// Reserved by open orders.
    pub locked: Amount,
}

impl Holding {
    /// What an order may still reserve.
    pub fn free(&self) -> Amount {
        self.total - self.locked
    }
}

/// An order that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// As it was sent.
    pub new: NewOrder,
    /// The venue's number.
    pub venue_id: VenueOrderId,
    /// What is bought or sold.
    pub base: Asset,
    /// What it is paid in.
    pub quote: Asset,
    /// Its state.
    pub status: VenueStatus,
    /// How much is filled.
    pub executed: Qty,
    /// What was paid or received for what is filled, without fees.
    pub executed_quote: Amount,
    /// Whether its stop price was reached. Always so for orders without one.
    pub triggered: bool,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Since when it can be filled: later than `created_at` for a stop order, and never until it is triggered.
    pub working_at: Option<Timestamp>,
    priority: Priority,
}

impl Order {
    /// What is still to be filled.
    pub fn remaining(&self) -> Qty {
        self.new.qty - self.executed
    }

    /// Whether it can still be filled.
    pub fn is_open(&self) -> bool {
        matches!(self.status, VenueStatus::New | VenueStatus::PartiallyFilled)
    }

    /// What the order keeps locked while `remaining` is unfilled. Market orders are done at once and lock nothing.
    fn reserve(&self, remaining: Qty) -> Option<(&Asset, Amount)> {
        let price = self.new.kind.price()?;
        Some(match self.new.side {
            Side::Buy => (&self.quote, price.notional(remaining)),
            Side::Sell => (&self.base, remaining.amount()),
        })
    }

    /// What is told of it, with these of its fills.
    pub fn report(&self, fills: Vec<Fill>) -> OrderReport {
        OrderReport {
            client_id: self.new.client_id.clone(),
            venue_id: self.venue_id,
            symbol: self.new.symbol.clone(),
            status: self.status,
            executed: self.executed,
            fills,
        }
    }
}

/// One account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    opening: Vec<VenueBalance>,
    holdings: BTreeMap<Asset, Holding>,
    orders: BTreeMap<VenueOrderId, Order>,
    open: BTreeSet<VenueOrderId>,
    // The newest order of each client id: ids of ended orders may be used again.
    by_client: BTreeMap<ClientOrderId, VenueOrderId>,
    fills: BTreeMap<Symbol, Vec<Fill>>,
}

impl Account {
    /// How much there is of an asset.
    pub fn holding(&self, asset: &Asset) -> Holding {
        self.holdings.get(asset).copied().unwrap_or_default()
    }

    /// What there is of every asset, ordered by asset.
    pub fn balances(&self) -> Vec<VenueBalance> {
        self.holdings.iter().map(|(asset, held)| VenueBalance { asset: asset.clone(), total: held.total }).collect()
    }

    /// How much there is of every asset, ordered by asset.
    pub fn holdings(&self) -> impl Iterator<Item = (&Asset, Holding)> {
        self.holdings.iter().map(|(asset, held)| (asset, *held))
    }

    /// Every order that was ever accepted, oldest first.
    pub fn orders(&self) -> impl DoubleEndedIterator<Item = &Order> {
        self.orders.values()
    }

    /// An order by the venue's number.
    pub fn order(&self, venue_id: VenueOrderId) -> Option<&Order> {
        self.orders.get(&venue_id)
    }

    /// The newest order that was given this id.
    pub fn by_client(&self, client_id: &ClientOrderId) -> Option<&Order> {
        self.orders.get(self.by_client.get(client_id)?)
    }

    /// The open orders, oldest first.
    pub fn open_orders(&self) -> impl Iterator<Item = &Order> {
        self.open.iter().filter_map(|id| self.orders.get(id))
    }

    /// The fills of a symbol after this trade, oldest first.
    pub fn fills(&self, symbol: &Symbol, after: Option<TradeId>) -> &[Fill] {
        let fills = self.fills.get(symbol).map_or(&[][..], Vec::as_slice);
        let known = fills.partition_point(|fill| after.is_some_and(|after| fill.trade_id <= after));
        fills.get(known..).unwrap_or_default()
    }

    fn hold(&mut self, asset: &Asset, total: Amount, locked: Amount) {
        let holding = self.holdings.entry(asset.clone()).or_default();
        holding.total += total;
        holding.locked += locked;
    }
}

/// Everything that the ledger knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    accounts: BTreeMap<Label, Account>,
    books: BTreeMap<Symbol, Book>,
    last_order: i64,
    last_trade: i64,
    last_priority: Priority,
}

impl State {
    /// An account by its label.
    pub fn account(&self, label: &str) -> Option<&Account> {
        self.accounts.get(label)
    }

    /// The accounts and their labels.
    pub fn accounts(&self) -> impl Iterator<Item = (&Label, &Account)> {
        self.accounts.iter()
    }

    /// The open orders of a symbol, if it ever had any.
    pub fn book(&self, symbol: &Symbol) -> Option<&Book> {
        self.books.get(symbol)
    }

    /// An order by its account and number.
    pub fn order(&self, order: &OrderRef) -> Option<&Order> {
        self.account(&order.account)?.order(order.venue_id)
    }

    /// A report of an order, with these of its fills.
    pub fn report(&self, order: &OrderRef, fills: Vec<Fill>) -> Option<OrderReport> {
        self.order(order).map(|order| order.report(fills))
    }

    /// The number that the next order gets.
    pub fn next_order(&self) -> VenueOrderId {
        VenueOrderId(self.last_order.saturating_add(1))
    }

    /// The number that the next trade gets.
    pub fn next_trade(&self) -> TradeId {
        TradeId(self.last_trade.saturating_add(1))
    }

    /// Takes in one record. After an error the state is not to be used any more.
    pub fn apply(&mut self, record: &Record) -> Result<(), Contradiction> {
        match record {
            Record::Format { .. } => Ok(()),
            Record::Account { label, opening, .. } => self.open_account(label, opening),
            Record::Post { account, .. } => {
                self.account(account).map(|_| ()).ok_or(Contradiction("a POST of an unknown account"))
            }
            Record::Order { account, venue_id, base, quote, order, at } => {
                let triggered = !matches!(order.kind, OrderKind::StopLimit { .. });
                let order = Order {
                    new: NewOrder::clone(order),
                    venue_id: *venue_id,
                    base: base.clone(),
                    quote: quote.clone(),
                    status: VenueStatus::New,
                    executed: Qty::ZERO,
                    executed_quote: Amount::ZERO,
                    triggered,
                    created_at: *at,
                    updated_at: *at,
                    working_at: triggered.then_some(*at),
                    priority: self.last_priority + 1,
                };
                self.accept(account, order)
            }
            Record::Trigger { account, venue_id, at } => self.trigger(account, *venue_id, *at),
            Record::Fill { account, fill } => self.fill(account, fill),
            Record::End { account, venue_id, status, at } => self.end(account, *venue_id, *status, *at),
        }
    }

    fn open_account(&mut self, label: &Label, opening: &[VenueBalance]) -> Result<(), Contradiction> {
        if self.accounts.contains_key(label) {
            return Err(Contradiction("an account that exists is opened"));
        }
        let mut account = Account { opening: opening.to_vec(), ..Account::default() };
        for balance in opening {
            account.hold(&balance.asset, balance.total, Amount::ZERO);
        }
        self.accounts.insert(label.clone(), account);
        Ok(())
    }

    fn accept(&mut self, label: &Label, order: Order) -> Result<(), Contradiction> {
        if order.venue_id.0 <= self.last_order {
            return Err(Contradiction("an order number does not grow"));
        }
        let account = self.accounts.get_mut(label).ok_or(Contradiction("an order of an unknown account"))?;
        if account.by_client(&order.new.client_id).is_some_and(Order::is_open) {
            return Err(Contradiction("two open orders have the same client id"));
        }
        if let Some((asset, amount)) = order.reserve(order.new.qty) {
            let asset = asset.clone();
            account.hold(&asset, Amount::ZERO, amount);
        }
        self.last_order = order.venue_id.0;
        self.last_priority = order.priority;
        let book = self.books.entry(order.new.symbol.clone()).or_default();
        let reference = OrderRef { account: label.clone(), venue_id: order.venue_id };
        match order.new.kind {
            OrderKind::Market => {}
            OrderKind::Limit { price } | OrderKind::PostOnly { price } => {
                book.rest(order.new.side, price, order.priority, reference);
            }
            OrderKind::StopLimit { stop_price, .. } => {
                book.wait(order.new.side, stop_price, order.priority, reference);
            }
        }
        account.open.insert(order.venue_id);
        account.by_client.insert(order.new.client_id.clone(), order.venue_id);
        account.orders.insert(order.venue_id, order);
        Ok(())
    }

    fn open_order(&mut self, label: &Label, venue_id: VenueOrderId) -> Result<(&mut Account, Order), Contradiction> {
        let account = self.accounts.get_mut(label).ok_or(Contradiction("a change in an unknown account"))?;
        match account.orders.get(&venue_id) {
            Some(order) if order.is_open() => {
                let order = order.clone();
                Ok((account, order))
            }
            Some(_) => Err(Contradiction("a change of an order that has ended")),
            None => Err(Contradiction("a change of an unknown order")),
        }
    }

    fn trigger(&mut self, label: &Label, venue_id: VenueOrderId, at: Timestamp) -> Result<(), Contradiction> {
        let priority = self.last_priority + 1;
        let (account, mut order) = self.open_order(label, venue_id)?;
        let OrderKind::StopLimit { stop_price, price } = order.new.kind else {
            return Err(Contradiction("an order without a stop price is triggered"));
        };
        if order.triggered {
            return Err(Contradiction("an order is triggered twice"));
        }
        let waited = order.priority;
        order.triggered = true;
        order.updated_at = at;
        order.working_at = Some(at);
        // It arrives in the book now, behind those that were there before it.
        order.priority = priority;
        let (side, symbol) = (order.new.side, order.new.symbol.clone());
        account.orders.insert(venue_id, order);
        self.last_priority = priority;
        let book = self.books.entry(symbol).or_default();
        book.unwait(side, stop_price, waited);
        book.rest(side, price, priority, OrderRef { account: label.clone(), venue_id });
        Ok(())
    }

    fn fill(&mut self, label: &Label, fill: &Fill) -> Result<(), Contradiction> {
        if fill.trade_id.0 <= self.last_trade {
            return Err(Contradiction("a trade number does not grow"));
        }
        let (account, mut order) = self.open_order(label, fill.venue_id)?;
        if fill.qty > order.remaining() {
            return Err(Contradiction("more is filled than was ordered"));
        }
        if fill.symbol != order.new.symbol || fill.side != order.new.side || fill.client_id != order.new.client_id {
            return Err(Contradiction("a fill that is not of its order"));
        }
        let paid = fill.price.notional(fill.qty);
        let (base, quote) = match fill.side {
            Side::Buy => (fill.qty.amount(), -paid),
            Side::Sell => (-fill.qty.amount(), paid),
        };
        account.hold(&order.base, base, Amount::ZERO);
        account.hold(&order.quote, quote, Amount::ZERO);
        account.hold(&fill.fee_asset, -fill.fee, Amount::ZERO);
        release(account, &order, order.remaining() - fill.qty);
        order.executed += fill.qty;
        order.executed_quote += paid;
        order.updated_at = fill.at;
        let done = order.remaining().is_zero();
        order.status = if done { VenueStatus::Filled } else { VenueStatus::PartiallyFilled };
        account.fills.entry(fill.symbol.clone()).or_default().push(fill.clone());
        if done {
            account.open.remove(&order.venue_id);
        }
        account.orders.insert(order.venue_id, order.clone());
        self.last_trade = fill.trade_id.0;
        if done {
            self.unlist(&order);
        }
        Ok(())
    }

    fn end(
        &mut self,
        label: &Label,
        venue_id: VenueOrderId,
        status: VenueStatus,
        at: Timestamp,
    ) -> Result<(), Contradiction> {
        if !matches!(status, VenueStatus::Canceled | VenueStatus::Expired) {
            return Err(Contradiction("an order ends in a state that is no end"));
        }
        let (account, mut order) = self.open_order(label, venue_id)?;
        release(account, &order, Qty::ZERO);
        order.status = status;
        order.updated_at = at;
        account.open.remove(&venue_id);
        account.orders.insert(venue_id, order.clone());
        self.unlist(&order);
        Ok(())
    }

    /// Takes an order out of its book.
    fn unlist(&mut self, order: &Order) {
        let Some(book) = self.books.get_mut(&order.new.symbol) else { return };
        match order.new.kind {
            OrderKind::Market => {}
            OrderKind::StopLimit { stop_price, .. } if !order.triggered => {
                book.unwait(order.new.side, stop_price, order.priority);
            }
            OrderKind::Limit { price } | OrderKind::PostOnly { price } | OrderKind::StopLimit { price, .. } => {
                book.remove(order.new.side, price, order.priority);
            }
        }
    }
}

/// Unlocks what `order` no longer needs once only `remaining` is unfilled.
fn release(account: &mut Account, order: &Order, remaining: Qty) {
    if let (Some((asset, before)), Some((_, after))) = (order.reserve(order.remaining()), order.reserve(remaining)) {
        account.hold(asset, Amount::ZERO, after - before);
    }
}

/// Whether an order's time in force lets it rest.
pub(crate) fn may_rest(order: &NewOrder) -> bool {
    match order.kind {
        OrderKind::Market => false,
        OrderKind::PostOnly { .. } => true,
        OrderKind::Limit { .. } | OrderKind::StopLimit { .. } => order.tif == TimeInForce::Gtc,
    }
}

/// Whether an order of `side` at `limit` trades with somebody who offers `price`. Without a limit everything does.
pub(crate) fn crosses(side: Side, limit: Option<Price>, price: Price) -> bool {
    match (side, limit) {
        (_, None) => true,
        (Side::Buy, Some(limit)) => price <= limit,
        (Side::Sell, Some(limit)) => price >= limit,
    }
}
