//! A venue in memory that lets every order rest, counts what it was sent, and can be made to swallow it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use hotgo::gateway::{Gateway, GatewayError, RequestWindow};
use tokio::sync::{mpsc, watch};
use trading::exchange::{
    CancelResult, Fill, NewOrder, OrderReport, QueryResult, SendResult, StreamEvent, VenueBalance, VenueStatus,
};
use trading::ids::{ClientOrderId, TradeId, VenueOrderId};
use trading::market::{Asset, Symbol, SymbolInfo};
use trading::money::Qty;

#[derive(Debug)]
pub struct Venue {
    next: AtomicI64,
    open: Mutex<BTreeMap<ClientOrderId, OrderReport>>,
    sent: watch::Sender<BTreeMap<ClientOrderId, u32>>,
    /// Takes requests and never answers, nor carries them out.
    pub swallows: AtomicBool,
    streams: Mutex<Vec<mpsc::Sender<StreamEvent>>>,
}

impl Default for Venue {
    fn default() -> Self {
        Self {
            next: AtomicI64::new(1),
            open: Mutex::default(),
            sent: watch::Sender::new(BTreeMap::new()),
            swallows: AtomicBool::new(false),
            streams: Mutex::default(),
        }
    }
}

impl Venue {
    /// How often each order was sent.
    pub fn sent(&self) -> BTreeMap<ClientOrderId, u32> {
        self.sent.borrow().clone()
    }

    /// Waits until so many orders were sent.
    pub async fn was_sent(&self, orders: usize) {
        self.sent.subscribe().wait_for(|sent| sent.len() >= orders).await.unwrap();
    }
}

#[async_trait::async_trait]
impl Gateway for Venue {
    fn window(&self) -> RequestWindow {
        RequestWindow {
            recv_window: Duration::from_millis(200),
            absence_margin: Duration::from_millis(200),
            request_timeout: Duration::from_secs(20),
        }
    }

    async fn symbols(&self) -> Result<Vec<SymbolInfo>, GatewayError> {
        Ok(vec![SymbolInfo {
            symbol: "BTCUSDT".parse().unwrap(),
            base: Asset::new("BTC"),
            quote: Asset::new("USDT"),
            tick: "0.01".parse().unwrap(),
            lot: "0.00001".parse().unwrap(),
            min_qty: "0.00001".parse().unwrap(),
            min_notional: "5".parse().unwrap(),
            max_open_orders: usize::MAX,
        }])
    }

    async fn balances(&self) -> Result<Vec<VenueBalance>, GatewayError> {
        Ok(vec![VenueBalance { asset: Asset::new("USDT"), total: "1000000000".parse().unwrap() }])
    }

    async fn send(&self, order: &NewOrder) -> SendResult {
        self.sent.send_modify(|sent| *sent.entry(order.client_id.clone()).or_default() += 1);
        if self.swallows.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let report = OrderReport {
            client_id: order.client_id.clone(),
            venue_id: VenueOrderId(self.next.fetch_add(1, Ordering::SeqCst)),
            symbol: order.symbol.clone(),
            status: VenueStatus::New,
            executed: Qty::ZERO,
            fills: Vec::new(),
        };
        self.open.lock().unwrap().insert(report.client_id.clone(), report.clone());
        SendResult::Accepted(report)
    }

    async fn cancel(&self, _: &Symbol, client_id: &ClientOrderId) -> CancelResult {
        match self.open.lock().unwrap().remove(client_id) {
            Some(report) => CancelResult::Canceled(OrderReport { status: VenueStatus::Canceled, ..report }),
            None => CancelResult::UnknownOrder,
        }
    }

    async fn query(&self, _: &Symbol, client_id: &ClientOrderId, thorough: bool) -> QueryResult {
        let found = self.open.lock().unwrap().get(client_id).cloned();
        found.map_or(QueryResult::NotFound { thorough }, QueryResult::Found)
    }

    async fn open_orders(&self) -> Result<Vec<OrderReport>, GatewayError> {
        Ok(self.open.lock().unwrap().values().cloned().collect())
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
