//! A `main` that ends when it should.

use std::{
    future::Future,
    process::{ExitCode, Termination},
    time::Duration,
};

use tokio::runtime::Builder;

/// Runs an async main on a multi-thread runtime and returns its exit code.
///
/// When `main` is over, the runtime is shut down within `timeout`: a blocking task or worker that never ends is left
/// behind instead of keeping the process alive. A [`Report`](crate::Report) may be the output of `main`.
///
/// The runtime has at least two workers: with one, a single blocking call stops everything. If it cannot be built, the
/// error goes to the log and the exit code is a failure.
pub fn run_main<F>(timeout: Duration, main: F) -> ExitCode
where
    F: Future<Output: Termination>,
{
    let workers = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let runtime = match Builder::new_multi_thread().worker_threads(workers).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime could not be built");
            return ExitCode::FAILURE;
        }
    };
    let output = runtime.block_on(main);
    runtime.shutdown_timeout(timeout);
    output.report()
}
