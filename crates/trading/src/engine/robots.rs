//! Who decides: robots in their seats, asked one at a time, contained when they panic.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::{Due, Engine, Mode};
use crate::event::Event;
use crate::exchange::{OrderKind, Side, TimeInForce};
use crate::ids::{ClientOrderId, OrderKey, RobotId};
use crate::money::{Amount, Qty};
use crate::order::{CancelState, Order};
use crate::position::Position;
use crate::risk::Rate;
use crate::robot::{
    self, Answer, DesiredState, Intent, Occasion, OrderSpec, Robot, RobotConfig, RunState, StopPolicy, StrategyState,
    View,
};
use crate::signal::Signal;
use crate::time::Timestamp;

/// A robot with what it remembers, holds and has open.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) robot: Robot,
    pub(super) state: StrategyState,
    pub(super) position: Position,
    pub(super) live: BTreeMap<ClientOrderId, Order>,
    /// How many of them are UNKNOWN.
    pub(super) unknown: usize,
    /// The order that sells the position at a stop, once there is one.
    pub(super) flatten_order: Option<ClientOrderId>,
    /// Whether a flatten needs nothing more.
    pub(super) flat_done: bool,
    /// The policy that a stop command named instead of the robot's own.
    pub(super) policy_now: Option<StopPolicy>,
    rate: Rate,
    started: bool,
    /// It was just woken: a strategy that leaves its wake-up in the past is woken again only after a while.
    woken_at: Option<Timestamp>,
}

/// More answers than this in one step is a robot that feeds itself: it is quarantined.
const ANSWERS_PER_STEP: usize = 2_000;
/// The least time between two wake-ups of a robot.
const WAKE_PAUSE: Duration = Duration::from_millis(50);

impl Seat {
    pub(super) fn new(robot: Robot, state: StrategyState, position: Position) -> Self {
        Self {
            robot,
            state,
            position,
            live: BTreeMap::new(),
            unknown: 0,
            flatten_order: None,
            flat_done: false,
            policy_now: None,
            rate: Rate::default(),
            started: false,
            woken_at: None,
        }
    }

    /// What is to happen to its orders when it stops now.
    pub(super) fn policy(&self) -> StopPolicy {
        self.policy_now.unwrap_or(self.robot.stop_policy)
    }

    /// Whether its orders are being cancelled or its position sold: by its own stop, or by the server's.
    pub(super) fn is_winding_down(&self, mode: Mode) -> bool {
        let stopping = self.robot.run == RunState::Stopping;
        let server_stops = mode >= Mode::Draining && matches!(self.robot.run, RunState::Running | RunState::Halted);
        (stopping || server_stops) && self.policy() != StopPolicy::Keep
    }

    /// Orders sent in the last minute.
    pub(super) fn rate(&self, now: Timestamp) -> usize {
        self.rate.count(now)
    }
}

impl Engine {
    pub(super) fn note_sent(&mut self, robot: RobotId, now: Timestamp) {
        if let Some(seat) = self.seats.get_mut(&robot) {
            seat.rate.record(now);
        }
    }

    /// When a robot wants to be woken: only while it trades, and only what it cannot be told otherwise.
    pub(super) fn seat_wake(&self, seat: &Seat) -> Option<Timestamp> {
        let trades =
            self.is_ready() && self.mode == Mode::Running && seat.robot.run == RunState::Running && seat.started;
        if !trades || seat.unknown > 0 {
            return None;
        }
        let at = robot::wake_at(&seat.robot.config, &seat.state)?;
        Some(seat.woken_at.map_or(at, |woken| at.max(woken.after(WAKE_PAUSE))))
    }

    /// Tells the robots whose time has come.
    pub(super) fn wake_robots(&mut self, now: Timestamp) {
        let due: Vec<RobotId> = self
            .seats
            .values()
            .filter(|seat| self.seat_wake(seat).is_some_and(|at| at <= now))
            .map(|seat| seat.robot.id)
            .collect();
        for robot in due {
            if let Some(seat) = self.seats.get_mut(&robot) {
                seat.woken_at = Some(now);
            }
            self.occasions.push_back((robot, Due::Timer));
        }
    }

