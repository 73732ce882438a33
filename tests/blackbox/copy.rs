//! `main migrate copy` as whoever moves a ledger meets it: the real binary, trading before and after, and a PostgreSQL that
//! is the test's own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::support::postgres::Postgres;
use crate::support::server::{list, signal_body};
use crate::support::{Installation, Server, eventually, within};
use serde_json::{Value, json};
use shutdown_coordinator::testkit::{Exit, Process};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_mins(1);

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ended {
    #[track_caller]
    fn with(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing in:\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

fn command(from: &str, to: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_main"));
    command.args(["migrate", "copy", "--from", from, "--to", to]).args(more).stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(from: &str, to: &str, more: &[&str]) -> Ended {
    let output = within(LIMIT, "the copy ends", command(from, to, more).output()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

fn file(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

fn resting(robot: i64) -> Value {
    json!({"robot": robot, "action": "buy", "qty": "0.001", "order": {"type": "limit", "price": "50000"}})
}

/// How many rows there are, in all tables together; none if there is no schema.
async fn rows(server: &Postgres, database: &str) -> u64 {
    use sqlx::Connection as _;
    let mut conn = sqlx::PgConnection::connect(&server.url_of(database)).await.unwrap();
    let tables = "SELECT tablename::text FROM pg_tables WHERE tablename LIKE 'hg\\_%'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut conn).await.unwrap();
    let mut rows = 0;
    for table in tables {
        let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let count: i64 = sqlx::query_scalar(count).fetch_one(&mut conn).await.unwrap();
        rows += u64::try_from(count).unwrap();
    }
    conn.close().await.unwrap();
    rows
}

/// Trades a little: filled orders, one that rests, one that was refused, and an audited act.
async fn trade(server: &Server) -> crate::support::server::Robot {
    let robot = server.robot("mover").await;
    for n in 0..5 {
        server.signal(&robot, &format!("before-{n}")).await.unwrap().ok();
    }
    let rests = server.client().post_keyed("/api/signals", "rests", &resting(robot.id)).await.unwrap().ok();
    assert_eq!(rests["outcome"], "done", "{rests}");
    let webhook = json!({"id": "alert \u{E000} \\ \\N é", "action": "buy", "qty": "0.001"});
    server.client().anonymous().post(&robot.webhook, &webhook).await.unwrap().ok();
    server.order_that("an order rests", |order| order["status"] == "OPEN").await;
    server.client().post("/api/keys", &json!({"name": "desk", "role": "viewer"})).await.unwrap().ok();
    robot
}

async fn fills(server: &Server) -> Vec<Value> {
    list(&server.client().get("/api/fills?limit=500").await.unwrap().ok())
}

async fn epoch(server: &Server) -> i64 {
    server.admin().get("/status").await.unwrap().json()["engines"][0]["epoch"].as_i64().unwrap()
}

#[tokio::test]
async fn a_ledger_moves_to_a_server_and_is_traded_on_as_if_nothing_had_happened() {
    let mut home = Installation::new();
    let first = home.start().await;
    let robot = trade(&first).await;
    let (orders, filled, held) = (first.orders().await, fills(&first).await, epoch(&first).await);
    let answer = first.signal(&robot, "before-0").await.unwrap().ok();
    first.assert_stops_clean().await;

    let target = Postgres::start();
    let copied = run(&file(&home.database()), &target.url(), &[]).await;
    copied.with(0, &[]);
    for part in
        ["hg_trading_order", "hg_trading_event", "the same on both sides", "venue.ledger", "account main stays bound"]
    {
        assert!(copied.stdout.contains(part), "{part:?} is missing in:\n{}", copied.stdout);
    }

    home.set("HOTGO__STORE__URL", &target.url());
    let second = home.start().await;
    assert_eq!(second.orders().await, orders, "every order is there as it was");
    assert_eq!(fills(&second).await, filled);
    assert!(epoch(&second).await > held, "the epoch goes on");
    assert_eq!(second.signal(&robot, "before-0").await.unwrap().ok(), answer, "what was decided stays decided");
    for n in 0..3 {
        second.signal(&robot, &format!("after-{n}")).await.unwrap().ok();
    }
    let more = async || (fills(&second).await.len() == filled.len() + 3).then_some(());
    eventually(LIMIT, "the new orders are filled", more).await;
    second.client().post("/api/keys", &json!({"name": "another", "role": "viewer"})).await.unwrap().ok();
    home.audit(None).await.assert_clean("two lives on two databases");
    second.assert_stops_clean().await;
    let third = home.start().await;
    assert_eq!(fills(&third).await.len(), filled.len() + 3);
    third.assert_stops_clean().await;
    home.audit(None).await.assert_clean("after the move, and stopped");
}

#[tokio::test]
async fn a_ledger_whose_server_was_killed_moves_too_and_its_orders_are_resolved_at_the_other_side() {
    let mut home = Installation::new();
    let server = home.start().await;
    let robot = trade(&server).await;
    let client = server.client();
    let busy = async {
        for n in 0.. {
            if client.post_keyed("/api/signals", &format!("busy-{n}"), &signal_body(robot.id)).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(busy, async {
        let many = async || (server.orders().await.len() > 30).then_some(());
        eventually(LIMIT, "orders are under way", many).await;
        server.sigkill().await;
    });
    let target = Postgres::start();
    run(&file(&home.database()), &target.url(), &["--json"]).await.with(0, &[]);
    home.set("HOTGO__STORE__URL", &target.url());
    home.assert_recovers_clean(None, "killed, and moved").await;
}

#[tokio::test]
async fn a_copy_says_what_it_did_as_json() {
    let mut home = Installation::new();
    let server = home.start().await;
    trade(&server).await;
    server.assert_stops_clean().await;
    let conn = rusqlite::Connection::open(home.database()).unwrap();
    let notice = "INSERT INTO hg_sys_notice (id, severity, message, created_at) VALUES (7, 'major', ?, 1)";
    let message = "\0 \u{1} \u{7f} \t \r\n \\ \\N \\. \u{E000}0 \u{E000} \u{10ffff} é";
    conn.execute(notice, [message]).unwrap();
    drop(conn);
    let target = Postgres::start();
    let copied = run(&file(&home.database()), &target.url(), &["--json"]).await;
    copied.with(0, &[]);
    let said: Value = serde_json::from_str(&copied.stdout).unwrap();
    let tables = said["tables"].as_array().unwrap();
    let all: u64 = tables.iter().map(|table| table["rows"].as_u64().unwrap()).sum();
    assert_eq!(rows(&target, "postgres").await, all, "{said}");
    assert!(tables.iter().all(|table| table["digest"].as_str().unwrap().len() == 32), "{said}");
    assert_eq!(said["paper_accounts"][0]["label"], "main", "{said}");
    let sent = message.replace('\u{E000}', "\u{E000}\u{E000}").replace('\0', "\u{E000}0");
    assert_eq!(target.ask("SELECT message FROM hg_sys_notice").await, sent);
    assert_eq!(target.ask("SELECT nextval(pg_get_serial_sequence('hg_sys_notice', 'id'))").await, "8");
    // The same file gives the same digests.
    let other = target.new_database_like("template0").await;
    let again = run(&file(&home.database()), &target.url_of(&other), &["--json"]).await;
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(again["tables"], said["tables"]);
}

#[tokio::test]
async fn a_source_that_a_server_has_open_and_a_target_that_holds_something_are_refused() {
    let mut home = Installation::new();
    let server = home.start().await;
    trade(&server).await;
    let (target, from) = (Postgres::start(), file(&home.database()));
    run(&from, &target.url(), &[]).await.with(4, &["in use by another server", "help: stop the server"]);
    assert_eq!(rows(&target, "postgres").await, 0);
    server.assert_stops_clean().await;
    run(&from, &target.url(), &[]).await.with(0, &[]);
    let held = rows(&target, "postgres").await;
    let refused = run(&from, &target.url(), &[]).await;
    refused.with(9, &["is not empty: hg_trading_account has rows", "help: make another database"]);
    assert_eq!(rows(&target, "postgres").await, held, "nothing was added");
    let json = run(&from, &target.url(), &["--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&json.stderr).unwrap()["exit_code"], 9, "{}", json.stderr);
}

#[tokio::test]
async fn databases_that_are_not_there_or_not_fit_are_named() {
    let home = Installation::new();
    let nowhere = file(&home.scratch("missing.db"));
    let url = "postgres://hotgo@127.0.0.1:1/hotgo";
    run(&nowhere, url, &[]).await.with(4, &["there is no database at", "missing.db"]);
    for from in ["postgres://a@b/c", "hotgo.db", "sqlite:", "sqlite://hotgo.db", ""] {
        run(from, url, &[]).await.with(2, &["--from names no database file", "sqlite:PATH"]);
    }
    for to in ["", "mysql://a@b/c", "postgres://a@b", "hotgo.db", "postgres://a@b/c?password=secret"] {
        let ended = run(&nowhere, to, &[]).await;
        ended.with(2, &["--to"]);
        assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
    }
    run(&nowhere, url, &["--password-file", "/nowhere/at/all"]).await.with(2, &["--password-file"]);
    let mut up = Command::new(env!("CARGO_BIN_EXE_main"));
    up.args(["migrate", "up", "--data-dir"]).arg(home.data_dir());
    assert!(up.output().await.unwrap().status.success());
    run(&file(&home.database()), url, &[]).await.with(10, &["postgres://hotgo@127.0.0.1:1/hotgo cannot be reached"]);
    let careless = Postgres::start_with(&["fsync=off"]);
    run(&file(&home.database()), &careless.url(), &[]).await.with(4, &["fsync is off"]);
    std::fs::write(home.scratch("text"), "no database").unwrap();
    run(&file(&home.scratch("text")), &careless.url(), &[]).await.with(5, &["damaged or no SQLite database"]);
}

#[tokio::test]
async fn a_ledger_that_does_not_add_up_is_not_moved() {
    let mut home = Installation::new();
    let server = home.start().await;
    trade(&server).await;
    server.assert_stops_clean().await;
    let conn = rusqlite::Connection::open(home.database()).unwrap();
    conn.execute("UPDATE hg_trading_position SET qty = '7'", []).unwrap();
    drop(conn);
    let target = Postgres::start();
    run(&file(&home.database()), &target.url(), &[]).await.with(8, &["the events do not add up", "C9", "qty is \"7\""]);
    assert_eq!(rows(&target, "postgres").await, 0, "nothing was written");
}

#[tokio::test]
async fn a_target_that_changes_what_it_is_given_is_noticed() {
    let mut home = Installation::new();
    let server = home.start().await;
    trade(&server).await;
    server.assert_stops_clean().await;
    let target = prepared(&home).await;
    target
        .execute(
            "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := NEW.name || ' '; RETURN NEW; END $$;
             CREATE TRIGGER spoil BEFORE INSERT ON hg_sys_api_key FOR EACH ROW EXECUTE FUNCTION spoil()",
        )
        .await;
    let ended = run(&file(&home.database()), &target.url(), &[]).await;
    ended.with(8, &["hg_sys_api_key is not the same on both sides: 2 rows"]);
    assert_eq!(rows(&target, "postgres").await, 0);
}

/// A server whose database has the schema, and nothing else.
async fn prepared(home: &Installation) -> Postgres {
    let target = Postgres::start();
    let mut up = Command::new(env!("CARGO_BIN_EXE_main"));
    up.args(["migrate", "--data-dir"]).arg(home.data_dir()).env("HOTGO__STORE__URL", target.url());
    assert!(up.output().await.unwrap().status.success());
    target
}

#[tokio::test]
async fn a_copy_that_is_killed_midway_leaves_nothing_behind_and_is_done_again() {
    let mut home = Installation::new();
    let server = home.start().await;
    trade(&server).await;
    server.assert_stops_clean().await;
    let target = prepared(&home).await;
    // The first event waits at the server: everything before it is written, and nothing committed.
    target
        .execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
             CREATE TRIGGER wait BEFORE INSERT ON hg_trading_event FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .await;
    let mut copy = Process::start(command(&file(&home.database()), &target.url(), &[])).unwrap();
    let midway =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE 'COPY hg_trading_event%'";
    eventually(LIMIT, "it is midway", async || (target.ask(midway).await == "1").then_some(())).await;
    assert_eq!(copy.kill().await.unwrap(), Exit::Signal(9));
    let gone = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hotgo copy'";
    eventually(LIMIT, "its session ends", async || (target.ask(gone).await == "0").then_some(())).await;
    assert_eq!(rows(&target, "postgres").await, 0);
    target.execute("DROP TRIGGER wait ON hg_trading_event").await;
    run(&file(&home.database()), &target.url(), &[]).await.with(0, &[]);
    home.set("HOTGO__STORE__URL", &target.url());
    home.assert_recovers_clean(None, "copied at the second try").await;
}

#[tokio::test]
async fn a_copy_that_is_killed_at_any_time_has_copied_everything_or_nothing() {
    let mut home = Installation::new();
    let server = home.start().await;
    trade(&server).await;
    server.assert_stops_clean().await;
    let target = Postgres::start();
    let whole = run(&file(&home.database()), &target.url(), &["--json"]).await;
    let all = rows(&target, "postgres").await;
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    for step in 0..10 {
        let database = target.new_database_like("template0").await;
        let mut copy = Process::start(command(&file(&home.database()), &target.url_of(&database), &[])).unwrap();
        tokio::time::sleep(Duration::from_millis(30 * step)).await;
        let exit = copy.kill().await.unwrap();
        let gone = "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('hotgo copy', 'hotgo migrate')";
        eventually(LIMIT, "its sessions end", async || (target.ask(gone).await == "0").then_some(())).await;
        let held = rows(&target, &database).await;
        assert!(held == 0 || held == all, "killed after {} ms: {held} of {all} rows", 30 * step);
        assert!(exit != Exit::Code(0) || held == all);
        let again = run(&file(&home.database()), &target.url_of(&database), &[]).await;
        again.with(if held == 0 { 0 } else { 9 }, &[]);
        assert_eq!(rows(&target, &database).await, all);
    }
}
