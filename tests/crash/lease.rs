//! Somebody else takes the account's lease while the server trades: nothing more is committed or sent under the old epoch.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use shutdown_coordinator::testkit::Exit;
use tokio::time::{interval, timeout};

use crate::support::venue::Venue;
use crate::support::{Installation, Load, eventually};

const THEFTS: usize = 12;
const WAIT: Duration = Duration::from_secs(20);

/// What a successor does: the lease gets another owner and the next epoch. Returns that epoch and the number of the account's
/// last event, both of one moment.
fn take_lease(database: &Connection) -> (i64, i64) {
    let transaction = rusqlite::Transaction::new_unchecked(database, TransactionBehavior::Immediate).unwrap();
    let taken =
        "UPDATE hg_trading_lease SET owner = 'successor', epoch = epoch + 1 WHERE name = 'account/1' RETURNING epoch";
    let epoch = transaction.query_row(taken, [], |row| row.get(0)).unwrap();
    let last = "SELECT max(seq) FROM hg_trading_event WHERE account = 1";
    let last = transaction.query_row(last, [], |row| row.get(0)).unwrap();
    transaction.commit().unwrap();
    (epoch, last)
}

/// The first event after this one.
fn event_after(database: &Connection, seq: i64) -> Option<String> {
    let sql = "SELECT payload FROM hg_trading_event WHERE account = 1 AND seq > ? ORDER BY seq LIMIT 1";
    database.query_row(sql, [seq], |row| row.get(0)).ok()
}

#[tokio::test]
async fn a_server_whose_lease_was_taken_commits_and_sends_nothing_under_the_old_epoch() {
    let mut installation = Installation::new();
    let venue = Venue::start(&mut installation).await;
    let server = installation.start().await;
    let robot = server.robot("fenced").await;
    let load = Load::new(&installation.scratch("answered"), "fenced");
    let database = Connection::open(installation.database()).unwrap();
    database.busy_timeout(WAIT).unwrap();
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (load, client, robot) = (load.clone(), server.client(), robot.clone());
        work.spawn(async move {
            let mut pace = interval(Duration::from_millis(2));
            loop {
                pace.tick().await;
                let Some(_) = load.send(&client, &robot).await else { return };
            }
        });
    }
    let before = load.answered();
    let busy = async || (load.answered() > before + 20).then_some(());
    eventually(WAIT, "signals are answered", busy).await;
    for _ in 0..THEFTS {
        let (epoch, last) = take_lease(&database);
        let next = eventually(WAIT, "somebody commits again", async || event_after(&database, last)).await;
        let next: serde_json::Value = serde_json::from_str(&next).unwrap();
        let started = next["epoch"].as_i64().filter(|_| next["event"] == "started");
        assert!(
            started.is_some_and(|started| started > epoch),
            "after epoch {epoch} was taken, this was committed: {next}"
        );
        let answered = load.answered();
        // It works again, under its new epoch.
        let works = async || (load.answered() > answered).then_some(());
        eventually(WAIT, "signals are answered again", works).await;
    }
    let _ended = timeout(Duration::from_secs(1), work.shutdown()).await;
    installation.audit_at(&venue, Some(load.path())).await.assert_clean("after thefts of the lease");
    let mut server = server;
    server.sigterm();
    assert_eq!(server.wait_exit(WAIT).await, Exit::Code(0));
    venue.stop().await;
}
