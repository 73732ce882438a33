//! The venue's own durable memory: an append-only file from which everything else is rebuilt.
//!
//! Each line is `CRC32 JSON`: eight hex digits, a blank, and one [`Entry`]: all records of one operation. So an operation
//! is in the file as a whole or not at all. Whoever answers a request has called [`Ledger::append`] for it before, which
//! returns after `fdatasync`. A last line without a newline was never answered: it is cut off when the file is opened.
//! Every other line that does not match its checksum is damage, and the ledger is not used.

mod fold;
mod image;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crc::{CRC_32_ISO_HDLC, Crc, Table};

use self::fold::Fold;
pub use self::image::{AccountImage, Image, OrderImage, Post};
use crate::record::{Entry, Record};
use crate::state::State;

static CRC32: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);
const VERSION: u32 = 1;
/// Eight hex digits and a blank.
const PREFIX: usize = 9;

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file system refuses.
    #[error("ledger {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process has it open for writing.
    #[error("ledger {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// A line in the middle does not match its checksum, or is not what this version writes.
    #[error("ledger {}, line {line}: damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// In words.
        reason: String,
    },
    /// A line is readable but contradicts the lines before it.
    #[error("ledger {}, line {line}: contradiction: {reason}", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// In words.
        reason: String,
    },
    /// An earlier write failed; what is in the file is unknown until it is opened again.
    #[error("ledger {} failed before and is closed", .0.display())]
    Failed(PathBuf),
}

/// A last line that was cut off when the file was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    /// Where it began.
    pub offset: u64,
    /// How long it was, in bytes.
    pub bytes: u64,
}

/// What opening a ledger gives.
#[derive(Debug)]
pub struct Opened {
    /// The file, ready to be appended to.
    pub ledger: Ledger,
    /// Tells it from every other ledger, for as long as it exists.
    pub id: String,
    /// What it says.
    pub state: State,
    /// The last line, if it was torn.
    pub torn: Option<Torn>,
}

/// A ledger that is open for appending. The file is locked for as long as this lives.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    failed: bool,
}

impl Ledger {
    /// Opens or creates a ledger, reads it all, and cuts off a torn last line.
    pub fn open(path: &Path) -> Result<Opened, LedgerError> {
        Self::open_after(path, &mut ReadAhead::default())
    }

    /// The same, and reads only what was not read ahead. That is used up once the file is locked.
    pub fn open_after(path: &Path, ahead: &mut ReadAhead) -> Result<Opened, LedgerError> {
        let io = |source| LedgerError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LedgerError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        ahead.read(path, &file)?;
        let ReadAhead { state, id, to: End { bytes: good, .. }, .. } = std::mem::take(ahead);
        let length = file.metadata().map_err(io)?.len();
        let torn = (length > good).then(|| Torn { offset: good, bytes: length.saturating_sub(good) });
        if torn.is_some() {
            file.set_len(good).map_err(io)?;
            file.sync_all().map_err(io)?;
        }
        if id.is_none() {
            // Nothing happened in it yet.
            file.set_len(0).map_err(io)?;
        }
        file.seek(SeekFrom::End(0)).map_err(io)?;
        let mut ledger = Self { file, path: path.to_owned(), buffer: Vec::new(), failed: false };
        let is_new = id.is_none();
        let id = id.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        if is_new {
            ledger.append(&[vec![Record::Format { version: VERSION, id: Some(id.clone()) }]])?;
            // The file's name must survive a power loss as well as its content.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent).and_then(|dir| dir.sync_all()).map_err(io)?;
        }
        Ok(Opened { ledger, id, state, torn })
    }

