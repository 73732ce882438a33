//! What can go wrong, with an exit code for each kind and words for people.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// How a run ends. The numbers never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// An error without a code of its own.
    Unexpected,
    /// The command line is wrong.
    Usage,
    /// `deploy.yaml` is refused.
    Config,
    /// Another run is at work.
    Busy,
    /// Not at this time of the day.
    Window,
    /// The artifact or release is not what was built and signed.
    Artifact,
    /// There is no such release.
    NoRelease,
    /// The release does not fit this host, or this host is not installed. Nothing was changed.
    Preflight,
    /// The release failed before it was committed. It was undone; the one before serves.
    Undone,
    /// The release failed after it was committed. The one before serves again.
    RolledBack,
    /// Somebody has to look at once.
    Broken,
    /// Not enough space.
    Space,
    /// Not enough rights.
    Rights,
    /// The site is not as it should be.
    Unhealthy,
    /// A canary waits for `promote` or `abort`.
    Canary,
    /// systemd cannot be asked.
    Systemd,
    /// A release that one could go back to needs what would be removed. Nothing was changed.
    Needed,
    /// A signal ended the run: 128 + its number. What was not committed was undone.
    Interrupted(u8),
}

impl Exit {
    /// Every code with a number of its own.
    pub const ALL: [Self; 18] = [
        Self::Ok,
        Self::Unexpected,
        Self::Usage,
        Self::Config,
        Self::Busy,
        Self::Window,
        Self::Artifact,
        Self::NoRelease,
        Self::Preflight,
        Self::Undone,
        Self::RolledBack,
        Self::Broken,
        Self::Space,
        Self::Rights,
        Self::Unhealthy,
        Self::Canary,
        Self::Systemd,
        Self::Needed,
    ];

    /// The number that the shell sees.
    pub const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::Busy => 4,
            Self::Window => 5,
            Self::Artifact => 6,
            Self::NoRelease => 7,
            Self::Preflight => 8,
            Self::Undone => 9,
            Self::RolledBack => 10,
            Self::Broken => 11,
            Self::Space => 12,
            Self::Rights => 13,
            Self::Unhealthy => 14,
            Self::Canary => 15,
            Self::Systemd => 16,
            Self::Needed => 17,
            Self::Interrupted(signal) => 128_u8.saturating_add(signal),
        }
    }

    /// What it means, in a few words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Unexpected => "an error without a code of its own",
            Self::Usage => "the command line is wrong",
            Self::Config => "deploy.yaml is refused",
            Self::Busy => "another run is at work; its holder is named",
            Self::Window => "refused at this time: see `windows` in deploy.yaml and --outside-window",
            Self::Artifact => "the artifact or release is not what was built and signed",
            Self::NoRelease => "there is no such release",
            Self::Preflight => {
                "the release does not fit this host, or hotgo is not installed on it; nothing was changed"
            }
            Self::Undone => "the release failed and was undone; the one before serves, undisturbed",
            Self::RolledBack => "the release failed after it was committed; the one before serves again",
            Self::Broken => "failed, and could not be undone: somebody has to look at once",
            Self::Space => "not enough space on the disk; nothing was changed",
            Self::Rights => "not enough rights",
            Self::Unhealthy => "the site is not as it should be; what is wrong was printed",
            Self::Canary => "a canary waits for `promote` or `abort`",
            Self::Systemd => "systemd cannot be asked",
            Self::Needed => "a release that one could go back to needs the old schema; nothing was changed",
            Self::Interrupted(_) => "signal n ended the run; what was not committed was undone",
        }
    }

    /// The table for `--help`.
    pub fn table() -> String {
        let mut text = String::from("Exit codes:\n");
        for code in Self::ALL {
            // Writing to a String cannot fail.
            let _ok = writeln!(text, "  {:>5}  {}", code.number(), code.meaning());
        }
        let _ok = write!(text, "  128+n  {}", Self::Interrupted(0).meaning());
        text
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(code: Exit) -> Self {
        Self::from(code.number())
    }
}

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// `deploy.yaml`.
    #[error("{0}")]
    Config(String),
    /// Somebody else works.
    #[error("another run is at work: {0}")]
    Busy(String),
    /// Not now.
    #[error("{0}")]
    Window(String),
    /// Not what was signed.
    #[error("{0}")]
    Artifact(String),
    /// No such release.
    #[error("{0}")]
    NoRelease(String),
    /// Does not fit.
    #[error("{0}; nothing was changed")]
    Preflight(String),
    /// Failed and undone.
    #[error("{step}: {why}\nundone: {state}")]
    Undone {
        /// Where.
        step: &'static str,
        /// Why.
        why: String,
        /// What serves now.
        state: String,
    },
    /// Failed and rolled back.
    #[error("{step}: {why}\nrolled back: {state}")]
    RolledBack {
        /// Where.
        step: &'static str,
        /// Why.
        why: String,
        /// What serves now.
        state: String,
    },
    /// Failed for good.
    #[error("{0}")]
    Broken(String),
    /// A full disk.
    #[error("{0}")]
    Space(String),
    /// Not allowed.
    #[error("{0}")]
    Rights(String),
    /// Sick.
    #[error("{0}")]
    Unhealthy(String),
    /// Waiting.
    #[error("{0}")]
    Canary(String),
    /// No systemd.
    #[error("{0}")]
    Systemd(String),
    /// Needed by a release.
    #[error("{0}; nothing was changed")]
    Needed(String),
    /// A signal came.
    #[error("{}: {state}", signal.as_str())]
    Interrupted {
        /// Which.
        signal: nix::sys::signal::Signal,
        /// How things stand now.
        state: String,
    },
    /// The other end said no, or nothing in time.
    #[error("{0}")]
    Remote(String),
}

