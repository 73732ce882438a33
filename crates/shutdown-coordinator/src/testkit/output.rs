//! What a process says.

use std::collections::VecDeque;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    sync::watch,
    task::JoinSet,
};

/// How many lines are kept; of a process that says more, the oldest are forgotten.
const KEPT_LINES: usize = 100_000;
/// How many lines a failure shows.
const SHOWN_LINES: usize = 60;

/// One output of a process, growing.
#[derive(Debug)]
pub(super) struct Output {
    said: watch::Receiver<Said>,
    /// The number of the next line to be looked at.
    next: usize,
}

#[derive(Debug, Default)]
struct Said {
    lines: VecDeque<String>,
    forgotten: usize,
}

impl Output {
    /// Reads on its own until the end, so that the process never waits for the test.
    pub(super) fn follow(readers: &mut JoinSet<()>, source: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (sender, said) = watch::channel(Said::default());
        readers.spawn(async move {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).await.is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
                line.clear();
                sender.send_modify(|said| said.push(text));
            }
        });
        Self { said, next: 0 }
    }

    /// The first thing that `pick` makes of a line that was not looked at before; `None` if the output ends without one.
    /// Cancel safe: a line that was passed over stays so.
    pub(super) async fn find<T>(&mut self, mut pick: impl FnMut(&str) -> Option<T>) -> Option<T> {
        loop {
            {
                let said = self.said.borrow_and_update();
                for line in said.lines.iter().skip(self.next.saturating_sub(said.forgotten)) {
                    self.next = self.next.max(said.forgotten) + 1;
                    if let Some(found) = pick(line) {
                        return Some(found);
                    }
                }
            }
            // An error is the end, with everything seen.
            self.said.changed().await.ok()?;
        }
    }

    /// Everything that is kept.
    pub(super) fn text(&self) -> String {
        let said = self.said.borrow();
        said.lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// The last lines, under a heading.
    pub(super) fn tail(&self, name: &str) -> String {
        let said = self.said.borrow();
        let all = said.lines.len() + said.forgotten;
        let shown = said.lines.len().min(SHOWN_LINES);
        let mut text = match all {
            0 => format!("--- {name}: nothing\n"),
            all if all == shown => format!("--- {name}:\n"),
            all => format!("--- {name}, the last {shown} of {all} lines:\n"),
        };
        for line in said.lines.iter().skip(said.lines.len() - shown) {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

impl Said {
    fn push(&mut self, line: String) {
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
            self.forgotten += 1;
        }
        self.lines.push_back(line);
    }
}
