//! Releases on this host: what is in them, which one is meant, which may go, and what their binary says.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::layout::{Colour, Layout, make_dir, remove_file, write_file};
use crate::process::{self, Finished};
use crate::site::Site;

/// The file in each release.
pub const RELEASE_JSON: &str = "release.json";
/// The server.
pub const MAIN: &str = "main";
const FORMAT: u32 = 1;

/// `release.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this file.
    pub format: u32,
    /// The build.
    pub build_id: String,
    /// When it was built, in milliseconds since 1970.
    pub created_ms: u64,
    /// The schemas that it works on.
    pub schema: Schema,
    /// Everything else in the release.
    pub files: Vec<FileEntry>,
}

/// Versions of the database's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// The oldest that it accepts.
    pub min: i64,
    /// The newest that it accepts.
    pub max: i64,
    /// The one that its own migrations make.
    pub own: i64,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the release.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// Whether it is a program.
    pub executable: bool,
}

impl Manifest {
    /// Of this content, as of the format that this tool writes.
    pub fn new(build_id: String, created_ms: u64, schema: Schema, files: Vec<FileEntry>) -> Self {
        Self { format: FORMAT, build_id, created_ms, schema, files }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Error::Artifact`] when it is none, or of a format that this tool does not know.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let manifest: Self =
            serde_json::from_slice(text).map_err(|error| Error::Artifact(format!("{RELEASE_JSON}: {error}")))?;
        if manifest.format != FORMAT {
            let format = manifest.format;
            return Err(Error::Artifact(format!("{RELEASE_JSON} is of format {format}; this tool knows {FORMAT}")));
        }
        Ok(manifest)
    }

    /// The release's directory.
    pub fn release_name(&self) -> String {
        let safe = |char: char| if char.is_ascii_alphanumeric() || "+._-".contains(char) { char } else { '_' };
        format!("{}-{}", crate::time::stamp(self.created_ms), self.build_id.chars().map(safe).collect::<String>())
    }
}

/// A release on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Its directory's name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
}

impl Release {
    /// Reads one.
    ///
    /// # Errors
    /// [`Error::NoRelease`], or [`Error::Artifact`] when it is damaged.
    pub fn load(layout: &Layout, name: &str) -> Result<Self, Error> {
        let dir = layout.release(name);
        let path = dir.join(RELEASE_JSON);
        let text = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NoRelease(format!("there is no release {name}")),
            _ => Error::at("read", &path)(error),
        })?;
        Ok(Self { name: name.to_owned(), dir, manifest: Manifest::parse(&text)? })
    }

    /// Every release, oldest first. What cannot be read is none.
    pub fn all(layout: &Layout) -> Vec<Self> {
        let entries = fs::read_dir(layout.releases()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let names: BTreeSet<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.iter().filter_map(|name| Self::load(layout, name).ok()).collect()
    }

    /// The one that is meant: by its name, its build, or the beginning of either after the time.
    ///
    /// # Errors
    /// [`Error::NoRelease`], also when several are meant.
    pub fn find(layout: &Layout, text: &str) -> Result<Self, Error> {
        let all = Self::all(layout);
        let is_meant = |release: &&Self| {
            release.name == text || release.manifest.build_id == text || release.name.starts_with(text)
        };
        let mut found: Vec<&Self> = all.iter().filter(|release| release.name == text).collect();
        if found.is_empty() {
            found = all.iter().filter(is_meant).collect();
        }
        match found.as_slice() {
            [] => Err(Error::NoRelease(format!("there is no release {text}"))),
            [one] => Ok((*one).clone()),
            several => {
                let names: Vec<&str> = several.iter().map(|release| release.name.as_str()).collect();
                Err(Error::NoRelease(format!("{text} may be any of: {}", names.join(", "))))
            }
        }
    }

    /// The newest that has not failed: what `upgrade` without a name takes.
    ///
    /// # Errors
    /// [`Error::NoRelease`].
    pub fn newest(layout: &Layout) -> Result<Self, Error> {
        let good = Self::all(layout).into_iter().rev().find(|release| release.failure(layout).is_none());
        good.ok_or_else(|| Error::NoRelease("there is no release that has not failed".to_owned()))
    }

    /// Compares every file with its checksum.
    ///
    /// # Errors
    /// [`Error::Artifact`] names the file.
    pub fn verify(&self) -> Result<(), Error> {
        for file in &self.manifest.files {
            let path = self.dir.join(&file.path);
            let found = File::open(&path).and_then(|mut file| sha256(&mut file)).map_err(Error::at("read", &path))?;
            if found != (file.sha256.clone(), file.bytes) {
                return Err(Error::Artifact(format!("{} is not as it was built", path.display())));
            }
        }
        Ok(())
    }

    /// Why it is not to be tried again, if it has failed.
    pub fn failure(&self, layout: &Layout) -> Option<String> {
        fs::read_to_string(layout.failed(&self.name)).ok().map(|text| text.trim().to_owned())
    }

    /// Remembers that it has failed.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn set_failed(layout: &Layout, name: &str, why: &str) -> Result<(), Error> {
        let path = layout.failed(name);
        make_dir(path.parent().unwrap_or(Path::new("/")), 0o755)?;
        write_file(&path, why.as_bytes(), 0o644)
    }

    /// Forgets that it has failed.
    ///
    /// # Errors
    /// When that cannot be removed.
    pub fn set_good(layout: &Layout, name: &str) -> Result<(), Error> {
        remove_file(&layout.failed(name))
    }

    /// What it takes on the disk.
    pub fn bytes(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.bytes).sum()
    }

    /// Runs its binary as the server's user, with the server's configuration.
    ///
    /// # Errors
    /// When it cannot be run, or does not end in time.
    pub fn main(&self, site: &Site, arguments: &[&str], timeout: Duration) -> Result<Finished, Error> {
        let mut command = Command::new(self.dir.join(MAIN));
        command.args(arguments).current_dir(&self.dir).env("HOTGO_CONFIG", site.layout.etc());
        match site.user {
            // A database that root has made would be root's.
            Some(user) => site.systemd.run_as(user, &command, timeout),
            None => process::run(&mut command, None, timeout, &site.interrupt),
        }
    }

    /// `main check`: configuration, data directory, schema, database, Redis.
    ///
    /// # Errors
    /// [`Error::Preflight`] with what it said.
    pub fn check(&self, site: &Site) -> Result<(), Error> {
        let timeout = crate::config::seconds(site.config.upgrade.check_timeout_s);
        match self.main(site, &["check", "--json"], timeout) {
            Ok(done) if done.status.success() => Ok(()),
            Ok(done) => Err(Error::Preflight(format!("`main check` says no ({}): {}", done.status, done.last_words()))),
            Err(interrupted @ Error::Interrupted { .. }) => Err(interrupted),
            Err(error) => Err(Error::Preflight(format!("`main check`: {error}"))),
        }
    }

    /// Every migration that it or the database knows, oldest first. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Preflight`] when it cannot say.
    pub fn migrations(&self, site: &Site) -> Result<Vec<Migration>, Error> {
        Ok(self.ask_migrate::<Migrations>(site, &["migrate", "--dry-run"])?.migrations)
    }

