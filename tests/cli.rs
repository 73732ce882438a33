//! The real binary: what it prints, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hotgo::admin::client::{AdminClient, ClientError};
use hotgo::admin::{
    AdminError, AdminSocket, AdminState, FaultControl, Loopback, PhaseReport, PhaseState, SOCKET_NAME, StatusReport,
    serve,
};
use hotgo::store::migrate::{SCHEMA_MAX, SCHEMA_MIN};
use hotgo::telemetry::recorder;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// The binary with nothing of this environment, and a limit in time.
fn main_in(dir: &Path, args: &[&str]) -> Output {
    main_with(dir, args, &[])
}

fn main_with(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new("timeout")
        .arg("20")
        .arg(env!("CARGO_BIN_EXE_main"))
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn ends_with(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout:\n{}\nstderr:\n{}", stdout(output), stderr(output));
}

#[test]
fn version_as_json_names_the_build_and_the_schemas_it_works_on() {
    let dir = TempDir::new().unwrap();
    let output = main_in(dir.path(), &["--version", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success());
    assert!(told["build_id"].as_str().unwrap().starts_with(env!("CARGO_PKG_VERSION")), "{told}");
    assert_eq!(told["schema"], json!({ "min": SCHEMA_MIN, "max": SCHEMA_MAX }));
}

#[test]
fn version_names_the_build() {
    let dir = TempDir::new().unwrap();
    let output = main_in(dir.path(), &["--version"]);
    ends_with(&output, 0);
    assert_eq!(stdout(&output).trim(), format!("main {}", hotgo::build_info::BUILD_ID));
    assert!(stdout(&output).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_names_every_command_and_every_exit_code() {
    let dir = TempDir::new().unwrap();
    let output = main_in(dir.path(), &["--help"]);
    ends_with(&output, 0);
    let text = stdout(&output);
    for command in ["http", "migrate", "check", "audit", "status", "venue", "replay"] {
        assert!(text.contains(&format!("\n  {command} ")), "{command} is missing in:\n{text}");
    }
    for code in hotgo::cli::ExitCode::ALL {
        assert!(text.contains(code.meaning()), "{code:?} is missing in:\n{text}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let dir = TempDir::new().unwrap();
    for args in [&["htpp"][..], &[], &["http", "--bind", "nowhere"], &["status", "--no-such-flag"]] {
        ends_with(&main_in(dir.path(), args), 2);
    }
}

#[test]
fn check_prints_values_origins_and_plan_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let env = [("HOTGO__TRADING__QUEUE", "77")];
    let output = main_with(dir.path(), &["check"], &env);
    ends_with(&output, 0);
    let text = stdout(&output);
    assert!(
        text.lines().any(|line| line.contains("trading.queue")
            && line.contains("77")
            && line.contains("HOTGO__TRADING__QUEUE")),
        "{text}"
    );
    assert!(text.contains("order-drain") && text.contains("close-stores") && text.contains("fits"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours without a terminal");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "check made a file");

    let output = main_with(dir.path(), &["check", "--json"], &env);
    ends_with(&output, 0);
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(answer["plan"].as_array().unwrap().len(), 7);
    assert!(
        answer["config"]
            .as_array()
            .unwrap()
            .iter()
            .any(|setting| setting["key"] == "trading.queue" && setting["value"] == "77")
    );
}

#[test]
fn check_reads_the_accounts_secrets_and_shows_none() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    let with = |content: &str| {
        std::fs::write(&secret, content).unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let account = format!("[{{label: real, venue: binance, api_key: TheKey, secret_file: {}}}]", secret.display());
        main_with(dir.path(), &["check"], &[("HOTGO__TRADING__ACCOUNTS", &account)])
    };
    let output = with("TheSecret");
    ends_with(&output, 0);
    let text = stdout(&output);
    assert!(text.contains("real: binance at https://api.binance.com, HMAC-SHA256 key"), "{text}");
    assert!(!text.contains("TheSecret") && !text.contains("TheKey"), "{text}");
    let output = with("two words");
    ends_with(&output, 3);
    assert!(stderr(&output).contains("trading.accounts[0].secret_file"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("two words"));
}

#[test]
fn colours_can_be_forced() {
    let dir = TempDir::new().unwrap();
    assert!(stdout(&main_in(dir.path(), &["check", "--color", "always"])).contains('\u{1b}'));
}

#[test]
fn a_refused_configuration_ends_with_3_and_names_every_problem() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("config.yaml"), "server:\n  bnid: x\ntrading:\n  queue: 0\n").unwrap();
    let config = dir.path().to_str().unwrap();
    for command in ["http", "check", "status", "migrate"] {
        let output = main_in(dir.path(), &[command, "--config", config]);
        ends_with(&output, 3);
        let text = stderr(&output);
        assert!(
            text.starts_with("error:") && text.contains("server.bnid") && text.contains("trading.queue = 0"),
            "{text}"
        );
        assert!(text.contains("\n help: "), "{text}");
        assert!(!text.contains("panicked"));
    }
    let output = main_in(dir.path(), &["check", "--json", "--config", config]);
    ends_with(&output, 3);
    let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(error["exit_code"], 3);
    ends_with(&main_with(dir.path(), &["check"], &[("GF_GCFG_PATH", "/nonexistent")]), 3);
    ends_with(&main_with(dir.path(), &["check"], &[("HOTGO__NO__SUCH", "1")]), 3);
}

#[test]
fn a_data_directory_that_cannot_be_written_ends_with_4() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("data"), "a file, not a directory").unwrap();
    let output = main_in(dir.path(), &["check"]);
    ends_with(&output, 4);
    assert!(stderr(&output).contains("data_dir = data"), "{}", stderr(&output));
}

#[test]
fn migrate_lists_then_applies_then_has_nothing_left() {
    let dir = TempDir::new().unwrap();
    let database = dir.path().join("data/hotgo.db");

    let output = main_in(dir.path(), &["migrate", "--dry-run"]);
    ends_with(&output, 0);
    assert!(stdout(&output).contains("would apply"), "{}", stdout(&output));
    assert!(!database.exists(), "a dry run made the database");

    let output = main_in(dir.path(), &["migrate", "status"]);
    ends_with(&output, 0);
    assert!(
        stdout(&output).contains("pending") && stdout(&output).contains("does not exist yet"),
        "{}",
        stdout(&output)
    );

    let output = main_in(dir.path(), &["migrate"]);
    ends_with(&output, 0);
    assert!(stdout(&output).contains("applied 1"), "{}", stdout(&output));
    assert!(database.exists());

    let output = main_in(dir.path(), &["migrate", "up"]);
    ends_with(&output, 0);
    assert!(stdout(&output).contains("nothing to apply"), "{}", stdout(&output));

    let output = main_in(dir.path(), &["migrate", "status", "--json"]);
    ends_with(&output, 0);
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(answer["migrations"].as_array().unwrap().iter().all(|step| step["state"] == "applied"), "{answer}");
    ends_with(&main_in(dir.path(), &["check"]), 0);
}

#[test]
fn a_newer_schema_ends_with_6_and_a_damaged_database_with_5() {
    let dir = TempDir::new().unwrap();
    ends_with(&main_in(dir.path(), &["migrate"]), 0);
    let database = dir.path().join("data/hotgo.db");
    let conn = rusqlite::Connection::open(&database).unwrap();
    conn.execute(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'far', 1, x'00', 0)",
        [],
    )
    .unwrap();
    conn.close().unwrap();
    for args in [&["migrate", "status"][..], &["migrate", "up"], &["check"]] {
        let output = main_in(dir.path(), args);
        ends_with(&output, 6);
        assert!(stderr(&output).contains("999") && stderr(&output).contains("newer release"), "{}", stderr(&output));
    }
    std::fs::write(&database, b"this is no database, but it is long enough to have a header of its own").unwrap();
    ends_with(&main_in(dir.path(), &["check"]), 5);
}

#[test]
fn audit_needs_both_ledgers_and_calls_a_damaged_one_damaged() {
    let dir = TempDir::new().unwrap();
    let output = main_in(dir.path(), &["audit"]);
    ends_with(&output, 4);
    assert!(stderr(&output).contains("no database at data/hotgo.db"), "{}", stderr(&output));
    ends_with(&main_in(dir.path(), &["migrate"]), 0);
    let output = main_in(dir.path(), &["audit"]);
    ends_with(&output, 4);
    assert!(stderr(&output).contains("no ledger at data/venue.ledger"), "{}", stderr(&output));

    let ledger = dir.path().join("data/venue.ledger");
    std::fs::write(&ledger, "").unwrap();
    let output = main_in(dir.path(), &["audit", "--json"]);
    ends_with(&output, 0);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&report["lost"], &report["doubled"]), (&json!(0), &json!(0)));

    std::fs::write(&ledger, "nonsense\nnonsense\n").unwrap();
    ends_with(&main_in(dir.path(), &["audit"]), 5);
}