impl Error {
    /// Turns an I/O error into one of ours. `what` names the thing: "cannot read /x".
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Rights(format!("{what}: {source}")),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Space(format!("{what}: {source}")),
            _ => Self::Io { what: format!("{what}: {source}"), source },
        }
    }

    /// As [`Error::io`], for a path.
    pub fn at(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        Self::io(format!("cannot {verb} {}", path.display()))
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Io { .. } | Self::Remote(_) => Exit::Unexpected,
            Self::Usage(_) => Exit::Usage,
            Self::Config(_) => Exit::Config,
            Self::Busy(_) => Exit::Busy,
            Self::Window(_) => Exit::Window,
            Self::Artifact(_) => Exit::Artifact,
            Self::NoRelease(_) => Exit::NoRelease,
            Self::Preflight(_) => Exit::Preflight,
            Self::Undone { .. } => Exit::Undone,
            Self::RolledBack { .. } => Exit::RolledBack,
            Self::Broken(_) => Exit::Broken,
            Self::Space(_) => Exit::Space,
            Self::Rights(_) => Exit::Rights,
            Self::Unhealthy(_) => Exit::Unhealthy,
            Self::Canary(_) => Exit::Canary,
            Self::Systemd(_) => Exit::Systemd,
            Self::Needed(_) => Exit::Needed,
            Self::Interrupted { signal, .. } => Exit::Interrupted(u8::try_from(signal_number(*signal)).unwrap_or(0)),
        }
    }

    /// What to do about it, where that is not in the message.
    pub const fn help(&self) -> Option<&'static str> {
        match self {
            Self::Rights(_) => Some("run it as root: sudo hotgo-deploy ..."),
            Self::NoRelease(_) => Some("`hotgo-deploy list` names the releases here; `release ARTIFACT` brings one"),
            Self::Busy(_) => Some("wait for it, or end it: an upgrade that gets SIGINT or SIGTERM undoes itself"),
            Self::Canary(_) => Some("`hotgo-deploy promote` completes it, `hotgo-deploy abort` undoes it"),
            Self::Window(_) => Some("--outside-window REASON overrides it; the reason is recorded"),
            Self::Needed(_) => Some("`contract --forget` does it all the same, and forgets these releases"),
            Self::Broken(_) => Some("`hotgo-deploy status` and `journalctl -u 'hotgo@*'` show how it stands"),
            _ => None,
        }
    }
}

const fn signal_number(signal: nix::sys::signal::Signal) -> i32 {
    #[expect(clippy::as_conversions, reason = "a C enum's number")]
    let number = signal as i32;
    number
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Exit;

    #[test]
    fn exit_codes_are_distinct_and_below_those_of_signals() {
        let numbers: BTreeSet<u8> = Exit::ALL.map(Exit::number).into();
        assert_eq!(numbers.len(), Exit::ALL.len());
        assert!(numbers.iter().all(|number| *number < 128));
        assert_eq!(Exit::Interrupted(15).number(), 143);
    }
}
