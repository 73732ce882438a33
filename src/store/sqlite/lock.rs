//! The lock that belongs to a database file: one process at a time has it open for writing, or several that share it.
//!
//! Whoever was alone when it took it knows that no other living process wrote then, so that a lease in the file belongs to a
//! dead one, whatever data directory that one had. It is a file of its own beside the database: SQLite's own locks on the
//! database would be lost if this process closed another descriptor of it. Readers, such as the audit, do not take it.

use std::path::{Path, PathBuf};

use super::OpenError;
use crate::lock::{LockError, ProcessLock};

/// Held as long as this lives.
#[derive(Debug)]
pub(in crate::store) struct WriteLock {
    lock: ProcessLock,
    database: PathBuf,
    shares: bool,
}

impl WriteLock {
    /// Takes the lock of the database at `path`, which must exist. Two names of one file have one lock, if the names are
    /// symbolic links.
    pub(in crate::store) async fn take(path: &Path, shares: bool) -> Result<Self, OpenError> {
        let database = path
            .canonicalize()
            .map_err(|error| OpenError::NotWritable { path: path.to_owned(), detail: error.to_string() })?;
        let lock =
            ProcessLock::take(&name(&database), shares).await.map_err(|error| failed(path, &database, &error))?;
        Ok(Self { lock, database, shares })
    }

    /// Whether no other process had the database open for writing.
    pub(super) fn was_alone(&self) -> bool {
        self.lock.was_alone()
    }

    /// Whether others may come, or are here.
    pub(super) fn shares(&self) -> bool {
        self.shares
    }

    /// The opening is over: others may come, if they share it too.
    pub(super) fn opened(&self) -> Result<(), OpenError> {
        if self.shares {
            self.lock.share().map_err(|error| failed(&self.database, &self.database, &error))
        } else {
            Ok(())
        }
    }
}

/// `path` as it was given, `database` as it is.
fn failed(path: &Path, database: &Path, error: &LockError) -> OpenError {
    match error {
        LockError::Taken => OpenError::InUse { path: path.to_owned(), lock: name(database) },
        LockError::Io(error) => OpenError::NotWritable { path: name(database), detail: error.to_string() },
    }
}

fn name(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}
