//! The effective configuration, for people: every value with its origin, secrets redacted.

use serde_json::Value;

use super::{Loaded, Origin};

/// What stands in a secret's place.
const REDACTED: &str = "[redacted]";
/// A key whose last part contains one of these holds a secret.
const SECRET_NAMES: [&str; 5] = ["secret", "password", "passphrase", "token", "key"];

/// One effective value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Such as `server.bind`.
    pub key: String,
    /// Its value, redacted where the key names a secret or the value is an URL with credentials.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}

impl Loaded {
    /// Every effective value, sorted by key. Keys that are absent are left out.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        if let Ok(tree) = serde_json::to_value(&self.config) {
            self.flatten(String::new(), &tree, &mut settings);
        }
        settings
    }

    fn flatten(&self, key: String, value: &Value, settings: &mut Vec<Setting>) {
        match value {
            Value::Null => {}
            Value::Object(object) => {
                for (name, inner) in object {
                    let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                    self.flatten(key, inner, settings);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for (index, inner) in items.iter().enumerate() {
                    self.flatten(format!("{key}[{index}]"), inner, settings);
                }
            }
            leaf => {
                let text = leaf.as_str().map_or_else(|| leaf.to_string(), ToOwned::to_owned);
                settings.push(Setting { value: redact(&key, &text), origin: self.origin(&key), key });
            }
        }
    }
}

/// The value as it may be shown.
pub fn redact(key: &str, value: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or_default().to_lowercase();
    // Where a secret lies is none.
    if !name.ends_with("_file") && SECRET_NAMES.iter().any(|secret| name.contains(secret)) {
        return REDACTED.to_owned();
    }
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_owned() };
    let place = rest.rsplit_once('@').map_or_else(|| rest.to_owned(), |(_, host)| format!("{REDACTED}@{host}"));
    // Of a Unix socket's URL the password is a parameter.
    match place.split_once('?') {
        Some((place, parameters)) if parameters.contains("pass") => format!("{scheme}://{place}?{REDACTED}"),
        _ => format!("{scheme}://{place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn secrets_and_credentials_in_urls_are_redacted_and_nothing_else() {
        assert_eq!(redact("venue.binance.api_secret", "s3cr3t"), "[redacted]");
        assert_eq!(redact("auth.session_Key", "k"), "[redacted]");
        assert_eq!(redact("trading.accounts[0].api_key", "k"), "[redacted]");
        assert_eq!(redact("trading.accounts[0].secret_file", "/etc/hotgo/key"), "/etc/hotgo/key");
        assert_eq!(redact("store.url", "postgres://hotgo:p@ss@db/hotgo"), "postgres://[redacted]@db/hotgo");
        assert_eq!(redact("store.url", "postgres://db/hotgo?password=p"), "postgres://db/hotgo?[redacted]");
        assert_eq!(redact("store.url", "postgres://db/hotgo"), "postgres://db/hotgo");
        assert_eq!(redact("redis.url", "redis://:p@ss@127.0.0.1:6379/0"), "redis://[redacted]@127.0.0.1:6379/0");
        assert_eq!(redact("redis.url", "unix:///run/r.sock?pass=p"), "unix:///run/r.sock?[redacted]");
        assert_eq!(redact("redis.url", "unix:///run/r.sock?db=1"), "unix:///run/r.sock?db=1");
        assert_eq!(redact("server.bind", "127.0.0.1:8000"), "127.0.0.1:8000");
    }
}
