//! One installation with its venue, ended round after round. Several lanes run side by side.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use shutdown_coordinator::testkit::{Exit, Points, Signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use crate::round::{End, WEAKNESSES};
use crate::support::server::Robot;
use crate::support::venue::Venue;
use crate::support::{CLEAN, Client, Installation, Load, Random, Server, UNCLEAN};
use crate::tally::Tally;

/// Rounds on one data directory. Then a new one: an audit reads all of it.
const ROUNDS_AT_HOME: u64 = 60;
/// How long an end by SIGTERM may take: the configured stop budget.
const BUDGET: Duration = Duration::from_millis(9_500);
/// How long a recovery may take.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// The latest of the random moments.
const MOMENT_MOST_US: u64 = 200_000;
/// A second SIGTERM cut the drain short.
const FORCED: Exit = Exit::Code(128 + 15);
const LEASE_TTL_MS: u64 = 3_000;
/// How many orders may pass a point before one is held there.
const PASSES_MOST: u64 = 6;
/// Calls of `fdatasync`: the first dozens are the start, the rest orders.
const SYNCS_MOST: u64 = 90;
const SENDERS: u64 = 4;

/// Where servers come and go.
struct Home {
    installation: Installation,
    venue: Venue,
    points: Points,
    load: Load,
    robot: Robot,
    rounds: u64,
}

/// See the [module](self).
pub(crate) struct Lane {
    seed: u64,
    number: u64,
    random: Random,
    tally: Arc<Tally>,
    home: Home,
    server: Option<Server>,
    /// The round that comes next, taken from all lanes' common count.
    next: Option<u64>,
}

impl Lane {
    pub(crate) async fn start(seed: u64, number: u64, tally: Arc<Tally>) -> Self {
        let (home, server) = Home::found(number).await;
        let next = tally.next_round();
        Self { seed, number, random: Random::new(seed, number), tally, home, server: Some(server), next }
    }

    pub(crate) fn wants_more(&self) -> bool {
        self.next.is_some()
    }

    /// One end, and what follows from it.
    pub(crate) async fn round(&mut self) {
        let Some(number) = self.next else { return };
        if self.home.rounds == ROUNDS_AT_HOME {
            self.leave().await;
            let (home, server) = Home::found(self.number).await;
            (self.home, self.server) = (home, Some(server));
        }
        self.home.rounds += 1;
        let end = self.tally.end(number);
        let weakness = WEAKNESSES[usize::try_from(number).unwrap() % WEAKNESSES.len()];
        let context = format!("seed {}, round {number}: {} under {:?}", self.seed, end.name(), weakness.faults());
        self.home.venue.set_faults(&weakness.faults()).await;
        let server = self.server.take().unwrap();
        let mut work = self.home.start_work(&server, self.random.below(u64::MAX));
        self.end(end, server, &context).await;
        work.shutdown().await;
        let recovery = self.recover(&context).await;
        self.tally.survived(end.name(), end.kills(), recovery);
        self.next = self.tally.next_round();
    }

    /// The moment of a random end.
    fn moment(&mut self) -> Duration {
        Duration::from_micros(self.random.below(MOMENT_MOST_US))
    }

    async fn pause(&mut self) {
        let moment = self.moment();
        // The work goes on by itself; this only picks the moment.
        drop(timeout(moment, std::future::pending::<()>()).await);
    }

