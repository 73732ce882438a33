//! Layers become one tree, the tree becomes a [`Config`]; every fault is found in one go.

use std::collections::BTreeMap;

use config::{Value, ValueKind};

use super::sources::{self, Layer};
use super::{Config, ConfigError, Fault, Origin, Problem, Sources, Unfit, validate};

/// A configuration that holds together, and who set each value.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What to run with.
    pub config: Config,
    tree: Tree,
}

impl Loaded {
    /// Who set this key, such as `server.bind` or `trading.accounts[0].label`.
    pub fn origin(&self, key: &str) -> Origin {
        self.tree.origin(key)
    }

    /// The file that was read, if any.
    pub fn file(&self) -> Option<&std::path::Path> {
        self.tree.origins.values().find_map(|origin| match origin {
            Origin::File(path) => Some(path.as_path()),
            _ => None,
        })
    }
}

/// Loads and validates. See the module for the order of the sources.
///
/// # Errors
/// See [`ConfigError`]; everything that is wrong is reported at once, as far as it can be told.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let layers = sources::layers(sources)?;
    let defaults = Tree::merge(layers.get(..1).unwrap_or_default());
    let mut tree = Tree::merge(&layers);
    let mut problems = Vec::new();
    let config = loop {
        match serde_path_to_error::deserialize::<_, Config>(tree.root.clone()) {
            Ok(config) => break config,
            Err(error) => {
                let key = error.path().to_string();
                problems.push(tree.misfit(&key, error.inner(), &defaults));
                // Go on with the default in its place, to find what else is wrong.
                if !tree.reset(&key, &defaults) {
                    return Err(ConfigError::Invalid(problems));
                }
            }
        }
    };
    problems.extend(tree.converted(&config));
    let section = |key: &str| key.split(['.', '[']).next().unwrap_or_default().to_owned();
    let suspect: Vec<String> = problems.iter().map(|problem| section(&problem.key)).collect();
    let unfit = validate(&config).into_iter().filter(|unfit| !suspect.contains(&section(&unfit.key)));
    problems.extend(unfit.map(|unfit| tree.unfit(unfit)));
    if problems.is_empty() {
        return Ok(Loaded { config, tree });
    }
    problems.sort_by(|a, b| a.key.cmp(&b.key));
    problems.dedup();
    Err(ConfigError::Invalid(problems))
}

/// The merged values, each marked with its origin.
#[derive(Debug, Clone)]
struct Tree {
    root: Value,
    origins: BTreeMap<String, Origin>,
}

impl Tree {
    fn merge(layers: &[Layer]) -> Self {
        let origins = layers.iter().map(|layer| (layer.origin.to_string(), layer.origin.clone())).collect();
        let builder = layers.iter().fold(config::Config::builder(), |builder, layer| builder.add_source(layer.clone()));
        // Our layers hand over ready values, so that building cannot fail.
        let root = builder.build().map(|config| config.cache).unwrap_or_default();
        Self { root, origins }
    }

    fn at(&self, key: &str) -> Option<&Value> {
        segments(key).try_fold(&self.root, |value, segment| match &value.kind {
            ValueKind::Table(table) => table.get(segment),
            ValueKind::Array(items) => items.get(segment.parse::<usize>().ok()?),
            _ => None,
        })
    }

    fn origin(&self, key: &str) -> Origin {
        // What a file or variable contributed to a group is named before the defaults.
        fn names(value: &Value) -> Vec<&str> {
            match &value.kind {
                ValueKind::Table(table) => table.values().flat_map(names).collect(),
                _ => value.origin().into_iter().collect(),
            }
        }
        let names = self.at(key).map(names).unwrap_or_default();
        let mut origins: Vec<&Origin> = names.into_iter().filter_map(|name| self.origins.get(name)).collect();
        origins.sort_by_key(|origin| **origin == Origin::Default);
        origins.first().copied().cloned().unwrap_or(Origin::Default)
    }

    /// Puts the default back, of the whole list where the key is inside one. False if that changed nothing.
    fn reset(&mut self, key: &str, defaults: &Tree) -> bool {
        let key = key.split('[').next().unwrap_or_default();
        let path: Vec<&str> = segments(key).collect();
        let Some((last, parents)) = path.split_last() else { return false };
        let parent = parents.iter().try_fold(&mut self.root, |value, segment| match &mut value.kind {
            ValueKind::Table(table) => table.get_mut(*segment),
            _ => None,
        });
        let Some(Value { kind: ValueKind::Table(table), .. }) = parent else { return false };
        let default = defaults.at(key).cloned();
        if default.as_ref() == table.get(*last) {
            return false;
        }
        match default {
            Some(default) => table.insert((*last).to_owned(), default),
            None => table.remove(*last),
        };
        true
    }

