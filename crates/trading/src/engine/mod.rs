//! The engine: one per account, a single writer. [`Engine::step`] decides; what it decides is committed before anything
//! is done.
//!
//! The caller (a driver around tokio in production, a simulator in tests) feeds inputs one at a time, commits the events
//! of as many steps as it likes in one transaction, and only then carries out their effects, in order. If a commit fails
//! the caller throws the engine away and builds a new one from the store: memory is never ahead of what is durable.
//!
//! Reading order: `recovery` (how it starts), `commands`, `robots` (who decides), `orders` (what befalls an order),
//! `asking` (how an unknown outcome is resolved), `funds`.

mod asking;
mod commands;
mod funds;
mod orders;
mod recovery;
mod robots;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub use snapshot::{RECENT_TRADES, Snapshot};

use crate::command::{Command, Record};
use crate::event::{Event, Recorded};
use crate::exchange::{CancelResult, Fill, NewOrder, OrderReport, QueryResult, SendResult, StreamEvent, VenueBalance};
use crate::ids::{AccountId, ClientOrderId, Epoch, RobotId, Seq, TradeId};
use crate::market::{Asset, Market, Quote, Symbol, SymbolInfo};
use crate::order::Order;
use crate::position::Balance;
use crate::risk::Limits;
use crate::robot::{Answer, Occasion, StrategyState, View};
use crate::time::Timestamp;

use asking::Asking;
use funds::Funds;
use recovery::Recovery;
use robots::Seat;

/// What happened outside.
#[derive(Debug, Clone)]
pub enum Input {
    /// Somebody wants something. The ticket comes back with [`Effect::Reply`].
    Command {
        /// The caller's number for the one who waits.
        ticket: u64,
        /// The command.
        command: Command,
    },
    /// Market data.
    Market(Market),
    /// An [`Effect::Send`] ended.
    Sent {
        /// The order.
        client_id: ClientOrderId,
        /// How.
        result: SendResult,
    },
    /// An [`Effect::Cancel`] ended.
    CancelEnded {
        /// The order.
        client_id: ClientOrderId,
        /// How.
        result: CancelResult,
    },
    /// An [`Effect::Query`] ended.
    Queried {
        /// The order.
        client_id: ClientOrderId,
        /// How.
        result: QueryResult,
    },
    /// An [`Effect::FetchFills`] ended.
    Fetched {
        /// The pair.
        symbol: Symbol,
        /// The fills, oldest first; `None` if the venue did not answer.
        fills: Option<Vec<Fill>>,
        /// Whether there may be more after the last one.
        more: bool,
    },
    /// An [`Effect::ListOpenOrders`] ended; `None` if the venue did not answer.
    OpenOrders(Option<Vec<OrderReport>>),
    /// An [`Effect::ListBalances`] ended; `None` if the venue did not answer.
    Balances(Option<Vec<VenueBalance>>),
    /// An [`Effect::Recall`] ended.
    Recalled {
        /// The order asked for.
        client_id: ClientOrderId,
        /// Its row, if there is one.
        order: Option<Order>,
    },
    /// The account's own stream.
    Stream(StreamEvent),
    /// Time passed: at or after [`Engine::next_wake`], and once after the last of the inputs that are stepped together.
    Tick,
    /// The server is stopping: no new entries from here on.
    StopEntries,
    /// The server is stopping: carry out the robots' stop policies and resolve what is unknown.
    Drain,
    /// The drain is over: whatever is still on its way counts as unknown.
    GiveUp,
}

/// What is to be done, after the step's events are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send an order, once. Answer with [`Input::Sent`].
    Send(NewOrder),
    /// Ask for a cancellation, once. Answer with [`Input::CancelEnded`].
    Cancel {
        /// The pair.
        symbol: Symbol,
        /// The order.
        client_id: ClientOrderId,
    },
    /// Ask for an order. Answer with [`Input::Queried`].
    Query {
        /// The pair.
        symbol: Symbol,
        /// The order.
        client_id: ClientOrderId,
        /// Search open and past orders too before saying that there is none.
        thorough: bool,
    },
    /// Fetch fills. Answer with [`Input::Fetched`].
    FetchFills {
        /// The pair.
        symbol: Symbol,
        /// Only later ones.
        after: Option<TradeId>,
    },
    /// Answer with [`Input::OpenOrders`].
    ListOpenOrders,
    /// Answer with [`Input::Balances`].
    ListBalances,
    /// Read an order's row. Answer with [`Input::Recalled`].
    Recall(ClientOrderId),
    /// Tell the one who waits what became of the command.
    Reply {
        /// From [`Input::Command`].
        ticket: u64,
        /// The command and its outcome.
        record: Box<Record>,
    },
}

