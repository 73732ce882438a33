//! Signals by name.

use std::fmt;

/// A signal, for a real process or a simulated one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// SIGHUP.
    Hup,
    /// SIGINT, as of Ctrl-C.
    Int,
    /// SIGQUIT.
    Quit,
    /// SIGTERM.
    Term,
    /// SIGKILL, which no process can handle.
    Kill,
    /// SIGSTOP, which no process can handle.
    Stop,
    /// SIGCONT.
    Cont,
}

impl Signal {
    /// Its number on this platform.
    pub const fn number(self) -> i32 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Quit => 3,
            Self::Kill => 9,
            Self::Term => 15,
            // Linux and the BSDs, macOS among them, differ here.
            Self::Stop => {
                if cfg!(any(target_os = "linux", target_os = "android")) {
                    19
                } else {
                    17
                }
            }
            Self::Cont => {
                if cfg!(any(target_os = "linux", target_os = "android")) {
                    18
                } else {
                    19
                }
            }
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Hup => "SIGHUP",
            Self::Int => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Term => "SIGTERM",
            Self::Kill => "SIGKILL",
            Self::Stop => "SIGSTOP",
            Self::Cont => "SIGCONT",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(unix)]
impl From<Signal> for nix::sys::signal::Signal {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Hup => Self::SIGHUP,
            Signal::Int => Self::SIGINT,
            Signal::Quit => Self::SIGQUIT,
            Signal::Term => Self::SIGTERM,
            Signal::Kill => Self::SIGKILL,
            Signal::Stop => Self::SIGSTOP,
            Signal::Cont => Self::SIGCONT,
        }
    }
}
