//! `main replay`: the demo robots on recorded prices, in a throw-away data directory.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ExitCode, Failure, Global, ReplayArgs, audit, http};
use crate::boot::{self, HttpOptions};
use crate::build_info::BUILD_ID;
use crate::config::Loaded;

pub(super) fn run(global: &Global, args: &ReplayArgs) -> Result<ExitCode, Failure> {
    let scratch = Scratch::new()?;
    let loaded = configure(global, args, &scratch.0)?;
    let (metrics, _) = global.telemetry(&loaded)?;
    let (database, ledger) = (loaded.config.database()?, loaded.config.venue_ledger());
    let options = HttpOptions { demo: true, replay: true, build_id: BUILD_ID.to_owned(), reload: None };
    let report = boot::http(loaded.config, options, metrics)?;
    let code = http::code_of(&report);
    if code != ExitCode::Ok {
        return Ok(code);
    }
    super::block_on(audit::check(global, &database, &ledger, Duration::ZERO, None))
}

/// The configuration with the files as the only source of prices, and everything below `scratch`.
fn configure(global: &Global, args: &ReplayArgs, scratch: &Path) -> Result<Loaded, Failure> {
    let in_scratch = |file: &str| scratch.join(file).to_string_lossy().into_owned();
    let mut flags = vec![
        ("data_dir", scratch.to_string_lossy().into_owned(), "FILE"),
        ("store.path", in_scratch("hotgo.db"), "FILE"),
        ("store.url", String::new(), "FILE"),
        ("venue.paper.ledger", in_scratch("venue.ledger"), "FILE"),
        ("server.bind", "127.0.0.1:0".to_owned(), "FILE"),
        ("market.source", "replay".to_owned(), "FILE"),
        ("market.replay.speed", args.speed.to_string(), "--speed"),
    ];
    for file in &args.files {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        flags.push((kind(file, &name)?, file.to_string_lossy().into_owned(), "FILE"));
        if flags.iter().all(|(key, ..)| *key != "market.replay.symbol") {
            let symbol = args.symbol.clone().unwrap_or_else(|| name.split('-').next().unwrap_or_default().to_owned());
            flags.push(("market.replay.symbol", symbol, "FILE"));
        }
    }
    if flags.iter().all(|(key, ..)| *key != BOOK) {
        return Err(Failure::new(ExitCode::Usage, "robots trade on quotes, and no `bookTicker` file is named")
            .help("name the bookTicker file of the same day too"));
    }
    global.load(&flags)
}

const BOOK: &str = "market.replay.book";

/// Which of the two kinds of file this is, by the name that its publisher gave it.
fn kind(file: &Path, name: &str) -> Result<&'static str, Failure> {
    match name.to_lowercase() {
        lower if lower.contains("bookticker") => Ok(BOOK),
        lower if lower.contains("trades") => Ok("market.replay.trades"),
        _ => {
            let message = format!("{}: neither `trades` nor `bookTicker` is part of its name", file.display());
            Err(Failure::new(ExitCode::Usage, message)
                .help("keep the name of the public file, such as BTCUSDT-bookTicker-2025-11-01.csv"))
        }
    }
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
