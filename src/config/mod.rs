//! Configuration: one file per section. Environment is read here and nowhere else.

mod market;
mod sections;
mod shutdown;
mod trading;

pub use market::{MarketConfig, MarketSource, ReplayConfig, SymbolConfig};
pub use sections::{AdminConfig, LogConfig, LogFormat, ServerConfig, StoreConfig, StreamConfig};
pub use shutdown::ShutdownConfig;
pub use trading::{AccountConfig, PaperConfig, TradingConfig, VenueConfig};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
