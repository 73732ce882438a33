//! The contract on SQLite, and what is SQLite's own: files, schemas, a full disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::future::join;
use hotgo::store::migrate::{SCHEMA_MAX, Schema, State};
use hotgo::store::sqlite::{Dump, OpenError, OpenOptions, SqliteStore, integrity_check};
use hotgo::store::{CommitError, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::migrate::Migrator;
use tempfile::TempDir;
use tokio::task::JoinSet;
use trading::event::Event;
use trading::ids::Seq;

use crate::data::{Held, alarm, order};
use crate::fold;

const DEADLINE: Duration = Duration::from_secs(10);

/// A store with its writer running.
pub(crate) struct Running {
    pub(crate) store: SqliteStore,
    writer: JoinSet<()>,
    pub(crate) path: PathBuf,
    directory: Option<TempDir>,
}

impl Running {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hotgo.db");
        let mut running = Self::open(&path, OpenOptions::default()).await.unwrap();
        running.directory = Some(directory);
        running
    }

    pub(crate) async fn open(path: &Path, options: OpenOptions) -> Result<Self, OpenError> {
        let (store, writer) = SqliteStore::open(path, options).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run());
        Ok(Self { store, writer: tasks, path: path.to_owned(), directory: None })
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &self.store
    }

    /// Closes, and checks that the writer ends and the file is whole.
    pub(crate) async fn stop(mut self) {
        self.store.close().await;
        tokio::time::timeout(DEADLINE, self.writer.join_next()).await.unwrap().unwrap().unwrap();
        integrity_check(&self.path).await.unwrap();
    }

    async fn reopen(mut self) -> Self {
        let directory = self.directory.take();
        let path = self.path.clone();
        self.stop().await;
        let mut next = Self::open(&path, OpenOptions::default()).await.unwrap();
        next.directory = directory;
        next
    }
}

crate::suite::contract!(Running::start);

#[tokio::test]
async fn what_was_committed_is_there_after_reopening_without_a_close() {
    let running = Running::start().await;
    let (held, robot) = Held::with_robot(running.store()).await;
    let before = running.store().load(held.account.id).await.unwrap();
    let Running { store, mut writer, path, directory } = running;
    writer.abort_all();
    while writer.join_next().await.is_some() {}
    drop(store);
    let running = Running::open(&path, OpenOptions::default()).await.unwrap();
    assert_eq!(running.store().load(held.account.id).await.unwrap(), before);
    assert_eq!(running.store().robots(None).await.unwrap(), [robot]);
    running.stop().await;
    drop(directory);
}

#[test]
fn the_tables_are_the_fold_of_the_events() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let input = (fold::steps(), fold::steps(), 1_usize..12);
    runner
        .run(&input, |(one, two, chunk)| {
            runtime.block_on(async {
                let running = Running::start().await;
                let store = running.store();
                let (mut a, mut b) = (Held::new(store).await, Held::new(store).await);
                let (ours, theirs) = (fold::events(a.account.id, &one), fold::events(b.account.id, &two));
                // Two accounts at once, so that their commits meet in one transaction.
                let (first, second) =
                    join(commit_all(&mut a, store, &ours, chunk), commit_all(&mut b, store, &theirs, 3)).await;
                first.unwrap();
                second.unwrap();
                let running = running.reopen().await;
                for (held, events) in [(&a, &ours), (&b, &theirs)] {
                    let id = held.account.id;
                    prop_assert_eq!(running.store().load(id).await.unwrap(), fold::snapshot(id, events));
                    let stored = running.store().events(id, Seq(0), 1000).await.unwrap();
                    prop_assert_eq!(&stored.into_iter().map(|stored| stored.event).collect::<Vec<_>>(), events);
                }
                running.stop().await;
                Ok(())
            })
        })
        .unwrap();
}

