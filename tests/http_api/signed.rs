//! Signed requests: let in once, as they were signed, when they were signed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode};
use futures_util::future::join_all;
use hotgo::auth::Memory;
use hotgo::auth::signature::{Signable, sign};
use hotgo::clock::Clock;
use serde_json::json;
use trading::time::Timestamp;

use crate::world::{Answer, World, request, server};

type Alter = Box<dyn Fn(&mut Request<Body>)>;
type Answers = fn(usize) -> Option<bool>;
const NEW_KEY: &str = r#"{"name":"made","role":"viewer"}"#;

/// A key that signs, and the clock it signs by.
struct Signer {
    id: String,
    token: String,
    clock: Clock,
}

/// A request to be signed.
#[derive(Clone)]
struct Draft {
    method: Method,
    path: &'static str,
    query: &'static str,
    key: &'static str,
    body: &'static str,
    at: Timestamp,
    nonce: String,
}

impl Signer {
    async fn new(world: &World) -> Self {
        let body = r#"{"name":"signer","role":"admin","signed":true}"#;
        let made = world.send(request(Method::POST, "/api/keys", Some(&world.admin), None, body)).await;
        assert_eq!((made.status, &made.json()["signed"]), (StatusCode::CREATED, &json!(true)));
        let text = |name: &str| made.json()[name].as_str().unwrap().to_owned();
        Self { id: text("id"), token: text("token"), clock: Clock::start() }
    }

    fn draft(&self, nonce: &str) -> Draft {
        let (at, nonce) = (self.clock.now(), format!("{nonce:0>16}"));
        Draft { method: Method::POST, path: "/api/keys", query: "", key: "", body: NEW_KEY, at, nonce }
    }

    fn sign(&self, draft: &Draft) -> Request<Body> {
        let Draft { method, path, query, key, body, at, nonce } = draft;
        let signable =
            Signable { method: method.as_str(), path, query, idempotency_key: key.as_bytes(), body: body.as_bytes() };
        let uri = if query.is_empty() { (*path).to_owned() } else { format!("{path}?{query}") };
        let mut signed = request(method.clone(), &uri, None, (!key.is_empty()).then_some(*key), body);
        for (name, value) in [
            ("x-hotgo-key", self.id.clone()),
            ("x-hotgo-timestamp", at.millis().to_string()),
            ("x-hotgo-nonce", nonce.clone()),
            ("x-hotgo-signature", sign(&self.token, &signable.message(*at, nonce))),
        ] {
            signed.headers_mut().insert(name, value.parse().unwrap());
        }
        signed
    }

    async fn send(&self, world: &World, draft: &Draft) -> Answer {
        world.send(self.sign(draft)).await
    }
}

async fn keys_made(world: &World) -> usize {
    let listed = world.send(request(Method::GET, "/api/keys", Some(&world.admin), None, "")).await;
    listed.json()["items"].as_array().unwrap().iter().filter(|it| it["name"] == "made").count()
}

/// A refusal tells nothing but that.
#[track_caller]
fn assert_bare_401(answer: &Answer, what: &str) {
    assert_eq!(answer.problem(), (401, "unauthorized".into(), None), "{what}");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{what}");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!(detail, "a valid API key is needed: `Authorization: Bearer <token>`", "{what}");
}

