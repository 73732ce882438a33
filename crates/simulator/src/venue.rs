//! The venue: the real exchange, behind a network and an API that misbehave.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use trading::exchange::{Fill, NewOrder, OrderReport, VenueBalance};
use trading::ids::{ClientOrderId, TradeId, VenueOrderId};
use trading::market::{Asset, Market, Quote, Symbol, SymbolInfo};
use trading::money::{Amount, Price, Qty};
use trading::time::Timestamp;
use venue::exchange::{Exchange, Refusal, Settings};
use venue::ledger::{AccountImage, Image, OrderImage, Post};
use venue::state::State;

use crate::plan::{Plan, Who};

pub(crate) const LABEL: &str = "sim";

/// A subscription to the account's stream.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) who: Who,
    pub(crate) token: u32,
    /// Events are lost while it is.
    pub(crate) cut: bool,
    /// Events arrive in order: none before this.
    pub(crate) next_at: i64,
}

/// The simulated venue.
#[derive(Debug)]
pub(crate) struct SimVenue {
    pub(crate) exchange: Exchange,
    opening: Vec<VenueBalance>,
    orders: Vec<VenueOrderId>,
    pub(crate) posts: Vec<Post>,
    accepted_at: BTreeMap<ClientOrderId, i64>,
    withheld: BTreeMap<TradeId, Fill>,
    pub(crate) subscriptions: Vec<Subscription>,
    mid: BTreeMap<Symbol, i64>,
}

impl SimVenue {
    pub(crate) fn new(plan: &Plan, recv_window: std::time::Duration, now: Timestamp) -> Self {
        let settings = Settings { symbols: plan.symbols.clone(), maker_fee_bps: 10, taker_fee_bps: 20, recv_window };
        let mut exchange = Exchange::new(settings, State::default());
        let mut opening: Vec<VenueBalance> = plan.symbols.iter().map(|info| balance(&info.base, 0)).collect();
        opening.push(balance(&Asset::new("USDT"), 2_000));
        let opened = exchange.open_account(LABEL, &opening, now);
        debug_assert_eq!(opened, Ok(()));
        let mid = plan.symbols.iter().map(|info| (info.symbol.clone(), 10_000)).collect();
        exchange.take_entries();
        Self {
            exchange,
            opening,
            orders: Vec::new(),
            posts: Vec::new(),
            accepted_at: BTreeMap::new(),
            withheld: BTreeMap::new(),
            subscriptions: Vec::new(),
            mid,
        }
    }

    /// Moves the price of a symbol by so many thousandths of a percent, and gives the new quote.
    pub(crate) fn move_price(&mut self, info: &SymbolInfo, by: i64, sizes: (i64, i64), now: Timestamp) -> Market {
        let mid = self.mid.entry(info.symbol.clone()).or_insert(10_000);
        // It is drawn back to where the orders are.
        *mid = (*mid + *mid * by / 100_000 - (*mid - 10_000) / 12).clamp(9_000, 11_000);
        let price = |cents: i64| Price::new(Decimal::new(cents, 2));
        let quote = Quote {
            symbol: info.symbol.clone(),
            bid: price(*mid - 1),
            bid_qty: crate::plan::qty(sizes.0),
            ask: price(*mid + 1),
            ask_qty: crate::plan::qty(sizes.1),
            at: now,
        };
        let market = Market::Quote(quote);
        self.exchange.on_market(&market, now);
        market
    }

    /// Whether the market asks for more than this.
    pub(crate) fn asks_more_than(&self, symbol: &Symbol, price: Price) -> bool {
        self.mid.get(symbol).is_some_and(|mid| Price::new(Decimal::new(*mid, 2)) > price)
    }

    /// What happened since the last call, as the stream tells it.
    pub(crate) fn news(&mut self) -> Vec<OrderReport> {
        let entries = self.exchange.take_entries();
        if entries.is_empty() {
            return Vec::new();
        }
        self.exchange.reports(&entries).into_iter().map(|(_, report)| report).collect()
    }

