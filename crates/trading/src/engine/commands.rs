//! Commands: decided once, remembered for ever, answered after the commit.

use super::{Effect, Engine, RECENT_COMMANDS};
use crate::command::{Command, NewRobot, Outcome, Record, Wish};
use crate::event::Event;
use crate::ids::{ClientOrderId, RobotId};
use crate::order::Status;
use crate::position::Position;
use crate::robot::{DesiredState, Robot, RunState, StrategyState};
use crate::signal::Signal;
use crate::time::Timestamp;

use super::robots::Seat;

impl Engine {
    pub(super) fn on_command(&mut self, ticket: u64, command: Command, now: Timestamp) {
        let name = (command.source.clone(), command.dedup_key.clone());
        if let Some(record) = self.decided.get(&name).cloned() {
            self.effect(Effect::Reply { ticket, record: Box::new(record) });
            return;
        }
        let outcome = self.carry_out_wish(&command.wish, now);
        let record = Record { command, received_at: now, outcome };
        self.record(Event::Command(record.clone()), now);
        self.decided.insert(name.clone(), record.clone());
        self.decided_order.push_back(name);
        let too_many = self.decided_order.len() > RECENT_COMMANDS;
        if let Some(oldest) = self.decided_order.pop_front_if(|_| too_many) {
            self.decided.remove(&oldest);
        }
        self.effect(Effect::Reply { ticket, record: Box::new(record) });
    }

    fn carry_out_wish(&mut self, wish: &Wish, now: Timestamp) -> Outcome {
        let known = |engine: &Self, robot: RobotId| engine.seats.contains_key(&robot);
        match wish {
            Wish::Signal(signal) => self.on_signal(signal, now),
            Wish::CreateRobot(new) => self.create_robot(new, now),
            Wish::StartRobot { robot } | Wish::StopRobot { robot, .. } | Wish::HaltRobot { robot, .. }
                if !known(self, *robot) =>
            {
                Outcome::NotFound { what: format!("robot {robot}") }
            }
            Wish::StartRobot { robot } => {
                self.start_robot(*robot, now);
                done(Some(*robot))
            }
            Wish::StopRobot { robot, policy } => {
                self.stop_robot(*robot, *policy, now);
                done(Some(*robot))
            }
            Wish::HaltRobot { robot, reason } => {
                self.halt_robot(*robot, reason, now);
                done(Some(*robot))
            }
            Wish::Kill { reason } => {
                let all: Vec<RobotId> = self.seats.keys().copied().collect();
                for robot in all {
                    self.halt_robot(robot, reason, now);
                }
                done(None)
            }
            Wish::CancelOrder { order } => self.cancel_order(order, now),
        }
    }

    fn on_signal(&mut self, signal: &Signal, now: Timestamp) -> Outcome {
        let Some(seat) = self.seats.get(&signal.robot) else {
            return Outcome::NotFound { what: format!("robot {}", signal.robot) };
        };
        let skipped = |reason: &str| Outcome::Skipped { reason: reason.to_owned() };
        match seat.robot.run {
            RunState::Running | RunState::Halted => {}
            RunState::Stopping | RunState::Stopped => return skipped("the robot is stopped"),
            RunState::Quarantined => {
                return skipped("the robot is quarantined: look at its reason, then start it again");
            }
        }
        if signal.expires_at.is_some_and(|at| at <= now) {
            return skipped("the signal had expired when it arrived");
        }
        let orders = match self.consult_signal(signal, now) {
            Err(reason) => return Outcome::Skipped { reason },
            Ok(orders) if orders.is_empty() => return skipped("the robot has nothing to do"),
            Ok(orders) => orders,
        };
        let denied = |id: &ClientOrderId| self.order(id).filter(|order| order.status == Status::Denied);
        match orders.iter().map(denied).collect::<Option<Vec<_>>>() {
            Some(all) => {
                let reasons: Vec<&str> = all.iter().filter_map(|order| order.reason.as_deref()).collect();
                Outcome::Denied { reason: reasons.join("; ") }
            }
            None => Outcome::Done { robot: Some(signal.robot), orders },
        }
    }

    fn create_robot(&mut self, new: &NewRobot, now: Timestamp) -> Outcome {
        let Some(symbol) = self.symbols.get(&new.symbol) else {
            let known: Vec<&str> = self.symbols.keys().map(crate::market::Symbol::as_str).collect();
            let reason = format!("{} is not traded here; known: {}", new.symbol, known.join(", "));
            return Outcome::Invalid { field: "symbol".into(), reason };
        };
        if let Err(error) = new.config.validate(symbol) {
            return Outcome::Invalid { field: format!("config.{}", error.field), reason: error.problem };
        }
        let last = self.seats.keys().next_back().map_or(0, |id| id.0.rem_euclid(crate::ids::ROBOTS_PER_ACCOUNT));
        let Some(id) = RobotId::nth(self.account, last + 1) else {
            return Outcome::Invalid { field: "account".into(), reason: "it has no robot numbers left".into() };
        };
        let (desired, run) = if new.start {
            (DesiredState::Running, RunState::Running)
        } else {
            (DesiredState::Stopped, RunState::Stopped)
        };
        let robot = Robot {
            id,
            account: self.account,
            name: new.name.clone(),
            symbol: new.symbol.clone(),
            config: new.config.clone(),
            limits: new.limits.clone(),
            desired,
            run,
            reason: None,
            stop_policy: new.stop_policy,
            decision_seq: 0,
            webhook_hash: new.webhook_hash.clone(),
            created_at: now,
            version: 1,
        };
        let state = StrategyState::initial(&robot.config);
        self.record(Event::Robot(robot.clone()), now);
        self.seats.insert(id, Seat::new(robot, state, Position::empty(id, new.symbol.clone())));
        done(Some(id))
    }

    fn cancel_order(&mut self, client_id: &ClientOrderId, now: Timestamp) -> Outcome {
        let Some(order) = self.order(client_id) else {
            return Outcome::NotFound { what: format!("a live order {client_id}") };
        };
        if order.status.is_terminal() {
            return Outcome::Skipped { reason: format!("the order has ended: {}", order.status.as_str()) };
        }
        let robot = order.robot;
        self.request_cancel(client_id, now);
        Outcome::Done { robot: Some(robot), orders: vec![client_id.clone()] }
    }
}

fn done(robot: Option<RobotId>) -> Outcome {
    Outcome::Done { robot, orders: Vec::new() }
}
