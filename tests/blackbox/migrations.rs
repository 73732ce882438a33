//! Migrations of a server that trades, on both databases: the example of docs/migrations.md in its three stages, with the real
//! binary as the old release, and the way that the first deployment plan had.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::support::postgres::Postgres;
use crate::support::server::Robot;
use crate::support::{Installation, Server, eventually, within};
use hotgo::build_info::BUILD_ID;
use hotgo::cli::{ExitCode, Failure};
use hotgo::store::migrate::{SCHEMA_MAX, SCHEMA_MIN, Schema, State, Step};
use hotgo::store::postgres;
use hotgo::store::sqlite::OpenError;
use serde_json::{Value, json};
use shutdown_coordinator::testkit::Exit;
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, Executor as _};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_mins(1);
/// The release that brings the example.
const NEW_BUILD: &str = "9.0.0+new";
/// What the example adds to this schema, and what contracts it.
const EXPANDS: i64 = 6;
const CONTRACTS: [i64; 2] = [8, 10];

/// An installation of the old release, and its database.
struct World {
    home: Installation,
    server: Option<Postgres>,
}

impl World {
    fn sqlite() -> Self {
        Self { home: Installation::new(), server: None }
    }

    fn postgres() -> Self {
        let (mut home, server) = (Installation::new(), Postgres::start());
        home.set("HOTGO__STORE__URL", &server.url());
        Self { home, server: Some(server) }
    }

    fn name(&self) -> &'static str {
        if self.server.is_some() { "postgres" } else { "sqlite" }
    }

    /// One file of the example.
    fn example(&self, file: &str) -> String {
        std::fs::read_to_string(format!("docs/examples/migrations/{}/{file}", self.name())).unwrap()
    }

    /// The schema of this release.
    fn own(&self) -> Migrator {
        if self.server.is_some() { sqlx::migrate!("migrations/postgres") } else { sqlx::migrate!("migrations/sqlite") }
    }

    /// The schema of a release with the example, from which the files are taken whose number is in `leaving_out`.
    async fn with_example(&self, leaving_out: &[i64]) -> Schema {
        let path = format!("docs/examples/migrations/{}", self.name());
        let example = Migrator::new(Path::new(&path)).await.unwrap();
        let own = self.own();
        let all = own.iter().chain(example.iter()).filter(|step| !leaving_out.contains(&step.version));
        Schema::new(Migrator::with_migrations(all.cloned().collect()), EXPANDS..=11)
    }

    fn target(&self) -> Option<postgres::Server> {
        self.server.as_ref().map(|server| postgres::Server::new(&server.url(), None).unwrap())
    }

    async fn up(&self, schema: &Schema) -> Result<Vec<i64>, OpenError> {
        let applied = match self.target() {
            Some(target) => schema.up_on_server(&target).await,
            None => schema.up(&self.home.database()).await,
        };
        applied.map(versions)
    }

    async fn contract(&self, schema: &Schema, build: &str, dry_run: bool) -> Result<Vec<i64>, OpenError> {
        let applied = match self.target() {
            Some(target) => schema.contract_on_server(&target, build, dry_run).await,
            None => schema.contract(&self.home.database(), build, dry_run).await,
        };
        applied.map(versions)
    }

    /// Those that are in this state.
    async fn that_are(&self, schema: &Schema, state: State) -> Vec<i64> {
        let steps = match self.target() {
            Some(target) => schema.status_of_server(&target).await,
            None => schema.status(&self.home.database()).await,
        };
        versions(steps.unwrap().into_iter().filter(|step| step.state == state).collect())
    }

    /// Runs statements beside the server; how many rows the last one changed.
    async fn run(&self, sql: &str) -> Result<u64, String> {
        let Some(server) = &self.server else {
            let file = rusqlite::Connection::open(self.home.database()).unwrap();
            file.busy_timeout(LIMIT).unwrap();
            return file.execute_batch(sql).map(|()| file.changes()).map_err(|error| error.to_string());
        };
        let mut conn = sqlx::PgConnection::connect(&server.url()).await.unwrap();
        let done = conn.execute(sqlx::AssertSqlSafe(sql.to_owned())).await.map_err(|error| error.to_string());
        conn.close().await.unwrap();
        done.map(|done| done.rows_affected())
    }

    /// How many robots there are that satisfy this.
    async fn robots(&self, condition: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM hg_trading_robot WHERE {condition}");
        if let Some(server) = &self.server {
            return server.ask(&sql).await.parse().unwrap();
        }
        let file = rusqlite::Connection::open(self.home.database()).unwrap();
        file.busy_timeout(LIMIT).unwrap();
        file.query_row(&sql, [], |row| row.get(0)).unwrap()
    }

    /// Fills the column in batches of two rows; how many batches it took.
    async fn backfill(&self) -> u32 {
        let batch = self.example("backfill.sql").replace("LIMIT 500", "LIMIT 2");
        let mut batches = 0;
        loop {
            match self.run(&batch).await.unwrap() {
                0 => return batches,
                changed => assert!(changed <= 2, "{changed} rows in one transaction"),
            }
            batches += 1;
        }
    }

    /// The old release's command line.
    async fn main(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_main"));
        command.args(arguments).arg("--data-dir").arg(self.home.data_dir()).stdin(Stdio::null()).kill_on_drop(true);
        for (name, value) in self.home.settings().iter().filter(|(name, _)| name.starts_with("HOTGO__")) {
            command.env(name, value);
        }
        let output = within(LIMIT, "it ends", command.output()).await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }
}

