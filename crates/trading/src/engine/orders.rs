//! What befalls orders: made, attempted, reported, filled, cancelled. Every change of an order goes through `apply`.

use super::{Due, Effect, Engine, Mode, RECENT_ENDED, RECENT_TRADES, Seat};
use crate::event::Event;
use crate::exchange::{CancelResult, Fill, OrderReport, SendResult, Side};
use crate::ids::{ClientOrderId, OrderKey, RobotId};
use crate::money::{Amount, Price, Qty};
use crate::order::{CancelState, Order, OrderEvent, Status, Transition};
use crate::position::Position;
use crate::risk;
use crate::robot::{OrderSpec, RunState};
use crate::time::Timestamp;

/// A signal that got lost on its way to the venue is sent again under a new id at most this often.
const MAX_GENERATION: i32 = 2;

impl Engine {
    /// A live or recently ended order.
    pub(super) fn order(&self, client_id: &ClientOrderId) -> Option<&Order> {
        let live =
            self.owners.get(client_id).and_then(|robot| self.seats.get(robot)).and_then(|s| s.live.get(client_id));
        live.or_else(|| self.ended.get(client_id))
    }

    /// Makes an order: [`Status::Intent`] first, then at once an attempt, unless its robot has to wait.
    pub(super) fn place(
        &mut self,
        robot: RobotId,
        key: OrderKey,
        generation: i32,
        spec: &OrderSpec,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<ClientOrderId> {
        let symbol = self.seats.get(&robot)?.robot.symbol.clone();
        let client_id = ClientOrderId::derive(&self.settings.namespace, robot, key, generation);
        let order = Order {
            client_id: client_id.clone(),
            account: self.account,
            robot,
            key,
            generation,
            symbol,
            side: spec.side,
            kind: spec.kind,
            tif: spec.tif,
            qty: spec.qty,
            status: Status::Intent,
            cancel: CancelState::None,
            attempt: 0,
            epoch: self.epoch,
            sent_at: None,
            deadline: None,
            expires_at,
            venue_id: None,
            filled: Qty::ZERO,
            filled_quote: Amount::ZERO,
            reported: Qty::ZERO,
            reason: None,
            created_at: now,
            updated_at: now,
            version: 1,
        };
        self.owners.insert(client_id.clone(), robot);
        self.keep(order);
        if !self.attempt(&client_id, now) {
            // It has to wait: what is committed now is the intent.
            self.record_order(&client_id, now);
        }
        Some(client_id)
    }

    /// Tries to get an intent on its way. Returns whether the order changed (and was recorded): sent, denied or skipped.
    pub(super) fn attempt(&mut self, client_id: &ClientOrderId, now: Timestamp) -> bool {
        let Some(order) = self.order(client_id).cloned() else { return false };
        if order.status != Status::Intent {
            return false;
        }
        let Some(seat) = self.seats.get(&order.robot) else { return false };
        if order.expires_at.is_some_and(|at| at <= now) {
            self.apply(client_id, &OrderEvent::Skip("expired before it could be sent".into()), now);
            return true;
        }
        let closing = seat.is_winding_down(self.mode) || seat.robot.run == RunState::Stopped;
        if closing && seat.flatten_order.as_ref() != Some(client_id) {
            self.apply(client_id, &OrderEvent::Skip("its robot is stopping".into()), now);
            return true;
        }
        if !self.may_send(&order) {
            return false;
        }
        let event = if let Err(denial) = self.check_risk(&order, now) {
            OrderEvent::Deny(denial.to_string())
        } else {
            let deadline = now.after(self.settings.recv_window + self.settings.absence_margin);
            OrderEvent::Attempt { epoch: self.epoch, deadline }
        };
        self.apply(client_id, &event, now);
        if let Some(order) = self.order(client_id).filter(|order| order.status == Status::Sending) {
            let (request, robot) = (order.to_request(), order.robot);
            self.note_sent(robot, now);
            self.effect(Effect::Send(request));
        }
        true
    }

    /// While the account is recovering or closing, nothing new leaves; while an outcome in a symbol is unknown, or there was
    /// no price since the start, no entry.
    fn may_send(&self, order: &Order) -> bool {
        let Some(seat) = self.seats.get(&order.robot) else { return false };
        let own_flatten = seat.flatten_order.as_ref() == Some(&order.client_id);
        let open = self.mode == Mode::Running || (own_flatten && self.mode == Mode::Draining);
        let exit = order.side == Side::Sell;
        let unknown = || self.seats.values().any(|other| other.robot.symbol == seat.robot.symbol && other.unknown > 0);
        open && self.is_ready() && (exit || (self.quotes.contains_key(&order.symbol) && !unknown()))
    }

    fn check_risk(&self, order: &Order, now: Timestamp) -> Result<(), risk::Denial> {
        let (Some(seat), Some(symbol)) = (self.seats.get(&order.robot), self.symbols.get(&order.symbol)) else {
            return Ok(());
        };
        // The order itself is already reserved and counted: take it out again.
        let own = self.funds.reserved_by(&order.client_id);
        let (own_quote, own_base) = match order.side {
            Side::Buy => (own, Amount::ZERO),
            Side::Sell => (Amount::ZERO, own),
        };
        risk::Check {
            spec: &OrderSpec { side: order.side, kind: order.kind, tif: order.tif, qty: order.qty },
            symbol,
            quote: self.quotes.get(&order.symbol),
            robot_limits: &seat.robot.limits,
            account_limits: &self.settings.limits,
            mode: if seat.robot.run == RunState::Running { risk::Mode::Normal } else { risk::Mode::ReduceOnly },
            position: &seat.position,
            robot_reserved_base: self.funds.selling(order.robot) - own_base,
            robot_open_orders: seat.live.len().saturating_sub(1),
            account_open_orders: self.funds.live_in_all().saturating_sub(1),
            symbol_open_orders: self.funds.live_in(&order.symbol).saturating_sub(1),
            unknown_orders: 0, // may_send() has made sure
            robot_exposure: self.funds.buying(order.robot) - own_quote,
            account_exposure: self.held_value() + self.funds.buying_in_all() - own_quote,
            free_quote: self.funds.free(&symbol.quote) + own_quote,
            free_base: self.funds.free(&symbol.base) + own_base,
            robot_rate: seat.rate(now),
            account_rate: self.seats.values().map(|seat| seat.rate(now)).sum(),
        }
        .check()
    }

    /// What the account's robots hold, at the best bids.
    fn held_value(&self) -> Amount {
        let value = |seat: &Seat| {
            let bid = self.quotes.get(&seat.robot.symbol).map_or(Price::ZERO, |quote| quote.bid);
            bid.notional(Qty::new(seat.position.qty.get()))
        };
        self.seats.values().map(value).sum()
    }

    /// Applies an event to an order: records the change, keeps index, reservations and robots up to date.
    pub(super) fn apply(&mut self, client_id: &ClientOrderId, event: &OrderEvent, now: Timestamp) -> Transition {
        let Some(mut order) = self.order(client_id).cloned() else { return Transition::Ignored };
        let before = (order.status, order.filled);
        let transition = order.apply(event, now);
        if transition == Transition::Ignored {
            return transition;
        }
        let changed = (order.status, order.filled) != before;
        // A fill that came by itself says nothing of whether the order lives on.
        if !matches!(event, OrderEvent::Fill { .. }) || order.status.is_terminal() {
            self.stop_asking_if_known(&order);
        }
        let robot = order.robot;
        self.keep(order.clone());
        self.record_order(client_id, now);
        if let Transition::Alarm(message) = transition {
            self.alarm(message, Some(client_id), Some(robot), now);
        }
        if changed {
            self.occasions.push_back((robot, Due::Order(Box::new(order))));
        }
        transition
    }

    /// Puts an order's new image where it belongs: with its robot while it lives or lacks fills, else among the ended.
    pub(super) fn keep(&mut self, order: Order) {
        if let Some(symbol) = self.symbols.get(&order.symbol) {
            self.funds.reserve(&order, symbol, self.quotes.get(&order.symbol));
        }
        let id = order.client_id.clone();
        let settled = order.status.is_terminal() && !order.lacks_fills();
        if order.status == Status::Intent {
            self.intents.insert(id.clone());
        } else {
            self.intents.remove(&id);
        }
        let Some(seat) = self.seats.get_mut(&order.robot) else { return };
        let was_unknown = seat.live.get(&id).is_some_and(|old| old.status == Status::Unknown);
        seat.unknown = seat.unknown + usize::from(order.status == Status::Unknown) - usize::from(was_unknown);
        if !settled {
            self.ended.remove(&id);
            self.owners.insert(id.clone(), order.robot);
            seat.live.insert(id, order);
            return;
        }
        seat.live.remove(&id);
        self.owners.remove(&id);
        if self.ended.insert(id.clone(), order).is_none() {
            self.ended_order.push_back(id);
        }
        while self.ended_order.len() > RECENT_ENDED {
            if let Some(oldest) = self.ended_order.pop_front() {
                self.ended.remove(&oldest);
            }
        }
    }

    fn record_order(&mut self, client_id: &ClientOrderId, now: Timestamp) {
        if let Some(order) = self.order(client_id).cloned() {
            self.record(Event::Order(order), now);
        }
    }

    pub(super) fn on_sent(&mut self, client_id: &ClientOrderId, result: SendResult, now: Timestamp) {
        match result {
            SendResult::Accepted(report) => self.on_report(&report, now),
            SendResult::Refused { code, reason } => {
                self.apply(client_id, &OrderEvent::Refuse(format!("{reason} ({code})")), now);
            }
            SendResult::NotSent { reason } => {
                self.apply(client_id, &OrderEvent::Refuse(format!("not sent: {reason}")), now);
            }
            SendResult::Unknown { reason } => {
                self.apply(client_id, &OrderEvent::Lose(reason), now);
                // Also one that is known by a fill: how it stands besides is not.
                if self.order(client_id).is_some_and(|order| !order.status.is_terminal()) {
                    self.ask(client_id, now);
                }
            }
        }
    }

    /// The venue's word on one order: its fills first, so that its new state does not look incomplete.
    pub(super) fn on_report(&mut self, report: &OrderReport, now: Timestamp) {
        if self.order(&report.client_id).is_none() {
            if report.client_id.has_our_shape() {
                self.park(&report.client_id, report.fills.clone());
            }
            return;
        }
        for fill in &report.fills {
            self.book(fill, now);
        }
        self.apply(&report.client_id, &OrderEvent::from(report), now);
        let Some(order) = self.order(&report.client_id).cloned() else { return };
        if order.lacks_fills() {
            self.fetch(&order.symbol);
        }
        if order.cancel == CancelState::Requested && matches!(order.status, Status::Open | Status::Partial) {
            self.send_cancel(&order.client_id, now);
        }
    }

    /// A fill or report of an order of ours that is not in memory: its row is read first.
    fn park(&mut self, client_id: &ClientOrderId, fills: Vec<Fill>) {
        let first = !self.parked.contains_key(client_id);
        self.parked.entry(client_id.clone()).or_default().extend(fills);
        if first {
            self.effect(Effect::Recall(client_id.clone()));
        }
    }

    pub(super) fn on_recalled(&mut self, client_id: &ClientOrderId, order: Option<Order>, now: Timestamp) {
        let fills = self.parked.remove(client_id).unwrap_or_default();
        match order {
            // Its fills cannot be booked, now or later: nothing here knows what it was for.
            None => return self.quarantine_account(client_id, now),
            Some(_) if self.order(client_id).is_some() => {}
            Some(order) => self.keep(order),
        }
        for fill in fills {
            self.book(&fill, now);
        }
    }

    /// Books a fill once: order, position, balances and the fill itself, in this one step.
    pub(super) fn book(&mut self, fill: &Fill, now: Timestamp) {
        if self.booked.get(&fill.symbol).is_some_and(|ids| ids.contains(&fill.trade_id)) {
            return;
        }
        let Some(robot) = self.order(&fill.client_id).map(|order| order.robot) else {
            if fill.client_id.has_our_shape() {
                self.park(&fill.client_id, vec![fill.clone()]);
            }
            return;
        };
        let Some(symbol) = self.symbols.get(&fill.symbol).cloned() else { return };
        let ids = self.booked.entry(fill.symbol.clone()).or_default();
        ids.insert(fill.trade_id);
        if ids.len() > RECENT_TRADES {
            ids.pop_first();
        }
        self.apply(&fill.client_id, &OrderEvent::from(fill), now);
        let balances = self.funds.book(fill, &symbol);
        let Some(seat) = self.seats.get_mut(&robot) else { return };
        seat.position.book(fill, &symbol);
        let position: Position = seat.position.clone();
        self.record(Event::Fill { fill: fill.clone(), position, balances }, now);
    }

    /// Somebody wants an order gone. One that was never sent ends at once.
    pub(super) fn request_cancel(&mut self, client_id: &ClientOrderId, now: Timestamp) {
        let Some(status) = self.order(client_id).map(|order| order.status) else { return };
        if status == Status::Intent {
            self.apply(client_id, &OrderEvent::Skip("cancelled before it was sent".into()), now);
            return;
        }
        let requested = self.apply(client_id, &OrderEvent::RequestCancel, now) != Transition::Ignored;
        if requested && matches!(status, Status::Open | Status::Partial) {
            self.send_cancel(client_id, now);
        }
    }

    pub(super) fn send_cancel(&mut self, client_id: &ClientOrderId, now: Timestamp) {
        if self.apply(client_id, &OrderEvent::SendCancel, now) == Transition::Ignored {
            return;
        }
        if let Some(symbol) = self.order(client_id).map(|order| order.symbol.clone()) {
            self.effect(Effect::Cancel { symbol, client_id: client_id.clone() });
        }
    }

    pub(super) fn on_cancel_ended(&mut self, client_id: &ClientOrderId, result: CancelResult, now: Timestamp) {
        let lost = match result {
            CancelResult::Canceled(report) => return self.on_report(&report, now),
            CancelResult::Refused { reason } => {
                self.apply(client_id, &OrderEvent::RefuseCancel(reason), now);
                return;
            }
            CancelResult::UnknownOrder => "the venue does not know the order to cancel".to_owned(),
            CancelResult::Unknown { reason } => reason,
        };
        if self.apply(client_id, &OrderEvent::LoseCancel(lost), now) != Transition::Ignored {
            self.ask(client_id, now);
        }
    }

    /// A signal's order never reached the venue: send it again under a new id, if the signal still holds.
    pub(super) fn send_next_generation(&mut self, absent: &Order, now: Timestamp) {
        let still_wanted = absent.expires_at.is_some_and(|at| at > now) && absent.cancel == CancelState::None;
        if still_wanted && absent.generation < MAX_GENERATION {
            let spec = OrderSpec { side: absent.side, kind: absent.kind, tif: absent.tif, qty: absent.qty };
            self.place(absent.robot, absent.key, absent.generation + 1, &spec, absent.expires_at, now);
        }
    }
}
