//! The venue's thread: the only one that touches the exchange and its ledger.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use trading::exchange::{Fill, NewOrder, OrderReport, StreamEvent};
use trading::ids::{ClientOrderId, TradeId, VenueOrderId};
use trading::market::{Market, Symbol};
use trading::time::Timestamp;

use super::streams::Streams;
use super::users::{Delivery, Users};
use super::{QUEUE, lock};
use crate::book::OrderRef;
use crate::exchange::{Exchange, Refusal};
use crate::faults::Injector;
use crate::ledger::Ledger;
use crate::record::{Entry, Label};
use crate::state::Order;
use crate::updates::{Change, Update};

/// How many messages share one sync of the ledger at most.
const MAX_BATCH: usize = 1024;

/// Delivers a result that was computed before. Called once the ledger is durable; dropped when it is not.
pub(crate) type Answer = Box<dyn FnOnce() + Send>;
/// Something to be done with the exchange.
pub(crate) type Work = Box<dyn FnOnce(&mut Core, Timestamp) -> Answer + Send>;

/// What waits for the thread.
pub(crate) enum Message {
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
    updates: Vec<Update>,
}

/// The exchange, and what is between it and its customers.
#[derive(Debug)]
pub struct Core {
    /// The exchange itself, without faults.
    pub exchange: Exchange,
    streams: Streams,
    users: Users,
    injector: Arc<Mutex<Injector>>,
    /// By the time at which they are shown, then by their first trade.
    withheld: BTreeMap<(Instant, TradeId), Withheld>,
    /// The names of the cancellations that were not published yet.
    cancel_ids: BTreeMap<VenueOrderId, Arc<str>>,
}

impl Core {
    pub(super) fn new(exchange: Exchange, injector: Arc<Mutex<Injector>>) -> Self {
        let (streams, users) = (Streams::default(), Users::default());
        Self { exchange, streams, users, injector, withheld: BTreeMap::new(), cancel_ids: BTreeMap::new() }
    }

    /// Takes a request for a new order, with the faults that are set. `recv_window` is the venue's own if there is none.
    pub fn submit(
        &mut self,
        account: &str,
        order: &NewOrder,
        recv_window: Option<Duration>,
        now: Timestamp,
    ) -> Result<OrderReport, Refusal> {
        let rejects = lock(&self.injector).rejects();
        if let Some(refusal) = rejects {
            self.exchange.refuse(account, &order.client_id, order.timestamp, &refusal, now);
            return Err(refusal);
        }
        let mut report = match recv_window {
            Some(window) => self.exchange.submit_within(account, order, window, now)?,
            None => self.exchange.submit(account, order, now)?,
        };
        self.withhold(&account.into(), &mut report);
        match lock(&self.injector).says_duplicate() {
            Some(duplicate) => Err(duplicate),
            None => Ok(report),
        }
    }

    /// Cancels an open order, and names the cancellation for those who listen. Refuses with -2011 when there is none.
    pub fn cancel(
        &mut self,
        account: &str,
        symbol: &Symbol,
        client_id: &ClientOrderId,
        cancel_id: Arc<str>,
        now: Timestamp,
    ) -> Result<OrderReport, Refusal> {
        let report = self.exchange.cancel(account, symbol, client_id, now)?;
        self.cancel_ids.insert(report.venue_id, cancel_id);
        Ok(report)
    }

    /// Asks for one order, with the faults that are set. Refuses with -2013 when there is none.
    pub fn query(&self, account: &str, symbol: &Symbol, client_id: &ClientOrderId) -> Result<OrderReport, Refusal> {
        if self.hides_order() {
            return Err(Refusal::new(-2013, "Order does not exist."));
        }
        self.exchange.query(account, symbol, client_id)
    }

    /// Whether a query for one order is told that there is none.
    pub fn hides_order(&self) -> bool {
        lock(&self.injector).hides_order()
    }

    /// Orders as a list shows them: none, as long as queries find none.
    pub fn listed(&self, orders: Vec<Order>) -> Vec<Order> {
        if lock(&self.injector).hides_orders() { Vec::new() } else { orders }
    }

    /// Subscribes within the process. The first event is [`StreamEvent::Up`].
    pub fn subscribe(&mut self, account: Label, events: mpsc::Sender<StreamEvent>) {
        self.streams.add(account, events);
    }

