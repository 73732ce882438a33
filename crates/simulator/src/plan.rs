//! What a seed plans: the world's settings, how rough it is, and what happens when. All of it is drawn before anything
//! runs, so that parts can be left out of a repetition without changing the others.

use rust_decimal::Decimal;
use trading::command::{NewRobot, Wish};
use trading::exchange::{OrderKind, TimeInForce};
use trading::ids::{AccountId, RobotId};
use trading::market::{Asset, Symbol, SymbolInfo};
use trading::money::{Amount, Price, Qty};
use trading::risk::Limits;
use trading::robot::{RobotConfig, StopPolicy, dca, follower, grid};
use trading::signal::{Action, Signal};

use crate::counts::Fault;
use crate::rng::Rng;

pub(crate) const MS: i64 = 1_000;
pub(crate) const SECOND: i64 = 1_000 * MS;
pub(crate) const ACCOUNT: AccountId = AccountId(1);

/// One of the two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    A,
    B,
}

/// What happens at a planned time, or at a planned point.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A client wants this. Signals get their expiry when they arrive: so long after it, in microseconds.
    Wish { wish: Box<Wish>, lives: i64 },
    /// A client wants one of the live orders cancelled.
    CancelSome,
    /// The process is killed.
    Crash(Who),
    /// All processes and the store lose power.
    PowerLoss,
    /// The process is frozen for so long.
    Pause(Who, i64),
    /// The process is asked to stop: so long to its drain, so long for that.
    Shutdown { who: Who, hold: i64, drain: i64 },
    /// The process' stream is cut: it learns of that after so long, and is subscribed again after so long.
    StreamCut { who: Who, unnoticed: i64, down: i64 },
    /// The store does not answer for so long.
    StoreDown(i64),
    /// The price jumps, in thousandths.
    PriceJump(i64),
}

/// What happens, and when: at a time, or when so many effect boundaries were passed.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    At(i64, What),
    /// A crash at the `n`-th boundary; a power loss if so.
    AtBoundary(u32, bool),
}

/// Everything that is drawn from a seed before it runs.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// One process with an embedded store, or two that share a server.
    pub(crate) single: bool,
    pub(crate) symbols: Vec<SymbolInfo>,
    /// When the faults end, in microseconds from the start.
    pub(crate) rough_for: i64,
    pub(crate) tick_every: i64,
    pub(crate) request_timeout: i64,
    pub(crate) page: usize,
    pub(crate) limits: Limits,
    pub(crate) happenings: Vec<Happening>,
    /// How often each fault fires, in thousandths of its opportunities.
    rates: Vec<i64>,
}

