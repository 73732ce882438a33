//! How an engine starts: from what was committed, and from what the venue says happened since.
//!
//! The rules are `orders.md`, "Start after any end": SENDING becomes UNKNOWN; every order that has not ended is asked for by
//! its id; open orders are listed (one with an id of our shape and no row means that the ledger went back in time); fills are
//! paged from the last ones booked; balances are compared. Only then is the engine ready, and robots start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Effect, Engine, Funds, Mode, Seat, Settings, Snapshot, Step};
use crate::event::Event;
use crate::exchange::{Fill, OrderReport, VenueBalance};
use crate::ids::{ClientOrderId, Epoch, TradeId};
use crate::market::{Symbol, SymbolInfo};
use crate::order::{CancelState, Order, OrderEvent, Status};
use crate::position::Position;
use crate::robot::{self, StrategyState};
use crate::time::Timestamp;

/// Fills may have been booked out of order before the end; so the first page starts this many trades back.
const OVERLAP: usize = 500;
const RETRY: Duration = Duration::from_millis(500);

/// What is still to be heard before the engine is ready.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "a list of what was heard, each on its own")]
pub(super) struct Recovery {
    stream: bool,
    orders: BTreeSet<ClientOrderId>,
    recalls: BTreeSet<ClientOrderId>,
    symbols: BTreeSet<Symbol>,
    open_orders: bool,
    balances: bool,
    balances_asked: bool,
    /// Nothing could be filled any more when the balances were asked for, nor since: nothing is sent before they are heard.
    quiet: bool,
    pub(super) retry_at: Option<Timestamp>,
    done: bool,
    pub(super) quarantine: Option<String>,
}

impl Recovery {
    pub(super) fn is_done(&self) -> bool {
        self.done && self.quarantine.is_none()
    }

    /// An order's state is known, or the venue answered that it does not know it.
    pub(super) fn heard_of(&mut self, client_id: &ClientOrderId) {
        self.orders.remove(client_id);
    }
}

impl Engine {
    /// Builds the engine of an account whose lease was just taken under `epoch`. The returned step must be committed and
    /// carried out like any other.
    pub fn recover(
        settings: Settings,
        snapshot: Snapshot,
        epoch: Epoch,
        symbols: Vec<SymbolInfo>,
        now: Timestamp,
    ) -> (Self, Step) {
        let mut booked: BTreeMap<Symbol, BTreeSet<TradeId>> = BTreeMap::new();
        for (symbol, trade_id) in snapshot.recent_trades {
            booked.entry(symbol).or_default().insert(trade_id);
        }
        let mut positions: BTreeMap<_, Position> = snapshot.positions.into_iter().map(|p| (p.robot, p)).collect();
        let mut states: BTreeMap<_, StrategyState> = snapshot.states.into_iter().collect();
        let seats = snapshot.robots.into_iter().map(|robot| {
            let position =
                positions.remove(&robot.id).unwrap_or_else(|| Position::empty(robot.id, robot.symbol.clone()));
            let state = states.remove(&robot.id).unwrap_or_else(|| StrategyState::initial(&robot.config));
            (robot.id, Seat::new(robot, state, position))
        });
        let predecessors_deadline = now.after(settings.recv_window + settings.absence_margin);
        let mut engine = Self {
            settings,
            account: snapshot.account,
            epoch,
            seq: snapshot.last_seq.0,
            mode: Mode::Running,
            stream_up: false,
            symbols: symbols.into_iter().map(|info| (info.symbol.clone(), info)).collect(),
            quotes: BTreeMap::new(),
            seats: seats.collect(),
            owners: BTreeMap::new(),
            intents: BTreeSet::new(),
            ended: BTreeMap::new(),
            ended_order: VecDeque::new(),
            funds: Funds::new(snapshot.balances),
            fetch_after: BTreeMap::new(),
            fetching: BTreeSet::new(),
            refetch: BTreeSet::new(),
            fetch_retry_at: None,
            booked,
            parked: BTreeMap::new(),
            asking: BTreeMap::new(),
            predecessors_deadline,
            decided: BTreeMap::new(),
            decided_order: VecDeque::new(),
            recovery: Recovery::default(),
            occasions: VecDeque::new(),
            decide: robot::decide,
            out: Step::default(),
        };
        engine.record(Event::Started { epoch }, now);
        for order in snapshot.orders {
            engine.keep(order);
        }
        engine.ask_for_everything(now);
        let step = std::mem::take(&mut engine.out);
        (engine, step)
    }