    /// Writes these operations and returns once they are durable: one write and one `fdatasync` for all of them.
    ///
    /// After an error nothing is known of what is in the file, so every later call fails with [`LedgerError::Failed`]:
    /// a kernel may drop the unwritten pages and report success the next time.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), LedgerError> {
        if self.failed {
            return Err(LedgerError::Failed(self.path.clone()));
        }
        let result = self.write(entries);
        self.failed = result.is_err();
        result.map_err(|source| LedgerError::Io { path: self.path.clone(), source })
    }

    fn write(&mut self, entries: &[Entry]) -> io::Result<()> {
        self.buffer.clear();
        for entry in entries {
            let json = serde_json::to_vec(entry)?;
            write!(self.buffer, "{:08x} ", CRC32.checksum(&json))?;
            self.buffer.extend_from_slice(&json);
            self.buffer.push(b'\n');
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_all(&self.buffer)?;
        self.file.sync_data()
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What was read of a ledger that another process still appends to, so that opening it later takes less time.
#[derive(Debug, Default)]
pub struct ReadAhead {
    state: State,
    id: Option<String>,
    to: End,
    /// Device and inode.
    file: Option<(u64, u64)>,
}

/// Where whole lines end.
#[derive(Debug, Clone, Copy, Default)]
struct End {
    bytes: u64,
    lines: u64,
}

impl ReadAhead {
    /// Reads the whole lines that have come since the last time. After an error it begins anew.
    pub fn go_on(&mut self, path: &Path) -> Result<(), LedgerError> {
        let file = File::open(path).map_err(|source| LedgerError::Io { path: path.to_owned(), source })?;
        self.read(path, &file)
    }

    fn read(&mut self, path: &Path, file: &File) -> Result<(), LedgerError> {
        use std::os::unix::fs::MetadataExt as _;
        let io = |source| LedgerError::Io { path: path.to_owned(), source };
        let found = file.metadata().map_err(io)?;
        let mut read = std::mem::take(self);
        if read.file != Some((found.dev(), found.ino())) || found.len() < read.to.bytes {
            read = Self { file: Some((found.dev(), found.ino())), ..Self::default() };
        }
        let mut unread = file;
        unread.seek(SeekFrom::Start(read.to.bytes)).map_err(io)?;
        let Self { state, id, to, .. } = &mut read;
        *to = replay(path, file, *to, |record, _| {
            *id = id.take().or_else(|| id_of(&record));
            state.apply(&record).map_err(|error| error.to_string())
        })?;
        *self = read;
        Ok(())
    }
}

/// Reads a ledger without locking or changing it, also while another process appends. A torn last line is left out.
pub fn read(path: &Path) -> Result<Image, LedgerError> {
    read_with(path, |_| {})
}

/// Like [`read`]; `progress` is told now and then how many bytes have been read.
pub fn read_with(path: &Path, mut progress: impl FnMut(u64)) -> Result<Image, LedgerError> {
    let file = File::open(path).map_err(|source| LedgerError::Io { path: path.to_owned(), source })?;
    let mut fold = Fold::default();
    replay(path, &file, End::default(), |record, bytes| {
        progress(bytes);
        fold.apply(record).map_err(str::to_owned)
    })?;
    Ok(fold.into_image())
}

/// What tells a ledger from every other, without locking it. `None` as long as there is none, or nothing has happened in it.
pub fn id(path: &Path) -> Result<Option<String>, LedgerError> {
    let io = |source| LedgerError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut reader = BufReader::new(file);
    let (mut bytes, mut line) = (Vec::new(), 0_u64);
    loop {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(io)? == 0 || bytes.pop() != Some(b'\n') {
            return Ok(None);
        }
        line += 1;
        let damaged = |reason| LedgerError::Damaged { path: path.to_owned(), line, reason };
        if let Some(id) = parse(&bytes).map_err(damaged)?.iter().find_map(id_of) {
            return Ok(Some(id));
        }
    }
}

/// Hands every record of `file` from here on to `each`, with how many bytes came before its line. Returns where its whole lines
/// end.
fn replay(
    path: &Path,
    file: &File,
    from: End,
    mut each: impl FnMut(Record, u64) -> Result<(), String>,
) -> Result<End, LedgerError> {
    let damaged = |line, reason: String| LedgerError::Damaged { path: path.to_owned(), line, reason };
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut bytes, mut line, mut good) = (Vec::new(), from.lines, from.bytes);
    loop {
        bytes.clear();
        let read =
            reader.read_until(b'\n', &mut bytes).map_err(|source| LedgerError::Io { path: path.to_owned(), source })?;
        if read == 0 || bytes.pop() != Some(b'\n') {
            return Ok(End { bytes: good, lines: line });
        }
        line += 1;
        let entry = parse(&bytes).map_err(|reason| damaged(line, reason))?;
        if line == 1 && !matches!(*entry, [Record::Format { version: VERSION, .. }]) {
            return Err(damaged(line, format!("not a ledger of version {VERSION}")));
        }
        for record in entry {
            each(record, good).map_err(|reason| LedgerError::Contradiction { path: path.to_owned(), line, reason })?;
        }
        good = good.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
}

/// Of a ledger that was made without an id, the moment when its first account was opened.
fn id_of(record: &Record) -> Option<String> {
    match record {
        Record::Format { id, .. } => id.clone(),
        Record::Account { at, .. } => Some(format!("opened-{}", at.micros())),
        _ => None,
    }
}

fn parse(line: &[u8]) -> Result<Entry, String> {
    let (prefix, json) = line.split_at_checked(PREFIX).ok_or("too short")?;
    let stated = std::str::from_utf8(prefix)
        .ok()
        .and_then(|text| text.strip_suffix(' '))
        .and_then(|hex| u32::from_str_radix(hex, 16).ok())
        .ok_or("no checksum")?;
    if stated != CRC32.checksum(json) {
        return Err("the checksum does not match".into());
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
