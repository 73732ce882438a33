//! SIGKILL and failures at a chosen sync of the disk.
//!
//! strace counts the calls of each thread on its own: the writer of the database, the venue's ledger and the start itself are
//! swept at once, and whoever comes first to its n-th call takes the process with it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use shutdown_coordinator::testkit::Exit;
use tokio::process::Command;

use super::support::{Installation, Load, UNCLEAN, within};
use super::tools::{BUDGET, assert_recovers, number, strace, whole_trace};

const SYNCS: &str = "trace=fdatasync,fsync";

fn killing_at(n: usize) -> String {
    format!("inject=fdatasync,fsync:signal=SIGKILL:when={n}")
}

/// Every how many-th sync is tried: `HOTGO_SWEEP_STEP=1` tries them all.
fn step() -> usize {
    number("HOTGO_SWEEP_STEP", 3).max(1)
}

#[tokio::test]
async fn strace_kills_the_first_start_at_every_sync_and_the_next_one_recovers() {
    let (mut killed, mut n) = (0, 1);
    loop {
        let mut installation = Installation::new();
        let trace = installation.scratch("trace");
        installation.wrap(strace(&trace, &["-e", SYNCS, "-e", &killing_at(n)]));
        let mut server = installation.spawn();
        let came_up = server.comes_up().await;
        if came_up {
            server.sigkill().await;
        } else {
            assert_eq!(server.wait_exit(BUDGET).await, Exit::Signal(9), "sync {n}\n{}", server.stderr());
            killed += 1;
        }
        installation.wrap(Vec::<String>::new());
        assert_recovers(&mut installation, None, &format!("killed at sync {n} of the first start")).await;
        if came_up {
            break;
        }
        n += step();
    }
    assert!(killed >= 3, "only {killed} starts were killed");
}

#[tokio::test]
async fn strace_kills_at_every_sync_of_a_dozen_orders_and_nothing_is_lost() {
    let most = number("HOTGO_SWEEP_SYNCS", 30);
    let mut installation = Installation::new();
    let load = Load::new(&installation.scratch("answered"), "sync");
    let server = installation.start().await;
    let robot = server.robot("swept").await;
    server.sigkill().await;
    let mut killed = 0;
    for n in (1..=most).step_by(step()) {
        let trace = installation.scratch("trace");
        installation.wrap(strace(&trace, &["-e", SYNCS, "-e", &killing_at(n)]));
        let mut server = installation.spawn();
        if server.comes_up().await {
            load.run(&server.client(), &robot, 1, 12).await;
        }
        if server.exits_within(Duration::from_millis(200)).await {
            assert_eq!(server.wait_exit(BUDGET).await, Exit::Signal(9), "sync {n}\n{}", server.stderr());
            killed += 1;
        } else {
            server.sigkill().await;
        }
        installation.wrap(Vec::<String>::new());
        assert_recovers(&mut installation, Some(&load), &format!("killed at sync {n}")).await;
    }
    assert!(killed * 2 > most / step(), "only {killed} were killed");
    assert!(load.answered() > 0, "no signal was answered at all");
}

/// `SQLite` lets the next commit succeed after a failed sync, as if the pages had reached the disk. So the process ends.
#[tokio::test]
async fn strace_fails_a_sync_of_the_log_and_the_server_stops_sending_and_ends_with_75() {
    let mut installation = Installation::new();
    let load = Load::new(&installation.scratch("answered"), "eio");
    let server = installation.start().await;
    let robot = server.robot("eio").await;
    server.assert_stops_clean().await;

    let trace = installation.scratch("trace");
    let wal = installation.database().with_extension("db-wal");
    let failing = "inject=fdatasync,fsync:error=EIO:when=12";
    installation.wrap(strace(&trace, &["-P", wal.to_str().unwrap(), "-e", SYNCS, "-e", failing]));
    let mut server = installation.start().await;
    let client = server.client();
    let mut failed = 0;
    for _ in 0..100 {
        // A connection that fails is as good: nobody was told that it is done.
        let refused = load.send(&client, &robot).await.is_none_or(|answer| !answer.is_success());
        assert!(refused || failed == 0, "a signal was answered after the disk had failed");
        failed += u32::from(refused);
        if failed > 20 {
            break;
        }
    }
    assert_eq!(server.wait_exit(BUDGET).await, UNCLEAN, "{}", server.stderr());
    let seen = whole_trace(&trace, server.pid()).await;
    assert!(seen.contains("EIO (Input/output error) (INJECTED)"), "{seen}");
    assert!(server.stderr().contains("the store must be opened again"), "{}", server.stderr());
    assert!(load.answered() > 0, "the fault came before the first order");

    installation.wrap(Vec::<String>::new());
    installation.assert_recovers_clean(Some(load.path()), "after a sync that failed").await;
}

/// `main migrate` on this data directory.
async fn migrate(data_dir: &Path, wrapper: &[String], arguments: &[&str]) -> (Option<i32>, Value, String) {
    let mut words = wrapper.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_main")]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg("migrate").args(arguments).args(["--json", "--data-dir"]).arg(data_dir);
    let output = within(BUDGET, "main migrate ends", command.stdin(Stdio::null()).kill_on_drop(true).output()).await;
    let output = output.unwrap();
    let words = String::from_utf8_lossy(&[output.stdout.clone(), output.stderr].concat()).into_owned();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), words)
}

#[tokio::test]
async fn strace_kills_a_migration_at_every_sync_and_it_goes_on_where_it_was() {
    let scratch = tempfile::Builder::new().prefix("hotgo-").tempdir().unwrap();
    let (mut killed, mut n) = (0, 1);
    loop {
        let data_dir = scratch.path().join(n.to_string());
        let trace = scratch.path().join("trace");
        let wrapper = strace(&trace, &["-e", SYNCS, "-e", &killing_at(n)]);
        let (code, ..) = migrate(&data_dir, &wrapper, &["up"]).await;
        if data_dir.join("hotgo.db").exists() {
            // Each migration is there or not; none is half there.
            let (_, status, words) = migrate(&data_dir, &[], &["status"]).await;
            let steps = status["migrations"].as_array().cloned().unwrap_or_default();
            // Who only looks cannot roll back what is in the first journal: 776, "read-only, and to be rolled back".
            assert!(!steps.is_empty() || words.contains("776"), "killed at sync {n}: {words}");
            let applied = steps.iter().take_while(|step| step["state"] == "applied").count();
            assert!(steps[applied..].iter().all(|step| step["state"] == "pending"), "killed at sync {n}: {steps:?}");
        }
        let (resumed, _, words) = migrate(&data_dir, &[], &["up"]).await;
        assert_eq!(resumed, Some(0), "killed at sync {n}, it cannot be resumed: {words}");
        let (accepted, status, _) = migrate(&data_dir, &[], &["status"]).await;
        assert_eq!(accepted, Some(0), "killed at sync {n}: {status}");
        let tables: i64 = rusqlite::Connection::open(data_dir.join("hotgo.db"))
            .unwrap()
            .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0))
            .unwrap();
        assert!(tables > 10, "killed at sync {n}: only {tables} tables");
        if code == Some(0) {
            break;
        }
        killed += 1;
        n += step();
        assert!(n < 200, "it never ends");
    }
    assert!(killed >= 2, "only {killed} migrations were killed");
}