#[test]
fn replay_refuses_a_file_that_says_nothing_about_its_kind_or_symbol() {
    let dir = TempDir::new().unwrap();
    ends_with(&main_in(dir.path(), &["replay", "prices.csv"]), 2);
    let output = main_in(dir.path(), &["replay", "BTCUSDT-trades-2025-11-01.csv"]);
    ends_with(&output, 2);
    assert!(stderr(&output).contains("bookTicker file of the same day"), "{}", stderr(&output));
    let output = main_in(dir.path(), &["replay", "BTCUSDT-bookTicker-2025-11-01.csv"]);
    ends_with(&output, 3);
    assert!(stderr(&output).contains("no such file"), "{}", stderr(&output));
    std::fs::write(dir.path().join("DOGEUSDT-bookTicker.csv"), "").unwrap();
    let output = main_in(dir.path(), &["replay", "DOGEUSDT-bookTicker.csv"]);
    ends_with(&output, 3);
    assert!(stderr(&output).contains("flag FILE: market.replay.symbol"), "{}", stderr(&output));
}

#[test]
fn replay_trades_recorded_prices_and_ends_with_a_clean_audit() {
    let dir = TempDir::new().unwrap();
    let recorded = |name| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let book = recorded("BTCUSDT-bookTicker-2025-03-25.csv");
    let trades = recorded("BTCUSDT-trades-2025-03-25.csv");
    let (book, trades) = (book.to_string_lossy(), trades.to_string_lossy());
    let output = main_in(dir.path(), &["replay", &book, &trades, "--speed", "100"]);
    ends_with(&output, 0);
    let said = stdout(&output);
    assert!(said.contains("lost 0, doubled 0"), "{said}");
    let compared = said.lines().find(|line| line.starts_with("compared ")).unwrap();
    assert!(!compared.starts_with("compared 0 orders") && !compared.contains(" 0 fills"), "{said}");
}

