//! Properties of every shutdown, whatever its graph and its hooks.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{collections::BTreeMap, future::pending, time::Duration};

use common::{Trace, build, manual, ms};
use proptest::{collection::vec, prelude::*};
use shutdown_coordinator::{
    FailurePolicy, HookContext, Outcome, PhaseId, PhaseStatus, Report, ShutdownCoordinator, ShutdownHandle, WorkKind,
};

/// What a hook, task or guard does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Ends after this long.
    Takes(u64),
    Fails(u64),
    Panics(u64),
    /// Never ends, and does not listen.
    Endless,
    /// Ends when it is told that its time is over.
    EndsAtExpiry,
}

#[derive(Clone, Debug)]
struct Phase {
    /// Which of the earlier phases it comes after, as bits.
    after: u8,
    timeout: Option<u64>,
    reserve: u64,
    hold: u64,
    sequential: bool,
    abort_rest: bool,
    hooks: Vec<Deed>,
    tasks: Vec<Deed>,
    guards: Vec<Deed>,
}

const DEADLINE: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_millis(100);

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0_u64..4_000).prop_map(Deed::Takes),
        1 => (0_u64..4_000).prop_map(Deed::Fails),
        1 => (0_u64..4_000).prop_map(Deed::Panics),
        1 => Just(Deed::Endless),
        1 => Just(Deed::EndsAtExpiry),
    ]
}

fn phase() -> impl Strategy<Value = Phase> {
    let times =
        (prop::option::of(0_u64..6_000), prop_oneof![Just(0), 1_u64..1_500], prop_oneof![Just(0), 1_u64..3_000]);
    let works = (vec(deed(), 0..4), vec(deed(), 0..3), vec(deed(), 0..3));
    (any::<u8>(), times, any::<bool>(), any::<bool>(), works).prop_map(
        |(after, (timeout, reserve, hold), sequential, abort_rest, (hooks, tasks, guards))| Phase {
            after,
            timeout,
            reserve,
            hold,
            sequential,
            abort_rest,
            hooks,
            tasks,
            guards,
        },
    )
}

fn describe(phases: &[Phase]) -> (ShutdownCoordinator, ShutdownHandle, Vec<PhaseId>) {
    let mut builder = ShutdownCoordinator::builder();
    let mut ids = Vec::new();
    for (number, phase) in phases.iter().enumerate() {
        let after: Vec<_> = ids.iter().copied().enumerate().filter(|(i, _)| phase.after >> i & 1 == 1).collect();
        let after: Vec<PhaseId> = after.into_iter().map(|(_, id)| id).collect();
        let mut described =
            builder.phase(format!("phase {number}")).after(&after).reserve(ms(phase.reserve)).hold(ms(phase.hold));
        if let Some(timeout) = phase.timeout {
            described = described.timeout(ms(timeout));
        }
        if phase.sequential {
            described = described.sequential();
        }
        if phase.abort_rest {
            described = described.on_failure(FailurePolicy::AbortRest);
        }
        ids.push(described.id());
    }
    // Six reserves of 1.5 s fit into the deadline.
    let (coordinator, handle) = build(builder.deadline(DEADLINE).grace(GRACE));
    (coordinator, handle, ids)
}

async fn carry_out(deed: Deed, expiring: impl Future<Output = ()>) -> Result<(), String> {
    match deed {
        Deed::Takes(millis) => tokio::time::sleep(ms(millis)).await,
        Deed::Fails(millis) => {
            tokio::time::sleep(ms(millis)).await;
            return Err("failed".to_owned());
        }
        Deed::Panics(millis) => {
            tokio::time::sleep(ms(millis)).await;
            panic!("panicked");
        }
        Deed::Endless => pending().await,
        Deed::EndsAtExpiry => expiring.await,
    }
    Ok(())
}

