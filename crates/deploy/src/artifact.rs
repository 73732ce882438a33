//! Artifacts: a release as `tar.gz`, and a detached signature that names its checksum, its length and what it needs when
//! unpacked. Nothing of an artifact is looked at before all of that is right.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::Deserialize;

use crate::error::Error;
use crate::layout::{make_dir, write_file};
use crate::process::{self, Interrupt};
use crate::release::{FileEntry, MAIN, Manifest, RELEASE_JSON, Release, Schema, hex, sha256};
use crate::site::Site;
use crate::time;

const MAGIC: &str = "hotgo-artifact 1";
const QUICK: Duration = Duration::from_secs(30);
const BUILD: Duration = Duration::from_hours(1);

fn key_id(public: &[u8]) -> String {
    hex(public).chars().take(16).collect()
}

/// Makes a key pair: `PATH` (secret, for who builds) and `PATH.pub` (for the hosts). Returns the key's id.
///
/// # Errors
/// When a file is there already, or cannot be written.
pub fn keygen(path: &Path) -> Result<String, Error> {
    let refused = || Error::Usage("the system gave no random numbers".to_owned());
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| refused())?;
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| refused())?;
    let public = pair.public_key().as_ref();
    for (path, mode, text) in
        [(path.to_owned(), 0o600, pkcs8.as_ref()), (path.with_added_extension("pub"), 0o644, public)]
    {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(Error::at("make", &path))?;
        writeln!(file, "{}", BASE64_STANDARD.encode(text)).map_err(Error::at("write", &path))?;
    }
    Ok(key_id(public))
}

fn read_base64(path: &Path) -> Result<Vec<u8>, Error> {
    let text = fs::read_to_string(path).map_err(Error::at("read", path))?;
    BASE64_STANDARD.decode(text.trim()).map_err(|_| Error::Usage(format!("{} is no key of this tool", path.display())))
}

/// What `build` is told.
#[derive(Debug)]
pub struct Build {
    /// The server; built with cargo if none is given.
    pub binary: Option<PathBuf>,
    /// Where its source is.
    pub source: PathBuf,
    /// Where the artifact goes.
    pub out: PathBuf,
    /// The secret key.
    pub key: PathBuf,
}

/// Makes an artifact and its signature. Returns the artifact's path and what is in it.
///
/// # Errors
/// When the binary cannot be built or does not say what it is, or a file cannot be written.
pub fn build(build: &Build, interrupt: &Interrupt) -> Result<(PathBuf, Manifest), Error> {
    let key = read_base64(&build.key)?;
    let pair = Ed25519KeyPair::from_pkcs8(&key)
        .map_err(|_| Error::Usage(format!("{} is no secret key of this tool", build.key.display())))?;
    let binary = match &build.binary {
        Some(binary) => binary.clone(),
        None => compile(&build.source, interrupt)?,
    };
    let (build_id, schema) = ask(&binary, interrupt)?;
    let mut sources = BTreeMap::from([(MAIN.to_owned(), binary)]);
    collect(&build.source.join("manifest"), "manifest", &mut sources)?;
    let mut files = Vec::new();
    for (path, source) in &sources {
        let mut file = File::open(source).map_err(Error::at("read", source))?;
        let mode = file.metadata().map_err(Error::at("read", source))?.permissions().mode();
        let (sha256, bytes) = sha256(&mut file).map_err(Error::at("read", source))?;
        files.push(FileEntry { path: path.clone(), bytes, sha256, executable: mode & 0o100 != 0 || path == MAIN });
    }
    let manifest = Manifest::new(build_id, time::now_ms(), schema, files);
    make_dir(&build.out, 0o755)?;
    let path = build.out.join(format!("hotgo-{}.tar.gz", manifest.release_name()));
    // It gets its name when it is complete and signed: a build that fails leaves no artifact.
    let temporary = path.with_added_extension("new");
    let made = pack(&temporary, &manifest, &sources)
        .map_err(Error::at("write", &path))
        .and_then(|()| sign(&temporary, &path, &manifest, &pair))
        .and_then(|()| fs::rename(&temporary, &path).map_err(Error::at("write", &path)));
    if made.is_err() {
        for left in [&temporary, &path.with_added_extension("sig")] {
            let _gone = fs::remove_file(left);
        }
    }
    made.map(|()| (path, manifest))
}

fn compile(source: &Path, interrupt: &Interrupt) -> Result<PathBuf, Error> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "--profile", "dist", "--bin", MAIN]).current_dir(source);
    let done = process::run(&mut cargo, None, BUILD, interrupt)?;
    if !done.status.success() {
        return Err(Error::Artifact(format!("cargo build failed:\n{}", done.last_words())));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| source.join("target"), PathBuf::from);
    Ok(target.join("dist").join(MAIN))
}

#[derive(Debug, Deserialize)]
struct Accepted {
    accepted: [i64; 2],
    migrations: Vec<crate::release::Migration>,
}

