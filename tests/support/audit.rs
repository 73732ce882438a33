//! `main audit`: the independent checker.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::within;

/// What the checker said.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) code: i32,
    pub(crate) json: Value,
    pub(crate) text: String,
}

impl Verdict {
    /// Whether nothing was found.
    pub(crate) fn is_clean(&self) -> bool {
        self.code == 0
    }

    /// Fails the test unless nothing is lost and nothing doubled.
    pub(crate) fn assert_clean(&self, context: &str) {
        let count = |name: &str| self.json.get(name).and_then(Value::as_u64);
        assert!(
            self.code == 0 && count("lost") == Some(0) && count("doubled") == Some(0),
            "{context}: the audit (exit {}) found:\n{}",
            self.code,
            self.text
        );
    }
}

/// Audits a data directory, waiting up to `settle` for things to get quiet. The ledger of a venue that is a process of its own
/// is somewhere else.
pub(crate) async fn audit(
    data_dir: &Path,
    settings: impl Iterator<Item = &(String, String)>,
    ledger: Option<&Path>,
    answered: Option<&Path>,
    settle: Duration,
) -> Verdict {
    let mut command = Command::new(env!("CARGO_BIN_EXE_main"));
    command.args(["audit", "--json", "--settle", &settle.as_secs().to_string(), "--data-dir"]).arg(data_dir);
    command.envs(settings.map(|(name, value)| (name, value)));
    if let Some(path) = ledger {
        command.arg("--venue-ledger").arg(path);
    }
    if let Some(path) = answered {
        command.arg("--answered").arg(path);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = within(settle + Duration::from_secs(20), "main audit ends", command.output()).await.unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    Verdict {
        code: output.status.code().unwrap_or(-1),
        json: serde_json::from_str(&stdout).unwrap_or(Value::Null),
        text: format!("{stdout}\n{stderr}"),
    }
}
