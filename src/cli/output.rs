//! Standard output: lines for people, coloured on a terminal, or JSON.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::telemetry::Color;

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

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Whether results are JSON.
    pub json: bool,
    color: bool,
    terminal: bool,
}

impl Output {
    /// Standard output as it is.
    pub fn new(json: bool, color: Color) -> Self {
        let terminal = io::stdout().is_terminal();
        Self { json, color: color.on(terminal) && !json, terminal }
    }

    /// Whether lines can be drawn again.
    pub fn redraws(self) -> bool {
        self.terminal && !self.json
    }

    /// The text in a style, or bare where colours are off.
    pub fn paint(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31",
        };
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Prints a line, or several.
    ///
    /// # Errors
    /// When standard output is gone. A reader that closed its end (`| head`) is no error: nothing more is printed.
    pub fn line(self, text: impl AsRef<str>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Prints a value as one line of JSON.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn json(self, value: &impl Serialize) -> io::Result<()> {
        self.line(serde_json::to_string(value)?)
    }

    /// Replaces the `height` lines above by `text`. Only where [`Output::redraws`].
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn redraw(self, height: usize, text: &str) -> io::Result<()> {
        let up = if height == 0 { String::new() } else { format!("\u{1b}[{height}A\r\u{1b}[J") };
        self.line(format!("{up}{text}"))
    }
}
