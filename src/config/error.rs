//! Why a configuration is refused.

use std::fmt;
use std::path::PathBuf;

use super::Origin;

/// Why there is no configuration. The message names the file or variable, the key, the value given, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The directory that was named holds no readable `config.yaml`.
    #[error("{} = {}: cannot read it: {cause}; create the file, or name the directory that holds config.yaml", named_by, path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The flag or variable that named its directory, or `working directory`.
        named_by: String,
        /// The system's words.
        cause: String,
    },
    /// The file is no YAML, or not a map of sections.
    #[error("{}: {cause}; write `section:` and below it, indented, `key: value`", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        cause: String,
    },
    /// Keys or values that do not fit: all of them, one a line.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Problem>),
}

/// One key or value that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Who set it.
    pub origin: Origin,
    /// Such as `trading.accounts[0].label`.
    pub key: String,
    /// The value given; absent when there is none (a missing key).
    pub given: Option<String>,
    /// What kind of fault it is.
    pub fault: Fault,
    /// What is wrong and what to do about it.
    pub remedy: String,
}

/// Kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no such key.
    UnknownKey,
    /// The value is not of the key's type, or a key of the group is missing.
    WrongType,
    /// The value is of the right type and cannot be used, alone or together with others.
    Unfit,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.key)?;
        if let Some(given) = &self.given {
            write!(f, " = {given}")?;
        }
        write!(f, ": {}", self.remedy)
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}
