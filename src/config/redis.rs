//! `redis`: makes several instances quicker. Whatever happens to Redis, no order is lost and none is doubled.

use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use serde::{Deserialize, Serialize};

/// `redis`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// Such as `redis://hotgo@db.internal:6379/0` or `unix:///run/redis/redis.sock`; absent means no Redis.
    pub url: Option<String>,
    /// The file that holds the password, readable by this user only.
    pub password_file: Option<PathBuf>,
    /// What every key and channel begins with.
    pub prefix: String,
    /// Signals from a stream; absent means none.
    pub signals: Option<RedisSignalsConfig>,
}

/// `redis.signals`: intake of signals from a stream with a consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSignalsConfig {
    /// The stream's key. What cannot be decided goes to `<stream>:dead`.
    pub stream: String,
    /// The consumer group; all instances share it.
    #[serde(default = "default_group")]
    pub group: String,
    /// An entry that was delivered so often without an outcome goes to the dead letters.
    #[serde(default = "default_max_tries")]
    pub max_tries: u32,
    /// An entry whose consumer did nothing about it for this long is taken over.
    #[serde(default = "default_claim_after_ms")]
    pub claim_after_ms: u64,
}

fn default_group() -> String {
    "hotgo".to_owned()
}

fn default_max_tries() -> u32 {
    5
}

fn default_claim_after_ms() -> u64 {
    10_000
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &self.url.as_deref().map(|url| super::redact("redis.url", url)))
            .field("password_file", &self.password_file)
            .field("prefix", &self.prefix)
            .field("signals", &self.signals)
            .finish()
    }
}

/// A URL as the client understands it.
///
/// # Errors
/// What is wrong with it, and the remedy.
pub fn parse_redis_url(text: &str) -> Result<ConnectionInfo, String> {
    let Some(url) = redis::parse_redis_url(text) else {
        return Err(
            "is no URL of a Redis server; write such as redis://host:6379/0 or unix:///run/redis.sock".to_owned()
        );
    };
    match url.scheme() {
        "redis" | "unix" | "redis+unix" => {}
        "rediss" => {
            let remedy = "is not supported: write redis:// and lead it through a private network, a tunnel or a proxy that does TLS";
            return Err(remedy.to_owned());
        }
        _ => return Err("must begin with redis:// or unix://".to_owned()),
    }
    let known = |name: &str| matches!(name, "db" | "user");
    if let Some((name, _)) = url.query_pairs().find(|(name, _)| !known(name)) {
        let remedy = if name == "pass" { "write it to the file redis.password_file" } else { "remove it" };
        return Err(format!("must not hold the parameter {name}; {remedy}"));
    }
    let info = url.into_connection_info().map_err(|error| format!("is no URL of a Redis server: {error}"))?;
    match info.addr() {
        ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_) => Ok(info),
        _ => Err("must begin with redis:// or unix://".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_redis_url;

    #[test]
    fn a_url_names_a_server_over_tcp_or_a_unix_socket() {
        for good in
            ["redis://127.0.0.1", "redis://u:p@host:6380/3", "unix:///run/redis.sock?db=2", "redis+unix:///r.sock"]
        {
            assert!(parse_redis_url(good).is_ok(), "{good}");
        }
        for bad in
            ["", "localhost:6379", "rediss://host", "http://host", "redis://", "redis://host/x", "unix:///s?pass=p"]
        {
            assert!(parse_redis_url(bad).is_err(), "{bad}");
        }
    }
}
