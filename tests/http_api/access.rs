//! Who gets in.

use axum::http::{Method, StatusCode};
use serde_json::Value;

use crate::world::{World, request};

/// Every operation that OpenAPI knows, with numbers for its parameters: method, path, whether it needs no token.
async fn operations(world: &World) -> Vec<(Method, String, bool)> {
    let document = world.get("/api/openapi.json").await;
    assert_eq!(document.status, StatusCode::OK);
    let mut all = Vec::new();
    for (path, item) in document.json()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let open = operation["security"]
                .as_array()
                .is_some_and(|any| any.iter().any(|it| it == &Value::Object(serde_json::Map::new())));
            let concrete: Vec<_> = path.split('/').map(|part| if part.starts_with('{') { "1" } else { part }).collect();
            all.push((method.to_uppercase().parse().unwrap(), concrete.join("/"), open));
        }
    }
    all
}

#[tokio::test]
async fn every_route_but_health_and_webhooks_answers_401_without_a_valid_token() {
    let world = World::new().await;
    let operations = operations(&world).await;
    assert!(operations.len() >= 25, "{operations:?}");
    let unknown = format!("hg_{}", "0".repeat(64));
    let tokens = [None, Some(""), Some("nonsense"), Some(unknown.as_str()), Some("hg_"), Some("hg_' OR 1=1 --")];
    for (method, path, open) in operations {
        let exempt = path.starts_with("/api/health") || path.starts_with("/api/webhook");
        assert_eq!(open, exempt, "OpenAPI says so of {path}");
        for token in tokens {
            let answer = world.send(request(method.clone(), &path, token, None, "")).await;
            if exempt {
                assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            } else {
                assert_eq!(answer.problem().0, 401, "{method} {path} {token:?}");
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            }
        }
    }
    assert_eq!(world.submitted(), 0);
}

#[tokio::test]
async fn a_viewer_may_look_and_change_nothing() {
    let world = World::new().await;
    for (method, path, open) in operations(&world).await {
        if open {
            continue;
        }
        let answer = world.send(request(method.clone(), &path, Some(&world.viewer), None, "")).await;
        if method != Method::GET || path == "/api/keys" {
            assert_eq!(answer.problem(), (403, "forbidden".into(), None), "{path}");
        } else {
            assert!([200, 404, 422].contains(&answer.status.as_u16()), "{path} {}", answer.status);
        }
    }
    assert_eq!(world.submitted(), 0);
}

