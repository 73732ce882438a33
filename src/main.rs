//! The `main` binary: parses the command line, runs the command, and says in one place what went wrong.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use hotgo::cli::{self, Cli, Failure};
use hotgo::telemetry;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::DisplayVersion && std::env::args_os().any(|word| word == "--json") => {
            return written(&writeln!(std::io::stdout(), "{}", cli::version_json()));
        }
        Err(error) => error.exit(),
    };
    match cli::run(&cli) {
        Ok(code) => code.into(),
        Err(failure) => {
            report(&cli, &failure);
            failure.code.into()
        }
    }
}

fn written(result: &std::io::Result<()>) -> ExitCode {
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
        _ if telemetry::stderr_is_the_journal() => writeln!(stderr, "<3>{}", text.replace('\n', "\n<3>")),
        _ => writeln!(stderr, "{text}"),
    };
}