    /// Takes an order, or refuses it as it would be refused in any case.
    pub(crate) fn post(
        &mut self,
        order: &NewOrder,
        refusal: Option<Refusal>,
        now: Timestamp,
    ) -> Result<OrderReport, Refusal> {
        let result = match refusal {
            Some(refusal) => {
                self.exchange.refuse(LABEL, &order.client_id, order.timestamp, &refusal, now);
                Err(refusal)
            }
            None => self.exchange.submit(LABEL, order, now),
        };
        self.posts.push(Post {
            client_id: order.client_id.clone(),
            timestamp: order.timestamp,
            received_at: now,
            accepted: result.is_ok(),
            reason: result.as_ref().err().map(ToString::to_string),
        });
        if let Ok(report) = &result {
            self.orders.push(report.venue_id);
            self.accepted_at.insert(order.client_id.clone(), now.micros());
        }
        result
    }

    /// How often a request with this client id was received.
    pub(crate) fn received(&self, client_id: &ClientOrderId) -> usize {
        self.posts.iter().filter(|post| post.client_id == *client_id).count()
    }

    /// When it took the order, if it did.
    pub(crate) fn accepted_at(&self, client_id: &ClientOrderId) -> Option<i64> {
        self.accepted_at.get(client_id).copied()
    }

    /// Keeps these fills back: reports and pages do not show them.
    pub(crate) fn withhold(&mut self, fills: &[Fill]) {
        self.withheld.extend(fills.iter().map(|fill| (fill.trade_id, fill.clone())));
    }

    /// Leaves out of a report what is withheld.
    pub(crate) fn without_withheld(&self, mut report: OrderReport) -> OrderReport {
        report.fills.retain(|fill| !self.withheld.contains_key(&fill.trade_id));
        report
    }

    /// Shows what was withheld: the report that tells of it.
    pub(crate) fn show(&mut self, trades: &[TradeId]) -> Option<OrderReport> {
        let fills: Vec<Fill> = trades.iter().filter_map(|id| self.withheld.remove(id)).collect();
        let client_id = fills.first()?.client_id.clone();
        let order = self.exchange.state().account(LABEL)?.by_client(&client_id)?;
        Some(order.report(fills))
    }

    /// A page of fills: nothing after a withheld one, as a venue whose trades appear in the order of their numbers.
    pub(crate) fn page(&self, symbol: &Symbol, after: Option<TradeId>, limit: usize) -> Vec<Fill> {
        let first_hidden = self.withheld.values().filter(|fill| fill.symbol == *symbol).map(|fill| fill.trade_id).min();
        let mut fills = self.exchange.fills(LABEL, symbol, after, limit).unwrap_or_default();
        fills.retain(|fill| first_hidden.is_none_or(|hidden| fill.trade_id < hidden));
        fills
    }

    /// The venue as the checker reads it.
    pub(crate) fn image(&self) -> Image {
        let Some(account) = self.exchange.state().account(LABEL) else { return Image::default() };
        let orders = self.orders.iter().filter_map(|id| account.order(*id)).map(|order| {
            let image = OrderImage {
                client_id: order.new.client_id.clone(),
                symbol: order.new.symbol.clone(),
                side: order.new.side,
                kind: order.new.kind,
                tif: order.new.tif,
                qty: order.new.qty,
                status: order.status,
                executed: order.executed,
            };
            (order.venue_id, image)
        });
        let mut fills: Vec<Fill> = self.mid.keys().flat_map(|symbol| account.fills(symbol, None)).cloned().collect();
        fills.sort_by_key(|fill| fill.trade_id);
        let image = AccountImage {
            opening: self.opening.clone(),
            balances: account.balances(),
            orders: orders.collect(),
            fills,
            posts: self.posts.clone(),
        };
        Image { accounts: [(LABEL.to_owned(), image)].into() }
    }

    /// Whether the order has fills or has ended: nothing is left to be cancelled.
    pub(crate) fn executed(&self, client_id: &ClientOrderId) -> Option<Qty> {
        Some(self.exchange.state().account(LABEL)?.by_client(client_id)?.executed)
    }
}

fn balance(asset: &Asset, total: i64) -> VenueBalance {
    VenueBalance { asset: asset.clone(), total: Amount::new(Decimal::from(total)) }
}
