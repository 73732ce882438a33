//! This program again, as a process with a real `main`.

use std::{env, num::NonZeroUsize, process::Stdio, thread};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{self, ChildStdout, Command},
    runtime::{Builder, Runtime},
    time::timeout,
};

use crate::card::{PATIENCE, Peer, soon};

pub(crate) struct Child {
    child: process::Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What a child had said, on both its outputs, when it ended or was ended.
pub(crate) struct End {
    /// `None` when it had to be killed.
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
}

impl Child {
    pub(crate) fn start(scenario: &str, peer: Peer) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--child", scenario, peer.name()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Whether the next line is this one.
    pub(crate) async fn says(&mut self, line: &str) -> bool {
        soon(self.lines.next_line()).await.unwrap().as_deref() == Some(line)
    }

    /// Waits with patience for its end, then ends it.
    pub(crate) async fn end(mut self) -> End {
        let status = timeout(PATIENCE, self.child.wait()).await;
        if status.is_err() {
            self.child.kill().await.unwrap();
        }
        let mut said = String::new();
        soon(self.child.stderr.take().unwrap().read_to_string(&mut said)).await.unwrap();
        while let Some(line) = soon(self.lines.next_line()).await.unwrap() {
            said.push_str(&line);
            said.push('\n');
        }
        End { code: status.ok().map(|status| status.unwrap().code().expect("not killed by a signal")), said }
    }
}

/// As many workers as `#[tokio::main]` and `run_main` have, and at least two.
pub(crate) fn workers() -> usize {
    thread::available_parallelism().map_or(2, NonZeroUsize::get).max(2)
}

/// The runtime of `#[tokio::main]`. Dropping it waits for workers and blocking jobs, as the end of such a main does.
pub(crate) fn tokio_main() -> Runtime {
    Builder::new_multi_thread().worker_threads(workers()).enable_all().build().unwrap()
}

pub(crate) fn block_for_ever() {
    loop {
        thread::park();
    }
}
