//! The data directory, and its lock: one living process has it, or several that share it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::BootError;
use crate::lock::{LockError, ProcessLock};

/// A data directory that this process alone uses, or that it shares. The lock ends with the process, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: ProcessLock,
}

impl DataDir {
    /// Makes the directory if it is missing (mode 0700) and locks it. `share`: other processes that say so too may use it.
    ///
    /// # Errors
    /// [`BootError::DataDir`] and [`BootError::DataDirInUse`].
    pub async fn open(path: &Path, share: bool) -> Result<Self, BootError> {
        let failed = |source: io::Error| BootError::DataDir { path: path.to_owned(), source };
        let locked = |error: LockError| match error {
            LockError::Taken => BootError::DataDirInUse(path.to_owned()),
            LockError::Io(source) => failed(source),
        };
        make(path).map_err(failed)?;
        let lock = ProcessLock::take(&path.join("hotgo.lock"), share).await.map_err(locked)?;
        if share {
            lock.share().map_err(locked)?;
        }
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another living process uses it, or used it when this one started.
    pub fn has_others(&self) -> bool {
        !self.lock.was_alone()
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
