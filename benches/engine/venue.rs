//! A venue in memory that accepts whatever comes, and fills it at once or never.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use hotgo::gateway::{Gateway, GatewayError, RequestWindow};
use rust_decimal::Decimal;
use tokio::sync::mpsc;
use trading::engine::{Effect, Input};
use trading::exchange::{
    CancelResult, Fill, NewOrder, OrderReport, QueryResult, SendResult, StreamEvent, VenueBalance, VenueStatus,
};
use trading::ids::{ClientOrderId, TradeId, VenueOrderId};
use trading::market::{Asset, Symbol, SymbolInfo};
use trading::money::{Amount, Qty};

#[derive(Debug)]
pub(crate) struct Venue {
    pub(crate) info: SymbolInfo,
    fills: bool,
    next: AtomicI64,
    open: Mutex<BTreeMap<ClientOrderId, OrderReport>>,
    streams: Mutex<Vec<mpsc::Sender<StreamEvent>>>,
}

impl Venue {
    pub(crate) fn new(fills: bool) -> Self {
        let info = SymbolInfo {
            symbol: "BTCUSDT".parse().unwrap(),
            base: Asset::new("BTC"),
            quote: Asset::new("USDT"),
            tick: "0.01".parse().unwrap(),
            lot: "0.00001".parse().unwrap(),
            min_qty: "0.00001".parse().unwrap(),
            min_notional: "5".parse().unwrap(),
            max_open_orders: usize::MAX,
        };
        Self { info, fills, next: AtomicI64::new(1), open: Mutex::default(), streams: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<ClientOrderId, OrderReport>> {
        self.open.lock().unwrap()
    }

    fn accept(&self, order: &NewOrder) -> OrderReport {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let fill = || Fill {
            trade_id: TradeId(number),
            client_id: order.client_id.clone(),
            venue_id: VenueOrderId(number),
            symbol: order.symbol.clone(),
            side: order.side,
            price: "87000".parse().unwrap(),
            qty: order.qty,
            fee: "0.000001".parse().unwrap(),
            fee_asset: self.info.base.clone(),
            maker: false,
            at: order.timestamp,
        };
        let report = OrderReport {
            client_id: order.client_id.clone(),
            venue_id: VenueOrderId(number),
            symbol: order.symbol.clone(),
            status: if self.fills { VenueStatus::Filled } else { VenueStatus::New },
            executed: if self.fills { order.qty } else { Qty::ZERO },
            fills: self.fills.then(fill).into_iter().collect(),
        };
        if !self.fills {
            self.open().insert(report.client_id.clone(), report.clone());
        }
        report
    }

    fn balance(&self) -> Vec<VenueBalance> {
        let total = Amount::new(Decimal::new(1_000_000_000_000, 0));
        vec![VenueBalance { asset: self.info.quote.clone(), total }]
    }

    /// What an engine hears next, without any task between.
    pub(crate) fn answer(&self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Send(order) => {
                let result = SendResult::Accepted(self.accept(&order));
                Some(Input::Sent { client_id: order.client_id, result })
            }
            Effect::FetchFills { symbol, .. } => Some(Input::Fetched { symbol, fills: Some(Vec::new()), more: false }),
            Effect::ListOpenOrders => Some(Input::OpenOrders(Some(Vec::new()))),
            Effect::ListBalances => Some(Input::Balances(Some(self.balance()))),
            _ => None,
        }
    }
}

#[async_trait::async_trait]
impl Gateway for Venue {
    fn window(&self) -> RequestWindow {
        RequestWindow {
            recv_window: Duration::from_secs(5),
            absence_margin: Duration::from_secs(10),
            request_timeout: Duration::from_secs(5),
        }
    }

    async fn symbols(&self) -> Result<Vec<SymbolInfo>, GatewayError> {
        Ok(vec![self.info.clone()])
    }

    async fn balances(&self) -> Result<Vec<VenueBalance>, GatewayError> {
        Ok(self.balance())
    }

    async fn send(&self, order: &NewOrder) -> SendResult {
        SendResult::Accepted(self.accept(order))
    }

    async fn cancel(&self, _: &Symbol, _: &ClientOrderId) -> CancelResult {
        CancelResult::UnknownOrder
    }

    async fn query(&self, _: &Symbol, client_id: &ClientOrderId, thorough: bool) -> QueryResult {
        self.open().get(client_id).cloned().map_or(QueryResult::NotFound { thorough }, QueryResult::Found)
    }

    async fn open_orders(&self) -> Result<Vec<OrderReport>, GatewayError> {
        Ok(self.open().values().cloned().collect())
    }

    async fn fills(&self, _: &Symbol, _: Option<TradeId>, _: u32) -> Result<Vec<Fill>, GatewayError> {
        Ok(Vec::new())
    }

    async fn subscribe(&self) -> Result<mpsc::Receiver<StreamEvent>, GatewayError> {
        let (sender, receiver) = mpsc::channel(16);
        sender.send(StreamEvent::Up).await.map_err(|_| GatewayError::Closed)?;
        self.streams.lock().unwrap().push(sender);
        Ok(receiver)
    }
}
