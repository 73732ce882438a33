//! Robots against a naive exchange: random prices, partial fills, refusals, cancels, restarts and crashes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;
mod naive_exchange;

use std::collections::BTreeSet;

use common::{amount, at, limit, price, qty, quote, symbol};
use naive_exchange::World;
use proptest::prelude::*;
use rust_decimal::Decimal;
use trading::exchange::{OrderKind, Side, TimeInForce};
use trading::money::{Price, Qty};
use trading::order::Status;
use trading::robot::grid::{MAX_PLACES, PAUSE, RETRY};
use trading::robot::{Occasion, RobotConfig, RunState, StrategyState, dca, follower, grid};
use trading::signal::{Action, Signal};

const LEVELS: usize = 6;

/// 100, 104, .. 120.
fn grid_config() -> grid::Config {
    grid::Config { lower: price("100"), upper: price("120"), levels: LEVELS, qty: qty("0.1") }
}

fn grid_world() -> World {
    World::new(RobotConfig::Grid(grid_config()))
}

fn check_grid(world: &World) {
    let ladder: BTreeSet<Price> = grid_config().prices(world.symbol.tick).into_iter().collect();
    let mut prices: Vec<Price> = world.live.values().filter_map(|order| order.kind.price()).collect();
    assert!(prices.iter().all(|price| ladder.contains(price)));
    prices.sort();
    prices.dedup();
    assert_eq!(prices.len(), world.live.len(), "two live orders on one level");
    assert!(world.selling().amount() <= world.position.qty, "sells base it does not have");
    let cells = Decimal::from(LEVELS - 1) * grid_config().qty.get();
    // A cancelled order leaves less than what can be sold: 5 USDT at 104, so 0.049.
    let bound = cells + Decimal::new(49, 3) * Decimal::from(world.crumbs) + Decimal::new(5, 3);
    let most = world.position.qty.get() + world.buying().get();
    assert!(most <= bound, "{most} bought, {bound} allowed");
}

