//! The oracle: an account is the fold of its events, written in the plainest way, and streams of events to try it on.

use std::collections::BTreeMap;

use proptest::prelude::*;
use trading::engine::Snapshot;
use trading::event::Event;
use trading::ids::{AccountId, Epoch, Seq};
use trading::money::Qty;
use trading::order::{CancelState, Order, Status};
use trading::robot::{Robot, StrategyState, dca};

use crate::data::{alarm, at, command, fill, opening, order, qty, robot};

/// What an account is after these events.
pub(crate) fn snapshot(account: AccountId, events: &[Event]) -> Snapshot {
    let (mut robots, mut states, mut orders) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let (mut positions, mut balances, mut trades) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for event in events {
        match event {
            Event::Robot(robot) => drop(robots.insert(robot.id, robot.clone())),
            Event::Strategy { robot, state } => drop(states.insert(*robot, state.clone())),
            Event::Order(order) => drop(orders.insert(order.client_id.clone(), order.clone())),
            Event::Opening(balance) => drop(balances.insert(balance.asset.clone(), balance.clone())),
            Event::Fill { fill, position, balances: changed } => {
                positions.insert((position.robot, position.symbol.clone()), position.clone());
                for balance in changed {
                    balances.insert(balance.asset.clone(), balance.clone());
                }
                trades.push((fill.symbol.clone(), fill.trade_id));
            }
            Event::Command(_) | Event::Alarm { .. } | Event::Started { .. } | Event::Stopped { .. } => {}
        }
    }
    let mut orders: Vec<Order> =
        orders.into_values().filter(|order| !order.status.is_terminal() || order.lacks_fills()).collect();
    orders.sort_by(|a, b| (a.created_at, &a.client_id).cmp(&(b.created_at, &b.client_id)));
    trades.sort();
    Snapshot {
        account,
        last_seq: Seq(i64::try_from(events.len()).unwrap()),
        robots: robots.into_values().collect(),
        states: states.into_iter().collect(),
        orders,
        positions: positions.into_values().collect(),
        balances: balances.into_values().collect(),
        recent_trades: trades,
    }
}

/// One thing that happens in a random stream.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    NewRobot,
    ChangeRobot(usize),
    State(usize, u32),
    NewOrder(usize),
    ChangeOrder(usize, u8),
    Fill(usize),
    Command(usize),
    Opening,
    Alarm(String),
    Started,
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => Just(Step::NewRobot),
        1 => any::<usize>().prop_map(Step::ChangeRobot),
        1 => (any::<usize>(), any::<u32>()).prop_map(|(n, state)| Step::State(n, state)),
        4 => any::<usize>().prop_map(Step::NewOrder),
        4 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| Step::ChangeOrder(n, how)),
        3 => any::<usize>().prop_map(Step::Fill),
        2 => any::<usize>().prop_map(Step::Command),
        1 => Just(Step::Opening),
        1 => ".{0,40}".prop_map(Step::Alarm),
        1 => Just(Step::Started),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Turns steps into events that keep the rules: keys are new, versions grow.
pub(crate) fn events(account: AccountId, steps: &[Step]) -> Vec<Event> {
    let mut robots: Vec<Robot> = vec![robot(account, 1)];
    let mut orders: Vec<Order> = Vec::new();
    let mut events = vec![Event::Robot(robots[0].clone())];
    for (n, step) in steps.iter().enumerate() {
        let number = i64::try_from(n).unwrap() + 1;
        events.push(match step {
            Step::NewRobot => {
                let new = robot(account, i64::try_from(robots.len()).unwrap() + 1);
                robots.push(new.clone());
                Event::Robot(new)
            }
            Step::ChangeRobot(pick) => {
                let changed = pick % robots.len();
                robots[changed].version += 2;
                robots[changed].decision_seq = number;
                robots[changed].reason = Some(format!("change {n}"));
                Event::Robot(robots[changed].clone())
            }
            Step::State(pick, steps) => Event::Strategy {
                robot: robots[pick % robots.len()].id,
                state: StrategyState::Dca(dca::State { steps: *steps, next_at: Some(at(number)) }),
            },
            Step::NewOrder(pick) => {
                orders.push(order(robots[pick % robots.len()].id, number));
                Event::Order(orders[orders.len() - 1].clone())
            }
            Step::ChangeOrder(pick, how) if !orders.is_empty() => {
                let changed = pick % orders.len();
                change(&mut orders[changed], *how, number);
                Event::Order(orders[changed].clone())
            }
            Step::Fill(pick) if !orders.is_empty() => fill(&orders[pick % orders.len()], number, number),
            Step::Command(pick) => command(robots[pick % robots.len()].id, &format!("key {n}")),
            // Asset names of their own, so that no version meets those of fills.
            Step::Opening => opening(&format!("COIN{n}")),
            Step::Alarm(text) => alarm(text.clone()),
            Step::Started | Step::ChangeOrder(..) | Step::Fill(_) => Event::Started { epoch: Epoch(number) },
        });
    }
    events
}

fn change(order: &mut Order, how: u8, number: i64) {
    let statuses = [Status::Unknown, Status::Open, Status::Partial, Status::Filled, Status::Canceled, Status::Absent];
    order.status = statuses[usize::from(how) % statuses.len()];
    order.cancel = if how.is_multiple_of(2) { CancelState::None } else { CancelState::Requested };
    order.reported = if how.is_multiple_of(3) { qty("1.5") } else { Qty::ZERO };
    order.filled = if how.is_multiple_of(5) { order.reported } else { Qty::ZERO };
    order.reason = how.is_multiple_of(7).then(|| format!("\u{0}reason '{number}'\n"));
    order.updated_at = at(number);
    order.version += i64::from(how) + 1;
}
