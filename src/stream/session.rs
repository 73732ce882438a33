//! One session: a socket, and a cursor for each account that it follows.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::pin::pin;
use std::sync::Arc;

use axum::extract::ws::{Utf8Bytes, WebSocket};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout, timeout_at};
use trading::event::Recorded;
use trading::ids::{AccountId, Seq};

use super::api::Shared;
use super::hub::{Batch, Next, Subscription};
use super::peer::{End, Heard, Peer};
use super::protocol::{Drain, ErrorCode, Reply, Request, Resume, ResyncReason, close_frame, code, fits_reason};
use super::{MAX_MESSAGE_BYTES, wire};
use crate::auth::{AuthError, Principal};
use crate::store::StoreError;

/// How many batches one round takes from an account's window.
const ROUND_BATCHES: usize = 256;
/// How many events one round takes from the store.
const PAGE_EVENTS: u32 = 256;

#[derive(Debug)]
pub(super) struct Session {
    peer: Peer,
    shared: Arc<Shared>,
    wake: Arc<Notify>,
    follows: BTreeMap<AccountId, Follow>,
    /// Empty between rounds; kept for its memory.
    batches: Vec<Arc<Batch>>,
    notices: watch::Receiver<Option<Utf8Bytes>>,
    last_pong: Instant,
}

/// An account that the session follows.
#[derive(Debug)]
struct Follow {
    subscription: Subscription,
    /// The last event that is in the socket's write buffer or beyond.
    cursor: Seq,
    /// The newest event that the store is known to have.
    stored: Seq,
}

impl Session {
    pub(super) fn new(socket: WebSocket, shared: Arc<Shared>) -> Self {
        let settings = &shared.deps.settings;
        let notices = shared.deps.hub.notices();
        let peer = Peer::new(socket, shared.deps.close.clone(), settings.send_timeout, settings.close_timeout);
        Self {
            peer,
            shared,
            wake: Arc::default(),
            follows: BTreeMap::new(),
            batches: Vec::new(),
            notices,
            last_pong: Instant::now(),
        }
    }

    /// The session's whole life after the upgrade.
    pub(super) async fn run(mut self, principal: Option<Principal>) {
        let open = metrics::gauge!("hotgo_stream_sessions");
        open.increment(1);
        let Err(end) = self.serve(principal).await;
        self.finish(end).await;
        open.decrement(1);
    }

