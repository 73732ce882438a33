//! Positions with fees and profit.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::exchange::{Fill, Side};
use crate::ids::RobotId;
use crate::market::{Asset, Quote, Symbol, SymbolInfo};
use crate::money::{Amount, MAX_SCALE};

/// What a robot holds of a symbol. This is the row of `hg_trading_position`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The robot.
    pub robot: RobotId,
    /// The pair.
    pub symbol: Symbol,
    /// Base asset held, after fees taken in it.
    pub qty: Amount,
    /// What the held quantity cost, in the quote asset (average cost).
    pub cost: Amount,
    /// Profit of what was sold, in the quote asset, before fees.
    pub realized: Amount,
    /// Fees, in the quote asset at the fill's price.
    pub fees: Amount,
    /// Grows by one with every change.
    pub version: i64,
}

/// An asset of an account. This is the row of `hg_trading_balance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// The asset.
    pub asset: Asset,
    /// Free and reserved together.
    pub total: Amount,
    /// What there was when the account was first adopted.
    pub opening: Amount,
    /// Grows by one with every change.
    pub version: i64,
}

impl Position {
    /// Nothing held.
    pub fn empty(robot: RobotId, symbol: Symbol) -> Self {
        let zero = Amount::ZERO;
        Self { robot, symbol, qty: zero, cost: zero, realized: zero, fees: zero, version: 0 }
    }

    /// Books one fill. The caller makes sure that it is booked once.
    pub fn book(&mut self, fill: &Fill, symbol: &SymbolInfo) {
        let notional = fill.price.notional(fill.qty);
        match fill.side {
            Side::Buy => self.book_purchase(fill.qty.amount(), notional),
            Side::Sell => self.book_sale(fill.qty.amount(), notional),
        }
        if fill.fee_asset == symbol.base {
            // Paid out of what is held: the quantity shrinks, its cost stays, the average rises.
            self.qty += -fill.fee;
            self.fees += Amount::new(fill.fee.get() * fill.price.get());
        } else if fill.fee_asset == symbol.quote {
            self.fees += fill.fee;
        }
        self.version += 1;
    }

    fn book_purchase(&mut self, bought: Amount, notional: Amount) {
        // A sale that was booked before its purchase left less than nothing and counted as profit in full: what covers it is
        // its cost, not that of anything held.
        let owed = (-self.qty).get().max(Decimal::ZERO).min(bought.get());
        let cover = if bought.is_zero() { Amount::ZERO } else { share(notional, owed, bought.get()) };
        self.qty += bought;
        self.cost += notional - cover;
        self.realized = self.realized - cover;
    }

    fn book_sale(&mut self, sold: Amount, notional: Amount) {
        let held = self.qty.get();
        // Average cost; selling more than is held takes the whole cost with it.
        let cost = if held.is_zero() || sold.get() >= held { self.cost } else { share(self.cost, sold.get(), held) };
        self.qty = self.qty - sold;
        self.cost = self.cost - cost;
        self.realized += notional - cost;
    }

    /// What selling all of it at the best bid would bring beyond its cost, in the quote asset, before fees.
    pub fn unrealized(&self, quote: &Quote) -> Amount {
        Amount::new(self.qty.get() * quote.bid.get()) - self.cost
    }
}

/// `part / whole` of an amount. Rounded to the digits that any notional has, so that sums of it stay exact.
fn share(amount: Amount, part: Decimal, whole: Decimal) -> Amount {
    if part == whole {
        return amount;
    }
    Amount::new((amount.get() * part / whole).round_dp(MAX_SCALE * 2))
}

/// How a fill moves the account's assets: `(asset, change)`, at most three of them.
pub fn balance_changes(fill: &Fill, symbol: &SymbolInfo) -> Vec<(Asset, Amount)> {
    let notional = fill.price.notional(fill.qty);
    let (base, quote) = match fill.side {
        Side::Buy => (fill.qty.amount(), -notional),
        Side::Sell => (-fill.qty.amount(), notional),
    };
    let mut changes = vec![(symbol.base.clone(), base), (symbol.quote.clone(), quote)];
    match changes.iter_mut().find(|(asset, _)| *asset == fill.fee_asset) {
        Some((_, change)) => *change = *change - fill.fee,
        None => changes.push((fill.fee_asset.clone(), -fill.fee)),
    }
    changes
}
