//! Errors and paths of a config file.

use std::path::Path;

use headstock_loader::source::absolute_path;

use super::ConfigError;

/// Checks the sections of a config; its errors name the config file `origin`.
pub(super) struct Validator<'a> {
    pub(super) origin: &'a str,
}

impl Validator<'_> {
    /// The error that `key` has an invalid value or is missing; `problem` is a fragment such as "is 0: ...".
    pub(super) fn key_error(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::Key { origin: self.origin.into(), key: key.into(), problem: problem.into() }
    }

    /// Returns the [`key_error`](Self::key_error) unless `is_valid`.
    pub(super) fn check(
        &self,
        is_valid: bool,
        key: &str,
        problem: impl Into<String>,
    ) -> Result<(), ConfigError> {
        if is_valid { Ok(()) } else { Err(self.key_error(key, problem)) }
    }

    /// The error with a complete `message`, which names the key itself.
    pub(super) fn value_error(&self, message: String) -> ConfigError {
        ConfigError::Value { origin: self.origin.into(), message }
    }

    /// The absolute path of `path`, which is the value of the config key `key` and may be relative to `base`.
    /// It must be UTF-8, because runs write it into their config.
    pub(super) fn absolute_path(&self, key: &str, path: &Path, base: &Path) -> Result<String, ConfigError> {
        absolute_path(path, base).map_err(|problem| self.key_error(key, problem))
    }
}