    /// Subscribes for a connection, and gives the subscription's number. `reset` is cancelled when the connection is to be
    /// broken off: by a fault, or because it does not keep up. `None` while a fault keeps the account's stream down.
    pub fn listen(&mut self, account: Label, events: mpsc::Sender<Delivery>, reset: CancellationToken) -> Option<u64> {
        self.users.subscribe(account, events, reset, Instant::now())
    }

    /// Ends a subscription of [`Core::listen`].
    pub fn unlisten(&mut self, id: u64) {
        self.users.unsubscribe(id);
    }

    /// Fills are shown in the order of their numbers: nothing after a withheld one, so that no page skips it.
    pub fn fills(
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
            let withheld = Withheld { order, fills, updates: Vec::new() };
            self.withheld.insert((Instant::now() + duration, first), withheld);
        }
    }

    /// Tells the streams what these operations changed.
    fn publish(&mut self, entries: &[Entry]) {
        for (account, mut report) in self.exchange.reports(entries) {
            self.withhold(&account, &mut report);
            self.streams.publish(&account, &report, &mut lock(&self.injector), Instant::now());
        }
        let mut cancel_ids = std::mem::take(&mut self.cancel_ids);
        if self.users.is_empty() {
            return;
        }
        for (account, mut update) in self.exchange.updates(entries) {
            if let Update::Order(execution) = &mut update
                && execution.change == Change::Canceled
            {
                execution.cancel_id = cancel_ids.remove(&execution.order.venue_id);
            }
            if let Some(withheld) = self.withheld_with(&update) {
                withheld.updates.push(update);
            } else {
                self.users.publish(&account, update, &mut lock(&self.injector), Instant::now());
            }
        }
    }

    fn withheld_with(&mut self, update: &Update) -> Option<&mut Withheld> {
        let Update::Order(execution) = update else { return None };
        let Change::Trade(fill) = &execution.change else { return None };
        self.withheld.values_mut().find(|withheld| withheld.fills.iter().any(|f| f.trade_id == fill.trade_id))
    }

    /// Shows what was withheld until now, and brings back streams.
    fn release(&mut self, now: Instant) {
        while let Some(due) = self.withheld.first_entry().filter(|due| due.key().0 <= now) {
            let Withheld { order, fills, updates } = due.remove();
            let injector = &mut lock(&self.injector);
            if let Some(report) = self.exchange.state().report(&order, fills) {
                self.streams.publish(&order.account, &report, injector, now);
            }
            for update in updates {
                self.users.publish(&order.account, update, injector, now);
            }
        }
        self.streams.revive(now);
    }

    fn work(&mut self, work: Work, now: Timestamp) -> Answer {
        lock(&self.injector).judges_by_clock();
        work(self, now)
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let shown = self.withheld.first_key_value().map(|((due, _), _)| *due);
        shown.into_iter().chain(self.streams.next_due(now)).min()
    }
}

/// Runs the venue. The caller gives it a thread; it returns after [`super::Host::close`], or when the last handle is gone.
#[must_use = "nothing is answered until the driver runs"]
pub struct Driver {
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

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("ledger", &self.ledger.path())
            .field("waiting", &self.messages.len())
            .field("delayed", &self.delayed.len())
            .field("down", &self.down)
            .finish_non_exhaustive()
    }
}

impl Driver {
    pub(super) fn new(core: Core, ledger: Ledger, messages: mpsc::Receiver<Message>, stop: CancellationToken) -> Self {
        Self { core, ledger, messages, stop, delayed: BTreeMap::new(), last_delayed: 0, down: false }
    }

    /// Runs on this thread until the venue is closed. It blocks in file writes, so never call it on a worker of a runtime:
    /// `spawn_blocking` or a thread of its own are the places.
    pub fn run_blocking(mut self) -> io::Result<()> {
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
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
        let at = lock(&self.core.injector).skewed(system_now());
        while let Some(due) = self.delayed.first_entry().filter(|due| due.key().0 <= now) {
            let work = due.remove();
            if !self.down {
                answers.push(self.core.work(work, at));
            }
        }
        for message in messages {
            match message {
                _ if self.down => {}
                Message::Market(market) => self.core.exchange.on_market(&market, at),
                Message::Work { work, delay: None } => answers.push(self.core.work(work, at)),
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

/// The venue's clock before faults. It is one of its own, as a real venue's is: requests are judged by it, never by their sender's.
pub fn system_now() -> Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulated venue stands outside of the system and has its own clock"
    )]
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}
