//! The examples, run as a user runs them: what they say, and the code they exit with.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{env, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(30);

struct Example {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    seen: String,
}

impl Example {
    fn start(name: &str, arguments: &[&str]) -> Self {
        // Cargo builds examples with the tests, next to their directory.
        let tests = env::current_exe().unwrap();
        let program = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
        let mut child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the example is built with the tests");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, seen: String::new() }
    }

    /// Reads until a line with this text. Gives the line.
    async fn line(&mut self, text: &str) -> String {
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time").unwrap();
            let Some(line) = line else { panic!("no line with {text:?} in\n{}", self.seen) };
            self.seen.push_str(&line);
            self.seen.push('\n');
            if line.contains(text) {
                return line;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Everything that was said, and the exit code.
    async fn end(mut self) -> (String, i32) {
        while let Some(line) = timeout(PATIENCE, self.lines.next_line()).await.expect("an end in time").unwrap() {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        let status = timeout(PATIENCE, self.child.wait()).await.expect("an exit in time").unwrap();
        (self.seen, status.code().expect("not killed by a signal"))
    }
}

#[tokio::test]
async fn minimal_saves_and_exits_with_0() {
    let mut example = Example::start("minimal", &[]);
    example.line("one more job").await;
    example.signal(Signal::SIGTERM);
    example.line("saving, with ").await;
    assert_eq!(example.end().await.1, 0);
}

#[tokio::test]
async fn minimal_saves_even_when_it_is_forced() {
    let mut example = Example::start("minimal", &[]);
    example.line("one more job").await;
    example.signal(Signal::SIGINT);
    example.signal(Signal::SIGTERM);
    example.line("saving, with ").await;
    let (output, code) = example.end().await;
    assert!(code == 128 + 15 || code == 128 + 2, "the kernel may deliver them in any order\n{output}");
}

#[tokio::test]
async fn workers_stop_one_pool_early_and_end_with_the_failure_of_the_other() {
    let (output, code) = Example::start("workers", &[]).end().await;
    assert!(output.contains("aborted: imports/deaf"), "{output}");
    assert!(output.contains("order: told to stop, nothing is half done"), "{output}");
    assert_eq!(code, 75, "{output}");
}

#[tokio::test]
async fn custom_phases_names_each_mistake_and_ends_well() {
    let (output, code) = Example::start("custom_phases", &[]).end().await;
    for line in [
        "an unknown phase: phase \"persist\" comes after \"drian\", which does not exist",
        "a cycle: phases wait for each other: flush -> persist -> drain -> flush",
        "reserves above the deadline: the reserves of persist -> close add up to 6s, above the deadline of 5s",
        "a watchdog that would bark too soon: ",
        "a setting that does not exist: unknown field `time_out_ms`",
        "saved in phase persist",
    ] {
        assert!(output.contains(line), "no {line:?} in\n{output}");
    }
    assert!(!output.contains("nobody noticed"), "{output}");
    assert_eq!(code, 0, "{output}");
}

#[tokio::test]
async fn a_rehearsal_that_goes_well_exits_with_0() {
    let (output, code) = Example::start("rehearsal", &[]).end().await;
    assert!(output.contains("waiting for drain: gate \"orders\", order 7"), "{output}");
    assert!(output.contains("a drill: saved to a scratch file"), "{output}");
    assert_eq!(code, 0, "{output}");
}

#[tokio::test]
async fn a_rehearsal_with_a_slow_hook_exits_with_75() {
    let (output, code) = Example::start("rehearsal", &["slow"]).end().await;
    assert!(output.contains("flush the cache"), "{output}");
    assert_eq!(code, 75, "{output}");
}

#[cfg(feature = "axum")]
mod kubernetes {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::{Example, Signal, timeout};
    use crate::PATIENCE;

    /// The status line of the answer.
    async fn get(address: &str, path: &str) -> String {
        let mut answer = String::new();
        let ask = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.read_to_string(&mut answer).await.unwrap();
        };
        timeout(PATIENCE, ask).await.expect("an answer in time");
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn readiness_is_off_from_the_signal_on_while_requests_are_served() {
        let mut example = Example::start("kubernetes", &["127.0.0.1:0"]);
        let line = example.line("listening on ").await;
        let address = line.rsplit(' ').next().unwrap();
        assert_eq!(get(address, "/ready").await, "HTTP/1.1 200 OK");
        example.signal(Signal::SIGTERM);
        let not_ready = async { while get(address, "/ready").await != "HTTP/1.1 503 Service Unavailable" {} };
        timeout(PATIENCE, not_ready).await.expect("readiness goes off");
        assert_eq!(get(address, "/").await, "HTTP/1.1 200 OK");
        assert_eq!(get(address, "/live").await, "HTTP/1.1 200 OK");
        let (output, code) = example.end().await;
        assert_eq!(code, 0, "{output}");
    }

    #[tokio::test]
    async fn the_deployment_holds_the_settings_that_the_example_works_out() {
        let (output, code) = Example::start("kubernetes", &["pod-spec"]).end().await;
        assert!(include_str!("../examples/kubernetes.yaml").contains(&output), "not in kubernetes.yaml:\n{output}");
        assert_eq!(code, 0);
    }
}

#[test]
fn the_readme_shows_the_minimal_example() {
    let example = include_str!("../examples/minimal.rs");
    let (_, program) = example.split_once("\n\n").unwrap();
    assert!(include_str!("../README.md").contains(program), "README.md and examples/minimal.rs differ");
}
