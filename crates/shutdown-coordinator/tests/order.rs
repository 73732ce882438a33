//! The order of phases and their time.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{future::pending, sync::Arc, time::Duration};

use common::{Trace, build, manual, ms, outcome, phase, secs};
use shutdown_coordinator::{
    BuildError, Builder, EXIT_UNCLEAN, FailurePolicy, Outcome, PhaseId, PhaseSpec, PhaseStage, PhaseStatus,
    RejectCause, ShutdownCoordinator, ShutdownHandle,
};
use tokio::{sync::Barrier, time::Instant};

/// Properties 13 and 49.
#[tokio::test(start_paused = true)]
async fn a_phase_starts_only_when_all_its_predecessors_are_over() {
    let mut builder = ShutdownCoordinator::builder();
    let left = builder.phase("left").id();
    let right = builder.phase("right").id();
    let join = builder.phase("join").after(&[left, right]).id();
    let (coordinator, handle) = build(builder);
    let trace = Trace::default();
    for (id, name, wait) in [(left, "left", ms(10)), (right, "right", ms(30)), (join, "join", ms(0))] {
        let trace = trace.clone();
        handle
            .on(id, name, move |_| async move {
                tokio::time::sleep(wait).await;
                trace.add(name);
            })
            .unwrap();
    }
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(trace.all(), ["left", "right", "join"]);
    assert_eq!(phase(&report, "join").started_after, ms(30));
    assert_eq!(report.phases.iter().map(|phase| phase.entries.len()).sum::<usize>(), 3);
}

/// Property 14.
#[tokio::test]
async fn independent_branches_overlap() {
    let mut builder = ShutdownCoordinator::builder();
    let left = builder.phase("left").timeout(secs(5)).id();
    let right = builder.phase("right").timeout(secs(5)).id();
    let (coordinator, handle) = build(builder);
    let meet = Arc::new(Barrier::new(2));
    for id in [left, right] {
        let meet = Arc::clone(&meet);
        handle
            .on(id, format!("meet {id:?}"), |_| async move {
                meet.wait().await;
            })
            .unwrap();
    }
    handle.trigger(manual());
    assert!(coordinator.run().await.is_clean());
}

/// Property 15.
#[tokio::test(start_paused = true)]
async fn hooks_run_at_once_or_in_reverse_order() {
    let mut builder = ShutdownCoordinator::builder();
    let together = builder.phase("together").id();
    let reversed = builder.phase("reversed").after(&[together]).sequential().id();
    let (coordinator, handle) = build(builder);
    let trace = Trace::default();
    for number in 0..3 {
        let trace = trace.clone();
        handle
            .on(reversed, format!("r{number}"), move |_| async move {
                trace.add(format!("r{number} starts"));
                tokio::time::sleep(ms(10)).await;
                trace.add(format!("r{number} ends"));
            })
            .unwrap();
        handle.on(together, format!("t{number}"), |_| tokio::time::sleep(ms(10))).unwrap();
    }
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(trace.all(), ["r2 starts", "r2 ends", "r1 starts", "r1 ends", "r0 starts", "r0 ends"]);
    assert_eq!(phase(&report, "together").took, ms(10));
    assert_eq!(phase(&report, "reversed").took, ms(30));
}

/// Property 15, and a trap of uber/fx (#1034): what comes after an expired step is polled all the same.
#[tokio::test(start_paused = true)]
async fn in_a_sequence_an_expired_hook_does_not_skip_the_others() {
    let mut builder = ShutdownCoordinator::builder();
    let only = builder.phase("only").sequential().timeout(secs(1)).id();
    let (coordinator, handle) = build(builder);
    let trace = Trace::default();
    let quick = trace.clone();
    handle.on(only, "quick", |_| async move { quick.add("quick") }).unwrap();
    handle.on(only, "endless", |_| pending::<()>()).unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(trace.all(), ["quick"]);
    assert_eq!(outcome(&report, "endless"), &Outcome::TimedOut { late_by: None });
    assert!(matches!(outcome(&report, "quick"), Outcome::TimedOut { late_by: Some(_) }));
}

/// What a phase finds as its budget, when everything before it wastes its time.
async fn budgets(builder: Builder, phases: &[PhaseId], wasteful: bool) -> Vec<Duration> {
    let (coordinator, handle) = build(builder.grace(ms(0)));
    for id in phases {
        handle
            .on(*id, format!("{id:?}"), move |_| async move {
                if wasteful {
                    pending::<()>().await;
                }
            })
            .unwrap();
    }
    handle.trigger(manual());
    coordinator.run().await.phases.iter().map(|phase| phase.budget).collect()
}

