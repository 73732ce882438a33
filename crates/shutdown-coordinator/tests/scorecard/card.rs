//! Peers, marks, and the waits that all scenarios share.

use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;
use shutdown_coordinator::{PhaseId, Reason, ShutdownCoordinator, ShutdownHandle};

/// What happens at all happens within this time, also on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What has not happened after this long does not happen.
pub(crate) const A_WHILE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Ours,
    TokioUtil,
    TokioGraceful,
    TokioGracefulShutdown,
    Drain,
    AsyncShutdown,
    AxumServe,
}

impl Peer {
    const ALL: [Self; 7] = [
        Self::Ours,
        Self::TokioUtil,
        Self::TokioGraceful,
        Self::TokioGracefulShutdown,
        Self::Drain,
        Self::AsyncShutdown,
        Self::AxumServe,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "shutdown-coordinator",
            Self::TokioUtil => "tokio-util",
            Self::TokioGraceful => "tokio-graceful",
            Self::TokioGracefulShutdown => "tokio-graceful-shutdown",
            Self::Drain => "drain",
            Self::AsyncShutdown => "async-shutdown",
            Self::AxumServe => "axum::serve",
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        *Self::ALL.iter().find(|peer| peer.name() == name).unwrap()
    }
}

/// One way in which a shutdown goes wrong.
pub(crate) struct Scenario {
    pub(crate) title: &'static str,
    pub(crate) judge: fn(Peer) -> BoxFuture<'static, Verdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Pass,
    Fail,
    /// The peer does not offer this.
    Absent,
}

impl Mark {
    pub(crate) fn symbol(self) -> char {
        match self {
            Self::Pass => '✓',
            Self::Fail => '✗',
            Self::Absent => '–',
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.symbol().fmt(f)
    }
}

pub(crate) struct Verdict {
    pub(crate) mark: Mark,
    pub(crate) why: &'static str,
}

pub(crate) fn pass(why: &'static str) -> Verdict {
    Verdict { mark: Mark::Pass, why }
}

pub(crate) fn fail(why: &'static str) -> Verdict {
    Verdict { mark: Mark::Fail, why }
}

pub(crate) fn absent(why: &'static str) -> Verdict {
    Verdict { mark: Mark::Absent, why }
}

/// What to do about a result that is not as documented.
pub(crate) fn difference(peer: Peer, scenario: &Scenario, documented: Mark, verdict: &Verdict) -> String {
    let (name, title, why) = (peer.name(), scenario.title, verdict.why);
    match (peer, verdict.mark) {
        (Peer::Ours, _) => format!("WE FAIL: {title:?}: {why}"),
        (_, Mark::Pass) => format!("{name} now passes {title:?}: update the table ({why})"),
        (_, mark) => format!("{name} has {mark} instead of {documented} for {title:?}: update the table ({why})"),
    }
}

/// A coordinator with one phase, and a deadline that no scenario in this process reaches.
pub(crate) fn coordinator() -> (ShutdownCoordinator, ShutdownHandle, PhaseId) {
    let mut builder = ShutdownCoordinator::builder();
    let phase = builder.phase("drain").id();
    let (coordinator, handle) = builder.deadline(Duration::from_mins(1)).build().unwrap();
    (coordinator, handle, phase)
}

pub(crate) fn manual() -> Reason {
    Reason::Manual("scorecard".to_owned())
}

/// Waits for what must happen.
pub(crate) async fn soon<F: Future>(event: F) -> F::Output {
    tokio::time::timeout(PATIENCE, event).await.expect("it should happen soon")
}

/// Whether it happens within a while.
pub(crate) async fn happens<F: Future>(event: F) -> bool {
    tokio::time::timeout(A_WHILE, event).await.is_ok()
}
