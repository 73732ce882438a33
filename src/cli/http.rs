//! `main http`.

use super::{ExitCode, Failure, Global, HttpArgs};

pub(super) fn run(global: &Global, args: &HttpArgs) -> Result<ExitCode, Failure> {
    let flags: Vec<_> = args.bind.iter().map(|bind| ("server.bind", bind.to_string(), "--bind")).collect();
    let loaded = global.load(&flags)?;
    let _metrics = global.telemetry(&loaded)?;
    // boot::http(loaded.config, args.demo, metrics) belongs here.
    Err(Failure::new(ExitCode::Unexpected, "the server is not part of this build"))
}