    async fn serve(&mut self, principal: Option<Principal>) -> Result<Infallible, End> {
        let principal = match principal {
            Some(principal) => principal,
            None => self.authenticate().await?,
        };
        tracing::debug!(key = %principal.key_id, "websocket session opened");
        let settings = &self.shared.deps.settings;
        let ping_interval = settings.ping_interval;
        let welcome = Reply::Welcome {
            role: principal.role,
            ping_interval_ms: u64::try_from(ping_interval.as_millis()).unwrap_or(u64::MAX),
            max_message_bytes: MAX_MESSAGE_BYTES,
        };
        self.peer.send(welcome.text()).await?;

        let shared = Arc::clone(&self.shared);
        let wake = Arc::clone(&self.wake);
        let mut closing = pin!(shared.turn_to_close());
        let mut draining = pin!(drain_begun(shared.deps.draining.clone()));
        let mut noticed = false;
        let mut ping = interval_at(Instant::now() + ping_interval, ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.last_pong = Instant::now();
        let mut more = false;
        loop {
            self.tell_notices().await?;
            tokio::select! {
                biased;
                () = &mut closing => return Err(End::Shutdown),
                reason = &mut draining, if !noticed => {
                    noticed = true;
                    self.notice(Some(reason)).await?;
                }
                heard = self.peer.hear() => self.answer(heard?).await?,
                _ = ping.tick() => self.ping(&principal).await?,
                () = wake.notified(), if !more => {}
                () = ready(()), if more => {}
            }
            more = self.deliver().await?;
        }
    }

    /// Waits for a token; nothing else is listened to before. The peer that cannot name one is closed with 1008.
    async fn authenticate(&mut self) -> Result<Principal, End> {
        let refused = |words| Err(End::Close(code::POLICY, words));
        let shared = Arc::clone(&self.shared);
        let asked = async {
            loop {
                let Heard::Text(text) = self.peer.hear().await? else { continue };
                let Ok(Request::Auth { token }) = serde_json::from_str(&text) else {
                    return refused("authenticate first");
                };
                return match shared.deps.auth.authenticate(&token).await {
                    Ok(principal) => Ok(principal),
                    Err(AuthError::Invalid) => refused("the token is not valid"),
                    Err(AuthError::Unavailable(error)) => Err(store_failed(&error)),
                };
            }
        };
        tokio::select! {
            biased;
            () = shared.deps.close.cancelled() => Err(End::Shutdown),
            answered = timeout_at(Instant::now() + shared.deps.settings.auth_timeout, asked) => {
                answered.unwrap_or_else(|_| refused("not authenticated in time"))
            }
        }
    }

    async fn answer(&mut self, heard: Heard) -> Result<(), End> {
        let text = match heard {
            Heard::Text(text) => text,
            Heard::Ping => return Ok(()),
            Heard::Pong => {
                self.last_pong = Instant::now();
                return Ok(());
            }
        };
        let reply = match serde_json::from_str(&text) {
            Ok(Request::Subscribe { account, since_seq }) => self.subscribe(account, since_seq).await?,
            Ok(Request::Unsubscribe { account }) => self.unsubscribe(account),
            Ok(Request::Ping {}) => Reply::Pong.text(),
            Ok(Request::Auth { .. }) => refusal(ErrorCode::BadRequest, "already authenticated", None),
            // The parser's words may repeat what was sent, which may be a misplaced token.
            Err(_) => refusal(ErrorCode::BadRequest, "not a request: see the protocol", None),
        };
        self.peer.send(reply).await
    }

    /// Live first, then the head: whatever is committed after the head was read wakes this session.
    async fn subscribe(&mut self, account: AccountId, since: Option<Seq>) -> Result<Utf8Bytes, End> {
        let deps = &self.shared.deps;
        if since.is_some_and(|since| since.0 < 0) {
            return Ok(refusal(ErrorCode::BadRequest, "since_seq is below 0", Some(account)));
        }
        let accounts = self.shared.read(deps.store.accounts()).await?;
        if !accounts.iter().any(|known| known.id == account) {
            return Ok(refusal(ErrorCode::NotFound, "no such account", Some(account)));
        }
        let subscription = deps.hub.subscribe(account, Arc::clone(&self.wake));
        let stored = self.shared.read(deps.store.head(account)).await?.seq;
        let head_seq = stored.max(subscription.head());
        let cursor = since.unwrap_or(head_seq);
        if cursor > head_seq {
            let left = self.follows.remove(&account);
            drop(left);
            return Ok(resync(account, ResyncReason::Ahead, Some(head_seq), None));
        }
        self.follows.insert(account, Follow { subscription, cursor, stored });
        Ok(Reply::Subscribed { account, from_seq: after(cursor), head_seq }.text())
    }

    fn unsubscribe(&mut self, account: Option<AccountId>) -> Utf8Bytes {
        let accounts: Vec<AccountId> =
            self.follows.keys().copied().filter(|followed| account.is_none_or(|one| one == *followed)).collect();
        self.follows.retain(|followed, _| !accounts.contains(followed));
        Reply::Unsubscribed { accounts }.text()
    }

    /// One round: feeds what waits for the session, and flushes once. Says whether there may be more.
    async fn deliver(&mut self) -> Result<bool, End> {
        let Self { peer, shared, follows, batches, .. } = self;
        let mut more = false;
        let mut sent = 0;
        let mut lost = Vec::new();
        peer.begin_round();
        for (account, follow) in follows.iter_mut() {
            match follow.subscription.next(follow.cursor, batches, ROUND_BATCHES) {
                Next::Nothing if follow.cursor >= follow.stored => {}
                Next::Live => {
                    more |= batches.len() >= ROUND_BATCHES;
                    for batch in batches.drain(..) {
                        for frame in batch.frames_after(follow.cursor) {
                            peer.feed(frame.clone()).await?;
                            follow.cursor = after(follow.cursor);
                            sent += 1;
                        }
                    }
                }
                Next::Nothing | Next::Stored => {
                    let page = shared.read(shared.deps.store.events(*account, follow.cursor, PAGE_EVENTS)).await?;
                    let oldest = page.first().map(|recorded| recorded.seq);
                    if oldest != Some(after(follow.cursor)) {
                        lost.push((*account, ResyncReason::TooOld, oldest));
                        continue;
                    }
                    peer.begin_round();
                    sent += follow.feed_stored(*account, &page, peer).await?;
                    more = true;
                }
                Next::Rewound => lost.push((*account, ResyncReason::Ahead, None)),
            }
        }
        for (account, reason, oldest) in &lost {
            if let Some(follow) = follows.remove(account) {
                let head = follow.stored.max(follow.subscription.head());
                peer.feed(resync(*account, *reason, Some(head), *oldest)).await?;
            }
        }
        if sent > 0 || !lost.is_empty() {
            peer.flush().await?;
            metrics::counter!("hotgo_stream_events_sent_total").increment(sent);
        }
        for follow in follows.values() {
            follow.subscription.handed(follow.cursor);
        }
        Ok(more)
    }

    async fn ping(&mut self, principal: &Principal) -> Result<(), End> {
        if self.last_pong.elapsed() > self.shared.deps.settings.ping_interval.saturating_mul(2) {
            return Err(End::Close(code::POLICY, "no pong"));
        }
        if !self.shared.read(self.shared.deps.auth.is_still_valid(principal)).await? {
            return Err(End::Close(code::POLICY, "the key was revoked"));
        }
        self.peer.ping().await
    }

    /// Tells which notices are current, if that is news.
    async fn tell_notices(&mut self) -> Result<(), End> {
        // An error means that the hub is gone, and with it whoever has news.
        if !self.notices.has_changed().unwrap_or(false) {
            return Ok(());
        }
        let frame = self.notices.borrow_and_update().clone();
        self.peer.send(frame.unwrap_or_else(|| Reply::Notices { items: Vec::new() }.text())).await
    }

    async fn notice(&mut self, reason: Option<Drain>) -> Result<(), End> {
        let resume = self.resume();
        self.peer.send(Reply::Draining { reason, resume: &resume }.text()).await
    }

    fn resume(&self) -> Resume {
        self.follows.iter().map(|(account, follow)| (account.0, follow.cursor.0)).collect()
    }

    async fn finish(mut self, end: End) {
        let deps = self.shared.deps.clone();
        let until = Instant::now() + deps.settings.close_timeout;
        let drain = *deps.draining.borrow();
        let (code, words) = match end {
            End::Gone => return,
            End::ClosedByPeer => return self.peer.close(None, until).await,
            End::Close(code, words) => (code, words),
            End::Slow => {
                metrics::counter!("hotgo_stream_slow_sessions_total").increment(1);
                tracing::info!("a websocket session was too slow and is closed");
                (code::TRY_AGAIN, "too slow")
            }
            End::Shutdown => match drain {
                Some(Drain::Upgrade) => (code::RESTART, "the server restarts"),
                Some(Drain::Stop) | None => (code::GOING_AWAY, "the server goes away"),
            },
        };
        if end == End::Shutdown {
            let last_words = async {
                while self.deliver().await? {}
                if fits_reason(&self.resume()) { Ok(()) } else { self.notice(drain).await }
            };
            match timeout_at(until, last_words).await {
                Ok(Ok(())) => {}
                Ok(Err(End::Gone)) => return,
                Ok(Err(_)) | Err(_) => tracing::info!("a websocket session did not take its last events in time"),
            }
        }
        let frame = close_frame(code, words, &self.resume());
        self.peer.close(Some(frame), until).await;
    }
}

impl Follow {
    /// Feeds stored events as far as they continue the cursor. Says how many.
    async fn feed_stored(&mut self, account: AccountId, page: &[Recorded], peer: &mut Peer) -> Result<u64, End> {
        let mut sent = 0;
        for recorded in page {
            if recorded.seq != after(self.cursor) {
                break;
            }
            peer.feed(wire::event_frame(account, recorded)).await?;
            self.cursor = recorded.seq;
            sent += 1;
        }
        Ok(sent)
    }
}

impl Shared {
    /// Resolves when a session has to end: at once, or some time later if a successor takes over, so that not all come to that
    /// one at the same time.
    async fn turn_to_close(&self) {
        self.deps.close.cancelled().await;
        if *self.deps.draining.borrow() == Some(Drain::Upgrade) {
            sleep(self.deps.settings.close_spread.mul_f64(rand::random())).await;
        }
    }