    /// Migrations that it would apply, oldest first. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Preflight`] when it cannot say, or the database is beyond what it accepts.
    pub fn pending_migrations(&self, site: &Site) -> Result<Vec<Migration>, Error> {
        let mut steps = self.migrations(site)?;
        let (found, Schema { min, max, .. }) = (schema_of(&steps), self.manifest.schema);
        if found > max {
            let name = &self.name;
            return Err(Error::Preflight(format!(
                "the database has schema {found}, and {name} accepts {min} to {max}"
            )));
        }
        steps.retain(|step| step.state == "pending");
        Ok(steps)
    }

    /// Migrations that `main migrate contract` would apply, oldest first. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Preflight`] with what is in the way, such as a living process of another build.
    pub fn due_contracts(&self, site: &Site) -> Result<Vec<Migration>, Error> {
        Ok(self.ask_migrate::<Contracts>(site, &["migrate", "contract", "--dry-run"])?.would_apply)
    }

    fn ask_migrate<T: serde::de::DeserializeOwned>(&self, site: &Site, arguments: &[&str]) -> Result<T, Error> {
        let timeout = crate::config::seconds(site.config.upgrade.check_timeout_s);
        let done = self.main(site, &[arguments, &["--json"]].concat(), timeout)?;
        let said = || Error::Preflight(format!("`main {}` says: {}", arguments.join(" "), done.last_words()));
        if !done.status.success() {
            return Err(said());
        }
        serde_json::from_str(&done.stdout).map_err(|_| said())
    }

    /// `main migrate up`.
    ///
    /// # Errors
    /// [`Error::Remote`] with what it said: a migration that failed has changed nothing.
    pub fn migrate(&self, site: &Site) -> Result<(), Error> {
        self.apply(site, "up")
    }

    /// `main migrate contract`.
    ///
    /// # Errors
    /// As [`Release::migrate`].
    pub fn contract(&self, site: &Site) -> Result<(), Error> {
        self.apply(site, "contract")
    }

    fn apply(&self, site: &Site, what: &str) -> Result<(), Error> {
        let timeout = crate::config::seconds(site.config.upgrade.migrate_timeout_s);
        let done = self.main(site, &["migrate", what, "--json"], timeout)?;
        if done.status.success() {
            return Ok(());
        }
        Err(Error::Remote(format!("`main migrate {what}` ended with {}: {}", done.status, done.last_words())))
    }
}

