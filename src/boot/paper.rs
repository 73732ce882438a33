//! The paper venue lives in one process at a time: the one that trades its accounts.

use std::collections::BTreeSet;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use trading::ids::AccountId;
use venue::host::Driver;
use venue::ledger::LedgerError;

use crate::failpoints;
use crate::gateway::paper::PaperVenue;
use crate::instance::{Instances, View};

/// Between two tries while another process has the ledger.
const POLL: Duration = Duration::from_millis(5);
/// A hand-over takes less.
const IMPATIENCE: Duration = Duration::from_secs(1);
/// How often to read what another process has written into it.
const READ_AHEAD: Duration = Duration::from_millis(500);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the ledger open as long as it is wanted here. Ends, with the ledger closed, after `stop`.
///
/// `driver` is there if the ledger is open already.
pub(super) async fn keep(
    venue: PaperVenue,
    mut driver: Option<Driver>,
    mut wanted: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    loop {
        let opened = match driver.take() {
            Some(driver) => Some(driver),
            None => stop.run_until_cancelled(open(&venue, &mut wanted)).await.flatten(),
        };
        let Some(opened) = opened else { return };
        let mut running = tokio::task::spawn_blocking(move || opened.run_blocking());
        let until = async {
            let opening = async {
                while let Err(error) = venue.open_accounts().await {
                    tracing::warn!(%error, "an account was not opened at the paper venue");
                    sleep(RETRY).await;
                }
                pending::<()>().await;
            };
            let unwanted = wanted.wait_for(|wanted| !wanted);
            let unwanted = async {
                if stop.run_until_cancelled(unwanted).await.is_none_or(|unwanted| unwanted.is_err()) {
                    stop.cancelled().await;
                }
            };
            tokio::select! {
                () = opening => {}
                () = unwanted => {}
            }
        };
        let ended = tokio::select! {
            ended = &mut running => ended,
            () = until => {
                venue.close();
                (&mut running).await
            }
        };
        venue.close();
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the paper venue ended"),
            Err(error) => tracing::error!(%error, "the paper venue ended"),
        }
        failpoints::hit("u3").await;
        if stop.is_cancelled() {
            return;
        }
        tracing::info!("the paper venue's ledger is closed: its accounts are traded elsewhere");
    }
}

/// Waits until the ledger is wanted here and free. `None` if nobody can want it any more.
async fn open(venue: &PaperVenue, wanted: &mut watch::Receiver<bool>) -> Option<Driver> {
    while timeout(READ_AHEAD, wanted.wait_for(|wanted| *wanted)).await.is_err() {
        read_ahead(venue).await;
    }
    let since = Instant::now();
    loop {
        wanted.wait_for(|wanted| *wanted).await.ok()?;
        failpoints::hit("u4").await;
        let opening = venue.clone();
        match tokio::task::spawn_blocking(move || opening.open_ledger()).await {
            Ok(Ok(driver)) => {
                tracing::info!("the paper venue's ledger is open");
                failpoints::hit("u5").await;
                return Some(driver);
            }
            Ok(Err(LedgerError::Locked(_))) => {
                read_ahead(venue).await;
                sleep(if since.elapsed() < IMPATIENCE { POLL } else { READ_AHEAD / 10 }).await;
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the paper venue's ledger cannot be opened");
                sleep(RETRY).await;
            }
            Err(error) => {
                tracing::error!(%error, "the paper venue's ledger cannot be opened");
                sleep(RETRY).await;
            }
        }
    }
}

/// What is read while another process has the ledger need not be read when nobody has it.
async fn read_ahead(venue: &PaperVenue) {
    let venue = venue.clone();
    match tokio::task::spawn_blocking(move || venue.read_ahead()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the paper venue's ledger was not read ahead"),
        Err(error) => tracing::debug!(%error, "the paper venue's ledger was not read ahead"),
    }
}

/// Wants the ledger while some of these accounts is traded here, or is to be; until `stop`. Leases last for `ttl`.
pub(super) async fn want(
    instances: Instances,
    accounts: BTreeSet<AccountId>,
    ttl: Duration,
    wanted: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let me = instances.id();
    let is_ours = |view: &View, account: &AccountId| {
        let held = view.leases.get(account).is_some_and(|lease| lease.owner == *me && !lease.remaining.is_zero());
        held || view.desired.get(account) == Some(me)
    };
    let mut views = instances.view();
    let mut seen = Instant::now();
    loop {
        match stop.run_until_cancelled(timeout(READ_AHEAD, views.changed())).await {
            Some(Ok(Ok(()))) => seen = Instant::now(),
            Some(Err(_)) => {}
            Some(Ok(Err(_))) | None => return,
        }
        let view = views.borrow_and_update();
        // Whoever has not been able to look for so long has no lease any more.
        let fresh = seen.elapsed() < ttl;
        let some = view.living.is_empty() || (fresh && accounts.iter().any(|account| is_ours(&view, account)));
        wanted.send_if_modified(|wanted| std::mem::replace(wanted, some) != some);
    }
}
