//! Errors of a configuration: all of them at once, each with its place and its key.

use std::fmt;
use std::path::{Path, PathBuf};

/// A place in the file; lines and columns count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// Where, if it is at one place.
    pub mark: Option<Mark>,
    /// The key's path, empty for the file as a whole.
    pub key: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl ConfigError {
    pub(super) fn at(mark: Mark, key: &str, message: impl Into<String>) -> Self {
        Self {
            mark: Some(mark),
            key: key.to_owned(),
            message: message.into(),
        }
    }

    pub(super) fn nowhere(message: impl Into<String>) -> Self {
        Self {
            mark: None,
            key: String::new(),
            message: message.into(),
        }
    }
}

/// Everything that is wrong with a file, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file.
    pub path: PathBuf,
    /// Its errors; never empty.
    pub errors: Vec<ConfigError>,
}

impl ConfigErrors {
    pub(super) fn new(path: &Path, mut errors: Vec<ConfigError>) -> Self {
        errors.sort();
        errors.dedup();
        Self {
            path: path.to_owned(),
            errors,
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        for error in &self.errors {
            write!(f, "{path}:")?;
            if let Some(mark) = error.mark {
                write!(f, "{}:{}:", mark.line, mark.column)?;
            }
            if !error.key.is_empty() {
                write!(f, " {}:", error.key)?;
            }
            writeln!(f, " {}", error.message)?;
        }
        match self.errors.len() {
            1 => write!(f, "1 error"),
            count => write!(f, "{count} errors"),
        }
    }
}

impl std::error::Error for ConfigErrors {}
