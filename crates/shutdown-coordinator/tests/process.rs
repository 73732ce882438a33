//! Real processes: signals, exit codes, blocked runtimes. The services are in `examples/scenarios.rs`.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use shutdown_coordinator::testkit::{Exit, Process, Signal};
use tokio::time::timeout;

/// The service, which speaks when it is ready.
async fn start(scenario: &str) -> Process {
    let mut command = Command::new(program());
    command.arg(scenario);
    ready(command).await
}

async fn ready(command: Command) -> Process {
    let mut service = Process::start(command).unwrap();
    expect(&mut service, "ready").await;
    service
}

/// Cargo builds examples with the tests, next to their directory.
fn program() -> PathBuf {
    let tests = env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("examples/scenarios")
}

/// The very next line is this.
async fn expect(service: &mut Process, line: &str) {
    assert_eq!(service.next_line().await.unwrap(), line);
}

async fn report(service: &mut Process) -> serde_json::Value {
    serde_json::from_str(&service.next_line().await.unwrap()).unwrap()
}

/// Properties 8 and 11: SIGHUP is a reload, SIGTERM a clean end.
#[tokio::test]
async fn sighup_reloads_and_sigterm_ends_with_code_0() {
    let mut service = start("clean").await;
    service.signal(Signal::Hup).unwrap();
    expect(&mut service, "reload 1").await;
    service.signal(Signal::Hup).unwrap();
    expect(&mut service, "reload 2").await;
    service.signal(Signal::Term).unwrap();
    expect(&mut service, "persisted").await;
    assert_eq!(report(&mut service).await["reason"]["detail"], 15);
    assert_eq!(service.exit().await.unwrap(), Exit::Code(0));
}

/// Property 8.
#[tokio::test]
async fn a_second_signal_forces_but_persists_and_exits_with_128_and_its_number() {
    let mut service = start("held").await;
    service.signal(Signal::Term).unwrap();
    expect(&mut service, "draining").await;
    service.signal(Signal::Int).unwrap();
    expect(&mut service, "persisted").await;
    let report = report(&mut service).await;
    // The hook that said so may be a survivor, too: it had hardly ended.
    let survivors = report["phases"][0]["survivors"].as_array().unwrap();
    assert!(survivors.iter().any(|survivor| survivor["name"] == "order 1"), "{report}");
    assert_eq!(service.exit().await.unwrap(), Exit::Code(128 + 2));
}

/// Property 11.
#[tokio::test]
async fn sigquit_forces_at_once() {
    let mut service = start("held").await;
    service.signal(Signal::Quit).unwrap();
    expect(&mut service, "draining").await;
    expect(&mut service, "persisted").await;
    report(&mut service).await;
    assert_eq!(service.exit().await.unwrap(), Exit::Code(128 + 3));
}

/// Property 10.
#[tokio::test]
async fn a_second_signal_within_the_debounce_window_does_not_force() {
    let mut service = start("debounced").await;
    service.signal(Signal::Term).unwrap();
    expect(&mut service, "draining").await;
    service.signal(Signal::Term).unwrap();
    let more = timeout(Duration::from_millis(500), service.next_line()).await;
    assert!(more.is_err(), "the drain should go on, but there was {more:?}");
    service.signal(Signal::Quit).unwrap();
    expect(&mut service, "persisted").await;
}

/// Property 9.
#[tokio::test]
async fn a_second_signal_forces_while_a_hook_blocks_a_worker() {
    let mut service = start("blocked").await;
    service.signal(Signal::Term).unwrap();
    expect(&mut service, "draining").await;
    service.signal(Signal::Term).unwrap();
    expect(&mut service, "persisted").await;
    let report = report(&mut service).await;
    assert_eq!(report["phases"][0]["entries"][0]["state"], "leaked");
    assert_eq!(service.exit().await.unwrap(), Exit::Code(128 + 15));
}

/// Property 44: it names the blockers, and is late by little. On a busy machine the best of several runs is what counts.
#[tokio::test]
async fn when_every_thread_is_blocked_the_watchdog_names_the_blockers_and_exits() {
    let planned = Duration::from_millis(1_300);
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let mut service = start("starved").await;
        let start = Instant::now();
        service.signal(Signal::Term).unwrap();
        assert_eq!(service.exit().await.unwrap(), Exit::Code(70));
        let took = start.elapsed();
        assert!(took >= planned, "deadline and margin are {planned:?}, it took {took:?}");
        assert!(service.stderr().contains("waiting for drain: hook \"blocker "), "{service}");
        best = best.min(took);
    }
    assert!(best < planned + Duration::from_millis(250), "deadline and margin are {planned:?}, it took {best:?}");
}