/// The build id, and the schemas, as the binary itself tells them.
fn ask(binary: &Path, interrupt: &Interrupt) -> Result<(String, Schema), Error> {
    let binary = binary.canonicalize().map_err(Error::at("read", binary))?;
    let nowhere = std::env::temp_dir().join(format!("hotgo-deploy-no-database-{}", std::process::id()));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&binary);
        command.args(arguments).arg("--data-dir").arg(&nowhere).current_dir("/");
        let done = process::run(&mut command, None, QUICK, interrupt)?;
        if !done.status.success() {
            let what = arguments.join(" ");
            return Err(Error::Artifact(format!("`{} {what}` fails: {}", binary.display(), done.last_words())));
        }
        Ok(done.stdout)
    };
    let build_id = version(&binary, interrupt)?;
    let text = run(&["migrate", "status", "--json"])?;
    let answer: Accepted = serde_json::from_str(&text)
        .map_err(|error| Error::Artifact(format!("`main migrate status --json` is not understood: {error}")))?;
    let [min, max] = answer.accepted;
    let own = answer.migrations.iter().map(|step| step.version).max().unwrap_or(min);
    Ok((build_id, Schema { min, max, own }))
}

fn version(binary: &Path, interrupt: &Interrupt) -> Result<String, Error> {
    let done = process::run(Command::new(binary).arg("--version"), None, QUICK, interrupt)?;
    match done.stdout.split_whitespace().last() {
        Some(build_id) if done.status.success() => Ok(build_id.to_owned()),
        _ => Err(Error::Artifact(format!("`{} --version` does not name a build", binary.display()))),
    }
}

fn collect(dir: &Path, name: &str, into: &mut BTreeMap<String, PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::at("read", dir))? {
        let entry = entry.map_err(Error::at("read", dir))?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(Error::at("read", &entry.path()))?;
        if kind.is_dir() {
            collect(&entry.path(), &name, into)?;
        } else if kind.is_file() {
            into.insert(name, entry.path());
        }
    }
    Ok(())
}

fn pack(path: &Path, manifest: &Manifest, sources: &BTreeMap<String, PathBuf>) -> io::Result<()> {
    let file = BufWriter::new(File::create(path)?);
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let header = |bytes: u64, executable: bool| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(if executable { 0o755 } else { 0o644 });
        header.set_mtime(manifest.created_ms / 1_000);
        header
    };
    let text = serde_json::to_vec_pretty(manifest)?;
    let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
    archive.append_data(&mut header(bytes, false), RELEASE_JSON, text.as_slice())?;
    for entry in &manifest.files {
        let source = sources.get(&entry.path).ok_or(io::ErrorKind::NotFound)?;
        archive.append_data(&mut header(entry.bytes, entry.executable), &entry.path, File::open(source)?)?;
    }
    let mut file = archive.into_inner()?.finish()?;
    file.flush()?;
    file.get_ref().sync_all()
}

/// What is signed.
fn statement(bytes: u64, unpacked: u64, sha256: &str) -> String {
    format!("{MAGIC}\nbytes {bytes}\nunpacked {unpacked}\nsha256 {sha256}\n")
}

/// The content of one file, beside another one.
fn sign(content: &Path, path: &Path, manifest: &Manifest, pair: &Ed25519KeyPair) -> Result<(), Error> {
    let (sha256, bytes) =
        File::open(content).and_then(|mut file| sha256(&mut file)).map_err(Error::at("read", content))?;
    let unpacked = manifest.files.iter().map(|file| file.bytes).sum();
    let statement = statement(bytes, unpacked, &sha256);
    let signature = BASE64_STANDARD.encode(pair.sign(statement.as_bytes()));
    let text = format!("{statement}key {}\nsignature {signature}\n", key_id(pair.public_key().as_ref()));
    write_file(&path.with_added_extension("sig"), text.as_bytes(), 0o644)
}

/// An artifact that is what it was when somebody who is trusted signed it.
#[derive(Debug)]
pub struct Verified {
    file: File,
    unpacked: u64,
    path: PathBuf,
}

/// Compares an artifact with its signature, and the signature with the keys in a directory.
///
/// # Errors
/// [`Error::Artifact`] says what is not as it should be.
pub fn verify(path: &Path, keys: &Path) -> Result<Verified, Error> {
    let wrong = |what: String| Error::Artifact(format!("{}: {what}", path.display()));
    let signature_path = path.with_added_extension("sig");
    let text = fs::read_to_string(&signature_path)
        .map_err(|error| wrong(format!("its signature {} cannot be read: {error}", signature_path.display())))?;
    let no_signature = || wrong(format!("{} is no signature of this tool", signature_path.display()));
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    let field = |name| fields.get(name).copied().ok_or_else(no_signature);
    let number = |name| field(name).and_then(|text| text.parse::<u64>().map_err(|_| no_signature()));
    let (bytes, unpacked, expected) = (number("bytes")?, number("unpacked")?, field("sha256")?);
    let signature = BASE64_STANDARD.decode(field("signature")?).map_err(|_| no_signature())?;
    let signed = statement(bytes, unpacked, expected);
    let key = field("key")?;
    let trusted = trusted_key(keys, key)?.ok_or_else(|| {
        wrong(format!("signed with key {key}, which is not in {}: `install --key FILE` adds it", keys.display()))
    })?;
    UnparsedPublicKey::new(&ED25519, trusted)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| wrong("its signature is wrong".to_owned()))?;

    let mut file = File::open(path).map_err(Error::at("read", path))?;
    let (found, length) = sha256(&mut file).map_err(Error::at("read", path))?;
    if length != bytes {
        return Err(wrong(format!("it has {length} bytes, and {bytes} were signed: copy it again")));
    }
    if found != expected {
        return Err(wrong(format!("its SHA-256 is {found}, and {expected} was signed: copy it again")));
    }
    io::Seek::rewind(&mut file).map_err(Error::at("read", path))?;
    Ok(Verified { file, unpacked, path: path.to_owned() })
}

