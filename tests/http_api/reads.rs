//! What can be looked at.

use axum::http::{Method, StatusCode};
use hotgo::http::HealthStatus;
use serde_json::json;

use crate::world::{World, request};

#[tokio::test]
async fn health_needs_no_token_and_follows_the_server() {
    let world = World::new().await;
    for (status, ready, word) in [
        (HealthStatus::Ok, 200, "ok"),
        (HealthStatus::Degraded, 200, "degraded"),
        (HealthStatus::Starting, 503, "starting"),
        (HealthStatus::Draining, 503, "draining"),
        (HealthStatus::Failing, 503, "failing"),
    ] {
        *world.health.lock().unwrap() = status;
        let probe = async |path| world.send(request(Method::GET, path, None, None, "")).await;
        let health = probe("/api/health").await;
        assert_eq!((health.status.as_u16(), health.json()["status"].as_str()), (ready, Some(word)));
        assert_eq!(health.json()["build_id"], "test-build");
        assert_eq!(health.json()["checks"][0]["name"], "store");
        assert_eq!(probe("/api/health/ready").await.status.as_u16(), ready);
        assert_eq!(probe("/api/health/live").await.status, StatusCode::OK, "the process lives");
    }
}

#[tokio::test]
async fn orders_are_paged_newest_first_without_gaps_or_repeats() {
    let world = World::new().await;
    let (robot, _) = world.robot("r").await;
    let mut made = Vec::new();
    for n in 0..7 {
        let body =
            json!({"robot": robot, "action": "buy", "qty": "0.1", "order": {"type": "limit", "price": "100.50"}});
        let answer = world.post("/api/signals", &format!("s{n}"), &body.to_string()).await;
        made.push(answer.json()["orders"][0].as_str().unwrap().to_owned());
    }
    let (mut seen, mut path) = (Vec::new(), "/api/orders?limit=3&live=true".to_owned());
    loop {
        let page = world.get(&path).await.json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|it| it["client_id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => path = format!("/api/orders?limit=3&live=true&cursor={next}"),
            None => break,
        }
    }
    let mut sorted = seen.clone();
    sorted.sort_unstable();
    made.sort_unstable();
    assert_eq!(sorted, made);
    let order = world.get(&format!("/api/orders/{}", seen[0])).await.json();
    assert_eq!((order["price"].as_str(), order["qty"].as_str()), (Some("100.5"), Some("0.1")), "decimals are strings");
    assert_eq!(order["created_at_us"].as_i64(), Some(1_790_000_000_000_000));
    let canceled = world.post(&format!("/api/orders/{}/cancel", seen[0]), "c", "").await;
    assert_eq!(canceled.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn events_are_numbered_without_gaps_and_hold_no_hash() {
    let world = World::new().await;
    let (robot, _) = world.robot("r").await;
    let body = json!({"robot": robot, "action": "buy"}).to_string();
    world.post("/api/signals", "s", &body).await;
    let all = world.get("/api/events").await.json();
    let seqs: Vec<_> = all["items"].as_array().unwrap().iter().map(|it| it["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
    let kinds: Vec<_> = all["items"].as_array().unwrap().iter().map(|it| it["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["robot", "command", "order", "command"]);
    let page = world.get("/api/events?since_seq=1&limit=2").await.json();
    assert_eq!((page["items"][0]["seq"].as_i64(), page["next"].as_str()), (Some(2), Some("3")));
    assert!(!all.to_string().contains("hash"));
}

#[tokio::test]
async fn accounts_balances_positions_and_fills_can_be_listed() {
    let world = World::new().await;
    let accounts = world.get("/api/accounts").await.json();
    assert_eq!(
        (accounts["items"][0]["id"].as_i64(), accounts["items"][0]["label"].as_str()),
        (Some(world.account.0), Some("main"))
    );
    for path in
        ["/api/balances", "/api/positions", "/api/fills", "/api/fills?limit=5&cursor=9", "/api/robots?account=1"]
    {
        let answer = world.get(path).await;
        assert_eq!((answer.status, &answer.json()["items"]), (StatusCode::OK, &json!([])), "{path}");
    }
    world.store.ensure_account("paper", "other").await.unwrap();
    let unclear = world.get("/api/balances").await;
    assert_eq!(unclear.problem(), (422, "invalid-field".into(), Some("account".into())));
}

#[tokio::test]
async fn the_shutdown_can_be_looked_at_and_rehearsed() {
    let world = World::new().await;
    assert_eq!(world.get("/api/shutdown").await.json()["stage"], "serving");
    assert_eq!(world.get("/api/shutdown/plan").await.json()["deadline_ms"], 42_000);
    let admin = Some(world.admin.as_str());
    let rehearsal = world.send(request(Method::POST, "/api/shutdown/rehearsal", admin, None, "")).await.json();
    assert_eq!((rehearsal["clean"].as_bool(), &rehearsal["would_wait_for"]), (Some(true), &json!([])));
    assert_eq!(*world.shutdown.reason.lock().unwrap(), None, "a rehearsal stops nothing");
    let first = world.send(request(Method::POST, "/api/shutdown", admin, None, r#"{"reason":"one"}"#)).await;
    let second = world.send(request(Method::POST, "/api/shutdown", admin, None, r#"{"reason":"two"}"#)).await;
    assert_eq!(first.json(), json!({"started": true, "reason": "one"}));
    assert_eq!(second.json(), json!({"started": false, "reason": "one"}));
}

#[tokio::test]
async fn the_docs_page_needs_no_token_and_no_other_host() {
    let world = World::new().await;
    for path in ["/api/docs", "/api/docs/docs.js", "/api/docs/docs.css"] {
        let answer = world.send(request(Method::GET, path, None, None, "")).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(!answer.text.contains("http://") && !answer.text.contains("https://"), "{path} needs another host");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
    let answer = world.send(request(Method::GET, "/api/docs", None, None, "")).await;
    assert!(answer.header("content-type").unwrap().starts_with("text/html"));
}

#[tokio::test]
async fn openapi_describes_every_answer_and_refers_to_nothing_that_is_missing() {
    let world = World::new().await;
    let document = world.get("/api/openapi.json").await.json();
    let mut refs = Vec::new();
    collect_refs(&document, &mut refs);
    assert!(refs.len() > 50);
    for reference in refs {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} is missing");
    }
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
            for status in responses.keys().filter(|status| status.starts_with('4')) {
                let content = &responses[status]["content"];
                assert!(content["application/problem+json"].is_object(), "{method} {path} {status}");
            }
        }
    }
}

fn collect_refs(value: &serde_json::Value, refs: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            refs.extend(map.get("$ref").and_then(|it| it.as_str()).map(str::to_owned));
            map.values().for_each(|it| collect_refs(it, refs));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|it| collect_refs(it, refs)),
        _ => {}
    }
}