    fn ask_for_everything(&mut self, now: Timestamp) {
        let live: Vec<_> =
            self.live_orders().map(|order| (order.client_id.clone(), order.status, order.cancel)).collect();
        for (client_id, status, cancel) in live {
            if status == Status::Sending {
                self.apply(&client_id, &OrderEvent::Lose("the process ended while it was being sent".into()), now);
            }
            if cancel == CancelState::Sent {
                self.apply(
                    &client_id,
                    &OrderEvent::LoseCancel("the process ended while it was being cancelled".into()),
                    now,
                );
            }
            if status.is_terminal() || status == Status::Intent {
                continue;
            }
            self.recovery.orders.insert(client_id.clone());
            // One list tells of all that rest; those it does not name are asked for when it is here.
            let rests = matches!(status, Status::Open | Status::Partial);
            if !rests || matches!(cancel, CancelState::Sent | CancelState::Unknown) {
                self.ask(&client_id, now);
            }
        }
        for (symbol, ids) in &self.booked {
            let after = ids.iter().rev().nth(OVERLAP).copied();
            self.fetch_after.insert(symbol.clone(), after);
        }
        let wanted: BTreeSet<Symbol> = self.seats.values().map(|seat| seat.robot.symbol.clone()).collect();
        self.recovery.symbols.clone_from(&wanted);
        for symbol in wanted {
            self.fetch(&symbol);
        }
        self.effect(Effect::ListOpenOrders);
        self.ask_due(now);
    }

    pub(super) fn on_stream_up(&mut self) {
        let again = self.recovery.stream;
        (self.stream_up, self.recovery.stream) = (true, true);
        if again {
            // Something may have been missed while the stream was down: fills, and orders that ended without one.
            let symbols: BTreeSet<Symbol> = self.live_orders().map(|order| order.symbol.clone()).collect();
            for symbol in symbols {
                self.fetch_anew(&symbol);
            }
            self.recovery.open_orders = false;
            self.effect(Effect::ListOpenOrders);
        }
    }

    /// Fetches the fills of a symbol with a request that is sent from now on: one under way may have missed the latest.
    fn fetch_anew(&mut self, symbol: &Symbol) {
        if self.fetching.contains(symbol) {
            self.refetch.insert(symbol.clone());
        } else {
            self.fetch(symbol);
        }
    }

    /// Fetches the fills of a symbol from the last complete page on, unless that is under way.
    pub(super) fn fetch(&mut self, symbol: &Symbol) {
        if self.fetching.insert(symbol.clone()) {
            let after = self.fetch_after.get(symbol).copied().flatten();
            self.effect(Effect::FetchFills { symbol: symbol.clone(), after });
        }
    }

    pub(super) fn on_fetched(&mut self, symbol: &Symbol, fills: Option<Vec<Fill>>, more: bool, now: Timestamp) {
        self.fetching.remove(symbol);
        let Some(fills) = fills else {
            self.refetch.insert(symbol.clone());
            self.fetch_retry_at = Some(now.after(RETRY));
            return;
        };
        for fill in &fills {
            self.book(fill, now);
        }
        if let Some(last) = fills.last() {
            self.fetch_after.insert(symbol.clone(), Some(last.trade_id));
        }
        if more || self.refetch.remove(symbol) {
            self.fetch(symbol);
            return;
        }
        self.recovery.symbols.remove(symbol);
        if self.live_orders().any(|order| order.symbol == *symbol && order.lacks_fills()) {
            self.fetch_retry_at = Some(now.after(RETRY));
        }
    }

    pub(super) fn retry_fetches(&mut self, now: Timestamp) {
        if self.fetch_retry_at.is_none_or(|at| at > now) {
            return;
        }
        self.fetch_retry_at = None;
        for symbol in std::mem::take(&mut self.refetch) {
            self.fetch_anew(&symbol);
        }
        let lacking = self.live_orders().filter(|order| order.lacks_fills()).map(|order| order.symbol.clone());
        let lacking: BTreeSet<Symbol> = lacking.collect();
        for symbol in &lacking {
            self.step_back(symbol);
        }
        for symbol in lacking.union(&self.recovery.symbols.clone()) {
            self.fetch(symbol);
        }
    }

    /// A venue's page may lack a trade that is older than its last one, and a later page has it. Known ones are passed over.
    fn step_back(&mut self, symbol: &Symbol) {
        let Some(booked) = self.booked.get(symbol) else { return };
        let first = booked.first().map(|id| TradeId(id.0.saturating_sub(1)));
        let back = booked.iter().rev().nth(OVERLAP).copied().or(first);
        if let Some(Some(after)) = self.fetch_after.get_mut(symbol) {
            *after = back.map_or(*after, |back| back.min(*after));
        }
    }

