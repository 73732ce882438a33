//! The demo account's three robots.

use rust_decimal::Decimal;
use trading::command::{Command, NewRobot, Wish};
use trading::market::Symbol;
use trading::money::{Amount, Price, Qty};
use trading::risk::Limits;
use trading::robot::{RobotConfig, StopPolicy, dca, follower, grid};

/// What the demo account is called.
pub(super) const LABEL: &str = "demo";

/// Commands that make a follower with a webhook, a grid around `price` and a DCA robot. Each is named, so that a second start
/// makes no second robot.
pub(super) fn commands(symbol: &Symbol, price: Price, webhook_hash: &str) -> Vec<Command> {
    let at_bps = |bps: i64| Price::new((price.get() * Decimal::new(bps, 4)).round_dp(2));
    let small = Qty::new((Decimal::from(100) / price.get()).round_dp(4).max(Decimal::new(1, 4)));
    let robots = [
        (
            "demo-follower",
            RobotConfig::Follower(follower::Config { default_qty: small }),
            Some(webhook_hash.to_owned()),
        ),
        (
            "demo-grid",
            RobotConfig::Grid(grid::Config { lower: at_bps(9_970), upper: at_bps(10_030), levels: 13, qty: small }),
            None,
        ),
        (
            "demo-dca",
            RobotConfig::Dca(dca::Config {
                quote_per_step: Amount::new(Decimal::from(25)),
                interval_ms: 5_000,
                max_steps: 100,
            }),
            None,
        ),
    ];
    // The demo must not spend everything it has on one idea.
    let limits = Limits { max_position_notional: Some(Amount::new(Decimal::from(2_500))), ..Limits::default() };
    robots
        .into_iter()
        .map(|(name, config, webhook_hash)| Command {
            source: "demo".into(),
            dedup_key: name.into(),
            wish: Wish::CreateRobot(NewRobot {
                name: name.into(),
                symbol: symbol.clone(),
                config,
                limits: limits.clone(),
                stop_policy: StopPolicy::Keep,
                start: true,
                webhook_hash,
            }),
        })
        .collect()
}
