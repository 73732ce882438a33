//! The contract on PostgreSQL, and what is PostgreSQL's own: lost connections, a server that stands still, transfers.

use std::time::Duration;

use futures_util::future::{join, join_all};
use hotgo::store::migrate::{Schema, State};
use hotgo::store::postgres::{OpenOptions, PostgresStore, PostgresWitness, Server};
use hotgo::store::sqlite::OpenError;
use hotgo::store::{ApiKey, CommitError, LeaseError, Revocation, Role, Store, StoreError};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::task::JoinSet;
use tokio::time::Instant;
use trading::event::Event;
use trading::ids::AccountId;
use venue::witness::Witness as _;

use crate::data::{Held, TTL, alarm, at, fill, order, owner};
use crate::postgres_server::{Postgres, SmallDisk};
use crate::proxy::{Cut, Proxy};

const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// A store with its writer running, on a server of its own.
pub(crate) struct Running {
    pub(crate) store: PostgresStore,
    writer: JoinSet<()>,
    pub(crate) server: Option<Postgres>,
}

impl Running {
    pub(crate) async fn start() -> Self {
        let server = Postgres::start();
        let mut running = Self::open(&server.url(), OpenOptions::default()).await.unwrap();
        running.server = Some(server);
        running
    }

    pub(crate) async fn open(url: &str, options: OpenOptions) -> Result<Self, OpenError> {
        let (store, writer) = PostgresStore::open(&Server::new(url, None).unwrap(), options).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run());
        Ok(Self { store, writer: tasks, server: None })
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &self.store
    }

    /// Closes, and checks that the writer ends.
    pub(crate) async fn stop(mut self) {
        self.store.close().await;
        tokio::time::timeout(DEADLINE, self.writer.join_next()).await.unwrap().unwrap().unwrap();
    }
}

crate::suite::contract!(Running::start);

/// Waits until reads and writes work again.
async fn well(store: &dyn Store) {
    let answers = async {
        let mut tick = tokio::time::interval(POLL);
        while store.ping().await.is_err() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, answers).await.expect("the store does not recover");
}

/// A session beside the store's.
struct Beside(PgConnection);

impl Beside {
    async fn new(url: &str) -> Self {
        Self(PgConnection::connect(url).await.unwrap())
    }

    async fn run(&mut self, sql: &'static str) {
        self.0.execute(sql).await.unwrap();
    }

    /// Waits until the statement says true.
    async fn until(&mut self, sql: &'static str) {
        let met = async {
            let mut tick = tokio::time::interval(POLL);
            while !sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut self.0).await.unwrap() {
                tick.tick().await;
            }
        };
        tokio::time::timeout(DEADLINE, met).await.unwrap_or_else(|_| panic!("never: {sql}"));
    }
}

const MIGRATION_WAITS: &str = "SELECT count(*) > 0 FROM pg_stat_activity
    WHERE application_name = 'hotgo migrate' AND wait_event_type = 'Lock'";
const WRITER_WAITS: &str = "SELECT count(*) > 0 FROM pg_stat_activity
    WHERE application_name = 'hotgo writer' AND wait_event_type = 'Lock'";

#[tokio::test]
async fn a_connection_that_is_cut_at_the_commit_leaves_it_unknown_and_reading_again_tells() {
    const MARK: &str = "cut here";
    let server = Postgres::start();
    let proxy = Proxy::start(server.port(), MARK).await;
    let url = format!("postgres://hotgo@127.0.0.1:{}/postgres", proxy.port);
    let running = Running::open(&url, OpenOptions::default()).await.unwrap();
    let (mut held, robot) = Held::with_robot(running.store()).await;
    for (n, cut, written) in [(1, Cut::After, true), (2, Cut::Before, false), (3, Cut::After, true)] {
        let events = vec![Event::Order(order(robot.id, n)), alarm(MARK)];
        proxy.cut(cut);
        let result = running.store.commit(held.next(events.clone())).await;
        assert!(matches!(result, Err(CommitError::Unknown(_))), "{cut:?}: {result:?}");
        // The writer's next connection is only used once the server has ended what the last one asked for.
        well(running.store()).await;
        assert_eq!(held.head(running.store()).await == held.seq + 2, written, "{cut:?}");
        let again = held.commit(running.store(), events).await;
        if written {
            assert!(matches!(again, Err(CommitError::Conflict { .. })), "it was written twice: {again:?}");
            held.seq += 2;
        } else {
            again.unwrap();
        }
        assert!(running.store.order(&order(robot.id, n).client_id).await.unwrap().is_some());
    }
    assert_eq!(proxy.cuts(), 3);
    running.stop().await;
}