#[tokio::test]
async fn a_signed_request_is_let_in_once() {
    let world = World::in_real_time().await;
    let signer = Signer::new(&world).await;
    let draft = signer.draft("1");
    assert_eq!(signer.send(&world, &draft).await.status, StatusCode::CREATED);
    for _ in 0..2 {
        assert_bare_401(&signer.send(&world, &draft).await, "the same again");
    }
    let another = Draft { body: r#"{"name":"other","role":"viewer"}"#, ..draft.clone() };
    assert_bare_401(&signer.send(&world, &another).await, "another request with the nonce");
    let later = Draft { at: draft.at.after(Duration::from_millis(1)), ..draft };
    assert_bare_401(&signer.send(&world, &later).await, "the nonce at another time");
    assert_eq!(signer.send(&world, &signer.draft("2")).await.status, StatusCode::CREATED);
    assert_eq!(keys_made(&world).await, 2);
    let look = Draft { method: Method::GET, path: "/api/keys/self", query: "x=%20y&z", body: "", ..signer.draft("3") };
    assert_eq!(signer.send(&world, &look).await.json()["name"], "signer");
    assert_bare_401(&signer.send(&world, &look).await, "looking twice with one nonce");
}

#[tokio::test]
async fn of_many_equal_requests_at_once_one_is_let_in() {
    let world = World::in_real_time().await;
    let signer = Signer::new(&world).await;
    let draft = signer.draft("1");
    let answers = join_all((0..16).map(|_| signer.send(&world, &draft))).await;
    assert_eq!(answers.iter().filter(|it| it.status == StatusCode::CREATED).count(), 1);
    assert_eq!(answers.iter().filter(|it| it.status == StatusCode::UNAUTHORIZED).count(), 15);
    assert_eq!(keys_made(&world).await, 1);
}

#[tokio::test]
async fn a_request_that_was_altered_in_any_part_is_refused_and_uses_nothing_up() {
    let world = World::in_real_time().await;
    let signer = Signer::new(&world).await;
    let draft = Draft { query: "a=1", key: "k-1", ..signer.draft("1") };
    let other_key = Signer::new(&world).await.id;
    let header = |name: &'static str, value: String| -> Alter {
        Box::new(move |request| {
            request.headers_mut().insert(name, HeaderValue::from_str(&value).unwrap());
        })
    };
    let without = |name: &'static str| -> Alter {
        Box::new(move |request| {
            request.headers_mut().remove(name).unwrap();
        })
    };
    let uri = |uri: &'static str| -> Alter { Box::new(move |request| *request.uri_mut() = uri.parse().unwrap()) };
    let alterations: Vec<(&str, Alter)> = vec![
        ("method", Box::new(|request| *request.method_mut() = Method::GET)),
        ("path", uri("/api/shutdown/rehearsal?a=1")),
        ("query", uri("/api/keys?a=2")),
        ("no query", uri("/api/keys")),
        ("body", Box::new(|request| *request.body_mut() = Body::from(NEW_KEY.replace("viewer", "admin")))),
        ("no body", Box::new(|request| *request.body_mut() = Body::empty())),
        ("idempotency key", header("idempotency-key", "k-2".into())),
        ("no idempotency key", without("idempotency-key")),
        ("time", header("x-hotgo-timestamp", (draft.at.millis() + 1).to_string())),
        ("nonce", header("x-hotgo-nonce", format!("{:0>16}", "2"))),
        ("key", header("x-hotgo-key", other_key)),
        ("unknown key", header("x-hotgo-key", "0000000000000000".into())),
        ("signature", header("x-hotgo-signature", "0".repeat(64))),
        ("garbled signature", header("x-hotgo-signature", "zz".into())),
        ("no key", without("x-hotgo-key")),
        ("no time", without("x-hotgo-timestamp")),
        ("no nonce", without("x-hotgo-nonce")),
        ("no signature", without("x-hotgo-signature")),
        ("a token besides", header("authorization", format!("Bearer {}", world.admin))),
    ];
    for (what, alter) in alterations {
        let mut request = signer.sign(&draft);
        alter(&mut request);
        assert_bare_401(&world.send(request).await, what);
    }
    assert_eq!(keys_made(&world).await, 0);
    assert_eq!(signer.send(&world, &draft).await.status, StatusCode::CREATED, "the real one is still good");
}

#[tokio::test]
async fn a_request_from_more_than_five_seconds_ago_or_ahead_is_refused() {
    let world = World::in_real_time().await;
    let signer = Signer::new(&world).await;
    let now = signer.draft("1");
    for (what, at, nonce) in [
        ("old", now.at.before(Duration::from_millis(5_500)), "2"),
        ("very old", now.at.before(Duration::from_hours(24)), "3"),
        // Far enough that this test may take its time.
        ("ahead", now.at.after(Duration::from_mins(1)), "4"),
        ("far ahead", Timestamp::from_millis(i64::MAX / 1000), "5"),
    ] {
        let draft = Draft { at, ..signer.draft(nonce) };
        assert_bare_401(&signer.send(&world, &draft).await, what);
    }
    assert_eq!(signer.send(&world, &signer.draft("6")).await.status, StatusCode::CREATED);
}