#[test]
fn status_without_a_server_ends_with_10_and_says_what_to_do() {
    let dir = TempDir::new().unwrap();
    let output = main_in(dir.path(), &["status"]);
    ends_with(&output, 10);
    assert!(
        stderr(&output).contains("data/admin.sock") && stderr(&output).contains("help: start it"),
        "{}",
        stderr(&output)
    );
}

/// A private listener in this test process, over a data directory of its own.
struct Server {
    dir: TempDir,
    stop: CancellationToken,
    serving: tokio::task::JoinSet<Result<(), AdminError>>,
    reasons: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(loopback: Option<Loopback>, allow_faults: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let reasons = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::clone(&reasons);
        let current = Arc::new(Mutex::new(json!({})));
        let get = Arc::clone(&current);
        let faults = FaultControl {
            get: Arc::new(move || get.lock().unwrap().clone()),
            set: Arc::new(move |bytes| {
                *current.lock().unwrap() = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
                Ok(())
            }),
        };
        let state = AdminState {
            status: Arc::new(|| StatusReport {
                build_id: "0.1.0+test".to_owned(),
                pid: 7,
                phase: "order-drain".to_owned(),
                phases: vec![PhaseReport { name: "order-drain".to_owned(), state: PhaseState::Running }],
                ..StatusReport::default()
            }),
            plan: Arc::new(|| json!({ "phases": 7 })),
            shutdown: Arc::new(move |reason| {
                let mut reasons = asked.lock().unwrap();
                reasons.push(reason);
                reasons.len() == 1
            }),
            metrics: recorder().unwrap().handle(),
            publish_metrics: Arc::new(|| {}),
            faults: allow_faults.then_some(faults),
            upgrade: None,
            notices: None,
        };
        let socket = AdminSocket::bind(&dir.path().join(SOCKET_NAME)).await.unwrap();
        let stop = CancellationToken::new();
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(serve(socket, loopback, state, stop.clone()));
        Self { dir, stop, serving, reasons }
    }

