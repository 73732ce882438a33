//! A wall clock that jumps by an hour, either way, while the server runs. Needs libfaketime.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::support::{Installation, Load, UNCLEAN, eventually};
use super::tools::BUDGET;

/// Where Debian and others put it.
fn libfaketime() -> Option<PathBuf> {
    let found = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok).map(|directory| directory.path());
    let beside = [Path::new("/usr/lib").to_owned(), Path::new("/usr/local/lib").to_owned()];
    found.chain(beside).map(|directory| directory.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists())
}

/// Processes whose wall clock is moved by what stands in the returned file.
fn turned(installation: &mut Installation) -> PathBuf {
    let library = libfaketime().expect("libfaketime is installed (Debian: faketime), or this test is left out");
    let offset = installation.scratch("offset");
    std::fs::write(&offset, "+0").unwrap();
    installation.set("LD_PRELOAD", library.to_str().unwrap());
    installation.set("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap());
    installation.set("FAKETIME_NO_CACHE", "1");
    installation.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    offset
}

async fn jump(by: &str) {
    let mut installation = Installation::new();
    installation.set("HOTGO__TRADING__LEASE_TTL_MS", "3000");
    let offset = turned(&mut installation);
    let load = Load::new(&installation.scratch("answered"), "clock");
    let server = installation.start().await;
    let robot = server.robot("turned").await;
    load.run(&server.client(), &robot, 1, 3).await;

    std::fs::write(&offset, by).unwrap();
    // The lease is by the database's clock: at the latest when it is renewed, the jump is noticed and survived.
    let client = server.client();
    let taken = async || load.send(&client, &robot).await.filter(super::support::Answer::is_success);
    let settled = Instant::now() + Duration::from_secs(4);
    eventually(Duration::from_secs(20), "signals are taken again", async || {
        taken().await.filter(|_| Instant::now() > settled)
    })
    .await;
    let ended = async || {
        let open = server.orders().await.into_iter().any(|order| {
            matches!(order["status"].as_str(), Some("INTENT" | "SENDING" | "UNKNOWN" | "OPEN" | "PARTIAL"))
        });
        (!open).then_some(())
    };
    eventually(Duration::from_secs(20), "every order has ended", ended).await;
    // The venue that lives in the same process goes by the wall clock: it is entitled to refuse, and to nothing else.
    for order in server.orders().await {
        let refused =
            order["status"] == "REJECTED" && order["reason"].as_str().is_some_and(|why| why.contains("-1021"));
        // One that was on its way when the lease was lost to the jump is proven absent.
        let ended = matches!(order["status"].as_str(), Some("FILLED" | "ABSENT"));
        assert!(ended || refused, "{by}: {order}");
    }
    installation.audit(Some(load.path())).await.assert_clean(&format!("after a jump of {by}"));
    server.assert_stops_clean().await;

    // While it drains, the clock comes back: the drain is two seconds of real time.
    let mut server = installation.start().await;
    server.silence_venue().await;
    load.send(&server.client(), &robot).await.unwrap().ok();
    server.wait_fired("hold_answers").await;
    server.sigterm();
    let at = Instant::now();
    server.wait_phase("order-drain").await;
    std::fs::write(&offset, "+0").unwrap();
    assert_eq!(server.wait_exit(BUDGET).await, UNCLEAN, "{}", server.stdout());
    assert!(at.elapsed() >= Duration::from_millis(1_500), "the drain was cut short: {:?}", at.elapsed());
    installation.assert_recovers_clean(Some(load.path()), &format!("after a jump back from {by}")).await;
}

#[tokio::test]
async fn wall_clock_jumps_of_an_hour_lose_nothing_and_change_no_deadline() {
    tokio::join!(jump("+3600"), jump("-3600"));
}
