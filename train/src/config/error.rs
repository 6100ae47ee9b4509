//! What can be wrong with a config.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::VERSION;

/// Why a config cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no such file.
    #[error("there is no config {}: write one with `headstock init`, or name one with --config", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no TOML.
    #[error("{origin} is not TOML: {message}")]
    Syntax {
        /// The file.
        origin: String,
        /// What the parser says, with the line.
        message: String,
    },
    /// `version` is missing or of another version.
    #[error("{origin}: {}", version_problem(.found.as_deref()))]
    Version {
        /// The file.
        origin: String,
        /// What stands there.
        found: Option<String>,
    },
    /// A key that is not known.
    #[error("{origin}: there is no key `{key}`; did you mean `{nearest}`? (known here: {})", known.join(", "))]
    UnknownKey {
        /// The file.
        origin: String,
        /// The key with its section.
        key: String,
        /// The known key that is most like it, with its section.
        nearest: String,
        /// The keys known in that section.
        known: Vec<String>,
    },
    /// A value of the wrong type or none of those known.
    #[error("{origin}: {message}")]
    Value {
        /// The file.
        origin: String,
        /// What is wrong, with the key.
        message: String,
    },
    /// A key whose value cannot be followed, or a key that is missing.
    #[error("{origin}: `{key}` {problem}")]
    Key {
        /// The file.
        origin: String,
        /// The key with its section.
        key: String,
        /// What is wrong and what to do, as a fragment: `is missing: ...`.
        problem: String,
    },
    /// `--set` with something that is no assignment.
    #[error("--set {text}: {problem}")]
    Override {
        /// As given.
        text: String,
        /// What is wrong.
        problem: String,
    },
}

fn version_problem(found: Option<&str>) -> String {
    match found {
        None => format!("`version` is missing: begin the file with `version = {VERSION}`"),
        Some(found) => format!("`version` is {found}, and this headstock reads {VERSION}"),
    }
}
