//! What a command that failed has to say.

use std::error::Error;
use std::fmt;

use venue::ledger::LedgerError;

use super::ExitCode;
use crate::admin::AdminError;
use crate::admin::client::ClientError;
use crate::audit::AuditError;
use crate::boot::BootError;
use crate::config::{ConfigError, StoreFault};
use crate::gateway::paper::PaperError;
use crate::store::StoreError;
use crate::store::copy::CopyError;
use crate::store::sqlite::OpenError;
use crate::telemetry::TelemetryError;

/// A command's failure: the code, what happened, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub code: ExitCode,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Failure {
    /// A failure without advice.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None }
    }

    /// A failure with the whole chain of an error as its message.
    pub fn of(code: ExitCode, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            message.push_str(": ");
            message.push_str(&inner.to_string());
            source = inner.source();
        }
        Self::new(code, message)
    }

    /// The same with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// As one object.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": self.message, "help": self.help, "exit_code": self.code.number() })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let several = self.message.contains('\n');
        let separator = if several { "\n  " } else { " " };
        write!(f, "error:{separator}{}", self.message.replace('\n', "\n  "))?;
        match &self.help {
            Some(help) => write!(f, "\n help: {help}"),
            None => Ok(()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let failure = Self::of(ExitCode::ConfigInvalid, &error);
        match error {
            ConfigError::Invalid(_) => {
                failure.help("`main check` prints every value and where it comes from, once it is accepted")
            }
            ConfigError::Unreadable { .. } | ConfigError::Syntax { .. } => failure,
        }
    }
}

impl From<StoreFault> for Failure {
    fn from(fault: StoreFault) -> Self {
        Self::of(ExitCode::ConfigInvalid, &fault)
    }
}

