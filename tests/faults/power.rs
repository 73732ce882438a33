//! Power loss. A SIGKILL cannot show what it takes: the kernel keeps what a killed process has written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::support::server::signal_body;
use super::support::{Installation, Load, Server};
use super::tools::{number, order_of, order_with_status, strace, whole_trace};
use super::trace::{Disk, Moment, Survives, Trace};

const CALLS: &str = "trace=pwrite64,write,writev,sendto,sendmsg,fdatasync,fsync,ftruncate,openat,unlink,rename";
const FILES: [&str; 3] = ["hotgo.db", "hotgo.db-wal", "venue.ledger"];

/// A server under strace with a robot, and its files as they were before it started.
struct Watched {
    installation: Installation,
    server: Server,
    robot: super::support::server::Robot,
    before: Disk,
    trace: PathBuf,
}

async fn watched(more: &[&str]) -> Watched {
    let mut installation = Installation::new();
    installation.set("HOTGO__VENUE__RECV_WINDOW_MS", "2000");
    installation.set("HOTGO__VENUE__REQUEST_TIMEOUT_MS", "1500");
    installation.set("HOTGO__TRADING__LEASE_TTL_MS", "300000");
    let server = installation.start().await;
    let robot = server.robot("powered").await;
    server.assert_stops_clean().await;
    let before = Disk::new(&installation.data_dir(), &FILES);
    let trace = installation.scratch("trace");
    let options = ["-y", "-xx", "-s", "70000", "-e", CALLS];
    installation.wrap(strace(&trace, &[&options, more].concat()));
    let server = installation.start().await;
    Watched { installation, server, robot, before, trace }
}

/// Orders one after the other, with nothing else going on when one is answered or handed over.
async fn a_dozen_orders(watched: &Watched) -> usize {
    let Watched { server, robot, .. } = watched;
    // Time for the answer to be written before the venue is reached.
    server.set_faults(json!({"delay_processing": {"ms": 60, "on": "post"}})).await;
    for n in 0..12 {
        let answer = server.client().post_keyed("/api/signals", &format!("power-{n}"), &signal_body(robot.id)).await;
        order_with_status(server, &order_of(&answer.unwrap().ok()), "FILLED").await;
    }
    server.set_faults(json!({})).await;
    12
}

/// The keys that an answer with a 2xx names.
fn answered(bytes: &[u8], keys: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    if !text.starts_with("HTTP/1.1 2") {
        return Vec::new();
    }
    (0..keys).map(|n| format!("power-{n}")).filter(|key| text.contains(&format!("\"key\":\"{key}\""))).collect()
}

/// Answers and hand-overs at whose moment something in the database's log could still be lost, and how many were looked at.
fn too_early(before: &Disk, trace: &Trace, keys: usize) -> (Vec<String>, usize) {
    let (mut disk, mut early, mut seen) = (before.clone(), Vec::new(), 0);
    for moment in &trace.moments {
        if let Moment::Begin(call) = *moment {
            let call = &trace.calls[call];
            let mut events = answered(&call.bytes, keys);
            let handed_over = call.name == "write" && call.path.ends_with("venue.ledger") && is_order(&call.bytes);
            events.extend(handed_over.then(|| "an order at the venue".to_owned()));
            seen += events.len();
            let unsynced = disk.unsynced("hotgo.db-wal");
            if unsynced > 0 {
                early.extend(events.into_iter().map(|event| format!("{event}: {unsynced} writes could be lost")));
            }
        }
        disk.step(trace, *moment);
    }
    (early, seen)
}

fn is_order(line: &[u8]) -> bool {
    String::from_utf8_lossy(line).contains("BTCUSDT")
}

#[tokio::test]
async fn strace_shows_that_every_answer_and_every_order_at_the_venue_comes_after_the_sync_of_its_commit() {
    let mut watched = watched(&[]).await;
    let keys = a_dozen_orders(&watched).await;
    let (before, path) = (watched.before.clone(), watched.trace.clone());
    watched.server.sigterm();
    watched.server.wait_exit(super::tools::BUDGET).await;
    let trace = Trace::parse(&whole_trace(&path, watched.server.pid()).await);
    let (early, seen) = too_early(&before, &trace, keys);
    assert!(seen >= 2 * keys, "only {seen} answers and orders were seen");
    assert_eq!(early, Vec::<String>::new());
}

#[tokio::test]
async fn strace_in_the_place_of_every_sync_is_found_out_by_the_same_check() {
    let watched = watched(&["-e", "inject=fdatasync,fsync:retval=0"]).await;
    let keys = a_dozen_orders(&watched).await;
    let (before, path, pid) = (watched.before.clone(), watched.trace.clone(), watched.server.pid());
    watched.server.sigkill().await;
    let trace = Trace::parse(&whole_trace(&path, pid).await);
    let (early, seen) = too_early(&before, &trace, keys);
    assert!(seen >= 2 * keys && early.len() == seen, "of {seen} only {} were found out", early.len());
}

