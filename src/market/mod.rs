//! Market data: opens the configured feed, and drives it in time to the venue and to whoever listens.

mod binance;
mod runner;

use tokio::sync::broadcast;
use trading::market::{Asset, Market, ParseSymbolError, Symbol, SymbolInfo};
use trading::time::Timestamp;
use venue::feed::replay::{FeedError, Replay};
use venue::feed::synthetic::{Synthetic, SyntheticSymbol};

use self::binance::BinanceFeed;
pub use self::runner::{MarketHub, MarketRunner};
use crate::config::{BinanceConfig, MarketConfig, MarketSource, SymbolConfig};

/// Why there is no market data.
#[derive(Debug, thiserror::Error)]
pub enum MarketError {
    /// A configured symbol is none.
    #[error("market: {0}")]
    Symbol(#[from] ParseSymbolError),
    /// The source is a replay, and no replay is configured.
    #[error("market.source is `replay`, but market.replay names no file")]
    NothingToReplay,
    /// A recorded file cannot be read.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The live feed cannot be set up.
    #[error("market.source is `binance`, and TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The configured symbols with their filters.
pub fn symbols(config: &MarketConfig) -> Result<Vec<SymbolInfo>, MarketError> {
    config.symbols.iter().map(symbol_info).collect()
}

pub(crate) fn symbol_info(config: &SymbolConfig) -> Result<SymbolInfo, MarketError> {
    Ok(SymbolInfo {
        symbol: config.symbol.parse()?,
        base: Asset::new(&config.base),
        quote: Asset::new(&config.quote),
        tick: config.tick,
        lot: config.lot,
        min_qty: config.min_qty,
        min_notional: config.min_notional,
        max_open_orders: config.max_open_orders,
    })
}

/// The events of the configured source.
#[derive(Debug)]
enum Feed {
    Synthetic(Box<Synthetic>),
    Replay(Box<Replay>),
    Binance(Box<BinanceFeed>),
}

impl Feed {
    /// Opens the feed, and says how fast it runs: 1 is as its events say, 0 is as fast as they come.
    fn open(config: &MarketConfig, binance: &BinanceConfig, now: Timestamp) -> Result<(Self, u32), MarketError> {
        match config.source {
            MarketSource::Synthetic => {
                let symbols = config.symbols.iter().map(|symbol| {
                    Ok(SyntheticSymbol {
                        symbol: symbol.symbol.parse()?,
                        tick: symbol.tick,
                        lot: symbol.lot,
                        start_price: symbol.start_price,
                    })
                });
                let symbols = symbols.collect::<Result<_, MarketError>>()?;
                let feed = Synthetic::new(symbols, config.seed, config.quotes_per_second, now);
                Ok((Feed::Synthetic(Box::new(feed)), 1))
            }
            MarketSource::Replay => {
                let files = config.replay.as_ref().filter(|files| files.trades.is_some() || files.book.is_some());
                let files = files.ok_or(MarketError::NothingToReplay)?;
                let symbol: Symbol = files.symbol.parse()?;
                let feed = Replay::open(&symbol, files.trades.as_deref(), files.book.as_deref())?;
                Ok((Feed::Replay(Box::new(feed)), files.speed))
            }
            MarketSource::Binance => {
                let symbols: Vec<Symbol> = symbols(config)?.into_iter().map(|info| info.symbol).collect();
                Ok((Feed::Binance(Box::new(BinanceFeed::new(binance, &symbols)?)), 0))
            }
        }
    }

    /// Cancel safe.
    async fn next_event(&mut self) -> Result<Option<Market>, MarketError> {
        match self {
            Feed::Binance(feed) => Ok(Some(feed.next().await)),
            Feed::Synthetic(feed) => Ok(feed.next()),
            Feed::Replay(feed) => Ok(feed.next().transpose()?),
        }
    }
}

/// The event, as if it happened at this time.
fn at(market: Market, at: Timestamp) -> Market {
    match market {
        Market::Quote(mut quote) => {
            quote.at = at;
            Market::Quote(quote)
        }
        Market::Trade(mut trade) => {
            trade.at = at;
            Market::Trade(trade)
        }
    }
}

/// What listeners receive. One that falls behind by the hub's capacity loses the oldest events and is told how many.
pub type Events = broadcast::Receiver<std::sync::Arc<Market>>;
