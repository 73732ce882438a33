//! A wish is carried out once, or the sender is told to ask again.

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use hotgo::engines::SubmitError;
use serde_json::json;
use trading::command::Outcome;

use crate::world::{Answer, FOLLOWER, World, request};

async fn alert(world: &World, path: &str, body: &str) -> Answer {
    world.send(Request::post(path).body(Body::from(body.to_owned())).unwrap()).await
}

#[tokio::test]
async fn a_repeated_signal_gets_the_same_answer_and_makes_one_order() {
    let world = World::new().await;
    let (robot, _) = world.robot("r").await;
    let body = json!({"robot": robot, "action": "buy", "qty": "0.25"}).to_string();
    let first = world.post("/api/signals", "s-1", &body).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (StatusCode::ACCEPTED, None));
    assert_eq!(first.header("idempotency-key"), Some("s-1"));
    assert_eq!(first.json()["orders"].as_array().unwrap().len(), 1);
    let submitted = world.submitted();
    for _ in 0..3 {
        let again = world.post("/api/signals", "s-1", &body).await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (StatusCode::ACCEPTED, Some("true")));
        assert_eq!(again.json(), first.json());
    }
    assert_eq!(world.submitted(), submitted);
    let source = first.json()["source"].as_str().unwrap().to_owned();
    assert_eq!(world.get(&format!("/api/signals/{source}/s-1")).await.json(), first.json());
}

#[tokio::test]
async fn concurrent_repeats_make_one_order() {
    let world = World::new().await;
    let (robot, secret) = world.robot("r").await;
    let before = world.submitted();
    let body = json!({"id": "one", "action": "buy", "secret": secret}).to_string();
    let path = format!("/api/webhook/{robot}");
    let answers = futures_util::future::join_all((0..8).map(|_| alert(&world, &path, &body))).await;
    assert!(answers.iter().all(|it| it.status == StatusCode::ACCEPTED && it.json() == answers[0].json()));
    assert_eq!(world.submitted(), before + 1);
}

#[tokio::test]
async fn a_key_that_named_another_request_is_refused() {
    let world = World::new().await;
    let (robot, _) = world.robot("r").await;
    let signal = |qty: &str| json!({"robot": robot, "action": "buy", "qty": qty}).to_string();
    assert_eq!(world.post("/api/signals", "k", &signal("1")).await.status, StatusCode::ACCEPTED);
    let other = world.post("/api/signals", "k", &signal("2")).await;
    assert_eq!(other.problem(), (422, "idempotency-key-reused".into(), None));
    assert_eq!(world.post(&format!("/api/robots/{robot}/stop"), "k", "").await.problem().1, "idempotency-key-reused");
}

#[tokio::test]
async fn without_a_key_one_is_made_and_told() {
    let world = World::new().await;
    let (robot, _) = world.robot("r").await;
    let body = json!({"robot": robot, "action": "buy"}).to_string();
    let send = async || world.send(request(Method::POST, "/api/signals", Some(&world.trader), None, &body)).await;
    let (one, other) = (send().await, send().await);
    assert_ne!(one.json()["orders"], other.json()["orders"]);
    assert_ne!(one.header("idempotency-key"), other.header("idempotency-key"));
    let again = world.post("/api/signals", one.header("idempotency-key").unwrap(), &body).await;
    assert_eq!(again.json()["orders"], one.json()["orders"]);
}