async fn commit_all(held: &mut Held, store: &dyn Store, events: &[Event], chunk: usize) -> Result<(), CommitError> {
    for part in events.chunks(chunk) {
        held.commit(store, part.to_vec()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_full_disk_refuses_what_does_not_fit_and_takes_what_does() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hotgo.db");
    let options = OpenOptions { max_pages: Some(150), ..OpenOptions::default() };
    let running = Running::open(&path, options).await.unwrap();
    let (mut held, robot) = Held::with_robot(running.store()).await;
    let result = held.commit(running.store(), vec![alarm("x".repeat(1 << 20))]).await;
    assert!(matches!(result, Err(CommitError::Full)), "{result:?}");
    held.commit(running.store(), vec![Event::Order(order(robot.id, 1))]).await.unwrap();
    // Until nothing fits any more; then there is room again.
    let mut n = 2;
    while held.commit(running.store(), vec![Event::Order(order(robot.id, n))]).await.is_ok() {
        n += 1;
        assert!(n < 1000, "the disk is never full");
    }
    let before = running.store().load(held.account.id).await.unwrap();
    running.stop().await;
    let running = Running::open(&path, OpenOptions::default()).await.unwrap();
    assert_eq!(running.store().load(held.account.id).await.unwrap(), before);
    held.commit(running.store(), vec![Event::Order(order(robot.id, n))]).await.unwrap();
    running.stop().await;
}

/// The writer dies between its COMMIT and its answer, or before it: its callers are told that nobody knows.
#[tokio::test]
async fn a_writer_that_dies_leaves_a_commit_unknown_and_reading_again_tells() {
    for dies_after_the_commit in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hotgo.db");
        let running = Running::open(&path, OpenOptions::default()).await.unwrap();
        let (mut held, robot) = Held::with_robot(running.store()).await;
        running.stop().await;

        let (store, writer) = SqliteStore::open(&path, OpenOptions::default()).await.unwrap();
        let mut writer = Box::pin(writer.run());
        let events = vec![Event::Order(order(robot.id, 1))];
        let mut commit = Box::pin(store.commit(held.next(events.clone())));
        assert!(futures_util::poll!(&mut commit).is_pending());
        if dies_after_the_commit {
            // It gives its callers their turn, then it hands the transaction to the connection's thread; of what that says
            // it hears nothing any more.
            let written = async {
                assert!(futures_util::poll!(&mut writer).is_pending());
                assert!(futures_util::poll!(&mut writer).is_pending());
                while held.head(&store).await == held.seq {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(DEADLINE, written).await.unwrap();
        }
        drop(writer);
        let result = commit.await;
        assert!(matches!(result, Err(CommitError::Unknown(_))), "{result:?}");
        drop(store);

        let running = Running::open(&path, OpenOptions::default()).await.unwrap();
        let store = running.store();
        assert_eq!(store.order(&order(robot.id, 1).client_id).await.unwrap().is_some(), dies_after_the_commit);
        let again = held.commit(store, events).await;
        if dies_after_the_commit {
            assert!(matches!(again, Err(CommitError::Conflict { .. })), "{again:?}");
        } else {
            again.unwrap();
        }
        assert_eq!(store.events(held.account.id, Seq(0), 9).await.unwrap().len(), 2);
        running.stop().await;
    }
}

/// A file system of four megabytes, where this user may make one.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        use std::io::Write as _;
        let directory = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(directory.path())
            .output()
            .unwrap();
        if mount.status.success() {
            return Some(Self(directory));
        }
        // Past the capture of the test's output: a test that did not run must be seen.
        let why = String::from_utf8_lossy(&mount.stderr);
        let line = format!("NOT TESTED: a really full disk: no tmpfs may be mounted here: {}\n", why.trim());
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[tokio::test]
async fn a_really_full_disk_refuses_commits_reads_on_and_recovers_when_there_is_room() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.0.path().join("hotgo.db");
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0_u8; 2 << 20]).unwrap();
    let running = Running::open(&path, OpenOptions::default()).await.unwrap();
    let store = running.store();
    let (mut held, robot) = Held::with_robot(store).await;
    let mut n = 1;
    let full = loop {
        let events = vec![Event::Order(order(robot.id, n)), alarm("x".repeat(50_000))];
        match held.commit(store, events).await {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
        assert!(n < 1000, "the disk is never full");
    };
    assert!(matches!(full, CommitError::Full), "{full:?}");
    assert!(n > 2, "something fits");
    // Nothing of it is there, and what was there can be read.
    assert_eq!(held.head(store).await, held.seq);
    assert_eq!(store.order(&order(robot.id, n).client_id).await.unwrap(), None);
    assert!(store.order(&order(robot.id, n - 1).client_id).await.unwrap().is_some());
    assert_eq!(store.load(held.account.id).await.unwrap().orders.len(), usize::try_from(n - 1).unwrap());
    std::fs::remove_file(&ballast).unwrap();
    held.commit(store, vec![Event::Order(order(robot.id, n)), alarm("x".repeat(50_000))]).await.unwrap();
    running.stop().await;
    drop(disk);
}

/// What no value of ours can express, the tables refuse as well.
#[tokio::test]
async fn the_tables_check_sides_states_and_quantities() {
    let running = Running::start().await;
    let (mut held, robot) = Held::with_robot(running.store()).await;
    let first = order(robot.id, 1);
    held.commit(running.store(), vec![Event::Order(first.clone()), crate::data::fill(&first, 1, 1)]).await.unwrap();
    let sql = rusqlite::Connection::open(&running.path).unwrap();
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
        ("lease", "epoch", "0"),
        ("event", "seq", "0"),
    ] {
        let error = sql.execute(&format!("UPDATE hg_trading_{table} SET {column} = {value}"), []).unwrap_err();
        assert_eq!(
            error.sqlite_error_code(),
            Some(rusqlite::ErrorCode::ConstraintViolation),
            "{table}.{column}: {error}"
        );
    }
    drop(sql);
    running.stop().await;
}

