//! An engine by itself, with a venue that answers within the same call. No store, no tasks.

use trading::command::{Command, NewRobot, Wish};
use trading::engine::{Effect, Engine, Input, Settings, Snapshot};
use trading::event::Recorded;
use trading::exchange::{OrderKind, StreamEvent, TimeInForce};
use trading::ids::{AccountId, Epoch, RobotId, Seq};
use trading::market::{Market, Quote};
use trading::money::Price;
use trading::risk::Limits;
use trading::robot::{RobotConfig, StopPolicy, follower};
use trading::signal::{Action, Signal};
use trading::time::Timestamp;

use crate::venue::Venue;

pub(crate) fn new_robot(venue: &Venue, key: &str) -> Command {
    Command {
        source: "bench".into(),
        dedup_key: key.to_owned(),
        wish: Wish::CreateRobot(NewRobot {
            name: "follower".into(),
            symbol: venue.info.symbol.clone(),
            config: RobotConfig::Follower(follower::Config { default_qty: "0.001".parse().unwrap() }),
            limits: Limits::default(),
            stop_policy: StopPolicy::Keep,
            start: true,
            webhook_hash: None,
        }),
    }
}

pub(crate) fn buy(robot: RobotId, key: &str, order: OrderKind) -> Command {
    let action = Action::Buy { qty: Some("0.001".parse().unwrap()), order, tif: TimeInForce::Gtc };
    Command {
        source: "bench".into(),
        dedup_key: key.to_owned(),
        wish: Wish::Signal(Signal { robot, action, expires_at: None }),
    }
}

pub(crate) struct Desk {
    engine: Engine,
    venue: Venue,
    robot: RobotId,
    now: Timestamp,
    next: i64,
    pub(crate) steps: u64,
}

impl Desk {
    /// A ready engine with a robot, and what it recorded so far.
    pub(crate) fn open(account: AccountId) -> (Self, Vec<Recorded>) {
        let venue = Venue::new(true);
        let now = Timestamp::from_micros(1_700_000_000_000_000);
        let settings = Settings {
            namespace: "bench".into(),
            limits: Limits::default(),
            recv_window: std::time::Duration::from_secs(5),
            absence_margin: std::time::Duration::from_secs(10),
        };
        let snapshot = Snapshot {
            account,
            last_seq: Seq(0),
            robots: Vec::new(),
            states: Vec::new(),
            orders: Vec::new(),
            positions: Vec::new(),
            balances: Vec::new(),
            recent_trades: Vec::new(),
        };
        let (engine, first) = Engine::recover(settings, snapshot, Epoch(1), vec![venue.info.clone()], now);
        let robot = RobotId::nth(account, 1).unwrap();
        let mut desk = Self { engine, venue, robot, now, next: 0, steps: 0 };
        let mut recorded = first.events;
        let price = |text: &str| text.parse::<Price>().unwrap();
        let quote = Quote {
            symbol: desk.venue.info.symbol.clone(),
            bid: price("86999"),
            bid_qty: "1".parse().unwrap(),
            ask: price("87000"),
            ask_qty: "1".parse().unwrap(),
            at: now,
        };
        let mut inputs = vec![Input::Stream(StreamEvent::Up), Input::Market(Market::Quote(quote))];
        inputs.extend(first.effects.into_iter().filter_map(|effect| desk.venue.answer(effect)));
        inputs.push(Input::Command { ticket: 0, command: new_robot(&desk.venue, &robot.to_string()) });
        for input in inputs {
            recorded.extend(desk.settle(input));
        }
        assert!(desk.engine.is_ready());
        (desk, recorded)
    }

    /// One input and all that follows from it.
    fn settle(&mut self, input: Input) -> Vec<Recorded> {
        let (mut recorded, mut inputs) = (Vec::new(), vec![input]);
        while let Some(input) = inputs.pop() {
            let (events, effects) = self.step(input);
            recorded.extend(events);
            inputs.extend(effects.into_iter().filter_map(|effect| self.venue.answer(effect)));
        }
        recorded
    }

    fn step(&mut self, input: Input) -> (Vec<Recorded>, Vec<Effect>) {
        self.steps += 1;
        self.now = self.now.after(std::time::Duration::from_micros(10));
        let step = self.engine.step(input, self.now);
        (step.events, step.effects)
    }

    /// A market order from the signal to its fill: what is committed before it is sent, and what after.
    pub(crate) fn order(&mut self) -> (Vec<Recorded>, Vec<Recorded>) {
        self.next += 1;
        let command = buy(self.robot, &format!("{}-{}", self.robot, self.next), OrderKind::Market);
        let (plan, effects) = self.step(Input::Command { ticket: 1, command });
        let answers: Vec<Input> = effects.into_iter().filter_map(|effect| self.venue.answer(effect)).collect();
        let outcome = answers.into_iter().flat_map(|answer| self.settle(answer)).collect();
        (plan, outcome)
    }
}