/// An instance whose clock stands still would find an old request timely for ever; the store's clock does not.
#[tokio::test]
async fn a_clock_that_is_behind_lets_no_old_request_in() {
    let long_ago = Clock::start().now().before(Duration::from_mins(2));
    let world = World::with(Clock::standing(long_ago), server(), None).await;
    let signer = Signer::new(&world).await;
    let draft = Draft { at: long_ago, ..signer.draft("1") };
    assert_bare_401(&signer.send(&world, &draft).await, "timely by this clock only");
    assert_eq!(keys_made(&world).await, 0);
}

#[tokio::test]
async fn a_nonce_is_refused_after_a_restart_too() {
    let world = World::in_real_time().await;
    let signer = Signer::new(&world).await;
    let (used, unused) = (signer.draft("1"), signer.draft("2"));
    assert_eq!(signer.send(&world, &used).await.status, StatusCode::CREATED);
    let world = world.restart().await;
    assert_bare_401(&signer.send(&world, &used).await, "a replay after the restart");
    let fresh = Draft { at: signer.clock.now(), ..unused };
    assert_eq!(signer.send(&world, &fresh).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_key_is_for_signing_or_for_sending_and_never_for_both() {
    let world = World::in_real_time().await;
    let signer = Signer::new(&world).await;
    let as_bearer = request(Method::GET, "/api/keys/self", Some(&signer.token), None, "");
    assert_bare_401(&world.send(as_bearer).await, "the token of a key that signs");

    let me = world.send(request(Method::GET, "/api/keys/self", Some(&world.admin), None, "")).await.json();
    let id = me["id"].as_str().unwrap().to_owned();
    let bearer = Signer { id, token: world.admin.clone(), clock: Clock::start() };
    assert_bare_401(&bearer.send(&world, &bearer.draft("1")).await, "signed with a bearer token");

    let path = format!("/api/keys/{}", signer.id);
    assert_eq!(signer.send(&world, &signer.draft("2")).await.status, StatusCode::CREATED);
    assert_eq!(world.send(request(Method::DELETE, &path, Some(&world.admin), None, "")).await.status.as_u16(), 204);
    assert_bare_401(&signer.send(&world, &signer.draft("3")).await, "a revoked key");
    assert_eq!(keys_made(&world).await, 1);
}

/// Redis, as bad as it may get: what it answers to each question.
#[derive(Debug)]
struct Whim {
    answers: fn(usize) -> Option<bool>,
    stalls: bool,
    asked: AtomicUsize,
}

#[async_trait::async_trait]
impl Memory for Whim {
    async fn is_new(&self, _name: &str, _ttl: Duration) -> Option<bool> {
        if self.stalls {
            std::future::pending::<()>().await;
        }
        (self.answers)(self.asked.fetch_add(1, Ordering::SeqCst))
    }
}

#[tokio::test]
async fn a_replay_is_refused_whatever_becomes_of_redis() {
    let flushed: Answers = |_| Some(true);
    let down = |_| None;
    let comes_back = |n| if n < 2 { None } else { Some(true) };
    let remembers = |n| Some(n == 0);
    for (what, answers, stalls) in [
        ("flushed after each question", flushed, false),
        ("down", down, false),
        ("back after a while, and empty", comes_back, false),
        ("well", remembers, false),
        ("stalled", flushed, true),
    ] {
        let memory = Arc::new(Whim { answers, stalls, asked: AtomicUsize::new(0) });
        let world = World::with(Clock::start(), server(), Some(memory)).await;
        let signer = Signer::new(&world).await;
        let draft = signer.draft("1");
        assert_eq!(signer.send(&world, &draft).await.status, StatusCode::CREATED, "Redis is {what}");
        for _ in 0..3 {
            assert_bare_401(&signer.send(&world, &draft).await, what);
        }
        assert_eq!(keys_made(&world).await, 1, "Redis is {what}");
    }
}

#[tokio::test]
async fn what_redis_has_seen_is_refused_without_a_write() {
    let memory = Arc::new(Whim { answers: |_| Some(false), stalls: false, asked: AtomicUsize::new(0) });
    let world = World::with(Clock::start(), server(), Some(memory)).await;
    let signer = Signer::new(&world).await;
    let draft = signer.draft("1");
    assert_bare_401(&signer.send(&world, &draft).await, "seen elsewhere");
    let expires_at = Timestamp::from_millis(9_000_000_000_000);
    assert!(world.store.use_nonce(&signer.id, &draft.nonce, expires_at).await.unwrap(), "the store was not asked");
}