    /// Asks robots until none has anything left to answer in this step, then lets waiting intents go.
    pub(super) fn run_occasions(&mut self, now: Timestamp) {
        self.start_idle_robots();
        let mut answers = 0;
        loop {
            while let Some((robot, due)) = self.occasions.pop_front() {
                answers += 1;
                if answers > ANSWERS_PER_STEP {
                    self.quarantine_robot(robot, "it answers its own answers without end", now);
                    self.occasions.clear();
                    return;
                }
                self.run_occasion(robot, &due, now);
            }
            self.release_intents(now);
            self.wind_down(now);
            if self.occasions.is_empty() {
                return;
            }
        }
    }

    /// Robots that should trade and were not told yet.
    fn start_idle_robots(&mut self) {
        if !self.is_ready() || self.mode != Mode::Running {
            return;
        }
        for seat in self.seats.values_mut().filter(|seat| seat.robot.run == RunState::Running && !seat.started) {
            seat.started = true;
            self.occasions.push_front((seat.robot.id, Due::Start));
        }
    }

    fn run_occasion(&mut self, robot: RobotId, due: &Due, now: Timestamp) {
        let Some(seat) = self.seats.get(&robot) else { return };
        let running = seat.robot.run == RunState::Running;
        let entries = running && self.is_ready() && self.mode == Mode::Running && seat.started && seat.unknown == 0;
        let occasion = match due {
            Due::Start if running => Occasion::Start,
            Due::Quote if entries => Occasion::Quote,
            Due::Timer if entries => Occasion::Timer,
            // What became of an order is always told, in the same commit: a strategy that was not told could not know
            // it after a restart. What it wants in answer waits as an intent until it may go.
            Due::Order(order) if seat.robot.run != RunState::Quarantined => Occasion::Order(order),
            _ => return,
        };
        if let Some(answer) = self.consult(robot, occasion, now) {
            self.carry_out(robot, answer, None, now);
        }
    }

    /// Lets a robot answer a signal. Returns why it does not act, or the orders that it planned.
    pub(super) fn consult_signal(&mut self, signal: &Signal, now: Timestamp) -> Result<Vec<ClientOrderId>, String> {
        let Some(mut answer) = self.consult(signal.robot, Occasion::Signal(signal), now) else {
            return Err("the robot failed and was quarantined".into());
        };
        match answer.skip.take() {
            Some(reason) => Err(reason),
            None => Ok(self.carry_out(signal.robot, answer, signal.expires_at, now)),
        }
    }

