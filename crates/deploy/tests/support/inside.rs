//! A systemd in namespaces, booted by `scripts/systemd-box`, with one site in it.
#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::fs::File;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};

pub(crate) const BOX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/systemd-box");

/// How a script has ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) text: String,
}

impl Run {
    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.text, site_log());
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.text.contains(text), "no {text:?} in\n{}", self.text);
        self
    }
}

/// Runs a script inside, as root, and does not wait for its end.
pub(crate) fn begin(script: &str) -> Child {
    let mut child = Command::new(BOX)
        .args(["exec", "bash", "-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    child
}

/// Waits for its end.
pub(crate) fn end(child: Child) -> Run {
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Run { code: output.status.code().unwrap_or(-1), text }
}

/// Runs a script inside, as root.
pub(crate) fn inside(script: &str) -> Run {
    end(begin(script))
}

/// What the site has said lately.
pub(crate) fn site_log() -> String {
    inside("journalctl -o short-monotonic --no-pager -n 80 -u 'hotgo*'").text
}

/// The only site in the box is one test's at a time.
pub(crate) fn turn() -> File {
    let turn = File::create(std::env::temp_dir().join("hotgo-systemd-slots.lock")).unwrap();
    turn.lock().unwrap();
    turn
}
