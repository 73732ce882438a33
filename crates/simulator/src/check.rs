//! The judges: what must hold at any time, after a crash, and once everything has come to rest.

use std::collections::BTreeMap;

use hotgo::audit::{Answered, AuditInput, Finding, check};
use trading::command::Wish;
use trading::exchange::{OrderKind, TimeInForce};
use trading::ids::RobotId;
use trading::market::Symbol;
use trading::money::Amount;
use trading::order::CancelState;
use trading::position::Position;
use trading::robot::{RobotConfig, RunState, StrategyState, grid};
use trading::signal::{Action, Signal};

use crate::counts::State;
use crate::plan::{MS, SECOND, Who};
use crate::venue::LABEL;
use crate::world::{Event, Phase, World};

impl World<'_> {
    fn findings(&self) -> Vec<Finding> {
        let answered = self.answered.iter().filter_map(|n| self.clients.get(*n));
        let answered =
            answered.map(|client| Answered { source: client.source.clone(), dedup_key: client.dedup_key.clone() });
        let input = AuditInput {
            venue: self.venue.image(),
            accounts: [(LABEL.to_owned(), self.store.account_data(Self::account()))].into(),
            answered: Some(answered.collect()),
        };
        let mut findings = check(&input).findings;
        // The checker compares the times of two processes. Where their clocks differ only this world's own time can
        // tell, and does, whenever the venue takes an order.
        findings.retain(|finding| !(self.clock_differed && finding.check == 10 && finding.what.contains(" was sent ")));
        findings
    }

    /// After a crash the books must be right, as far as they do not say that something is still on its way.
    pub(crate) fn check_after_crash(&mut self) {
        // Of many seeds every third is enough: the check costs more than the run.
        if !self.dice.delay.chance(120) {
            return;
        }
        let moving = |finding: &Finding| match finding.check {
            // A fill that is not booked yet, an order that is not resolved yet.
            2 => finding.what.contains("not booked here"),
            3 => !finding.what.contains("its fills here make"),
            4 => true,
            _ => false,
        };
        let found = self.findings().into_iter().find(|finding| !moving(finding));
        if let Some(finding) = found {
            self.violate(rule(&finding), format!("after a crash: {}", finding.what));
        }
    }

    /// Looks whether everything has come to rest.
    pub(crate) fn look(&mut self) {
        match self.phase {
            Phase::Rough | Phase::Over => {}
            Phase::Healing => self.look_while_healing(),
            Phase::Settling => {
                let restless = self.busy > 0 || self.unrest().is_some();
                // What is found now may be under way still, such as a page that is asked for again: it must go by itself.
                if restless || (self.now < self.must_rest_by() && !self.findings().is_empty()) {
                    return self.look_again(SECOND);
                }
                let who = self.survivor();
                if self.planned_end_is_graceful() {
                    self.phase = Phase::Stopping;
                    self.note(|| "the last process is stopped".into());
                    self.process_mut(who).retired = true;
                    self.shut_down(who, 10 * MS, 60 * SECOND);
                    return self.look_again(SECOND);
                }
                self.judge();
            }
            Phase::Stopping => {
                let who = self.survivor();
                if self.process(who).up || self.busy > 0 {
                    return self.look_again(SECOND);
                }
                self.judge();
            }
        }
    }

    fn look_again(&mut self, delay: i64) {
        if self.now > self.must_rest_by() + 70 * SECOND {
            let why = self.unrest().unwrap_or_else(|| format!("{} messages are on their way", self.busy));
            return self.violate("liveness", why);
        }
        self.after(delay, Event::Look);
    }

    fn survivor(&self) -> Who {
        if self.a.retired && !self.plan.single { Who::B } else { Who::A }
    }

    fn planned_end_is_graceful(&self) -> bool {
        self.clients.len().is_multiple_of(2)
    }

    fn look_while_healing(&mut self) {
        let who = self.survivor();
        let unrest = if self.process(who).is_ready() { self.unrest() } else { Some("the engine is not ready".into()) };
        match unrest {
            Some(why) if self.now > self.must_rest_by() => self.violate("liveness", why),
            Some(_) => self.after(SECOND, Event::Look),
            None if self.probe() => self.after(SECOND, Event::Look),
            None => match self.idle_robot(who) {
                Some(why) if self.now > self.must_rest_by() => self.violate("liveness", why),
                Some(_) => self.after(SECOND, Event::Look),
                None => {
                    self.phase = Phase::Settling;
                    self.note(|| "the market stands still".into());
                    self.after(SECOND, Event::Look);
                }
            },
        }
    }

    /// What has not come to rest.
    fn unrest(&self) -> Option<String> {
        if let Some(client) = self.clients.iter().find(|client| !client.content) {
            return Some(format!("client {} has no answer", client.dedup_key));
        }
        for order in self.store.orders(Self::account()) {
            let id = &order.client_id;
            if !order.status.is_terminal() {
                let status = order.status.as_str();
                if order.status.is_unresolved() || order.status == trading::order::Status::Intent {
                    return Some(format!("order {id} stays {status}"));
                }
                if !matches!(order.cancel, CancelState::None | CancelState::Rejected) {
                    return Some(format!("order {id} stays {status}, its cancellation {}", order.cancel.as_str()));
                }
            }
            if order.lacks_fills() {
                return Some(format!("order {id} lacks fills"));
            }
        }
        None
    }

    /// Sends every signal follower a signal, once. Whether there are new ones.
    fn probe(&mut self) -> bool {
        if self.clients.last().is_some_and(|client| client.dedup_key.starts_with("probe")) {
            return false;
        }
        let followers: Vec<RobotId> = self
            .store
            .robots(Self::account())
            .filter(|robot| robot.run == RunState::Running && matches!(robot.config, RobotConfig::Follower(_)))
            .map(|robot| robot.id)
            .collect();
        for robot in &followers {
            let action = Action::Buy { qty: None, order: OrderKind::Market, tif: TimeInForce::Gtc };
            self.new_client(Wish::Signal(Signal { robot: *robot, action, expires_at: None }), 30 * SECOND);
            if let Some(client) = self.clients.last_mut() {
                client.dedup_key = format!("probe {robot}");
            }
        }
        !followers.is_empty()
    }

    /// A robot that should do something and does not.
    fn idle_robot(&self, who: Who) -> Option<String> {
        let wall = self.wall(who);
        let funds = self.store.balance(Self::account(), "USDT").unwrap_or_default();
        for robot in self.store.robots(Self::account()).filter(|robot| robot.run == RunState::Running) {
            let state = self.store.state(robot.id);
            let idle = match (&robot.config, state) {
                (RobotConfig::Dca(config), Some(StrategyState::Dca(state))) => {
                    let done = config.max_steps > 0 && state.steps >= config.max_steps;
                    !done && state.next_at.is_none_or(|at| at.after(std::time::Duration::from_secs(5)) < wall)
                }
                (RobotConfig::Dca(_), _) => true,
                (RobotConfig::Grid(config), state) => {
                    let levels = match state {
                        Some(StrategyState::Grid(grid::State { levels })) => levels.as_slice(),
                        _ => &[],
                    };
                    let busy = levels.iter().any(|level| level.order.is_some() || level.retry_at.is_some());
                    let in_reach = self.venue.asks_more_than(&robot.symbol, config.lower);
                    !busy && in_reach && funds > Amount::new(rust_decimal::Decimal::from(400))
                }
                (RobotConfig::Follower(_), _) => false,
            };
            if idle {
                return Some(format!("robot {} ({}) does not react", robot.id, robot.config.kind()));
            }
        }
        for client in self.clients.iter().filter(|client| client.dedup_key.starts_with("probe")) {
            let reacted = client.answer.as_ref().is_some_and(|record| {
                matches!(
                    &record.outcome,
                    trading::command::Outcome::Done { .. } | trading::command::Outcome::Denied { .. }
                )
            });
            if !reacted {
                let outcome = client.answer.as_ref().map(|record| &record.outcome);
                return Some(format!("a signal came to nothing: {outcome:?}"));
            }
        }
        None
    }

    /// Everything is at rest: every promise must be kept.
    fn judge(&mut self) {
        let findings = self.findings();
        if let Some(finding) = findings.first() {
            let more = findings.len() - 1;
            let more = if more > 0 { format!(" (and {more} more findings)") } else { String::new() };
            self.violate(rule(finding), format!("{}{more}", finding.what));
        }
        self.check_positions();
        if self.store.robots(Self::account()).any(|robot| robot.run == RunState::Quarantined) {
            self.violate("no quarantine", "a robot is quarantined".into());
        }
        self.observe_end();
        self.phase = Phase::Over;
    }

    /// Positions are the sums of their fills.
    fn check_positions(&mut self) {
        let mut sums: BTreeMap<(RobotId, Symbol), Position> = BTreeMap::new();
        for row in self.store.fills(Self::account()) {
            let Some(info) = self.plan.symbols.iter().find(|info| info.symbol == row.fill.symbol) else { continue };
            let key = (row.robot, row.fill.symbol.clone());
            let empty = || Position::empty(row.robot, row.fill.symbol.clone());
            sums.entry(key).or_insert_with(empty).book(&row.fill, info);
        }
        let differ = self
            .store
            .positions(Self::account())
            .find(|position| sums.get(&(position.robot, position.symbol.clone())) != Some(*position));
        let count = self.store.positions(Self::account()).count();
        let what = match differ {
            Some(position) => format!("robot {} holds {}, its fills make something else", position.robot, position.qty),
            None if count != sums.len() => "a position is missing".into(),
            None => return,
        };
        self.violate("positions", what);
    }

    fn observe_end(&mut self) {
        let (mut flattened, mut halted, mut sold) = (false, false, false);
        for client in &self.clients {
            halted |= matches!(client.wish, Wish::Kill { .. } | Wish::HaltRobot { .. }) && client.content;
        }
        let robots: BTreeMap<RobotId, bool> = self
            .store
            .robots(Self::account())
            .map(|robot| (robot.id, matches!(robot.config, RobotConfig::Grid(_))))
            .collect();
        let mut canceled_buy = false;
        for order in self.store.orders(Self::account()) {
            let sells = order.side == trading::exchange::Side::Sell && !order.filled.is_zero();
            let grid = robots.get(&order.robot).copied().unwrap_or(false);
            let market = order.kind == OrderKind::Market;
            flattened |= sells && grid && market;
            sold |= sells && grid && !market;
            canceled_buy |= order.side == trading::exchange::Side::Buy && order.cancel == CancelState::Done;
        }
        for (reached, state) in
            [(flattened, State::Flattened), (halted && canceled_buy, State::Halted), (sold, State::GridSold)]
        {
            if reached {
                self.reach(state);
            }
        }
    }
}

fn rule(finding: &Finding) -> &'static str {
    match finding.check {
        1 => "C1",
        2 => "C2",
        3 => "C3",
        4 => "C4",
        5 => "C5",
        6 => "C6",
        7 => "C7",
        8 => "C8",
        9 => "C9",
        _ => "C10",
    }
}
