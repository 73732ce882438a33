//! An account's own stream: subscribed over the WebSocket API, kept alive, rotated, and checked for gaps.
//!
//! A connection is replaced before the venue ends it: the new one is subscribed first, and both are read for a moment, so
//! that nothing falls between them. The core sorts out what arrives twice.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use trading::exchange::{OrderReport, StreamEvent};

use super::account::Account;
use super::beliefs::Beliefs;
use super::classify::Failure;
use super::limiter::Class;
use super::outlet::Outlet;
use super::socket::{Backoff, Line, SocketError};
use super::wire::{self, StreamMessage};
use crate::gateway::GatewayError;

/// For how long the old connection is still read after the new one is subscribed.
const OVERLAP: Duration = Duration::from_secs(2);
/// How often a consumer that fell behind is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// When the list that confirms or clears a suspicion follows.
const CONFIRM: Duration = Duration::from_secs(1);
/// How far two gaps that the consumer is told of are apart.
const BETWEEN_GAPS: Duration = Duration::from_secs(1);
/// A connection that lasted this long was a good one: the next attempt need not wait.
const LASTED: Duration = Duration::from_secs(30);

/// Why there is no subscription.
#[derive(Debug, thiserror::Error)]
pub(super) enum SubscribeError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("{0}")]
    Refused(String),
    #[error("no answer in time")]
    Timeout,
}

/// A subscription that somebody wants.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) account: Arc<Account>,
    pub(super) events: mpsc::Sender<StreamEvent>,
    /// Told once the first connection is subscribed, or cannot be.
    pub(super) ready: oneshot::Sender<Result<(), GatewayError>>,
}

/// Why a session ended.
enum End {
    ConsumerGone,
    Lost(SocketError),
    Terminated,
}

impl Subscription {
    /// Follows the stream until nobody reads it any more. Cancel safe: dropping it closes the connection.
    pub(super) async fn follow(self) {
        let Self { account, events, ready } = self;
        let mut outlet = Outlet::new(events);
        let mut line = match account.subscribe().await {
            Ok(line) => line,
            Err(error) => {
                let _gone = ready.send(Err(GatewayError::Unavailable(format!("the account's stream: {error}"))));
                return;
            }
        };
        if ready.send(Ok(())).is_err() {
            return;
        }
        let mut backoff = Backoff::new();
        loop {
            let since = Instant::now();
            let end = Session::new(&account, line, &mut outlet).run().await;
            let reason = match end {
                End::ConsumerGone => return,
                End::Lost(error) => error.to_string(),
                End::Terminated => "the venue ended the subscription".to_owned(),
            };
            outlet.down();
            tracing::warn!(account = %account.label, %reason, "the account's stream is down");
            if since.elapsed() > LASTED {
                backoff = Backoff::new();
            }
            let Some(next) = reconnect(&account, &outlet, &mut backoff).await else { return };
            line = next;
            tracing::info!(account = %account.label, "the account's stream is up again");
        }
    }
}

/// Subscribes again, however long it takes; `None` once nobody reads any more.
async fn reconnect(account: &Account, outlet: &Outlet, backoff: &mut Backoff) -> Option<Line> {
    let trying = async {
        loop {
            sleep(backoff.wait()).await;
            match account.subscribe().await {
                Ok(line) => return line,
                Err(error) => tracing::warn!(account = %account.label, %error, "no stream yet"),
            }
        }
    };
    tokio::select! {
        line = trying => Some(line),
        () = outlet.closed() => None,
    }
}

