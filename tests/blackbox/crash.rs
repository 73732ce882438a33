//! kill -9 at random moments under load: thirty times on the same data directory with the built-in venue, audited after each.
//! (`tests/crash` does much more, at a venue that survives.)
//!
//! The seed is printed; `HOTGO_SEED=n` repeats the moments (not the scheduler's choices). `HOTGO_KILLS=n` asks for more.

use std::time::Duration;

use crate::support::server::{Robot, signal_body};
use crate::support::{Installation, Load, Server, eventually};
use serde_json::{Value, json};
use shutdown_coordinator::testkit::Exit;
use tokio::time::{Instant, timeout};

/// A number from the environment, for people who repeat or prolong a run.
fn number(name: &str, otherwise: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test's own knob, not configuration")]
    let given = std::env::var(name);
    given.ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// `SplitMix64` (Steele, Lea, Flood 2014): the same on every machine and in every version of every crate.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[tokio::test]
async fn kills_under_load_lose_nothing_and_double_nothing() {
    let seed = number("HOTGO_SEED", u64::from(std::process::id()));
    let kills = number("HOTGO_KILLS", 30);
    eprintln!("seed {seed}, {kills} kills");
    let mut random = Random(seed);
    let mut installation = Installation::new();
    let load = Load::new(&installation.scratch("answered"), "kill");
    let mut robot = None;
    let started = Instant::now();
    for round in 0..kills {
        let server = installation.start().await;
        installation.audit(Some(load.path())).await.assert_clean(&format!("seed {seed}, after {round} kills"));
        let target: &Robot = match &robot {
            Some(robot) => robot,
            None => robot.insert(server.robot("survivor").await),
        };
        misbehave(&server, &mut random).await;
        let moment = Duration::from_micros(random.below(250_000));
        let _ = timeout(moment, load.run(&server.client(), target, 4, 1_000)).await;
        server.sigkill().await;
        if round % 10 == 9 {
            eprintln!(
                "{} kills, {} signals sent, {} answered, {:?}",
                round + 1,
                load.sent(),
                load.answered(),
                started.elapsed()
            );
        }
    }
    assert!(load.answered() > kills, "hardly any signal was answered: {}", load.answered());
    installation.assert_recovers_clean(Some(load.path()), &format!("seed {seed}, at the end")).await;
}

/// In two rounds of three the venue has a weakness as well: that is when orders are doubled elsewhere.
async fn misbehave(server: &Server, random: &mut Random) {
    let faults = match random.below(6) {
        0 => json!({"drop_answers": {"on": "post", "times": 3}}),
        1 => json!({"delay_answers": {"ms": 30, "on": "all"}}),
        2 => json!({"delay_processing": {"ms": 150, "on": "post", "times": 5}}),
        3 => json!({"cut_stream": {"ms": 50, "times": 1}}),
        _ => return,
    };
    server.set_faults(faults).await;
}

#[tokio::test]
async fn an_order_that_the_venue_filled_while_we_were_dead_is_booked_at_the_next_start() {
    let mut installation = Installation::new();
    let server = installation.start().await;
    let robot = server.robot("absent").await;
    server.set_faults(json!({"hold_answers": {"on": "all"}})).await;
    let made = server.signal(&robot, "while-dead").await.unwrap().ok();
    let id = made["orders"][0].as_str().unwrap().to_owned();
    server.wait_fired("hold_answers").await;
    server.sigkill().await;

    let server = installation.start().await;
    let booked = |order: &Value| order["client_id"] == id.as_str() && order["status"] == "FILLED";
    server.order_that("the fill is booked", booked).await;
    installation.audit(None).await.assert_clean("after a fill nobody saw");
    server.assert_stops_clean().await;
}

/// Killed just before its commit, a signal was never answered and does not exist; killed just after, it exists although
/// nobody was answered.
#[tokio::test]
async fn a_signal_is_answered_only_after_it_is_durable() {
    for (point, durable) in [("p2", false), ("p3", true)] {
        let mut installation = Installation::new();
        let points = installation.points();
        let server = installation.start().await;
        let robot = server.robot("durable").await;
        points.arm(point);
        let (client, target) = (server.client(), robot.id);
        let mut sending = tokio::task::JoinSet::new();
        sending.spawn(async move { client.post_keyed("/api/signals", "once", &signal_body(target)).await });
        let _held = points.reached(point).await.unwrap();
        server.sigkill().await;
        points.disarm(point);
        let answer = sending.join_next().await.unwrap().unwrap();
        assert!(answer.is_err(), "{point}: answered before its time: {answer:?}");

        let server = installation.start().await;
        let again = server.client().post_keyed("/api/signals", "once", &signal_body(robot.id)).await.unwrap();
        assert_eq!(again.header("idempotent-replayed").is_some(), durable, "{point}: {again:?}");
        again.ok();
        server.order_that("the order ends", |order| order["status"] == "FILLED").await;
        installation.audit(None).await.assert_clean(point);
        server.assert_stops_clean().await;
    }
}

#[tokio::test]
async fn a_request_that_was_lost_on_the_way_is_proven_absent_and_never_sent_again() {
    let mut installation = Installation::new();
    let server = installation.start().await;
    let robot = server.robot("lost").await;
    server.set_faults(json!({"drop_requests": {"on": "post", "times": 1}})).await;
    let made = server.signal(&robot, "lost").await.unwrap().ok();
    let id = made["orders"][0].as_str().unwrap().to_owned();
    server.wait_fired("drop_requests").await;
    server.sigkill().await;

    let server = installation.start().await;
    let absent = |order: &Value| order["client_id"] == id.as_str() && order["status"] == "ABSENT";
    server.order_that("it is proven absent", absent).await;
    installation.audit(None).await.assert_clean("after a lost request");
    server.assert_stops_clean().await;
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_start_is_survived() {
    let mut installation = Installation::new();
    let load = Load::new(&installation.scratch("answered"), "start");
    let server = installation.start().await;
    let robot = server.robot("early").await;
    load.run(&server.client(), &robot, 2, 40).await;
    server.sigkill().await;
    for delay_ms in (0..300).step_by(15) {
        let mut server = installation.spawn();
        server.exits_within(Duration::from_millis(delay_ms)).await;
        server.sigkill().await;
    }
    installation.assert_recovers_clean(Some(load.path()), "after kills during starts").await;
}

#[tokio::test]
async fn a_second_process_on_the_same_data_directory_is_refused() {
    let mut installation = Installation::new();
    let mut first = installation.start().await;
    let (exit, words) = installation.start_refused().await;
    assert_eq!(exit, Exit::Code(4), "{words}");
    assert!(first.is_running());
    eventually(Duration::from_secs(5), "the first goes on", async || {
        first.client().get("/api/health/ready").await.ok()
    })
    .await;
    first.assert_stops_clean().await;
}
