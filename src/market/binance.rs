//! The public market streams of Binance: best bid and ask, and trades, of the configured symbols.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::sleep;
use trading::market::{Market, PublicTrade, Quote, Symbol};
use trading::time::Timestamp;

use crate::config::BinanceConfig;
use crate::gateway::binance::socket::{Backoff, Dialer, Line, SocketError};
use crate::gateway::binance::tls_for;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A feed without an end: it reconnects for as long as it is asked. What happens meanwhile is missed; the next quote counts.
#[derive(Debug)]
pub(super) struct BinanceFeed {
    dialer: Dialer,
    url: String,
    line: Option<Line>,
    backoff: Backoff,
}

impl BinanceFeed {
    /// Prepares the feed. Nothing is sent yet.
    pub(super) fn new(config: &BinanceConfig, symbols: &[Symbol]) -> Result<Self, rustls::Error> {
        let tls = Arc::new(tls_for(&[&config.ws_stream_url])?);
        let silence = Duration::from_millis(config.silence_ms);
        let streams: Vec<String> = symbols
            .iter()
            .map(|symbol| symbol.as_str().to_lowercase())
            .flat_map(|symbol| [format!("{symbol}@bookTicker"), format!("{symbol}@trade")])
            .collect();
        let url = format!("{}/stream?streams={}", config.ws_stream_url.trim_end_matches('/'), streams.join("/"));
        let dialer = Dialer { tls, connect_timeout: CONNECT_TIMEOUT, silence };
        Ok(Self { dialer, url, line: None, backoff: Backoff::new() })
    }

    /// The next event, with the time of its trade where it has one. Cancel safe.
    pub(super) async fn next(&mut self) -> Market {
        loop {
            match self.receive().await {
                Ok(Some(market)) => return market,
                Ok(None) => {}
                Err(error) => {
                    self.line = None;
                    tracing::warn!(%error, "market data is interrupted");
                    sleep(self.backoff.wait()).await;
                }
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<Market>, SocketError> {
        if self.line.is_none() {
            self.line = Some(self.dialer.dial(&self.url).await?);
            tracing::info!("market data is connected");
        }
        let Some(line) = &mut self.line else { return Ok(None) };
        let market = event(&line.next().await?);
        if market.is_some() {
            self.backoff = Backoff::new();
        }
        Ok(market)
    }
}

#[derive(Deserialize)]
struct Combined {
    data: Event,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Event {
    Trade(Trade),
    Ticker(Ticker),
}

#[derive(Deserialize)]
struct Trade {
    s: String,
    p: String,
    q: String,
    #[serde(rename = "T")]
    at: i64,
    m: bool,
}

#[derive(Deserialize)]
struct Ticker {
    s: String,
    b: String,
    #[serde(rename = "B")]
    bid_qty: String,
    a: String,
    #[serde(rename = "A")]
    ask_qty: String,
}

/// Reads one message; whatever is no quote or trade, or makes no sense, is none.
fn event(text: &str) -> Option<Market> {
    let Combined { data } = serde_json::from_str(text).ok()?;
    Some(match data {
        Event::Trade(trade) => Market::Trade(PublicTrade {
            symbol: trade.s.parse().ok()?,
            price: trade.p.parse().ok()?,
            qty: trade.q.parse().ok()?,
            buyer_is_maker: trade.m,
            at: Timestamp::from_millis(trade.at),
        }),
        // It has no time of its own.
        Event::Ticker(ticker) => Market::Quote(Quote {
            symbol: ticker.s.parse().ok()?,
            bid: ticker.b.parse().ok()?,
            bid_qty: ticker.bid_qty.parse().ok()?,
            ask: ticker.a.parse().ok()?,
            ask_qty: ticker.ask_qty.parse().ok()?,
            at: Timestamp::default(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_trades_are_read_and_everything_else_is_passed_over() {
        let quote = r#"{"stream":"bnbusdt@bookTicker","data":{"u":400900217,"s":"BNBUSDT","b":"25.35190000",
            "B":"31.21000000","a":"25.36520000","A":"40.66000000"}}"#;
        let Some(Market::Quote(quote)) = event(quote) else { panic!("not a quote") };
        assert_eq!((quote.bid, quote.ask_qty), ("25.3519".parse().unwrap(), "40.66".parse().unwrap()));
        let trade = r#"{"stream":"bnbbtc@trade","data":{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001",
            "q":"100","T":1672515782136,"m":true,"M":true}}"#;
        let Some(Market::Trade(trade)) = event(trade) else { panic!("not a trade") };
        assert!(trade.buyer_is_maker);
        assert_eq!(trade.at, Timestamp::from_millis(1_672_515_782_136));
        for other in [
            "",
            "{}",
            r#"{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}"#,
            r#"{"stream":"x","data":{"s":"BNBUSDT","b":"0.0","B":"1","a":"1","A":"1"}}"#,
            r#"{"result":null,"id":1}"#,
        ] {
            assert_eq!(event(other), None, "{other}");
        }
    }
}