#[tokio::test]
async fn a_commit_that_is_given_up_leaves_the_store_working() {
    let running = Running::start().await;
    let (mut held, _) = Held::with_robot(running.store()).await;
    {
        let mut abandoned = Box::pin(running.store.commit(held.next(vec![alarm("abandoned")])));
        // Polled once: it waits in the queue when it is dropped.
        assert!(futures_util::poll!(&mut abandoned).is_pending());
    }
    held.seq = tokio::time::timeout(DEADLINE, async {
        running.store().ping().await.unwrap();
        held.head(running.store()).await
    })
    .await
    .unwrap();
    assert_eq!(held.seq, 2);
    held.commit(running.store(), vec![alarm("next")]).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn commits_accepted_before_close_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hotgo.db");
    let running = Running::open(&path, OpenOptions::default()).await.unwrap();
    let (held, _) = Held::with_robot(running.store()).await;
    let last = running.store.commit(held.next(vec![alarm("last")]));
    let (result, ()) = join(last, running.store.close()).await;
    result.unwrap();
    drop(running);
    assert_eq!(std::fs::metadata(path.with_extension("db-wal")).map_or(0, |file| file.len()), 0, "not checkpointed");
    let running = Running::open(&path, OpenOptions::default()).await.unwrap();
    assert_eq!(held.head(running.store()).await, 2);
    running.stop().await;
}

#[tokio::test]
async fn only_its_owner_can_read_the_database() {
    use std::os::unix::fs::PermissionsExt as _;
    let running = Running::start().await;
    let (_held, _robot) = Held::with_robot(running.store()).await;
    for suffix in ["", "-wal", "-shm"] {
        let mut name = running.path.clone().into_os_string();
        name.push(suffix);
        let mode = std::fs::metadata(&name).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", name.display());
    }
    running.stop().await;
}

