//! What the tests of the core share.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "every test file uses its own part of this"
)]

use rust_decimal::Decimal;
use trading::exchange::{Fill, OrderKind, Side, TimeInForce};
use trading::ids::{AccountId, ClientOrderId, Epoch, OrderKey, RobotId, TradeId, VenueOrderId};
use trading::market::{Asset, Quote, SymbolInfo};
use trading::money::{Amount, Price, Qty};
use trading::order::{CancelState, Order, Status};
use trading::position::Position;
use trading::risk::Limits;
use trading::robot::{DesiredState, OrderSpec, Robot, RobotConfig, RunState, StopPolicy};
use trading::time::Timestamp;

pub const ROBOT: RobotId = RobotId(10_001);

pub fn price(text: &str) -> Price {
    text.parse().expect("a price")
}

pub fn qty(text: &str) -> Qty {
    text.parse().expect("a quantity")
}

pub fn amount(text: &str) -> Amount {
    text.parse().expect("an amount")
}

pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// Ticks of 0.01, lots of 0.001, at least 0.002 worth 5.
pub fn symbol() -> SymbolInfo {
    SymbolInfo {
        symbol: "BTCUSDT".parse().expect("a symbol"),
        base: Asset::new("BTC"),
        quote: Asset::new("USDT"),
        tick: price("0.01"),
        lot: qty("0.001"),
        min_qty: qty("0.002"),
        min_notional: amount("5"),
        max_open_orders: 200,
    }
}

/// A market one tick wide.
pub fn quote(bid: Price, at: Timestamp) -> Quote {
    let SymbolInfo { symbol, tick, .. } = symbol();
    Quote { symbol, bid, bid_qty: qty("100"), ask: bid + tick, ask_qty: qty("100"), at }
}

pub fn robot(config: RobotConfig) -> Robot {
    Robot {
        id: ROBOT,
        account: AccountId(1),
        name: "test".into(),
        symbol: symbol().symbol,
        config,
        limits: Limits::default(),
        desired: DesiredState::Running,
        run: RunState::Running,
        reason: None,
        stop_policy: StopPolicy::Keep,
        decision_seq: 0,
        webhook_hash: None,
        created_at: at(0),
        version: 1,
    }
}

pub fn limit(side: Side, at: Price, qty: Qty) -> OrderSpec {
    OrderSpec { side, kind: OrderKind::Limit { price: at }, tif: TimeInForce::Gtc, qty }
}

pub fn market(side: Side, qty: Qty) -> OrderSpec {
    OrderSpec { side, kind: OrderKind::Market, tif: TimeInForce::Gtc, qty }
}

/// An order as the engine makes it of a spec: decided, not sent.
pub fn order(spec: &OrderSpec, key: OrderKey, now: Timestamp) -> Order {
    Order {
        client_id: ClientOrderId::derive("test", ROBOT, key, 0),
        account: AccountId(1),
        robot: ROBOT,
        key,
        generation: 0,
        symbol: symbol().symbol,
        side: spec.side,
        kind: spec.kind,
        tif: spec.tif,
        qty: spec.qty,
        status: Status::Intent,
        cancel: CancelState::None,
        attempt: 0,
        epoch: Epoch(0),
        sent_at: None,
        deadline: None,
        expires_at: None,
        venue_id: None,
        filled: Qty::ZERO,
        filled_quote: Amount::ZERO,
        reported: Qty::ZERO,
        reason: None,
        created_at: now,
        updated_at: now,
        version: 1,
    }
}

pub fn fill(side: Side, at_price: Price, qty: Qty, fee: Amount, fee_asset: &Asset) -> Fill {
    Fill {
        trade_id: TradeId(1),
        client_id: ClientOrderId::from_venue("x"),
        venue_id: VenueOrderId(1),
        symbol: symbol().symbol,
        side,
        price: at_price,
        qty,
        fee,
        fee_asset: fee_asset.clone(),
        maker: true,
        at: at(0),
    }
}

/// A position of `qty`, bought at 100.
pub fn holding(qty: Qty) -> Position {
    let mut position = Position::empty(ROBOT, symbol().symbol);
    position.qty = qty.amount();
    position.cost = Amount::new(qty.get() * Decimal::from(100));
    position
}