/// The schema that the database has: the newest of these that was applied, or 0.
pub fn schema_of(steps: &[Migration]) -> i64 {
    let has = |step: &&Migration| !["pending", "contract"].contains(&step.state.as_str());
    steps.iter().filter(has).map(|step| step.version).max().unwrap_or(0)
}

#[derive(Debug, Deserialize)]
struct Migrations {
    migrations: Vec<Migration>,
}

#[derive(Debug, Deserialize)]
struct Contracts {
    would_apply: Vec<Migration>,
}

/// One migration, as `main migrate --json` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// Its number.
    pub version: i64,
    /// What it is.
    #[serde(default)]
    pub description: String,
    /// Where it stands.
    pub state: String,
}

/// The checksum in hex, and the length.
///
/// # Errors
/// When it cannot be read to its end.
pub fn sha256(reader: &mut impl Read) -> io::Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0_u64;
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok((hex(&hasher.finalize()), bytes));
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
        bytes = bytes.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

/// In hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ok = write!(text, "{byte:02x}");
        text
    })
}

/// Releases that must stay: linked, or with a living process. Under systemd the processes of the server's user cannot be looked
/// into (that would take `CAP_SYS_PTRACE`); theirs are linked all the same, since a slot is pointed elsewhere only when its unit
/// has ended.
pub fn in_use(layout: &Layout) -> BTreeSet<String> {
    let links = [layout.current(), layout.last_good(), layout.previous_good()];
    let slots = Colour::ALL.map(|colour| layout.slot(colour));
    let mut names: BTreeSet<String> = links.into_iter().chain(slots).flatten().collect();
    let Ok(releases) = layout.releases().canonicalize() else { return names };
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(program) = fs::read_link(process.path().join("exe")) else { continue };
        if let Some(name) = program.strip_prefix(&releases).ok().and_then(|rest| rest.iter().next()) {
            names.insert(name.to_string_lossy().into_owned());
        }
    }
    names
}

/// Removes the oldest releases beyond those to keep, and what broken unpackings left. Returns the names of what has gone.
///
/// # Errors
/// When something cannot be removed.
pub fn prune(layout: &Layout, keep: usize) -> Result<Vec<String>, Error> {
    let all = Release::all(layout);
    let stay = in_use(layout);
    let mut gone = Vec::new();
    let excess = all.len().saturating_sub(keep);
    for release in all.iter().take(excess).filter(|release| !stay.contains(&release.name)) {
        // Out of sight first, so that a crash leaves no half of a release that can be chosen.
        let hidden = layout.release(&format!(".gone-{}", release.name));
        fs::rename(&release.dir, &hidden).map_err(Error::at("remove", &release.dir))?;
        Release::set_good(layout, &release.name)?;
        gone.push(release.name.clone());
    }
    for entry in fs::read_dir(layout.releases()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            fs::remove_dir_all(entry.path()).map_err(Error::at("remove", &entry.path()))?;
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(layout: &Layout, minute: u64) -> String {
        let schema = Schema { min: 1, max: 2, own: 1 };
        let manifest = Manifest::new(format!("1.0+{minute}"), minute * 60_000, schema, Vec::new());
        let name = manifest.release_name();
        make_dir(&layout.release(&name), 0o755).unwrap();
        fs::write(layout.release(&name).join(RELEASE_JSON), serde_json::to_vec(&manifest).unwrap()).unwrap();
        name
    }

    #[test]
    fn the_oldest_go_but_never_one_that_is_in_use() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let names: Vec<String> = (1..=14).map(|minute| add(&layout, minute)).collect();
        layout.point("last-good", &names[0]).unwrap();
        layout.point("current", &names[2]).unwrap();
        make_dir(&layout.release(".incoming-7"), 0o755).unwrap();
        let gone = prune(&layout, 10).unwrap();
        assert_eq!(gone, [names[1].clone(), names[3].clone()]);
        assert_eq!(Release::all(&layout).len(), 12);
        assert!(!layout.release(".incoming-7").exists());
    }

    #[test]
    fn a_release_with_a_living_process_stays() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let name = add(&layout, 1);
        let program = layout.release(&name).join(MAIN);
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        assert!(in_use(&layout).contains(&name));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(in_use(&layout).is_empty());
    }

    #[test]
    fn a_release_is_found_by_name_build_or_beginning_and_one_that_failed_is_not_taken_by_itself() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let names: Vec<String> = (1..=2).map(|minute| add(&layout, minute)).collect();
        assert_eq!(Release::find(&layout, "1.0+2").unwrap().name, names[1]);
        assert_eq!(Release::find(&layout, &names[0]).unwrap().name, names[0]);
        for text in ["19700101T", "3.0"] {
            assert!(matches!(Release::find(&layout, text), Err(Error::NoRelease(_))), "{text}");
        }
        assert_eq!(Release::newest(&layout).unwrap().name, names[1]);
        Release::set_failed(&layout, &names[1], "crashed").unwrap();
        assert_eq!(Release::newest(&layout).unwrap().name, names[0]);
    }
}
