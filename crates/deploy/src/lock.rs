//! One run at a time. The kernel holds the lock (`flock`), so it ends with its holder, however that ends; who it is stands
//! in the file, for people.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::time;

/// Who works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// What it was told.
    pub command: String,
    /// By whom.
    pub by: String,
    /// Since when.
    pub since: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {}, by {}, since {})", self.command, self.pid, self.by, self.since)
    }
}

/// Held until dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// Who held it and died with it.
    pub recovered_from: Option<Holder>,
}

impl Lock {
    /// Takes the lock, without waiting.
    ///
    /// # Errors
    /// [`Error::Busy`] names the holder.
    pub fn take(path: &Path, command: &str, by: &str) -> Result<Self, Error> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .map_err(Error::at("open", path))?;
        let mut text = String::new();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Busy(holder(&mut file)));
            }
            Err(TryLockError::Error(error)) => return Err(Error::at("lock", path)(error)),
        }
        file.read_to_string(&mut text).map_err(Error::at("read", path))?;
        let recovered_from = serde_json::from_str(&text).ok();
        let holder = Holder {
            pid: std::process::id(),
            command: command.to_owned(),
            by: by.to_owned(),
            since: time::rfc3339(time::now_ms()),
        };
        let mut lock = Self { file, recovered_from };
        lock.write(serde_json::to_string(&holder).unwrap_or_default().as_bytes()).map_err(Error::at("write", path))?;
        Ok(lock)
    }

    /// Who works, if somebody does. Takes no lock, so that a look never gets into anybody's way.
    pub fn holder(path: &Path) -> Option<Holder> {
        let holder: Holder = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        Path::new("/proc").join(holder.pid.to_string()).exists().then_some(holder)
    }

    fn write(&mut self, text: &[u8]) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text)
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let holder = file.read_to_string(&mut text).ok().and_then(|_| serde_json::from_str::<Holder>(&text).ok());
    holder.map_or_else(|| "just begun".to_owned(), |holder| holder.to_string())
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A name that stays would only be taken for one who died.
        let _stays = self.write(b"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_works_and_a_dead_holder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::take(&path, "upgrade", "alice").unwrap();
        let busy = Lock::take(&path, "rollback", "bob").unwrap_err().to_string();
        assert!(busy.contains("upgrade (pid ") && busy.contains("by alice"), "{busy}");
        drop(lock);
        assert!(Lock::take(&path, "upgrade", "bob").unwrap().recovered_from.is_none());
        std::fs::write(&path, r#"{"pid":1,"command":"quick","by":"carol","since":"then"}"#).unwrap();
        let lock = Lock::take(&path, "upgrade", "bob").unwrap();
        assert_eq!(lock.recovered_from.as_ref().unwrap().by, "carol");
    }
}