impl Account {
    /// A connection that is subscribed to this account's events.
    async fn subscribe(&self) -> Result<Line, SubscribeError> {
        let subscribing = async {
            // A ban holds for every door of the venue.
            self.venue
                .rest
                .wait_for_budget(Class::Resolve, 2)
                .await
                .map_err(|busy| SubscribeError::Refused(busy.to_string()))?;
            let mut line = self.venue.dialer.dial(&self.venue.ws_api_url).await?;
            line.send(self.subscription()?).await?;
            loop {
                let text = line.next().await?;
                match wire::stream_message(&text) {
                    Ok(StreamMessage::Answer { status: 200, .. }) => return Ok(line),
                    Ok(StreamMessage::Answer { status, code, message }) => {
                        if code == Some(-1021) {
                            self.venue.rest.clock.doubt();
                        }
                        let error = Failure::Error { status, code, message };
                        return Err(SubscribeError::Refused(error.to_string()));
                    }
                    _ => {}
                }
            }
        };
        timeout(self.venue.window.request_timeout, subscribing).await.unwrap_or(Err(SubscribeError::Timeout))
    }

    /// The request, signed over its parameters in the order of their names.
    fn subscription(&self) -> Result<String, SubscribeError> {
        let clock = &self.venue.rest.clock;
        let unknown = || SubscribeError::Refused("the venue's clock is not known yet".to_owned());
        let timestamp = clock.at_venue(clock.ours()).ok_or_else(unknown)?.millis();
        let recv_window = u64::try_from(self.venue.window.recv_window.as_millis()).unwrap_or(u64::MAX);
        let api_key = self.credentials.api_key();
        let payload = format!("apiKey={api_key}&recvWindow={recv_window}&timestamp={timestamp}");
        let params = json!({
            "apiKey": api_key, "recvWindow": recv_window, "timestamp": timestamp,
            "signature": self.credentials.sign(&payload),
        });
        let id = format!("{:016x}", rand::random::<u64>());
        Ok(json!({ "id": id, "method": "userDataStream.subscribe.signature", "params": params }).to_string())
    }
}

/// One stretch during which the stream is up, over one connection or several that overlap.
///
/// The consumer is told that it is up once the orders that were open at its beginning are known: whatever the consumer finds
/// open from then on, and is never told of again, is missed by the next lists.
struct Session<'a> {
    account: &'a Account,
    outlet: &'a mut Outlet,
    line: Line,
    old: Option<(Line, Instant)>,
    successor: Option<BoxFuture<'a, Result<Line, SubscribeError>>>,
    rotate_at: Instant,
    rotation: Backoff,
    list: Option<BoxFuture<'a, Result<Vec<OrderReport>, GatewayError>>>,
    list_at: Instant,
    beliefs: Beliefs,
    last_gap: Option<Instant>,
    /// When the consumer is told that the stream is up, at the earliest.
    up_at: Option<Instant>,
}

impl<'a> Session<'a> {
    fn new(account: &'a Account, line: Line, outlet: &'a mut Outlet) -> Self {
        let now = Instant::now();
        Self {
            account,
            outlet,
            line,
            old: None,
            successor: None,
            rotate_at: now + account.venue.rotate,
            rotation: Backoff::new(),
            list: None,
            list_at: now,
            beliefs: Beliefs::default(),
            last_gap: None,
            up_at: Some(now),
        }
    }

    async fn run(mut self) -> End {
        loop {
            let old_until = self.old.as_ref().map(|(_, until)| *until);
            tokio::select! {
                () = self.outlet.closed() => return End::ConsumerGone,
                text = self.line.next() => match text {
                    Ok(text) => if let Some(end) = self.heard(&text) { return end },
                    Err(error) => return End::Lost(error),
                },
                text = next_of(&mut self.old) => match text {
                    Ok(text) => if self.old_heard(&text) { self.old = None },
                    Err(_) => self.old = None,
                },
                () = at(old_until) => self.old = None,
                successor = result_of(&mut self.successor) => self.succeed(successor),
                () = sleep_until(self.rotate_at), if self.successor.is_none() => self.rotate(),
                list = result_of(&mut self.list) => self.listed(list.ok().as_deref()),
                () = sleep_until(self.list_at), if self.list.is_none() => {
                    self.list = Some(Box::pin(self.account.open_orders()));
                }
                () = at(self.up_at), if self.beliefs.are_based() => {
                    self.up_at = None;
                    self.outlet.up();
                }
                () = sleep(LOOK), if self.outlet.waits() => self.outlet.settle(),
            }
        }
    }