async fn run(phases: &[Phase]) -> Report {
    let (coordinator, handle, ids) = describe(phases);
    for (number, (phase, id)) in phases.iter().zip(ids).enumerate() {
        for (index, deed) in phase.hooks.iter().copied().enumerate() {
            let hook = move |cx: HookContext| async move {
                let expiring = cx.expiring().clone();
                carry_out(deed, expiring.cancelled_owned()).await
            };
            handle.on(id, format!("hook {number}.{index}"), hook).unwrap();
        }
        let gate = handle.gate(id, format!("gate {number}"));
        let works = phase.tasks.iter().map(|deed| (deed, false)).chain(phase.guards.iter().map(|deed| (deed, true)));
        for (index, (deed, guarded)) in works.enumerate() {
            let (deed, begins) = (*deed, handle.token(id));
            let guard = guarded.then(|| gate.enter().unwrap());
            let work = async move {
                begins.cancelled().await;
                // A task hears of the phase's end by being aborted.
                let result = carry_out(deed, pending()).await;
                drop(guard);
                if let Err(error) = result {
                    panic!("{error}");
                }
            };
            handle.spawn(id, format!("task {number}.{index}"), work).unwrap();
        }
    }
    handle.trigger(manual());
    let overrun = handle.plan().overrun;
    let report = coordinator.run().await;
    assert!(report.took <= DEADLINE + overrun, "{:?} is above {:?} and {overrun:?}", report.took, DEADLINE);
    report
}

fn judge(phases: &[Phase], report: &Report) {
    let all: Vec<_> = report.phases.iter().flat_map(|phase| &phase.entries).collect();
    for (number, phase) in phases.iter().enumerate() {
        let done = &report.phases[number];
        for index in 0..phase.hooks.len() {
            let name = format!("hook {number}.{index}");
            let found: Vec<_> = all.iter().filter(|entry| entry.name == name).collect();
            assert_eq!(found.len(), 1, "{name} is listed {} times\n{report}", found.len());
            assert_eq!(found[0].outcome == Outcome::Skipped, done.status == PhaseStatus::Skipped, "{name}\n{report}");
            assert_ne!(found[0].outcome, Outcome::Leaked, "an async hook can be ended: {name}\n{report}");
        }
        for before in (0..number).filter(|before| phase.after >> before & 1 == 1) {
            let before = &report.phases[before];
            assert!(done.started_after >= before.started_after + before.took, "{} came too soon\n{report}", done.name);
        }
        if done.status == PhaseStatus::Skipped {
            assert_eq!(phase.reserve, 0, "a reserved phase was skipped\n{report}");
        } else {
            assert!(done.budget >= ms(phase.reserve), "a reserve was not kept\n{report}");
            assert!(done.took <= done.budget + GRACE + ms(50), "{} overran\n{report}", done.name);
        }
        // What ended after its phase's deadline is never called well.
        let ends = done.started_after + done.budget;
        for entry in done.entries.iter().filter(|entry| entry.outcome.is_ok() && entry.kind != WorkKind::Gate) {
            let ended = entry.started_after.unwrap() + entry.took;
            // Without any time hooks are polled once, which takes none while time is paused.
            let polled_once = done.budget.is_zero() && entry.took.is_zero();
            assert!(ended <= ends || polled_once, "{} was late\n{report}", entry.name);
        }
    }
    let well = |status: PhaseStatus| status == PhaseStatus::Completed;
    let clean = report.phases.iter().all(|phase| well(phase.status)) && all.iter().all(|entry| entry.outcome.is_ok());
    assert_eq!(report.exit_code() == 0, clean, "{report}");
}

type Story = Vec<(String, PhaseStatus, Vec<(String, String)>)>;