impl Plan {
    pub(crate) fn rate(&self, fault: Fault) -> i64 {
        let at = Fault::ALL.iter().position(|other| *other == fault);
        at.and_then(|at| self.rates.get(at).copied()).unwrap_or(0)
    }

    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 1);
        let single = rng.chance(500);
        let symbols: Vec<_> = if rng.chance(250) { vec!["BTC", "ETH"] } else { vec!["BTC"] };
        let symbols: Vec<_> = symbols.into_iter().filter_map(symbol_info).collect();
        let rough_for = rng.between(15, 70) * SECOND;
        let calm = rng.chance(50);
        let rates = Fault::ALL.iter().map(|fault| if calm { 0 } else { rate_of(*fault, &mut rng) }).collect();
        let limits = Limits {
            max_position_notional: rng.chance(100).then(|| Amount::new(Decimal::from(300))),
            max_orders_per_minute: rng.chance(100).then_some(6),
            ..Limits::default()
        };
        let mut plan = Self {
            single,
            symbols,
            rough_for,
            tick_every: rng.pick(500, &[1000, 2000]) * MS,
            request_timeout: rng.pick(3, &[10]) * SECOND,
            page: usize::try_from(rng.pick(2, &[3, 100])).unwrap_or(2),
            limits,
            happenings: Vec::new(),
            rates,
        };
        plan.draw_robots(&mut rng);
        plan.draw_signals(&mut rng);
        if !calm {
            plan.draw_trouble(&mut rng);
        }
        plan
    }

    fn at(&mut self, at: i64, what: What) {
        self.happenings.push(Happening::At(at, what));
    }

    fn draw_robots(&mut self, rng: &mut Rng) {
        let count = rng.between(1, 3);
        for n in 1..=count {
            let config = match rng.between(0, 3) {
                0 if n > 1 => grid_config(rng),
                1 if n > 1 => dca_config(rng),
                _ if n == 3 => grid_config(rng),
                _ => RobotConfig::Follower(follower::Config { default_qty: qty(rng.between(100, 900)) }),
            };
            let Some(symbol) = self.some_symbol(rng) else { continue };
            let limits = Limits {
                max_order_notional: rng.chance(150).then(|| Amount::new(Decimal::from(40))),
                ..Limits::default()
            };
            let stop_policy = rng.pick(StopPolicy::Keep, &[StopPolicy::Cancel, StopPolicy::Flatten]);
            let name = format!("robot {n}");
            let new = NewRobot { name, symbol, config, limits, stop_policy, start: true, webhook_hash: None };
            let at = (n * 300 + rng.between(0, 400)) * MS;
            self.at(at, What::Wish { wish: Box::new(Wish::CreateRobot(new)), lives: 0 });
        }
    }

    fn some_symbol(&self, rng: &mut Rng) -> Option<Symbol> {
        let n = rng.between(0, i64::try_from(self.symbols.len()).unwrap_or(1) - 1);
        self.symbols.get(usize::try_from(n).unwrap_or(0)).map(|info| info.symbol.clone())
    }

    fn draw_signals(&mut self, rng: &mut Rng) {
        for _ in 0..rng.between(3, 14) {
            let at = rng.between(2 * SECOND, self.rough_for);
            let Some(robot) = RobotId::nth(ACCOUNT, rng.between(1, 2)) else { continue };
            let action = draw_action(rng);
            let lives = rng.pick(30, &[1, 5, 40, 60]) * SECOND;
            self.at(at, What::Wish { wish: Box::new(Wish::Signal(Signal { robot, action, expires_at: None })), lives });
        }
        for _ in 0..rng.between(0, 4) {
            let at = rng.between(3 * SECOND, self.rough_for);
            let Some(robot) = RobotId::nth(ACCOUNT, rng.between(1, 3)) else { continue };
            let policy = rng.pick(None, &[Some(StopPolicy::Flatten), Some(StopPolicy::Cancel), Some(StopPolicy::Keep)]);
            let what = match rng.between(0, 6) {
                0 | 1 => What::CancelSome,
                2 | 3 => What::Wish { wish: Box::new(Wish::StopRobot { robot, policy }), lives: 0 },
                4 => What::Wish { wish: Box::new(Wish::HaltRobot { robot, reason: "drill".into() }), lives: 0 },
                5 => What::Wish { wish: Box::new(Wish::Kill { reason: "drill".into() }), lives: 0 },
                _ => What::Wish { wish: Box::new(Wish::StartRobot { robot }), lives: 0 },
            };
            let restart = matches!(&what, What::Wish { wish, .. } if !matches!(**wish, Wish::StartRobot { .. }));
            self.at(at, what);
            if restart {
                let later = at + rng.between(200, 8_000) * MS;
                self.at(later, What::Wish { wish: Box::new(Wish::StartRobot { robot }), lives: 0 });
            }
        }
        for _ in 0..rng.between(0, 3) {
            let at = rng.between(2 * SECOND, self.rough_for);
            let jump = rng.pick(-40, &[-15, 15, 40]);
            self.at(at, What::PriceJump(jump));
        }
    }

    fn draw_trouble(&mut self, rng: &mut Rng) {
        let end = self.rough_for;
        for _ in 0..rng.between(0, 3) {
            let boundary = u32::try_from(rng.between(1, 260)).unwrap_or(1);
            let power = rng.chance(200);
            self.happenings.push(Happening::AtBoundary(boundary, power));
            // Whoever falls often falls again while getting up.
            for reach in [12, 12] {
                if rng.chance(400) {
                    let next = boundary.saturating_add(u32::try_from(rng.between(1, reach)).unwrap_or(1));
                    self.happenings.push(Happening::AtBoundary(next, power));
                }
            }
        }
        for _ in 0..rng.between(0, 2) {
            let who = rng.pick(Who::A, &[Who::B]);
            let at = rng.between(500, end / MS) * MS;
            let what = match rng.between(0, 9) {
                0 => What::PowerLoss,
                1 | 2 => What::Crash(who),
                3 | 4 => What::Pause(who, rng.between(1, 25) * SECOND),
                5 => What::StoreDown(rng.between(100, 20_000) * MS),
                6 | 7 => {
                    let hold = rng.pick(0, &[300 * MS]);
                    What::Shutdown { who, hold, drain: rng.pick(0, &[2, 30]) * SECOND }
                }
                _ => What::StreamCut { who, unnoticed: rng.between(0, 4_000) * MS, down: rng.between(50, 6_000) * MS },
            };
            self.at(at, what);
        }
    }
}

