//! What each phase does.

use std::sync::Arc;
use std::time::Duration;

use shutdown_coordinator::{HookContext, Rejected, ShutdownHandle, Task};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{BootError, Phases};
use crate::bus::Bus;
use crate::engines::{EngineRegistry, Engines, Farewell, Stage};
use crate::instance::Instances;
use crate::stream::Drain;

/// Longer than the store takes.
const TELL_OTHERS: Duration = Duration::from_millis(500);

/// A hook that came too late: the shutdown began while the server started.
pub(super) fn late<F>(_: Rejected<F>) -> BootError {
    BootError::Stopped
}

/// What the hooks lead through the shutdown.
pub(super) struct Led {
    pub(super) registry: Arc<EngineRegistry>,
    pub(super) drivers: Vec<(String, Task<Farewell>)>,
    pub(super) outside: Outside,
}

/// Who is told.
pub(super) struct Outside {
    /// Websockets, that the server stops.
    pub(super) draining: watch::Sender<Option<Drain>>,
    /// Other instances, by the database.
    pub(super) instances: Instances,
    /// Other instances, by the bus.
    pub(super) bus: Arc<dyn Bus>,
}

pub(super) fn register(handle: &ShutdownHandle, phases: Phases, led: Led) -> Result<(), BootError> {
    let Led { registry, drivers, outside: Outside { draining, instances, bus } } = led;
    let told = instances.clone();
    handle
        .on(phases.announce, "tell websockets", move |cx: HookContext| {
            // Whoever has no account any more has a successor, whatever the reason that it is stopped with.
            let drain = match cx.reason() {
                shutdown_coordinator::Reason::Upgrade => Drain::Upgrade,
                _ if told.is_handed_over() => Drain::Upgrade,
                _ => Drain::Stop,
            };
            draining.send_replace(Some(drain));
            async {}
        })
        .map_err(late)?;
    handle
        .on(phases.announce, "hand accounts over", move |_| async move {
            // If the store does not answer, they are given up when their engines stop.
            let _told = timeout(TELL_OTHERS, instances.drain()).await;
        })
        .map_err(late)?;
    let engines = Arc::clone(&registry);
    handle
        .on(phases.stop_new_signals, "no new entries", move |_| {
            engines.advance(Stage::NoEntries);
            async {}
        })
        .map_err(late)?;
    let engines = Arc::clone(&registry);
    handle.on(phases.order_drain, "orders", move |cx| drain_orders(engines, cx)).map_err(late)?;
    handle
        .on(phases.persist_state, "engines", move |cx| async move {
            registry.advance(Stage::Stop);
            for (account, driver) in drivers {
                let Farewell { unresolved, failure } = match driver.await {
                    Ok(farewell) => farewell,
                    Err(error) => {
                        cx.unclean(format!("account {account}: {error}"));
                        continue;
                    }
                };
                if let Some(failure) = failure {
                    cx.unclean(format!("account {account}: its last state was not persisted: {failure}"));
                }
                for order in unresolved {
                    cx.unclean(format!(
                        "order {order} of account {account} is left UNKNOWN; it is resolved at the next start"
                    ));
                }
            }
            bus.flush().await;
        })
        .map_err(late)?;
    Ok(())
}

/// Waits until nothing is unknown and every stop policy is carried out. Whatever is left when time is up is named.
async fn drain_orders(registry: Arc<EngineRegistry>, cx: HookContext) {
    registry.advance(Stage::Drain);
    tokio::select! {
        () = registry.drained() => {}
        () = cx.expiring().cancelled() => name_the_rest(&registry, &cx),
        () = cx.force_token().cancelled() => name_the_rest(&registry, &cx),
    }
}

fn name_the_rest(registry: &EngineRegistry, cx: &HookContext) {
    for engine in registry.status() {
        for (order, age) in &engine.unresolved {
            cx.note(format!("order {order} of account {} was still unresolved after {age:.1?}", engine.label));
        }
        if engine.unresolved.is_empty() && engine.state == "draining" {
            cx.note(format!("account {}: stop policies were not carried out in time", engine.label));
        }
    }
}
