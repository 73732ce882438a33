//! SIGHUP.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use shutdown_coordinator::testkit::Signal;
use tokio::net::UnixDatagram;
use tokio::process::Command;

use super::support::{Installation, Server, eventually, within};
use super::tools::BUDGET;

const GOOD: &str = "log: {filter: info}\n";

/// An installation with a configuration file of its own.
fn with_file() -> (Installation, PathBuf) {
    let mut installation = Installation::new();
    installation.unset("HOTGO__LOG__FILTER");
    let directory = installation.scratch("config");
    std::fs::create_dir(&directory).unwrap();
    let file = directory.join("config.yaml");
    std::fs::write(&file, GOOD).unwrap();
    installation.set("HOTGO_CONFIG", directory.to_str().unwrap());
    (installation, file)
}

/// SIGHUP, and what the status says of it. `nth` counts from 1.
async fn reloaded(server: &Server, nth: usize) -> Value {
    server.signal_process(Signal::Hup);
    let said = "configuration reloaded";
    let refused = "configuration not reloaded";
    let heard = async || {
        let log = server.stderr();
        (log.matches(said).count() + log.matches(refused).count() >= nth).then_some(())
    };
    eventually(Duration::from_secs(10), "the reload is logged", heard).await;
    let status = async || {
        let last = server.admin().get("/status").await.ok()?.json()["last_reload"].clone();
        last.is_object().then_some(last)
    };
    eventually(Duration::from_secs(5), "the reload is in the status", status).await
}

#[tokio::test]
async fn an_invalid_configuration_changes_nothing_and_is_seen_in_log_and_status() {
    let (mut installation, file) = with_file();
    let server = installation.start().await;
    let robot = server.robot("reloaded").await;
    let cases = [
        ("log: {filter: 'no=such=level'}\n", "log.filter"),
        ("log: {filter: debug}\ntrading: {limits: {max_open_orders: 0}}\n", "trading.limits.max_open_orders"),
        ("log: {filter: debug}\nserver: {bind: 127.0.0.1:1, surprise: 1}\n", "server.surprise"),
        ("log: {filter: debug}\ntrading: {queue: 7}\n", "trading.queue"),
        ("log: {filter: debug}\nshutdown: {hold_ms: 1}\nmarket: {seed: 5}\n", "market.seed"),
        (": :\n\t- [", "config.yaml"),
    ];
    for (nth, (text, key)) in cases.iter().enumerate() {
        std::fs::write(&file, text).unwrap();
        let last = reloaded(&server, nth + 1).await;
        assert_eq!(last["ok"], false, "{key}: {last}");
        assert!(last["detail"].as_str().unwrap().contains(key), "{key} is not named: {last}");
        let log = server.stderr();
        let line = log.lines().rfind(|line| line.contains("configuration not reloaded")).unwrap();
        assert!(line.contains("ERROR") && line.contains(key), "{key} is not named at error level: {line}");
        assert!(!log.contains("DEBUG"), "half of a refused configuration is in force");
    }
    // Visible where people look, too.
    let mut command = Command::new(env!("CARGO_BIN_EXE_main"));
    command.args(["status", "--data-dir"]).arg(installation.data_dir());
    let shown = within(BUDGET, "main status ends", command.output()).await.unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("reload    refused"), "{shown}");

    server.signal(&robot, "after").await.unwrap().ok();
    std::fs::write(&file, GOOD).unwrap();
    let last = reloaded(&server, cases.len() + 1).await;
    assert_eq!(last["ok"], true, "{last}");
    installation.audit(None).await.assert_clean("after refused reloads");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn a_valid_configuration_changes_the_log_filter_and_the_limits_of_a_running_server() {
    let (mut installation, file) = with_file();
    let server = installation.start().await;
    let robot = server.robot("limited").await;
    server.signal(&robot, "small-enough").await.unwrap().ok();
    assert!(!server.stderr().contains("DEBUG"));
    std::fs::write(&file, "log: {filter: debug}\ntrading: {limits: {max_order_notional: \"1\"}}\n").unwrap();
    let last = reloaded(&server, 1).await;
    assert_eq!(last["ok"], true, "{last}");
    for key in ["log.filter", "trading.limits.max_order_notional"] {
        assert!(last["detail"].as_str().unwrap().contains(key), "{key}: {last}");
    }
    let refused = server.signal(&robot, "too-large-now").await.unwrap();
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(server.stderr().contains("DEBUG"), "the filter is not in force");

    std::fs::write(&file, GOOD).unwrap();
    assert_eq!(reloaded(&server, 2).await["ok"], true);
    server.signal(&robot, "allowed-again").await.unwrap().ok();
    let held = server.orders().await;
    assert!(!held.is_empty(), "{}", json!(held));
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn systemd_hears_when_a_reload_begins_and_ends() {
    let (mut installation, _file) = with_file();
    let socket = installation.scratch("notify");
    let bus = UnixDatagram::bind(&socket).unwrap();
    installation.set("NOTIFY_SOCKET", socket.to_str().unwrap());
    let server = installation.start().await;
    let hears = async |line: &str| {
        let mut buffer = vec![0; 4_096];
        loop {
            let length = bus.recv(&mut buffer).await.unwrap();
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|said| said == line) {
                return;
            }
        }
    };
    within(BUDGET, "READY=1 at the start", hears("READY=1")).await;
    assert_eq!(reloaded(&server, 1).await["detail"], "nothing has changed");
    within(BUDGET, "RELOADING=1", hears("RELOADING=1")).await;
    within(BUDGET, "READY=1 at the end", hears("READY=1")).await;
    server.assert_stops_clean().await;
}
