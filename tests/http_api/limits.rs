//! How many requests are let in, and of whom.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, StatusCode};
use hotgo::clock::Clock;
use hotgo::config::LimitsConfig;
use hotgo::http::STOPPING;
use serde_json::json;

use crate::world::{Answer, NOW, World, request, server};

async fn world(requests_per_minute: u64, cancels_per_minute: u64, refused_per_minute: u64) -> World {
    let limits = LimitsConfig { requests_per_minute, cancels_per_minute, refused_per_minute };
    World::with(Clock::standing(NOW), hotgo::config::ServerConfig { limits, ..server() }, None).await
}

/// From this peer, with this `X-Forwarded-For`.
async fn send_from(world: &World, peer: &str, forwarded: Option<&str>, mut request: Request<Body>) -> Answer {
    request.extensions_mut().insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 40_000)));
    if let Some(forwarded) = forwarded {
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
    }
    world.send(request).await
}

#[track_caller]
fn assert_429(answer: &Answer, words: &str) {
    assert_eq!(answer.problem(), (429, "too-many-requests".into(), None));
    let wait: u32 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(words) && detail.contains(&format!("wait {wait} s")), "{detail}");
}

#[tokio::test]
async fn a_key_beyond_its_limit_gets_429_and_others_and_health_do_not() {
    let world = world(3, 3, 3).await;
    for _ in 0..3 {
        assert_eq!(world.get("/api/robots").await.status, StatusCode::OK);
    }
    for _ in 0..2 {
        assert_429(&world.get("/api/robots").await, "the 3 requests of this API key of this minute are used up");
    }
    for _ in 0..20 {
        for path in ["/api/health", "/api/health/live", "/api/health/ready"] {
            assert_eq!(world.get(path).await.status, StatusCode::OK, "{path}");
        }
    }
    let trader = request(Method::GET, "/api/robots", Some(&world.trader), None, "");
    assert_eq!(world.send(trader).await.status, StatusCode::OK, "another key");
}

#[tokio::test]
async fn cancels_and_stops_pass_when_signals_are_used_up() {
    let world = world(4, 5, 3).await;
    let (robot, _) = world.robot("r").await;
    let signal = json!({"robot": robot, "action": "buy", "qty": "0.25"}).to_string();
    let mut order = None;
    for n in 0..6 {
        let answer = world.post("/api/signals", &format!("s-{n}"), &signal).await;
        match answer.status {
            StatusCode::ACCEPTED => order = Some(answer.json()["orders"][0].as_str().unwrap().to_owned()),
            _ => assert_429(&answer, "requests of this API key"),
        }
    }
    assert_429(&world.post(&format!("/api/robots/{robot}/start"), "start", "").await, "requests of this API key");
    let cancel = format!("/api/orders/{}/cancel", order.unwrap());
    for path in
        [cancel.as_str(), &format!("/api/robots/{robot}/stop"), &format!("/api/robots/{robot}/halt"), "/api/kill"]
    {
        let answer = world.post(path, path, "").await;
        assert!(answer.status.is_success(), "{path} {}", answer.text);
    }
    let by_trader = world.post("/api/shutdown", "k", "").await;
    assert_eq!(by_trader.problem().0, 403, "it is counted with the stops, and refused for its role");
    assert_429(&world.post("/api/kill", "again", "").await, "cancels and stops of this API key");
}

/// A route that was renamed must not lose its budget silently.
#[tokio::test]
async fn every_stopping_route_is_a_route() {
    let world = World::new().await;
    let document = world.get("/api/openapi.json").await.json();
    for route in STOPPING {
        assert!(document["paths"][route].is_object(), "{route}");
    }
}

#[tokio::test]
async fn an_address_that_is_refused_too_often_is_told_so_and_a_valid_key_from_there_is_let_in() {
    let world = world(100, 100, 3).await;
    let unknown = format!("hg_{}", "0".repeat(64));
    let bad =
        |n: usize| request(Method::GET, "/api/robots", (n.is_multiple_of(2)).then_some(unknown.as_str()), None, "");
    for n in 0..3 {
        assert_eq!(send_from(&world, "1.2.3.4", None, bad(n)).await.problem().0, 401);
    }
    for n in 0..3 {
        let forged = format!("9.9.9.{n}");
        let answer = send_from(&world, "1.2.3.4", Some(&forged), bad(n)).await;
        assert_429(&answer, "the 3 refused requests from this address");
    }
    let good = request(Method::GET, "/api/robots", Some(&world.viewer), None, "");
    assert_eq!(send_from(&world, "1.2.3.4", None, good).await.status, StatusCode::OK);
    assert_eq!(send_from(&world, "1.2.3.5", None, bad(0)).await.problem().0, 401, "another address");
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_is_counted_for_itself() {
    let world = world(100, 100, 2).await;
    let bad = || request(Method::GET, "/api/robots", None, None, "");
    for (client, expected) in
        [("5.5.5.5", 401), ("5.5.5.5", 401), ("5.5.5.5", 429), ("6.6.6.6", 401), ("6.6.6.6, 5.5.5.5", 429)]
    {
        let answer = send_from(&world, "10.1.1.1", Some(client), bad()).await;
        assert_eq!(answer.problem().0, expected, "{client}");
    }
}

#[tokio::test]
async fn whoever_guesses_webhook_secrets_is_limited_and_the_owner_is_not() {
    let world = world(5, 5, 3).await;
    let (robot, secret) = world.robot("r").await;
    let alert = |id: &str, secret: &str| {
        let body = json!({"id": id, "action": "buy", "qty": "0.1", "secret": secret}).to_string();
        Request::post(format!("/api/webhook/{robot}")).body(Body::from(body)).unwrap()
    };
    for (n, expected) in [404, 404, 404, 429, 429].into_iter().enumerate() {
        let answer = send_from(&world, "1.2.3.4", None, alert(&n.to_string(), "wrong")).await;
        assert_eq!(answer.problem().0, expected);
    }
    let nonsense = Request::post(format!("/api/webhook/{robot}")).body(Body::from("{")).unwrap();
    assert_429(&send_from(&world, "1.2.3.4", None, nonsense).await, "refused requests from this address");
    for n in 0..5 {
        let answer = send_from(&world, "1.2.3.4", None, alert(&format!("good-{n}"), &secret)).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    }
    let one_more = send_from(&world, "1.2.3.4", None, alert("one-more", &secret)).await;
    assert_429(&one_more, "the 5 alerts to this webhook");
}
