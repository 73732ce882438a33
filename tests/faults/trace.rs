//! What strace saw, and from it the files as a power loss would leave them.
//!
//! A write may be lost until a sync of its file that began after the write had ended has ended itself. A new file may be
//! lost until a sync of its directory. An answer counts as given when its write to the socket begins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A system call, once it has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// What its file descriptor is, or the path that it names.
    pub(crate) path: String,
    /// All the bytes among its arguments, in their order.
    pub(crate) bytes: Vec<u8>,
    /// Its arguments as they stand.
    arguments: String,
    /// Whether it did what it says: it did not fail, and strace did not do it in its place.
    done: bool,
}

/// A call begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Begin(usize),
    End(usize),
}

/// All calls, and when each began and ended. The trace is one of `strace -f -y -xx`.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) calls: Vec<Call>,
    pub(crate) moments: Vec<Moment>,
}

impl Trace {
    pub(crate) fn parse(text: &str) -> Self {
        let mut trace = Self::default();
        let mut unfinished: BTreeMap<&str, usize> = BTreeMap::new();
        for line in text.lines() {
            let Some((pid, rest)) = line.split_once(char::is_whitespace) else { continue };
            let rest = rest.trim_start();
            if let Some(resumed) = rest.strip_prefix("<... ") {
                let Some(call) = unfinished.remove(pid) else { continue };
                trace.calls[call].arguments.push_str(resumed.split_once("resumed>").unwrap_or_default().1);
                trace.end(call);
            } else if let Some((name, arguments)) = rest.split_once('(').filter(|(name, _)| is_name(name)) {
                let call = trace.calls.len();
                let (arguments, runs) = match arguments.strip_suffix("<unfinished ...>") {
                    Some(begun) => (begun, true),
                    None => (arguments, false),
                };
                let made = Call { name: name.to_owned(), arguments: arguments.to_owned(), ..Call::default() };
                trace.calls.push(made);
                trace.calls[call].read_arguments();
                trace.moments.push(Moment::Begin(call));
                if runs {
                    unfinished.insert(pid, call);
                } else {
                    trace.end(call);
                }
            }
        }
        trace
    }

    fn end(&mut self, call: usize) {
        let made = &mut self.calls[call];
        made.read_arguments();
        let result = made.arguments.rsplit_once(" = ").unwrap_or_default().1;
        made.done = !result.starts_with('-') && !result.contains("INJECTED") && !result.is_empty();
        self.moments.push(Moment::End(call));
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl Call {
    fn read_arguments(&mut self) {
        let names_a_path = matches!(&*self.name, "openat" | "unlink" | "rename");
        let mut strings = self.arguments.split('"').skip(1).step_by(2).map(unhex);
        if names_a_path {
            self.path = String::from_utf8_lossy(&strings.next().unwrap_or_default()).into_owned();
        } else {
            self.bytes = strings.flatten().collect();
            let descriptor = self.arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
            self.path = String::from_utf8_lossy(&unhex(descriptor.unwrap_or_default().0)).into_owned();
        }
    }

    /// Whether it has made this file or directory durable.
    pub(crate) fn syncs(&self, path: &str) -> bool {
        matches!(&*self.name, "fsync" | "fdatasync") && self.done && self.path == path
    }

    /// The last of its numbers: the offset of a `pwrite64`, the length of an `ftruncate`.
    fn last_number(&self) -> usize {
        let arguments = self.arguments.rsplit_once(')').unwrap_or_default().0;
        let number = arguments.rsplit(',').next().unwrap_or_default();
        number.trim().parse().unwrap_or_else(|_| panic!("no number at the end of {}({}", self.name, self.arguments))
    }
}

/// `\x2f\x74`, and whatever is not written like that, as bytes.
fn unhex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut parts = text.split("\\x");
    bytes.extend(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at(part.len().min(2));
        bytes.extend(u8::from_str_radix(digits, 16));
        bytes.extend(rest.as_bytes());
    }
    bytes
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

impl Change {
    /// As much of it as one sector holds.
    fn torn(&self) -> Self {
        match self {
            Self::Write { offset, bytes } => {
                Self::Write { offset: *offset, bytes: bytes.iter().take(SECTOR).copied().collect() }
            }
            Self::Truncate(length) => Self::Truncate(*length),
        }
    }

    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::Truncate(length) => content.resize(*length, 0),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct File {
    /// What certainly survives.
    durable: Vec<u8>,
    /// What may survive, by the call that made it, and whether that has ended.
    pending: Vec<(usize, Change, bool)>,
    /// How long a reader would find it.
    length: usize,
    /// Whether its name survives.
    linked: bool,
}

/// What of the unsynced writes survives a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survives {
    Nothing,
    Everything,
    /// Some whole, some only their first sector, some not at all, by numbers mixed with this: disks reorder and tear.
    Some(usize),
}

/// Files of one directory, and how much of them is durable.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    directory: String,
    files: BTreeMap<String, File>,
    /// What each sync that runs will make durable.
    syncs: BTreeMap<usize, BTreeSet<usize>>,
}

impl Disk {
    /// With these files in it, all of them durable.
    pub(crate) fn new(directory: &Path, names: &[&str]) -> Self {
        let mut files = BTreeMap::new();
        for name in names {
            let Ok(durable) = std::fs::read(directory.join(name)) else { continue };
            let length = durable.len();
            files.insert((*name).to_owned(), File { durable, length, linked: true, ..File::default() });
        }
        Self { directory: directory.to_str().unwrap().to_owned(), files, syncs: BTreeMap::new() }
    }

