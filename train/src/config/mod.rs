//! `headstock.toml`: the file, and the settings that it resolves to.

mod data_source;
mod error;
mod keys;
mod options;
mod settings;
mod tune;

use std::fs;
use std::path::{Path, PathBuf};

use headstock_heads::Registry;
use toml::{Table, Value};

pub use data_source::{DataLocation, DataSourceConfig};
pub use error::ConfigError;
pub use keys::known_keys;
pub(crate) use options::DEFAULT_FOLDS;
pub use options::{
    BackboneOptions, DataOptions, FeatureOptions, OnError, Options, SplitMethod, SplitOptions, VERSION,
};
use settings::DEFAULT_HEAD;
pub use settings::Settings;
pub use tune::{AugmentMode, CacheDtype, HeadInit, OptimizerKind, ScheduleKind, TuneFrom, TuneOptions};

/// A config before it is resolved: its text as a table, overrides applied, and where it came from.
#[derive(Clone, Debug)]
pub struct Config {
    table: Table,
    /// For messages: the file's name.
    origin: String,
    /// What relative paths are meant from.
    base: PathBuf,
}

impl Config {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// [`ConfigError`] for a file that cannot be read, is no TOML, or is of another version.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ConfigError::Missing(path.into()));
            }
            Err(source) => return Err(ConfigError::Read { path: path.into(), source }),
        };
        let absolute =
            std::path::absolute(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        Self::parse(&text, &path.display().to_string(), base)
    }

    /// Reads `text`, called `origin` in messages, whose relative paths are meant from `base`.
    ///
    /// ```
    /// use std::path::{Path, PathBuf};
    /// use headstock_heads::Registry;
    /// use headstock_train::config::Config;
    ///
    /// let text = "version = 1\n[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\n";
    /// let mut config = Config::parse(text, "headstock.toml", Path::new("/pets"))?;
    /// config.set(&["head.C=0.1"])?;
    /// let settings = config.resolve(&Registry::builtin())?;
    /// assert_eq!(settings.head.kind(), "linear");
    /// # Ok::<(), headstock_train::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] when it is no TOML, or of another version.
    pub fn parse(text: &str, origin: &str, base: &Path) -> Result<Self, ConfigError> {
        let table: Table = text.parse().map_err(|source: toml::de::Error| ConfigError::Syntax {
            origin: origin.into(),
            message: source.to_string().trim_end().to_owned(),
        })?;
        // First of all: what other keys mean depends on it.
        match table.get("version") {
            Some(Value::Integer(version)) if *version == i64::from(VERSION) => {}
            found => {
                let found = found.map(ToString::to_string);
                return Err(ConfigError::Version { origin: origin.into(), found });
            }
        }
        Ok(Self { table, origin: origin.into(), base: base.into() })
    }

    /// Relative paths in overrides are meant from the current folder, not from the config's: for the config of a run, in
    /// which all paths are absolute.
    pub(crate) fn with_overrides_from_cwd(self) -> Self {
        Self { base: PathBuf::new(), ..self }
    }

    /// Overrides keys: `head.C=0.1`. A value is read as TOML; what is none is a string.
    ///
    /// Another `head.kind` than the file's comes first, wherever it stands, and drops the rest of the file's `[head]`,
    /// which belongs to that other head.
    ///
    /// # Errors
    /// [`ConfigError::Override`] when one is not of the form `KEY=VALUE`, or its key leads through a value.
    pub fn set(&mut self, assignments: &[impl AsRef<str>]) -> Result<(), ConfigError> {
        let assignments: Vec<Assignment<'_>> =
            assignments.iter().map(|text| Assignment::parse(text.as_ref())).collect::<Result<_, _>>()?;
        let (kinds, others): (Vec<_>, Vec<_>) =
            assignments.into_iter().partition(|a| a.path == ["head", "kind"]);
        if let Some(kind) = kinds.last() {
            let head = self.table.get("head").and_then(Value::as_table);
            let current_kind =
                head.and_then(|head| head.get("kind")).and_then(Value::as_str).unwrap_or(DEFAULT_HEAD);
            let is_same_kind = kind.value.as_str() == Some(current_kind);
            if !is_same_kind && let Some(dropped) = self.table.remove("head") {
                let n_keys =
                    dropped.as_table().map_or(0, |head| head.keys().filter(|key| *key != "kind").count());
                if n_keys > 0 {
                    tracing::info!(
                        "the keys of [head] in {} are those of another head and are not used",
                        self.origin
                    );
                }
            }
        }
        kinds.into_iter().chain(others).try_for_each(|assignment| assignment.apply(&mut self.table))
    }

    /// Checks every key and value, fills in the defaults and makes paths absolute.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file and the key.
    pub fn resolve(self, heads: &Registry) -> Result<Settings, ConfigError> {
        self.resolve_with(heads, true)
    }

    /// As [`resolve`](Self::resolve), for what looks at photos alone: `[backbone]` may be missing.
    ///
    /// # Errors
    /// As there.
    pub fn resolve_images_only(self, heads: &Registry) -> Result<Settings, ConfigError> {
        self.resolve_with(heads, false)
    }

    fn resolve_with(self, heads: &Registry, backbone: bool) -> Result<Settings, ConfigError> {
        keys::check(&self.table, &self.origin)?;
        let options: Options = self.table.try_into().map_err(|error: toml::de::Error| {
            ConfigError::Value { origin: self.origin.clone(), message: one_line(&error) }
        })?;
        Settings::resolve(options, &self.origin, &self.base, heads, backbone)
    }
}

/// `KEY=VALUE`
struct Assignment<'a> {
    text: &'a str,
    path: Vec<&'a str>,
    value: Value,
}

impl<'a> Assignment<'a> {
    fn parse(text: &'a str) -> Result<Self, ConfigError> {
        let (key, value) =
            text.split_once('=').ok_or_else(|| Self::override_error(text, "write KEY=VALUE"))?;
        let path: Vec<&str> = key.trim().split('.').collect();
        if path == ["version"] {
            return Err(Self::override_error(
                text,
                "it says what the file is written in, and cannot be overridden",
            ));
        }
        if path.iter().any(|part| part.is_empty()) {
            return Err(Self::override_error(text, "the key has an empty part"));
        }
        Ok(Self { text, path, value: parse_value(value.trim()) })
    }

    fn override_error(text: &str, problem: &str) -> ConfigError {
        ConfigError::Override { text: text.into(), problem: problem.into() }
    }

    fn apply(self, table: &mut Table) -> Result<(), ConfigError> {
        let mut table = table;
        let (leaf, sections) = self.path.split_last().expect("a key has a part at least");
        for section in sections {
            let entry = table.entry(*section).or_insert_with(|| Value::Table(Table::new()));
            table = entry.as_table_mut().ok_or_else(|| {
                Self::override_error(self.text, &format!("`{section}` is a value, not a section"))
            })?;
        }
        table.insert((*leaf).to_owned(), self.value);
        Ok(())
    }
}

fn parse_value(text: &str) -> Value {
    let parsed: Result<Table, _> = format!("value = {text}").parse();
    match parsed {
        Ok(mut table) if table.len() == 1 => {
            table.remove("value").unwrap_or_else(|| Value::String(text.to_owned()))
        }
        _ => Value::String(text.to_owned()),
    }
}

/// toml gives the message on the first line and where it belongs on the next, as "in `split.seed`".
fn one_line(error: &toml::de::Error) -> String {
    error.to_string().split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