    /// Asks a robot's strategy. A panic is caught: its last committed state stands, and it is quarantined.
    fn consult(&mut self, robot: RobotId, occasion: Occasion<'_>, now: Timestamp) -> Option<Answer> {
        let seat = self.seats.get(&robot)?;
        let symbol = self.symbols.get(&seat.robot.symbol)?;
        let view = View {
            now,
            robot: &seat.robot,
            symbol,
            quote: self.quotes.get(&seat.robot.symbol),
            position: &seat.position,
            live: &seat.live,
            decision: seat.robot.decision_seq + 1,
            free_quote: self.funds.free(&symbol.quote),
            free_base: self.funds.free(&symbol.base),
        };
        let decide = self.decide;
        let answer = catch_unwind(AssertUnwindSafe(|| decide(&view, &seat.state, occasion)));
        match answer {
            Ok(answer) => Some(answer),
            Err(payload) => {
                let words = payload
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| payload.downcast_ref::<&str>().copied())
                    .unwrap_or("it panicked");
                let reason = format!("panicked: {words}");
                self.quarantine_robot(robot, &reason, now);
                None
            }
        }
    }

    /// Makes a robot's answer true: its state, its decision number and its orders are one commit.
    fn carry_out(
        &mut self,
        robot: RobotId,
        answer: Answer,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Vec<ClientOrderId> {
        let Some(seat) = self.seats.get_mut(&robot) else { return Vec::new() };
        let state_changed = answer.state.as_ref().is_some_and(|state| *state != seat.state);
        if let Some(state) = answer.state {
            seat.state = state;
        }
        let entering = answer.intents.iter().any(|intent| matches!(intent, Intent::Place(_)));
        if entering {
            seat.robot.decision_seq += 1;
            seat.robot.version += 1;
        }
        let decision = seat.robot.decision_seq;
        let (image, state) = (seat.robot.clone(), seat.state.clone());
        if entering {
            self.record(Event::Robot(image), now);
        }
        if state_changed {
            self.record(Event::Strategy { robot, state }, now);
        }
        let (mut leg, mut placed) = (0, Vec::new());
        for intent in answer.intents {
            match intent {
                Intent::Cancel(client_id) => {
                    let own = self.seats.get(&robot).is_some_and(|seat| seat.live.contains_key(&client_id));
                    if own {
                        self.request_cancel(&client_id, now);
                    }
                }
                Intent::Place(spec) => {
                    placed.extend(self.place(robot, OrderKey { decision, leg }, 0, &spec, expires_at, now));
                    leg += 1;
                }
            }
        }
        placed
    }

    /// Intents that had to wait: those that may go now, go; those that expired end.
    fn release_intents(&mut self, now: Timestamp) {
        let waiting: Vec<ClientOrderId> = self.intents.iter().cloned().collect();
        for client_id in waiting {
            self.attempt(&client_id, now);
        }
    }

    /// Carries stop policies out as far as is possible now.
    fn wind_down(&mut self, now: Timestamp) {
        let robots: Vec<RobotId> =
            self.seats.values().filter(|s| s.is_winding_down(self.mode) && !s.flat_done).map(|s| s.robot.id).collect();
        for robot in robots {
            self.wind_down_robot(robot, now);
        }
    }

    fn wind_down_robot(&mut self, robot: RobotId, now: Timestamp) {
        let Some(seat) = self.seats.get(&robot) else { return };
        let to_cancel: Vec<ClientOrderId> = seat
            .live
            .values()
            .filter(|order| order.cancel == CancelState::None && seat.flatten_order.as_ref() != Some(&order.client_id))
            .map(|order| order.client_id.clone())
            .collect();
        for client_id in to_cancel {
            self.request_cancel(&client_id, now);
        }
        let Some(seat) = self.seats.get(&robot) else { return };
        if !seat.live.is_empty() {
            return;
        }
        let to_sell = seat.policy() == StopPolicy::Flatten && seat.flatten_order.is_none();
        if let Some(qty) = self.sellable(robot).filter(|_| to_sell) {
            self.place_flatten(robot, qty, now);
            return;
        }
        self.finish_wind_down(robot, now);
    }

    /// What of a robot's position can be sold by the venue's filters; what is below them is dust and stays.
    fn sellable(&self, robot: RobotId) -> Option<Qty> {
        let seat = self.seats.get(&robot)?;
        let symbol = self.symbols.get(&seat.robot.symbol)?;
        if seat.position.qty <= Amount::ZERO {
            return None;
        }
        let qty = Qty::new(seat.position.qty.get()).floor_to(symbol.lot);
        let worth = self.quotes.get(&seat.robot.symbol).map(|quote| quote.bid.notional(qty));
        (qty >= symbol.min_qty && !qty.is_zero() && worth.is_none_or(|worth| worth >= symbol.min_notional))
            .then_some(qty)
    }

    fn place_flatten(&mut self, robot: RobotId, qty: Qty, now: Timestamp) {
        let Some(seat) = self.seats.get_mut(&robot) else { return };
        seat.robot.decision_seq += 1;
        seat.robot.version += 1;
        let key = OrderKey { decision: seat.robot.decision_seq, leg: 0 };
        seat.flatten_order = Some(ClientOrderId::derive(&self.settings.namespace, robot, key, 0));
        let image = seat.robot.clone();
        self.record(Event::Robot(image), now);
        let spec = OrderSpec { side: Side::Sell, kind: OrderKind::Market, tif: TimeInForce::Gtc, qty };
        self.place(robot, key, 0, &spec, None, now);
    }

    fn finish_wind_down(&mut self, robot: RobotId, now: Timestamp) {
        let Some(seat) = self.seats.get_mut(&robot) else { return };
        let flattened = seat.policy() == StopPolicy::Flatten;
        seat.flat_done = true;
        if flattened && !matches!(seat.robot.config, RobotConfig::Dca(_)) {
            // What it remembers of its inventory is void: the inventory is sold.
            seat.state = StrategyState::initial(&seat.robot.config);
            let state = seat.state.clone();
            self.record(Event::Strategy { robot, state }, now);
        }
        if self.seats.get(&robot).is_some_and(|seat| seat.robot.run == RunState::Stopping) {
            self.change_robot(robot, now, |robot| robot.run = RunState::Stopped);
        }
    }

    /// Changes a robot and records its new image.
    pub(super) fn change_robot(&mut self, robot: RobotId, now: Timestamp, change: impl FnOnce(&mut Robot)) {
        let Some(seat) = self.seats.get_mut(&robot) else { return };
        let before = seat.robot.clone();
        change(&mut seat.robot);
        if seat.robot == before {
            return;
        }
        seat.robot.version += 1;
        if seat.robot.run != RunState::Running {
            seat.started = false;
        }
        let image = seat.robot.clone();
        self.record(Event::Robot(image), now);
    }

    pub(super) fn start_robot(&mut self, robot: RobotId, now: Timestamp) {
        if let Some(seat) = self.seats.get_mut(&robot) {
            (seat.flatten_order, seat.flat_done, seat.policy_now) = (None, false, None);
        }
        self.change_robot(robot, now, |robot| {
            (robot.desired, robot.run, robot.reason) = (DesiredState::Running, RunState::Running, None);
        });
    }

    pub(super) fn stop_robot(&mut self, robot: RobotId, policy: Option<StopPolicy>, now: Timestamp) {
        if let Some(seat) = self.seats.get_mut(&robot) {
            (seat.policy_now, seat.flatten_order, seat.flat_done) = (policy, None, false);
        }
        let keep = self.seats.get(&robot).is_some_and(|seat| seat.policy() == StopPolicy::Keep);
        let next = if keep { RunState::Stopped } else { RunState::Stopping };
        self.change_robot(robot, now, |robot| {
            (robot.desired, robot.run) = (DesiredState::Stopped, next);
        });
    }

    /// A robot's kill switch: no entries, and what rests to buy is cancelled.
    pub(super) fn halt_robot(&mut self, robot: RobotId, reason: &str, now: Timestamp) {
        self.change_robot(robot, now, |robot| {
            (robot.run, robot.reason) = (RunState::Halted, Some(reason.to_owned()));
        });
        let buys: Vec<ClientOrderId> = self.seats.get(&robot).map_or_else(Vec::new, |seat| {
            seat.live.values().filter(|order| order.side == Side::Buy).map(|order| order.client_id.clone()).collect()
        });
        for client_id in buys {
            self.request_cancel(&client_id, now);
        }
    }

    pub(super) fn quarantine_robot(&mut self, robot: RobotId, reason: &str, now: Timestamp) {
        self.change_robot(robot, now, |robot| {
            (robot.run, robot.reason) = (RunState::Quarantined, Some(reason.to_owned()));
        });
        self.alarm(format!("robot quarantined: {reason}"), None, Some(robot), now);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::command::{Command, NewRobot, Outcome, Wish};
    use crate::engine::{Effect, Input, Settings, Snapshot};
    use crate::exchange::{StreamEvent, VenueBalance};
    use crate::ids::{AccountId, Epoch, Seq};
    use crate::market::{Asset, SymbolInfo};
    use crate::risk::Limits;
    use crate::robot::follower;
    use crate::signal::Action;

    fn engine() -> Engine {
        let settings = Settings {
            namespace: "test".into(),
            limits: Limits::default(),
            recv_window: Duration::from_secs(5),
            absence_margin: Duration::from_secs(10),
        };
        let snapshot = Snapshot {
            account: AccountId(1),
            last_seq: Seq(0),
            robots: Vec::new(),
            states: Vec::new(),
            orders: Vec::new(),
            positions: Vec::new(),
            balances: Vec::new(),
            recent_trades: Vec::new(),
        };
        let symbol = SymbolInfo {
            symbol: "BTCUSDT".parse().unwrap(),
            base: Asset::new("BTC"),
            quote: Asset::new("USDT"),
            tick: "0.01".parse().unwrap(),
            lot: "0.001".parse().unwrap(),
            min_qty: "0.001".parse().unwrap(),
            min_notional: "5".parse().unwrap(),
            max_open_orders: 10,
        };
        let now = Timestamp::from_millis(1);
        let (mut engine, _) = Engine::recover(settings, snapshot, Epoch(1), vec![symbol], now);
        let funds = VenueBalance { asset: Asset::new("USDT"), total: "1000".parse().unwrap() };
        for input in
            [Input::Stream(StreamEvent::Up), Input::OpenOrders(Some(Vec::new())), Input::Balances(Some(vec![funds]))]
        {
            let _step = engine.step(input, now);
        }
        assert!(engine.is_ready());
        engine
    }

    fn outcome(engine: &mut Engine, key: &str, wish: Wish) -> Outcome {
        let command = Command { source: "test".into(), dedup_key: key.into(), wish };
        let step = engine.step(Input::Command { ticket: 1, command }, Timestamp::from_millis(2));
        let answers = step.effects.into_iter().filter_map(|effect| match effect {
            Effect::Reply { record, .. } => Some(record.outcome),
            _ => None,
        });
        answers.last().unwrap()
    }

    fn follower(engine: &mut Engine, name: &str) -> RobotId {
        let config = RobotConfig::Follower(follower::Config { default_qty: "0.1".parse().unwrap() });
        let new = NewRobot {
            name: name.into(),
            symbol: "BTCUSDT".parse().unwrap(),
            config,
            limits: Limits::default(),
            stop_policy: StopPolicy::Keep,
            start: true,
            webhook_hash: None,
        };
        match outcome(engine, name, Wish::CreateRobot(new)) {
            Outcome::Done { robot: Some(robot), .. } => robot,
            other => panic!("{other:?}"),
        }
    }

    /// The first robot's strategy has a bug; the others' have none.
    fn buggy(view: &View<'_>, state: &StrategyState, occasion: Occasion<'_>) -> Answer {
        assert!(view.robot.name != "buggy" || !matches!(occasion, Occasion::Signal(_)), "index out of range");
        robot::decide(view, state, occasion)
    }

    #[test]
    fn a_robot_that_panics_is_quarantined_and_its_account_lives_on() {
        let mut engine = engine();
        engine.decide = buggy;
        let robots: BTreeMap<&str, RobotId> = ["buggy", "sound"].map(|name| (name, follower(&mut engine, name))).into();
        let order = OrderKind::Limit { price: "100".parse().unwrap() };
        let buy = |robot| {
            let action = Action::Buy { qty: None, order, tif: TimeInForce::Gtc };
            Wish::Signal(Signal { robot, action, expires_at: None })
        };
        let failed = outcome(&mut engine, "a", buy(robots["buggy"]));
        assert!(matches!(failed, Outcome::Skipped { .. }), "{failed:?}");
        let seat = &engine.seats[&robots["buggy"]];
        assert_eq!(seat.robot.run, RunState::Quarantined);
        assert!(seat.robot.reason.as_deref().unwrap().contains("index out of range"));
        assert!(matches!(outcome(&mut engine, "b", buy(robots["sound"])), Outcome::Done { .. }));
        let again = outcome(&mut engine, "c", buy(robots["buggy"]));
        assert!(matches!(again, Outcome::Skipped { .. }), "a quarantined robot is not asked: {again:?}");
    }
}