/// Properties 16 and 18: the plan of the documentation, with every phase wasting its time, and with none doing so.
#[tokio::test(start_paused = true)]
async fn deadlines_are_the_earlier_of_timeout_and_the_reserves_owed_downstream() {
    let plan = || {
        let mut builder = ShutdownCoordinator::builder();
        let stop = builder.phase("stop").timeout(secs(5)).id();
        let drain = builder.phase("drain").after(&[stop]).timeout(secs(60)).id();
        let persist = builder.phase("persist").after(&[drain]).reserve(secs(4)).id();
        let streams = builder.phase("streams").after(&[persist]).timeout(secs(3)).id();
        let close = builder.phase("close").after(&[streams]).reserve(secs(2)).id();
        (builder.deadline(secs(42)), [stop, drain, persist, streams, close])
    };
    let (builder, phases) = plan();
    // drain: 42 - 5 - (4 + 2). persist: all that is left but 2. streams: nothing is left. close: its reserve.
    assert_eq!(budgets(builder, &phases, true).await, [secs(5), secs(31), secs(4), secs(0), secs(2)]);
    let (builder, phases) = plan();
    // Nothing is used, so everything flows onward: 42 - (4 + 2), 42 - 2, and 42 for the last.
    assert_eq!(budgets(builder, &phases, false).await, [secs(5), secs(36), secs(40), secs(3), secs(42)]);
}

/// Property 16: of two branches, the longer one in reserves counts.
#[tokio::test(start_paused = true)]
async fn reserves_are_owed_on_the_longest_path() {
    let mut builder = ShutdownCoordinator::builder();
    let first = builder.phase("first").id();
    let short = builder.phase("short").after(&[first]).reserve(secs(1)).id();
    let long = builder.phase("long").after(&[first]).reserve(secs(2)).id();
    let end = builder.phase("end").after(&[long]).reserve(secs(3)).id();
    let budgets = budgets(builder.deadline(secs(10)), &[first, short, long, end], true).await;
    assert_eq!(budgets, [secs(5), secs(5), secs(2), secs(3)]);
}

/// Property 16: graces do not eat reserves.
#[tokio::test(start_paused = true)]
async fn a_reserve_is_whole_even_after_a_phase_that_used_its_grace() {
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").id();
    let persist = builder.phase("persist").after(&[drain]).reserve(secs(4)).id();
    let (coordinator, handle) = build(builder.deadline(secs(10)).grace(secs(1)));
    handle.on(drain, "endless", |_| pending::<()>()).unwrap();
    handle
        .on(persist, "save", |cx| async move {
            assert_eq!(cx.remaining(), secs(4));
            tokio::time::sleep(ms(3_999)).await;
        })
        .unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(phase(&report, "persist").started_after, secs(7));
    assert_eq!(outcome(&report, "save"), &Outcome::Ok);
}

/// Property 17.
#[test]
fn reserves_above_the_deadline_fail_the_build_and_timeouts_do_not() {
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").timeout(secs(60)).id();
    let persist = builder.phase("persist").after(&[drain]).reserve(secs(4)).id();
    builder.phase("close").after(&[persist]).reserve(secs(3));
    let error = builder.deadline(secs(6)).build().unwrap_err();
    let BuildError::ReservesAboveDeadline { path, reserves, deadline } = &error else { panic!("{error}") };
    assert_eq!((path.join(" "), *reserves, *deadline), ("persist close".to_owned(), secs(7), secs(6)));
    assert!(error.to_string().contains("persist -> close add up to 7s"), "{error}");

    let mut builder = ShutdownCoordinator::builder();
    builder.phase("drain").timeout(secs(60));
    let (_coordinator, handle) = build(builder.deadline(secs(6)));
    let plan = handle.plan();
    assert_eq!((plan.phases[0].timeout, plan.phases[0].latest_end), (Some(secs(60)), secs(6)));
}

#[test]
fn phases_with_the_same_name_fail_the_build() {
    let mut builder = ShutdownCoordinator::builder();
    builder.phase("drain");
    builder.phase("drain");
    assert!(matches!(builder.build(), Err(BuildError::DuplicatePhase(name)) if name == "drain"));
}

