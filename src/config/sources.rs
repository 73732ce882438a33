//! Where values come from: embedded defaults, a file, the environment, flags; later ones win.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;

use config::{FileFormat, Source, Value, ValueKind};

use super::ConfigError;

/// The name of the file inside a configuration directory.
pub(super) const FILE_NAME: &str = "config.yaml";
/// Where the file is looked for when nobody names a directory, below the working directory.
pub(super) const DEFAULT_DIR: &str = "manifest/config";
/// Variables that name the configuration directory; the first that is set wins.
pub(super) const DIR_VARIABLES: [&str; 2] = ["HOTGO_CONFIG", "GF_GCFG_PATH"];
/// The older name of `HOTGO__LOG__DIR`.
pub(super) const LOG_DIR_ALIAS: &str = "GF_GLOG_PATH";
/// What variables that set a key begin with.
pub(super) const PREFIX: &str = "HOTGO__";

const DEFAULTS: &str = include_str!("../../manifest/config/defaults.yaml");

/// What [`super::load`] reads. Nothing else is looked at, so that two configurations can be loaded in one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The configuration directory from `--config`.
    pub dir: Option<PathBuf>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// Where `manifest/config` is looked for.
    pub working_dir: PathBuf,
    /// Values from flags: key, value, flag.
    pub flags: Vec<(&'static str, String, &'static str)>,
}

impl Sources {
    /// This process's environment and working directory, no flags. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self { dir: None, env: env.collect(), working_dir: PathBuf::from("."), flags: Vec::new() }
    }
}

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The embedded defaults.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Variable(String),
    /// This flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// The layers, weakest first, and who made each.
pub(super) fn layers(sources: &Sources) -> Result<Vec<Layer>, ConfigError> {
    let mut layers = vec![defaults()];
    layers.extend(file(sources)?);
    layers.extend(sources.env.iter().filter_map(|(name, text)| variable(name, text)));
    for (key, value, flag) in &sources.flags {
        layers.push(Layer::nested(
            Origin::Flag(flag),
            key.split('.').map(str::to_owned),
            ValueKind::from(value.as_str()),
        ));
    }
    Ok(layers)
}

/// Values from one origin.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) origin: Origin,
    values: HashMap<String, Value>,
}

impl Layer {
    fn nested(origin: Origin, path: impl DoubleEndedIterator<Item = String>, kind: ValueKind) -> Self {
        let leaf = stamp(Value::new(None, kind), &origin.to_string());
        let tree = path.rev().fold(leaf, |inner, key| Value::new(None, HashMap::from([(key, inner)])));
        Self { origin, values: tree.into_table().unwrap_or_default() }
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<HashMap<String, Value>, config::ConfigError> {
        Ok(self.values.clone())
    }
}

/// Marks a value, and what it contains, with its origin.
fn stamp(value: Value, origin: &str) -> Value {
    let owner = origin.to_owned();
    let kind = match value.kind {
        ValueKind::Table(table) => {
            ValueKind::Table(table.into_iter().map(|(key, inner)| (key, stamp(inner, origin))).collect())
        }
        ValueKind::Array(items) => ValueKind::Array(items.into_iter().map(|inner| stamp(inner, origin)).collect()),
        leaf => leaf,
    };
    Value::new(Some(&owner), kind)
}

fn parse(text: &str) -> Result<HashMap<String, Value>, config::ConfigError> {
    Source::collect(&config::File::from_str(text, FileFormat::Yaml))
}

#[expect(clippy::expect_used, reason = "the text is part of the program; a test loads it")]
fn defaults() -> Layer {
    let values = parse(DEFAULTS).expect("the embedded defaults parse");
    let stamped = values.into_iter().map(|(key, value)| (key, stamp(value, &Origin::Default.to_string()))).collect();
    Layer { origin: Origin::Default, values: stamped }
}

fn file(sources: &Sources) -> Result<Option<Layer>, ConfigError> {
    let by_variable = || {
        DIR_VARIABLES.iter().find_map(|name| {
            let dir = sources.env.get(*name).filter(|dir| !dir.is_empty())?;
            Some((PathBuf::from(dir), format!("variable {name}")))
        })
    };
    let named = sources.dir.clone().map(|dir| (dir, "flag --config".to_owned())).or_else(by_variable);
    let (path, named_by, must_exist) = match named {
        Some((dir, by)) => (dir.join(FILE_NAME), by, true),
        None => (sources.working_dir.join(DEFAULT_DIR).join(FILE_NAME), "working directory".to_owned(), false),
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(error) => return Err(ConfigError::Unreadable { path, named_by, cause: error.to_string() }),
    };
    let values = parse(&text).map_err(|error| ConfigError::Syntax { path: path.clone(), cause: syntax(&error) })?;
    let origin = Origin::File(path.strip_prefix(".").unwrap_or(&path).to_path_buf());
    let name = origin.to_string();
    let values = without_empty_sections(values).into_iter().map(|(key, value)| (key, stamp(value, &name))).collect();
    Ok(Some(Layer { origin, values }))
}

fn syntax(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::FileParse { cause, .. } => cause.to_string(),
        other => other.to_string(),
    }
}

/// A section whose keys are all commented out reads as null; it means an empty section, not no section.
fn without_empty_sections(values: HashMap<String, Value>) -> HashMap<String, Value> {
    values
        .into_iter()
        .filter(|(_, value)| value.kind != ValueKind::Nil)
        .map(|(key, value)| match value.kind {
            ValueKind::Table(inner) => (key, Value::new(None, without_empty_sections(inner))),
            _ => (key, value),
        })
        .collect()
}

/// `HOTGO__VENUE__PAPER__LATENCY_MS` sets `venue.paper.latency_ms`; names of assets keep their case. A text that begins
/// with `[` or `{` is read as YAML. An empty variable counts as not set.
fn variable(name: &str, text: &str) -> Option<Layer> {
    let path = if name == LOG_DIR_ALIAS { "LOG__DIR" } else { name.strip_prefix(PREFIX)? };
    if text.is_empty() {
        return None;
    }
    let asset = path.strip_prefix("VENUE__PAPER__OPENING__");
    let keys: Vec<String> = match asset {
        Some(asset) => ["venue", "paper", "opening", asset].map(str::to_owned).to_vec(),
        None => path.split("__").map(str::to_lowercase).collect(),
    };
    let flow = text.trim_start().starts_with(['[', '{']);
    let parsed = flow.then(|| parse(&format!("value: {text}")).ok()?.remove("value")).flatten();
    let kind = parsed.map_or_else(|| ValueKind::from(text), |value| value.kind);
    Some(Layer::nested(Origin::Variable(name.to_owned()), keys.into_iter(), kind))
}

/// Whether a terminal may be coloured, by the conventions of `NO_COLOR` (no-color.org) and `TERM`.
pub fn terminal_takes_color() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Which stream systemd's journal reads, as `device:inode`, if it has said so.
pub(crate) fn journal_stream() -> Option<String> {
    std::env::var_os("JOURNAL_STREAM")?.into_string().ok()
}