/// Most faults are off in most seeds; those that are on are often.
fn rate_of(fault: Fault, rng: &mut Rng) -> i64 {
    let rate = rng.pick(0, &[0, 0, 30, 100, 250]);
    match fault {
        Fault::DiskFull | Fault::SyncFails | Fault::CommitLate => rate / 20,
        Fault::CommitUnconfirmed | Fault::CommitLost => rate / 8,
        Fault::ClockJump => rate / 10,
        _ => rate,
    }
}

fn draw_action(rng: &mut Rng) -> Action {
    let price = |rng: &mut Rng| Price::new(Decimal::new(rng.between(9_600, 10_400), 2));
    let order = match rng.between(0, 6) {
        0..=2 => OrderKind::Market,
        3 | 4 => OrderKind::Limit { price: price(rng) },
        5 => OrderKind::PostOnly { price: price(rng) },
        _ => OrderKind::StopLimit { stop_price: price(rng), price: price(rng) },
    };
    let tif = rng.pick(TimeInForce::Gtc, &[TimeInForce::Gtc, TimeInForce::Ioc, TimeInForce::Fok]);
    let qty = rng.chance(600).then(|| qty(rng.between(60, 1_500)));
    match rng.between(0, 9) {
        0..=5 => Action::Buy { qty, order, tif },
        6..=8 => Action::Sell { qty, order, tif },
        _ => Action::Close,
    }
}

fn grid_config(rng: &mut Rng) -> RobotConfig {
    let (lower, upper) = (Decimal::from(rng.between(96, 98)), Decimal::from(rng.between(101, 103)));
    let levels = usize::try_from(rng.between(3, 6)).unwrap_or(3);
    let qty = qty(rng.between(60, 300));
    RobotConfig::Grid(grid::Config { lower: Price::new(lower), upper: Price::new(upper), levels, qty })
}

fn dca_config(rng: &mut Rng) -> RobotConfig {
    RobotConfig::Dca(dca::Config {
        quote_per_step: Amount::new(Decimal::from(rng.between(8, 40))),
        interval_ms: rng.pick(2_000, &[5_000, 9_000]),
        max_steps: rng.pick(0, &[0, 4]),
    })
}

/// Thousandths of the base asset.
pub(crate) fn qty(lots: i64) -> Qty {
    Qty::new(Decimal::new(lots, 3))
}

fn symbol_info(base: &str) -> Option<SymbolInfo> {
    Some(SymbolInfo {
        symbol: format!("{base}USDT").parse().ok()?,
        base: Asset::new(base),
        quote: Asset::new("USDT"),
        tick: Price::new(Decimal::new(1, 2)),
        lot: qty(1),
        min_qty: qty(1),
        min_notional: Amount::new(Decimal::from(5)),
        max_open_orders: 20,
    })
}