    fn name(&self, path: &str) -> Option<String> {
        let name = path.strip_prefix(&self.directory)?.strip_prefix('/')?;
        let followed = ["hotgo.db", "hotgo.db-wal", "hotgo.db-journal", "venue.ledger"];
        followed.contains(&name).then(|| name.to_owned())
    }

    /// Goes on by one moment.
    pub(crate) fn step(&mut self, trace: &Trace, moment: Moment) {
        match moment {
            Moment::Begin(call) => self.begin(call, &trace.calls[call]),
            Moment::End(call) => self.end(call, &trace.calls[call]),
        }
    }

    fn begin(&mut self, id: usize, call: &Call) {
        match &*call.name {
            "fdatasync" | "fsync" => {
                let ended =
                    |file: &File| file.pending.iter().filter(|(_, _, ended)| *ended).map(|p| p.0).collect::<Vec<_>>();
                let synced = match self.name(&call.path).and_then(|name| self.files.get(&name)) {
                    Some(file) => ended(file),
                    None => Vec::new(),
                };
                self.syncs.insert(id, synced.into_iter().collect());
            }
            "pwrite64" | "write" | "ftruncate" => {
                let Some(name) = self.name(&call.path) else { return };
                let file = self.files.entry(name).or_default();
                let change = match &*call.name {
                    "pwrite64" => Change::Write { offset: call.last_number(), bytes: call.bytes.clone() },
                    "write" => Change::Write { offset: file.length, bytes: call.bytes.clone() },
                    _ => Change::Truncate(call.last_number()),
                };
                file.length = match &change {
                    Change::Write { offset, bytes } => file.length.max(offset + bytes.len()),
                    Change::Truncate(length) => *length,
                };
                file.pending.push((id, change, false));
            }
            _ => {}
        }
    }

