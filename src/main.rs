//! The `main` binary: parses the command line, runs the command, and says in one place what went wrong.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use hotgo::cli::{self, Cli, Failure};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli::run(&cli) {
        Ok(code) => code.into(),
        Err(failure) => {
            report(&cli, &failure);
            failure.code.into()
        }
    }
}

/// Nothing can be done when standard error is gone too.
fn report(cli: &Cli, failure: &Failure) {
    let mut stderr = std::io::stderr();
    let text = failure.to_string();
    let _result = match text.strip_prefix("error:") {
        _ if cli.global.json => writeln!(stderr, "{}", failure.to_json()),
        Some(rest) if cli.global.color.on(stderr.is_terminal()) => {
            writeln!(stderr, "\u{1b}[1;31merror:\u{1b}[0m{rest}")
        }
        _ => writeln!(stderr, "{text}"),
    };
}