/// Property 43.
#[tokio::test]
async fn when_the_run_is_dropped_midway_the_watchdog_still_ends_the_process() {
    let mut service = Process::start(dropping()).unwrap();
    expect(&mut service, "dropped").await;
    assert_eq!(service.exit().await.unwrap(), Exit::Code(70));
    assert!(service.stderr().contains("shutdown watchdog"), "{service}");
    assert!(!service.stdout().contains("persisted"), "nothing is resumed: {service}");
}

fn dropping() -> Command {
    let mut command = Command::new(program());
    command.arg("dropped");
    command
}

/// Property 12: no file descriptor is left for the handlers' runtime, and that is an error.
#[tokio::test]
async fn signal_handlers_that_cannot_be_installed_are_an_error() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -n 4; exec \"$0\" no-handlers"]).arg(program());
    let mut service = Process::start(command).unwrap();
    let said = service.next_line().await.unwrap();
    assert!(said.starts_with("Signals(") && said.contains("Too many open files"), "{said}");
    assert_eq!(service.exit().await.unwrap(), Exit::Code(0));
}

/// Property 28: as documented, with `panic = "abort"` a panic in a hook ends the process at once. Shown by a panic hook that
/// does the same.
#[tokio::test]
async fn where_panics_abort_a_panic_in_a_hook_ends_the_process_at_once() {
    let mut service = start("abort-on-panic").await;
    service.signal(Signal::Term).unwrap();
    let sigabrt = 6;
    assert_eq!(service.exit().await.unwrap(), Exit::Signal(sigabrt));
    assert!(!service.stdout().contains("persisted"), "{service}");
}

/// Property 23: while it drains, an hour passes on the wall clock, or comes back. Needs libfaketime.
#[tokio::test]
async fn wall_clock_jumps_change_nothing() {
    let library = libfaketime().expect("libfaketime is installed (Debian: faketime), or this test is left out");
    for (jump, seconds) in [("+3600", 3600), ("-3600", -3600)] {
        let offset = env::temp_dir().join(format!("offset{jump}-{}", std::process::id()));
        fs::write(&offset, "+0").unwrap();
        let mut command = Command::new(program());
        command.arg("clocked").env("LD_PRELOAD", &library).env("FAKETIME_TIMESTAMP_FILE", &offset);
        command.envs([("FAKETIME_NO_CACHE", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]);
        let mut service = ready(command).await;
        service.signal(Signal::Term).unwrap();
        let before: i64 = service.next_line().await.unwrap().parse().unwrap();
        fs::write(&offset, jump).unwrap();
        let after: i64 = service.next_line().await.unwrap().parse().unwrap();
        let moved = after - before - seconds;
        assert!((0..1000).contains(&moved), "the clock was moved by {jump}, and it saw {before}, then {after}");
        let report = report(&mut service).await;
        assert_eq!(report["phases"][0]["status"], "timed_out");
        let took_ms = report["took_ms"].as_u64().unwrap();
        assert!((2_000..20_000).contains(&took_ms), "the drain is two seconds, and it took {took_ms} ms");
        assert_eq!(service.exit().await.unwrap(), Exit::Code(75));
        fs::remove_file(&offset).unwrap();
    }
}

fn libfaketime() -> Option<PathBuf> {
    let found = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok).map(|directory| directory.path());
    let beside = [Path::new("/usr/lib").to_owned(), Path::new("/usr/local/lib").to_owned()];
    found.chain(beside).map(|directory| directory.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists())
}

/// Property 32.
#[tokio::test]
async fn leaked_threads_do_not_delay_the_exit() {
    let mut service = start("leaky").await;
    service.signal(Signal::Term).unwrap();
    let report = report(&mut service).await;
    assert_eq!(report["phases"][0]["entries"][0]["state"], "leaked");
    let start = Instant::now();
    assert_eq!(service.exit().await.unwrap(), Exit::Code(75));
    assert!(start.elapsed() < Duration::from_secs(3));
}

/// Property 42: there is nobody to run a shutdown, and our handlers stay. A signal must not be swallowed by them.
#[tokio::test]
async fn a_signal_ends_a_process_whose_coordinator_was_dropped() {
    let mut service = start("abandoned").await;
    service.signal(Signal::Term).unwrap();
    assert_eq!(service.exit().await.unwrap(), Exit::Code(128 + 15));
    assert!(!service.stdout().contains("persisted"), "{service}");
}

/// Property 4, and signals before the run.
#[tokio::test]
async fn a_signal_during_start_up_is_kept_and_cancels_it() {
    let mut service = start("start-up").await;
    service.signal(Signal::Int).unwrap();
    expect(&mut service, "start-up was cancelled by SIGINT").await;
    expect(&mut service, "persisted").await;
    report(&mut service).await;
    assert_eq!(service.exit().await.unwrap(), Exit::Code(0));
}