#[tokio::test]
async fn a_damaged_file_is_named_as_such_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let open = async |path: &Path| SqliteStore::open(path, OpenOptions::default()).await.map(drop);

    let text = directory.path().join("text.db");
    std::fs::write(&text, "this is no database, but somebody's file").unwrap();
    assert!(matches!(open(&text).await, Err(OpenError::Damaged { path, .. }) if path == text));
    assert_eq!(std::fs::read(&text).unwrap(), b"this is no database, but somebody's file");

    let path = directory.path().join("hotgo.db");
    Running::open(&path, OpenOptions::default()).await.unwrap().stop().await;
    let whole = std::fs::read(&path).unwrap();
    let mut scribbled = whole.clone();
    scribbled[4096 * 2..4096 * 6].fill(0xA5);
    std::fs::write(&path, &scribbled).unwrap();
    assert!(matches!(open(&path).await, Err(OpenError::Damaged { .. })));
    assert!(matches!(integrity_check(&path).await, Err(OpenError::Damaged { .. })));
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(open(&path).await, Err(OpenError::Damaged { .. })));
    std::fs::write(&path, &whole).unwrap();
    open(&path).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_is_missing_is_not_writable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing/hotgo.db");
    let result = SqliteStore::open(&path, OpenOptions::default()).await.map(drop);
    assert!(matches!(result, Err(OpenError::NotWritable { .. })), "{result:?}");
}

/// Pretends that a release applied a migration that this binary does not have.
fn apply_unknown(path: &Path, version: i64) {
    let database = rusqlite::Connection::open(path).unwrap();
    database
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (?1, 'future', true, x'00', 1)",
            [version],
        )
        .unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_accepted_within_the_range_and_refused_beyond_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hotgo.db");
    Running::open(&path, OpenOptions::default()).await.unwrap().stop().await;
    apply_unknown(&path, SCHEMA_MAX);
    Running::open(&path, OpenOptions::default()).await.unwrap().stop().await;
    let status = Schema::default().status(&path).await.unwrap();
    assert_eq!(status.last().map(|step| step.state), Some(State::Unknown));
    apply_unknown(&path, SCHEMA_MAX + 1);
    for migrate in [true, false] {
        let options = OpenOptions { migrate, ..OpenOptions::default() };
        let result = SqliteStore::open(&path, options).await.map(drop);
        assert!(matches!(&result, Err(OpenError::TooNew { found, .. }) if *found == SCHEMA_MAX + 1), "{result:?}");
    }
}

#[tokio::test]
async fn an_older_schema_within_the_range_works_without_migrating() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hotgo.db");
    let all: Migrator = sqlx::migrate!("migrations/sqlite");
    let first = Schema::new(Migrator::with_migrations(all.iter().take(1).cloned().collect()), 1..=1);
    let old = OpenOptions { schema: first, ..OpenOptions::default() };
    Running::open(&path, old).await.unwrap().stop().await;

    // A release that still works on the first schema.
    let stay = OpenOptions { migrate: false, schema: Schema::new(all, 1..=SCHEMA_MAX), ..OpenOptions::default() };
    let running = Running::open(&path, stay).await.unwrap();
    let (held, robot) = Held::with_robot(running.store()).await;
    running.stop().await;
    let pending = |steps: &[hotgo::store::migrate::Step]| steps.iter().filter(|s| s.state == State::Pending).count();
    assert!(pending(&Schema::default().status(&path).await.unwrap()) > 0);

    let running = Running::open(&path, OpenOptions::default()).await.unwrap();
    assert_eq!(running.store().load(held.account.id).await.unwrap().robots, [robot]);
    running.stop().await;
    assert_eq!(pending(&Schema::default().status(&path).await.unwrap()), 0);
}

#[tokio::test]
async fn an_empty_database_needs_migrations() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hotgo.db");
    let options = OpenOptions { migrate: false, ..OpenOptions::default() };
    let result = SqliteStore::open(&path, options).await.map(drop);
    assert!(matches!(result, Err(OpenError::NeedsMigration { found: 0, .. })), "{result:?}");
}

#[tokio::test]
async fn a_migration_whose_text_changed_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hotgo.db");
    Running::open(&path, OpenOptions::default()).await.unwrap().stop().await;
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute("UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1", []).unwrap();
    let result = SqliteStore::open(&path, OpenOptions::default()).await.map(drop);
    assert!(matches!(result, Err(OpenError::Altered { version: 1 })), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_migration_lock_that_is_never_freed_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hotgo.db");
    std::fs::write(&path, []).unwrap();
    let lock = std::fs::File::create(directory.path().join("hotgo.db.migrate.lock")).unwrap();
    lock.lock().unwrap();
    assert!(matches!(Schema::default().up(&path).await, Err(OpenError::Locked(_))));
}