    /// Reads the store in its turn. The store bounds its own time; the turn has to come within the send timeout.
    async fn read<T>(&self, read: impl Future<Output = Result<T, StoreError>>) -> Result<T, End> {
        let Ok(Ok(_turn)) = timeout(self.deps.settings.send_timeout, self.store_reads.acquire()).await else {
            tracing::warn!("a websocket session ends because too many read the store");
            return Err(End::Close(code::TRY_AGAIN, "the store is busy"));
        };
        read.await.map_err(|error| store_failed(&error))
    }
}

fn after(seq: Seq) -> Seq {
    Seq(seq.0.saturating_add(1))
}

fn refusal(code: ErrorCode, detail: &str, account: Option<AccountId>) -> Utf8Bytes {
    Reply::Error { code, detail, account }.text()
}

fn resync(account: AccountId, reason: ResyncReason, head_seq: Option<Seq>, oldest_seq: Option<Seq>) -> Utf8Bytes {
    Reply::Resync { account, reason, head_seq, oldest_seq }.text()
}

fn store_failed(error: &StoreError) -> End {
    tracing::warn!(%error, "a websocket session ends because the store failed");
    End::Close(code::TRY_AGAIN, "the store did not answer")
}

async fn drain_begun(mut draining: watch::Receiver<Option<Drain>>) -> Drain {
    let begun = draining.wait_for(Option::is_some).await.ok().and_then(|drain| *drain);
    match begun {
        Some(drain) => drain,
        // The sender is gone: there is no shutdown to hear of.
        None => pending().await,
    }
}
