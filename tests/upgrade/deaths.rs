//! Hand-overs in which somebody dies.

use std::time::Duration;

use serde_json::json;

use crate::clients::Clients;
use crate::host::{Host, PATIENCE, SHORT_LEASE, Slot};
use crate::support::{UNCLEAN, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_successor_had_comes_back() {
    let (mut host, old) = Host::mortal().await;
    let robots = host.robots().await;
    let clients = Clients::start(&host, &robots, false).await;
    let new = host.candidate().await;
    old.post("/hand-over", json!({ "to": new.id })).await;
    new.owns_all().await;
    clients.go_on(20).await;
    new.server.sigkill().await;
    old.owns_all().await;
    assert_eq!(old.status().await["successor"], serde_json::Value::Null, "it hands over to nobody any more");
    clients.go_on(20).await;
    let answered = clients.load.path().to_owned();
    clients.finish().await;
    host.installation.audit(Some(&answered)).await.assert_clean("after the successor's death");
    old.server.assert_stops_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_stands_by_takes_over_from_a_dead_one() {
    let (mut host, old) = Host::mortal().await;
    let robots = host.robots().await;
    let clients = Clients::start(&host, &robots, true).await;
    let new = host.candidate().await;
    new.post("/accept", json!({})).await;
    old.server.sigkill().await;
    new.owns_all().await;
    clients.go_on(20).await;
    // Its slot is started anew, as a supervisor would, and stands by.
    let again = host.candidate().await;
    again.leaves().await;
    let answered = clients.load.path().to_owned();
    clients.finish().await;
    host.installation.audit(Some(&answered)).await.assert_clean("after the death of the one that served");
    new.server.assert_stops_clean().await;
}

/// One that stands still in the middle of a transaction keeps everybody from writing until its watchdog kills it: that is
/// another story.
async fn freeze_between_writes(host: &Host, slot: &Slot) {
    let writes = async || {
        slot.server.freeze().await;
        let database = rusqlite::Connection::open(host.installation.database()).unwrap();
        database.busy_timeout(Duration::ZERO).unwrap();
        let free = database.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok();
        if !free {
            slot.server.thaw();
        }
        free.then_some(())
    };
    eventually(PATIENCE, "it stands still between two transactions", writes).await;
}

/// Frozen past its lease, and thawed when another has its accounts: it sends nothing, and gives up the ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_frozen_is_fenced_when_it_thaws() {
    let (mut host, old) = Host::mortal().await;
    let robots = host.robots().await;
    let clients = Clients::start(&host, &robots, true).await;
    let new = host.candidate().await;
    new.post("/accept", json!({})).await;
    freeze_between_writes(&host, &old).await;
    let taken = async || {
        let status = new.status().await;
        let engines = status["engines"].as_array().unwrap().clone();
        engines.iter().all(|engine| engine["owner"] == *new.id && engine["state"] != "standby").then_some(())
    };
    eventually(PATIENCE, "the leases went over", taken).await;
    old.server.thaw();
    new.owns_all().await;
    clients.go_on(20).await;
    for engine in old.status().await["engines"].as_array().unwrap() {
        assert_eq!(engine["state"], "standby", "{engine}");
    }
    let answered = clients.load.path().to_owned();
    old.server.sigkill().await;
    clients.finish().await;
    host.installation.audit(Some(&answered)).await.assert_clean("after a freeze");
    new.server.assert_stops_clean().await;
}

/// What is durable after that only a new start can tell; whoever shares the database goes on, and reads it as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_error_of_one_process_leaves_the_other_a_sound_database() {
    if !crate::support::strace::works() {
        eprintln!("not run: strace cannot trace here");
        return;
    }
    let (mut host, old) = Host::mortal().await;
    let robots = host.robots().await;
    let clients = Clients::start(&host, &robots, true).await;
    let (log, trace) = (host.installation.database().with_extension("db-wal"), host.installation.scratch("trace"));
    host.trace(&format!(
        "strace -D -f -qq -o {} -P {} -e trace=fdatasync,fsync -e inject=fdatasync,fsync:error=EIO:when=40",
        trace.display(),
        log.display(),
    ));
    let mut new = host.candidate().await;
    old.post("/hand-over", json!({ "to": new.id })).await;
    let exit = new.server.wait_exit(PATIENCE).await;
    assert_eq!(exit, UNCLEAN, "{}", new.server.stderr());
    assert!(new.server.stderr().contains("the store must be opened again"), "{}", new.server.stderr());
    old.owns_all().await;
    clients.go_on(50).await;
    let answered = clients.load.path().to_owned();
    clients.finish().await;
    host.installation.audit(Some(&answered)).await.assert_clean("after a disk error");
    old.server.assert_stops_clean().await;
}

#[cfg(feature = "failpoints")]
mod at_every_step {
    use shutdown_coordinator::testkit::Held;

    use super::*;

    /// Whoever gets to this point of a hand-over dies there; the other serves, trades everything, and nothing is lost.
    async fn dies_at(point: &str) {
        let mut installation = crate::support::Installation::new();
        installation.set(SHORT_LEASE.0, SHORT_LEASE.1);
        let points = installation.points();
        let (mut host, old) = Host::with(installation).await;
        let robots = host.robots().await;
        let clients = Clients::start(&host, &robots, true).await;
        let new = host.candidate().await;
        new.post("/accept", json!({})).await;
        points.arm(point);
        old.post("/hand-over", json!({ "to": new.id })).await;
        let held: Held = points.reached(point).await.unwrap();
        let victim = held.pid();
        held.die();
        points.disarm(point);
        let (mut dead, survivor) = if victim == old.server.pid() { (old, new) } else { (new, old) };
        assert_eq!(dead.server.pid(), victim);
        dead.server.wait_exit(PATIENCE).await;
        survivor.owns_all().await;
        clients.go_on(20).await;
        let answered = clients.load.path().to_owned();
        clients.finish().await;
        host.installation.audit(Some(&answered)).await.assert_clean(point);
        let gone = async || {
            let status = survivor.status().await;
            (status["successor"].is_null()).then_some(())
        };
        eventually(PATIENCE, "it hands over to nobody any more", gone).await;
        survivor.server.assert_stops_clean().await;
    }

    macro_rules! each {
        ($($name:ident: $point:literal),* $(,)?) => {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                dies_at($point).await;
            }
        )*};
    }

    each! {
        dies_with_its_last_word_said_and_its_lease_held: "u1",
        dies_with_one_lease_given_up: "u2",
        dies_with_its_ledger_closed: "u3",
        dies_before_it_opens_the_ledger: "u4",
        dies_with_the_ledger_opened: "u5",
        dies_with_the_lease_taken: "u6",
    }
}
