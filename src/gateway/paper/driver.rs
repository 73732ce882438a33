//! The venue's thread: the only one that touches the exchange and its ledger.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use trading::exchange::{Fill, NewOrder, OrderReport};
use trading::ids::{ClientOrderId, TradeId};
use trading::market::{Market, Symbol};
use trading::time::Timestamp;
use venue::book::OrderRef;
use venue::exchange::{Exchange, Refusal};
use venue::faults::Injector;
use venue::ledger::Ledger;
use venue::record::{Entry, Label};

use super::streams::Streams;
use super::{PaperError, QUEUE, lock};

/// How many messages share one sync of the ledger at most.
const MAX_BATCH: usize = 1024;

/// Delivers a result that was computed before. Called once the ledger is durable; dropped when it is not.
pub(super) type Answer = Box<dyn FnOnce() + Send>;
/// Something to be done with the exchange.
pub(super) type Work = Box<dyn FnOnce(&mut Core, Timestamp) -> Answer + Send>;

/// What waits for the thread.
pub(super) enum Message {
    /// A market event.
    Market(Arc<Market>),
    /// A request, and how late it arrives.
    Work { work: Work, delay: Option<Duration> },
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Market(market) => f.debug_tuple("Market").field(market).finish(),
            Message::Work { delay, .. } => f.debug_struct("Work").field("delay", delay).finish_non_exhaustive(),
        }
    }
}

/// Fills that are not shown yet.
#[derive(Debug)]
struct Withheld {
    order: OrderRef,
    fills: Vec<Fill>,
}

/// The exchange, and what is between it and its customers.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) exchange: Exchange,
    pub(super) streams: Streams,
    injector: Arc<Mutex<Injector>>,
    /// By the time at which they are shown, then by their first trade.
    withheld: BTreeMap<(Instant, TradeId), Withheld>,
}

impl Core {
    pub(super) fn new(exchange: Exchange, injector: Arc<Mutex<Injector>>) -> Self {
        Self { exchange, streams: Streams::default(), injector, withheld: BTreeMap::new() }
    }

    pub(super) fn submit(&mut self, account: &str, order: &NewOrder, now: Timestamp) -> Result<OrderReport, Refusal> {
        let rejects = lock(&self.injector).rejects();
        if let Some(refusal) = rejects {
            return Err(self.exchange.refuse(account, order, refusal, now));
        }
        let mut report = self.exchange.submit(account, order, now)?;
        self.withhold(&account.into(), &mut report);
        match lock(&self.injector).says_duplicate() {
            Some(duplicate) => Err(duplicate),
            None => Ok(report),
        }
    }

    pub(super) fn query(
        &self,
        account: &str,
        symbol: &Symbol,
        client_id: &ClientOrderId,
    ) -> Result<OrderReport, Refusal> {
        if lock(&self.injector).hides_order() {
            return Err(Refusal { code: -2013, reason: "Order does not exist.".to_owned() });
        }
        self.exchange.query(account, symbol, client_id)
    }

    /// Fills are shown in the order of their numbers: nothing after a withheld one, so that no page skips it.
    pub(super) fn fills(
        &self,
        account: &str,
        symbol: &Symbol,
        after: Option<TradeId>,
        limit: usize,
    ) -> Result<Vec<Fill>, Refusal> {
        let mut fills = self.exchange.fills(account, symbol, after, limit)?;
        let withheld = self.withheld.values().filter(|w| &*w.order.account == account).flat_map(|w| &w.fills);
        if let Some(first) = withheld.filter(|fill| fill.symbol == *symbol).map(|fill| fill.trade_id).min() {
            fills.retain(|fill| fill.trade_id < first);
        }
        Ok(fills)
    }

    /// Takes the fills out of a report if they are, or are to be, withheld.
    fn withhold(&mut self, account: &Label, report: &mut OrderReport) {
        let known = |fill: &Fill| self.withheld.values().any(|w| w.fills.iter().any(|f| f.trade_id == fill.trade_id));
        report.fills.retain(|fill| !known(fill));
        let Some(first) = report.fills.first().map(|fill| fill.trade_id) else { return };
        if self.withheld.len() >= QUEUE {
            return;
        }
        let duration = lock(&self.injector).withholds_fills();
        if let Some(duration) = duration {
            let order = OrderRef { account: account.clone(), venue_id: report.venue_id };
            let fills = std::mem::take(&mut report.fills);
            self.withheld.insert((Instant::now() + duration, first), Withheld { order, fills });
        }
    }

