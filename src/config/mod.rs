//! Configuration: one file per section. Environment is read here and nowhere else.
//!
//! Sources, later ones win: the embedded `manifest/config/defaults.yaml`; `config.yaml` in the directory of `--config`,
//! `HOTGO_CONFIG` or its older name `GF_GCFG_PATH` (it must then exist), else `manifest/config/config.yaml` in the working
//! directory if it exists; variables `HOTGO__SECTION__KEY`; flags. Groups merge key by key, lists are replaced whole.
//! Unknown keys, wrong types and numbers that cannot hold together refuse to start, all named at once.

mod binance;
mod error;
mod load;
mod market;
mod network;
mod redis;
mod sections;
mod show;
mod shutdown;
mod sources;
mod store;
mod trading;
mod validate;

pub use binance::BinanceConfig;
pub use error::{ConfigError, Fault, Problem};
pub use load::{Loaded, load};
pub use market::{MarketConfig, MarketSource, ReplayConfig, SymbolConfig};
pub use network::{Network, NoNetwork};
pub use redis::{RedisConfig, RedisSignalsConfig, parse_redis_url};
pub use sections::{
    Accept, AdminConfig, InstanceConfig, LimitsConfig, LogConfig, LogFormat, ServerConfig, StreamConfig,
};
pub use show::{Setting, redact};
pub use shutdown::{PlannedPhase, ShutdownConfig};
pub(crate) use sources::journal_stream;
pub use sources::{Origin, Sources, terminal_takes_color};
pub use store::{Migrate, StoreConfig, StoreFault};
pub use trading::{AccountConfig, BINANCE, PAPER, PaperConfig, TradingConfig, VenueConfig};
pub use validate::{Unfit, WATCHDOG_LEAST_MS, validate};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::store::Database;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the ledger, the venue's ledger, the lock and the admin socket live. Made with mode 0700 if it is missing.
    pub data_dir: PathBuf,
    /// The public listener.
    pub server: ServerConfig,
    /// The private listeners.
    pub admin: AdminConfig,
    /// Logs.
    pub log: LogConfig,
    /// The database.
    pub store: StoreConfig,
    /// This process among others.
    pub instance: InstanceConfig,
    /// Redis, if any.
    pub redis: RedisConfig,
    /// Accounts, limits, leases.
    pub trading: TradingConfig,
    /// The venues.
    pub venue: VenueConfig,
    /// Market data.
    pub market: MarketConfig,
    /// Websockets.
    pub stream: StreamConfig,
    /// The phases and their budgets.
    pub shutdown: ShutdownConfig,
}

impl Config {
    /// The database.
    ///
    /// # Errors
    /// When its settings do not hold together, or its password cannot be read.
    pub fn database(&self) -> Result<Database, StoreFault> {
        self.store.database(&self.data_dir)
    }

    /// The private socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.admin.socket.clone().unwrap_or_else(|| self.data_dir.join(crate::admin::SOCKET_NAME))
    }

    /// The paper venue's own ledger.
    pub fn venue_ledger(&self) -> PathBuf {
        self.venue.paper.ledger.clone().unwrap_or_else(|| self.data_dir.join("venue.ledger"))
    }
}
