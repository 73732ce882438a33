//! `account`, `myTrades`.

use serde::Serialize;
use serde_json::{Value, json};
use trading::exchange::{Fill, Side};
use trading::ids::TradeId;
use trading::market::Asset;

use super::App;
use super::error::ApiError;
use super::params::{Params, Validity};
use super::wire::Number;
use crate::record::Label;
use crate::state::Holding;

/// How many fills are looked through for one page.
const ALL: usize = usize::MAX;

#[derive(Debug, Serialize)]
struct BalanceBody {
    asset: String,
    free: Number,
    locked: Number,
}

impl From<(&Asset, Holding)> for BalanceBody {
    fn from((asset, held): (&Asset, Holding)) -> Self {
        Self { asset: asset.to_string(), free: Number(held.free().get()), locked: Number(held.locked.get()) }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TradeBody {
    symbol: String,
    id: i64,
    order_id: i64,
    order_list_id: i64,
    price: Number,
    qty: Number,
    quote_qty: Number,
    commission: Number,
    commission_asset: String,
    time: i64,
    is_buyer: bool,
    is_maker: bool,
    is_best_match: bool,
}

impl From<&Fill> for TradeBody {
    fn from(fill: &Fill) -> Self {
        Self {
            symbol: fill.symbol.to_string(),
            id: fill.trade_id.0,
            order_id: fill.venue_id.0,
            order_list_id: -1,
            price: Number(fill.price.get()),
            qty: Number(fill.qty.get()),
            quote_qty: Number(fill.price.notional(fill.qty).get()),
            commission: Number(fill.fee.get()),
            commission_asset: fill.fee_asset.to_string(),
            time: fill.at.millis(),
            is_buyer: fill.side == Side::Buy,
            is_maker: fill.maker,
            is_best_match: true,
        }
    }
}

pub(super) async fn account(
    app: &App,
    account: Label,
    mut params: Params,
    validity: Validity,
) -> Result<Value, ApiError> {
    let omit_zero = match params.text("omitZeroBalances")?.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(ApiError::invalid("omitZeroBalances")),
    };
    params.finish()?;
    let (balances, updated) = app
        .read(validity, move |core, _| {
            let account = core.exchange.account(&account)?;
            let shown = account.holdings().filter(|(_, held)| !omit_zero || !held.total.is_zero());
            let updated = account.orders().map(|order| order.updated_at).max();
            Ok((shown.map(BalanceBody::from).collect::<Vec<_>>(), updated))
        })
        .await?;
    let (maker, taker) = (app.host.settings().maker_fee_bps, app.host.settings().taker_fee_bps);
    let rate = |bps: u32| Number(rust_decimal::Decimal::new(i64::from(bps), 4));
    Ok(json!({
        "makerCommission": maker,
        "takerCommission": taker,
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": { "maker": rate(maker), "taker": rate(taker), "buyer": rate(0), "seller": rate(0) },
        "canTrade": true,
        "canWithdraw": false,
        "canDeposit": false,
        "brokered": false,
        "requireSelfTradePrevention": false,
        "preventSor": false,
        "updateTime": updated.map_or(0, trading::time::Timestamp::millis),
        "accountType": "SPOT",
        "balances": balances,
        "permissions": ["SPOT"],
        "uid": 1,
    }))
}

pub(super) async fn my_trades(
    app: &App,
    account: Label,
    mut params: Params,
    validity: Validity,
) -> Result<Vec<TradeBody>, ApiError> {
    let symbol = app.known(params.symbol()?)?;
    let (order_id, from_id) = (params.order_id()?, params.number("fromId")?);
    let (start, end) = (params.number("startTime")?, params.number("endTime")?);
    let limit = params.limit()?;
    params.finish()?;
    if from_id.is_some() && (start.is_some() || end.is_some()) {
        return Err(ApiError::bad(-1128, "Combination of optional parameters invalid."));
    }
    app.read(validity, move |core, _| {
        // The page begins with the trade itself, not after it.
        let after = from_id.map(|id| TradeId(id.saturating_sub(1)));
        let fills = core.fills(&account, &symbol, after, ALL)?;
        let wanted = fills.iter().filter(|fill| {
            order_id.is_none_or(|id| fill.venue_id == id)
                && start.is_none_or(|start| fill.at.millis() >= start)
                && end.is_none_or(|end| fill.at.millis() <= end)
        });
        let wanted: Vec<_> = wanted.map(TradeBody::from).collect();
        Ok(page(wanted, limit, from_id.is_some() || start.is_some()))
    })
    .await
}

/// The first `limit` rows if there is a place to begin at, else the last ones.
pub(super) fn page<T>(mut rows: Vec<T>, limit: usize, oldest: bool) -> Vec<T> {
    if oldest {
        rows.truncate(limit);
        return rows;
    }
    let surplus = rows.len().saturating_sub(limit);
    rows.split_off(surplus)
}
