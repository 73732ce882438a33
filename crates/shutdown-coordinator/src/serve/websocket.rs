//! Websockets that a shutdown waits for, and tells to close.

use std::{borrow::Cow, fmt, future::Future, time::Duration};

use axum::{
    extract::ws::{CloseFrame, Message, OnFailedUpgrade, WebSocket, WebSocketUpgrade, close_code},
    response::Response,
};
use tokio::time::{Instant, sleep};
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
    /// When [`Session::closing`] is cancelled, the session should send its last message, [close](Session::close) and
    /// return.
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

/// For a session that is told to close when no phase sets its time.
const GOODBYE: Duration = Duration::from_secs(5);

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
    pub fn force_token(&self) -> CancellationToken {
        self.handle.force_token()
    }

    /// Why the shutdown was started, once it was.
    pub fn reason(&self) -> Option<Reason> {
        self.handle.reason()
    }

    /// While closing: when the session must be over.
    pub fn deadline(&self) -> Option<Instant> {
        self.handle.deadline(self.phase)
    }

    /// Says goodbye: sends a Close frame, with code 1012 (service restart) in an upgrade and 1001 (going away) otherwise,
    /// and waits for the peer's, which completes the handshake ([RFC 6455, 7.1.2]). What the peer still sends is dropped.
    ///
    /// Waits as long as the session may; a peer that does not answer is dropped then, and named.
    ///
    /// [RFC 6455, 7.1.2]: https://www.rfc-editor.org/rfc/rfc6455#section-7.1.2
    pub async fn close(&self, mut socket: WebSocket) {
        let code = if self.reason() == Some(Reason::Upgrade) { close_code::RESTART } else { close_code::AWAY };
        let frame = CloseFrame { code, reason: "the server is shutting down".into() };
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    }

    async fn out_of_time(self) {
        self.closing.cancelled().await;
        match self.handle.shared().running(self.phase) {
            Some(run) => run.abort.cancelled().await,
            // The phase was passed over, or the shutdown aborted: nobody waits, but a goodbye is due all the same.
            None => sleep(GOODBYE).await,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("closing", &self.closing.is_cancelled()).finish_non_exhaustive()
    }
}