/// What a step decided: first commit the events, then do the effects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "events that are not committed are lost"]
pub struct Step {
    /// To be made durable, in order.
    pub events: Vec<Recorded>,
    /// To be done once the events are durable, in order.
    pub effects: Vec<Effect>,
}

/// What an engine is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Part of every client order id.
    pub namespace: String,
    /// Limits of the account as a whole.
    pub limits: Limits,
    /// The venue refuses requests older than this; with `absence_margin` it makes absence provable.
    pub recv_window: Duration,
    /// See [`Settings::recv_window`].
    pub absence_margin: Duration,
}

/// How far the server's shutdown has come, as the engine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Running,
    NoEntries,
    Draining,
    GivenUp,
}

/// How many decided commands an engine remembers. Older ones are found in the store before a command is handed over, so
/// this need only be longer than the queue in front of the engine.
const RECENT_COMMANDS: usize = 20_000;
/// How many ended orders an engine remembers, for reports that come late. Older ones are recalled from the store.
const RECENT_ENDED: usize = 5_000;

/// A strategy: what [`crate::robot::decide`] is.
pub type Decide = fn(&View<'_>, &StrategyState, Occasion<'_>) -> Answer;

/// One account.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    account: AccountId,
    epoch: Epoch,
    seq: i64,
    mode: Mode,
    stream_up: bool,
    symbols: BTreeMap<Symbol, SymbolInfo>,
    quotes: BTreeMap<Symbol, Quote>,
    seats: BTreeMap<RobotId, Seat>,
    owners: BTreeMap<ClientOrderId, RobotId>,
    intents: BTreeSet<ClientOrderId>,
    ended: BTreeMap<ClientOrderId, Order>,
    ended_order: VecDeque<ClientOrderId>,
    funds: Funds,
    booked: BTreeMap<Symbol, BTreeSet<TradeId>>,
    fetch_after: BTreeMap<Symbol, Option<TradeId>>,
    fetching: BTreeSet<Symbol>,
    /// Of these something may have happened that no page under way shows, or that an unanswered one would have shown.
    refetch: BTreeSet<Symbol>,
    fetch_retry_at: Option<Timestamp>,
    parked: BTreeMap<ClientOrderId, Vec<Fill>>,
    asking: BTreeMap<ClientOrderId, Asking>,
    /// From here on "no such order" means something for orders that an earlier process sent, whatever its clock said.
    predecessors_deadline: Timestamp,
    decided: BTreeMap<(String, String), Record>,
    decided_order: VecDeque<(String, String)>,
    recovery: Recovery,
    occasions: VecDeque<(RobotId, Due)>,
    decide: Decide,
    out: Step,
}

/// An occasion that waits for its robot within a step.
#[derive(Debug, Clone)]
enum Due {
    Start,
    Quote,
    Timer,
    Order(Box<Order>),
}

impl Engine {
    /// Takes one input. Everything that it decides is in the returned [`Step`].
    pub fn step(&mut self, input: Input, now: Timestamp) -> Step {
        match input {
            Input::Command { ticket, command } => self.on_command(ticket, command, now),
            Input::Market(market) => self.on_market(market),
            Input::Sent { client_id, result } => self.on_sent(&client_id, result, now),
            Input::CancelEnded { client_id, result } => self.on_cancel_ended(&client_id, result, now),
            Input::Queried { client_id, result } => self.on_queried(&client_id, result, now),
            Input::Fetched { symbol, fills, more } => self.on_fetched(&symbol, fills, more, now),
            Input::OpenOrders(reports) => self.on_open_orders(reports, now),
            Input::Balances(balances) => self.on_balances(balances, now),
            Input::Recalled { client_id, order } => self.on_recalled(&client_id, order, now),
            Input::Stream(StreamEvent::Report(report)) => self.on_report(&report, now),
            Input::Stream(StreamEvent::Up) => self.on_stream_up(),
            Input::Stream(StreamEvent::Down) => self.stream_up = false,
            // Only here, and not after every input: with ten thousand orders being asked for, looking through all of them
            // for each answer would make a recovery quadratic.
            Input::Tick => self.on_time(now),
            Input::StopEntries => self.mode = self.mode.max(Mode::NoEntries),
            Input::Drain => self.on_drain(now),
            Input::GiveUp => self.on_give_up(now),
        }
        self.settle_recovery(now);
        self.run_occasions(now);
        std::mem::take(&mut self.out)
    }