const CHILD_DATABASE: &str = "STORE_CONTRACT_CHILD_DATABASE";

/// Not a test of its own: what each process of the next test does.
#[tokio::test]
#[ignore = "run by processes_may_migrate_at_once"]
async fn migrate_as_a_child() {
    let path = PathBuf::from(std::env::var(CHILD_DATABASE).unwrap());
    Schema::default().up(&path).await.unwrap();
}

#[tokio::test]
async fn processes_may_migrate_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hotgo.db");
    std::fs::write(&path, []).unwrap();
    let child = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "sqlite::migrate_as_a_child"])
            .env(CHILD_DATABASE, &path)
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| child()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let steps = Schema::default().status(&path).await.unwrap();
    assert!(!steps.is_empty() && steps.iter().all(|step| step.state == State::Applied), "{steps:?}");
}

const CHILD_ALIAS: &str = "STORE_CONTRACT_CHILD_ALIAS";

/// Not a test of its own: a server on another data directory, whose `store.path` is the same file by another name.
#[tokio::test]
#[ignore = "run by only_one_process_may_have_a_database_open_for_writing"]
async fn open_as_a_second_server() {
    let path = PathBuf::from(std::env::var(CHILD_ALIAS).unwrap());
    match SqliteStore::open(&path, OpenOptions::default()).await.map(drop) {
        Err(error @ OpenError::InUse { .. }) => {
            let said = error.to_string();
            assert!(said.contains("other/hotgo.db") && said.contains("hotgo.db.lock"), "{said}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_one_process_may_have_a_database_open_for_writing() {
    let running = Running::start().await;
    let (mut held, _) = Held::with_robot(running.store()).await;
    let other = running.path.with_file_name("other");
    std::fs::create_dir(&other).unwrap();
    let alias = other.join("hotgo.db");
    std::os::unix::fs::symlink(&running.path, &alias).unwrap();
    let second = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "sqlite::open_as_a_second_server"])
        .env(CHILD_ALIAS, &alias)
        .output()
        .unwrap();
    assert!(second.status.success(), "{second:?}");
    // Those that only read are let in, and the one that writes goes on.
    integrity_check(&alias).await.unwrap();
    Dump::open(&alias).unwrap().tables(|_| {}).unwrap();
    held.commit(running.store(), vec![alarm("still here")]).await.unwrap();
    // Its end, however it ends, lets the next one in.
    let Running { store, mut writer, path, directory } = running;
    writer.abort_all();
    while writer.join_next().await.is_some() {}
    drop(store);
    Running::open(&path, OpenOptions::default()).await.unwrap().stop().await;
    drop(directory);
}

#[tokio::test]
async fn a_waiting_command_of_a_newer_version_is_told_apart_and_hides_no_other() {
    let running = Running::start().await;
    let (held, robot) = Held::with_robot(running.store()).await;
    let Event::Command(record) = crate::data::command(robot.id, "known") else { unreachable!() };
    let newer = rusqlite::Connection::open(&running.path).unwrap();
    newer
        .execute(
            r#"INSERT INTO hg_trading_inbox (account, source, dedup_key, wish, received_at)
               VALUES (?, 'key:1', 'newer', '{"wish":"teleport"}', 1)"#,
            [held.account.id.0],
        )
        .unwrap();
    drop(newer);
    running.store().store_command(held.account.id, &record.command, crate::data::at(2), 10).await.unwrap();
    let page = running.store().waiting_commands(&[held.account.id], 10).await.unwrap();
    let shown: Vec<_> = page.iter().map(|waiting| (waiting.dedup_key.as_str(), waiting.wish.is_ok())).collect();
    assert_eq!(shown, [("newer", false), ("known", true)]);
    running.stop().await;
}
