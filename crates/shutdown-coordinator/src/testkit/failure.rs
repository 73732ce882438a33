//! Why a wait failed, in words.

use std::{fmt, io, time::Duration};

/// A wait of the test kit failed.
///
/// `Debug` says the same as `Display`, so that `unwrap` and `?` in a test show it readably.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It did not happen in time.
    #[error("not within {limit:?}: {awaited}\n{seen}")]
    Late {
        /// What was awaited.
        awaited: String,
        /// For how long.
        limit: Duration,
        /// What had happened by then.
        seen: String,
    },
    /// It can no longer happen.
    #[error("it will never happen that {awaited}: {why}\n{seen}")]
    Never {
        /// What was awaited.
        awaited: String,
        /// What rules it out.
        why: String,
        /// What had happened by then.
        seen: String,
    },
    /// The operating system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// Its answer.
        source: io::Error,
    },
}

impl Failure {
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action: action.into(), source }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