    pub(super) fn on_open_orders(&mut self, reports: Option<Vec<OrderReport>>, now: Timestamp) {
        let Some(reports) = reports else {
            self.recovery.retry_at = Some(now.after(RETRY));
            return;
        };
        self.recovery.open_orders = true;
        let listed: BTreeSet<ClientOrderId> = reports.iter().map(|report| report.client_id.clone()).collect();
        for report in reports {
            if self.order(&report.client_id).is_some() {
                self.on_report(&report, now);
                self.recovery.heard_of(&report.client_id);
            } else if report.client_id.has_our_shape() {
                self.recovery.recalls.insert(report.client_id.clone());
                self.effect(Effect::Recall(report.client_id));
            }
            // Anything else is a foreign order: never touched.
        }
        // What we hold for open and the venue does not list has ended, or is newer than the list: it is asked for.
        let at_venue = |order: &&Order| matches!(order.status, Status::Open | Status::Partial);
        let gone: Vec<ClientOrderId> = self
            .live_orders()
            .filter(at_venue)
            .filter(|order| !listed.contains(&order.client_id))
            .map(|order| order.client_id.clone())
            .collect();
        for client_id in gone {
            self.ask(&client_id, now);
        }
    }

    /// The venue has an order of ours that our ledger does not know: the ledger went back in time.
    /// Said once: whatever else it does not know has the same cause.
    pub(super) fn quarantine_account(&mut self, client_id: &ClientOrderId, now: Timestamp) {
        if self.recovery.quarantine.is_some() {
            return;
        }
        let reason = format!(
            "the venue has order {client_id}, which this ledger does not know: the ledger is older than the account. \
             Restore the newest ledger; nothing is traded until then"
        );
        self.alarm(reason.clone(), Some(client_id), None, now);
        self.recovery.quarantine = Some(reason);
    }

    pub(super) fn on_balances(&mut self, balances: Option<Vec<VenueBalance>>, now: Timestamp) {
        let Some(balances) = balances else {
            self.recovery.balances_asked = false;
            self.recovery.retry_at = Some(now.after(RETRY));
            return;
        };
        self.recovery.balances = true;
        let first = self.funds.balances().is_empty();
        for VenueBalance { asset, total } in balances {
            if first {
                let balance = self.funds.open(asset, total);
                self.record(Event::Opening(balance), now);
                continue;
            }
            let ours = self.funds.balances().get(&asset).map(|balance| balance.total);
            if self.recovery.quiet && ours.unwrap_or_default() != total {
                let ours = ours.unwrap_or_default();
                self.alarm(format!("the venue has {total} {asset}, this ledger says {ours}"), None, None, now);
            }
        }
    }

    pub(super) fn retry_recovery(&mut self, now: Timestamp) {
        if self.recovery.retry_at.is_none_or(|at| at > now) {
            return;
        }
        self.recovery.retry_at = None;
        if !self.recovery.open_orders {
            self.effect(Effect::ListOpenOrders);
        }
        self.ask_balances();
    }

    fn ask_balances(&mut self) {
        if !self.recovery.balances && !self.recovery.balances_asked {
            self.recovery.balances_asked = true;
            // With orders at the venue a fill may be on its way: only a quiet account can be compared.
            let quiet = self.live_orders().all(|order| order.status == Status::Intent);
            self.recovery.quiet = quiet;
            self.effect(Effect::ListBalances);
        }
    }

    /// Moves the recovery on: balances are asked for once everything else is heard, then the engine is ready.
    pub(super) fn settle_recovery(&mut self, _now: Timestamp) {
        let recovery = &self.recovery;
        let heard = recovery.stream
            && recovery.orders.is_empty()
            && recovery.recalls.iter().all(|id| self.order(id).is_some())
            && recovery.symbols.is_empty()
            && recovery.open_orders
            // Whose fill that is, is still being read: it may be an order that this ledger does not know.
            && self.parked.is_empty();
        if recovery.done || !heard {
            return;
        }
        self.ask_balances();
        self.recovery.done = self.recovery.balances;
    }

    pub(super) fn on_drain(&mut self, _now: Timestamp) {
        self.mode = self.mode.max(Mode::Draining);
        for seat in self.seats.values_mut() {
            seat.flat_done = false;
        }
    }

    /// The drain is over. What is on its way is unknown from here on, and is asked for at the next start.
    pub(super) fn on_give_up(&mut self, now: Timestamp) {
        self.mode = Mode::GivenUp;
        let sending: Vec<ClientOrderId> = self
            .live_orders()
            .filter(|order| order.status == Status::Sending)
            .map(|order| order.client_id.clone())
            .collect();
        for client_id in sending {
            self.apply(&client_id, &OrderEvent::Lose("no answer before the drain's deadline".into()), now);
        }
    }
}
