//! The test kit keeps its own promises, that of failing helpfully among them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{assert_says, build, complaint, manual, ms, secs};
use shutdown_coordinator::{
    Builder, FailurePolicy, Hangup, HookContext, Outcome, PhaseId, Quit, Reason, Report, ShutdownCoordinator,
    ShutdownHandle, SignalPolicy, Trigger,
    testkit::{Drill, Failure, Reaction, Signal, assert_clean, assert_order, entry, outcome, phase},
};
use tokio::time::{Instant, sleep};

/// Announce (held for five seconds), drain, persist (with a reserve).
fn three_phases() -> (Builder, [PhaseId; 3]) {
    let mut builder = ShutdownCoordinator::builder();
    let announce = builder.phase("announce").hold(secs(5)).id();
    let drain = builder.phase("drain").after(&[announce]).timeout(secs(10)).id();
    let persist = builder.phase("persist").after(&[drain]).reserve(secs(2)).id();
    (builder.deadline(secs(30)), [announce, drain, persist])
}

fn start(builder: Builder) -> (Drill, ShutdownHandle) {
    let (coordinator, handle) = build(builder);
    (Drill::start(coordinator, &handle), handle)
}

mod drills {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drill_stops_at_the_very_moment_a_phase_starts() {
        let (builder, [_, drain, persist]) = three_phases();
        let (mut drill, handle) = start(builder);
        let gate = handle.gate(drain, "orders");
        let guard = gate.enter_named("order 7").unwrap();
        handle.on(persist, "save", |_| sleep(ms(300))).unwrap();
        let begin = Instant::now();
        assert_eq!(drill.trigger(Reason::Upgrade), Trigger::Started);
        drill.until_phase("drain").await.unwrap();
        assert_eq!(begin.elapsed(), secs(5), "the hold, and no more");
        assert!(gate.is_closed());
        drill.pass(secs(3)).await.unwrap();
        assert_eq!(handle.blockers()[0].age, secs(8));
        drop(guard);
        drill.until_phase("persist").await.unwrap();
        assert_eq!(begin.elapsed(), secs(8), "letting go takes no time");
        let report = drill.report().await.unwrap();
        assert_clean(&report);
        assert_eq!(phase(&report, "persist").took, ms(300));
        assert_order(&report, ["announce", "orders", "save"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_becomes_due_while_time_passes_happens_when_it_is_due() {
        let (builder, [_, drain, _]) = three_phases();
        let (mut drill, handle) = start(builder);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let inner = Arc::clone(&seen);
        let hook = async move |_| {
            for _ in 0..3 {
                sleep(secs(1)).await;
                inner.lock().unwrap().push(Instant::now());
            }
        };
        handle.on(drain, "ticks", hook).unwrap();
        drill.trigger(manual());
        drill.until_phase("drain").await.unwrap();
        let begin = Instant::now();
        drill.pass(secs(8)).await.unwrap();
        assert_eq!(begin.elapsed(), secs(8));
        let ticks: Vec<Duration> = seen.lock().unwrap().iter().map(|tick| *tick - begin).collect();
        assert_eq!(ticks, [secs(1), secs(2), secs(3)]);
        assert_clean(&drill.report().await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn settling_takes_no_time() {
        let (builder, [announce, ..]) = three_phases();
        let (drill, handle) = start(builder);
        let told = handle.token(announce);
        drill.trigger(manual());
        let begin = Instant::now();
        assert!(!told.is_cancelled());
        drill.settle().await;
        assert!(told.is_cancelled());
        assert_eq!(begin.elapsed(), ms(0));
    }

    /// Properties 8 and 10: the policy of the real process.
    #[tokio::test(start_paused = true)]
    async fn simulated_signals_trigger_bounce_force_and_exit_with_128_and_the_number() {
        let (builder, [_, drain, persist]) = three_phases();
        let policy = SignalPolicy::default().debounce(secs(1));
        let (mut drill, handle) = start(builder.signals(policy).simulated_signals());
        let _guard = handle.gate(drain, "orders").enter_named("order 7").unwrap();
        handle.on(persist, "save", |_| async {}).unwrap();
        assert_eq!(drill.signal(Signal::Term), Reaction::Triggered);
        drill.pass(ms(999)).await.unwrap();
        assert_eq!(drill.signal(Signal::Term), Reaction::Debounced);
        drill.until_phase("drain").await.unwrap();
        assert_eq!(drill.signal(Signal::Int), Reaction::Forced);
        let report = drill.report().await.unwrap();
        assert_eq!(report.exit_code(), 128 + 2);
        assert_eq!(outcome(&report, "save"), &Outcome::Ok);
        assert_says(&complaint(|| assert_clean(&report)), &["forced by SIGINT", "phase \"drain\": forced", "order 7"]);
    }

    /// Property 11.
    #[tokio::test(start_paused = true)]
    async fn simulated_sighup_and_sigquit_do_what_the_policy_says() {
        let (builder, _) = three_phases();
        let (drill, handle) = start(builder.signals(SignalPolicy::default()).simulated_signals());
        assert_eq!(drill.signal(Signal::Hup), Reaction::Reloaded);
        assert_eq!(drill.signal(Signal::Hup), Reaction::Reloaded);
        assert_eq!(*handle.reloads().borrow(), 2);
        assert!(!handle.is_shutting_down());
        assert_eq!(drill.signal(Signal::Quit), Reaction::Forced);
        assert_eq!(drill.report().await.unwrap().exit_code(), 128 + 3);

        let (builder, _) = three_phases();
        let policy = SignalPolicy::default().hangup(Hangup::Ignore).quit(Quit::Ignore);
        let (drill, handle) = start(builder.signals(policy).simulated_signals());
        assert_eq!(drill.signal(Signal::Hup), Reaction::Ignored);
        assert_eq!(drill.signal(Signal::Quit), Reaction::Ignored);
        assert!(!handle.is_shutting_down());

        let (builder, _) = three_phases();
        let (drill, _) = start(builder.signals(SignalPolicy::default().quit(Quit::Trigger)).simulated_signals());
        assert_eq!(drill.signal(Signal::Quit), Reaction::Triggered);
        assert_eq!(drill.report().await.unwrap().exit_code(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_that_would_end_the_process_fails_the_test() {
        let (builder, _) = three_phases();
        let (drill, _) = start(builder);
        assert_says(
            &complaint(|| _ = drill.signal(Signal::Term)),
            &["SIGTERM would end the process", "Builder::signals"],
        );
        let (builder, _) = three_phases();
        let (drill, _) = start(builder.signals(SignalPolicy::default().quit(Quit::System)).simulated_signals());
        assert_says(&complaint(|| _ = drill.signal(Signal::Quit)), &["SIGQUIT would end the process"]);
        assert_says(&complaint(|| _ = drill.signal(Signal::Kill)), &["no shutdown sees SIGKILL"]);
    }

    /// With real handlers Ctrl-C would no longer end a test run.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn simulated_signals_install_no_handlers() {
        // No test of this file installs any.
        let (builder, _) = three_phases();
        let _drill = start(builder.signals(SignalPolicy::default()).simulated_signals());
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        for signal in [Signal::Term, Signal::Int, Signal::Hup, Signal::Quit] {
            assert_eq!(caught >> (signal.number() - 1) & 1, 0, "{signal} is caught");
        }
    }

    /// The shutdown's own deadlines end it, however little its hooks want to end.
    #[tokio::test(start_paused = true)]
    async fn a_hook_that_never_ends_is_reported_and_not_waited_for() {
        let (builder, [_, drain, _]) = three_phases();
        let (drill, handle) = start(builder);
        handle.on(drain, "endless", |_| pending::<()>()).unwrap();
        drill.trigger(manual());
        let report = drill.report().await.unwrap();
        assert_eq!(outcome(&report, "endless"), &Outcome::TimedOut { late_by: None });
        assert_says(
            &complaint(|| assert_clean(&report)),
            &["hook \"endless\": timed out", "phase \"drain\": timed out"],
        );
    }

    /// Under a paused clock no time passes while something runs, so no deadline of the clock could end this.
    #[tokio::test(start_paused = true)]
    async fn a_hook_that_spins_fails_the_drill_by_the_real_clock_and_is_named() {
        let (builder, [_, drain, _]) = three_phases();
        let (coordinator, handle) = build(builder);
        let mut drill = Drill::start_within(ms(300), coordinator, &handle);
        let spin = |cx: HookContext| async move {
            while !cx.force_token().is_cancelled() {
                tokio::task::yield_now().await;
            }
        };
        handle.on(drain, "spins", spin).unwrap();
        drill.trigger(manual());
        drill.until_phase("drain").await.unwrap();
        let failure = drill.report().await.unwrap_err();
        assert!(matches!(failure, Failure::Late { .. }), "{failure}");
        assert_says(
            &format!("{failure:?}"),
            &["not within 300ms: the shutdown is over", "drain     running", "waiting for drain: hook \"spins\""],
        );
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_shutdown_that_nobody_triggers_fails_and_says_so() {
        let (builder, _) = three_phases();
        let (mut drill, _handle) = start(builder);
        let failure = drill.until_phase("drain").await.unwrap_err();
        assert_says(
            &failure.to_string(),
            &["the phase \"drain\" starts", "no shutdown was triggered", "drain     waiting"],
        );
        assert!(matches!(drill.report().await.unwrap_err(), Failure::Late { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn phases_that_will_never_start_fail_at_once() {
        let mut builder = ShutdownCoordinator::builder();
        let first = builder.phase("first").on_failure(FailurePolicy::AbortRest).id();
        builder.phase("second").after(&[first]);
        let (mut drill, handle) = start(builder);
        handle.on(first, "fails", |_| async { Err("broken") }).unwrap();
        drill.trigger(manual());
        let begin = Instant::now();
        let unknown = drill.until_phase("third").await.unwrap_err();
        assert_says(&unknown.to_string(), &["\"third\"", "no such phase"]);
        let skipped = drill.until_phase("second").await.unwrap_err();
        assert!(matches!(skipped, Failure::Never { .. }), "{skipped}");
        assert_says(&skipped.to_string(), &["\"second\"", "skipped"]);
        assert_eq!(begin.elapsed(), ms(0));
    }
}

mod assertions {
    use super::*;

    async fn run(builder: Builder, prepare: impl FnOnce(&ShutdownHandle)) -> Report {
        let (drill, handle) = start(builder);
        prepare(&handle);
        drill.trigger(manual());
        drill.report().await.unwrap()
    }

    /// At one instant of a paused clock, where times say nothing.
    #[tokio::test(start_paused = true)]
    async fn the_order_of_phases_that_take_no_time_is_known() {
        let mut builder = ShutdownCoordinator::builder();
        let first = builder.phase("first").id();
        let second = builder.phase("second").after(&[first]).sequential().id();
        let beside = builder.phase("beside").id();
        let report = run(builder, |handle| {
            handle.on(first, "one", |_| async {}).unwrap();
            handle.on(second, "three", |_| async {}).unwrap();
            handle.on(second, "two", |_| async {}).unwrap();
            handle.on(beside, "other", |_| tokio::task::yield_now()).unwrap();
        })
        .await;
        assert_eq!(report.took, ms(0));
        assert_order(&report, ["first", "second"]);
        assert_order(&report, ["one", "two", "three"]);
        let wrong = complaint(|| assert_order(&report, ["three", "two"]));
        assert_says(
            &wrong,
            &["\"three\" was not over when \"two\" started", "hook \"two\" starts", "phase \"first\" is over"],
        );
        // Nobody said that one comes after the other.
        assert_says(&complaint(|| assert_order(&report, ["first", "beside"])), &["\"first\" was not over"]);
        assert_says(&complaint(|| assert_order(&report, ["nobody"])), &["nothing is called \"nobody\""]);
    }

    #[tokio::test(start_paused = true)]
    async fn hooks_that_overlap_have_no_order_and_neither_has_a_task() {
        let (builder, [_, drain, persist]) = three_phases();
        let report = run(builder, |handle| {
            handle.on(drain, "one", |_| sleep(secs(1))).unwrap();
            handle.on(drain, "two", |_| sleep(secs(2))).unwrap();
            let told = handle.token(persist);
            handle.spawn(persist, "task", async move { told.cancelled().await }).unwrap();
            handle.on(persist, "never", |_| pending::<()>()).unwrap();
        })
        .await;
        assert_says(
            &complaint(|| assert_order(&report, ["one", "two"])),
            &["\"one\" was not over when \"two\" started"],
        );
        let task = complaint(|| assert_order(&report, ["one", "task"]));
        assert_says(&task, &["\"task\" is a task, which runs from before the shutdown: name its phase instead"]);
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_found_by_phase_where_they_are_not_unique() {
        let (builder, [announce, drain, _]) = three_phases();
        let report = run(builder, |handle| {
            handle.on(announce, "say", |_| async {}).unwrap();
            handle.on(drain, "say", |_| async { Err("mute") }).unwrap();
            handle.on(drain, "drain", |cx| async move { cx.unclean("two orders are open") }).unwrap();
        })
        .await;
        assert!(outcome(&report, "announce/say").is_ok());
        assert_eq!(entry(&report, "drain/say").outcome, Outcome::Failed { error: "mute".to_owned() });
        assert_order(&report, ["announce/say", "drain/say", "persist"]);
        assert_says(&complaint(|| _ = entry(&report, "say")), &["twice", "\"announce\" and \"drain\""]);
        assert_says(&complaint(|| _ = entry(&report, "none")), &["no hook, gate or task is called \"none\""]);
        assert_says(&complaint(|| _ = phase(&report, "none")), &["no phase is called \"none\""]);
        assert_says(&complaint(|| assert_order(&report, ["drain", "persist"])), &["2 times", "phase/name"]);
        let unclean = complaint(|| assert_clean(&report));
        assert_says(
            &unclean,
            &["\n  hook \"say\": failed: mute\n", "\n  unclean: two orders are open\n", "exit code 75"],
        );
    }
}