    async fn end(&mut self, end: End, mut server: Server, context: &str) {
        match end {
            End::Kill => {
                self.pause().await;
                server.sigkill().await;
            }
            End::KillAt(point) => {
                let _held = self.hold(point).await;
                server.sigkill().await;
                self.home.points.disarm(point);
            }
            End::KillAtSync => self.kill_at_sync(server, context).await,
            End::KillInDrain => {
                self.pause().await;
                server.sigterm();
                let moment = self.moment() / 4;
                let ended = server.exits_within(moment).await;
                if !ended {
                    server.signal_process(Signal::Kill);
                    server.wait_exit(BUDGET).await;
                }
            }
            End::KillInRecovery => {
                self.pause().await;
                server.sigkill().await;
                let mut early = self.home.installation.spawn();
                let moment = self.moment() / 4;
                assert!(!early.exits_within(moment).await, "{context}: it ended in its recovery\n{}", early.stderr());
                early.sigkill().await;
            }
            End::KillWithVenue => {
                self.pause().await;
                self.tally.fired(&self.home.venue.fired().await);
                self.home.venue.crash().await;
                self.pause().await;
                server.sigkill().await;
            }
            End::KillAfterFreeze => {
                server.freeze().await;
                drop(timeout(Duration::from_millis(LEASE_TTL_MS + 200), std::future::pending::<()>()).await);
                server.thaw();
                self.pause().await;
                server.sigkill().await;
            }
            End::Term => {
                self.pause().await;
                server.sigterm();
                stopped(&mut server, context).await;
            }
            End::TermTwice => {
                self.pause().await;
                server.sigterm();
                let moment = self.moment() / 8;
                server.exits_within(moment).await;
                server.sigterm();
                stopped(&mut server, context).await;
            }
            End::TermAt(point, let_go) => self.term_at(point, let_go, server, context).await,
        }
    }

    async fn term_at(&mut self, point: &'static str, let_go: bool, mut server: Server, context: &str) {
        let held = self.hold(point).await;
        server.sigterm();
        server.wait_draining().await;
        if let_go {
            self.home.points.disarm(point);
            drop(held);
            stopped(&mut server, context).await;
        } else {
            stopped(&mut server, context).await;
            drop(held);
            self.home.points.disarm(point);
        }
    }

    /// Holds an order at a point of its life, after some others have passed it.
    async fn hold(&mut self, point: &str) -> shutdown_coordinator::testkit::Held {
        self.home.points.arm(point);
        for _ in 0..self.random.below(PASSES_MOST) {
            self.home.points.reached(point).await.unwrap().release();
        }
        self.home.points.reached(point).await.unwrap()
    }

    /// The next process runs under strace, which kills it as it enters its n-th `fdatasync`.
    async fn kill_at_sync(&mut self, mut server: Server, context: &str) {
        server.sigterm();
        stopped(&mut server, context).await;
        let n = 1 + self.random.below(SYNCS_MOST);
        let mut traced = self.home.installation.spawn_killed_at_sync(n);
        if traced.comes_up().await {
            let mut work = self.home.start_work(&traced, n);
            if !traced.exits_within(Duration::from_secs(5)).await {
                traced.kill_traced();
            }
            work.shutdown().await;
        } else {
            traced.kill_traced();
        }
        let exit = traced.wait_exit(BUDGET).await;
        assert_eq!(exit, Exit::Signal(9), "{context}, at sync {n}\n{}", traced.stderr());
    }

    /// The next start, and the verdict.
    async fn recover(&mut self, context: &str) -> Duration {
        let started = Instant::now();
        let mut server = self.home.installation.spawn();
        server.wait_listening().await;
        // Half of the recoveries begin while the venue still has its weakness.
        if self.random.below(2) == 0 {
            self.pause().await;
        }
        self.home.venue.set_faults(&json!({})).await;
        self.home.installation.admit(&mut server);
        if !server.becomes_ready(READY_WITHIN).await {
            let status = server.admin().get("/status").await.map(|answer| answer.json()["engines"].to_string());
            let kept = self.home.installation.keep();
            panic!("{context}: not ready again; kept in {}\n{status:?}\n{}", kept.display(), server.stderr());
        }
        let recovery = started.elapsed();
        let verdict = self.home.installation.audit_at(&self.home.venue, Some(self.home.load.path())).await;
        if !verdict.is_clean() {
            let kept = self.home.installation.keep();
            panic!("{context}; kept in {}\n{}\n{}", kept.display(), verdict.text, server.stderr());
        }
        self.server = Some(server);
        recovery
    }

    async fn leave(&mut self) {
        let verdict = self.home.installation.audit_at(&self.home.venue, Some(self.home.load.path())).await;
        self.tally.traded(self.home.load.sent(), self.home.load.answered(), &verdict.json);
        self.tally.fired(&self.home.venue.fired().await);
        if let Some(server) = self.server.take() {
            server.assert_stops_clean().await;
        }
    }

    pub(crate) async fn close(mut self) {
        self.leave().await;
        self.home.venue.stop().await;
    }
}

