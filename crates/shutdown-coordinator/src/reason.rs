//! Why a shutdown was started.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a shutdown was started or forced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "detail")]
#[non_exhaustive]
pub enum Reason {
    /// A signal, by its number on this platform.
    Signal(i32),
    /// A person or a program asked, in words for the log.
    Manual(String),
    /// A successor takes over.
    Upgrade,
    /// The service cannot go on. However well the shutdown goes, the exit code says that it failed.
    Error(String),
    /// A drill: everything runs, nothing is wrong.
    Rehearsal,
}

impl Reason {
    /// The signal's number, where a signal was the reason.
    pub const fn signal(&self) -> Option<i32> {
        match self {
            Self::Signal(number) => Some(*number),
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(number) => match signal_name(*number) {
                Some(name) => f.write_str(name),
                None => write!(f, "signal {number}"),
            },
            Self::Manual(text) => write!(f, "manual: {text}"),
            Self::Upgrade => f.write_str("upgrade"),
            Self::Error(text) => write!(f, "error: {text}"),
            Self::Rehearsal => f.write_str("rehearsal"),
        }
    }
}

/// The numbers POSIX fixes by their default actions; the same on every Unix that tokio supports.
const fn signal_name(number: i32) -> Option<&'static str> {
    match number {
        1 => Some("SIGHUP"),
        2 => Some("SIGINT"),
        3 => Some("SIGQUIT"),
        15 => Some("SIGTERM"),
        _ => None,
    }
}

/// What a trigger achieved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trigger {
    /// This call started the shutdown.
    Started,
    /// A shutdown was under way already, or over; this is its reason.
    AlreadyRunning(Reason),
    /// The coordinator, or its run, was dropped: there is nobody to run a shutdown.
    Abandoned,
}
