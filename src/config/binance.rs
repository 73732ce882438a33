//! `venue.binance`: how Binance spot is reached. See `docs/binance.md`.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// `venue.binance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinanceConfig {
    /// Where `/api/v3/...` is found. `http` for loopback addresses only.
    pub rest_url: String,
    /// The WebSocket API, with its path. `ws` for loopback addresses only.
    pub ws_api_url: String,
    /// Where `/stream` is found. `ws` for loopback addresses only.
    pub ws_stream_url: String,
    /// How often the venue's open orders are compared with what the account's stream said.
    pub reconcile_ms: u64,
    /// How often the venue's clock is asked for.
    pub clock_sync_ms: u64,
    /// A stream on which nothing, not even a ping, was heard for this long is taken for dead.
    pub silence_ms: u64,
    /// When a stream's connection is replaced: before the venue ends it, which is after 24 hours.
    pub rotate_ms: u64,
    /// How much of the request weight of a minute entries and routine reads leave to cancels and to unknown orders.
    pub weight_reserve_percent: u32,
}

/// Why this URL cannot be used, with the remedy; `secure` is its scheme and `plain` the one for loopback addresses.
pub(super) fn endpoint_fault(text: &str, secure: &str, plain: &str) -> Option<String> {
    let Ok(url) = reqwest::Url::parse(text) else {
        return Some(format!("is not a URL; write such as {secure}://host"));
    };
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Some("must hold no credentials, query or fragment; write scheme, host, port and path only".to_owned());
    }
    let host = url.host_str().unwrap_or_default();
    if url.scheme() == secure && !host.is_empty() {
        return None;
    }
    if url.scheme() != plain {
        return Some(format!("must begin with {secure}://"));
    }
    (!is_loopback(host)).then(|| {
        format!("{plain}:// would send keys and orders in the clear; write {secure}://, or name a loopback address")
    })
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Why this file cannot hold a secret, with the remedy.
pub(super) fn secret_file_fault(path: &Path) -> Option<String> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Some(format!("cannot be read ({error}); correct the path")),
    };
    if !metadata.is_file() {
        return Some("is not a file; name the file that holds the secret".to_owned());
    }
    let mode = metadata.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| format!("others can read it (mode {mode:04o}); run: chmod 600 {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::endpoint_fault;

    #[test]
    fn keys_travel_in_the_clear_to_this_machine_only() {
        for good in [
            "https://api.binance.com",
            "https://testnet.binance.vision",
            "http://127.0.0.1:8080",
            "http://[::1]:1",
            "http://localhost:9",
        ] {
            assert_eq!(endpoint_fault(good, "https", "http"), None, "{good}");
        }
        for bad in [
            "http://api.binance.com",
            "http://127.0.0.1.evil.example",
            "http://10.0.0.1",
            "ftp://127.0.0.1",
            "api.binance.com",
            "https://user:pass@api.binance.com",
            "https://api.binance.com?x=1",
            "",
        ] {
            assert!(endpoint_fault(bad, "https", "http").is_some(), "{bad}");
        }
        assert_eq!(endpoint_fault("wss://ws-api.binance.com:443/ws-api/v3", "wss", "ws"), None);
        assert!(endpoint_fault("ws://ws-api.binance.com/ws-api/v3", "wss", "ws").is_some());
    }
}
