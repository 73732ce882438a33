//! `trading` and `venue`: accounts, limits, leases, and how venues are reached.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trading::money::Amount;
use trading::risk::Limits;

use super::BinanceConfig;

/// `trading`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TradingConfig {
    /// Part of every client order id: keeps two installations at one venue account apart. Never change it with orders open.
    pub namespace: String,
    /// The accounts to trade.
    pub accounts: Vec<AccountConfig>,
    /// Limits that hold for every account as a whole.
    pub limits: Limits,
    /// How many commands may wait for one account; further ones get 503 with Retry-After.
    pub queue: usize,
    /// How long a lease lasts without renewal; renewed at a third of it.
    pub lease_ttl_ms: u64,
    /// When a signal that names no expiry expires.
    pub signal_ttl_ms: u64,
}

/// One account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountConfig {
    /// What people call it; also its name at the venue.
    pub label: String,
    /// Which venue: `paper` or `binance`.
    pub venue: String,
    /// The key's public half, where the venue wants one.
    #[serde(default)]
    pub api_key: Option<String>,
    /// The file that holds the key's secret half: an HMAC secret, or an Ed25519 private key as PKCS#8 PEM. Nobody else may
    /// read it.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
}

impl AccountConfig {
    /// An account at the built-in venue.
    pub fn paper(label: &str) -> Self {
        Self { label: label.to_owned(), venue: PAPER.to_owned(), api_key: None, secret_file: None }
    }
}

/// The built-in simulated venue, as `trading.accounts[].venue` names it.
pub const PAPER: &str = "paper";
/// Binance spot, as `trading.accounts[].venue` names it.
pub const BINANCE: &str = "binance";

/// `venue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VenueConfig {
    /// The venue refuses a request that arrives later than its timestamp plus this.
    pub recv_window_ms: u64,
    /// What is added before "no such order" counts as a proof of absence.
    pub absence_margin_ms: u64,
    /// How long an answer is waited for before the outcome counts as unknown.
    pub request_timeout_ms: u64,
    /// The built-in simulated venue.
    pub paper: PaperConfig,
    /// Binance spot.
    pub binance: BinanceConfig,
}

/// `venue.paper`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperConfig {
    /// The venue's own ledger; `venue.ledger` in the data directory if absent.
    pub ledger: Option<PathBuf>,
    /// What a new account starts with, by asset.
    pub opening: BTreeMap<String, Amount>,
    /// Maker fee in basis points.
    pub maker_fee_bps: u32,
    /// Taker fee in basis points.
    pub taker_fee_bps: u32,
    /// How long every answer takes.
    pub latency_ms: u64,
    /// Whether faults may be set through the admin socket. For tests.
    pub allow_faults: bool,
}
