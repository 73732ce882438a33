//! The cluster, the blows to it, and the verdict after each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use shutdown_coordinator::testkit::Exit;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use crate::blow::Blow;
use crate::link::{Link, State};
use crate::support::postgres::Postgres;
use crate::support::venue::Venue;
use crate::support::{CLEAN, Client, Installation, Load, Random, RedisServer, Server, UNCLEAN, eventually};

const NODES: usize = 3;
const ACCOUNTS: [&str; 7] = ["ann", "ben", "cai", "dan", "eve", "fay", "gus"];
const LEASE_TTL_MS: u64 = 3_000;
/// Until leases have ended by every clock, and somebody has noticed.
const PAST_THE_LEASE: Duration = Duration::from_millis(LEASE_TTL_MS + 1_500);
const FROZEN: Duration = Duration::from_millis(2_500);
/// The latest of the random moments.
const MOMENT_MOST_US: u64 = 300_000;
/// From the end of a blow until every account trades again, on a machine with two cores.
const HEALED: Duration = Duration::from_mins(1);
const BUDGET: Duration = Duration::from_millis(9_500);

struct Node {
    installation: Installation,
    database: Link,
    redis: Link,
    server: Option<Server>,
}

impl Node {
    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn server_mut(&mut self) -> &mut Server {
        self.server.as_mut().unwrap()
    }

    async fn kill(&mut self) {
        self.server.take().unwrap().sigkill().await;
    }

    async fn start(&mut self) {
        self.server = Some(self.installation.start().await);
    }

    /// SIGTERM, and an end in time with a code that says what it was like.
    async fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        server.sigterm();
        let exit = server.wait_exit(BUDGET).await;
        assert!([CLEAN, UNCLEAN].contains(&exit), "{exit:?}\n{}\n{}", server.stdout(), server.stderr());
    }
}

/// See the [module](self).
pub(crate) struct Cluster {
    random: Random,
    postgres: Postgres,
    redis: RedisServer,
    venue: Venue,
    nodes: Vec<Node>,
    load: Load,
    /// Where each instance serves at the moment.
    clients: watch::Sender<Vec<Client>>,
    work: JoinSet<()>,
    seed: u64,
    healed: Duration,
}

impl Cluster {
    pub(crate) async fn found(seed: u64) -> Self {
        let (postgres, (redis, redis_port)) = (Postgres::start(), RedisServer::with_port().await);
        let mut nodes = Vec::new();
        for n in 0..NODES {
            let (database, to_redis) = (Link::to(postgres.port()).await, Link::to(redis_port).await);
            let mut installation = Installation::new();
            for (name, value) in [
                ("HOTGO__STORE__URL", format!("postgres://hotgo@127.0.0.1:{}/postgres", database.port())),
                ("HOTGO__REDIS__URL", format!("redis://127.0.0.1:{}", to_redis.port())),
                ("HOTGO__INSTANCE__NAME", format!("node-{n}")),
                ("HOTGO__TRADING__LEASE_TTL_MS", LEASE_TTL_MS.to_string()),
                // On a machine that is busy with three servers, a database, a venue and their clients.
                ("HOTGO__VENUE__REQUEST_TIMEOUT_MS", "1000".to_owned()),
                ("HOTGO__VENUE__PAPER__OPENING__USDT", "100000000".to_owned()),
            ] {
                installation.set(name, &value);
            }
            nodes.push(Node { installation, database, redis: to_redis, server: None });
        }
        let venue = Venue::start_for(&mut nodes[0].installation, &ACCOUNTS, &postgres.url()).await;
        for node in &mut nodes[1..] {
            node.installation.trade_at(&venue);
        }
        nodes[0].start().await;
        let token = nodes[0].server().token().to_owned();
        for node in &mut nodes[1..] {
            node.installation.set_token(&token);
            node.start().await;
        }
        let load = Load::new(&nodes[0].installation.scratch("answered"), &format!("cluster-{seed}"));
        let (random, clients) = (Random::new(seed, 0), watch::Sender::new(Vec::new()));
        let mut cluster = Self {
            random,
            postgres,
            redis,
            venue,
            nodes,
            load,
            clients,
            work: JoinSet::new(),
            seed,
            healed: Duration::ZERO,
        };
        cluster.heal("at the start").await;
        cluster.start_work().await;
        cluster
    }

