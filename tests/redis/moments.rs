//! The server is stopped and killed between reading an entry and acknowledging it.

use shutdown_coordinator::testkit::Points;

use super::intake::decided;
use super::support::redis::streamed;
use super::support::server::Robot;
use super::support::{Installation, Load, RedisServer, Server};

struct Held {
    redis: RedisServer,
    installation: Installation,
    points: Points,
    load: Load,
    server: Server,
    robot: Robot,
}

/// A server that takes an entry, before it reaches the point.
async fn prepared(point: &str) -> Held {
    let redis = RedisServer::start().await;
    let mut installation = Installation::new();
    installation.signals_from(&redis);
    let points = installation.points();
    let load = Load::new(&installation.scratch("answered"), point);
    let server = installation.start().await;
    let robot = server.robot("held").await;
    points.arm(point);
    redis.put(&streamed(robot.id, point)).await;
    Held { redis, installation, points, load, server, robot }
}

/// However it ended: the next process leaves exactly one order and an empty stream.
async fn decided_once(redis: &RedisServer, installation: &mut Installation, load: &Load, robot: &Robot, point: &str) {
    let server = installation.start().await;
    load.note(&decided(&server, point).await);
    redis.all_acknowledged().await;
    // The stream goes on.
    redis.put(&streamed(robot.id, "next")).await;
    load.note(&decided(&server, "next").await);
    redis.all_acknowledged().await;
    assert!(redis.dead_letters().await.is_empty());
    assert_eq!(server.orders().await.len(), 2, "{point}: one order for each entry");
    installation.audit(Some(load.path())).await.assert_clean(point);
    server.assert_stops_clean().await;
}

async fn sigkill_at(point: &str) {
    let Held { redis, mut installation, points, load, server, robot } = prepared(point).await;
    let _held = points.reached(point).await.unwrap();
    assert_eq!(redis.pending().await, 1, "{point}: it is not acknowledged yet");
    server.sigkill().await;
    points.disarm(point);
    decided_once(&redis, &mut installation, &load, &robot, point).await;
}

async fn sigterm_at(point: &str) {
    let Held { redis, mut installation, points, load, server, robot } = prepared(point).await;
    let held = points.reached(point).await.unwrap();
    assert_eq!(redis.pending().await, 1, "{point}: it is not acknowledged yet");
    server.sigterm();
    server.wait_draining().await;
    points.disarm(point);
    held.release();
    let mut server = server;
    let exit = server.wait_exit(std::time::Duration::from_secs(15)).await;
    assert_eq!(exit, super::support::CLEAN, "{}", server.stdout());
    decided_once(&redis, &mut installation, &load, &robot, point).await;
}

macro_rules! moments {
    ($($name:ident, $how:ident, $point:literal;)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                $how($point).await;
            }
        )+
    };
}

moments! {
    sigkill_before_an_entry_is_looked_at, sigkill_at, "p1";
    sigkill_before_an_entrys_commit, sigkill_at, "p2";
    sigkill_before_an_entry_is_acknowledged, sigkill_at, "p3";
    sigterm_before_an_entry_is_looked_at, sigterm_at, "p1";
    sigterm_before_an_entrys_commit, sigterm_at, "p2";
    sigterm_before_an_entry_is_acknowledged, sigterm_at, "p3";
}

/// Held for longer than the shutdown waits: what is being decided is left on the stream.
#[tokio::test]
async fn an_entry_that_cannot_be_finished_in_time_is_left_on_the_stream() {
    let Held { redis, mut installation, points, load, mut server, robot } = prepared("p1").await;
    let held = points.reached("p1").await.unwrap();
    server.sigterm();
    let exit = server.wait_exit(std::time::Duration::from_secs(15)).await;
    assert_eq!(redis.pending().await, 1, "{exit:?}: never acknowledged without an outcome");
    points.disarm("p1");
    held.release();
    decided_once(&redis, &mut installation, &load, &robot, "p1").await;
}