    /// Tells the streams what these operations changed.
    fn publish(&mut self, entries: &[Entry]) {
        for (account, mut report) in self.exchange.reports(entries) {
            self.withhold(&account, &mut report);
            self.streams.publish(&account, &report, &mut lock(&self.injector), Instant::now());
        }
    }

    /// Shows what was withheld until now, and brings back streams.
    fn release(&mut self, now: Instant) {
        while let Some(due) = self.withheld.first_entry().filter(|due| due.key().0 <= now) {
            let Withheld { order, fills } = due.remove();
            if let Some(report) = self.exchange.state().report(&order, fills) {
                self.streams.publish(&order.account, &report, &mut lock(&self.injector), now);
            }
        }
        self.streams.revive(now);
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let shown = self.withheld.first_key_value().map(|((due, _), _)| *due);
        shown.into_iter().chain(self.streams.next_due(now)).min()
    }
}

/// Runs the venue. The caller gives it a thread; it returns after [`super::PaperVenue::close`], or when the last handle and
/// gateway are gone.
#[must_use = "nothing is answered until the driver runs"]
pub struct PaperDriver {
    core: Core,
    ledger: Ledger,
    messages: mpsc::Receiver<Message>,
    stop: CancellationToken,
    /// Requests that a fault delays, by the time at which they arrive.
    delayed: BTreeMap<(Instant, u64), Work>,
    last_delayed: u64,
    /// The ledger failed: nothing is done and nothing is answered any more.
    down: bool,
}

impl fmt::Debug for PaperDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PaperDriver")
            .field("ledger", &self.ledger.path())
            .field("waiting", &self.messages.len())
            .field("delayed", &self.delayed.len())
            .field("down", &self.down)
            .finish_non_exhaustive()
    }
}

impl PaperDriver {
    pub(super) fn new(core: Core, ledger: Ledger, messages: mpsc::Receiver<Message>, stop: CancellationToken) -> Self {
        Self { core, ledger, messages, stop, delayed: BTreeMap::new(), last_delayed: 0, down: false }
    }

    /// Runs on this thread until the venue is closed. It blocks in file writes, so never call it on a worker of a runtime:
    /// `spawn_blocking` or a thread of its own are the places.
    pub fn run_blocking(mut self) -> Result<(), PaperError> {
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(PaperError::Thread)?;
        timer.block_on(self.run());
        Ok(())
    }

    async fn run(&mut self) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        let stop = self.stop.clone();
        loop {
            let now = Instant::now();
            let due = self.next_due(now);
            tokio::select! {
                biased;
                () = stop.cancelled(), if !self.messages.is_closed() => self.messages.close(),
                received = self.messages.recv_many(&mut batch, MAX_BATCH) => {
                    if received == 0 {
                        break;
                    }
                }
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
            }
            self.step(batch.drain(..));
        }
        self.core.streams.end();
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let delayed = self.delayed.first_key_value().map(|((due, _), _)| *due);
        delayed.into_iter().chain(self.core.next_due(now)).min()
    }

    /// Does everything that is due, makes it durable at once, and answers.
    fn step(&mut self, messages: impl Iterator<Item = Message>) {
        let mut answers = Vec::new();
        let now = Instant::now();
        let at = system_now();
        while let Some(due) = self.delayed.first_entry().filter(|due| due.key().0 <= now) {
            let work = due.remove();
            if !self.down {
                answers.push(work(&mut self.core, at));
            }
        }
        for message in messages {
            match message {
                _ if self.down => {}
                Message::Market(market) => self.core.exchange.on_market(&market, at),
                Message::Work { work, delay: None } => answers.push(work(&mut self.core, at)),
                // Beyond this many, a delayed request is a lost one.
                Message::Work { work, delay: Some(delay) } if self.delayed.len() < QUEUE => {
                    self.last_delayed += 1;
                    self.delayed.insert((now + delay, self.last_delayed), work);
                }
                Message::Work { .. } => {}
            }
        }
        let entries = self.core.exchange.take_entries();
        if !entries.is_empty() {
            if let Err(error) = self.ledger.append(&entries) {
                tracing::error!(%error, "the simulated venue is down: its ledger cannot be written");
                self.down = true;
                self.core.streams.end();
                return;
            }
            self.core.publish(&entries);
        }
        self.core.release(now);
        for answer in answers {
            answer();
        }
    }
}

/// The venue's clock. It is one of its own, as a real venue's is: requests are judged by it, never by their sender's.
fn system_now() -> Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulated venue stands outside of the system and has its own clock"
    )]
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}
