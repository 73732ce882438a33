//! The lock that belongs to a database file: one process at a time has it open for writing.
//!
//! Whoever holds it knows that no other living process writes, so that a lease in the file belongs to a dead one, whatever
//! data directory that one had. It is a file of its own beside the database: SQLite's own locks on the database would be
//! lost if this process closed another descriptor of it. Readers, such as the audit, do not take it.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::OpenError;

/// Held as long as this lives. The operating system frees it when the process ends, however it ends.
#[derive(Debug)]
pub(in crate::store) struct WriteLock {
    _file: File,
}

impl WriteLock {
    /// Takes the lock of the database at `path`, which must exist. Two names of one file have one lock, if the names are
    /// symbolic links.
    pub(in crate::store) fn take(path: &Path) -> Result<Self, OpenError> {
        let failed = |path: &Path, error: std::io::Error| OpenError::NotWritable {
            path: path.to_owned(),
            detail: error.to_string(),
        };
        let lock = name(&path.canonicalize().map_err(|error| failed(path, error))?);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .map_err(|error| failed(&lock, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned(), lock }),
            Err(TryLockError::Error(error)) => Err(failed(&lock, error)),
        }
    }
}

fn name(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}