/// The watchdog leaves a shutdown that keeps to its rules alone: graces are part of them.
#[tokio::test(start_paused = true)]
async fn a_watchdog_that_would_bark_too_soon_fails_the_build() {
    let describe = |margin| {
        let mut builder = ShutdownCoordinator::builder();
        let first = builder.phase("first").reserve(secs(1)).id();
        builder.phase("beside").id();
        builder.phase("second").after(&[first]).reserve(secs(1)).id();
        builder.deadline(secs(2)).grace(secs(1)).watchdog(margin)
    };
    let error = describe(ms(2_099)).build().unwrap_err();
    let expected = "the watchdog's margin of 2.099s is below the 2.1s by which graces can add up: raise the margin, or lower the grace";
    assert_eq!(error.to_string(), expected);
    let (coordinator, handle) = build(describe(ms(2_100)));
    assert_eq!(handle.plan().overrun, ms(2_100));
    for name in ["first", "second"] {
        handle.on(handle.phase(name).unwrap(), "endless", |_| std::future::pending::<()>()).unwrap();
    }
    handle.trigger(manual());
    let took = coordinator.run().await.took;
    assert!(took > secs(2) && took <= secs(2) + ms(2_100), "{took:?}");
}

/// Bad use is an error and never a hang: the ids of one coordinator mean nothing to another.
#[tokio::test(start_paused = true)]
async fn a_phase_of_another_coordinator_is_refused_everywhere() {
    let mut other = ShutdownCoordinator::builder();
    let foreign = other.phase("theirs").id();
    let mut builder = ShutdownCoordinator::builder();
    builder.phase("ours").after(&[foreign]).id();
    let error = builder.build().unwrap_err();
    assert!(matches!(&error, BuildError::ForeignPhase { phase } if phase == "ours"), "{error}");
    assert_eq!(error.to_string(), "phase \"ours\" comes after a phase of another coordinator");

    let mut builder = ShutdownCoordinator::builder();
    builder.phase("ours").id();
    let (coordinator, handle) = build(builder);
    assert_eq!(handle.on(foreign, "hook", |_| async {}).unwrap_err().cause, RejectCause::ForeignPhase);
    assert_eq!(handle.spawn(foreign, "task", async {}).unwrap_err().cause, RejectCause::ForeignPhase);
    assert!(handle.gate(foreign, "gate").enter().is_err());
    assert!(handle.token(foreign).is_cancelled());
    handle.trigger(manual());
    assert!(coordinator.run().await.is_clean());
}

fn spec(name: &str, after: &[&str]) -> PhaseSpec {
    let after = after.iter().map(ToString::to_string).collect();
    PhaseSpec { name: name.to_owned(), after, ..PhaseSpec::default() }
}

#[test]
fn a_graph_from_configuration_may_come_in_any_order() {
    let specs = [spec("close", &["persist", "drain"]), spec("persist", &["drain"]), spec("drain", &[])];
    let (_coordinator, handle) = build(Builder::from_specs(specs).unwrap());
    let names: Vec<_> = handle.plan().phases.into_iter().map(|phase| (phase.name, phase.after)).collect();
    assert_eq!(names[0], ("drain".to_owned(), vec![]));
    assert_eq!(names[2], ("close".to_owned(), vec!["persist".to_owned(), "drain".to_owned()]));
    assert!(handle.phase("persist").is_some() && handle.phase("nobody").is_none());
}

#[test]
fn a_graph_from_configuration_names_its_cycle_and_its_unknown_phases() {
    let cycle = [spec("a", &["c"]), spec("b", &["a"]), spec("c", &["b"]), spec("d", &["c"]), spec("e", &[])];
    let error = Builder::from_specs(cycle).unwrap_err();
    assert_eq!(error.to_string(), "phases wait for each other: b -> c -> a -> b");
    let error = Builder::from_specs([spec("a", &["z"])]).unwrap_err();
    assert!(matches!(error, BuildError::UnknownPhase { phase, unknown } if phase == "a" && unknown == "z"));
    let error = Builder::from_specs([spec("a", &[]), spec("a", &[])]).unwrap_err();
    assert!(matches!(error, BuildError::DuplicatePhase(_)));
    let error = Builder::from_specs([spec("", &[])]).unwrap().build().unwrap_err();
    assert!(matches!(error, BuildError::NamelessPhase), "{error}");
}

