//! Each contestant's way to run many tasks and to end them all.

use std::{
    any::Any,
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_shutdown::ShutdownManager;
use futures_util::future::{BoxFuture, FutureExt as _};
use shutdown_coordinator::{PhaseId, Reason, ShutdownCoordinator, ShutdownHandle};
use tokio::sync::{Notify, oneshot};
use tokio_graceful::Shutdown;
use tokio_graceful_shutdown::{SubsystemBuilder, SubsystemHandle, Toplevel};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::table::{SUBSYSTEMS, TRACKER};

pub(crate) const OURS_GUARD: &str = "ours: Gate::enter, phase token";
pub(crate) const OURS_SPAWN: &str = "ours: handle.spawn";
pub(crate) const OURS_NAMED: &str = "ours: handle.spawn, a name for each";

/// Triggers, and ends when the last task is gone. What is left is dropped when the clock has stopped.
pub(crate) type Stop = BoxFuture<'static, Leftovers>;

pub(crate) type Leftovers = Box<dyn Any + Send>;

/// How many tasks have started.
pub(crate) type Started = Arc<AtomicUsize>;

#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Spawns this many tasks, each of which waits for the shutdown and ends.
    pub(crate) spawn: fn(usize, &Started) -> Stop,
    /// More take too long.
    pub(crate) most: usize,
}

pub(crate) const PEERS: [Peer; 9] = [
    Peer { name: OURS_GUARD, spawn: ours_guard, most: usize::MAX },
    Peer { name: OURS_SPAWN, spawn: ours_spawn, most: usize::MAX },
    Peer { name: OURS_NAMED, spawn: ours_named, most: 100_000 },
    Peer { name: TRACKER, spawn: tracker, most: usize::MAX },
    Peer { name: "TaskTracker, Notify", spawn: notify, most: usize::MAX },
    Peer { name: "tokio-graceful", spawn: graceful, most: usize::MAX },
    Peer { name: "drain", spawn: drained, most: usize::MAX },
    Peer { name: "async-shutdown", spawn: async_shutdown, most: usize::MAX },
    Peer { name: SUBSYSTEMS, spawn: subsystems, most: 10_000 },
];

fn kept<T: Any + Send>(leftovers: T) -> Leftovers {
    Box::new(leftovers)
}

pub(crate) fn coordinator() -> (ShutdownCoordinator, ShutdownHandle, PhaseId) {
    let mut builder = ShutdownCoordinator::builder();
    let phase = builder.phase("drain").id();
    let (coordinator, handle) = builder.deadline(Duration::from_mins(10)).build().unwrap();
    (coordinator, handle, phase)
}

fn ours_guard(count: usize, started: &Started) -> Stop {
    let (coordinator, handle, phase) = coordinator();
    let gate = handle.gate(phase, "tasks");
    let token = handle.token(phase);
    for _ in 0..count {
        let (started, token, guard) = (Arc::clone(started), token.clone(), gate.enter().unwrap());
        tokio::spawn(async move {
            started.fetch_add(1, Relaxed);
            token.cancelled().await;
            drop(guard);
        });
    }
    end(coordinator, handle)
}

fn ours_spawn(count: usize, started: &Started) -> Stop {
    spawn_ours(count, started, |_| "task".into())
}

fn ours_named(count: usize, started: &Started) -> Stop {
    spawn_ours(count, started, |number| format!("session {number}").into())
}

fn spawn_ours(count: usize, started: &Started, name: fn(usize) -> Cow<'static, str>) -> Stop {
    let (coordinator, handle, phase) = coordinator();
    let token = handle.token(phase);
    for number in 0..count {
        let (started, token) = (Arc::clone(started), token.clone());
        let task = async move {
            started.fetch_add(1, Relaxed);
            token.cancelled().await;
        };
        handle.spawn(phase, name(number), task).unwrap();
    }
    end(coordinator, handle)
}

/// The time includes the report, with a line for each spawned task.
fn end(coordinator: ShutdownCoordinator, handle: ShutdownHandle) -> Stop {
    async move {
        handle.trigger(Reason::Manual("bench".into()));
        let report = coordinator.run().await;
        assert!(report.is_clean());
        kept((report, handle))
    }
    .boxed()
}

fn tracker(count: usize, started: &Started) -> Stop {
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    for _ in 0..count {
        let (started, token) = (Arc::clone(started), token.clone());
        tracker.spawn(async move {
            started.fetch_add(1, Relaxed);
            token.cancelled().await;
        });
    }
    async move {
        token.cancel();
        tracker.close();
        tracker.wait().await;
        kept(tracker)
    }
    .boxed()
}

fn notify(count: usize, started: &Started) -> Stop {
    let (tracker, notify) = (TaskTracker::new(), Arc::new(Notify::new()));
    for _ in 0..count {
        let (started, notify) = (Arc::clone(started), Arc::clone(&notify));
        tracker.spawn(async move {
            started.fetch_add(1, Relaxed);
            notify.notified().await;
        });
    }
    async move {
        notify.notify_waiters();
        tracker.close();
        tracker.wait().await;
        kept(tracker)
    }
    .boxed()
}

fn graceful(count: usize, started: &Started) -> Stop {
    let (trigger, triggered) = oneshot::channel::<()>();
    let shutdown = Shutdown::new(triggered);
    for _ in 0..count {
        let started = Arc::clone(started);
        shutdown.spawn_task_fn(|guard| async move {
            started.fetch_add(1, Relaxed);
            guard.cancelled().await;
        });
    }
    async move {
        trigger.send(()).unwrap();
        kept(shutdown.shutdown().await)
    }
    .boxed()
}

fn drained(count: usize, started: &Started) -> Stop {
    let (signal, watch) = drain::channel();
    for _ in 0..count {
        let (started, watch) = (Arc::clone(started), watch.clone());
        tokio::spawn(async move {
            started.fetch_add(1, Relaxed);
            drop(watch.signaled().await);
        });
    }
    drop(watch);
    signal.drain().map(kept).boxed()
}

fn async_shutdown(count: usize, started: &Started) -> Stop {
    let manager = ShutdownManager::<()>::new();
    for _ in 0..count {
        let (started, triggered) = (Arc::clone(started), manager.wait_shutdown_triggered());
        let task = async move {
            started.fetch_add(1, Relaxed);
            triggered.await;
        };
        tokio::spawn(manager.wrap_delay_shutdown(task).unwrap());
    }
    async move {
        manager.trigger_shutdown(()).unwrap();
        manager.wait_shutdown_complete().await;
        kept(manager)
    }
    .boxed()
}

fn subsystems(count: usize, started: &Started) -> Stop {
    let (token, started) = (CancellationToken::new(), Arc::clone(started));
    let root = async move |root: &mut SubsystemHandle| {
        for number in 0..count {
            let started = Arc::clone(&started);
            let task = async move |subsystem: &mut SubsystemHandle| {
                started.fetch_add(1, Relaxed);
                subsystem.on_shutdown_requested().await;
                Ok::<(), std::io::Error>(())
            };
            root.start(SubsystemBuilder::new(format!("session {number}"), task));
        }
    };
    let toplevel = Toplevel::new_with_shutdown_token(root, token.clone());
    async move {
        token.cancel();
        kept(toplevel.handle_shutdown_requests(Duration::from_mins(10)).await)
    }
    .boxed()
}