/// The end of a shutdown: in time, with a code that says what it was like.
async fn stopped(server: &mut Server, context: &str) {
    let exit = server.wait_exit(BUDGET).await;
    let told = [CLEAN, UNCLEAN, FORCED].contains(&exit);
    assert!(told, "{context}: {exit:?}\n{}\n{}", server.stdout(), server.stderr());
}

impl Home {
    /// A new data directory, a new venue, three robots.
    async fn found(lane: u64) -> (Self, Server) {
        let mut installation = Installation::new();
        installation.set("HOTGO__TRADING__LEASE_TTL_MS", &LEASE_TTL_MS.to_string());
        // A proof of absence takes three requests in a row, on a machine that is busy with other lanes.
        installation.set("HOTGO__VENUE__REQUEST_TIMEOUT_MS", "1000");
        installation.set("HOTGO__VENUE__PAPER__OPENING__USDT", "100000000");
        installation.set("HOTGO__MARKET__QUOTES_PER_SECOND", "50");
        let points = installation.points();
        let venue = Venue::start(&mut installation).await;
        let server = installation.start().await;
        let robot = server.robot("signals").await;
        for (name, config) in [
            ("grid", json!({"kind": "grid", "lower": "86500", "upper": "87500", "levels": 21, "qty": "0.001"})),
            ("dca", json!({"kind": "dca", "quote_per_step": "25", "interval_ms": 200, "max_steps": 100_000})),
        ] {
            let wish = json!({"name": name, "symbol": "BTCUSDT", "config": config, "start": true});
            server.client().post_keyed("/api/robots", name, &wish).await.unwrap().ok();
        }
        let load = Load::new(&installation.scratch("answered"), &format!("lane-{lane}"));
        (Self { installation, venue, points, load, robot, rounds: 0 }, server)
    }

    /// Signals of every kind and cancellations, until the set is shut down or the server is gone.
    fn start_work(&self, server: &Server, seed: u64) -> JoinSet<()> {
        let mut work = JoinSet::new();
        let turn = Arc::new(AtomicU64::new(seed % 1_000));
        for _ in 0..SENDERS {
            let (load, client, robot, turn) = (self.load.clone(), server.client(), self.robot.id, Arc::clone(&turn));
            work.spawn(async move {
                // Four senders that never pause leave a machine with two cores no time for anything else.
                let mut pace = interval(Duration::from_millis(5));
                loop {
                    pace.tick().await;
                    let body = signal(robot, turn.fetch_add(1, Ordering::Relaxed));
                    if load.send_body(&client, &body).await.is_none() {
                        return;
                    }
                }
            });
        }
        let client = server.client();
        work.spawn(async move {
            let mut pace = interval(Duration::from_millis(15));
            loop {
                pace.tick().await;
                if cancel_oldest(&client).await.is_none() {
                    return;
                }
            }
        });
        work
    }
}

/// Orders of every kind: some fill at once, some rest, some are refused by the venue or by our own rules.
fn signal(robot: i64, turn: u64) -> Value {
    let (action, order) = match turn % 8 {
        0 | 1 => ("buy", json!({"type": "market"})),
        2 => ("sell", json!({"type": "market"})),
        3 => ("buy", json!({"type": "limit", "price": "86000"})),
        4 => ("buy", json!({"type": "post_only", "price": "85900"})),
        5 => ("sell", json!({"type": "limit", "price": "87100"})),
        6 => ("buy", json!({"type": "stop_limit", "stop_price": "88500", "price": "88600"})),
        _ => ("sell", json!({"type": "limit", "price": "86900"})),
    };
    json!({"robot": robot, "action": action, "qty": "0.001", "order": order})
}

/// Cancels the oldest of the newest open orders, whatever becomes of it. `None` once the server is gone.
async fn cancel_oldest(client: &Client) -> Option<()> {
    let open = client.get("/api/orders?live=true&limit=20").await.ok()?;
    let orders = open.json();
    let last = orders["items"].as_array().and_then(|items| items.last()).map(|order| order["client_id"].clone());
    let Some(id) = last.as_ref().and_then(Value::as_str) else { return Some(()) };
    let key = format!("cancel-{id}");
    client.post_keyed(&format!("/api/orders/{id}/cancel"), &key, &json!({})).await.ok().map(drop)
}
