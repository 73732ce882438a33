//! Named points of a service, at which a test can hold it.
//!
//! ```
//! # use shutdown_coordinator::points::point;
//! # async fn send_order() {}
//! # async fn example() {
//! point("before-send").await;
//! send_order().await;
//! point("sent").await;
//! # }
//! ```
//!
//! Without the cargo feature `points`, and outside of Unix, a point compiles to nothing. With it, a point costs one atomic
//! load, unless the process was started by a test that listens: then the environment variable `SHUTDOWN_TESTKIT` names
//! the Unix socket of its `testkit::Points`, and each point asks there whether it may go on.
//!
//! The feature belongs to the binary that is tested, not to the one that is shipped: give the service a feature of its
//! own for it (`failpoints = ["shutdown-coordinator/points"]`) and build the tests with that.
//!
//! # Protocol
//!
//! One connection per pass. The process sends `<pid> <name>\n`, and reads one word: `die` makes it abort there and then;
//! anything else, and the end of the connection, lets it go on. So a test that is gone holds nobody.

/// Where a process under test finds the socket of its test.
#[cfg(any(feature = "points", feature = "testkit"))]
pub(crate) const ENVIRONMENT: &str = "SHUTDOWN_TESTKIT";

/// The word at which the process aborts itself.
#[cfg(all(unix, any(feature = "points", feature = "testkit")))]
pub(crate) const DIE: &str = "die\n";

/// Goes on at once, unless a test holds the process here.
///
/// Needs a runtime with I/O when a test listens. Cancel safe: the test is told nothing more.
#[inline]
#[cfg_attr(
    not(all(unix, feature = "points")),
    allow(clippy::unused_async, reason = "the same signature as with the feature")
)]
pub async fn point(name: &str) {
    #[cfg(all(unix, feature = "points"))]
    if let Some(test) = armed::test() {
        armed::ask(test, name).await;
    }
    #[cfg(not(all(unix, feature = "points")))]
    let _ = name;
}

/// The same for code that blocks. Not for a worker of an async runtime, which it would hold up.
#[inline]
pub fn point_blocking(name: &str) {
    #[cfg(all(unix, feature = "points"))]
    if let Some(test) = armed::test() {
        armed::ask_blocking(test, name);
    }
    #[cfg(not(all(unix, feature = "points")))]
    let _ = name;
}

#[cfg(all(unix, feature = "points"))]
mod armed {
    use std::{
        env,
        io::{self, Read as _, Write as _},
        os::unix::net::UnixStream as BlockingStream,
        path::{Path, PathBuf},
        process,
        sync::OnceLock,
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixStream,
    };

    use super::{DIE, ENVIRONMENT};

    /// The test that listens, if one does.
    ///
    /// Global, because a point must be a line that can be put anywhere, without a handle that every function would have
    /// to be given for the sake of tests; and the environment it comes from is global and read once.
    #[inline]
    pub(super) fn test() -> Option<&'static Path> {
        static TEST: OnceLock<Option<PathBuf>> = OnceLock::new();
        TEST.get_or_init(|| env::var_os(ENVIRONMENT).map(PathBuf::from)).as_deref()
    }

    fn question(name: &str) -> String {
        format!("{} {name}\n", process::id())
    }

    /// No answer is a yes: the test is gone.
    fn obey(answer: io::Result<String>) {
        if answer.is_ok_and(|word| word == DIE) {
            process::abort();
        }
    }

    pub(super) async fn ask(test: &Path, name: &str) {
        let answer = async {
            let mut stream = UnixStream::connect(test).await?;
            stream.write_all(question(name).as_bytes()).await?;
            let mut word = String::new();
            stream.read_to_string(&mut word).await?;
            Ok(word)
        };
        obey(answer.await);
    }

    pub(super) fn ask_blocking(test: &Path, name: &str) {
        let answer = || {
            let mut stream = BlockingStream::connect(test)?;
            stream.write_all(question(name).as_bytes())?;
            let mut word = String::new();
            stream.read_to_string(&mut word)?;
            Ok(word)
        };
        obey(answer());
    }
}
