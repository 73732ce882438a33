//! What is counted of requests.

use axum::http::Method;
use hotgo::telemetry::recorder;

use crate::world::{FOLLOWER, World, request};

#[tokio::test]
async fn every_answer_is_counted_by_its_status_and_timed() {
    let recorder = recorder().unwrap();
    let _here = metrics::set_default_local_recorder(&recorder);
    let world = World::new().await;
    let text = recorder.handle().render();
    let zeros =
        ["requests_total{status=\"200\"} 0", "requests_total{status=\"500\"} 0", "request_duration_seconds_count 0"];
    for zero in zeros {
        assert!(text.contains(&format!("hotgo_http_{zero}\n")), "no {zero} before the first request: {text}");
    }
    for path in ["/api/health/live", "/api/orders", "/api/robots", "/api/extra"] {
        assert_eq!(world.get(path).await.status, 200, "{path}");
    }
    assert_eq!(world.get("/api/orders?limit=0").await.status, 422);
    for path in ["/api/nowhere/1", "/api/robots/1"] {
        assert_eq!(world.get(path).await.status, 404, "{path}");
    }
    assert_eq!(world.send(request(Method::GET, "/api/orders", None, None, "")).await.status, 401);
    assert_eq!(world.send(request(Method::DELETE, "/api/health", None, None, "")).await.status, 405);
    assert_eq!(world.post("/api/robots", "panic", FOLLOWER).await.status, 500);
    let text = recorder.handle().render();
    let mut counted: Vec<_> = text.lines().filter(|line| line.starts_with("hotgo_http_requests_total{")).collect();
    counted.sort_unstable();
    let expected = ["200\"} 4", "401\"} 1", "404\"} 2", "405\"} 1", "422\"} 1", "500\"} 1"]
        .map(|end| format!("hotgo_http_requests_total{{status=\"{end}"));
    assert_eq!(counted, expected);
    assert!(text.contains("hotgo_http_request_duration_seconds_count 10\n"), "{text}");
    assert!(text.contains("hotgo_http_request_duration_seconds_bucket{le=\"30\"} 10\n"), "{text}");
}