    /// Where a value only contradicts another, whoever departed from the defaults is named.
    fn unfit(&self, unfit: Unfit) -> Problem {
        let own = self.origin(&unfit.key);
        let other = unfit.related.iter().map(|key| self.origin(key)).find(|origin| *origin != Origin::Default);
        let given = super::redact(&unfit.key, &unfit.given);
        let (origin, given) = match (own, other) {
            (Origin::Default, Some(other)) => (other, format!("{given} (default)")),
            (own, _) => (own, given),
        };
        Problem { origin, key: unfit.key, given: Some(given), fault: Fault::Unfit, remedy: unfit.remedy }
    }

    /// Words for a value that serde refused.
    fn misfit(&self, key: &str, error: &config::ConfigError, defaults: &Tree) -> Problem {
        let detail = innermost(error, key);
        let unknown = detail.starts_with("unknown field");
        let default = defaults.at(key).map(show);
        let remedy = match (&default, unknown) {
            (_, true) => {
                let known = detail.split_once("expected ").map_or(detail.as_str(), |(_, known)| known);
                format!("there is no such key; remove it, or write {known}")
            }
            (Some(default), false) => format!("{detail}; write such as {default}"),
            (None, false) => format!("{detail}; correct it, or remove the key"),
        };
        let fault = if unknown { Fault::UnknownKey } else { Fault::WrongType };
        let given = self.at(key).map(|value| super::redact(key, &show(value)));
        Problem { origin: self.origin(key), key: key.to_owned(), given, fault, remedy }
    }

    /// Values that the `config` crate turned into another type on the way, which would hide mistakes: only text from
    /// variables and flags may become a number or a truth value.
    fn converted(&self, config: &Config) -> Vec<Problem> {
        let Ok(effective) = serde_json::to_value(config) else { return Vec::new() };
        let mut found = Vec::new();
        self.compare(String::new(), &self.root, &effective, &mut found);
        found
    }

    fn compare(&self, key: String, given: &Value, effective: &serde_json::Value, found: &mut Vec<Problem>) {
        use serde_json::Value as Json;
        match (&given.kind, effective) {
            (ValueKind::Table(table), Json::Object(object)) => {
                for (name, value) in table {
                    let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                    self.compare(inner, value, object.get(name).unwrap_or(&Json::Null), found);
                }
            }
            (ValueKind::Array(items), Json::Array(list)) => {
                for (index, value) in items.iter().enumerate() {
                    self.compare(format!("{key}[{index}]"), value, list.get(index).unwrap_or(&Json::Null), found);
                }
            }
            _ if same(given, effective, !matches!(self.origin(&key), Origin::File(_) | Origin::Default)) => {}
            _ => {
                let remedy = match effective {
                    Json::Number(_) => "must be a whole number, without quotes".to_owned(),
                    Json::Bool(_) => "must be true or false, without quotes".to_owned(),
                    Json::String(_) => format!("must stand in quotes: \"{}\"", show(given).trim_matches('"')),
                    _ => "does not fit".to_owned(),
                };
                let shown = super::redact(&key, &show(given));
                found.push(Problem {
                    origin: self.origin(&key),
                    key,
                    given: Some(shown),
                    fault: Fault::WrongType,
                    remedy,
                });
            }
        }
    }
}

fn same(given: &Value, effective: &serde_json::Value, is_text: bool) -> bool {
    use serde_json::Value as Json;
    match (&given.kind, effective) {
        (ValueKind::Nil, Json::Null) | (ValueKind::String(_), Json::String(_)) => true,
        (ValueKind::Boolean(a), Json::Bool(b)) => a == b,
        (ValueKind::String(text), Json::Number(number)) => is_text && *text == number.to_string(),
        (ValueKind::String(text), Json::Bool(flag)) => is_text && text.parse() == Ok(*flag),
        (ValueKind::I64(_) | ValueKind::U64(_), Json::Number(number)) => given.to_string() == number.to_string(),
        _ => false,
    }
}

fn segments(key: &str) -> impl Iterator<Item = &str> {
    key.split(['.', '[']).map(|segment| segment.trim_end_matches(']')).filter(|segment| !segment.is_empty())
}

/// The error without the keys and origins that the `config` crate wraps around it: we name them ourselves.
fn innermost(error: &config::ConfigError, key: &str) -> String {
    match error {
        config::ConfigError::At { error, .. } => innermost(error, key),
        config::ConfigError::NotFound(path) => {
            let name = path.strip_prefix(key).unwrap_or(path).trim_start_matches('.');
            format!("the key `{name}` is missing")
        }
        config::ConfigError::Type { unexpected, expected, .. } => format!("{unexpected} is not {expected}"),
        other => other.to_string(),
    }
}

/// A value as one would write it.
fn show(value: &Value) -> String {
    match &value.kind {
        ValueKind::Nil => "null".to_owned(),
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        ValueKind::Table(table) => {
            let mut pairs: Vec<String> = table.iter().map(|(key, inner)| format!("{key}: {}", show(inner))).collect();
            pairs.sort();
            format!("{{{}}}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}
