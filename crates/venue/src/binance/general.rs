//! `ping`, `time`, `exchangeInfo`.

use serde::Serialize;
use serde_json::{Value, json};
use trading::market::{Symbol, SymbolInfo};
use trading::money::{MAX_VALUE, Price, Qty};

use super::App;
use super::error::ApiError;
use super::limits::RateLimit;
use super::params::Params;
use super::wire::Number;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExchangeInfoBody {
    timezone: &'static str,
    server_time: i64,
    rate_limits: [RateLimit; 3],
    exchange_filters: [(); 0],
    symbols: Vec<SymbolBody>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "Binance's message")]
struct SymbolBody {
    symbol: String,
    status: &'static str,
    base_asset: String,
    base_asset_precision: u32,
    quote_asset: String,
    quote_precision: u32,
    quote_asset_precision: u32,
    base_commission_precision: u32,
    quote_commission_precision: u32,
    order_types: [&'static str; 4],
    iceberg_allowed: bool,
    oco_allowed: bool,
    oto_allowed: bool,
    quote_order_qty_market_allowed: bool,
    allow_trailing_stop: bool,
    cancel_replace_allowed: bool,
    amend_allowed: bool,
    is_spot_trading_allowed: bool,
    is_margin_trading_allowed: bool,
    filters: [Value; 4],
    permissions: [(); 0],
    permission_sets: [[&'static str; 1]; 1],
    default_self_trade_prevention_mode: &'static str,
    allowed_self_trade_prevention_modes: [&'static str; 1],
}

impl From<&SymbolInfo> for SymbolBody {
    fn from(info: &SymbolInfo) -> Self {
        let (highest_price, largest_qty) =
            (Price::new(MAX_VALUE).get() - info.tick.get(), Qty::new(MAX_VALUE).get() - info.lot.get());
        Self {
            symbol: info.symbol.to_string(),
            status: "TRADING",
            base_asset: info.base.to_string(),
            base_asset_precision: 8,
            quote_asset: info.quote.to_string(),
            quote_precision: 8,
            quote_asset_precision: 8,
            base_commission_precision: 8,
            quote_commission_precision: 8,
            order_types: ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT"],
            iceberg_allowed: false,
            oco_allowed: false,
            oto_allowed: false,
            quote_order_qty_market_allowed: false,
            allow_trailing_stop: false,
            cancel_replace_allowed: false,
            amend_allowed: false,
            is_spot_trading_allowed: true,
            is_margin_trading_allowed: false,
            filters: [
                json!({
                    "filterType": "PRICE_FILTER",
                    "minPrice": Number(info.tick.get()),
                    "maxPrice": Number(highest_price),
                    "tickSize": Number(info.tick.get()),
                }),
                json!({
                    "filterType": "LOT_SIZE",
                    "minQty": Number(info.min_qty.get()),
                    "maxQty": Number(largest_qty),
                    "stepSize": Number(info.lot.get()),
                }),
                // A market order's value is judged by the price that it would get.
                json!({
                    "filterType": "NOTIONAL",
                    "minNotional": Number(info.min_notional.get()),
                    "applyMinToMarket": true,
                    "maxNotional": Number(MAX_VALUE * MAX_VALUE),
                    "applyMaxToMarket": false,
                    "avgPriceMins": 0,
                }),
                json!({ "filterType": "MAX_NUM_ORDERS", "maxNumOrders": info.max_open_orders }),
            ],
            permissions: [],
            permission_sets: [["SPOT"]],
            default_self_trade_prevention_mode: "NONE",
            allowed_self_trade_prevention_modes: ["NONE"],
        }
    }
}

pub(super) fn time(app: &App) -> Value {
    json!({ "serverTime": app.host.now().millis() })
}

pub(super) fn exchange_info(app: &App, mut params: Params) -> Result<ExchangeInfoBody, ApiError> {
    let symbol = params.symbol_if_sent()?.map(|symbol| vec![symbol]);
    let symbols: Option<Vec<Symbol>> = match params.text("symbols")? {
        Some(_) if symbol.is_some() => return Err(ApiError::bad(-1128, "Combination of optional parameters invalid.")),
        Some(list) => Some(serde_json::from_str(&list).map_err(|_| ApiError::invalid("symbols"))?),
        None => symbol,
    };
    params.text("permissions")?;
    params.text("showPermissionSets")?;
    params.finish()?;
    let all = app.host.symbols();
    let known = |symbol: &Symbol| all.iter().any(|info| info.symbol == *symbol);
    if symbols.as_ref().is_some_and(|symbols| !symbols.iter().all(known)) {
        return Err(ApiError::bad(-1121, "Invalid symbol."));
    }
    let wanted = |info: &&SymbolInfo| symbols.as_ref().is_none_or(|symbols| symbols.contains(&info.symbol));
    Ok(ExchangeInfoBody {
        timezone: "UTC",
        server_time: app.host.now().millis(),
        rate_limits: app.limits.all(),
        exchange_filters: [],
        symbols: all.iter().filter(wanted).map(SymbolBody::from).collect(),
    })
}
