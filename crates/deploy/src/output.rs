//! What people see: steps on standard error as they happen, results on standard output. Colours and redrawing only on a
//! terminal; plain lines otherwise.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Instant;

use serde::Serialize;

use crate::time;

/// How a word looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A heading.
    Bold,
    /// Of less importance.
    Dim,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Not as it should be.
    Bad,
}

/// Where it goes.
#[derive(Debug)]
pub struct Output {
    /// Whether results are JSON.
    pub json: bool,
    color: bool,
    redraws: bool,
    offset_minutes: i64,
    /// systemd's, when a unit runs us: `systemctl status hotgo` shows the step.
    notify: Option<std::ffi::OsString>,
}

impl Output {
    /// Standard output and error as they are.
    pub fn new(json: bool, offset_minutes: i64) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some();
        Self {
            json,
            color: io::stdout().is_terminal() && io::stderr().is_terminal() && !plain && !json,
            redraws: io::stderr().is_terminal() && !json,
            offset_minutes,
            notify: std::env::var_os("NOTIFY_SOCKET"),
        }
    }

    /// The text in a style, or bare where colours are off.
    pub fn paint(&self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31",
        };
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Prints the result: text for people, or the value as JSON.
    pub fn result(&self, text: &str, value: &impl Serialize) {
        let line = if self.json { serde_json::to_string(value).unwrap_or_default() } else { text.to_owned() };
        // Nobody has to read it: an upgrade goes on when the terminal is gone.
        let _unread = writeln!(io::stdout().lock(), "{}", line.trim_end());
    }

    /// Says something on the way.
    pub fn note(&self, text: &str) {
        self.line(&self.paint(Style::Dim, "     "), text);
    }

    /// Says something that deserves a look.
    pub fn warn(&self, text: &str) {
        self.line(&self.paint(Style::Warn, "WARN "), text);
    }

    /// Says why it failed.
    pub fn error(&self, text: &str, help: Option<&str>) {
        self.line(&self.paint(Style::Bad, "ERROR"), text);
        if let Some(help) = help {
            self.line(&self.paint(Style::Dim, "help "), help);
        }
    }

    /// Begins a step.
    pub fn step(&self, name: &'static str, detail: &str) -> StepLine<'_> {
        self.status(&format!("{name}: {detail}"));
        let step = StepLine { output: self, name, start: Instant::now() };
        if self.redraws {
            step.update(detail);
        } else {
            self.line("...  ", &format!("{name:<12} {detail}"));
        }
        step
    }

    /// Tells systemd how it stands.
    pub fn status(&self, text: &str) {
        let Some(address) = &self.notify else { return };
        let address = match address.as_encoded_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(address),
        };
        let message = format!("STATUS={}", text.lines().next().unwrap_or_default());
        // For people's eyes only.
        let _unseen = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address));
    }

    fn line(&self, mark: &str, text: &str) {
        let mut err = io::stderr().lock();
        let clear = if self.redraws { "\r\u{1b}[K" } else { "" };
        let clock = self.paint(Style::Dim, &time::clock(time::now_ms(), self.offset_minutes));
        for (index, line) in text.lines().enumerate() {
            let mark = if index == 0 { mark } else { "     " };
            let _unread = writeln!(err, "{clear}{clock} {mark} {line}");
        }
    }
}

/// A step that runs.
#[derive(Debug)]
pub struct StepLine<'a> {
    output: &'a Output,
    name: &'static str,
    start: Instant,
}

impl StepLine<'_> {
    /// Says how far it is, where a line can be drawn again.
    pub fn update(&self, detail: &str) {
        if self.output.redraws {
            let mark = self.output.paint(Style::Warn, "...  ");
            let text = format!("{:<12} {detail}, {} s", self.name, self.start.elapsed().as_secs());
            let text: String = text.chars().take(100).collect();
            let _unread = write!(io::stderr().lock(), "\r\u{1b}[K         {mark} {text}");
        }
    }

    /// Ends it well. Returns how long it took, in milliseconds.
    pub fn done(self, detail: &str) -> u64 {
        self.end(Style::Good, "ok   ", detail)
    }

    /// Ends it badly.
    pub fn failed(self, detail: &str) -> u64 {
        self.end(Style::Bad, "FAIL ", detail)
    }

    fn end(self, style: Style, mark: &str, detail: &str) -> u64 {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let text = format!("{:<12} {detail} ({}.{} s)", self.name, ms / 1_000, ms % 1_000 / 100);
        self.output.line(&self.output.paint(style, mark), &text);
        ms
    }
}
