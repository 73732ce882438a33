//! `main replay`: the demo robots on recorded prices, in a throw-away data directory.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{ExitCode, Failure, Global, ReplayArgs};
use crate::config::Loaded;

pub(super) fn run(global: &Global, args: &ReplayArgs) -> Result<ExitCode, Failure> {
    let scratch = Scratch::new()?;
    let loaded = configure(global, args, &scratch.0)?;
    let _metrics = global.telemetry(&loaded)?;
    // boot::replay(loaded.config) belongs here: it returns what was traded, and then the audit runs.
    Err(Failure::new(ExitCode::Unexpected, "the server is not part of this build"))
}

/// The configuration with the file as the only source of prices, as fast as possible, and everything below `scratch`.
fn configure(global: &Global, args: &ReplayArgs, scratch: &Path) -> Result<Loaded, Failure> {
    let name = args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let kind = match name.to_lowercase() {
        lower if lower.contains("bookticker") => "market.replay.book",
        lower if lower.contains("trades") => "market.replay.trades",
        _ => {
            let message = format!("{}: neither `trades` nor `bookTicker` is part of its name", args.file.display());
            return Err(Failure::new(ExitCode::Usage, message)
                .help("keep the name of the public file, such as BTCUSDT-trades-2025-11-01.csv"));
        }
    };
    let symbol = args.symbol.clone().unwrap_or_else(|| name.split('-').next().unwrap_or_default().to_owned());
    let in_scratch = |file: &str| scratch.join(file).to_string_lossy().into_owned();
    global.load(&[
        ("data_dir", scratch.to_string_lossy().into_owned(), "FILE"),
        ("store.path", in_scratch("hotgo.db"), "FILE"),
        ("venue.paper.ledger", in_scratch("venue.ledger"), "FILE"),
        ("market.source", "replay".to_owned(), "FILE"),
        ("market.replay.symbol", symbol, "FILE"),
        (kind, args.file.to_string_lossy().into_owned(), "FILE"),
        ("market.replay.speed", "0".to_owned(), "FILE"),
    ])
}

/// A directory of this process, removed with everything in it.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("hotgo-replay-{}", std::process::id()));
        // Not recursive: a directory that somebody else made before is refused.
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::new(ExitCode::DataDir, format!("{}: cannot be made: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the scratch directory is left behind");
        }
    }
}