fn versions(steps: Vec<Step>) -> Vec<i64> {
    steps.into_iter().map(|step| step.version).collect()
}

/// Makes a robot, which inserts a row, and lets it trade, which changes it.
async fn trades(server: &Server, name: &str) -> Robot {
    let robot = server.robot(name).await;
    let answer = server.signal(&robot, &format!("signal-{name}")).await.unwrap().ok();
    assert_eq!(answer["outcome"], "done", "{answer}");
    let id = answer["orders"][0].as_str().unwrap().to_owned();
    let filled = |order: &Value| order["client_id"] == *id && order["status"] == "FILLED";
    server.order_that("its order is filled", filled).await;
    robot
}

/// The three stages, with the old release trading throughout.
async fn three_stages(mut world: World) {
    let new = world.with_example(&[]).await;
    let old = world.home.start().await;
    for name in ["one", "two", "three"] {
        trades(&old, name).await;
    }

    // 1. Expand. What contracts is not applied with it.
    assert_eq!(world.up(&new).await.unwrap(), [EXPANDS]);
    assert_eq!(world.that_are(&new, State::Contract).await, CONTRACTS);
    assert_eq!(world.up(&new).await.unwrap(), [0; 0], "there is nothing more for `up`");
    trades(&old, "expanded").await;
    old.assert_stops_clean().await;
    // The way back is open.
    let old = world.home.start().await;
    trades(&old, "back").await;

    // 2. Backfill. On SQLite the default shows in every row at once: a new release has to write NULL before there is any.
    if world.server.is_none() {
        world
            .run("UPDATE hg_trading_robot SET new_feature = NULL WHERE name IN ('one', 'two', 'three')")
            .await
            .unwrap();
    }
    assert_eq!(world.robots("new_feature IS NULL").await, 3);
    let (batches, _) = tokio::join!(world.backfill(), trades(&old, "meanwhile"));
    assert_eq!(batches, 2, "two rows, then one");
    assert_eq!(world.robots("new_feature IS NULL").await, 0);

    // 3. Contract. Not while a process of the old release lives.
    for dry_run in [true, false] {
        match world.contract(&new, NEW_BUILD, dry_run).await {
            Err(error @ OpenError::OtherBuild { .. }) => {
                let failure = Failure::from(error);
                assert!(failure.message.contains(BUILD_ID), "{failure:?}");
                assert_eq!(failure.code, ExitCode::DataDir);
                assert!(failure.help.unwrap().contains("upgrade or stop it first"));
            }
            other => panic!("the old release lives: {other:?}"),
        }
    }
    assert_eq!(world.that_are(&new, State::Contract).await, CONTRACTS, "nothing was changed");
    // As if that process were of the release that contracts: the statements of the old one work even so.
    assert_eq!(world.contract(&new, BUILD_ID, true).await.unwrap(), CONTRACTS);
    assert_eq!(world.contract(&new, BUILD_ID, false).await.unwrap(), CONTRACTS);
    assert_eq!(world.contract(&new, BUILD_ID, false).await.unwrap(), [0; 0]);
    trades(&old, "contracted").await;
    assert_eq!(world.robots("new_feature = 'default_value'").await, 7, "each has it");
    let refused = world.run("UPDATE hg_trading_robot SET new_feature = NULL").await.unwrap_err();
    assert!(refused.contains("new_feature"), "{refused}");
    world.home.audit(None).await.assert_clean("after three stages");
    old.assert_stops_clean().await;

    // There is no way back any more, and the old release says so.
    let (exit, said) = world.home.start_refused().await;
    assert_eq!(exit, Exit::Code(6), "{said}");
    assert!(said.contains("the schema is version 10") && said.contains("newer release"), "{said}");
}