/// Whether the database that is found there holds this signal and is whole.
fn holds(directory: &Path, key: &str) -> Result<bool, rusqlite::Error> {
    let database = rusqlite::Connection::open(directory.join("hotgo.db"))?;
    let whole: String = database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    assert_eq!(whole, "ok", "{key}");
    database.query_row("SELECT count(*) > 0 FROM hg_trading_signal WHERE dedup_key = ?", [key], |row| row.get(0))
}

#[tokio::test]
async fn strace_tells_what_a_power_loss_leaves_at_each_answer_and_every_answered_signal_is_in_it() {
    let keys = number("HOTGO_POWER_SIGNALS", 40);
    let watched = watched(&[]).await;
    let load = Load::new(&watched.installation.scratch("answered"), "power");
    load.run(&watched.server.client(), &watched.robot, 5, u64::try_from(keys).unwrap()).await;
    let Watched { installation, server, before, trace, .. } = watched;
    let pid = server.pid();
    server.sigkill().await;
    let trace = Trace::parse(&whole_trace(&trace, pid).await);
    let (mut disk, mut told, mut images) = (before, BTreeSet::new(), 0);
    for (at, moment) in trace.moments.iter().enumerate() {
        let named = match *moment {
            Moment::Begin(call) => answered(&trace.calls[call].bytes, keys),
            Moment::End(_) => Vec::new(),
        };
        for key in named {
            for survives in [Survives::Nothing, Survives::Everything, Survives::Some(at)] {
                let target = tempfile::Builder::new().prefix("hotgo-").tempdir().unwrap();
                disk.image(target.path(), survives);
                let found = holds(target.path(), &key);
                assert_eq!(found, Ok(true), "{key} was answered, and with {survives:?} of the unsynced it is gone");
                images += 1;
            }
            told.insert(key);
            if told.len() == keys / 2 || told.len() == keys {
                recovers(&disk, &told, Survives::Some(at)).await;
            }
        }
        disk.step(&trace, *moment);
    }
    assert_eq!(told.len(), keys, "not every answer was seen: {told:?}");
    assert!(images >= 3 * keys, "only {images} images");
    drop(installation);
}

/// A server that starts on such an image has nothing lost and nothing doubled.
async fn recovers(disk: &Disk, told: &BTreeSet<String>, survives: Survives) {
    let mut installation = Installation::new();
    std::fs::create_dir(installation.data_dir()).unwrap();
    disk.image(&installation.data_dir(), survives);
    let file = installation.scratch("answered");
    let load = Load::new(&file, "unused");
    for key in told {
        load.note(&json!({"source": source(&installation.database(), key), "key": key}));
    }
    installation.assert_recovers_clean(Some(&file), &format!("after a power loss with {survives:?} kept")).await;
}

/// Whose signal it was: part of its name.
fn source(database: &Path, key: &str) -> String {
    let database = rusqlite::Connection::open(database).unwrap();
    let source = "SELECT source FROM hg_trading_signal WHERE dedup_key = ?";
    database.query_row(source, [key], |row| row.get(0)).unwrap()
}

/// A token that is shown once must not be lost: neither its row, nor the file, nor the directory.
#[tokio::test]
async fn strace_shows_that_the_first_start_shows_its_token_only_when_it_is_durable() {
    let mut installation = Installation::new();
    let path = installation.scratch("trace");
    installation.wrap(strace(&path, &["-y", "-xx", "-s", "70000", "-e", CALLS]));
    let mut disk = Disk::new(&installation.data_dir(), &FILES);
    let server = installation.start().await;
    let pid = server.pid();
    server.sigkill().await;
    let trace = Trace::parse(&whole_trace(&path, pid).await);
    let holder = installation.data_dir().parent().unwrap().to_str().unwrap().to_owned();
    let (mut linked, mut shown) = (false, 0);
    for moment in &trace.moments {
        match *moment {
            Moment::Begin(call) if String::from_utf8_lossy(&trace.calls[call].bytes).starts_with("admin token") => {
                shown += 1;
                assert!(linked, "the data directory itself could be lost");
                let target = tempfile::Builder::new().prefix("hotgo-").tempdir().unwrap();
                disk.image(target.path(), Survives::Nothing);
                let database = rusqlite::Connection::open(target.path().join("hotgo.db")).unwrap();
                let keys: i64 =
                    database.query_row("SELECT count(*) FROM hg_sys_api_key", [], |row| row.get(0)).unwrap();
                assert_eq!(keys, 1, "the token was shown, and could be lost");
            }
            Moment::End(call) => linked |= trace.calls[call].syncs(&holder),
            Moment::Begin(_) => {}
        }
        disk.step(&trace, *moment);
    }
    assert_eq!(shown, 1, "the token was not seen");
}
