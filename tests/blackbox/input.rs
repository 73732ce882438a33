//! What comes in from outside: bad requests, repeated requests, bad configuration, bad places to run in.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::support::server::{list, signal_body};
use crate::support::{Installation, Load, Server};
use hotgo::auth::signature::{Signable, sign};
use hyper::Method;
use serde_json::{Value, json};
use shutdown_coordinator::testkit::Exit;

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// Everything that a request could have changed.
async fn state(server: &Server) -> Value {
    let client = server.client();
    let mut tables = Vec::new();
    for path in ["/api/robots", "/api/orders?limit=500", "/api/fills?limit=500", "/api/balances?account=1"] {
        tables.push(client.get(path).await.unwrap().ok());
    }
    let events = client.get("/api/events?account=1&since_seq=0&limit=1000").await.unwrap().ok();
    tables.push(json!(list(&events).len()));
    Value::Array(tables)
}

#[tokio::test]
async fn bad_input_is_refused_with_a_4xx_problem_and_changes_nothing() {
    let mut installation = Installation::new();
    let server = installation.start().await;
    let robot = server.robot("input").await;
    let before = state(&server).await;
    let client = server.client();
    let signal = |change: &dyn Fn(&mut Value)| {
        let mut body = signal_body(robot.id);
        change(&mut body);
        body.to_string()
    };
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let huge = json!({"robot": robot.id, "action": "x".repeat(100_000)}).to_string();
    let bodies = [
        ("nothing", String::new(), &[400][..]),
        ("no JSON", "{".into(), &[400]),
        ("nested too deeply", deep, &[400]),
        ("a list", "[]".into(), &[400, 422]),
        ("too large", huge, &[413]),
        ("an unknown field", signal(&|body| body["surprise"] = json!(1)), &[422]),
        ("an unknown action", signal(&|body| body["action"] = json!("hodl")), &[422]),
        ("an unknown robot", signal(&|body| body["robot"] = json!(999_999)), &[404]),
        ("a robot that is text", signal(&|body| body["robot"] = json!("one")), &[422]),
        ("a negative quantity", signal(&|body| body["qty"] = json!("-1")), &[422]),
        ("no quantity at all", signal(&|body| body["qty"] = json!("0")), &[422]),
        ("NaN", signal(&|body| body["qty"] = json!("NaN")), &[422]),
        ("infinity", signal(&|body| body["qty"] = json!("inf")), &[422]),
        ("1e308", signal(&|body| body["qty"] = json!("1e308")), &[422]),
        ("too precise", signal(&|body| body["qty"] = json!("0.00000000000000000000000000000001")), &[422]),
        ("not a multiple of the lot", signal(&|body| body["qty"] = json!("0.0000001234")), &[422]),
        ("a limit order without a price", signal(&|body| body["order"] = json!({"type": "limit"})), &[422]),
        ("a NUL in a name", signal(&|body| body["action"] = json!("bu\0y")), &[422]),
    ];
    for (what, body, expected) in bodies {
        let answer = client.request(Method::POST, "/api/signals", JSON, Some(body)).await.unwrap();
        assert!(
            expected.contains(&answer.status),
            "{what}: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
        let text = String::from_utf8_lossy(&answer.body).to_lowercase();
        assert!(!text.contains("sqlite") && !text.contains("select ") && !text.contains("panicked"), "{what}: {text}");
    }
    let requests = [
        (Method::GET, "/api/nowhere"),
        (Method::DELETE, "/api/signals"),
        (Method::GET, "/api/orders?limit=-1"),
        (Method::GET, "/api/orders?limit=1e9"),
        (Method::GET, "/api/orders?surprise=1"),
        (Method::GET, "/api/orders/%00"),
        (Method::GET, "/api/robots/18446744073709551616"),
        (Method::GET, "/api/../../etc/passwd"),
    ];
    for (method, path) in requests {
        let answer = client.request(method.clone(), path, &[], None).await.unwrap();
        assert!((400..500).contains(&answer.status), "{method} {path}: {}", answer.status);
    }
    let plain = client.request(Method::POST, "/api/signals", &[("content-type", "text/plain")], Some("x".into())).await;
    assert_eq!(plain.unwrap().status, 415);
    assert_eq!(state(&server).await, before, "bad input changed something");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn nobody_gets_in_without_a_token_and_health_needs_none() {
    let mut installation = Installation::new();
    let server = installation.start().await;
    let stranger = server.client().anonymous();
    for path in ["/api/orders", "/api/robots", "/api/fills", "/api/balances", "/api/events?account=1", "/api/shutdown"]
    {
        assert_eq!(stranger.get(path).await.unwrap().status, 401, "{path}");
    }
    assert_eq!(stranger.post("/api/signals", &json!({})).await.unwrap().status, 401);
    for path in ["/api/health", "/api/health/live", "/api/health/ready"] {
        assert_eq!(stranger.get(path).await.unwrap().status, 200, "{path}");
    }
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn the_same_webhook_four_times_makes_one_order_and_a_wrong_secret_none() {
    let mut installation = Installation::new();
    let server = installation.start().await;
    let robot = server.robot("hooked").await;
    let stranger = server.client().anonymous();
    let alert = json!({"id": "alert-1", "action": "buy", "qty": "0.001"});
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(stranger.post(&robot.webhook, &alert).await.unwrap().ok());
    }
    for answer in &answers {
        assert_eq!(answer["orders"], answers[0]["orders"], "a repeat is answered like the first");
    }
    let (path, _) = robot.webhook.rsplit_once('/').unwrap();
    let forged = stranger.post(&format!("{path}/{}", "A".repeat(43)), &alert).await.unwrap();
    assert!(matches!(forged.status, 401 | 404), "{}", forged.status);
    assert_eq!(server.orders().await.len(), 1);
    assert!(!server.stderr().contains(robot.webhook.rsplit('/').next().unwrap()), "a secret was logged");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn the_same_idempotency_key_across_a_restart_names_the_same_order() {
    let mut installation = Installation::new();
    let load = Load::new(&installation.scratch("answered"), "same");
    let server = installation.start().await;
    let robot = server.robot("repeated").await;
    let first = server.signal(&robot, "once").await.unwrap().ok();
    server.sigkill().await;

    let server = installation.start().await;
    let second = server.signal(&robot, "once").await.unwrap().ok();
    assert_eq!(second["orders"], first["orders"]);
    load.note(&second);
    assert_eq!(server.orders().await.len(), 1);

    let mut other = signal_body(robot.id);
    other["qty"] = json!("0.002");
    let reused = server.client().post_keyed("/api/signals", "once", &other).await.unwrap();
    assert_eq!(reused.status, 422, "the same key for another wish is refused, not answered with the old outcome");
    installation.audit(Some(load.path())).await.assert_clean("after a repeat across a restart");
    server.assert_stops_clean().await;
}

/// One line for people, naming what is wrong, and the exit code of its kind.
async fn assert_refuses(installation: &Installation, code: i32, names: &str) {
    let (exit, words) = installation.start_refused().await;
    assert_eq!(exit, Exit::Code(code), "{words}");
    assert!(words.contains(names), "it does not name {names}:\n{words}");
    assert!(!words.contains("panicked") && !words.contains("stack backtrace"), "{words}");
}

#[tokio::test]
async fn a_configuration_that_does_not_hold_together_is_refused_with_3() {
    for (name, value, key) in [
        ("HOTGO__SERVER__BODY_LIMIT_BYTES", "many", "server.body_limit_bytes"),
        ("HOTGO__SERVER__SURPRISE", "1", "surprise"),
        // The drain's 30 s inside a supervisor's 30 s: SIGKILL would race the save.
        ("HOTGO__SHUTDOWN__STOP_BUDGET_MS", "1000", "shutdown"),
    ] {
        let mut installation = Installation::new();
        installation.set(name, value);
        assert_refuses(&installation, 3, key).await;
    }
}

#[tokio::test]
async fn a_data_directory_that_is_a_file_is_refused_with_4() {
    let installation = Installation::new();
    std::fs::write(installation.data_dir(), "not a directory").unwrap();
    assert_refuses(&installation, 4, installation.data_dir().to_str().unwrap()).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_refused_with_7() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut installation = Installation::new();
    installation.bind(&address);
    assert_refuses(&installation, 7, &address).await;
}

#[tokio::test]
async fn a_damaged_database_is_refused_with_5_and_left_alone() {
    let mut installation = Installation::new();
    let server = installation.start().await;
    let robot = server.robot("damaged").await;
    server.signal(&robot, "one").await.unwrap().ok();
    server.assert_stops_clean().await;
    let mut bytes = std::fs::read(installation.database()).unwrap();
    for byte in bytes.iter_mut().skip(100).take(8_000) {
        *byte ^= 0xA5;
    }
    std::fs::write(installation.database(), &bytes).unwrap();
    assert_refuses(&installation, 5, "hotgo.db").await;
    assert_eq!(std::fs::read(installation.database()).unwrap(), bytes, "a damaged ledger is evidence");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_with_6() {
    let mut installation = Installation::new();
    installation.start().await.assert_stops_clean().await;
    newer_schema(&installation.database());
    assert_refuses(&installation, 6, "schema").await;
}

/// As a later release would leave it: one more migration in the list, one more in the version.
fn newer_schema(database: &Path) {
    let connection = rusqlite::Connection::open(database).unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (99999999999999, 'from the future', TRUE, x'00', 0)";
    connection.execute(newer, []).unwrap();
}

#[tokio::test]
async fn what_is_kept_is_kept_from_other_users() {
    let mut installation = Installation::new();
    let server = installation.start().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&installation.data_dir()), 0o700);
    assert_eq!(mode(&installation.database()) & 0o077, 0, "the ledger");
    assert_eq!(mode(&installation.data_dir().join("admin.sock")) & 0o077, 0, "the admin socket");
    for file in std::fs::read_dir(installation.data_dir()).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        let token = server.token().as_bytes();
        assert!(!bytes.windows(token.len()).any(|part| part == token), "{} holds the token", path.display());
    }
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn a_burst_of_garbage_on_the_port_leaves_the_server_serving() {
    use tokio::io::AsyncWriteExt;
    let mut installation = Installation::new();
    let server = installation.start().await;
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"\0\0\0\0\0\0\0\0", b"GET / HTTP/9.9\r\n\r\n", &vec![b'A'; 100_000]]
    {
        for _ in 0..20 {
            let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
            // The server may hang up in the middle of it, and should.
            drop(tokio::time::timeout(Duration::from_secs(2), stream.write_all(garbage)).await);
        }
    }
    assert_eq!(server.client().get("/api/health/ready").await.unwrap().status, 200);
    server.assert_stops_clean().await;
}

/// A signed request of a key with this id and token. Its time is as far ahead as may be, so that it stays timely for long.
fn signed_headers(id: &str, token: &str, body: &str, nonce: &str) -> Vec<(&'static str, String)> {
    let at = hotgo::clock::Clock::start().now().after(Duration::from_secs(4));
    let signable =
        Signable { method: "POST", path: "/api/keys", query: "", idempotency_key: b"", body: body.as_bytes() };
    vec![
        ("content-type", "application/json".into()),
        ("x-hotgo-key", id.to_owned()),
        ("x-hotgo-timestamp", at.millis().to_string()),
        ("x-hotgo-nonce", nonce.to_owned()),
        ("x-hotgo-signature", sign(token, &signable.message(at, nonce))),
    ]
}

#[tokio::test]
async fn a_signed_request_is_refused_when_it_comes_again_after_a_kill() {
    let mut installation = Installation::new();
    let server = installation.start().await;
    let new_key = json!({"name": "signer", "role": "admin", "signed": true});
    let made = server.client().post("/api/keys", &new_key).await.unwrap().ok();
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let body = json!({"name": "by signature", "role": "viewer"}).to_string();
    let headers = signed_headers(id, token, &body, "0123456789abcdef");
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let send = async |server: &Server| {
        let anonymous = server.client().anonymous();
        anonymous.request(Method::POST, "/api/keys", &headers, Some(body.clone())).await.unwrap().status
    };
    assert_eq!(send(&server).await, 201);
    assert_eq!(send(&server).await, 401);
    server.sigkill().await;
    let server = installation.start().await;
    assert_eq!(send(&server).await, 401);
    let keys = server.client().get("/api/keys").await.unwrap().ok();
    assert_eq!(list(&keys).iter().filter(|key| key["name"] == "by signature").count(), 1);
}
