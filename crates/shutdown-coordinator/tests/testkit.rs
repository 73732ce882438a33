//! The test kit keeps its own promises, that of failing helpfully among them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{build, manual, ms, secs};
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

/// What an assertion says when it fails.
fn complaint(assertion: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(assertion)).expect_err("the assertion should have failed");
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| (*payload.downcast_ref::<&str>().unwrap()).to_owned())
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
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
        let (drill, _) = start(builder.signals(SignalPolicy::default().quit(Quit::Default)).simulated_signals());
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
            while !cx.force().is_cancelled() {
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
    async fn hooks_that_overlap_have_no_order_and_a_task_counts_by_its_end() {
        let (builder, [_, drain, persist]) = three_phases();
        let report = run(builder, |handle| {
            handle.on(drain, "one", |_| sleep(secs(1))).unwrap();
            handle.on(drain, "two", |_| sleep(secs(2))).unwrap();
            let told = handle.token(persist);
            handle.spawn(persist, "task", async move { told.cancelled().await }).unwrap();
            handle.on(persist, "never", |_| pending::<()>()).unwrap();
        })
        .await;
        assert_order(&report, ["one", "task"]);
        assert_says(
            &complaint(|| assert_order(&report, ["one", "two"])),
            &["\"one\" was not over when \"two\" started"],
        );
        assert_says(&complaint(|| assert_order(&report, ["task", "drain"])), &["\"task\" was not over"]);
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
        assert_says(&unclean, &["hook \"say\": failed: mute", "unclean: two orders are open", "exit code 75"]);
    }
}

#[cfg(unix)]
mod processes {
    use std::{env, path::PathBuf, process::Command};

    use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
    use shutdown_coordinator::testkit::{Exit, Points, Process};

    use super::*;

    /// A shell script as a process.
    fn shell(script: &str) -> Process {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Process::start(command).unwrap()
    }

    /// One of the services of `examples/scenarios.rs`, which cargo builds with the tests, next to their directory.
    fn scenario(name: &str) -> Command {
        let tests = env::current_exe().unwrap();
        let program: PathBuf = tests.parent().unwrap().parent().unwrap().join("examples/scenarios");
        let mut command = Command::new(program);
        command.arg(name);
        command
    }