/// Property 19.
#[tokio::test(start_paused = true)]
async fn a_hook_that_ends_after_its_deadline_is_late_and_never_ok() {
    let mut builder = ShutdownCoordinator::builder();
    let only = builder.phase("only").timeout(secs(1)).id();
    let (coordinator, handle) = build(builder.grace(secs(1)));
    handle.on(only, "late", |_| tokio::time::sleep(ms(1_200))).unwrap();
    handle.on(only, "in time", |_| tokio::time::sleep(ms(999))).unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(outcome(&report, "late"), &Outcome::TimedOut { late_by: Some(ms(200)) });
    assert_eq!(outcome(&report, "in time"), &Outcome::Ok);
    assert_eq!(report.phases[0].status, PhaseStatus::TimedOut);
    assert_eq!(report.exit_code(), EXIT_UNCLEAN);
}

/// Property 19: a tokio timeout is no deadline. Here the hook blocks the only thread, and no timer can fire.
#[tokio::test]
async fn a_hook_that_blocks_the_only_thread_is_late_too() {
    let mut builder = ShutdownCoordinator::builder();
    let only = builder.phase("only").timeout(ms(20)).id();
    let (coordinator, handle) = build(builder);
    handle.on(only, "blocking", |_| async { std::thread::park_timeout(ms(300)) }).unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    let Outcome::TimedOut { late_by: Some(late_by) } = outcome(&report, "blocking") else { panic!("{report}") };
    assert!(*late_by >= ms(200), "{report}");
    assert_eq!(report.phases[0].status, PhaseStatus::TimedOut);
}

/// Property 20.
#[tokio::test(start_paused = true)]
async fn at_expiry_a_hook_is_told_then_aborted_and_the_next_phase_starts() {
    let mut builder = ShutdownCoordinator::builder();
    let first = builder.phase("first").timeout(secs(1)).id();
    let second = builder.phase("second").after(&[first]).id();
    let (coordinator, handle) = build(builder.grace(ms(500)));
    let trace = Trace::default();
    let start = Instant::now();
    let told = trace.clone();
    handle
        .on(first, "stubborn", move |cx| async move {
            cx.expiring().cancelled().await;
            told.add(format!("told after {:?}", start.elapsed()));
            pending::<()>().await;
        })
        .unwrap();
    let next = trace.clone();
    handle.on(second, "next", move |_| async move { next.add(format!("next after {:?}", start.elapsed())) }).unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert_eq!(trace.all(), ["told after 1s", "next after 1.5s"]);
    assert_eq!(outcome(&report, "stubborn"), &Outcome::TimedOut { late_by: None });
    assert_eq!(outcome(&report, "next"), &Outcome::Ok);
}

fn failing(policy: FailurePolicy) -> (ShutdownCoordinator, ShutdownHandle) {
    let mut builder = ShutdownCoordinator::builder();
    let root = builder.phase("root").id();
    let bad = builder.phase("bad").after(&[root]).on_failure(policy).id();
    let dependent = builder.phase("dependent").after(&[bad]).id();
    let persist = builder.phase("persist").after(&[dependent]).reserve(secs(1)).id();
    let last = builder.phase("last").after(&[persist]).id();
    let sibling = builder.phase("sibling").after(&[root]).id();
    let (coordinator, handle) = build(builder);
    handle.on(bad, "bad hook", |_| async { Err("no") }).unwrap();
    for (id, name) in [(dependent, "d"), (persist, "p"), (last, "l"), (sibling, "s")] {
        handle.on(id, name, |_| async {}).unwrap();
    }
    handle.trigger(manual());
    (coordinator, handle)
}

/// Property 21.
#[tokio::test(start_paused = true)]
async fn abort_rest_skips_dependents_only_and_reserved_phases_still_run() {
    let (coordinator, _handle) = failing(FailurePolicy::AbortRest);
    let report = coordinator.run().await;
    let outcomes = ["d", "p", "l", "s"].map(|name| outcome(&report, name).clone());
    assert_eq!(outcomes, [Outcome::Skipped, Outcome::Ok, Outcome::Skipped, Outcome::Ok]);
    assert_eq!(phase(&report, "dependent").status, PhaseStatus::Skipped);

    let (coordinator, _handle) = failing(FailurePolicy::Continue);
    let report = coordinator.run().await;
    assert!(["d", "p", "l", "s"].iter().all(|name| outcome(&report, name).is_ok()), "{report}");
    assert_eq!(report.exit_code(), EXIT_UNCLEAN);
}

/// Property 22.
#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_polls_each_hook_once() {
    polls_once().await;
}

/// Properties 22 and 50: in real time too, where the first poll ends after a deadline that is the start.
#[tokio::test]
async fn a_timeout_of_zero_polls_each_hook_once_in_real_time() {
    polls_once().await;
}

