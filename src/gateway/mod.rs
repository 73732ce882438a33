//! The way to a venue: a port, and an adapter per venue.

pub mod binance;
pub mod paper;

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use trading::exchange::{
    CancelResult, Fill, NewOrder, OrderReport, QueryResult, SendResult, StreamEvent, VenueBalance,
};
use trading::ids::{ClientOrderId, TradeId};
use trading::market::{Symbol, SymbolInfo};

/// Why a read at the venue failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GatewayError {
    /// No answer, or none that makes sense. Trying again may help.
    #[error("the venue did not answer: {0}")]
    Unavailable(String),
    /// The gateway is closed.
    #[error("the gateway is closed")]
    Closed,
}

/// What makes absence provable at this venue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestWindow {
    /// The venue refuses a request that arrives later than its timestamp plus this.
    pub recv_window: Duration,
    /// What is added for clock skew and the venue's own delays before "no such order" means something.
    pub absence_margin: Duration,
    /// How long an answer is waited for before the outcome counts as unknown.
    pub request_timeout: Duration,
}

/// The port. One per account. Every call is bounded by [`RequestWindow::request_timeout`].
///
/// Cancel safety: dropping a [`Gateway::send`] leaves the outcome unknown; the other calls change nothing that a query
/// would not show.
#[async_trait]
pub trait Gateway: Send + Sync + std::fmt::Debug {
    /// What makes absence provable here.
    fn window(&self) -> RequestWindow;
    /// The symbols that can be traded, with their filters.
    async fn symbols(&self) -> Result<Vec<SymbolInfo>, GatewayError>;
    /// What the account has.
    async fn balances(&self) -> Result<Vec<VenueBalance>, GatewayError>;
    /// Sends an order, once. Never repeats the POST, whatever happens.
    async fn send(&self, order: &NewOrder) -> SendResult;
    /// Asks for a cancellation, once.
    async fn cancel(&self, symbol: &Symbol, client_id: &ClientOrderId) -> CancelResult;
    /// Asks for an order by our id. `thorough` also searches open and past orders before it says that there is none.
    async fn query(&self, symbol: &Symbol, client_id: &ClientOrderId, thorough: bool) -> QueryResult;
    /// The account's open orders, ours and foreign ones, without their fills.
    async fn open_orders(&self) -> Result<Vec<OrderReport>, GatewayError>;
    /// The account's fills in a symbol after this trade, oldest first, at most `limit`.
    async fn fills(&self, symbol: &Symbol, after: Option<TradeId>, limit: u32) -> Result<Vec<Fill>, GatewayError>;
    /// The account's own stream from now on. Bounded: a consumer that falls behind gets [`StreamEvent::Down`], then
    /// [`StreamEvent::Up`], and fetches what it missed. The first event is [`StreamEvent::Up`].
    async fn subscribe(&self) -> Result<mpsc::Receiver<StreamEvent>, GatewayError>;
}
