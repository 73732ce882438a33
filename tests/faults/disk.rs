//! A disk without room.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use super::support::{Answer, Installation, Load, eventually};

/// A file system of 4 MiB in memory. Needs root.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "hotgo-test"]).arg(at).status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "only root can mount: leave this test out, as scripts/test does"
        );
        Self(at.to_owned())
    }

    /// Fills it to the last byte.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut file = File::create(&path).unwrap();
        for block in [65_536, 4_096, 1] {
            let bytes = vec![0x5A; block];
            loop {
                match file.write_all(&bytes) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Not done, and when to ask again.
fn is_refusal(answer: &Answer) -> bool {
    matches!(answer.status, 503 | 507) && answer.header("retry-after").is_some()
}

/// The length of a file that has not grown for half a second.
async fn quiet_length(path: &Path) -> u64 {
    let mut seen = (0, Instant::now());
    let quiet = || {
        let length = std::fs::metadata(path).unwrap().len();
        if length != seen.0 {
            seen = (length, Instant::now());
        }
        let is_quiet = seen.1.elapsed() > Duration::from_millis(500);
        std::future::ready(is_quiet.then_some(length))
    };
    eventually(Duration::from_secs(10), "the venue is quiet", quiet).await
}

#[tokio::test]
async fn a_full_disk_on_tmpfs_refuses_signals_sends_nothing_and_recovers_when_there_is_room() {
    let mut installation = Installation::new();
    let small = Small::mount(&installation.scratch("small"));
    installation.set("HOTGO__STORE__PATH", installation.scratch("small").join("hotgo.db").to_str().unwrap());
    let load = Load::new(&installation.scratch("answered"), "full");
    let mut server = installation.start().await;
    let robot = server.robot("full").await;
    load.run(&server.client(), &robot, 1, 10).await;
    let ballast = small.fill();

    // Room that the log has already is still used; then nothing fits any more.
    let client = server.client();
    let refused = async || load.send(&client, &robot).await.filter(|answer| !answer.is_success());
    let answer = eventually(Duration::from_secs(20), "the disk is full", refused).await;
    assert!(is_refusal(&answer), "{answer:?}");
    let not_ready = async || client.get("/api/health/ready").await.ok().filter(|answer| answer.status == 503);
    eventually(Duration::from_secs(5), "readiness is 503", not_ready).await;
    let ledger = installation.data_dir().join("venue.ledger");
    // The last order that was answered may still be on its way: it was written down before.
    let sent = quiet_length(&ledger).await;
    for _ in 0..10 {
        let answer = load.send(&client, &robot).await.unwrap();
        assert!(is_refusal(&answer), "{answer:?}");
    }
    assert_eq!(client.get("/api/health/live").await.unwrap().status, 200, "it is alive");
    assert_eq!(std::fs::metadata(&ledger).unwrap().len(), sent, "something was sent that could not be written down");
    assert!(server.is_running(), "{}", server.stderr());

    std::fs::remove_file(ballast).unwrap();
    server.wait_ready().await;
    let made = load.send(&client, &robot).await.unwrap().ok();
    super::tools::order_with_status(&server, &super::tools::order_of(&made), "FILLED").await;
    installation.audit(Some(load.path())).await.assert_clean("after a full disk");
    server.assert_stops_clean().await;
    installation.assert_recovers_clean(Some(load.path()), "a start after a full disk").await;
}
