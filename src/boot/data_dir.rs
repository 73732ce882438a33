//! The data directory, and the lock that only one living process can hold.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::BootError;

/// A data directory that this process alone uses. The lock ends with the process, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is missing (mode 0700) and locks it.
    ///
    /// # Errors
    /// [`BootError::DataDir`] and [`BootError::DataDirInUse`].
    pub fn open(path: &Path) -> Result<Self, BootError> {
        let failed = |source: io::Error| BootError::DataDir { path: path.to_owned(), source };
        make(path).map_err(failed)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("hotgo.lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(BootError::DataDirInUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // A new directory's name is durable once the directory that holds it is synced.
    for made in missing {
        let holder = made.parent().filter(|holder| !holder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(holder)?.sync_all()?;
    }
    Ok(())
}