    /// What was done so far.
    pub(crate) fn figures(&self) -> String {
        let load = &self.load;
        format!("healed after {:.1?}; {} signals sent, {} answered", self.healed, load.sent(), load.answered())
    }

    /// A robot of each kind per account, and senders that ask any instance about any of them.
    async fn start_work(&mut self) {
        let client = self.nodes[0].server().client();
        let accounts = client.get("/api/accounts").await.unwrap().ok();
        let mut robots = Vec::new();
        for account in crate::support::server::list(&accounts) {
            let id = account["id"].as_i64().unwrap();
            let make = async |name: &str, config: Value| {
                let wish = json!({"account": id, "name": name, "symbol": "BTCUSDT", "config": config, "start": true});
                client.post_keyed("/api/robots", &format!("{name}-{id}"), &wish).await.unwrap().ok()
            };
            let follower = make("signals", json!({"kind": "follower", "default_qty": "0.01"})).await;
            robots.push(follower["robot"].as_i64().unwrap());
            make("grid", json!({"kind": "grid", "lower": "86500", "upper": "87500", "levels": 11, "qty": "0.001"}))
                .await;
            make("dca", json!({"kind": "dca", "quote_per_step": "25", "interval_ms": 500, "max_steps": 100_000})).await;
        }
        let (robots, turn): (Arc<[i64]>, _) = (robots.into(), Arc::new(AtomicU64::new(self.seed % 1_000)));
        for _ in 0..4 {
            let (load, robots, turn, clients) =
                (self.load.clone(), Arc::clone(&robots), Arc::clone(&turn), self.clients.subscribe());
            self.work.spawn(async move {
                let mut pace = interval(Duration::from_millis(15));
                loop {
                    pace.tick().await;
                    let turn = turn.fetch_add(1, Ordering::Relaxed);
                    let pick = |of: usize| usize::try_from(turn).unwrap() % of;
                    let client = clients.borrow()[pick(NODES)].clone();
                    let side = if turn % 2 == 0 { "buy" } else { "sell" };
                    let order = match turn % 5 {
                        0 => json!({"type": "limit", "price": "86000"}),
                        1 => json!({"type": "limit", "price": "88000"}),
                        _ => json!({"type": "market"}),
                    };
                    let robot = robots[pick(robots.len())];
                    let body = json!({"robot": robot, "action": side, "qty": "0.001", "order": order});
                    // An instance that is gone does not answer; the next one is asked next.
                    let _gone = timeout(Duration::from_secs(8), load.send_body(&client, &body)).await;
                }
            });
        }
        self.expect_answers("at the start").await;
    }

    async fn pause(&mut self) {
        let moment = Duration::from_micros(self.random.below(MOMENT_MOST_US));
        self.wait(moment).await;
    }

    /// The work goes on by itself; this only picks the moment.
    async fn wait(&self, time: Duration) {
        drop(timeout(time, std::future::pending::<()>()).await);
    }

    /// One blow, the healing, and the verdict.
    pub(crate) async fn strike(&mut self, blow: Blow) {
        let one = usize::try_from(self.random.below(NODES as u64)).unwrap();
        self.pause().await;
        self.blow(blow, one).await;
        let context = format!("seed {}: {blow:?} at instance {one}", self.seed);
        self.heal(&context).await;
        self.expect_answers(&context).await;
        let verdict = self.nodes[0].installation.audit_at(&self.venue, Some(self.load.path())).await;
        if !verdict.is_clean() {
            let said: Vec<String> = self.nodes.iter().map(|node| node.server().stderr()).collect();
            panic!("{context}; kept in {}\n{}\n{}", self.keep(), verdict.text, said.join("\n--\n"));
        }
    }

