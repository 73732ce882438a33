//! A lock that a process has as long as it lives, alone or beside others that were told to share.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// A start takes so long at most, as long as it must be alone: migrations included.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it, and does not share it.
    #[error("another process has it")]
    Taken,
    /// The file cannot be opened or locked.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Held as long as this lives. The operating system frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct ProcessLock {
    file: File,
    alone: bool,
}

impl ProcessLock {
    /// Takes the lock: alone if nobody else has it. Otherwise, if `share`, beside those that share it too; one that is
    /// still alone because it starts is waited for.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// See [`LockError`].
    pub async fn take(path: &Path, share: bool) -> Result<Self, LockError> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if got(file.try_lock())? {
                return Ok(Self { file, alone: true });
            }
            if share && got(file.try_lock_shared())? {
                return Ok(Self { file, alone: false });
            }
            if !share || Instant::now() >= deadline {
                return Err(LockError::Taken);
            }
            sleep(POLL).await;
        }
    }

    /// Whether no other process had the lock when it was taken: whoever had it before is dead.
    pub fn was_alone(&self) -> bool {
        self.alone
    }

    /// Lets others in that share it too. Everything that one must be alone for is done before.
    ///
    /// # Errors
    /// [`LockError::Taken`] if another process was quicker, since a lock does not become a shared one in one step: this one
    /// has no lock any more, and must end.
    pub fn share(&self) -> Result<(), LockError> {
        if !self.alone || got(self.file.try_lock_shared())? { Ok(()) } else { Err(LockError::Taken) }
    }
}

fn got(result: Result<(), TryLockError>) -> Result<bool, io::Error> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn who_does_not_share_is_alone_or_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let alone = ProcessLock::take(&path, false).await.unwrap();
        assert!(alone.was_alone());
        assert!(matches!(ProcessLock::take(&path, false).await, Err(LockError::Taken)));
        drop(alone);
        assert!(ProcessLock::take(&path, false).await.unwrap().was_alone());
    }

    #[tokio::test]
    async fn the_second_waits_until_the_first_shares_and_a_third_that_does_not_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = ProcessLock::take(&path, true).await.unwrap();
        let second = async {
            let second = ProcessLock::take(&path, true).await.unwrap();
            assert!(!second.was_alone());
            second
        };
        let (second, ()) = tokio::join!(second, async { first.share().unwrap() });
        assert!(matches!(ProcessLock::take(&path, false).await, Err(LockError::Taken)));
        drop(first);
        assert!(!ProcessLock::take(&path, true).await.unwrap().was_alone(), "the second still lives");
        drop(second);
        assert!(ProcessLock::take(&path, true).await.unwrap().was_alone());
    }
}
