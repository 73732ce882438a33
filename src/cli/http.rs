//! `main http`.

use std::sync::Arc;

use shutdown_coordinator::Report;

use super::{ExitCode, Failure, Global, HttpArgs};
use crate::boot::{self, HttpOptions, Reload};
use crate::build_info::BUILD_ID;
use crate::config::load;

pub(super) fn run(global: &Global, args: &HttpArgs) -> Result<ExitCode, Failure> {
    let flags: Vec<_> = args.bind.iter().map(|bind| ("server.bind", bind.to_string(), "--bind")).collect();
    let loaded = global.load(&flags)?;
    let (metrics, set_filter) = global.telemetry(&loaded)?;
    let sources = global.sources(&flags);
    let read = move || load(&sources).map(|loaded| loaded.config);
    let reload = Some(Reload { read: Arc::new(read), set_filter });
    let options = HttpOptions { demo: args.demo, replay: false, build_id: BUILD_ID.to_owned(), reload };
    let report = boot::http(loaded.config, options, metrics)?;
    Ok(code_of(&report))
}

/// How the process ends after this shutdown.
pub(super) fn code_of(report: &Report) -> ExitCode {
    match &report.forced_by {
        Some(forced_by) => {
            let signal = forced_by.signal().or(report.reason.signal()).and_then(|number| u8::try_from(number).ok());
            signal.map_or(ExitCode::Unclean, ExitCode::Forced)
        }
        None if report.is_clean() => ExitCode::Ok,
        None => ExitCode::Unclean,
    }
}
