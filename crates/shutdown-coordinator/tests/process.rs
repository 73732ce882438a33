//! Real processes: signals, exit codes, blocked runtimes. The services are in `examples/scenarios.rs`.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    env,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(15);

struct Service {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Service {
    async fn start(scenario: &str) -> Self {
        // Cargo builds examples with the tests, next to their directory.
        let tests = env::current_exe().unwrap();
        let program = tests.parent().unwrap().parent().unwrap().join("examples/scenarios");
        let mut child = Command::new(&program)
            .arg(scenario)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the example `scenarios` is built with the tests");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut service = Self { child, lines };
        service.expect("ready").await;
        service
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap().expect("another line")
    }

    async fn expect(&mut self, line: &str) {
        assert_eq!(self.line().await, line);
    }

    async fn report(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    async fn exit_code(&mut self) -> i32 {
        timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap().code().expect("not killed by a signal")
    }
}

/// Properties 8 and 11: SIGHUP is a reload, SIGTERM a clean end.
#[tokio::test]
async fn sighup_reloads_and_sigterm_ends_with_code_0() {
    let mut service = Service::start("clean").await;
    service.signal(Signal::SIGHUP);
    service.expect("reload 1").await;
    service.signal(Signal::SIGHUP);
    service.expect("reload 2").await;
    service.signal(Signal::SIGTERM);
    service.expect("persisted").await;
    assert_eq!(service.report().await["reason"]["detail"], 15);
    assert_eq!(service.exit_code().await, 0);
}

/// Property 8.
#[tokio::test]
async fn a_second_signal_forces_but_persists_and_exits_with_128_and_its_number() {
    let mut service = Service::start("held").await;
    service.signal(Signal::SIGTERM);
    service.expect("draining").await;
    service.signal(Signal::SIGINT);
    service.expect("persisted").await;
    let report = service.report().await;
    assert_eq!(report["phases"][0]["survivors"][0]["name"], "order 1");
    assert_eq!(service.exit_code().await, 128 + 2);
}

/// Property 11.
#[tokio::test]
async fn sigquit_forces_at_once() {
    let mut service = Service::start("held").await;
    service.signal(Signal::SIGQUIT);
    service.expect("draining").await;
    service.expect("persisted").await;
    service.report().await;
    assert_eq!(service.exit_code().await, 128 + 3);
}

/// Property 10.
#[tokio::test]
async fn a_second_signal_within_the_debounce_window_does_not_force() {
    let mut service = Service::start("debounced").await;
    service.signal(Signal::SIGTERM);
    service.expect("draining").await;
    service.signal(Signal::SIGTERM);
    let more = timeout(Duration::from_millis(500), service.lines.next_line()).await;
    assert!(more.is_err(), "the drain should go on, but there was {more:?}");
    service.signal(Signal::SIGQUIT);
    service.expect("persisted").await;
}

/// Property 9.
#[tokio::test]
async fn a_second_signal_forces_while_a_hook_blocks_a_worker() {
    let mut service = Service::start("blocked").await;
    service.signal(Signal::SIGTERM);
    service.expect("draining").await;
    service.signal(Signal::SIGTERM);
    service.expect("persisted").await;
    let report = service.report().await;
    assert_eq!(report["phases"][0]["entries"][0]["state"], "leaked");
    assert_eq!(service.exit_code().await, 128 + 15);
}

/// Property 44.
#[tokio::test]
async fn when_every_thread_is_blocked_the_watchdog_names_the_blockers_and_exits() {
    let mut service = Service::start("starved").await;
    let start = Instant::now();
    service.signal(Signal::SIGTERM);
    let mut stderr = service.child.stderr.take().unwrap();
    assert_eq!(service.exit_code().await, 70);
    let took = start.elapsed();
    assert!((1_100..2_500).contains(&took.as_millis()), "deadline and margin are 1.2 s, it took {took:?}");
    let mut text = String::new();
    stderr.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("waiting for drain: hook \"blocker "), "{text}");
}

/// Property 32.
#[tokio::test]
async fn leaked_threads_do_not_delay_the_exit() {
    let mut service = Service::start("leaky").await;
    service.signal(Signal::SIGTERM);
    let report = service.report().await;
    assert_eq!(report["phases"][0]["entries"][0]["state"], "leaked");
    let start = Instant::now();
    assert_eq!(service.exit_code().await, 75);
    assert!(start.elapsed() < Duration::from_secs(3));
}

/// Property 4, and signals before the run.
#[tokio::test]
async fn a_signal_during_start_up_is_kept_and_cancels_it() {
    let mut service = Service::start("start-up").await;
    service.signal(Signal::SIGINT);
    service.expect("start-up was cancelled by SIGINT").await;
    service.expect("persisted").await;
    service.report().await;
    assert_eq!(service.exit_code().await, 0);
}