#[tokio::test]
async fn a_robot_is_made_once_and_its_secret_shown_once() {
    let world = World::new().await;
    let first = world.post("/api/robots", "r", FOLLOWER).await;
    assert_eq!(first.status, StatusCode::CREATED);
    let secret = first.json()["webhook"]["secret"].as_str().unwrap().to_owned();
    let again = world.post("/api/robots", "r", FOLLOWER).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (StatusCode::CREATED, Some("true")));
    assert_eq!(again.json()["robot"], first.json()["robot"]);
    assert!(again.json()["webhook"]["secret"].is_null());
    let without = FOLLOWER.replace(r#""webhook":true"#, r#""webhook":false"#);
    assert_eq!(world.post("/api/robots", "r", &without).await.problem().1, "idempotency-key-reused");
    let hash = hotgo::auth::sha256_hex(&secret);
    for path in ["/api/robots", "/api/robots/10001", "/api/events", "/api/signals/key:x/r"] {
        let shown = world.get(path).await.text;
        assert!(!shown.contains(&secret) && !shown.contains(&hash), "{path} tells the secret: {shown}");
    }
    assert_eq!(world.get("/api/robots").await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn every_limit_of_a_robot_is_taken_and_shown() {
    let world = World::new().await;
    let limits = json!({
        "max_order_notional": "1000", "max_position_notional": "5000.5", "max_open_orders": 20,
        "max_orders_per_minute": 60, "max_price_deviation_percent": 15,
    });
    let mut body: serde_json::Value = serde_json::from_str(FOLLOWER).unwrap();
    body["limits"] = limits.clone();
    let made = world.post("/api/robots", "limited", &body.to_string()).await.json();
    let shown = world.get(&format!("/api/robots/{}", made["robot"])).await.json();
    assert_eq!(shown["limits"], limits);

    body["limits"]["max_price_deviation_percent"] = json!("15 %");
    let refused = world.post("/api/robots", "bad", &body.to_string()).await;
    assert_eq!(refused.problem(), (422, "invalid-field".into(), Some("limits.max_price_deviation_percent".into())));
}

#[tokio::test]
async fn a_webhook_takes_its_own_secret_in_the_body_or_the_path() {
    let world = World::new().await;
    let (robot, secret) = world.robot("r").await;
    let in_body = json!({"id": "a", "action": "buy", "qty": "0.1", "price": "60000", "secret": secret}).to_string();
    let one = alert(&world, &format!("/api/webhook/{robot}"), &in_body).await;
    assert_eq!(one.status, StatusCode::ACCEPTED, "{}", one.text);
    let in_path = json!({"id": "b", "action": "sell"}).to_string();
    let other = alert(&world, &format!("/api/webhook/{robot}/{secret}"), &in_path).await;
    assert_eq!(other.status, StatusCode::ACCEPTED, "{}", other.text);
    let orders = world.get("/api/orders").await.json();
    assert!(orders["items"].as_array().unwrap().iter().any(|it| it["type"] == "limit" && it["price"] == "60000"));
    assert_eq!(world.get(&format!("/api/signals/webhook:{robot}/a")).await.json()["outcome"], "done");
}

#[tokio::test]
async fn a_wrong_secret_and_an_unknown_robot_are_indistinguishable() {
    let world = World::new().await;
    let (robot, secret) = world.robot("r").await;
    let plain = FOLLOWER.replace(r#""webhook":true"#, r#""webhook":false"#);
    let plain = world.post("/api/robots", "plain", &plain).await.json()["robot"].as_i64().unwrap();
    let before = world.submitted();
    let wrong = format!("{}0", &secret[..secret.len() - 1]);
    let wrong = if wrong == secret { secret.replace("whs_", "whs-") } else { wrong };
    let mut bodies = Vec::new();
    for (robot, secret) in [
        (robot.to_string(), wrong.as_str()),
        (robot.to_string(), ""),
        (plain.to_string(), wrong.as_str()),
        ("99999".into(), secret.as_str()),
        ("no-number".into(), secret.as_str()),
        ("-1".into(), secret.as_str()),
    ] {
        let body = json!({"id": "x", "action": "buy", "secret": secret}).to_string();
        let answer = alert(&world, &format!("/api/webhook/{robot}"), &body).await;
        assert_eq!(answer.problem().0, 404, "{robot}");
        let mut json = answer.json();
        json["instance"] = "".into();
        bodies.push(json);
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{bodies:?}");
    let body = r#"{"id":"x","action":"buy"}"#;
    assert_eq!(alert(&world, &format!("/api/webhook/{robot}"), body).await.problem().0, 404);
    assert_eq!(world.submitted(), before);
}

#[tokio::test]
async fn an_alert_without_an_id_is_told_how_to_write_one() {
    let world = World::new().await;
    let (robot, secret) = world.robot("r").await;
    let body = json!({"action": "buy", "secret": secret}).to_string();
    let answer = alert(&world, &format!("/api/webhook/{robot}"), &body).await;
    assert_eq!(answer.problem(), (422, "invalid-field".into(), Some("id".into())));
    assert!(answer.json()["detail"].as_str().unwrap().contains("{{strategy.order.id}}-{{timenow}}"));
    let unknown = json!({"id": "x", "action": "buy", "secret": secret, "leverage": 3}).to_string();
    let answer = alert(&world, &format!("/api/webhook/{robot}"), &unknown).await;
    assert_eq!(answer.problem(), (422, "invalid-field".into(), Some("leverage".into())));
    assert!(!answer.text.contains(&secret));
}

#[tokio::test]
async fn what_the_engine_refuses_is_mapped_to_its_status() {
    let world = World::new().await;
    let (robot, _) = world.robot("r").await;
    let body = json!({"robot": robot, "action": "buy"}).to_string();
    for (error, status, retry) in [
        (SubmitError::Busy, 503, true),
        (SubmitError::Stopping, 503, true),
        (SubmitError::NotReady, 503, true),
        (SubmitError::Unconfirmed, 503, true),
        (SubmitError::UnknownAccount, 404, false),
    ] {
        *world.engines.refuse.lock().unwrap() = Some(error.clone());
        let answer = world.post("/api/signals", "k", &body).await;
        assert_eq!(answer.problem().0, status, "{error:?}");
        assert_eq!(answer.header("retry-after").is_some(), retry, "{error:?}");
        assert_eq!(answer.header("idempotency-key"), Some("k"), "so that the same can be sent again");
    }
    *world.engines.refuse.lock().unwrap() = None;
    let reason = || "why".to_owned();
    for (key, outcome, status) in [
        ("1", Outcome::Denied { reason: reason() }, 409),
        ("2", Outcome::Skipped { reason: reason() }, 200),
        ("3", Outcome::Invalid { field: "qty".into(), reason: reason() }, 422),
        ("4", Outcome::NotFound { what: "robot".into() }, 404),
    ] {
        *world.engines.decide.lock().unwrap() = Some(outcome);
        let first = world.post("/api/signals", key, &body).await;
        assert_eq!(first.status.as_u16(), status, "{}", first.text);
        let again = world.post("/api/signals", key, &body).await;
        assert_eq!((again.status.as_u16(), again.header("idempotent-replayed")), (status, Some("true")));
    }
}

#[tokio::test]
async fn once_intake_is_closed_signals_are_sent_away_and_reads_go_on() {
    let world = World::new().await;
    let (robot, secret) = world.robot("r").await;
    let before = world.submitted();
    world.intake_open.store(false, Ordering::SeqCst);
    let signal = json!({"robot": robot, "action": "buy"}).to_string();
    let hook = json!({"id": "x", "action": "buy", "secret": secret}).to_string();
    for answer in [
        world.post("/api/signals", "k", &signal).await,
        alert(&world, &format!("/api/webhook/{robot}"), &hook).await,
        alert(&world, &format!("/api/webhook/{robot}/wrong"), r#"{"id":"x","action":"buy"}"#).await,
    ] {
        assert_eq!(answer.problem(), (503, "unavailable".into(), None));
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(world.submitted(), before);
    assert_eq!(world.get("/api/robots").await.status, StatusCode::OK);
    assert_eq!(world.get("/api/orders").await.status, StatusCode::OK);
    let halt = world.post(&format!("/api/robots/{robot}/halt"), "halt", "").await;
    assert_eq!(halt.status, StatusCode::OK, "the kill switch works to the end");
}

#[tokio::test]
async fn robots_are_started_stopped_and_halted_by_those_who_may() {
    let world = World::new().await;
    let (robot, _) = world.robot("r").await;
    for (act, body) in
        [("start", ""), ("start", "{}"), ("stop", r#"{"policy":"flatten"}"#), ("halt", r#"{"reason":"odd"}"#)]
    {
        let answer = world.post(&format!("/api/robots/{robot}/{act}"), &format!("{act}{body}"), body).await;
        assert_eq!(answer.status, StatusCode::OK, "{act} {}", answer.text);
        assert_eq!(answer.json()["robot"].as_i64(), Some(robot));
    }
    for id in ["10099", "990001", "0", "-7"] {
        assert_eq!(world.post(&format!("/api/robots/{id}/start"), id, "").await.problem().0, 404, "{id}");
    }
}

#[tokio::test]
async fn the_kill_switch_reaches_every_account_or_says_which_it_did_not() {
    let world = World::new().await;
    world.robot("r").await;
    let killed = world.post("/api/kill", "k", r#"{"reason":"mad market"}"#).await;
    assert_eq!(killed.status, StatusCode::OK, "{}", killed.text);
    assert_eq!(killed.json()["items"].as_array().unwrap().len(), 1);
    let again = world.post("/api/kill", "k", r#"{"reason":"mad market"}"#).await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(world.post("/api/kill", "k2", r#"{"account":77}"#).await.problem().0, 404);
    let other = world.store.ensure_account("paper", "other").await.unwrap();
    let partly = world.post("/api/kill", "k3", "").await;
    assert_eq!(partly.problem().0, 503);
    assert!(partly.json()["detail"].as_str().unwrap().contains(&format!("account {}", other.id)));
}