async fn polls_once() {
    let mut builder = ShutdownCoordinator::builder();
    let only = builder.phase("only").timeout(secs(0)).id();
    let (coordinator, handle) = build(builder.grace(ms(0)));
    let trace = Trace::default();
    let (ready, slow) = (trace.clone(), trace.clone());
    handle.on(only, "ready", |_| async move { ready.add("ready") }).unwrap();
    handle
        .on(only, "slow", |_| async move {
            slow.add("slow begins");
            tokio::time::sleep(secs(1)).await;
            slow.add("slow ends");
        })
        .unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    let mut trace = trace.all();
    trace.sort();
    assert_eq!(trace, ["ready", "slow begins"]);
    assert_eq!(outcome(&report, "ready"), &Outcome::Ok);
    assert_eq!(outcome(&report, "slow"), &Outcome::TimedOut { late_by: None });
}

/// Property 50: a phase for which no time is left, and which needs none, is over in time, paused or not.
#[tokio::test]
async fn a_phase_that_needs_no_time_is_over_in_time_without_any() {
    let mut builder = ShutdownCoordinator::builder();
    let empty = builder.phase("empty").timeout(secs(0)).id();
    let quick = builder.phase("quick").after(&[empty]).timeout(secs(0)).sequential().id();
    let (coordinator, handle) = build(builder);
    handle.on(quick, "one", |_| async {}).unwrap();
    handle.on(quick, "two", |_| async {}).unwrap();
    handle.trigger(manual());
    let report = coordinator.run().await;
    assert!(report.is_clean(), "{report}");
}

/// Property 24.
#[tokio::test(start_paused = true)]
async fn readiness_flips_before_anything_closes_and_work_goes_on_during_hold() {
    let mut builder = ShutdownCoordinator::builder();
    let announce = builder.phase("announce").hold(secs(5)).id();
    let stop = builder.phase("stop").after(&[announce]).id();
    let (coordinator, handle) = build(builder);
    let requests = handle.gate(stop, "requests");
    let start = Instant::now();
    let watcher = async {
        handle.begun().cancelled().await;
        assert!(handle.is_shutting_down());
        assert_eq!(start.elapsed(), secs(0));
        tokio::time::sleep(ms(4_900)).await;
        assert!(requests.enter().is_ok());
        handle.token(stop).cancelled().await;
        assert_eq!(start.elapsed(), secs(5));
        assert!(requests.enter().is_err());
    };
    handle.trigger(manual());
    let (report, ()) = tokio::join!(coordinator.run(), watcher);
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn progress_names_the_running_phase_and_its_deadline() {
    let mut builder = ShutdownCoordinator::builder();
    let first = builder.phase("first").timeout(secs(3)).id();
    builder.phase("second").after(&[first]);
    let (coordinator, handle) = build(builder);
    let mut progress = handle.progress();
    let gate = handle.gate(first, "work");
    let guard = gate.enter_named("order 1").unwrap();
    handle.trigger(manual());
    let watcher = async {
        let now = progress.wait_for(|progress| progress.running().next().is_some()).await.unwrap().clone();
        let running = now.running().next().unwrap();
        assert_eq!(running.name, "first");
        assert_eq!(running.stage, PhaseStage::Running { deadline: Instant::now() + secs(3) });
        tokio::time::sleep(secs(1)).await;
        let blockers = handle.blockers();
        assert_eq!((blockers.len(), &*blockers[0].name, blockers[0].age), (1, "order 1", secs(1)));
        drop(guard);
        let now = progress.wait_for(|progress| progress.done().count() == 2).await.unwrap().clone();
        assert_eq!(now.phases[0].stage, PhaseStage::Over(PhaseStatus::Completed));
    };
    let (report, ()) = tokio::join!(coordinator.run(), watcher);
    assert_eq!(phase(&report, "first").took, secs(1));
}

#[tokio::test]
async fn the_plan_shows_what_is_registered() {
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").timeout(secs(3)).point_of_no_return().id();
    let (_coordinator, handle) = build(builder.watchdog(secs(2)));
    let registration = handle.on(drain, "flush", |_| async {}).unwrap();
    let _gate = handle.gate(drain, "orders");
    let text = handle.plan().to_string();
    for part in ["drain", "3 s", "hook flush", "gate orders", "watchdog 2 s", "no way back"] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    assert!(registration.cancel());
    assert_eq!(handle.plan().phases[0].work.len(), 1);
}
