//! A `main` that ends when it should.

use std::{
    future::Future,
    io,
    process::{ExitCode, Termination},
    time::Duration,
};

use tokio::runtime::Builder;

/// Runs an async main and gives its exit code. A [`Report`](crate::Report) may be the output of `main`.
///
/// As [`block_on`], except that a runtime that cannot be built is an error in the log and the exit code of a failure.
pub fn run_main<F>(timeout: Duration, main: F) -> ExitCode
where
    F: Future<Output: Termination>,
{
    match block_on(timeout, main) {
        Ok(output) => output.report(),
        Err(error) => {
            tracing::error!(%error, "the runtime could not be built");
            ExitCode::FAILURE
        }
    }
}

/// Runs an async main on a multi-thread runtime of its own and gives its output.
///
/// When `main` is over, the runtime is shut down within `timeout`: a blocking task or worker that never ends is left
/// behind instead of keeping the process alive. The runtime has at least two workers: with one, a single blocking call
/// stops everything.
///
/// # Errors
/// The runtime cannot be built.
pub fn block_on<F: Future>(timeout: Duration, main: F) -> io::Result<F::Output> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let output = runtime.block_on(main);
    runtime.shutdown_timeout(timeout);
    Ok(output)
}