#[tokio::test]
async fn the_old_release_trades_through_all_three_stages_on_sqlite() {
    three_stages(World::sqlite()).await;
}

#[tokio::test]
async fn the_old_release_trades_through_all_three_stages_on_postgres() {
    three_stages(World::postgres()).await;
}

/// All at once, as the first plan had it: a column that may be NULL, one UPDATE of the whole table, NOT NULL.
async fn all_at_once(mut world: World) {
    world.home.set("HOTGO__TRADING__LEASE_TTL_MS", "3000");
    let old = world.home.start().await;
    let before = trades(&old, "before").await;
    let decided = "name = 'before' AND decision_seq = 1";
    assert_eq!(world.robots(decided).await, 1);
    let robot = json!({
        "name": "after", "symbol": "BTCUSDT", "config": {"kind": "follower", "default_qty": "0.01"}, "start": true,
    });
    let plan = if world.server.is_some() {
        "ALTER TABLE hg_trading_robot ADD COLUMN new_feature VARCHAR(100) DEFAULT NULL;
         UPDATE hg_trading_robot SET new_feature = 'default_value' WHERE new_feature IS NULL;
         ALTER TABLE hg_trading_robot ALTER COLUMN new_feature SET NOT NULL;"
            .to_owned()
    } else {
        let not_null = world.example("0008_contract_robot_new_feature_not_null.sql");
        format!(
            "ALTER TABLE hg_trading_robot ADD COLUMN new_feature TEXT DEFAULT NULL;
             UPDATE hg_trading_robot SET new_feature = 'default_value' WHERE new_feature IS NULL;
             {not_null}"
        )
    };
    world.run(&plan).await.unwrap();
    // What it writes of a robot that exists names no value either.
    let answer = old.signal(&before, "after").await;
    assert!(!answer.as_ref().is_ok_and(|answer| answer.json()["outcome"] == "done"), "it was decided: {answer:?}");
    assert_eq!(world.robots(decided).await, 1, "it decided once more");
    refuses(&world, &old, &robot).await;
    old.sigkill().await;
    // The release before cannot be put back either: it starts, and what it does is refused in the same way.
    let again = world.home.start().await;
    refuses(&world, &again, &robot).await;
}