    fn client(&self) -> AdminClient {
        AdminClient::new(&self.dir.path().join(SOCKET_NAME), Duration::from_secs(5))
    }

    async fn end(mut self) -> TempDir {
        self.stop.cancel();
        let joined = tokio::time::timeout(Duration::from_secs(5), self.serving.join_next()).await;
        joined.expect("the listener ends in time").unwrap().unwrap().unwrap();
        self.dir
    }
}

#[tokio::test]
async fn the_socket_answers_status_plan_and_metrics_and_is_ours_alone() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start(None, false).await;
    let client = server.client();
    assert_eq!(client.status().await.unwrap().phase, "order-drain");
    assert_eq!(client.get::<Value>("/plan").await.unwrap(), json!({ "phases": 7 }));
    assert!(client.get_bytes("/metrics").await.is_ok());
    let mode = std::fs::metadata(server.dir.path().join("admin.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let dir = server.end().await;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the socket file is left behind");
}

#[tokio::test]
async fn shutdown_is_triggered_once_with_its_reason() {
    let server = Server::start(None, false).await;
    let client = server.client();
    assert!(client.shutdown("maintenance").await.unwrap());
    assert!(!client.shutdown("again").await.unwrap());
    assert_eq!(*server.reasons.lock().unwrap(), ["maintenance", "again"]);
    let refused = client.post("/shutdown", &json!({ "reason": "x", "now": true })).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status, .. } if status.is_client_error()), "{refused}");
    server.end().await;
}

#[tokio::test]
async fn faults_exist_only_where_they_are_allowed() {
    let server = Server::start(None, false).await;
    let refused = server.client().post("/faults", &json!({})).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status, .. } if status == 404), "{refused}");
    server.end().await;

    let server = Server::start(None, true).await;
    let client = server.client();
    client.post("/faults", &json!({ "drop_answers": 3 })).await.unwrap();
    assert_eq!(client.get::<Value>("/faults").await.unwrap(), json!({ "drop_answers": 3 }));
    server.end().await;
}

#[tokio::test]
async fn a_private_port_of_another_process_is_taken_once_it_is_free_and_the_socket_answers_all_the_time() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let refused = Loopback::bind(address, false).await.unwrap_err();
    assert!(matches!(refused, AdminError::Tcp { address: named, .. } if named == address), "{refused}");
    let server = Server::start(Some(Loopback::bind(address, true).await.unwrap()), false).await;
    assert_eq!(server.client().status().await.unwrap().pid, 7);
    drop(other);
    let taken = async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), taken).await.expect("the port is taken once it is free");
    assert_eq!(server.client().status().await.unwrap().pid, 7);
    server.end().await;
}

#[tokio::test]
async fn whoever_waits_for_a_private_port_stops_all_the_same() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let loopback = Loopback::bind(other.local_addr().unwrap(), true).await.unwrap();
    Server::start(Some(loopback), false).await.end().await;
}

