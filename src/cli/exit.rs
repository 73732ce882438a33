//! Exit codes: distinct, documented in `--help`, and never changed in meaning.

use std::fmt::Write as _;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// All is well.
    Ok,
    /// An error without a code of its own.
    Unexpected,
    /// The command line is wrong.
    Usage,
    /// The configuration is refused.
    ConfigInvalid,
    /// The data directory cannot be used: not writable, no space, or locked by a living process.
    DataDir,
    /// The database or the venue's ledger is damaged. It was left as it is.
    Damaged,
    /// The schema is newer than this binary accepts, or needs a migration first.
    Schema,
    /// Somebody listens on the address already.
    PortInUse,
    /// The audit found orders that were lost or doubled, or other contradictions.
    AuditFindings,
    /// The database to copy into holds something already. Nothing was written.
    NotEmpty,
    /// The shutdown was not clean: orders left unknown, hooks late or failed.
    Unclean,
    /// No server answers on the private socket, or the database's server does not answer.
    Unreachable,
    /// The watchdog ended a process that had not ended itself by its deadline.
    Watchdog,
    /// A second signal, this one, cut the shutdown short: 128 + its number.
    Forced(u8),
}

impl ExitCode {
    /// Every code with a number of its own.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Unexpected,
        Self::Usage,
        Self::ConfigInvalid,
        Self::DataDir,
        Self::Damaged,
        Self::Schema,
        Self::PortInUse,
        Self::AuditFindings,
        Self::NotEmpty,
        Self::Unclean,
        Self::Unreachable,
        Self::Watchdog,
    ];

    /// The number that the shell sees.
    pub const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::ConfigInvalid => 3,
            Self::DataDir => 4,
            Self::Damaged => 5,
            Self::Schema => 6,
            Self::PortInUse => 7,
            Self::AuditFindings => 8,
            Self::NotEmpty => 9,
            Self::Unclean => shutdown_coordinator::EXIT_UNCLEAN,
            Self::Unreachable => 10,
            Self::Watchdog => shutdown_coordinator::EXIT_WATCHDOG,
            Self::Forced(signal) => 128_u8.saturating_add(signal),
        }
    }

    /// What it means, in a few words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "all is well",
            Self::Unexpected => "an error without a code of its own",
            Self::Usage => "the command line is wrong",
            Self::ConfigInvalid => "the configuration is refused",
            Self::DataDir => "the data directory is not writable, full, or locked by a living process",
            Self::Damaged => "the database or the venue's ledger is damaged; it was left as it is",
            Self::Schema => "the schema is newer than this binary accepts, or needs `migrate up` first",
            Self::PortInUse => "somebody listens on the address already",
            Self::AuditFindings => "the audit found lost or doubled orders, or other contradictions",
            Self::NotEmpty => "the database to copy into is not empty; nothing was written",
            Self::Unclean => "shut down uncleanly: orders left unknown, hooks late or failed; they are in the log",
            Self::Unreachable => "no server answers on the private socket, or the database's server does not",
            Self::Watchdog => "the watchdog ended a process that had not ended by its deadline",
            Self::Forced(_) => "a second signal n cut the shutdown short",
        }
    }

    /// The table for `--help` and the documentation.
    pub fn table() -> String {
        let mut text = String::from("Exit codes:\n");
        for code in Self::ALL {
            // Writing to a String cannot fail.
            let _ok = writeln!(text, "  {:>5}  {}", code.number(), code.meaning());
        }
        let _ok = write!(text, "  128+n  {}", Self::Forced(0).meaning());
        text
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ExitCode;

    #[test]
    fn numbers_are_distinct_and_below_those_of_signals() {
        let numbers: BTreeSet<u8> = ExitCode::ALL.map(ExitCode::number).into();
        assert_eq!(numbers.len(), ExitCode::ALL.len());
        assert!(numbers.iter().all(|number| *number < 128));
        assert_eq!(ExitCode::Forced(15).number(), 143);
    }
}