/// After all waiting is over, every level does what it should.
fn check_grid_is_complete(world: &mut World) {
    world.refuse = false;
    world.pass(i64::try_from(RETRY.as_millis()).unwrap() + 1);
    let bid = world.quote.as_ref().map_or(price("110"), |quote| quote.bid);
    for _ in 0..3 {
        world.move_to(bid, false, false);
        world.pass(i64::try_from(PAUSE.as_millis()).unwrap() + 1);
    }
    check_grid(world);
    let (ladder, levels) = (grid_config().prices(world.symbol.tick), &world.grid().levels);
    for (i, level) in levels.iter().enumerate() {
        let below_holds = i > 0 && !levels[i - 1].held.is_zero();
        let blocked = ladder[i] > bid || below_holds;
        assert!(level.order.is_some() || (level.held.is_zero() && blocked), "level {i} of {levels:?} idles at {bid}");
        if let Some(resting) = &level.order {
            let live = world.live.values().find(|order| order.key == resting.key).expect("its order lives");
            let rung = if live.side == Side::Buy { i } else { i + 1 };
            assert_eq!((live.side, live.kind.price()), (resting.side, Some(ladder[rung])));
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Move { to: i64, partly: bool, by_report_first: bool },
    Cancel(prop::sample::Index),
    Refuse(bool),
    Deaf,
    Restart,
    CrashBeforeCommit,
    Pass(i64),
}

fn any_op() -> impl Strategy<Value = Op> {
    let prices = 9_700..12_300_i64;
    prop_oneof![
        8 => (prices, any::<bool>(), any::<bool>())
            .prop_map(|(to, partly, by_report_first)| Op::Move { to, partly, by_report_first }),
        1 => any::<prop::sample::Index>().prop_map(Op::Cancel),
        1 => any::<bool>().prop_map(Op::Refuse),
        1 => Just(Op::Deaf),
        2 => Just(Op::Restart),
        1 => Just(Op::CrashBeforeCommit),
        3 => (0..40_000_i64).prop_map(Op::Pass),
    ]
}

impl World {
    fn run(&mut self, op: &Op) {
        match op {
            Op::Move { to, partly, by_report_first } => {
                self.move_to(Price::new(Decimal::new(*to, 2)), *partly, *by_report_first);
            }
            Op::Cancel(which) if !self.live.is_empty() => {
                let ids: Vec<_> = self.live.keys().cloned().collect();
                self.cancel(which.get(&ids));
            }
            Op::Cancel(_) => {}
            Op::Refuse(refuse) => self.refuse = *refuse,
            Op::Deaf => self.deaf = true,
            Op::Restart => self.restart(),
            Op::CrashBeforeCommit => {
                drop(self.ask(Occasion::Quote));
                self.restart();
            }
            Op::Pass(ms) => self.pass(*ms),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_grid_has_one_order_per_level_and_sells_only_what_it_bought(
        ops in prop::collection::vec(any_op(), 1..40),
        base_fee in prop::sample::select(vec![0, 10]),
    ) {
        let mut world = grid_world();
        world.base_fee = base_fee;
        world.tell(Occasion::Start);
        for op in &ops {
            world.run(op);
            check_grid(&world);
        }
        if world.deaf {
            world.restart();
        }
        check_grid_is_complete(&mut world);
    }

    #[test]
    fn a_dca_robot_never_repeats_or_bunches_steps(
        ops in prop::collection::vec(any_op(), 1..60),
        interval_ms in prop::sample::select(vec![100_u64, 5_000, 30_000]),
        max_steps in 0..6_u32,
    ) {
        let config = dca::Config { quote_per_step: amount("50"), interval_ms, max_steps };
        let mut world = World::new(RobotConfig::Dca(config));
        world.tell(Occasion::Start);
        for op in &ops {
            // A market buy fills at once; a spurious wake-up changes nothing.
            world.run(op);
            world.tell(Occasion::Timer);
            for id in world.live.keys().cloned().collect::<Vec<_>>() {
                world.fill(&id, qty("1000"), true);
            }
        }
        let StrategyState::Dca(state) = &world.state else { panic!("not a DCA") };
        prop_assert_eq!(usize::try_from(state.steps).unwrap(), world.placed.len(), "a step is an order");
        prop_assert!(max_steps == 0 || state.steps <= max_steps);
        for pair in world.placed.windows(2) {
            let gap = pair[1].0.millis() - pair[0].0.millis();
            prop_assert!(gap >= i64::try_from(interval_ms).unwrap(), "{gap} ms between two steps");
        }
        for (_, spec) in &world.placed {
            prop_assert!(spec.side == Side::Buy && spec.kind == OrderKind::Market);
            prop_assert!(spec.qty.get() * Decimal::from(123) <= Decimal::from(66), "no more than was told is spent");
        }
    }

    #[test]
    fn a_follower_sells_no_more_than_it_holds(
        held in 0..3_000_i64,
        signals in prop::collection::vec((0..4_u8, 1..2_000_i64, 9_000..11_000_i64), 1..20),
    ) {
        let mut world = follower_world();
        world.position = common::holding(Qty::new(Decimal::new(held, 4)));
        for (what, q, p) in signals {
            let (q, order) = (Some(Qty::new(Decimal::new(q, 4))), OrderKind::Limit { price: Price::new(Decimal::new(p, 2)) });
            let tif = TimeInForce::Gtc;
            let before = world.placed.len();
            let answer = world.signal(match what {
                0 => Action::Buy { qty: q, order, tif },
                1 | 2 => Action::Sell { qty: q, order, tif },
                _ => Action::Close,
            });
            prop_assert_eq!(answer.is_none(), world.placed.len() == before + 1, "one order, or a reason");
            prop_assert!(world.selling().amount() <= world.position.qty);
            for (_, spec) in &world.placed {
                prop_assert!(spec.qty >= world.symbol.min_qty && spec.qty.floor_to(world.symbol.lot) == spec.qty);
            }
        }
    }
}

#[test]
fn a_filled_buy_becomes_a_sell_one_level_up_and_back() {
    let mut world = grid_world();
    world.tell(Occasion::Start);
    world.move_to(price("110"), false, false);
    let rests = |world: &World| {
        let mut all: Vec<_> = world.live.values().map(|o| (o.kind.price().unwrap().to_string(), o.side)).collect();
        all.sort();
        all.into_iter().map(|(price, side)| format!("{side:?} {price}")).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(rests(&world), "Buy 100, Buy 104, Buy 108");
    world.move_to(price("106"), false, false);
    assert_eq!(rests(&world), "Buy 100, Buy 104, Sell 112");
    world.move_to(price("113"), false, false);
    assert_eq!(rests(&world), "Buy 100, Buy 104, Buy 108, Buy 112");
    assert_eq!(world.position.realized, amount("0.4"));
}

#[test]
fn a_restarted_grid_learns_from_its_position_what_was_filled_and_what_cancelled() {
    for cancelled in [false, true] {
        let mut world = grid_world();
        world.tell(Occasion::Start);
        world.move_to(price("110"), false, false);
        world.deaf = true;
        if cancelled {
            for id in world.live.keys().cloned().collect::<Vec<_>>() {
                world.cancel(&id);
            }
        } else {
            world.move_to(price("103"), false, false);
        }
        world.restart();
        world.move_to(price("110"), false, false);
        let held: Vec<_> = world.grid().levels.iter().map(|level| level.held.to_string()).collect();
        if cancelled {
            assert_eq!(held, ["0", "0", "0", "0", "0"]);
            assert_eq!(world.live.len(), 3, "the cancelled buys are placed again");
        } else {
            // 108 and 104 were bought; at 110 the one of 104 is sold at 108, the other one waits at 112.
            assert_eq!(held, ["0", "0", "0.1", "0", "0"]);
        }
        check_grid(&world);
    }
}

#[test]
fn a_refused_level_waits_before_it_tries_again() {
    let mut world = grid_world();
    world.refuse = true;
    world.tell(Occasion::Start);
    for _ in 0..100 {
        world.move_to(price("110"), false, false);
        world.pass(100);
    }
    assert_eq!(world.placed.len(), 3, "one try per level in ten seconds");
    world.pass(25_000);
    assert_eq!(world.placed.len(), 6);
}

#[test]
fn a_large_grid_places_a_bounded_number_of_orders_at_a_time() {
    let config = grid::Config { levels: 100, qty: qty("0.1"), ..grid_config() };
    let mut world = World::new(RobotConfig::Grid(config));
    world.tell(Occasion::Start);
    world.move_to(price("125"), false, false);
    assert_eq!(world.placed.len(), MAX_PLACES);
    world.pass(9_001);
    assert_eq!(world.placed.len(), 99);
}

#[test]
fn a_grid_buys_no_more_than_it_can_pay() {
    let mut world = grid_world();
    world.free_quote = amount("22");
    world.move_to(price("110"), false, false);
    assert_eq!(world.live.values().map(|order| order.kind.price()).collect::<Vec<_>>().len(), 2);
}

#[test]
fn a_halted_grid_sells_and_a_stopped_one_only_remembers() {
    for (run, placed) in
        [(RunState::Running, 1), (RunState::Halted, 1), (RunState::Stopping, 0), (RunState::Stopped, 0)]
    {
        let mut world = grid_world();
        world.move_to(price("110"), false, false);
        let before = world.placed.len();
        world.robot.run = run;
        world.move_to(price("107"), false, false);
        assert_eq!(world.placed.len() - before, placed, "{run:?}");
        assert_eq!(world.grid().levels[2].held, qty("0.1"));
    }
}

#[test]
fn a_dca_robot_that_was_down_takes_one_step_and_goes_on_from_there() {
    let config = dca::Config { quote_per_step: amount("50"), interval_ms: 1_000, max_steps: 0 };
    let mut world = World::new(RobotConfig::Dca(config));
    world.tell(Occasion::Start);
    assert!(world.placed.is_empty(), "no price, no step");
    world.move_to(price("100"), false, false);
    assert_eq!(world.placed.len(), 1, "the first step is taken at the first price");
    assert_eq!(world.placed[0].1.qty, qty("0.499"));
    world.deaf = true;
    world.pass(3_600_000);
    world.restart();
    world.move_to(price("100"), false, false);
    assert_eq!(world.placed.len(), 2, "3600 missed steps are one");
    world.pass(2_500);
    assert_eq!(world.placed.len(), 4);
}

fn follower_world() -> World {
    let mut world = World::new(RobotConfig::Follower(follower::Config { default_qty: qty("0.1") }));
    world.quote = Some(quote(price("100"), at(0)));
    world
}

impl World {
    /// Why a signal is not acted upon, if it is not.
    fn signal(&mut self, action: Action) -> Option<String> {
        let signal = Signal { robot: self.robot.id, action, expires_at: None };
        let answer = self.ask(Occasion::Signal(&signal));
        let skip = answer.skip.clone();
        self.commit(answer);
        skip
    }
}

#[test]
fn a_follower_says_why_it_does_not_act() {
    let mut world = follower_world();
    let tif = TimeInForce::Gtc;
    let buy = |q: &str, order| Action::Buy { qty: Some(qty(q)), order, tif };
    let skip = |world: &mut World, action| world.signal(action).unwrap_or_default();
    assert_eq!(
        skip(&mut world, Action::Close),
        "nothing to sell: 0 held, and what is not below a lot is being sold already"
    );
    assert_eq!(skip(&mut world, buy("0.0009", OrderKind::Market)), "qty: 0.0009 is below the lot 0.001");
    assert_eq!(skip(&mut world, buy("0.0019", OrderKind::Market)), "qty: 0.001 is below the venue's minimum 0.002");
    assert!(skip(&mut world, buy("0.01", OrderKind::Market)).contains("below the venue's minimum 5"));
    let off = OrderKind::StopLimit { stop_price: price("100.001"), price: price("101") };
    assert_eq!(skip(&mut world, buy("0.1", off)), "stop_price: 100.001 is not a positive multiple of the tick 0.01");
    let off = OrderKind::PostOnly { price: price("99.999") };
    assert_eq!(skip(&mut world, buy("0.1", off)), "price: 99.999 is not a positive multiple of the tick 0.01");
    assert!(world.placed.is_empty());
}

#[test]
fn a_follower_cuts_a_sell_to_what_is_held_and_not_being_sold_already() {
    let mut world = follower_world();
    world.position = common::holding(qty("0.5"));
    let sell = |q: &str| Action::Sell {
        qty: Some(qty(q)),
        order: OrderKind::Limit { price: price("101") },
        tif: TimeInForce::Gtc,
    };
    assert_eq!(world.signal(sell("0.3009")), None);
    assert_eq!(world.signal(sell("0.3")), None);
    let placed: Vec<_> = world.placed.iter().map(|(_, spec)| spec.clone()).collect();
    assert_eq!(placed, [limit(Side::Sell, price("101"), qty("0.3")), limit(Side::Sell, price("101"), qty("0.2"))]);
    assert!(world.signal(Action::Close).is_some());
    assert!(world.live.values().all(|order| order.status == Status::Open));
}

#[test]
fn settings_that_do_not_fit_are_refused_by_field() {
    let grid = |change: &dyn Fn(&mut grid::Config)| {
        let mut config = grid_config();
        change(&mut config);
        RobotConfig::Grid(config).validate(&symbol()).err().map_or("fits".into(), |error| error.to_string())
    };
    assert_eq!(grid(&|_| {}), "fits");
    assert_eq!(grid(&|c| c.levels = 1), "levels: 1 given, accepted: 2 to 100");
    assert_eq!(grid(&|c| c.levels = 101), "levels: 101 given, accepted: 2 to 100");
    assert!(grid(&|c| c.lower = Price::ZERO).starts_with("lower: 0 given"));
    assert!(grid(&|c| c.lower = price("120")).starts_with("upper: 120 given, accepted: above lower (120)"));
    assert!(grid(&|c| c.upper = price("100.04")).starts_with("levels: 6 given"));
    assert_eq!(grid(&|c| c.upper = price("100.05")), "fits");
    assert!(grid(&|c| c.qty = qty("0.0501")).contains("a multiple of the lot 0.001"));
    assert!(grid(&|c| c.qty = qty("0.001")).starts_with("qty: 0.001 given, accepted: above zero, at least 0.002"));
    assert!(grid(&|c| c.qty = qty("0.049")).contains("worth at least the venue's minimum 5 at the price 100"));
    let dca = |quote_per_step: &str, interval_ms| {
        let config = dca::Config { quote_per_step: amount(quote_per_step), interval_ms, max_steps: 0 };
        RobotConfig::Dca(config).validate(&symbol()).err().map_or("fits".into(), |error| error.to_string())
    };
    assert_eq!(dca("5", 100), "fits");
    assert_eq!(dca("4.99", 100), "quote_per_step: 4.99 given, accepted: at least the venue's minimum 5");
    assert_eq!(dca("5", 99), "interval_ms: 99 given, accepted: 100 to 86400000");
    assert_eq!(dca("5", 86_400_001), "interval_ms: 86400001 given, accepted: 100 to 86400000");
    let follower = RobotConfig::Follower(follower::Config { default_qty: Qty::ZERO }).validate(&symbol());
    assert!(follower.unwrap_err().to_string().starts_with("default_qty: 0 given"));
}
