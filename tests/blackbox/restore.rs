//! Backups that were restored: a ledger that is older than the account refuses to trade, and names an order that it lacks.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::audit::{Verdict, audit};
use crate::support::postgres::{self, Postgres};
use crate::support::server::Robot;
use crate::support::{Installation, Server, eventually};
use serde_json::{Value, json};

/// A dump holds the leases of the moment: they have to expire first.
const LIMIT: Duration = Duration::from_mins(1);

fn sqlite3(database: &Path, statement: &str) {
    let run = Command::new("sqlite3").arg("-readonly").arg(database).arg(statement).stdin(Stdio::null()).output();
    let run = run.expect("sqlite3 is needed (Debian: apt-get install sqlite3)");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

/// The command of docs/operations.md, beside a server that works.
fn back_up(home: &Installation, to: &Path) {
    sqlite3(&home.database(), &format!("VACUUM INTO '{}'", to.display()));
}

fn restore(home: &Installation, from: &Path) {
    for log in ["hotgo.db-wal", "hotgo.db-shm"] {
        let _none = fs::remove_file(home.data_dir().join(log));
    }
    fs::copy(from, home.database()).unwrap();
}

async fn filled(server: &Server, robot: &Robot, key: &str) -> String {
    let answer = server.signal(robot, key).await.unwrap().ok();
    let id = answer["orders"][0].as_str().unwrap().to_owned();
    server.order_that("it is filled", |order| order["client_id"] == *id && order["status"] == "FILLED").await;
    id
}

async fn resting(server: &Server, robot: &Robot, key: &str) -> String {
    let wish =
        json!({"robot": robot.id, "action": "buy", "qty": "0.001", "order": {"type": "limit", "price": "50000"}});
    let answer = server.client().post_keyed("/api/signals", key, &wish).await.unwrap().ok();
    let id = answer["orders"][0].as_str().unwrap().to_owned();
    server.order_that("it rests", |order| order["client_id"] == *id && order["status"] == "OPEN").await;
    id
}

/// One look: nothing moves any more.
async fn audited(home: &Installation) -> Verdict {
    let settings = home.settings().iter().filter(|(name, _)| name.starts_with("HOTGO__"));
    audit(&home.data_dir(), settings, None, None, Duration::ZERO).await
}

/// How many requests for orders the venue has received.
async fn requests(home: &Installation) -> u64 {
    audited(home).await.json["counts"]["venue_posts"].as_u64().unwrap()
}

async fn status(home: &Installation) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_main"));
    command.arg("status").arg("--data-dir").arg(home.data_dir()).stdin(Stdio::null());
    for (name, value) in home.settings().iter().filter(|(name, _)| name.starts_with("HOTGO__")) {
        command.env(name, value);
    }
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Starts on a ledger that lacks these orders: nothing is traded, and everything that can be asked names one of them.
async fn assert_refuses_to_trade(home: &mut Installation, robot: &Robot, missing: &[String]) {
    let sent = requests(home).await;
    let mut server = home.spawn();
    server.wait_listening().await;
    home.admit(&mut server);
    let account = async || {
        let health = server.client().anonymous().get("/api/health").await.ok()?;
        let (code, health) = (health.status, health.json());
        let checks = health["checks"].as_array()?;
        let account = checks.iter().find(|check| check["name"] == "account:main")?;
        let detail = account["detail"].as_str()?.to_owned();
        (detail.starts_with("quarantined: ") && code == 503).then_some(detail)
    };
    let detail = eventually(LIMIT, "the account is quarantined", account).await;
    let named =
        |text: &str| missing.iter().any(|id| text.contains(id.as_str())) && text.contains("Restore the newest ledger");
    assert!(named(&detail), "{detail}");
    let shown = status(home).await;
    assert!(shown.contains("main quarantined") && named(&shown), "{shown}");
    let log = server.stderr();
    assert!(log.contains("account quarantined") && named(&log), "{log}");
    assert!(!log.contains("account ready"), "it was ready for a moment:\n{log}");

    let refused = server.signal(robot, "while-quarantined").await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.json());
    let ready = server.client().anonymous().get("/api/health/ready").await.unwrap();
    assert_eq!(ready.status, 503);
    server.sigterm();
    server.wait_exit(LIMIT).await;
    let verdict = audited(home).await;
    assert_eq!(verdict.code, 8, "{}", verdict.text);
    for id in missing {
        let c1 = |finding: &Value| finding["check"] == 1 && finding["what"].as_str().unwrap().contains(id.as_str());
        assert!(verdict.json["findings"].as_array().unwrap().iter().any(c1), "{id} is not named:\n{}", verdict.text);
    }
    assert_eq!(requests(home).await, sent, "nothing was sent");
}