#[tokio::test]
async fn a_backend_that_is_terminated_at_the_commit_leaves_it_unknown() {
    let running = Running::start().await;
    let url = running.server.as_ref().unwrap().url();
    let (mut held, _) = Held::with_robot(running.store()).await;
    let (mut lock, mut beside) = (Beside::new(&url).await, Beside::new(&url).await);
    lock.run("BEGIN; LOCK TABLE hg_trading_event").await;
    let end = async {
        beside.until(WRITER_WAITS).await;
        beside
            .run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hotgo writer'")
            .await;
    };
    let (result, ()) = join(running.store.commit(held.next(vec![alarm("terminated")])), end).await;
    assert!(matches!(result, Err(CommitError::Unknown(_))), "{result:?}");
    lock.run("ROLLBACK").await;
    well(running.store()).await;
    assert_eq!(held.head(running.store()).await, held.seq);
    held.commit(running.store(), vec![alarm("again")]).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_stands_still_is_noticed_within_a_second_and_recovers() {
    let running = Running::start().await;
    let server = running.server.as_ref().unwrap();
    let (mut held, _) = Held::with_robot(running.store()).await;
    well(running.store()).await;
    server.freeze();
    let began = Instant::now();
    assert!(matches!(running.store.ping().await, Err(StoreError::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    // Reads are given up, a commit is answered before its callers would give up, and neither spoils what comes after.
    let commit = held.next(vec![alarm("meanwhile")]);
    let reads = futures_util::future::join_all((0..12).map(|_| running.store.robots(None)));
    let (result, reads) = join(running.store.commit(commit), reads).await;
    assert!(matches!(result, Err(CommitError::Unknown(_))), "{result:?}");
    assert!(reads.iter().all(|read| matches!(read, Err(StoreError::Unavailable(_)))), "{reads:?}");
    server.thaw();
    well(running.store()).await;
    held.seq = held.head(running.store()).await;
    held.commit(running.store(), vec![alarm("afterwards")]).await.unwrap();
    for _ in 0..12 {
        assert_eq!(running.store.robots(None).await.unwrap().len(), 1);
    }
    let idle = server.ask("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'").await;
    assert_eq!(idle, "0");
    running.stop().await;
}

#[tokio::test]
async fn what_was_committed_survives_a_crash_of_the_server_and_everything_goes_on_after_it() {
    let mut running = Running::start().await;
    let (mut held, robot) = Held::with_robot(running.store()).await;
    for n in 1..=20 {
        held.commit(running.store(), vec![Event::Order(order(robot.id, n))]).await.unwrap();
    }
    let before = running.store.load(held.account.id).await.unwrap();
    let mut server = running.server.take().unwrap();
    server.kill();
    let result = running.store.commit(held.next(vec![alarm("meanwhile")])).await;
    assert!(matches!(result, Err(CommitError::Unknown(_))), "{result:?}");
    assert!(matches!(running.store.head(held.account.id).await, Err(StoreError::Unavailable(_))));
    assert!(running.store.ping().await.is_err());
    server.restart();
    well(running.store()).await;
    assert_eq!(running.store.load(held.account.id).await.unwrap(), before);
    held.commit(running.store(), vec![alarm("afterwards")]).await.unwrap();
    // In order, with connections that were idle: the first read after it is right.
    server.stop();
    server.restart();
    assert_eq!(held.head(running.store()).await, held.seq);
    running.stop().await;
}

#[tokio::test]
async fn a_full_disk_refuses_commits_reads_on_and_recovers_when_there_is_room() {
    let Some(disk) = SmallDisk::mount("40m") else { return };
    let server = Postgres::start();
    let mut beside = Beside::new(&server.url()).await;
    let tablespace = format!("CREATE TABLESPACE small LOCATION '{}'", disk.path().display());
    beside.0.execute(sqlx::AssertSqlSafe(tablespace)).await.unwrap();
    beside.run("CREATE DATABASE tight TABLESPACE small").await;
    let running = Running::open(&server.url_of("tight"), OpenOptions::default()).await.unwrap();
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0_u8; 16 << 20]).unwrap();
    let store = running.store();
    let (mut held, robot) = Held::with_robot(store).await;
    // Of a kind that is not compressed away.
    let bulk = || alarm((0..40_000).map(|_| rand::random::<char>()).collect::<String>());
    let mut n = 1;
    let full = loop {
        match held.commit(store, vec![Event::Order(order(robot.id, n)), bulk()]).await {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
        assert!(n < 1000, "the disk is never full");
    };
    assert!(matches!(full, CommitError::Full), "{full:?}");
    assert!(n > 2, "something fits");
    assert_eq!(held.head(store).await, held.seq);
    assert_eq!(store.order(&order(robot.id, n).client_id).await.unwrap(), None);
    assert!(store.order(&order(robot.id, n - 1).client_id).await.unwrap().is_some());
    std::fs::remove_file(&ballast).unwrap();
    held.commit(store, vec![Event::Order(order(robot.id, n)), bulk()]).await.unwrap();
    running.stop().await;
    drop(server);
}

/// The check and the commit are one: a take-over that comes between them waits.
#[tokio::test]
async fn nobody_takes_an_account_over_between_the_check_and_the_commit() {
    let running = Running::start().await;
    let url = running.server.as_ref().unwrap().url();
    let other = Running::open(&url, OpenOptions::default()).await.unwrap();
    let (mut held, _) = Held::with_robot(running.store()).await;
    let (mut lock, mut beside) = (Beside::new(&url).await, Beside::new(&url).await);
    // The commit has checked its lease when it waits for this table.
    lock.run("BEGIN; LOCK TABLE hg_trading_event IN SHARE MODE").await;
    let commit = running.store.commit(held.next(vec![alarm("in time")]));
    let new_owner = owner("two");
    let take = async {
        beside.until(WRITER_WAITS).await;
        other.store.acquire_lease(held.account.id, &new_owner, TTL, true).await
    };
    let release = async {
        let mut third = Beside::new(&url).await;
        third
            .until(
                "SELECT count(*) = 2 FROM pg_stat_activity
            WHERE application_name = 'hotgo writer' AND wait_event_type = 'Lock'",
            )
            .await;
        lock.run("ROLLBACK").await;
    };
    let (committed, taken, ()) = tokio::join!(commit, take, release);
    committed.unwrap();
    let taken = taken.unwrap();
    assert_eq!(held.head(other.store()).await, held.seq + 1);
    held.seq += 1;
    let late = held.commit(running.store(), vec![alarm("too late")]).await;
    assert!(matches!(late, Err(CommitError::Fenced(_))), "{late:?}");
    held.lease = taken;
    held.commit(other.store(), vec![alarm("the successor's")]).await.unwrap();
    other.stop().await;
    running.stop().await;
}

/// The lock that cannot be had fails with its own account only.
#[tokio::test]
async fn a_lease_that_somebody_keeps_locked_holds_up_no_other() {
    let running = Running::start().await;
    let store = running.store();
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(Held::new(store).await);
    }
    let mut beside = Beside::new(&running.server.as_ref().unwrap().url()).await;
    let locked = AccountId(3);
    assert_eq!(all[2].account.id, locked);
    beside.run("BEGIN; SELECT FROM hg_trading_lease WHERE name = 'account/3' FOR UPDATE").await;
    let renewed = join_all(all.iter().map(|held| store.renew_lease(&held.lease, TTL))).await;
    for (held, renewed) in all.iter().zip(renewed) {
        assert_eq!(renewed.is_ok(), held.account.id != locked, "{renewed:?}");
    }
    beside.run("ROLLBACK").await;
    store.renew_lease(&all[2].lease, TTL).await.unwrap();
    running.stop().await;
}

/// Two instances that take an account from each other as fast as they can: at any time one of them writes.
#[tokio::test]
async fn of_two_instances_only_the_one_with_the_lease_writes() {
    let one = Running::start().await;
    let two = Running::open(&one.server.as_ref().unwrap().url(), OpenOptions::default()).await.unwrap();
    let held = Held::new(one.store()).await;
    let instance = async |store: &dyn Store, name: &str| {
        let (mut written, mut fenced) = (Vec::new(), 0);
        for _ in 0..30 {
            let mut mine = held.clone();
            mine.lease = store.acquire_lease(held.account.id, &owner(name), TTL, true).await.unwrap();
            mine.seq = mine.head(store).await;
            let epoch = mine.lease.epoch;
            for _ in 0..5 {
                match mine.commit(store, vec![Event::Started { epoch }]).await {
                    Ok(()) => written.push((mine.seq, epoch)),
                    Err(CommitError::Fenced(_)) => {
                        fenced += 1;
                        break;
                    }
                    Err(other) => panic!("{name}: {other}"),
                }
            }
        }
        (written, fenced)
    };
    let ((first, fenced), (second, also)) = join(instance(one.store(), "one"), instance(two.store(), "two")).await;
    assert!(fenced + also > 0, "they never met");
    let mut confirmed: Vec<_> = first.into_iter().chain(second).collect();
    confirmed.sort();
    // What was confirmed is there, once, without gaps, and epochs only grow.
    let events = one.store.events(held.account.id, trading::ids::Seq(0), 10_000).await.unwrap();
    let stored: Vec<_> = events
        .iter()
        .map(|recorded| match recorded.event {
            Event::Started { epoch } => (recorded.seq.0, epoch),
            ref other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(stored, confirmed);
    assert!(stored.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{stored:?}");
    two.stop().await;
    one.stop().await;
}

#[tokio::test]
async fn two_instances_cannot_revoke_the_last_two_admin_keys_at_once() {
    let one = Running::start().await;
    let two = Running::open(&one.server.as_ref().unwrap().url(), OpenOptions::default()).await.unwrap();
    for round in 0..10 {
        let ids = [format!("a{round}"), format!("b{round}")];
        for id in &ids {
            let hash = format!("hash of {id}");
            let key = ApiKey {
                id: id.clone(),
                name: "ops".into(),
                hash,
                signed: false,
                role: Role::Admin,
                created_at: at(1),
                revoked_at: None,
            };
            one.store.add_api_key(&key).await.unwrap();
        }
        for old in one.store.api_keys().await.unwrap().iter().filter(|key| !ids.contains(&key.id)) {
            one.store.revoke_api_key(&old.id, at(2)).await.unwrap();
        }
        let (a, b) = join(one.store.revoke_api_key(&ids[0], at(3)), two.store.revoke_api_key(&ids[1], at(3))).await;
        let both = [a.unwrap(), b.unwrap()];
        assert!(both.contains(&Revocation::Revoked) && both.contains(&Revocation::LastAdmin), "{both:?}");
    }
    two.stop().await;
    one.stop().await;
}

#[tokio::test]
async fn a_server_that_could_lose_what_it_confirmed_is_refused() {
    let server = Postgres::start();
    let refused = async |words: &str| match Server::new(&server.url(), None).unwrap().check().await {
        Err(OpenError::Unsuitable { problem, remedy, .. }) => {
            assert!(problem.contains(words), "{problem}");
            assert!(!remedy.is_empty());
        }
        other => panic!("{words}: {other:?}"),
    };
    for setting in ["fsync", "full_page_writes"] {
        for value in ["off", "on"] {
            server.execute(&format!("ALTER SYSTEM SET {setting} = {value}")).await;
            server.execute("SELECT pg_reload_conf()").await;
            let reloaded = async {
                let mut tick = tokio::time::interval(POLL);
                while server.ask(&format!("SELECT current_setting('{setting}')")).await != value {
                    tick.tick().await;
                }
            };
            tokio::time::timeout(DEADLINE, reloaded).await.unwrap();
            if value == "off" {
                refused(&format!("{setting} is off")).await;
            }
        }
    }
    for (setting, value, words) in [
        ("default_transaction_isolation", "'serializable'", "serializable"),
        ("default_transaction_read_only", "on", "only read"),
    ] {
        server.execute(&format!("ALTER ROLE hotgo SET {setting} = {value}")).await;
        refused(words).await;
        server.execute(&format!("BEGIN READ WRITE; ALTER ROLE hotgo RESET {setting}; COMMIT")).await;
    }
    server.execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0").await;
    let latin = Server::new(&server.url_of("latin"), None).unwrap();
    assert!(matches!(latin.check().await, Err(OpenError::Unsuitable { problem, .. }) if problem.contains("LATIN1")));
    Server::new(&server.url(), None).unwrap().check().await.unwrap();
    Server::new(&server.socket_url(), None).unwrap().check().await.unwrap();
}

#[tokio::test]
async fn a_server_or_database_that_is_not_there_is_named_without_its_password() {
    let server = Postgres::start();
    let url = |port: u16, database: &str| format!("postgres://hotgo:s3cret@127.0.0.1:{port}/{database}");
    for (url, words) in [(url(server.port(), "nowhere"), "does not exist"), (url(1, "postgres"), "refused")] {
        let said = match Running::open(&url, OpenOptions::default()).await.map(drop) {
            Err(error @ OpenError::Unreachable { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(said.contains(words) && said.contains("postgres://hotgo@127.0.0.1:"), "{said}");
        assert!(!said.contains("s3cret") && !format!("{:?}", Server::new(&url, None)).contains("s3cret"));
    }
}

/// What no value of ours can express, the tables refuse as well.
#[tokio::test]
async fn the_tables_check_sides_states_and_quantities() {
    let running = Running::start().await;
    let (mut held, robot) = Held::with_robot(running.store()).await;
    let first = order(robot.id, 1);
    held.commit(running.store(), vec![Event::Order(first.clone()), fill(&first, 1, 1)]).await.unwrap();
    let mut beside = Beside::new(&running.server.as_ref().unwrap().url()).await;
    for (table, column, value) in [
        ("order", "side", "'hold'"),
        ("order", "status", "'LOST'"),
        ("order", "cancel_state", "'MAYBE'"),
        ("order", "qty", "'0'"),
        ("order", "qty", "'-1'"),
        ("order", "qty", "'much'"),
        ("order", "filled", "'-1'"),
        ("order", "attempt", "2"),
        ("order", "price", "NULL"),
        ("fill", "side", "'hold'"),
        ("fill", "qty", "'0'"),
        ("fill", "price", "'0'"),
        ("robot", "run_state", "'flying'"),
        ("robot", "config", "'{'"),
        ("lease", "epoch", "0"),
        ("event", "seq", "0"),
    ] {
        let update = format!("UPDATE hg_trading_{table} SET {column} = {value}");
        let error = beside.0.execute(sqlx::AssertSqlSafe(update)).await.unwrap_err();
        let code = error.as_database_error().unwrap().code().unwrap().into_owned();
        assert!(code.starts_with("22") || code == "23514", "{table}.{column}: {error}");
    }
    for change in ["UPDATE hg_sys_audit SET act = ''", "DELETE FROM hg_sys_audit", "TRUNCATE hg_sys_audit"] {
        assert!(beside.0.execute(change).await.unwrap_err().to_string().contains("append-only"));
    }
    running.stop().await;
}

#[tokio::test]
async fn three_may_migrate_at_once() {
    let server = Postgres::start();
    let target = Server::new(&server.url(), None).unwrap();
    let steps = Schema::postgres().status_of_server(&target).await.unwrap();
    assert!(steps.iter().all(|step| step.state == State::Pending), "{steps:?}");
    assert_eq!(server.ask("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await, "0", "it only looked");
    let up = async || Schema::postgres().up_on_server(&target).await.unwrap().len();
    let (a, b, c) = tokio::join!(up(), up(), up());
    assert_eq!(a + b + c, steps.len(), "each was applied once");
    let steps = Schema::postgres().status_of_server(&target).await.unwrap();
    assert!(steps.iter().all(|step| step.state == State::Applied), "{steps:?}");
}

#[tokio::test]
async fn a_migration_that_is_killed_halfway_is_resumed_and_one_that_must_wait_tries_again() {
    let server = Postgres::start();
    let target = Server::new(&server.url(), None).unwrap();
    // The third migration changes a table of the first: the first two are applied, and the table is held.
    let all = sqlx::migrate!("migrations/postgres");
    let first = sqlx::migrate::Migrator::with_migrations(all.iter().take(2).cloned().collect());
    Schema::new(first, 1..=2).up_on_server(&target).await.unwrap();
    let (mut lock, mut beside) = (Beside::new(&server.url()).await, Beside::new(&server.url()).await);
    lock.run("BEGIN; LOCK TABLE hg_sys_api_key").await;
    let kill = async {
        beside.until(MIGRATION_WAITS).await;
        beside
            .run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hotgo migrate'")
            .await;
    };
    let schema = Schema::postgres();
    let (killed, ()) = join(schema.up_on_server(&target), kill).await;
    killed.unwrap_err();
    let applied = async || {
        let steps = Schema::postgres().status_of_server(&target).await.unwrap();
        steps.iter().filter(|step| step.state == State::Applied).count()
    };
    assert_eq!(applied().await, 2);
    // The lock is not had within a second; those behind it go on meanwhile, and it is tried again.
    let release = async {
        beside.until(MIGRATION_WAITS).await;
        beside
            .until(
                "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity
            WHERE application_name = 'hotgo migrate' AND wait_event_type = 'Lock')",
            )
            .await;
        lock.run("ROLLBACK").await;
    };
    let (resumed, ()) = join(schema.up_on_server(&target), release).await;
    let known = Schema::postgres().status_of_server(&target).await.unwrap().len();
    assert_eq!(resumed.unwrap().len(), known - 2);
    assert_eq!(applied().await, known);
}

#[tokio::test]
async fn an_empty_database_needs_migrations_and_a_newer_one_a_newer_release() {
    let server = Postgres::start();
    let stay = || OpenOptions { migrate: false, ..OpenOptions::default() };
    let open = async |options| Running::open(&server.url(), options).await.map(drop);
    assert!(matches!(open(stay()).await, Err(OpenError::NeedsMigration { found: 0, .. })));
    Running::open(&server.url(), OpenOptions::default()).await.unwrap().stop().await;
    Running::open(&server.url(), stay()).await.unwrap().stop().await;
    server
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (99, 'future', true, '\\x00', 1)",
        )
        .await;
    for options in [stay(), OpenOptions::default()] {
        assert!(matches!(open(options).await, Err(OpenError::TooNew { found: 99, .. })));
    }
}

#[tokio::test]
async fn the_witness_sees_what_is_committed_and_nothing_else() {
    let running = Running::start().await;
    let (mut held, robot) = Held::with_robot(running.store()).await;
    let witness = PostgresWitness::new(Server::new(&running.server.as_ref().unwrap().url(), None).unwrap());
    let id = order(robot.id, 1).client_id;
    assert!(!witness.is_committed(&id).await.unwrap());
    held.commit(running.store(), vec![Event::Order(order(robot.id, 1))]).await.unwrap();
    assert!(witness.is_committed(&id).await.unwrap());
    running
        .server
        .as_ref()
        .unwrap()
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hotgo reader'")
        .await;
    assert!(witness.is_committed(&id).await.unwrap());
    running.stop().await;
}

#[tokio::test]
async fn a_lease_is_refused_by_the_servers_clock() {
    let one = Running::start().await;
    let two = Running::open(&one.server.as_ref().unwrap().url(), OpenOptions::default()).await.unwrap();
    let held = Held::new(one.store()).await;
    assert!(matches!(
        two.store.acquire_lease(held.account.id, &owner("two"), TTL, false).await,
        Err(LeaseError::Held { .. })
    ));
    one.store.release_lease(&held.lease).await.unwrap();
    two.store.acquire_lease(held.account.id, &owner("two"), TTL, false).await.unwrap();
    two.stop().await;
    one.stop().await;
}