#[tokio::test]
async fn only_an_admin_may_make_keys_and_shut_down() {
    let world = World::new().await;
    let key = r#"{"name":"bot","role":"trader"}"#;
    for (path, body, done) in
        [("/api/keys", key, 201), ("/api/shutdown/rehearsal", "", 200), ("/api/shutdown", r#"{"reason":"test"}"#, 202)]
    {
        assert_eq!(world.post(path, "k", body).await.problem().0, 403, "{path}");
        assert_eq!(*world.shutdown.reason.lock().unwrap(), None);
        let answer = world.send(request(Method::POST, path, Some(&world.admin), None, body)).await;
        assert_eq!(answer.status.as_u16(), done, "{path} {}", answer.text);
    }
    assert_eq!(world.shutdown.reason.lock().unwrap().as_deref(), Some("test"));
}

#[tokio::test]
async fn a_new_key_is_shown_once_and_works() {
    let world = World::new().await;
    let body = r#"{"name":"bot","role":"viewer"}"#;
    let made = world.send(request(Method::POST, "/api/keys", Some(&world.admin), None, body)).await;
    let token = made.json()["token"].as_str().unwrap().to_owned();
    assert!(token.len() >= 3 + 43, "256 bits");
    let me = world.send(request(Method::GET, "/api/keys/self", Some(&token), None, "")).await;
    assert_eq!((me.json()["role"].as_str(), me.json()["id"].as_str()), (Some("viewer"), made.json()["id"].as_str()));
    assert!(!me.text.contains(&token));
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_and_still_listed() {
    let world = World::new().await;
    let admin = Some(world.admin.as_str());
    let me = world.get("/api/keys/self").await.json();
    let path = format!("/api/keys/{}", me["id"].as_str().unwrap());
    let by_trader = world.send(request(Method::DELETE, &path, Some(&world.trader), None, "")).await;
    assert_eq!(by_trader.problem().0, 403);
    for _ in 0..2 {
        let revoked = world.send(request(Method::DELETE, &path, admin, None, "")).await;
        assert_eq!((revoked.status, revoked.text.as_str()), (StatusCode::NO_CONTENT, ""));
        assert_eq!(world.get("/api/keys/self").await.problem().0, 401);
    }
    assert_eq!(world.audited("key.revoke"), [me["id"].as_str().unwrap(), me["id"].as_str().unwrap()]);

    let listed = world.send(request(Method::GET, "/api/keys", admin, None, "")).await;
    let items = listed.json()["items"].as_array().unwrap().clone();
    let shown: Vec<_> = items.iter().map(|it| (it["name"].as_str().unwrap(), it["revoked_at_us"].is_null())).collect();
    assert_eq!(shown.len(), 3, "{shown:?}");
    for expected in [("first admin", true), ("trader", true), ("viewer", false)] {
        assert!(shown.contains(&expected), "{shown:?}");
    }
    for secret in ["hash", "token", world.viewer.as_str(), &hotgo::auth::sha256_hex(&world.trader)] {
        assert!(!listed.text.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn the_last_admin_key_stays_and_an_unknown_one_is_not_found() {
    let world = World::new().await;
    let admin = Some(world.admin.as_str());
    let me = world.send(request(Method::GET, "/api/keys/self", admin, None, "")).await.json();
    let path = format!("/api/keys/{}", me["id"].as_str().unwrap());
    let last = world.send(request(Method::DELETE, &path, admin, None, "")).await;
    assert_eq!(last.problem(), (409, "last-admin-key".into(), None));
    let unknown = world.send(request(Method::DELETE, "/api/keys/0000000000000000", admin, None, "")).await;
    assert_eq!(unknown.problem().0, 404);
    assert!(world.audited("key.revoke").is_empty());

    let another = r#"{"name":"second","role":"admin"}"#;
    let made = world.send(request(Method::POST, "/api/keys", admin, None, another)).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let own = world.send(request(Method::DELETE, &path, admin, None, "")).await;
    assert_eq!(own.status, StatusCode::NO_CONTENT, "an admin may revoke its own key while there is another");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let world = World::new().await;
    assert_eq!(world.get("/api/nothing").await.problem().0, 404);
    assert_eq!(world.get("/").await.problem().0, 404);
    let wrong = world.send(request(Method::DELETE, "/api/robots", Some(&world.admin), None, "")).await;
    assert_eq!(wrong.problem().0, 405);
    let allowed = wrong.header("allow").unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
    let health = world.send(request(Method::POST, "/api/health", None, None, "")).await;
    assert_eq!((health.status.as_u16(), health.header("content-type")), (405, Some("application/problem+json")));
    assert_eq!(world.get("/api/extra").await.text, "extra");
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_another_replaced() {
    let world = World::new().await;
    for (given, kept) in [("abc-123", true), ("a b", false), ("<script>", false), (&"x".repeat(65), false)] {
        let mut request = request(Method::GET, "/api/robots", Some(&world.viewer), None, "");
        request.headers_mut().insert("x-request-id", given.parse().unwrap());
        let answer = world.send(request).await;
        assert_eq!(answer.header("x-request-id") == Some(given), kept, "{given}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

#[tokio::test]
async fn a_panic_in_a_handler_is_a_problem_and_the_server_lives() {
    let world = World::new().await;
    let (robot, _) = world.robot("r").await;
    let answer = world.post(&format!("/api/robots/{robot}/start"), "panic", "").await;
    assert_eq!(answer.problem().0, 500);
    assert!(!answer.text.contains("as the test asked"));
    assert_eq!(world.get("/api/robots").await.status, StatusCode::OK);
}