    async fn blow(&mut self, blow: Blow, one: usize) {
        let other = (one + 1) % NODES;
        match blow {
            Blow::Kill => {
                self.nodes[one].kill().await;
                self.pause().await;
                self.nodes[one].start().await;
            }
            Blow::KillTwo => {
                self.nodes[one].kill().await;
                self.nodes[other].kill().await;
                self.pause().await;
                self.nodes[one].start().await;
                self.nodes[other].start().await;
            }
            Blow::Term => {
                self.nodes[one].stop().await;
                self.pause().await;
                self.nodes[one].start().await;
            }
            Blow::Roll => {
                for node in &mut self.nodes {
                    node.stop().await;
                    node.start().await;
                }
            }
            Blow::Freeze => {
                self.nodes[one].server().freeze().await;
                self.wait(PAST_THE_LEASE).await;
                self.nodes[one].server().thaw();
            }
            Blow::CutDatabase => self.without(PAST_THE_LEASE, &self.nodes[one].database, State::Cut).await,
            Blow::SilenceDatabase => self.without(PAST_THE_LEASE, &self.nodes[one].database, State::Silent).await,
            Blow::SilenceRedis => self.without(FROZEN, &self.nodes[one].redis, State::Silent).await,
            Blow::KillPostgres => {
                self.postgres.kill();
                self.pause().await;
                self.postgres.restart();
            }
            Blow::FreezePostgres => {
                self.postgres.freeze();
                self.wait(FROZEN).await;
                self.postgres.thaw();
            }
            Blow::EndSessions => {
                let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
                           AND backend_type = 'client backend'";
                self.postgres.execute(all).await;
            }
            Blow::KillRedis => {
                self.redis.kill().await;
                self.pause().await;
                self.redis.restart().await;
            }
            Blow::FreezeRedis => {
                self.redis.freeze().await;
                self.wait(FROZEN).await;
                self.redis.thaw();
            }
            Blow::FlushRedis => self.redis.flush().await,
            Blow::KillVenue => self.venue.crash().await,
        }
    }

    async fn without(&self, time: Duration, link: &Link, state: State) {
        link.set(state);
        self.wait(time).await;
        link.set(State::Open);
    }

    /// Waits until every instance is ready and every account trades at exactly one of them.
    async fn heal(&mut self, context: &str) {
        let began = Instant::now();
        self.clients.send_replace(self.nodes.iter().map(|node| node.server().client()).collect());
        for node in &mut self.nodes {
            assert!(node.server_mut().is_running(), "{context}: an instance ended\n{}", node.server().stderr());
        }
        let all: BTreeSet<String> = ACCOUNTS.iter().map(|&account| account.to_owned()).collect();
        let mut seen = Vec::new();
        while began.elapsed() < HEALED {
            seen.clear();
            for node in &self.nodes {
                let status = node.server().admin().get("/status").await.map(|answer| answer.json());
                seen.push(status.unwrap_or_default());
            }
            let owned: Vec<String> = seen.iter().flat_map(running).collect();
            let ready = seen.iter().all(|status| status["ready"] == true);
            if ready && owned.len() == all.len() && owned.into_iter().collect::<BTreeSet<_>>() == all {
                self.healed = began.elapsed();
                return;
            }
            self.wait(Duration::from_millis(50)).await;
        }
        let states: Vec<String> = seen.iter().map(|status| status["engines"].to_string()).collect();
        let said: Vec<String> = self.nodes.iter().map(|node| node.server().stderr()).collect();
        panic!(
            "{context}: not healed within {HEALED:?}; kept in {}\n{}\n{}",
            self.keep(),
            states.join("\n"),
            said.join("\n--\n")
        );
    }

    /// Signals are answered again.
    async fn expect_answers(&self, context: &str) {
        let enough = self.load.answered() + 50;
        let answered = async || (self.load.answered() >= enough).then_some(());
        eventually(HEALED, format!("{context}: signals are answered"), answered).await;
    }

    fn keep(&mut self) -> String {
        let kept: Vec<String> =
            self.nodes.iter_mut().map(|node| node.installation.keep().display().to_string()).collect();
        kept.join(", ")
    }

    /// Ends everything in order.
    pub(crate) async fn close(mut self) {
        self.work.shutdown().await;
        let verdict = self.nodes[0].installation.audit_at(&self.venue, Some(self.load.path())).await;
        verdict.assert_clean("at the end");
        let counts: BTreeMap<String, Value> = serde_json::from_value(verdict.json["counts"].clone()).unwrap();
        eprintln!("{counts:?}");
        for node in &mut self.nodes {
            let mut server = node.server.take().unwrap();
            server.sigterm();
            let exit = server.wait_exit(BUDGET).await;
            assert_eq!(exit, Exit::Code(0), "{}\n{}", server.stdout(), server.stderr());
        }
        self.venue.stop().await;
    }
}

/// The accounts that trade at this instance.
fn running(status: &Value) -> Vec<String> {
    let engines = status["engines"].as_array().cloned().unwrap_or_default();
    let running = engines.into_iter().filter(|engine| engine["state"] == "running");
    running.filter_map(|engine| engine["label"].as_str().map(str::to_owned)).collect()
}