    /// Puts another strategy in the place of [`crate::robot::decide`]: one with a bug, to see what becomes of the account.
    pub fn set_strategy(&mut self, decide: Decide) {
        self.decide = decide;
    }

    /// Other limits for the account as a whole, from the next step on. What was decided under the old ones stands.
    pub fn set_limits(&mut self, limits: Limits) {
        self.settings.limits = limits;
    }

    /// When [`Input::Tick`] is wanted next.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let asking = self.asking.values().filter(|a| !a.in_flight).map(|a| a.next_at);
        let robots = self.seats.values().filter_map(|seat| self.seat_wake(seat));
        let intents = self.intents.iter().filter_map(|id| self.order(id)?.expires_at);
        asking.chain(robots).chain(intents).chain(self.fetch_retry_at).chain(self.recovery.retry_at).min()
    }

    /// The lease epoch under which this engine commits.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether everything that could have happened before the start is known, so that commands are taken.
    pub fn is_ready(&self) -> bool {
        self.recovery.is_done()
    }

    /// Why the account takes no commands although it has recovered: its ledger contradicts the venue.
    pub fn quarantine(&self) -> Option<&str> {
        self.recovery.quarantine.as_deref()
    }

    /// Orders whose outcome is not known, with the time since when: these hold up a drain.
    pub fn unresolved(&self) -> impl Iterator<Item = (&Order, Timestamp)> {
        self.live_orders()
            .filter(|order| order.status.is_unresolved())
            .map(|order| (order, order.sent_at.unwrap_or(order.created_at)))
    }

    /// Whether a drain has nothing left to wait for: no outcome is unknown, every stop policy is carried out.
    pub fn is_drained(&self) -> bool {
        self.unresolved().next().is_none()
            && self.live_orders().all(|order| !order.lacks_fills())
            && self
                .seats
                .values()
                .all(|seat| !seat.is_winding_down(self.mode) || seat.live.is_empty() && seat.flat_done)
    }

    /// All orders that have not ended.
    pub fn live_orders(&self) -> impl Iterator<Item = &Order> {
        self.seats.values().flat_map(|seat| seat.live.values())
    }

    /// How many robots trade.
    pub fn running_robots(&self) -> usize {
        self.seats.values().filter(|seat| seat.robot.run == crate::robot::RunState::Running).count()
    }

    /// The account's last event, for whoever says good-bye: closes the history of this epoch. Commit it like any step.
    pub fn stopped(&mut self, now: Timestamp) -> Step {
        let unresolved = self.unresolved().count();
        self.record(Event::Stopped { epoch: self.epoch, unresolved }, now);
        std::mem::take(&mut self.out)
    }

    fn record(&mut self, event: Event, now: Timestamp) {
        self.seq += 1;
        self.out.events.push(Recorded { seq: Seq(self.seq), at: now, event });
    }

    fn alarm(
        &mut self,
        message: impl Into<String>,
        order: Option<&ClientOrderId>,
        robot: Option<RobotId>,
        now: Timestamp,
    ) {
        self.record(Event::Alarm { message: message.into(), order: order.cloned(), robot }, now);
    }

    fn effect(&mut self, effect: Effect) {
        self.out.effects.push(effect);
    }

    fn on_market(&mut self, market: Market) {
        let Market::Quote(quote) = market else { return };
        let symbol = quote.symbol.clone();
        self.quotes.insert(symbol.clone(), quote);
        let interested: Vec<RobotId> =
            self.seats.values().filter(|seat| seat.robot.symbol == symbol).map(|seat| seat.robot.id).collect();
        for robot in interested {
            self.occasions.push_back((robot, Due::Quote));
        }
    }

    /// Everything that is due by now.
    fn on_time(&mut self, now: Timestamp) {
        self.ask_due(now);
        self.retry_fetches(now);
        self.retry_recovery(now);
        self.wake_robots(now);
    }
}

/// Balances by asset, as the engine believes them.
impl Engine {
    /// The account's assets.
    pub fn balances(&self) -> &BTreeMap<Asset, Balance> {
        self.funds.balances()
    }
}