    /// Whether it is gone, or at most waits for whoever adopted it.
    fn is_gone(pid: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) || stat.contains(") Z ")
    }

    async fn wait_gone(pid: i32) {
        let deadline = Instant::now() + secs(20);
        while !is_gone(pid) {
            assert!(Instant::now() < deadline, "process {pid} lives");
            sleep(ms(5)).await;
        }
    }

    #[tokio::test]
    async fn lines_are_found_in_order_and_how_it_ended_is_known() {
        let mut process = shell("echo one; echo two=2; echo three; echo problem >&2; exit 3");
        assert_eq!(process.next_line().await.unwrap(), "one");
        let two = process.find_line("a two", |line| line.strip_prefix("two=")?.parse::<u8>().ok()).await.unwrap();
        assert_eq!(two, 2);
        assert_eq!(process.line("hree").await.unwrap(), "three");
        process.stderr_line("problem").await.unwrap();
        assert_eq!(process.exit().await.unwrap(), Exit::Code(3));
        assert_eq!(process.stdout(), "one\ntwo=2\nthree");
        assert!(!process.is_running().unwrap());
        let late = process.signal(Signal::Term).unwrap_err();
        assert_says(&late.to_string(), &["SIGTERM", "it has ended", "code 3"]);
    }

    #[tokio::test]
    async fn a_line_that_does_not_come_fails_with_what_was_said() {
        let mut process = shell("echo starting; echo 'no database' >&2; exec sleep 1000").patience(ms(300));
        process.stderr_line("database").await.unwrap();
        let failure = process.line("ready").await.unwrap_err();
        assert!(matches!(failure, Failure::Late { .. }), "{failure}");
        assert_says(
            &format!("{failure:?}"),
            &["not within 300ms", "a line with \"ready\"", "was not seen to end", "starting", "no database"],
        );
        let failure = process.exit().await.unwrap_err();
        assert_says(&failure.to_string(), &["not within 300ms: it ends", "/bin/sh", "no database"]);
    }

    #[tokio::test]
    async fn a_line_that_can_no_longer_come_fails_at_once_with_the_exit_code() {
        let mut process = shell("echo 'no database' >&2; exit 7").patience(secs(600));
        let failure = common::soon(process.line("ready")).await.unwrap_err();
        assert!(matches!(failure, Failure::Never { .. }), "{failure}");
        assert_says(&failure.to_string(), &["ready", "the output has ended", "ended with code 7", "no database"]);
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_named() {
        let failure = Process::start(Command::new("/nowhere/service")).unwrap_err();
        assert_says(&failure.to_string(), &["cannot start /nowhere/service"]);
    }

    #[tokio::test]
    async fn much_is_said_without_anybody_listening() {
        let mut process =
            shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; printf '\\377\\n'; echo end");
        assert_eq!(process.exit().await.unwrap(), Exit::Code(0));
        assert_eq!(process.line("19999").await.unwrap(), "line 19999");
        assert_eq!(process.next_line().await.unwrap(), "\u{fffd}");
        assert_eq!(process.next_line().await.unwrap(), "end");
        assert_says(&process.to_string(), &["the last 60 of 20002 lines"]);
    }

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_is_killed_and_reaped_on_drop_with_its_children() {
        let mut process = shell("trap '' TERM INT HUP; sleep 1000 & echo $!; wait");
        let child: i32 = process.next_line().await.unwrap().parse().unwrap();
        let pid = process.pid();
        process.signal(Signal::Term).unwrap();
        assert!(process.is_running().unwrap());
        drop(process);
        assert_eq!(kill(Pid::from_raw(pid), None), Err(Errno::ESRCH), "not even a zombie is left");
        wait_gone(child).await;
    }

    #[tokio::test]
    async fn what_a_process_left_behind_is_killed_on_drop() {
        let mut process = shell("sleep 1000 >/dev/null 2>&1 & echo $!");
        let child: i32 = process.next_line().await.unwrap().parse().unwrap();
        assert_eq!(process.exit().await.unwrap(), Exit::Code(0));
        assert!(!is_gone(child), "a successor may outlive the process that started it");
        drop(process);
        wait_gone(child).await;
    }

    #[tokio::test]
    async fn sigkill_ends_what_sigterm_does_not() {
        let mut process = shell("trap '' TERM; echo ready; while :; do sleep 1000; done");
        process.line("ready").await.unwrap();
        assert_eq!(process.kill().await.unwrap(), Exit::Signal(9));
        assert_eq!(process.kill().await.unwrap(), Exit::Signal(9), "once is enough");
    }

    /// The test itself may be killed.
    #[tokio::test]
    async fn a_killed_test_leaves_no_process_behind() {
        let mut test = Process::start(scenario("parent")).unwrap();
        let service: i32 = test.next_line().await.unwrap().parse().unwrap();
        assert!(!is_gone(service));
        test.kill().await.unwrap();
        wait_gone(service).await;
    }

    #[tokio::test]
    async fn a_frozen_process_stands_still_and_goes_on_when_thawed() {
        let mut process = Process::start(scenario("clean")).unwrap();
        process.line("ready").await.unwrap();
        for reload in 1..=2 {
            process.freeze().await.unwrap();
            #[cfg(target_os = "linux")]
            {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
                assert!(stat.contains(") T "), "{stat}");
            }
            process.signal(Signal::Hup).unwrap();
            assert!(tokio::time::timeout(ms(200), process.next_line()).await.is_err(), "it does not stand still");
            process.thaw().unwrap();
            assert_eq!(process.next_line().await.unwrap(), format!("reload {reload}"));
        }
        process.freeze().await.unwrap();
        let pid = process.pid();
        drop(process);
        assert_eq!(kill(Pid::from_raw(pid), None), Err(Errno::ESRCH), "a frozen one is reaped as well");
    }

    /// An order, with a process to hold.
    async fn order(points: &Points) -> Process {
        let mut command = scenario("order");
        command.envs([points.env()]);
        let mut process = Process::start(command).unwrap();
        process.line("ready").await.unwrap();
        process
    }

    /// The whole of it: SIGTERM exactly between two steps of an order, which is finished all the same.
    #[tokio::test]
    async fn sigterm_at_a_point_is_sigterm_exactly_there() {
        let points = Points::new().unwrap();
        points.arm("sent");
        let mut process = order(&points).await;
        let held = points.reached("sent").await.unwrap();
        assert_eq!((held.point(), held.pid()), ("sent", process.pid()));
        assert_eq!([points.hits("read"), points.hits("stored"), points.hits("sent")], [1, 1, 1]);
        process.signal(Signal::Term).unwrap();
        process.line("draining").await.unwrap();
        assert!(!process.stdout().contains("sent"), "{process}");
        held.release();
        process.line("sent").await.unwrap();
        process.line("persisted").await.unwrap();
        assert_eq!(process.exit().await.unwrap(), Exit::Code(0));
    }

    #[tokio::test]
    async fn a_thread_that_blocks_is_held_too_and_dropping_what_is_held_lets_it_go() {
        let points = Points::new().unwrap();
        points.arm("stored");
        let mut process = order(&points).await;
        let held = points.reached("stored").await.unwrap();
        process.signal(Signal::Term).unwrap();
        process.line("draining").await.unwrap();
        assert!(!process.stdout().contains("stored"), "{process}");
        drop(held);
        process.line("stored").await.unwrap();
        assert_eq!(process.exit().await.unwrap(), Exit::Code(0));
    }

    #[tokio::test]
    async fn a_process_that_is_told_to_die_does_nothing_more() {
        for point in ["read", "stored", "sent"] {
            let points = Points::new().unwrap();
            points.arm(point);
            let mut process = order(&points).await;
            points.reached(point).await.unwrap().die();
            let sigabrt = 6;
            assert_eq!(process.exit().await.unwrap(), Exit::Signal(sigabrt));
            assert!(process.stdout().lines().all(|line| line != point), "{process}");
        }
    }

    #[tokio::test]
    async fn a_process_can_be_killed_while_it_is_held() {
        let points = Points::new().unwrap();
        points.arm("sent");
        let mut process = order(&points).await;
        let held = points.reached("sent").await.unwrap();
        assert_eq!(process.kill().await.unwrap(), Exit::Signal(9));
        held.release();
        // The dead one is not mistaken for the next, whoever of them waited longer.
        let mut next = order(&points).await;
        let held = points.reached("sent").await.unwrap();
        assert_eq!(held.pid(), next.pid());
        held.release();
        next.line("sent").await.unwrap();
    }

    #[tokio::test]
    async fn disarming_lets_those_go_who_wait() {
        let points = Points::new().unwrap();
        points.arm("read");
        let mut process = order(&points).await;
        while points.hits("read") == 0 {
            tokio::task::yield_now().await;
        }
        points.disarm("read");
        process.line("sent").await.unwrap();
        assert_eq!(points.hits("read"), 1);
    }

    #[tokio::test]
    async fn a_test_that_is_gone_holds_nobody() {
        let points = Points::new().unwrap();
        points.arm("read");
        let mut process = order(&points).await;
        let held = points.reached("read").await.unwrap();
        drop(points);
        process.line("sent").await.unwrap();
        held.release();
    }

    #[tokio::test]
    async fn without_a_listener_points_are_passed() {
        let points = Points::new().unwrap();
        let mut command = scenario("order");
        command.envs([points.env()]);
        drop(points);
        let mut process = Process::start(command).unwrap();
        process.line("sent").await.unwrap();
        let mut process = Process::start(scenario("order")).unwrap();
        process.line("sent").await.unwrap();
    }

    #[tokio::test]
    async fn a_point_that_nobody_reaches_fails_the_test() {
        let points = Points::new().unwrap();
        points.arm("never");
        let mut process = order(&points).await;
        process.line("sent").await.unwrap();
        assert_says(
            &complaint(|| points.assert_all_reached()),
            &["never reached though armed: never", "sent: 1 times"],
        );
        assert_says(&complaint(|| drop(points)), &["never reached though armed: never"]);
    }

    #[tokio::test]
    async fn waiting_for_a_point_that_nobody_reaches_fails_with_what_was_reached() {
        let points = Points::new().unwrap().patience(ms(300));
        points.arm("never");
        let failure = points.reached("never").await.unwrap_err();
        assert_says(&failure.to_string(), &["reaches the point \"never\"", "SHUTDOWN_TESTKIT", "the feature `points`"]);
        let mut process = order(&points).await;
        process.line("sent").await.unwrap();
        let failure = points.reached("never").await.unwrap_err();
        assert_says(&format!("{failure:?}"), &["not within 300ms", "read: 1 times", "never: 0 times"]);
        let failure = points.reached("typo").await.unwrap_err();
        assert_says(&failure.to_string(), &["\"typo\"", "it is not armed"]);
    }

    #[tokio::test]
    async fn the_socket_and_its_directory_go_with_the_points() {
        let points = Points::new().unwrap();
        let socket = points.env().1.to_owned();
        assert!(socket.exists());
        drop(points);
        assert!(!socket.parent().unwrap().exists());
    }
}
