//! Websockets that a shutdown waits for, and tells to close.

use std::{borrow::Cow, fmt, future::Future};

use axum::{
    extract::ws::{OnFailedUpgrade, WebSocket, WebSocketUpgrade},
    response::Response,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Closed, Gate, PhaseId, Reason, ShutdownHandle};

/// The websockets that are told to close when their phase starts, and waited for.
///
/// Each has a guard from before its upgrade until its session is over, so none slips through between the two. A session
/// that is not over when the phase's time is, is dropped with its socket, and named in the report.
#[derive(Clone, Debug)]
pub struct Sessions {
    handle: ShutdownHandle,
    phase: PhaseId,
    gate: Gate,
    admission: Option<Gate>,
}

impl Sessions {
    /// Websockets that end in `phase`.
    pub fn new(handle: &ShutdownHandle, phase: PhaseId, name: impl Into<Cow<'static, str>>) -> Self {
        Self { handle: handle.clone(), phase, gate: handle.gate(phase, name), admission: None }
    }

    /// Refuses new websockets from the start of an earlier phase on, while those that are open go on.
    #[must_use]
    pub fn refuse_from(mut self, phase: PhaseId) -> Self {
        let name = format!("new {}", self.gate.name());
        self.admission = Some(self.handle.gate(phase, name));
        self
    }

    /// Whether new websockets are refused.
    pub fn is_closed(&self) -> bool {
        self.gate.is_closed() || self.admission.as_ref().is_some_and(Gate::is_closed)
    }

    /// How many sessions there are, those in their upgrade included.
    pub fn open(&self) -> usize {
        self.gate.held()
    }

    /// Upgrades, then runs `session` with the socket. `name` is for the report.
    ///
    /// When [`Session::closing`] is cancelled, the session should send its last message and a Close frame, wait for the
    /// peer's Close, and return.
    pub fn on_upgrade<U, F, Fut>(
        &self,
        upgrade: WebSocketUpgrade<U>,
        name: impl Into<Cow<'static, str>>,
        session: F,
    ) -> Result<Response, Closed>
    where
        U: OnFailedUpgrade,
        F: FnOnce(WebSocket, Session) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        // Held until the guard of the session is, so that the phase of admission covers the moment in between.
        let admitted = self.admission.as_ref().map(Gate::enter).transpose()?;
        let guard = self.gate.enter_named(name)?;
        drop(admitted);
        let cx = Session { handle: self.handle.clone(), phase: self.phase, closing: self.handle.token(self.phase) };
        Ok(upgrade.on_upgrade(move |socket| async move {
            let _guard = guard;
            let end = cx.clone();
            tokio::select! {
                () = session(socket, cx) => {}
                () = end.out_of_time() => {}
            }
        }))
    }
}

/// What a websocket session knows about the shutdown.
#[derive(Clone)]
pub struct Session {
    handle: ShutdownHandle,
    phase: PhaseId,
    closing: CancellationToken,
}

impl Session {
    /// Cancelled when it is time to say goodbye.
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Cancelled when the shutdown is forced.
    pub fn force(&self) -> CancellationToken {
        self.handle.force_token()
    }

    /// Why the shutdown was started, once it was.
    pub fn reason(&self) -> Option<Reason> {
        self.handle.reason()
    }

    /// While closing: when the session must be over.
    pub fn deadline(&self) -> Option<Instant> {
        self.handle.shared().running(self.phase).map(|run| run.deadline())
    }

    async fn out_of_time(self) {
        self.closing.cancelled().await;
        if let Some(run) = self.handle.shared().running(self.phase) {
            run.abort.cancelled().await;
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("closing", &self.closing.is_cancelled()).finish_non_exhaustive()
    }
}