fn trusted_key(dir: &Path, id: &str) -> Result<Option<Vec<u8>>, Error> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "pub") {
            let key = read_base64(&path)?;
            if key_id(&key) == id {
                return Ok(Some(key));
            }
        }
    }
    Ok(None)
}

/// Unpacks it into the releases. Twice is once.
///
/// # Errors
/// [`Error::Space`] before anything is written; [`Error::Artifact`] when the content is not what `release.json` says, or
/// cannot run here.
pub fn unpack(site: &Site, artifact: &Verified) -> Result<(Release, bool), Error> {
    let layout = &site.layout;
    make_dir(&layout.releases(), 0o755)?;
    site.check_space(artifact.unpacked)?;
    let incoming = layout.release(&format!(".incoming-{}", std::process::id()));
    if incoming.exists() {
        fs::remove_dir_all(&incoming).map_err(Error::at("remove", &incoming))?;
    }
    make_dir(&incoming, 0o755)?;
    let result = unpack_into(site, artifact, &incoming);
    if incoming.exists() {
        // Whatever came of it; the next run removes what stays.
        let _stays = fs::remove_dir_all(&incoming);
    }
    result
}

fn unpack_into(site: &Site, artifact: &Verified, incoming: &Path) -> Result<(Release, bool), Error> {
    let wrong = |what: String| Error::Artifact(format!("{}: {what}", artifact.path.display()));
    let manifest = extract(&artifact.file, incoming).map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::PermissionDenied => {
            Error::at("unpack into", incoming)(error)
        }
        _ => wrong(format!("cannot be unpacked: {error}")),
    })?;
    let name = manifest.release_name();
    let release = Release { name: name.clone(), dir: incoming.to_owned(), manifest };
    release.verify()?;
    let said = version(&incoming.join(MAIN), &site.interrupt)
        .map_err(|error| wrong(format!("its binary does not run on this machine: {error}")))?;
    if said != release.manifest.build_id {
        return Err(wrong(format!("its binary says it is {said}, its {RELEASE_JSON} {}", release.manifest.build_id)));
    }
    let home = site.layout.release(&name);
    if let Ok(there) = Release::load(&site.layout, &name) {
        if there.manifest == release.manifest && there.verify().is_ok() {
            return Ok((there, false));
        }
        return Err(wrong(format!("{} is there already, and differs", home.display())));
    }
    let at = Error::at("write", &home);
    let finish = || {
        fs::rename(incoming, &home)?;
        File::open(site.layout.releases())?.sync_all()
    };
    finish().map_err(at)?;
    Ok((Release { dir: home, ..release }, true))
}

/// Only plain files with plain names, each once, on the disk when this returns.
fn extract(file: &File, into: &Path) -> io::Result<Manifest> {
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut archive = tar::Archive::new(GzDecoder::new(BufReader::new(file)));
    let mut manifest: Option<Manifest> = None;
    let mut found = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || !entry.header().entry_type().is_file() {
            return Err(bad(format!("{} is no plain file", path.display())));
        }
        let Some(manifest) = &manifest else {
            let mut text = Vec::new();
            entry.read_to_end(&mut text)?;
            write_synced(&into.join(RELEASE_JSON), 0o644, &mut text.as_slice())?;
            manifest = Some(Manifest::parse(&text).map_err(|error| bad(error.to_string()))?);
            continue;
        };
        let known = manifest.files.iter().find(|file| Path::new(&file.path) == path);
        let known = known.ok_or_else(|| bad(format!("{} is not in {RELEASE_JSON}", path.display())))?;
        let target = into.join(&path);
        if let Some(dir) = target.parent() {
            fs::create_dir_all(dir)?;
        }
        write_synced(&target, if known.executable { 0o755 } else { 0o644 }, &mut entry)?;
        found += 1;
    }
    match manifest {
        Some(manifest) if manifest.files.len() == found => Ok(manifest),
        Some(_) => Err(bad("files are missing".to_owned())),
        None => Err(bad(format!("there is no {RELEASE_JSON}"))),
    }
}

fn write_synced(path: &Path, mode: u32, content: &mut impl io::Read) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    io::copy(content, &mut file)?;
    file.sync_all()
}