    fn end(&mut self, id: usize, call: &Call) {
        match &*call.name {
            "fdatasync" | "fsync" => {
                let synced = self.syncs.remove(&id).unwrap_or_default();
                if !call.done {
                    return;
                }
                if call.path == self.directory {
                    self.files.values_mut().for_each(|file| file.linked = true);
                }
                let Some(file) = self.name(&call.path).and_then(|name| self.files.get_mut(&name)) else { return };
                for (_, change, _) in file.pending.extract_if(.., |(id, _, _)| synced.contains(id)) {
                    change.apply(&mut file.durable);
                }
            }
            "pwrite64" | "write" | "ftruncate" => {
                let Some(file) = self.name(&call.path).and_then(|name| self.files.get_mut(&name)) else { return };
                for pending in file.pending.iter_mut().filter(|pending| pending.0 == id) {
                    pending.2 = true;
                }
            }
            "openat" if call.done && call.arguments.contains("O_CREAT") => {
                if let Some(name) = self.name(&call.path) {
                    self.files.entry(name).or_default();
                }
            }
            "unlink" if call.done => {
                if let Some(name) = self.name(&call.path) {
                    self.files.remove(&name);
                }
            }
            _ => {}
        }
    }

    /// How many writes to this file may still be lost.
    pub(crate) fn unsynced(&self, name: &str) -> usize {
        self.files.get(name).map_or(0, |file| file.pending.len())
    }

    /// Writes the database's files, as they may be found after a power loss now. The venue is elsewhere and keeps its own.
    pub(crate) fn image(&self, target: &Path, survives: Survives) {
        for (name, file) in &self.files {
            let elsewhere = name == "venue.ledger";
            if !file.linked && survives != Survives::Everything && !elsewhere {
                continue;
            }
            let mut content = file.durable.clone();
            for (id, change, _) in &file.pending {
                let chance = |seed: usize| (id.wrapping_mul(seed | 1).wrapping_mul(0x9E37_79B9) >> 16) % 3;
                match survives {
                    Survives::Everything => change.apply(&mut content),
                    _ if elsewhere => change.apply(&mut content),
                    Survives::Some(seed) if chance(seed) == 0 => change.apply(&mut content),
                    Survives::Some(seed) if chance(seed) == 1 => change.torn().apply(&mut content),
                    Survives::Some(_) | Survives::Nothing => {}
                }
            }
            std::fs::write(target.join(name), content).unwrap();
        }
    }
}

#[test]
fn a_write_is_durable_after_a_sync_that_began_later_and_did_something() {
    let hex = |text: &str| text.bytes().fold(String::new(), |text, byte| text + &format!("\\x{byte:02x}"));
    let file = hex("/d/hotgo.db-wal");
    let one = format!("1  pwrite64(5<{file}>, \"{}\", 2, 0) = 2\n", hex("ab"));
    let cases = [
        (format!("{one}1  fdatasync(5<{file}>) = 0\n"), 0, "a sync after it"),
        (one.clone(), 1, "no sync"),
        (format!("{one}1  fdatasync(5<{file}>) = 0 (INJECTED)\n"), 1, "a sync that does nothing"),
        (format!("{one}1  fdatasync(5<{file}>) = -1 EIO (Input/output error)\n"), 1, "a sync that fails"),
        (format!("{one}1  fdatasync(6<{}>) = 0\n", hex("/d/hotgo.db")), 1, "a sync of another file"),
        (format!("{one}1  fdatasync(5<{file}> <unfinished ...>\n2  read(3) = 1\n"), 1, "a sync that has not ended"),
        (
            format!("2  fdatasync(5<{file}> <unfinished ...>\n{one}2  <... fdatasync resumed>) = 0\n"),
            1,
            "a sync that began before it",
        ),
        (
            format!("{one}2  fdatasync(5<{file}> <unfinished ...>\n1  read(3) = 1\n2  <... fdatasync resumed>) = 0\n"),
            0,
            "a sync with something in between",
        ),
    ];
    for (text, unsynced, what) in cases {
        let trace = Trace::parse(&text);
        let mut disk = Disk::new(Path::new("/d"), &[]);
        trace.moments.iter().for_each(|moment| disk.step(&trace, *moment));
        assert_eq!(disk.unsynced("hotgo.db-wal"), unsynced, "{what}");
    }
}
