//! A venue in memory that any number of processes trade at, and that remembers who sent what.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hotgo::gateway::{Gateway, GatewayError, RequestWindow};
use rust_decimal::Decimal;
use tokio::sync::{mpsc, watch};
use trading::exchange::{
    CancelResult, Fill, NewOrder, OrderKind, OrderReport, QueryResult, SendResult, StreamEvent, VenueBalance,
    VenueStatus,
};
use trading::ids::{ClientOrderId, TradeId, VenueOrderId};
use trading::market::{Asset, Symbol, SymbolInfo};
use trading::money::{Amount, Qty};

/// A request for a new order.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    /// Which instance sent it.
    pub(crate) by: Arc<str>,
    pub(crate) client_id: ClientOrderId,
}

#[derive(Debug, Default)]
struct Desk {
    orders: BTreeMap<ClientOrderId, OrderReport>,
    fills: Vec<Fill>,
    posts: Vec<Post>,
    streams: Vec<mpsc::Sender<StreamEvent>>,
}

#[derive(Debug)]
pub(crate) struct Venue {
    pub(crate) info: SymbolInfo,
    desks: Mutex<(i64, BTreeMap<String, Desk>)>,
    /// While it is set, orders are taken, and nobody is told.
    hold: watch::Sender<bool>,
}

impl Venue {
    pub(crate) fn new() -> Arc<Self> {
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
        Arc::new(Self { info, desks: Mutex::default(), hold: watch::Sender::new(false) })
    }

    /// The port of an account, for one instance.
    pub(crate) fn port(self: &Arc<Self>, account: &str, by: &Arc<str>) -> Arc<dyn Gateway> {
        Arc::new(Port { venue: Arc::clone(self), account: account.to_owned(), by: Arc::clone(by) })
    }

    pub(crate) fn hold(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    /// All posts for an account, in the order of their arrival.
    pub(crate) fn posts(&self, account: &str) -> Vec<Post> {
        self.with(account, |desk, _| desk.posts.clone())
    }

    pub(crate) fn orders(&self, account: &str) -> BTreeMap<ClientOrderId, OrderReport> {
        self.with(account, |desk, _| desk.orders.clone())
    }

    fn with<T>(&self, account: &str, work: impl FnOnce(&mut Desk, &mut i64) -> T) -> T {
        let mut desks: MutexGuard<'_, _> = self.desks.lock().unwrap();
        let (next, desks) = &mut *desks;
        work(desks.entry(account.to_owned()).or_default(), next)
    }
}

#[derive(Debug)]
struct Port {
    venue: Arc<Venue>,
    account: String,
    by: Arc<str>,
}

impl Port {
    fn accept(&self, order: &NewOrder) -> OrderReport {
        self.venue.with(&self.account, |desk, next| {
            *next += 1;
            desk.posts.push(Post { by: Arc::clone(&self.by), client_id: order.client_id.clone() });
            let filled = order.kind == OrderKind::Market;
            let fill = || Fill {
                trade_id: TradeId(*next),
                client_id: order.client_id.clone(),
                venue_id: VenueOrderId(*next),
                symbol: order.symbol.clone(),
                side: order.side,
                price: "87000".parse().unwrap(),
                qty: order.qty,
                fee: Amount::ZERO,
                fee_asset: Asset::new("BTC"),
                maker: false,
                at: order.timestamp,
            };
            let report = OrderReport {
                client_id: order.client_id.clone(),
                venue_id: VenueOrderId(*next),
                symbol: order.symbol.clone(),
                status: if filled { VenueStatus::Filled } else { VenueStatus::New },
                executed: if filled { order.qty } else { Qty::ZERO },
                fills: filled.then(fill).into_iter().collect(),
            };
            desk.fills.extend(report.fills.iter().cloned());
            desk.orders.insert(report.client_id.clone(), report.clone());
            if !*self.venue.hold.borrow() {
                let event = StreamEvent::Report(report.clone());
                desk.streams.retain(|stream| stream.try_send(event.clone()).is_ok());
            }
            report
        })
    }
}

#[async_trait::async_trait]
impl Gateway for Port {
    fn window(&self) -> RequestWindow {
        RequestWindow {
            recv_window: Duration::from_millis(200),
            absence_margin: Duration::from_millis(300),
            request_timeout: Duration::from_secs(5),
        }
    }

    async fn symbols(&self) -> Result<Vec<SymbolInfo>, GatewayError> {
        Ok(vec![self.venue.info.clone()])
    }

    async fn balances(&self) -> Result<Vec<VenueBalance>, GatewayError> {
        let fills = self.venue.with(&self.account, |desk, _| desk.fills.clone());
        let bought: Decimal = fills.iter().map(|fill| fill.qty.get()).sum();
        let spent: Decimal = fills.iter().map(|fill| fill.price.notional(fill.qty).get()).sum();
        let balance = |asset, total| VenueBalance { asset: Asset::new(asset), total: Amount::new(total) };
        Ok(vec![balance("BTC", bought), balance("USDT", Decimal::new(1_000_000_000, 0) - spent)])
    }

    async fn send(&self, order: &NewOrder) -> SendResult {
        let report = self.accept(order);
        let _held = self.venue.hold.subscribe().wait_for(|hold| !hold).await.is_ok();
        SendResult::Accepted(report)
    }

    async fn cancel(&self, _: &Symbol, client_id: &ClientOrderId) -> CancelResult {
        self.venue.with(&self.account, |desk, _| match desk.orders.get_mut(client_id) {
            Some(order) if order.status == VenueStatus::New => {
                order.status = VenueStatus::Canceled;
                CancelResult::Canceled(order.clone())
            }
            _ => CancelResult::UnknownOrder,
        })
    }

    async fn query(&self, _: &Symbol, client_id: &ClientOrderId, thorough: bool) -> QueryResult {
        let found = self.venue.orders(&self.account).remove(client_id);
        found.map_or(QueryResult::NotFound { thorough }, QueryResult::Found)
    }

    async fn open_orders(&self) -> Result<Vec<OrderReport>, GatewayError> {
        let orders = self.venue.orders(&self.account).into_values();
        Ok(orders.filter(|order| order.status == VenueStatus::New).collect())
    }

    async fn fills(&self, _: &Symbol, after: Option<TradeId>, _: u32) -> Result<Vec<Fill>, GatewayError> {
        let fills = self.venue.with(&self.account, |desk, _| desk.fills.clone());
        Ok(fills.into_iter().filter(|fill| after.is_none_or(|after| fill.trade_id > after)).collect())
    }

    async fn subscribe(&self) -> Result<mpsc::Receiver<StreamEvent>, GatewayError> {
        let (sender, receiver) = mpsc::channel(4096);
        sender.send(StreamEvent::Up).await.map_err(|_| GatewayError::Closed)?;
        self.venue.with(&self.account, |desk, _| desk.streams.push(sender));
        Ok(receiver)
    }
}