#[test]
fn a_private_port_that_is_taken_keeps_a_server_that_is_alone_from_starting() {
    let dir = TempDir::new().unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let output = main_with(dir.path(), &["http", "--bind", "127.0.0.1:0"], &[("HOTGO__ADMIN__BIND", &address)]);
    assert!(!output.status.success());
    let said = stderr(&output);
    assert!(said.contains(&format!("admin.bind = {address}: cannot listen there")), "{said}");
}

#[tokio::test]
async fn status_names_the_sockets_of_slots() {
    let server = Server::start(None, false).await;
    let dir = server.dir.path().to_owned();
    let configured = dir.join("other.sock");
    let env = [("HOTGO__ADMIN__SOCKET", configured.to_str().unwrap().to_owned())];
    let asked = dir.clone();
    let output = tokio::task::spawn_blocking(move || {
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        main_with(&asked, &["status"], &env)
    });
    let output = output.await.unwrap();
    ends_with(&output, 10);
    let there = dir.join(SOCKET_NAME);
    let help = format!("help: there is {}", there.display());
    assert!(stderr(&output).contains(&help) && stderr(&output).contains("--socket"), "{}", stderr(&output));
    server.end().await;
}

#[tokio::test]
async fn the_loopback_listener_reads_and_changes_nothing() {
    // The kernel names a free port; the listener takes it a moment later.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let loopback = Loopback::bind(address, false).await.unwrap();
    let server = Server::start(Some(loopback), true).await;
    let ask = |request: String| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = loop {
            match tokio::net::TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    };
    let get = |path: &str| ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    let post = |path: &str, body: &str| {
        let length = body.len();
        ask(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ))
    };
    let all = async {
        for path in ["/metrics", "/status", "/plan"] {
            assert_eq!(get(path).await, "HTTP/1.1 200 OK", "{path}");
        }
        assert_eq!(get("/faults").await, "HTTP/1.1 404 Not Found");
        assert_eq!(post("/faults", "{}").await, "HTTP/1.1 404 Not Found");
        assert_eq!(post("/shutdown", "{\"reason\":\"x\"}").await, "HTTP/1.1 404 Not Found");
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
    assert!(server.reasons.lock().unwrap().is_empty());
    server.end().await;
}

#[tokio::test]
async fn a_dead_processs_socket_is_replaced_and_a_living_ones_is_not() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a dead process leaves its file");
    let living = AdminSocket::bind(&dir.path().join(SOCKET_NAME)).await.unwrap();
    let refused = AdminSocket::bind(&dir.path().join(SOCKET_NAME)).await.unwrap_err();
    assert!(matches!(&refused, AdminError::InUse(at) if *at == path), "{refused}");
    drop(living);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_silent_server_costs_the_client_no_more_than_its_limit() {
    let dir = TempDir::new().unwrap();
    let _silent = std::os::unix::net::UnixListener::bind(dir.path().join("admin.sock")).unwrap();
    let client = AdminClient::new(&dir.path().join(SOCKET_NAME), Duration::from_millis(50));
    assert!(matches!(client.status().await.unwrap_err(), ClientError::Timeout(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_asks_the_socket_that_it_is_given() {
    let server = Server::start(None, false).await;
    let elsewhere = TempDir::new().unwrap();
    let socket = server.dir.path().join(SOCKET_NAME);
    let (words, dir) = (socket.to_str().unwrap().to_owned(), elsewhere.path().to_owned());
    let output = tokio::task::spawn_blocking(move || main_in(&dir, &["status", "--json", "--socket", &words]));
    let output = output.await.unwrap();
    let report: StatusReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.success(), report.pid), (true, 7));
}

#[tokio::test]
async fn status_watch_prints_lines_and_ends_with_the_server() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let server = Server::start(None, false).await;
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_main"))
        .args(["status", "--watch", "--data-dir"])
        .arg(server.dir.path())
        .current_dir(server.dir.path())
        .env_clear()
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(first.starts_with("order-drain  not ready"), "{first}");
    let _dir = server.end().await;
    let last = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await.unwrap().unwrap().unwrap();
    assert_eq!(last, "the server is gone");
    let status = tokio::time::timeout(Duration::from_secs(10), child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}