/// A robot that is asked for is not made, because the database refuses the row.
async fn refuses(world: &World, server: &Server, robot: &Value) {
    // It may also wait for the account's lease, and be decided then.
    let answer = server.client().post_keyed("/api/robots", "make-after", robot).await;
    let made = answer.as_ref().is_ok_and(|answer| answer.is_success() && !answer.json()["robot"].is_null());
    assert!(!made, "the old release's insert was taken: {answer:?}");
    let named =
        async || Some(server.stderr()).filter(|log| log.contains("hg_trading_robot") && log.contains("new_feature"));
    eventually(LIMIT, "its log says why", named).await;
    assert_eq!(world.robots("name = 'after'").await, 0);
}

#[tokio::test]
async fn the_plans_update_and_not_null_break_the_old_releases_inserts_on_sqlite() {
    all_at_once(World::sqlite()).await;
}

#[tokio::test]
async fn the_plans_update_and_not_null_break_the_old_releases_inserts_on_postgres() {
    all_at_once(World::postgres()).await;
}

/// With `store.migrate: never` nothing is migrated by a start.
async fn never(mut world: World) {
    world.home.set("HOTGO__STORE__MIGRATE", "never");
    // An empty database, and one that is behind.
    for behind in [0, SCHEMA_MIN - 1] {
        if behind > 0 {
            let first = world.own().iter().filter(|step| step.version <= behind).cloned().collect();
            world.up(&Schema::new(Migrator::with_migrations(first), 1..=behind)).await.unwrap();
        }
        let (exit, said) = world.home.start_refused().await;
        assert_eq!(exit, Exit::Code(6), "{said}");
        assert!(said.contains(&format!("version {behind};")) && said.contains("main migrate up"), "{said}");
        let (code, said) = world.main(&["check"]).await;
        assert!(code == Some(6) && said.contains("main migrate up"), "{said}");
        let applied = world.that_are(&Schema::new(world.own(), 1..=1), State::Applied).await;
        assert_eq!(applied.last().copied().unwrap_or(0), behind, "it was migrated");
    }
    assert_eq!(world.main(&["migrate", "up"]).await.0, Some(0));
    assert_eq!(world.main(&["check"]).await.0, Some(0));
    let (code, said) = world.main(&["migrate", "contract", "--dry-run"]).await;
    assert!(code == Some(0) && said.contains("nothing to apply"), "{said}");
    let server = world.home.start().await;
    trades(&server, "migrated").await;
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn a_server_that_never_migrates_says_which_command_does_on_sqlite() {
    never(World::sqlite()).await;
}

#[tokio::test]
async fn a_server_that_never_migrates_says_which_command_does_on_postgres() {
    never(World::postgres()).await;
}

/// Order, ledger and checksum of what contracts.
async fn contracts(world: World) {
    let new = world.with_example(&[]).await;
    if world.server.is_none() {
        std::fs::create_dir_all(world.home.data_dir()).unwrap();
        std::fs::write(world.home.database(), []).unwrap();
    }
    // What comes after one that contracts waits for it.
    let before = world.with_example(&[8, 10]).await;
    world.up(&before).await.unwrap();
    let mut later: Vec<_> = world.own().iter().cloned().collect();
    let text = sqlx::AssertSqlSafe("CREATE TABLE later (id BIGINT)".to_owned());
    let simple = sqlx::migrate::MigrationType::Simple;
    later.push(sqlx::migrate::Migration::new(9, "later".into(), simple, sqlx::SqlSafeStr::into_sql_str(text), false));
    let path = format!("docs/examples/migrations/{}", world.name());
    later.extend(Migrator::new(Path::new(&path)).await.unwrap().iter().filter(|step| step.version != 10).cloned());
    let later = Schema::new(Migrator::with_migrations(later), 9..=10);
    assert!(matches!(world.up(&later).await, Err(OpenError::NeedsContract { found: 6, version: 8, .. })));

    // A row that was not filled: the second part fails, and the first one stays.
    world
        .run(
            "INSERT INTO hg_trading_account (id, venue, label) VALUES (1, 'paper', 'main');
             INSERT INTO hg_trading_robot VALUES
                 (1, 1, 'r', 'follower', 'BTCUSDT', '{}', '{}', 'running', 'running', NULL, 'keep', 0, NULL, 0, 1, NULL)",
        )
        .await
        .unwrap();
    world.contract(&new, NEW_BUILD, false).await.unwrap_err();
    assert_eq!(world.that_are(&new, State::Contract).await, [10]);
    assert_eq!(world.backfill().await, 1);
    assert_eq!(world.contract(&new, NEW_BUILD, false).await.unwrap(), [10]);
    assert_eq!(world.up(&later).await.unwrap(), [9]);

    // One whose text has changed since is refused.
    world.run("UPDATE _sqlx_migrations SET checksum = 'x' WHERE version = 8").await.unwrap();
    assert!(matches!(world.contract(&new, NEW_BUILD, false).await, Err(OpenError::Altered { version: 8 })));
}

#[tokio::test]
async fn what_contracts_has_its_place_in_the_order_and_the_ledger_on_sqlite() {
    contracts(World::sqlite()).await;
}

#[tokio::test]
async fn what_contracts_has_its_place_in_the_order_and_the_ledger_on_postgres() {
    contracts(World::postgres()).await;
}

#[tokio::test]
async fn an_empty_database_gets_what_contracts_too_since_no_old_release_can_be_there() {
    let world = World::postgres();
    let new = world.with_example(&[]).await;
    let all = world.up(&new).await.unwrap();
    assert_eq!(all.get(all.len() - 3..).unwrap(), [6, 8, 10]);
}

#[tokio::test]
async fn contracting_waits_for_a_lock_without_holding_up_those_who_trade() {
    let mut world = World::postgres();
    let new = world.with_example(&[]).await;
    let server = world.home.start().await;
    world.up(&new).await.unwrap();
    let mut holder = sqlx::PgConnection::connect(&world.server.as_ref().unwrap().url()).await.unwrap();
    // Keeps a change of the table away, and no insert.
    holder.execute("BEGIN; LOCK TABLE hg_trading_robot IN ROW EXCLUSIVE MODE").await.unwrap();
    let release = async {
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
                     WHERE application_name = 'hotgo migrate' AND wait_event_type = 'Lock')";
        let is = async |state: &str| (world.server.as_ref().unwrap().ask(waits).await == state).then_some(());
        eventually(LIMIT, "it waits", async || is("true").await).await;
        eventually(LIMIT, "it gives up for a moment", async || is("false").await).await;
        trades(&server, "meanwhile").await;
        holder.execute("ROLLBACK").await.unwrap();
    };
    let (done, ()) = tokio::join!(world.contract(&new, BUILD_ID, false), release);
    assert_eq!(done.unwrap(), CONTRACTS);
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn the_numbers_of_the_migrations_keep_the_rules() {
    let listed = |migrator: &Migrator| -> Vec<(i64, String)> {
        migrator.iter().map(|step| (step.version, step.description.to_string())).collect()
    };
    let (postgres, sqlite) = (sqlx::migrate!("migrations/postgres"), sqlx::migrate!("migrations/sqlite"));
    assert_eq!(listed(&postgres), listed(&sqlite), "the same schema on both");
    let newest = listed(&sqlite).last().unwrap().0;
    assert_eq!(SCHEMA_MAX, newest + 1, "a binary accepts one ahead of its own");
    let [postgres_example, sqlite_example] =
        ["postgres", "sqlite"].map(|name| format!("docs/examples/migrations/{name}"));
    let postgres_example = Migrator::new(Path::new(&postgres_example)).await.unwrap();
    assert_eq!(listed(&postgres_example), listed(&Migrator::new(Path::new(&sqlite_example)).await.unwrap()));
    for migrator in [postgres, postgres_example] {
        for pair in listed(&migrator).windows(2) {
            let [(before, _), (number, what)] = pair else { panic!("two") };
            let leaves_out = i64::from(what.starts_with("contract "));
            assert!(
                number - before > leaves_out,
                "{number} {what}: a number is left out before one that contracts, so that the release before refuses it"
            );
        }
    }
}