#[tokio::test]
async fn a_backup_taken_beside_a_working_server_is_whole_and_is_traded_on_if_nothing_happened_since() {
    let mut home = Installation::new();
    let server = home.start().await;
    let robot = server.robot("saver").await;
    let load = async {
        for n in 0..40 {
            server.signal(&robot, &format!("load-{n}")).await.unwrap().ok();
        }
    };
    let copies = async {
        for n in 0..3 {
            let backup = home.scratch(&format!("backup-{n}.db"));
            back_up(&home, &backup);
            let conn = rusqlite::Connection::open(&backup).unwrap();
            let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(check, "ok");
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(load, copies);
    filled(&server, &robot, "last").await;
    let backup = home.scratch("backup.db");
    back_up(&home, &backup);
    server.assert_stops_clean().await;
    restore(&home, &backup);
    let server = home.start().await;
    filled(&server, &robot, "next").await;
    server.assert_stops_clean().await;
    home.audit(None).await.assert_clean("on a backup that lacks nothing");
}

#[tokio::test]
async fn a_file_that_lacks_orders_that_were_filled_or_rest_is_not_traded_on_and_the_newest_one_is() {
    let mut home = Installation::new();
    let server = home.start().await;
    let robot = server.robot("saver").await;
    filled(&server, &robot, "known").await;
    let (before, between, newest) = (home.scratch("before.db"), home.scratch("between.db"), home.scratch("newest.db"));
    back_up(&home, &before);
    let lost = filled(&server, &robot, "lost").await;
    back_up(&home, &between);
    let rests = resting(&server, &robot, "rests").await;
    server.assert_stops_clean().await;
    fs::copy(home.database(), &newest).unwrap();

    restore(&home, &between);
    assert_refuses_to_trade(&mut home, &robot, std::slice::from_ref(&rests)).await;
    restore(&home, &before);
    assert_refuses_to_trade(&mut home, &robot, &[lost, rests]).await;
    restore(&home, &newest);
    let server = home.start().await;
    filled(&server, &robot, "again").await;
    server.assert_stops_clean().await;
    home.audit(None).await.assert_clean("on the newest ledger");
}

/// The commands of docs/operations.md: into a database of its own, while a server works on the first.
fn dump(from: &str, to: &Path) {
    let mut dump = postgres::program("pg_dump");
    let dumped = dump.args(["--format=custom", "--dbname", from]).stdout(fs::File::create(to).unwrap());
    let dumped = dumped.stderr(Stdio::inherit()).status().unwrap();
    assert!(dumped.success());
}

fn pg_restore(from: &Path, to: &str) {
    let mut restore = postgres::program("pg_restore");
    let restored = restore.args(["--exit-on-error", "--single-transaction", "--no-owner", "--dbname", to]);
    let restored = restored.stdin(fs::File::open(from).unwrap()).status().unwrap();
    assert!(restored.success());
}

#[tokio::test]
async fn a_dump_of_a_server_that_lacks_orders_is_not_traded_on_and_one_that_lacks_none_is() {
    let target = Postgres::start();
    let mut home = Installation::new();
    home.set("HOTGO__STORE__URL", &target.url());
    let server = home.start().await;
    let robot = server.robot("saver").await;
    filled(&server, &robot, "known").await;
    let (old, new) = (home.scratch("old.dump"), home.scratch("new.dump"));
    dump(&target.url(), &old);
    let lost = filled(&server, &robot, "lost").await;
    let rests = resting(&server, &robot, "rests").await;
    dump(&target.url(), &new);
    server.assert_stops_clean().await;

    let restored = target.new_database_like("template0").await;
    pg_restore(&old, &target.url_of(&restored));
    home.set("HOTGO__STORE__URL", &target.url_of(&restored));
    assert_refuses_to_trade(&mut home, &robot, &[lost, rests]).await;

    let restored = target.new_database_like("template0").await;
    pg_restore(&new, &target.url_of(&restored));
    home.set("HOTGO__STORE__URL", &target.url_of(&restored));
    let server = home.start().await;
    let own = async || (server.admin().get("/status").await.ok()?.json()["engines"][0]["ready"] == true).then_some(());
    eventually(LIMIT, "the leases of the dump have expired", own).await;
    filled(&server, &robot, "again").await;
    server.assert_stops_clean().await;
    home.audit(None).await.assert_clean("on the newest dump");
}