/// What happened, without when.
fn story(report: &Report) -> Story {
    let outcome = |outcome: &Outcome| match outcome {
        Outcome::TimedOut { late_by } => format!("timed out, late: {}", late_by.is_some()),
        other => other.to_string(),
    };
    let entries = |phase: &shutdown_coordinator::PhaseReport| {
        phase.entries.iter().map(|entry| (entry.name.clone(), outcome(&entry.outcome))).collect()
    };
    report.phases.iter().map(|phase| (phase.name.clone(), phase.status, entries(phase))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Properties 13, 16, 19, 20, 21, 48 and 49, and the bound on the whole, for any graph of six phases.
    #[test]
    fn every_hook_is_reported_once_and_every_rule_of_time_is_kept(phases in vec(phase(), 0..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let report = runtime.block_on(run(&phases));
        judge(&phases, &report);
        // Property 50, in part: the same again is the same to the last field.
        let again = runtime.block_on(run(&phases));
        prop_assert_eq!(story(&report), story(&again));
        let times = |report: &Report| report.phases.iter().map(|phase| (phase.started_after, phase.took)).collect::<Vec<_>>();
        prop_assert_eq!(times(&report), times(&again));
    }
}

/// Property 50: what a shutdown with every kind of ending does, and in which order, does not depend on whether time is real.
/// Its durations are far enough apart for a machine that is busy.
#[test]
fn the_trace_is_the_same_under_paused_and_real_time() {
    async fn traced() -> (Vec<String>, Story) {
        let plan = |hooks: &[Deed], after, timeout, abort_rest| Phase {
            after,
            timeout,
            reserve: 0,
            hold: 0,
            sequential: false,
            abort_rest,
            hooks: hooks.to_vec(),
            tasks: Vec::new(),
            guards: Vec::new(),
        };
        let phases = [
            plan(&[Deed::Takes(900), Deed::Takes(10), Deed::Fails(300)], 0, None, false),
            plan(&[Deed::Endless, Deed::EndsAtExpiry, Deed::Takes(20)], 1, Some(600), false),
            plan(&[Deed::Panics(10)], 2, None, true),
            plan(&[Deed::Takes(10)], 4, None, false),
            plan(&[Deed::Takes(10)], 1, None, false),
        ];
        let (coordinator, handle, ids) = describe(&phases);
        let trace = Trace::default();
        for (number, (phase, id)) in phases.iter().zip(ids).enumerate() {
            for (index, deed) in phase.hooks.iter().copied().enumerate() {
                let (trace, name) = (trace.clone(), format!("{number}.{index}"));
                let hook = move |cx: HookContext| async move {
                    trace.add(format!("{name} begins"));
                    let expiring = cx.expiring().clone();
                    let result = carry_out(deed, expiring.cancelled_owned()).await;
                    trace.add(format!("{name} ends"));
                    result
                };
                handle.on(id, format!("hook {number}.{index}"), hook).unwrap();
            }
        }
        handle.trigger(manual());
        let report = coordinator.run().await;
        (trace.all(), story(&report))
    }
    let mut runs = BTreeMap::new();
    for paused in [true, false] {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(paused).build().unwrap();
        runs.insert(paused, runtime.block_on(traced()));
    }
    assert_eq!(runs[&true], runs[&false]);
    assert!(runs[&true].0.len() > 10);
}

/// Property 39: taking guards and giving them back allocates nothing, on one thread or another, open or closed.
#[test]
fn a_guard_allocates_nothing() {
    let mut builder = ShutdownCoordinator::builder();
    let only = builder.phase("only").id();
    let (_coordinator, handle) = build(builder);
    let gate = handle.gate(only, "requests");
    let allocations = |what: &mut dyn FnMut()| allocation_counter::measure(what).count_total;
    assert!(allocations(&mut || drop(std::hint::black_box(Box::new(1)))) > 0, "allocations are counted");
    // The first guard of a thread may set the thread up.
    drop(gate.enter().unwrap());
    let mut held = Vec::with_capacity(100_000);
    let counted = allocations(&mut || {
        for _ in 0..100_000 {
            let guard = gate.enter().unwrap();
            drop(guard.fork());
            held.push(guard);
        }
        held.clear();
    });
    assert_eq!(counted, 0);
    handle.trigger(manual());
    assert_eq!(allocations(&mut || drop(gate.enter())), 0);
}