    /// A message of the connection. `Some` if it is of no more use.
    fn heard(&mut self, text: &str) -> Option<End> {
        match wire::stream_message(text) {
            Ok(StreamMessage::Report { report, last }) => {
                self.account.note_name(&report);
                let jumped = self.beliefs.heard(&report, last);
                self.outlet.report(report);
                // While two connections are read, the other one may have the rest.
                if jumped && self.old.is_none() {
                    self.gap("an order's total jumped");
                }
            }
            Ok(StreamMessage::Terminated) => return Some(End::Terminated),
            Ok(StreamMessage::Shutdown) => self.rotate_at = Instant::now(),
            Ok(StreamMessage::Answer { .. } | StreamMessage::Other) => {}
            Err(error) => self.gap(&error.to_string()),
        }
        None
    }

    /// A message of the connection that is being replaced. Whether that one is of no more use.
    fn old_heard(&mut self, text: &str) -> bool {
        match wire::stream_message(text) {
            Ok(StreamMessage::Report { report, last }) => {
                self.account.note_name(&report);
                let _either_may_be_ahead = self.beliefs.heard(&report, last);
                self.outlet.report(report);
                false
            }
            Ok(StreamMessage::Terminated) => true,
            _ => false,
        }
    }

    fn rotate(&mut self) {
        self.successor = Some(Box::pin(self.account.subscribe()));
    }

    fn succeed(&mut self, successor: Result<Line, SubscribeError>) {
        self.successor = None;
        let now = Instant::now();
        match successor {
            Ok(line) => {
                tracing::info!(account = %self.account.label, "the account's stream moved to a new connection");
                self.old = Some((std::mem::replace(&mut self.line, line), now + OVERLAP));
                self.rotate_at = now + self.account.venue.rotate;
                self.rotation = Backoff::new();
            }
            Err(error) => {
                tracing::warn!(account = %self.account.label, %error, "no new connection for the account's stream yet");
                self.rotate_at = now + self.rotation.wait();
            }
        }
    }

    /// A list that could not be had proves nothing; the next one is due as always.
    fn listed(&mut self, list: Option<&[OrderReport]>) {
        self.list = None;
        let contradiction = list.and_then(|list| self.beliefs.listed(list));
        let reconcile = self.account.venue.reconcile;
        let soon = self.beliefs.suspects() || !self.beliefs.are_based();
        let wait = if soon { CONFIRM.min(reconcile) } else { reconcile };
        self.list_at = Instant::now() + wait;
        if let Some(contradiction) = contradiction {
            self.gap(&format!("the venue's open orders contradict the stream: {contradiction:?}"));
        }
    }

    /// Something was missed: the consumer fetches it, and we start to believe from scratch. Gaps that follow each other are
    /// told once in a while only, since each makes the consumer ask for a lot.
    fn gap(&mut self, reason: &str) {
        tracing::warn!(account = %self.account.label, %reason, "a gap in the account's stream");
        self.beliefs = Beliefs::default();
        self.outlet.down();
        let now = Instant::now();
        let at = self.last_gap.map_or(now, |last| now.max(last + BETWEEN_GAPS));
        (self.last_gap, self.up_at) = (Some(at), Some(at));
        (self.list, self.list_at) = (None, at);
    }
}

/// The result of a job, if there is one. Cancel safe: the job goes on where it was.
async fn result_of<T>(job: &mut Option<BoxFuture<'_, T>>) -> T {
    match job {
        Some(job) => job.await,
        None => pending().await,
    }
}

async fn next_of(line: &mut Option<(Line, Instant)>) -> Result<Utf8Bytes, SocketError> {
    match line {
        Some((line, _)) => line.next().await,
        None => pending().await,
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}
