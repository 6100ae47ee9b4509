//! Errors of a config.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::VERSION;

/// The reason why a config is invalid.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file does not exist.
    #[error("there is no config file {}", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("failed to read {} as a config file: check that it is a file and that you are allowed to read \
             it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{origin} is not a valid config file (TOML): {message}")]
    Syntax {
        /// The file.
        origin: String,
        /// The message of the parser, with the line.
        message: String,
    },
    /// `version` is missing, or is not the version that this program reads.
    #[error("{origin}: {}", version_problem(.found.as_deref()))]
    Version {
        /// The file.
        origin: String,
        /// The value in the file.
        found: Option<String>,
    },
    /// An unknown key.
    #[error("{origin}: unknown key `{key}`; did you mean `{nearest}`? (known keys: {})", known.join(", "))]
    UnknownKey {
        /// The file.
        origin: String,
        /// The key with its section.
        key: String,
        /// The most similar known key with its section.
        nearest: String,
        /// The known keys of the section.
        known: Vec<String>,
    },
    /// A value that is of the wrong type or unknown.
    #[error("{origin}: {message}")]
    Value {
        /// The file.
        origin: String,
        /// What is wrong, with the key.
        message: String,
    },
    /// A key with an invalid value, or a missing key.
    #[error("{origin}: `{key}` {problem}")]
    Key {
        /// The file.
        origin: String,
        /// The key with its section.
        key: String,
        /// The problem and what to do, as a fragment: `is missing: ...`.
        problem: String,
    },
    /// An override that is not a valid assignment.
    #[error("the override `{text}` of the config is invalid: {problem}")]
    Override {
        /// The override as given.
        text: String,
        /// What is wrong.
        problem: String,
    },
}

/// What is wrong with the key `version` of a config file, as a part of the message of
/// [`ConfigError::Version`]. `found` is its value, `None` if the key is missing.
fn version_problem(found: Option<&str>) -> String {
    match found {
        None => format!("`version` is missing: begin the file with `version = {VERSION}`"),
        Some(found) => format!(
            "`version` is {found}, but this headstock reads version {VERSION}: use the version of \
             headstock that the file was written for"
        ),
    }
}
