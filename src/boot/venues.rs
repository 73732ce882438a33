//! The venues that accounts trade at, and each account's port to its own.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use trading::ids::AccountId;
use venue::ledger::LedgerError;

use super::parts::{Boot, broken, ms};
use super::{BootError, paper};
use crate::admin::FaultControl;
use crate::config::{AccountConfig, BINANCE, PAPER};
use crate::gateway::binance::{BinanceVenue, Credentials};
use crate::gateway::paper::{PaperError, PaperVenue};
use crate::gateway::{Gateway, RequestWindow};
use crate::instance::Instances;
use crate::market::symbols;

/// The venues that are in use.
pub(super) struct Venues {
    pub(super) paper: Option<PaperVenue>,
    paper_wanted: Option<watch::Sender<bool>>,
    binance: Option<BinanceVenue>,
}

impl Venues {
    /// Each account with its port.
    pub(super) async fn gateways(
        &self,
        accounts: Vec<AccountConfig>,
    ) -> Result<Vec<(Arc<dyn Gateway>, AccountConfig)>, BootError> {
        let mut gateways = Vec::with_capacity(accounts.len());
        for account in accounts {
            gateways.push((self.gateway(&account).await?, account));
        }
        Ok(gateways)
    }

    /// An account's port to its venue.
    async fn gateway(&self, account: &AccountConfig) -> Result<Arc<dyn Gateway>, BootError> {
        let AccountConfig { label, venue, api_key, secret_file } = account;
        match (venue.as_str(), &self.paper, &self.binance) {
            (PAPER, Some(paper), _) => {
                if paper.host().is_some() {
                    let opened = paper.gateway(label).await;
                    return Ok(Arc::new(opened.map_err(|error| broken("trading.accounts", &error))?));
                }
                Ok(Arc::new(paper.port(label)))
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
        let (paper, paper_wanted) = if used(PAPER) { Some(self.paper_venue(window).await?) } else { None }.unzip();
        let binance = if used(BINANCE) { Some(self.binance_venue(window)?) } else { None };
        Ok(Venues { paper, paper_wanted, binance })
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

    /// With its ledger open, unless that is another process's. Who tells whether it is wanted here comes with it.
    async fn paper_venue(&self, window: RequestWindow) -> Result<(PaperVenue, watch::Sender<bool>), BootError> {
        let path = self.config.venue_ledger();
        let venue = PaperVenue::closed(&path, symbols(&self.config.market)?, &self.config.venue.paper, window)?;
        let driver = if self.beside {
            None
        } else {
            let opening = venue.clone();
            let opening = tokio::task::spawn_blocking(move || opening.open_ledger()).await;
            let opened = opening.map_err(|error| broken("venue.paper.ledger", &error))?;
            match opened {
                Ok(driver) => Some(driver),
                // Another one that started in this very moment was quicker. It comes here when it is wanted here.
                Err(LedgerError::Locked(_)) if self.config.instance.share => None,
                Err(error) => return Err(PaperError::from(error).into()),
            }
        };
        let (wanted, told) = watch::channel(driver.is_some());
        let stop = self.handle.token(self.phases.close_stores);
        let keeping = paper::keep(venue.clone(), driver, told, stop);
        self.run(self.phases.close_stores, "paper venue", keeping)?;
        Ok((venue, wanted))
    }

    /// Where the ledger may go to another process, it is kept as long as an account is traded here.
    pub(super) fn want_paper(
        &self,
        venues: &Venues,
        wanted: &[(Arc<dyn Gateway>, AccountConfig)],
        accounts: &[(AccountId, String)],
        instances: &Instances,
    ) -> Result<(), BootError> {
        let Some(sender) = venues.paper_wanted.clone().filter(|_| self.config.instance.share) else { return Ok(()) };
        let is_paper = |label: &str| wanted.iter().any(|(_, account)| account.label == label && account.venue == PAPER);
        let accounts = accounts.iter().filter(|(_, label)| is_paper(label)).map(|(account, _)| *account).collect();
        let stop = self.handle.token(self.phases.close_stores);
        let wanting = paper::want(instances.clone(), accounts, ms(self.config.trading.lease_ttl_ms), sender, stop);
        self.run(self.phases.close_stores, "whose the paper venue is", wanting)?;
        Ok(())
    }
}

pub(super) fn fault_control(venue: PaperVenue) -> FaultControl {
    let reading = venue.clone();
    FaultControl {
        get: Arc::new(move || {
            let (faults, fired) = reading.faults();
            serde_json::json!({ "faults": faults, "fired": fired })
        }),
        set: Arc::new(move |body| {
            let faults = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            venue.set_faults(faults).map_err(|error| error.to_string())
        }),
    }
}
