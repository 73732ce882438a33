//! The test kit's processes and named points keep their promises, that of failing helpfully among them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::as_conversions, reason = "tests")]

mod common;

use std::{env, path::PathBuf, process::Command};

use common::{assert_says, complaint, ms, secs};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use shutdown_coordinator::testkit::{Exit, Failure, Points, Process, Signal};
use tokio::time::{Instant, interval};

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
    // The end of a process that is not ours is no event.
    let (deadline, mut looks) = (Instant::now() + secs(20), interval(ms(5)));
    while !is_gone(pid) {
        assert!(Instant::now() < deadline, "process {pid} lives");
        looks.tick().await;
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
}

#[tokio::test]
async fn one_that_died_while_it_waited_is_not_handed_out() {
    let points = Points::new().unwrap();
    points.arm("sent");
    let mut dead = order(&points).await;
    while points.hits("sent") == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(dead.kill().await.unwrap(), Exit::Signal(9));
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
    assert_says(&complaint(|| points.assert_all_reached()), &["never reached though armed: never", "sent: 1 times"]);
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

#[test]
fn signals_have_the_numbers_of_this_platform() {
    for signal in [Signal::Hup, Signal::Int, Signal::Quit, Signal::Kill, Signal::Term, Signal::Stop, Signal::Cont] {
        let real = nix::sys::signal::Signal::from(signal);
        assert_eq!((signal.number(), signal.to_string().as_str()), (real as i32, real.as_str()));
    }
}
