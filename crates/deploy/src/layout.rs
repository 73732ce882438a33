//! Where everything is. Links are replaced by rename, so that each always resolves.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A slot's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// The first.
    Blue,
    /// The second.
    Green,
}

impl Colour {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Blue, Self::Green];

    /// As in file and unit names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// Its unit.
    pub fn unit(self) -> String {
        format!("hotgo@{}.service", self.name())
    }
}

impl std::fmt::Display for Colour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Paths below a root.
#[derive(Debug, Clone)]
pub struct Layout {
    /// `/`, except in tests.
    pub root: PathBuf,
}

impl Layout {
    /// Below this root.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// `/opt/hotgo`.
    pub fn home(&self) -> PathBuf {
        self.root.join("opt/hotgo")
    }

    /// `/opt/hotgo/releases`.
    pub fn releases(&self) -> PathBuf {
        self.home().join("releases")
    }

    /// One release.
    pub fn release(&self, name: &str) -> PathBuf {
        self.releases().join(name)
    }

    /// `/etc/hotgo`.
    pub fn etc(&self) -> PathBuf {
        self.root.join("etc/hotgo")
    }

    /// `/etc/hotgo/keys`: public keys (`*.pub`) whose signature is accepted.
    pub fn keys(&self) -> PathBuf {
        self.etc().join("keys")
    }

    /// `/var/lib/hotgo`: the server's. Never touched.
    pub fn data(&self) -> PathBuf {
        self.root.join("var/lib/hotgo")
    }

    /// `/var/lib/hotgo-deploy`: ours.
    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib/hotgo-deploy")
    }

    /// The lock.
    pub fn lock(&self) -> PathBuf {
        self.state().join("lock")
    }

    /// Why a release is not to be tried again.
    pub fn failed(&self, release: &str) -> PathBuf {
        self.state().join("failed").join(release)
    }

    /// The private socket of a slot.
    pub fn socket(&self, colour: Colour) -> PathBuf {
        self.root.join(format!("run/hotgo/{colour}.sock"))
    }

    /// Exists while a slot holds a candidate: its environment says that it accepts on command only. Below `/run`, so that a
    /// reboot forgets it.
    pub fn candidate_mark(&self, colour: Colour) -> PathBuf {
        self.root.join(format!("run/hotgo-deploy/{colour}.env"))
    }

    /// What serves.
    pub fn current(&self) -> Option<String> {
        self.link(&self.home().join("current"))
    }

    /// The last that was healthy for long enough.
    pub fn last_good(&self) -> Option<String> {
        self.link(&self.home().join("last-good"))
    }

    /// The good one before that.
    pub fn previous_good(&self) -> Option<String> {
        self.link(&self.home().join("previous-good"))
    }

    /// What is in a slot.
    pub fn slot(&self, colour: Colour) -> Option<String> {
        self.link(&self.home().join("slots").join(colour.name()))
    }

    /// The colour that serves.
    pub fn active(&self) -> Option<Colour> {
        let link = fs::read_link(self.home().join("slots/active")).ok()?;
        Colour::ALL.into_iter().find(|colour| link == Path::new(colour.name()))
    }

    #[expect(clippy::unused_self, reason = "reads as a question to the layout")]
    fn link(&self, path: &Path) -> Option<String> {
        Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
    }

    /// Points `current`, `last-good` or `previous-good` at a release.
    ///
    /// # Errors
    /// When the link cannot be replaced.
    pub fn point(&self, link: &str, release: &str) -> Result<(), Error> {
        replace_link(&self.home().join(link), &Path::new("releases").join(release))
    }

    /// Puts a release into a slot.
    ///
    /// # Errors
    /// When the link cannot be replaced.
    pub fn point_slot(&self, colour: Colour, release: &str) -> Result<(), Error> {
        replace_link(&self.home().join("slots").join(colour.name()), &Path::new("../releases").join(release))
    }

    /// Says which colour serves: the moment of the commit.
    ///
    /// # Errors
    /// When the link cannot be replaced.
    pub fn point_active(&self, colour: Colour) -> Result<(), Error> {
        replace_link(&self.home().join("slots/active"), Path::new(colour.name()))
    }
}

/// Makes or replaces a link, durably and in one moment.
fn replace_link(link: &Path, target: &Path) -> Result<(), Error> {
    let failed = Error::at("replace", link);
    let dir = link.parent().unwrap_or(Path::new("/"));
    let replace = || {
        let temporary = link.with_extension("new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(target, &temporary)?;
        fs::rename(&temporary, link)?;
        File::open(dir)?.sync_all()
    };
    replace().map_err(failed)
}

/// Writes a file durably and in one moment.
///
/// # Errors
/// When it cannot be written; the old one stays then.
pub fn write_file(path: &Path, text: &[u8], mode: u32) -> Result<(), Error> {
    let write = || {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let temporary = dir.join(name);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        let written = file.write_all(text).and_then(|()| file.sync_all());
        if let Err(error) = written {
            let _stays = fs::remove_file(&temporary);
            return Err(error);
        }
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(Error::at("write", path))
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// When it stays.
pub fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::at("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes a directory and those above it.
///
/// # Errors
/// When it cannot be made.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(Error::at("make", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_replaced_and_read_back() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        make_dir(&layout.home().join("slots"), 0o755).unwrap();
        assert_eq!((layout.active(), layout.current()), (None, None));
        for (colour, release) in [(Colour::Blue, "a"), (Colour::Green, "b")] {
            make_dir(&layout.release(release), 0o755).unwrap();
            layout.point("current", release).unwrap();
            layout.point_slot(colour, release).unwrap();
            layout.point_active(colour).unwrap();
            assert_eq!(layout.active(), Some(colour));
            assert_eq!(layout.slot(colour).as_deref(), Some(release));
            assert_eq!(layout.current().as_deref(), Some(release));
            assert!(layout.home().join("slots/active").canonicalize().unwrap().ends_with(release));
        }
    }
}
