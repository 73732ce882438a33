//! Parses and dispatches.

use std::process::ExitCode;

use clap::Parser as _;
use hotgo_deploy::cli::Cli;

fn main() -> ExitCode {
    hotgo_deploy::commands::run(&Cli::parse()).into()
}
