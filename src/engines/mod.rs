//! The engine registry: one engine per account, driven by a task of its own.

mod driver;
mod registry;
mod session;

use std::sync::Arc;
use std::time::Duration;

pub use driver::{Driver, Farewell, Ports};
pub use registry::{EngineRegistry, Stage};

use tokio::time::Instant;
use trading::command::{Command, Record};
use trading::ids::{AccountId, ClientOrderId, Epoch};

/// Why a command was not decided upon. Nothing was stored, and the same command may be sent again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// No such account here.
    #[error("no such account")]
    UnknownAccount,
    /// The account's queue is full.
    #[error("the account's queue is full")]
    Busy,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// Another instance trades the account, or nobody does yet.
    #[error("the account is traded by {}", owner.as_deref().unwrap_or("nobody at the moment"))]
    NotHere {
        /// Which instance: the owner of its lease, or who is about to be.
        owner: Option<Arc<str>>,
    },
    /// The engine is still recovering, or was just fenced and recovers again.
    #[error("the account is not ready")]
    NotReady,
    /// The store did not confirm. The command may or may not have been decided: sending it again is safe.
    #[error("the store did not confirm the command")]
    Unconfirmed,
}

/// Whose an account is, as a driver is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// Its own: take it, and trade.
    Run(TakeOver),
    /// Another's.
    Standby {
        /// Who has it.
        owner: Option<Arc<str>>,
        /// Who should have it.
        heir: Option<Arc<str>>,
    },
    /// Its own, but another should have it: finish what is on the wire, then hand it over.
    HandOver {
        /// To whom.
        to: Arc<str>,
    },
}

impl Duty {
    /// Whether it asks for the same. How an account came to be free is told once.
    fn is_like(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Run(_), Self::Run(_))) || self == other
    }
}

/// How an account came to be there for the taking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeOver {
    /// Nobody had it.
    First,
    /// Its owner handed it over, or gave it up; since when nobody trades it, as far as is known.
    Planned {
        /// By this process's clock.
        since: Instant,
    },
    /// Its owner was not heard of in time.
    Forced,
}

/// How an engine stands, for health, status and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineStatus {
    /// The account.
    pub account: AccountId,
    /// What people call it.
    pub label: String,
    /// Whether it trades: recovered, and its lease held.
    pub ready: bool,
    /// What it is doing, in words: `starting`, `recovering`, `running`, `draining`, `stopped`, `quarantined`;
    /// `handing over`, `standby` where another instance has it, `unowned` where nobody can trade it.
    pub state: &'static str,
    /// Why it is quarantined, or cannot be traded here.
    pub reason: Option<String>,
    /// Which instance has it, or is about to.
    pub owner: Option<Arc<str>>,
    /// The lease epoch.
    pub epoch: Option<Epoch>,
    /// When the lease was last taken or renewed; nothing while the account is another's.
    pub lease_at: Option<Instant>,
    /// Robots by run state that trade.
    pub robots_running: usize,
    /// Orders that have not ended.
    pub live_orders: usize,
    /// Orders whose outcome is not known, with their age: what holds up a drain.
    pub unresolved: Vec<(ClientOrderId, Duration)>,
    /// Commands waiting.
    pub queued: usize,
    /// It was another instance's, and has not been ready here since: commands wait for it in the inbox.
    pub awaited: bool,
}

impl EngineStatus {
    /// Whether the account is traded: here, or by another instance that has it or is about to.
    pub fn is_well(&self) -> bool {
        self.ready || matches!(self.state, STANDBY | HANDING_OVER)
    }

    /// Whether commands are another instance's to decide.
    fn is_elsewhere(&self) -> bool {
        self.awaited || matches!(self.state, STANDBY | HANDING_OVER | UNOWNED)
    }
}

const STANDBY: &str = "standby";
const HANDING_OVER: &str = "handing over";
const UNOWNED: &str = "unowned";

/// What HTTP and the other features may ask of the engines.
#[async_trait::async_trait]
pub trait Engines: Send + Sync + std::fmt::Debug {
    /// Hands a command to the account's engine and waits until its outcome is durable (bounded to a few seconds).
    ///
    /// Cancel safety: a command whose caller goes away is decided all the same; asking again gives the same answer.
    async fn submit(&self, account: AccountId, command: Command) -> Result<Record, SubmitError>;
    /// How every engine stands.
    fn status(&self) -> Vec<EngineStatus>;
}
