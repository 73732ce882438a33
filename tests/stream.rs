//! The websocket stream, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::large_futures,
    clippy::as_conversions,
    clippy::similar_names,
    let_underscore_drop,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "tests"
)]

mod stream_support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::SinkExt;
use hotgo::auth::Authenticator;
use hotgo::clock::Clock;
use hotgo::notice::Notices;
use hotgo::store::sqlite::{OpenOptions, SqliteStore};
use hotgo::store::{Commit, Notice, Role, Severity, Store};
use hotgo::stream::{Drain, MAX_MESSAGE_BYTES};
use serde_json::json;
use stream_support::{Client, PATIENCE, Said, Server, alarms, settings};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use trading::time::Timestamp;

/// Small, seeded, good enough to shuffle a test.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn refusal(result: Result<Client, Error>) -> (u16, Option<String>, serde_json::Value) {
    match result {
        Err(Error::Http(response)) => {
            let retry = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
            let body = response.body().as_deref().unwrap_or_default();
            (response.status().as_u16(), retry, serde_json::from_slice(body).unwrap_or_default())
        }
        Err(error) => panic!("expected a refusal, got {error}"),
        Ok(_) => panic!("expected a refusal, got a session"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reconnects_at_any_moment_sees_every_event_once() {
    const EVENTS: i64 = 400;
    for seed in 1..=25 {
        let server = Arc::new(Server::start(settings(), 8).await);
        server.open_account(1);
        server.open_account(2);
        let mut tasks = JoinSet::new();
        for account in [1, 2] {
            let server = Arc::clone(&server);
            tasks.spawn(async move {
                let mut dice = Dice(seed * 7919 + u64::try_from(account).unwrap());
                while server.commit(account, usize::try_from(dice.roll(5)).unwrap(), "x") < EVENTS {
                    for _ in 0..dice.roll(30) {
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
        for reader in 0..4 {
            let server = Arc::clone(&server);
            tasks.spawn(async move { read_with_reconnects(&server, Dice(seed * 104_729 + reader), EVENTS).await });
        }
        while let Some(done) = timeout(PATIENCE, tasks.join_next()).await.expect("stuck") {
            done.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seam_between_the_database_and_what_is_live_neither_gaps_nor_doubles() {
    const EVENTS: i64 = 300;
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = SqliteStore::open(&dir.path().join("hotgo.db"), OpenOptions::default()).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(writer.run());
    let server = Arc::new(Server::start_over(Arc::new(store), settings(), 8).await);
    let owner: Arc<str> = "test".into();
    for account in [1, 2] {
        let made = server.store.ensure_account("paper", &account.to_string()).await.unwrap();
        assert_eq!(made.id.0, account);
        let lease = server.store.acquire_lease(made.id, &owner, PATIENCE, false).await.unwrap();
        let server = Arc::clone(&server);
        tasks.spawn(async move {
            let mut dice = Dice(u64::try_from(account).unwrap());
            let mut head = 0;
            while head < EVENTS {
                let events = alarms(head, usize::try_from(dice.roll(4) + 1).unwrap(), "x");
                head += i64::try_from(events.len()).unwrap();
                let commit = Commit { lease: lease.clone(), events: Arc::clone(&events) };
                server.store.commit(commit).await.unwrap();
                server.hub.publish(lease.account, events);
            }
        });
    }
    for reader in 1..=6 {
        let server = Arc::clone(&server);
        tasks.spawn(async move { read_with_reconnects(&server, Dice(reader * 7919), EVENTS).await });
    }
    // All but the writer.
    for _ in 0..8 {
        timeout(PATIENCE, tasks.join_next()).await.expect("stuck").unwrap().unwrap();
    }
    server.store.close().await;
    timeout(PATIENCE, tasks.join_next()).await.expect("the writer did not end").unwrap().unwrap();
}

/// Follows accounts 1 and 2 over as many connections as the dice say, until each reached `until`.
async fn read_with_reconnects<S: Store + 'static>(server: &Server<S>, mut dice: Dice, until: i64) {
    let mut last = BTreeMap::from([(1, 0), (2, 0)]);
    while last.values().any(|seq| *seq < until) {
        let mut client = server.log_in().await;
        // Events that come before the answer to a new subscription belong to the one before it.
        let mut followed = BTreeMap::from([(1, false), (2, false)]);
        for (account, since) in &last {
            client.subscribe(*account, Some(*since)).await;
        }
        for _ in 0..dice.roll(150) {
            if last.values().all(|seq| *seq >= until) {
                break;
            }
            let said = client.json().await;
            let account = said["account"].as_i64().unwrap();
            match said["op"].as_str().unwrap() {
                "subscribed" => {
                    assert_eq!(said["from_seq"], last[&account] + 1);
                    followed.insert(account, true);
                }
                "event" if followed[&account] => {
                    assert_eq!(said["seq"], last[&account] + 1, "gap or double");
                    last.insert(account, last[&account] + 1);
                }
                "event" => {}
                other => panic!("unexpected {other}: {said}"),
            }
            if dice.roll(40) == 0 && followed[&account] {
                followed.insert(account, false);
                client.subscribe(account, Some(last[&account])).await;
            }
        }
        if dice.roll(2) == 0 {
            client.ws.close(None).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_is_dropped_while_others_go_on_and_resumes_completely() {
    const EVENTS: i64 = 800;
    let server = Server::start(
        hotgo::stream::Settings {
            send_timeout: Duration::from_millis(300),
            close_timeout: Duration::from_millis(300),
            ..settings()
        },
        16,
    )
    .await;
    let text = "x".repeat(32 * 1024);
    server.open_account(1);
    let mut stopped = server.follow(1, Some(0)).await;
    let mut healthy = server.follow(1, Some(0)).await;
    let mut last = 0;
    while last < EVENTS {
        let head = server.commit(1, 10, &text);
        healthy.events(1, last, head).await;
        last = head;
    }
    healthy.ws.close(None).await.unwrap();
    server.guards.none_held().await;

    let mut seen = 0;
    loop {
        match stopped.hear().await {
            Said::Json(said) => {
                assert_eq!(said["seq"], seen + 1);
                seen += 1;
            }
            Said::Close(code, reason) => {
                assert_eq!((code, reason), (1013, format!(r#"{{"resume":{{"1":{seen}}}}}"#)));
            }
            Said::Gone => break,
        }
    }
    assert!(seen < EVENTS, "the reader was not slow: the test says nothing");
    let mut resumed = server.follow(1, Some(seen)).await;
    resumed.events(1, seen, EVENTS).await;
}

#[tokio::test]
async fn who_does_not_authenticate_in_time_is_closed_with_1008() {
    let server =
        Server::start(hotgo::stream::Settings { auth_timeout: Duration::from_millis(50), ..settings() }, 16).await;
    for query in [String::new(), format!("?token={}", server.token)] {
        let mut client = server.connect_with(&[], &query).await.unwrap();
        assert_eq!(client.close_frame().await, (1008, "not authenticated in time".to_owned()));
    }
    server.guards.none_held().await;
}

#[tokio::test]
async fn nothing_is_served_before_a_good_token() {
    let server = Server::start(settings(), 16).await;
    server.open_account(1);
    for first in [
        json!({"op": "auth", "token": "hg_wrong"}),
        json!({"op": "auth", "token": server.token, "more": 1}),
        json!({"op": "subscribe", "account": 1}),
        json!("nonsense"),
    ] {
        let mut client = server.connect().await;
        client.say(first).await;
        assert_eq!(client.close_frame().await.0, 1008);
    }
    let bad = [("authorization", "Bearer hg_wrong")];
    assert_eq!(refusal(server.connect_with(&bad, "").await).0, 401);
    let bearer = format!("Bearer {}", server.token);
    let mut client = server.connect_with(&[("authorization", &bearer)], "").await.unwrap();
    let welcome = client.json().await;
    assert_eq!((&welcome["op"], &welcome["role"]), (&json!("welcome"), &json!("viewer")));
}

#[tokio::test]
async fn a_message_that_is_too_large_closes_with_1009_and_a_binary_one_with_1003() {
    let server = Server::start(settings(), 16).await;
    let mut client = server.log_in().await;
    client.ws.send(Message::text("x".repeat(MAX_MESSAGE_BYTES))).await.unwrap();
    assert_eq!(client.json().await["code"], "bad_request");
    client.ws.send(Message::text("x".repeat(MAX_MESSAGE_BYTES + 1))).await.unwrap();
    assert_eq!(client.close_frame().await.0, 1009);

    let mut client = server.log_in().await;
    client.ws.send(Message::binary(vec![1])).await.unwrap();
    assert_eq!(client.close_frame().await.0, 1003);
}

#[tokio::test]
async fn a_foreign_origin_is_refused_before_the_upgrade() {
    let server = Server::start(settings(), 16).await;
    for foreign in ["https://evil.example", "null"] {
        let (status, _, body) = refusal(server.connect_with(&[("origin", foreign)], "").await);
        assert_eq!((status, &body["status"]), (403, &json!(403)));
    }
    for fine in [format!("http://{}", server.address), "https://desk.example".to_owned()] {
        assert!(server.connect_with(&[("origin", &fine)], "").await.is_ok());
    }
}

#[tokio::test]
async fn sessions_above_the_limit_and_after_the_gate_closed_are_refused_with_retry_after() {
    let server = Server::start(hotgo::stream::Settings { max_sessions: 2, ..settings() }, 16).await;
    let mut one = server.log_in().await;
    let mut two = server.log_in().await;
    let (status, retry, body) = refusal(server.connect_with(&[], "").await);
    assert_eq!((status, retry.is_some(), &body["detail"]), (503, true, &json!("too many sessions")));
    for client in [&mut one, &mut two] {
        client.ws.close(None).await.unwrap();
    }
    server.guards.none_held().await;
    let again = server.log_in().await;
    drop(again);

    server.guards.none_held().await;
    server.guards.closed.store(true, Ordering::SeqCst);
    let (status, retry, _) = refusal(server.connect_with(&[], "").await);
    assert_eq!((status, retry.is_some()), (503, true));
}

#[tokio::test]
async fn a_drain_is_announced_and_ends_with_the_last_event_and_its_sequence() {
    for (drain, name, code) in [(Drain::Stop, "stop", 1001), (Drain::Upgrade, "upgrade", 1012)] {
        let server = Server::start(settings(), 16).await;
        server.open_account(1);
        server.open_account(2);
        server.commit(1, 5, "x");
        let mut client = server.follow(1, Some(0)).await;
        client.events(1, 0, 5).await;
        server.draining.send_replace(Some(drain));
        assert_eq!(client.json().await, json!({"op": "draining", "reason": name, "resume": {"1": 5}}));

        // Events go on; the last ones are committed an instant before the end.
        server.commit(1, 1, "x");
        client.events(1, 5, 6).await;
        let head = server.commit(1, 100, "x");
        server.close.cancel();
        client.events(1, 6, head).await;
        assert_eq!(client.close_frame().await, (code, format!(r#"{{"resume":{{"1":{head}}}}}"#)));
        assert_eq!(client.hear().await, Said::Gone);
        server.guards.none_held().await;

        // A session that comes too late is told the same.
        let mut late = server.connect().await;
        assert_eq!(late.close_frame().await.0, code);
    }
}

#[tokio::test]
async fn when_a_successor_takes_over_sessions_end_one_after_another_and_hear_of_events_until_then() {
    const SESSIONS: usize = 200;
    const SPREAD: Duration = Duration::from_secs(2);
    let server = Server::start(hotgo::stream::Settings { close_spread: SPREAD, ..settings() }, 16).await;
    server.open_account(1);
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        clients.push(server.follow(1, Some(0)).await);
    }
    server.draining.send_replace(Some(Drain::Upgrade));
    server.close.cancel();
    let began = std::time::Instant::now();
    let mut ends = tokio::task::JoinSet::new();
    for mut client in clients {
        ends.spawn(async move {
            let mut last = 0;
            loop {
                match client.hear().await {
                    Said::Json(said) if said["op"] == "event" => {
                        assert_eq!(said["seq"], last + 1);
                        last += 1;
                    }
                    Said::Json(_) => {}
                    Said::Close(code, reason) => return (code, reason, last, began.elapsed()),
                    Said::Gone => panic!("no Close"),
                }
            }
        });
    }
    let mut head = 0;
    let (mut early, mut late) = (0, 0);
    while let Some(ended) = ends.join_next().await {
        let (code, reason, last, after) = ended.unwrap();
        assert_eq!((code, reason), (1012, format!(r#"{{"resume":{{"1":{last}}}}}"#)));
        early += usize::from(after < SPREAD / 2);
        late += usize::from(last > 0);
        head = server.commit(1, 1, "x");
    }
    assert!(head > 0 && early > SESSIONS / 4 && early < SESSIONS, "{early} ended in the first half");
    assert!(late > SESSIONS / 2, "only {late} heard of what happened meanwhile");
}

#[tokio::test]
async fn a_close_that_cannot_hold_all_sequences_is_preceded_by_them() {
    let server = Server::start(settings(), 16).await;
    let mut client = server.log_in().await;
    for account in 1..=40 {
        server.open_account(account);
        server.commit(account, usize::try_from(account).unwrap(), "x");
        client.subscribe(account, None).await;
        assert_eq!(client.json().await["head_seq"], account);
    }
    server.close.cancel();
    let notice = client.json().await;
    assert_eq!(notice["op"], "draining");
    let resume = notice["resume"].as_object().unwrap();
    assert!((1..=40).all(|account| resume[&account.to_string()] == account));
    assert_eq!(client.close_frame().await, (1001, r#"{"resume_accounts":40}"#.to_owned()));
}

#[tokio::test]
async fn a_peer_that_never_answers_the_close_does_not_hold_the_shutdown_up() {
    let server =
        Server::start(hotgo::stream::Settings { close_timeout: Duration::from_millis(50), ..settings() }, 16).await;
    let deaf = server.log_in().await;
    assert_eq!(server.guards.held(), 1);
    server.close.cancel();
    server.guards.none_held().await;
    drop(deaf);
}

#[tokio::test]
async fn a_peer_without_pongs_is_closed_and_one_with_pongs_is_not() {
    let server = Server::start(
        hotgo::stream::Settings {
            ping_interval: Duration::from_millis(40),
            close_timeout: Duration::from_millis(10),
            ..settings()
        },
        16,
    )
    .await;
    server.open_account(1);
    let mut alive = server.follow(1, None).await;
    let silent = server.connect_with(&[("authorization", &format!("Bearer {}", server.token))], "").await.unwrap();
    // Reads, so that its socket drains, and never answers.
    let mut raw = silent.ws.into_inner();
    let mut heard = Vec::new();
    let (read, quiet) = tokio::join!(
        timeout(PATIENCE, raw.read_to_end(&mut heard)),
        // Ten intervals: reading is what answers pings.
        timeout(Duration::from_millis(400), alive.hear()),
    );
    read.unwrap().unwrap();
    assert!(quiet.is_err(), "{quiet:?}");
    assert!(heard.ends_with(&[&[0x88, 9, 3, 240][..], b"no pong"].concat()), "{heard:?}");
    server.commit(1, 1, "x");
    alive.events(1, 0, 1).await;
}

#[tokio::test]
async fn a_session_whose_key_is_revoked_is_closed_with_1008_at_the_next_ping() {
    let server =
        Server::start(hotgo::stream::Settings { ping_interval: Duration::from_millis(40), ..settings() }, 16).await;
    server.open_account(1);
    let mut stays = server.follow(1, None).await;
    let keys = Authenticator::new(Arc::clone(&server.store) as Arc<dyn Store>);
    let other = keys.create_key("other", Role::Viewer, Timestamp::from_micros(0)).await.unwrap();
    let bearer = format!("Bearer {}", other.token.into_text());
    let mut leaves = server.connect_with(&[("authorization", &bearer)], "").await.unwrap();
    assert_eq!(leaves.json().await["op"], "welcome");

    server.store.revoke_api_key(&other.key.id, Timestamp::from_micros(1)).await.unwrap();
    assert_eq!(leaves.close_frame().await, (1008, "the key was revoked".to_owned()));
    server.commit(1, 1, "x");
    stays.events(1, 0, 1).await;
}

#[tokio::test]
async fn a_cursor_that_cannot_be_served_is_told_to_resync() {
    let server = Server::start(settings(), 4).await;
    server.open_account(1);
    server.commit(1, 50, "x");
    let mut client = server.log_in().await;
    client.subscribe(1, Some(51)).await;
    let ahead = json!({"op": "resync", "account": 1, "reason": "ahead", "head_seq": 50, "oldest_seq": null});
    assert_eq!(client.json().await, ahead);

    server.store.prune(hotgo_account(1), 20);
    client.subscribe(1, Some(19)).await;
    assert_eq!(client.json().await["op"], "subscribed");
    let too_old = json!({"op": "resync", "account": 1, "reason": "too_old", "head_seq": 50, "oldest_seq": 21});
    assert_eq!(client.json().await, too_old);
    client.subscribe(1, Some(20)).await;
    assert_eq!(client.json().await["from_seq"], 21);
    client.events(1, 20, 50).await;
}

fn hotgo_account(id: i64) -> trading::ids::AccountId {
    trading::ids::AccountId(id)
}

#[tokio::test]
async fn a_bad_request_changes_nothing_and_is_answered() {
    let server = Server::start(settings(), 16).await;
    server.open_account(1);
    let mut client = server.follow(1, None).await;
    for (request, code) in [
        (json!({"op": "subscribe", "account": 7}), "not_found"),
        (json!({"op": "subscribe", "account": 1, "since_seq": -1}), "bad_request"),
        (json!({"op": "subscribe", "account": 1, "since": 1}), "bad_request"),
        (json!({"op": "auth", "token": "hg_again"}), "bad_request"),
        (json!({"op": "buy"}), "bad_request"),
        (json!(null), "bad_request"),
    ] {
        client.say(request).await;
        let said = client.json().await;
        assert_eq!((&said["op"], &said["code"]), (&json!("error"), &json!(code)));
    }
    client.say(json!({"op": "ping"})).await;
    assert_eq!(client.json().await, json!({"op": "pong"}));
    server.commit(1, 1, "x");
    client.events(1, 0, 1).await;
    client.say(json!({"op": "unsubscribe"})).await;
    assert_eq!(client.json().await, json!({"op": "unsubscribed", "accounts": [1]}));
    server.commit(1, 1, "x");
    client.say(json!({"op": "ping"})).await;
    assert_eq!(client.json().await, json!({"op": "pong"}));
}

#[tokio::test]
async fn a_session_whose_store_fails_is_closed_with_1013_and_resumes() {
    let server = Server::start(settings(), 4).await;
    server.open_account(1);
    let mut client = server.follow(1, None).await;
    server.commit(1, 2, "x");
    client.events(1, 0, 2).await;
    server.store.broken.store(true, Ordering::Relaxed);
    server.commit(1, 5, "larger than the window, so only the store has it");
    assert_eq!(client.close_frame().await, (1013, r#"{"resume":{"1":2}}"#.to_owned()));
    server.store.broken.store(false, Ordering::Relaxed);
    server.follow(1, Some(2)).await.events(1, 2, 7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sessions_get_everything_and_close_within_their_time() {
    const SESSIONS: usize = 1_000;
    const EVENTS: i64 = 200;
    let server = Arc::new(Server::start(settings(), 1_024).await);
    server.open_account(1);
    let ready = Arc::new(tokio::sync::Semaphore::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..SESSIONS {
        let (server, ready) = (Arc::clone(&server), Arc::clone(&ready));
        clients.spawn(async move {
            let mut client = server.follow(1, Some(0)).await;
            ready.add_permits(1);
            client.events(1, 0, EVENTS).await;
            assert_eq!(client.close_frame().await, (1001, format!(r#"{{"resume":{{"1":{EVENTS}}}}}"#)));
        });
    }
    let all = u32::try_from(SESSIONS).unwrap();
    let _all_follow = timeout(PATIENCE, ready.acquire_many(all)).await.expect("not all could connect").unwrap();
    let reads = server.store.reads.load(Ordering::Relaxed);
    while server.commit(1, 4, "x") < EVENTS {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.guards.held(), SESSIONS);
    server.close.cancel();
    while let Some(done) = timeout(PATIENCE, clients.join_next()).await.expect("stuck") {
        done.unwrap();
    }
    server.guards.none_held().await;
    assert_eq!(server.store.reads.load(Ordering::Relaxed), reads, "live events come from memory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_told_at_once_which_notices_are_current_and_new_ones_at_their_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = SqliteStore::open(&dir.path().join("hotgo.db"), OpenOptions::default()).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(writer.run());
    let server = Server::start_over(Arc::new(store), settings(), 8).await;
    let account = server.store.ensure_account("paper", "main").await.unwrap().id;
    let now = Timestamp::from_millis(1_790_000_000_000);
    let store: Arc<dyn Store> = Arc::<SqliteStore>::clone(&server.store);
    let notices = Notices::new(Arc::clone(&store), Arc::clone(&server.hub), Clock::standing(now));
    notices.look().await.unwrap();
    let mut early = server.follow(account.0, None).await;
    let notice = |message: &str| Notice {
        severity: Severity::Major,
        message: message.to_owned(),
        created_at: now,
        effective_at: None,
    };
    assert!(notices.add(&notice("first")).await.unwrap());
    assert!(!notices.add(&notice("first")).await.unwrap());
    let said = early.json().await;
    assert_eq!((&said["op"], said["items"].as_array().unwrap().len()), (&json!("notices"), 1), "{said}");
    let mut late = server.log_in().await;
    assert_eq!(late.json().await, said);
    // Another instance stored it.
    assert!(store.add_notice(&notice("second"), Timestamp::from_micros(0)).await.unwrap());
    notices.look().await.unwrap();
    let both = early.json().await;
    assert_eq!((&both["items"][0]["message"], &both["items"][1]), (&json!("second"), &said["items"][0]), "{both}");
    let later = Clock::standing(now.after(Duration::from_hours(24)));
    Notices::new(store, Arc::clone(&server.hub), later).look().await.unwrap();
    assert_eq!(early.json().await, json!({ "op": "notices", "items": [] }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_does_not_read_shows_in_the_lag_until_it_has_read_everything() {
    const ENOUGH: Duration = Duration::from_millis(100);
    let server = Server::start(settings(), 1_024).await;
    server.open_account(1);
    let mut client = server.follow(1, Some(0)).await;
    let words = "x".repeat(10_000);
    let mut head = 0;
    let grows = async {
        while server.hub.lag() < ENOUGH {
            if head < 5_000 {
                head = server.commit(1, 10, &words);
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, grows).await.expect("nobody reads");
    client.events(1, 0, head).await;
    let shrinks = async {
        while !server.hub.lag().is_zero() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, shrinks).await.expect("everything was read");
}
