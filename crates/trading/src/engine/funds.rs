//! The account's assets, and what open orders reserve of them.

use std::collections::BTreeMap;

use crate::exchange::{Fill, Side};
use crate::ids::{ClientOrderId, RobotId};
use crate::market::{Asset, Quote, Symbol, SymbolInfo};
use crate::money::Amount;
use crate::order::Order;
use crate::position::{Balance, balance_changes};
use crate::risk::{AssetKind, reserved};

/// What one live order holds back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reservation {
    robot: RobotId,
    symbol: Symbol,
    side: Side,
    asset: Asset,
    amount: Amount,
}

/// Balances and reservations. Kept up to date order by order, so that asking costs nothing.
#[derive(Debug, Default)]
pub(super) struct Funds {
    balances: BTreeMap<Asset, Balance>,
    by_order: BTreeMap<ClientOrderId, Reservation>,
    reserved: BTreeMap<Asset, Amount>,
    buying: BTreeMap<RobotId, Amount>,
    selling: BTreeMap<RobotId, Amount>,
    live: BTreeMap<Symbol, usize>,
}

impl Funds {
    pub(super) fn new(balances: Vec<Balance>) -> Self {
        let balances = balances.into_iter().map(|balance| (balance.asset.clone(), balance)).collect();
        Self { balances, ..Self::default() }
    }

    pub(super) fn balances(&self) -> &BTreeMap<Asset, Balance> {
        &self.balances
    }

    /// What is neither spent nor reserved. May be below zero when a reservation was estimated too low.
    pub(super) fn free(&self, asset: &Asset) -> Amount {
        let total = self.balances.get(asset).map_or(Amount::ZERO, |balance| balance.total);
        total - self.reserved.get(asset).copied().unwrap_or(Amount::ZERO)
    }

    /// Opens an asset with what the venue says there is.
    pub(super) fn open(&mut self, asset: Asset, total: Amount) -> Balance {
        let balance = Balance { asset: asset.clone(), total, opening: total, version: 1 };
        self.balances.insert(asset, balance.clone());
        balance
    }

    /// Books a fill; returns the balances that it changed.
    pub(super) fn book(&mut self, fill: &Fill, symbol: &SymbolInfo) -> Vec<Balance> {
        let mut changed = Vec::new();
        for (asset, change) in balance_changes(fill, symbol) {
            let balance = self.balances.entry(asset.clone()).or_insert_with(|| Balance {
                asset,
                total: Amount::ZERO,
                opening: Amount::ZERO,
                version: 0,
            });
            balance.total += change;
            balance.version += 1;
            changed.push(balance.clone());
        }
        changed
    }

    /// Sets what an order reserves to what it needs now; nothing once it has ended.
    pub(super) fn reserve(&mut self, order: &Order, symbol: &SymbolInfo, quote: Option<&Quote>) {
        if let Some(old) = self.by_order.remove(&order.client_id) {
            self.count(&old, -old.amount);
            *self.live.entry(old.symbol).or_default() -= 1;
        }
        if order.outstanding().is_zero() {
            return;
        }
        let (kind, amount) = reserved(order, quote.map(|quote| quote.ask));
        let asset = match kind {
            AssetKind::Base => symbol.base.clone(),
            AssetKind::Quote => symbol.quote.clone(),
        };
        let new = Reservation { robot: order.robot, symbol: order.symbol.clone(), side: order.side, asset, amount };
        self.count(&new, amount);
        *self.live.entry(new.symbol.clone()).or_default() += 1;
        self.by_order.insert(order.client_id.clone(), new);
    }

    fn count(&mut self, reservation: &Reservation, amount: Amount) {
        *self.reserved.entry(reservation.asset.clone()).or_default() += amount;
        let by_robot = match reservation.side {
            Side::Buy => &mut self.buying,
            Side::Sell => &mut self.selling,
        };
        *by_robot.entry(reservation.robot).or_default() += amount;
    }

    /// What an order reserves now.
    pub(super) fn reserved_by(&self, client_id: &ClientOrderId) -> Amount {
        self.by_order.get(client_id).map_or(Amount::ZERO, |reservation| reservation.amount)
    }

    /// What a robot's live buys are worth, in the quote asset.
    pub(super) fn buying(&self, robot: RobotId) -> Amount {
        self.buying.get(&robot).copied().unwrap_or_default()
    }

    /// What a robot's live sells hold back, in its base asset.
    pub(super) fn selling(&self, robot: RobotId) -> Amount {
        self.selling.get(&robot).copied().unwrap_or_default()
    }

    /// What all live buys are worth, in the quote asset.
    pub(super) fn buying_in_all(&self) -> Amount {
        self.buying.values().copied().sum()
    }

    /// How many orders live in a symbol.
    pub(super) fn live_in(&self, symbol: &Symbol) -> usize {
        self.live.get(symbol).copied().unwrap_or(0)
    }

    /// How many orders live.
    pub(super) fn live_in_all(&self) -> usize {
        self.by_order.len()
    }
}