impl From<TelemetryError> for Failure {
    fn from(error: TelemetryError) -> Self {
        match &error {
            TelemetryError::Filter(_) => Self::of(ExitCode::ConfigInvalid, &error),
            TelemetryError::File { .. } => Self::of(ExitCode::DataDir, &error)
                .help("make log.dir writable for this user, or remove it to log to standard error"),
            TelemetryError::Twice(_) | TelemetryError::Buckets => Self::of(ExitCode::Unexpected, &error),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Unreachable { .. } | ClientError::Timeout(_) | ClientError::Broken(_) => ExitCode::Unreachable,
            ClientError::Refused { .. } | ClientError::Unreadable(_) => ExitCode::Unexpected,
        };
        let failure = Self::of(code, &error);
        match error {
            ClientError::Unreachable { .. } => {
                failure.help("start it with `main http`, or name its data directory with --data-dir or --config")
            }
            _ => failure,
        }
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        let code = match &error {
            AdminError::InUse(_) | AdminError::Bind { .. } => ExitCode::DataDir,
            AdminError::Tcp { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => ExitCode::PortInUse,
            AdminError::Tcp { .. } | AdminError::Serve(_) => ExitCode::Unexpected,
        };
        Self::of(code, &error)
    }
}

impl From<BootError> for Failure {
    fn from(error: BootError) -> Self {
        match error {
            BootError::Admin(error) => return error.into(),
            BootError::Database(error) => return error.into(),
            _ => {}
        }
        let (code, help) = match &error {
            BootError::DataDir { .. } => {
                (ExitCode::DataDir, Some("make it writable for this user, or name another one with --data-dir"))
            }
            BootError::DataDirInUse(_) => {
                (ExitCode::DataDir, Some("stop the other server first, or name another directory with --data-dir"))
            }
            BootError::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                (ExitCode::PortInUse, Some("stop whoever listens there, or choose another address with --bind"))
            }
            BootError::Venue(PaperError::Ledger(LedgerError::Locked(_))) => {
                (ExitCode::DataDir, Some("stop the other venue first, or name another directory with --data-dir"))
            }
            BootError::Venue(_) => {
                (ExitCode::Damaged, Some("the venue's ledger was left as it is; restore a copy of it"))
            }
            BootError::Systemd(_) => (ExitCode::ConfigInvalid, Some("unset the variable to run without systemd")),
            BootError::Bind { .. }
            | BootError::Market(_)
            | BootError::Redis(_)
            | BootError::Setting { .. }
            | BootError::Phases(_) => (ExitCode::ConfigInvalid, None),
            _ => (ExitCode::Unexpected, None),
        };
        let failure = Self::of(code, &error);
        match help {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::of(ExitCode::Unexpected, &error)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let (code, help) = match &error {
            OpenError::NotWritable { .. } => (ExitCode::DataDir, Some("make data_dir writable for this user")),
            OpenError::Locked(_) => (ExitCode::DataDir, Some("another process holds it; wait for it, or stop it")),
            OpenError::InUse { .. } => {
                (ExitCode::DataDir, Some("stop the other server first, or name another database with store.path"))
            }
            OpenError::Full => (ExitCode::DataDir, Some("free some space; nothing was lost")),
            OpenError::Damaged { .. } => {
                (ExitCode::Damaged, Some("keep the file, restore the last backup, and run `main audit` before trading"))
            }
            OpenError::TooNew { .. } => (ExitCode::Schema, Some("run the newer release; a schema is never moved back")),
            OpenError::NeedsMigration { .. } => (ExitCode::Schema, Some("run `main migrate up`")),
            OpenError::NeedsContract { .. } => {
                (ExitCode::Schema, Some("run `main migrate contract`, then `main migrate up`"))
            }
            OpenError::OtherBuild { remaining, .. } => {
                let help = format!(
                    "upgrade or stop it first; one that died counts as alive for another {} s",
                    remaining.as_secs().saturating_add(1)
                );
                return Self::of(ExitCode::DataDir, &error).help(help);
            }
            OpenError::Altered { .. } => {
                (ExitCode::Schema, Some("use a release that was built from the same migrations"))
            }
            OpenError::Unreachable { .. } => {
                (ExitCode::Unreachable, Some("start the database server, or correct store.url and store.password_file"))
            }
            // Its words say what to do.
            OpenError::Unsuitable { .. } => (ExitCode::DataDir, None),
            OpenError::Database(_) => (ExitCode::Unexpected, None),
        };
        let failure = Self::of(code, &error);
        match help {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        let error = match error {
            CopyError::Open(error) if !matches!(error, OpenError::InUse { .. }) => return error.into(),
            other => other,
        };
        let (code, help) = match &error {
            CopyError::Open(_) => (
                ExitCode::DataDir,
                "stop the server that uses it (its shutdown commits everything), then run this again",
            ),
            CopyError::Missing(_) => (ExitCode::DataDir, "name the file: --from sqlite:<data-dir>/hotgo.db"),
            CopyError::NotEmpty { .. } => {
                (ExitCode::NotEmpty, "make another database with CREATE DATABASE, and name that one with --to")
            }
            CopyError::Schema { .. } => {
                (ExitCode::Schema, "run `main migrate up` on the source, with the same release, then run this again")
            }
            CopyError::Value { .. } => {
                (ExitCode::Damaged, "nothing was written; keep the file, and run `main check` on it")
            }
            CopyError::Differs { .. } => {
                (ExitCode::AuditFindings, "nothing was written; keep the file, and run this again")
            }
            CopyError::Source(_) | CopyError::Target(_) => {
                (ExitCode::Unexpected, "nothing was written; run this again")
            }
            CopyError::Unknown(_) => {
                (ExitCode::Unexpected, "run this again: if it says that the target is not empty, all of it is there")
            }
        };
        Self::of(code, &error).help(help)
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        let code = match &error {
            AuditError::Ledger(LedgerError::Damaged { .. } | LedgerError::Contradiction { .. })
            | AuditError::Database(StoreError::Corrupt(_)) => ExitCode::Damaged,
            AuditError::Missing { .. } | AuditError::Ledger(_) => ExitCode::DataDir,
            AuditError::Answered { .. } => ExitCode::Usage,
            AuditError::Database(_) | AuditError::Failed(_) => ExitCode::Unexpected,
        };
        // Its messages name their sources already.
        let failure = Self::new(code, error.to_string());
        match error {
            AuditError::Missing { .. } => failure.help("name the data directory with --data-dir or --config"),
            _ => failure,
        }
    }
}
