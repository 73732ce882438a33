//! The venues that accounts trade at.

use std::path::Path;
use std::sync::Arc;

use super::BootError;
use super::hooks::late;
use super::parts::{Boot, broken, ms};
use crate::config::{AccountConfig, BINANCE, PAPER};
use crate::gateway::binance::{BinanceVenue, Credentials};
use crate::gateway::paper::PaperVenue;
use crate::gateway::{Gateway, RequestWindow};
use crate::market::symbols;

impl Boot<'_> {
    /// Opens the venues that these accounts trade at, and no other.
    pub(super) async fn venues(&self, accounts: &[AccountConfig]) -> Result<Venues, BootError> {
        let config = &self.config.venue;
        let window = RequestWindow {
            recv_window: ms(config.recv_window_ms),
            absence_margin: ms(config.absence_margin_ms),
            request_timeout: ms(config.request_timeout_ms),
        };
        let used = |venue: &str| accounts.iter().any(|account| account.venue == venue);
        let paper = if used(PAPER) { Some(self.paper_venue(window).await?) } else { None };
        let binance = if used(BINANCE) { Some(self.binance_venue(window)?) } else { None };
        Ok(Venues { paper, binance })
    }

    fn binance_venue(&self, window: RequestWindow) -> Result<BinanceVenue, BootError> {
        let symbols = symbols(&self.config.market)?.into_iter().map(|info| info.symbol).collect();
        let (venue, driver) = BinanceVenue::open(&self.config.venue.binance, window, symbols, self.clock)
            .map_err(|error| broken("venue.binance", &error))?;
        // A drain still sends and asks, so it ends with the stores.
        let stop = self.handle.token(self.phases.close_stores);
        self.run(self.phases.close_stores, "binance driver", driver.run(stop))?;
        Ok(venue)
    }

    async fn paper_venue(&self, window: RequestWindow) -> Result<PaperVenue, BootError> {
        let config = &self.config.venue;
        let (path, paper, symbols) = (self.config.venue_ledger(), config.paper.clone(), symbols(&self.config.market)?);
        let opening = tokio::task::spawn_blocking(move || PaperVenue::open(&path, symbols, &paper, window));
        let (venue, driver) = opening.await.map_err(|error| broken("venue.paper.ledger", &error))??;
        let closing = venue.clone();
        self.handle
            .on(self.phases.close_stores, "paper venue", move |_| {
                closing.close();
                async {}
            })
            .map_err(late)?;
        self.run(self.phases.close_stores, "paper venue driver", async move {
            match tokio::task::spawn_blocking(move || driver.run_blocking()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the paper venue ended"),
                Err(error) => tracing::error!(%error, "the paper venue ended"),
            }
        })?;
        Ok(venue)
    }
}

/// The venues that are in use.
pub(super) struct Venues {
    pub(super) paper: Option<PaperVenue>,
    binance: Option<BinanceVenue>,
}

impl Venues {
    /// An account's port to its venue.
    pub(super) async fn gateway(&self, account: &AccountConfig) -> Result<Arc<dyn Gateway>, BootError> {
        let AccountConfig { label, venue, api_key, secret_file } = account;
        match (venue.as_str(), &self.paper, &self.binance) {
            (PAPER, Some(paper), _) => {
                let gateway = paper.gateway(label).await.map_err(|error| broken("trading.accounts", &error))?;
                Ok(Arc::new(gateway))
            }
            (BINANCE, _, Some(binance)) => {
                let (key, file) =
                    (api_key.as_deref().unwrap_or_default(), secret_file.as_deref().unwrap_or(Path::new("")));
                let credentials = Credentials::load(key, file).map_err(|error| BootError::Setting {
                    key: "trading.accounts[].secret_file",
                    problem: format!("{}: {error}", file.display()),
                })?;
                tracing::info!(account = %label, key = credentials.kind(), url = %binance.rest_url(), "trading at Binance");
                Ok(Arc::new(binance.gateway(label, credentials)))
            }
            _ => Err(broken("trading.accounts", &format!("there is no venue {venue}"))),
        }
    }
}
