//! `deploy.yaml`. Every key has a default; a key that nobody knows is refused.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::error::Error;
use crate::windows::Windows;

/// The file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The protocol's limits.
    #[serde(deserialize_with = "or_default")]
    pub upgrade: UpgradeConfig,
    /// Which releases stay.
    #[serde(deserialize_with = "or_default")]
    pub releases: ReleasesConfig,
    /// When to deploy.
    #[serde(deserialize_with = "or_default")]
    pub windows: Windows,
    /// What is worth an alert.
    #[serde(deserialize_with = "or_default")]
    pub monitor: MonitorConfig,
    /// Whom to tell.
    #[serde(deserialize_with = "or_default")]
    pub notify: NotifyConfig,
    /// The servers of `rolling`, in their order.
    #[serde(deserialize_with = "or_default")]
    pub servers: Vec<ServerConfig>,
}

/// A section of which every line is a comment says nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Limits of the upgrade.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpgradeConfig {
    /// From the start of a slot to READY.
    pub start_timeout_s: u64,
    /// `main check` and one answer of a self-test.
    pub check_timeout_s: u64,
    /// `main migrate up`.
    pub migrate_timeout_s: u64,
    /// First probation: the candidate gets no traffic.
    pub probation_s: u64,
    /// Second probation: the candidate gets its share.
    pub traffic_probation_s: u64,
    /// How many more of a hundred requests may fail at the candidate than at the serving slot.
    pub max_error_percent: u64,
    /// How many times slower than the serving slot the candidate may be.
    pub max_latency_ratio: u64,
    /// Until the candidate has every account.
    pub hand_over_timeout_s: u64,
    /// Until the old slot has drained. More than `TimeoutStopSec` of the slots.
    pub drain_timeout_s: u64,
    /// How long the release must stay healthy after the commit, before it is known to be good.
    pub min_healthy_s: u64,
    /// How long it may be unhealthy meanwhile.
    pub max_unhealthy_s: u64,
}

impl Default for UpgradeConfig {
    fn default() -> Self {
        Self {
            start_timeout_s: 100,
            check_timeout_s: 30,
            migrate_timeout_s: 300,
            probation_s: 3,
            traffic_probation_s: 10,
            max_error_percent: 1,
            max_latency_ratio: 5,
            hand_over_timeout_s: 60,
            drain_timeout_s: 60,
            min_healthy_s: 30,
            max_unhealthy_s: 5,
        }
    }
}

/// Which releases stay.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReleasesConfig {
    /// How many.
    pub keep: usize,
    /// What stays free on the disk after unpacking.
    pub min_free_mb: u64,
}

impl Default for ReleasesConfig {
    fn default() -> Self {
        Self { keep: 10, min_free_mb: 512 }
    }
}

/// What is worth an alert. A limit of 0 switches its check off.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitorConfig {
    /// More is too much, twice in a row.
    pub cpu_percent: u64,
    /// More is too much, twice in a row.
    pub memory_percent: u64,
    /// More is too much.
    pub disk_percent: u64,
    /// An order whose outcome is unknown for longer.
    pub unknown_order_s: u64,
    /// A lease that was not renewed for longer.
    pub lease_age_s: u64,
    /// An event that waits for its delivery for longer.
    pub event_lag_s: u64,
    /// Fewer robots than this.
    pub min_robots: u64,
    /// An alert that stays is told again after this.
    pub repeat_s: u64,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self {
            cpu_percent: 90,
            memory_percent: 85,
            disk_percent: 90,
            unknown_order_s: 60,
            lease_age_s: 10,
            event_lag_s: 10,
            min_robots: 0,
            repeat_s: 3_600,
        }
    }
}

/// Whom to tell.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifyConfig {
    /// Addresses for mail.
    pub mail: Vec<String>,
    /// The command that takes a mail on its standard input.
    pub sendmail: String,
    /// Gets every message as JSON, by POST.
    pub webhook: Option<String>,
    /// How users are called in notices.
    pub users_mail: Vec<String>,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self { mail: Vec::new(), sendmail: "/usr/sbin/sendmail".to_owned(), webhook: None, users_mail: Vec::new() }
    }
}

/// One server behind the load balancer. Commands are for the shell.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// What people call it.
    pub name: String,
    /// Takes it out of the load balancer, and returns when no new request goes there.
    pub out: String,
    /// Puts it back.
    #[serde(rename = "in")]
    pub put_in: String,
    /// Runs this tool there: `ssh root@a hotgo-deploy`. The arguments follow.
    pub run: String,
    /// Takes an artifact there, before everything else; `$1` is the file, `$1.sig` its signature. What it prints is the
    /// artifact's path there; without output the path is the same.
    pub copy: Option<String>,
}

impl Config {
    /// Reads the file; one that is missing says nothing.
    ///
    /// # Errors
    /// [`Error::Config`] names file and key.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let wrong = |error: config::ConfigError| Error::Config(format!("{}: {error}", path.display()));
        let source = config::File::from(path.to_owned()).format(config::FileFormat::Yaml).required(false);
        let config: Self =
            config::Config::builder().add_source(source).build().map_err(wrong)?.try_deserialize().map_err(wrong)?;
        let upgrade = &config.upgrade;
        for (key, value) in [
            ("start_timeout_s", upgrade.start_timeout_s),
            ("check_timeout_s", upgrade.check_timeout_s),
            ("migrate_timeout_s", upgrade.migrate_timeout_s),
            ("hand_over_timeout_s", upgrade.hand_over_timeout_s),
            ("drain_timeout_s", upgrade.drain_timeout_s),
        ] {
            if !(1..=3_600).contains(&value) {
                return Err(Error::Config(format!("{}: upgrade.{key} is {value}: 1 to 3600", path.display())));
            }
        }
        Ok(config)
    }
}

/// Seconds as they stand in the file.
pub const fn seconds(value: u64) -> Duration {
    Duration::from_secs(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skeleton_that_install_writes_is_accepted_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deploy.yaml");
        std::fs::write(&path, crate::install::DEPLOY_YAML).unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn a_key_that_nobody_knows_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deploy.yaml");
        for (text, named) in [
            ("upgrade:\n  min_helthy_s: 3\n", "min_helthy_s"),
            ("upgrade:\n  drain_timeout_s: 0\n", "drain_timeout_s"),
            ("windows:\n  forbidden: [\"noon\"]\n", "noon"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Config::load(&path).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
        assert!(Config::load(&dir.path().join("none.yaml")).is_ok());
    }
}
