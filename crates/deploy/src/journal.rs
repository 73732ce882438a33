//! What a run was doing, for the run after it; and what it did, for people: one line of `audit.jsonl`.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::instance::Trading;
use crate::layout::{Colour, Layout, remove_file, write_file};
use crate::upgrade::Step;

/// One slot of an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Which.
    pub colour: Colour,
    /// The release in it.
    pub release: String,
    /// Its build.
    pub build_id: String,
}

/// An upgrade that is under way. It is on the disk before each step begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The run.
    pub run: String,
    /// What it was told.
    pub command: String,
    /// By whom.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What served; none if nothing did.
    pub from: Option<Side>,
    /// What is to serve.
    pub to: Side,
    /// The candidate's process, once it has started.
    pub pid: u32,
    /// Where it is.
    pub step: Step,
    /// Whether this goes back to an earlier release.
    pub back: bool,
    /// Whether it is a canary that waits for a word.
    pub waits: bool,
    /// What traded before the accounts moved.
    pub before: Option<Trading>,
}

fn path(layout: &Layout) -> PathBuf {
    layout.state().join("journal.json")
}

impl Journal {
    /// What an earlier run left; none if it has ended.
    ///
    /// # Errors
    /// When the file cannot be read, or is none of ours.
    pub fn load(layout: &Layout) -> Result<Option<Self>, Error> {
        let path = path(layout);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| Error::Broken(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::at("read", &path)(error)),
        }
    }

    /// Writes it down.
    ///
    /// # Errors
    /// When it is not on the disk.
    pub fn save(&self, layout: &Layout) -> Result<(), Error> {
        write_file(&path(layout), serde_json::to_string(self).unwrap_or_default().as_bytes(), 0o644)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it stays.
    pub fn clear(layout: &Layout) -> Result<(), Error> {
        remove_file(&path(layout))
    }
}

/// A step that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its name.
    pub step: String,
    /// How long it took.
    pub ms: u64,
    /// Whether it did what it should.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The run.
    pub run: String,
    /// When it began.
    pub at: String,
    /// What it was told.
    pub command: String,
    /// All of the command line.
    pub arguments: Vec<String>,
    /// By whom.
    pub by: String,
    /// The exit code.
    pub exit: u8,
    /// How it ended, in words.
    pub outcome: String,
    /// The release that served before.
    pub from: Option<String>,
    /// The release that was to serve.
    pub to: Option<String>,
    /// The steps.
    pub steps: Vec<StepRecord>,
    /// What traded before.
    pub before: Option<Trading>,
    /// What trades after.
    pub after: Option<Trading>,
    /// Why a closed window did not matter.
    pub outside_window: Option<String>,
    /// How long it took.
    pub ms: u64,
}

impl Record {
    /// Adds the line, durably. A line that a full disk or a crash cut off is ended first.
    ///
    /// # Errors
    /// When it is not on the disk.
    pub fn append(&self, layout: &Layout) -> Result<(), Error> {
        let path = audit(layout);
        let append = || {
            let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o644).open(&path)?;
            let mut line = String::new();
            if file.metadata()?.len() > 0 {
                let mut last = [0];
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
                if last != *b"\n" {
                    line.push('\n');
                }
            }
            line.push_str(&serde_json::to_string(self)?);
            line.push('\n');
            file.write_all(line.as_bytes())?;
            file.sync_all()
        };
        append().map_err(Error::at("write", &path))
    }

    /// Every record, oldest first. Lines that were cut off are left out.
    pub fn all(layout: &Layout) -> Vec<Self> {
        let text = fs::read_to_string(audit(layout)).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

fn audit(layout: &Layout) -> PathBuf {
    layout.state().join("audit.jsonl")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::make_dir;

    #[test]
    fn a_line_that_was_cut_off_does_not_spoil_the_next() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        make_dir(&layout.state(), 0o755).unwrap();
        let record = |run: &str| Record { run: run.to_owned(), ..Record::default() };
        record("1").append(&layout).unwrap();
        let mut text = fs::read_to_string(audit(&layout)).unwrap();
        text.push_str(r#"{"run":"2","at":"#);
        fs::write(audit(&layout), text).unwrap();
        record("3").append(&layout).unwrap();
        let runs: Vec<String> = Record::all(&layout).into_iter().map(|record| record.run).collect();
        assert_eq!(runs, ["1", "3"]);
    }
}
