//! `headstock.toml`: parsing, overrides, and resolution to [`Settings`].

mod data_source;
mod error;
mod keys;
mod options;
mod schema;
mod settings;
mod tune;
mod validator;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use headstock_heads::Registry;
use headstock_loader::SourceRegistry;
use toml::{Table, Value};

pub use data_source::DataSourceConfig;
pub(crate) use data_source::fetch_hub_dataset;
pub use error::ConfigError;
pub use keys::known_keys;
pub(crate) use options::DEFAULT_FOLDS;
pub use options::{DataOptions, FeatureOptions, OnError, Options, SplitMethod, SplitOptions, VERSION};
pub use schema::json_schema;
pub use settings::Settings;
use settings::{BackboneRequirement, DEFAULT_HEAD};
pub use tune::{AugmentMode, CacheDtype, HeadInit, OptimizerKind, ScheduleKind, TuneFrom, TuneOptions};

/// What a program adds to: the heads and the data sources that a config can name.
pub struct Registries {
    /// The heads, for `[head]`.
    pub heads: Registry,
    /// The data sources, for `[data]`.
    pub sources: SourceRegistry,
}

impl Registries {
    /// The heads and sources that are built in.
    #[must_use]
    pub fn builtin() -> Self {
        Registry::builtin().into()
    }
}

impl From<Registry> for Registries {
    /// `heads` and the built-in sources.
    fn from(heads: Registry) -> Self {
        Self { heads, sources: SourceRegistry::builtin() }
    }
}

/// A config before it is resolved: the parsed table with overrides applied.
#[derive(Clone, Debug)]
pub struct Config {
    table: Table,
    /// The name of the file, for messages; after overrides, it says so.
    origin: String,
    /// The folder that relative paths are relative to.
    base: PathBuf,
    /// The values of overrides as they were given, with the paths of their keys: where a key wants a text, it
    /// is that of the override, also if it is a number in TOML.
    override_texts: Vec<(Vec<String>, String)>,
}

impl Config {
    /// Reads the config file `path` as TOML and checks its version; the other keys are checked by
    /// [`resolve`](Self::resolve). Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError`] if the file cannot be read, is not TOML, or has another version.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ConfigError::Missing(path.into()),
            _ => ConfigError::Read { path: path.into(), source },
        };
        let text = fs::read_to_string(path).map_err(read_error)?;
        let absolute = std::path::absolute(path).map_err(read_error)?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        Self::parse(&text, &path.display().to_string(), base)
    }

    /// Parses the `text` of a config file and checks its version. `origin` is the name of the file for
    /// messages; relative paths in the text are relative to the folder `base`.
    ///
    /// ```
    /// use std::path::{Path, PathBuf};
    /// use headstock_train::config::{Config, Registries};
    ///
    /// let text = "version = 1\n[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\n";
    /// let mut config = Config::parse(text, "headstock.toml", Path::new("/pets"))?;
    /// config.set(&["head.C=0.1"])?;
    /// let settings = config.resolve(&Registries::builtin())?;
    /// assert_eq!(settings.head.kind(), "linear");
    /// # Ok::<(), headstock_train::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] if it is not TOML or has another version.
    pub fn parse(text: &str, origin: &str, base: &Path) -> Result<Self, ConfigError> {
        let table: Table = text.parse().map_err(|source: toml::de::Error| ConfigError::Syntax {
            origin: origin.into(),
            message: source.to_string().trim_end().to_owned(),
        })?;
        // The version is checked first: the meaning of the other keys depends on it.
        match table.get("version") {
            Some(Value::Integer(version)) if *version == i64::from(VERSION) => {}
            found => {
                let found = found.map(ToString::to_string);
                return Err(ConfigError::Version { origin: origin.into(), found });
            }
        }
        Ok(Self { table, origin: origin.into(), base: base.into(), override_texts: Vec::new() })
    }

    /// Makes relative paths in overrides relative to the current folder, for the config of a run, whose own
    /// paths are absolute. Those of the weights and the cache in a packed run are relative to its folder.
    pub(crate) fn with_overrides_from_cwd(mut self) -> Self {
        for (section, key) in [("backbone", "weights"), ("features", "cache")] {
            if let Some(Value::String(path)) =
                self.table.get_mut(section).and_then(|table| table.get_mut(key))
                && !path.starts_with("hf://")
            {
                *path = self.base.join(&*path).display().to_string();
            }
        }
        Self { base: PathBuf::new(), ..self }
    }

    /// The text of the config for a folder that has the weights in its subfolder `weights`: without the absolute
    /// paths of this machine. The paths of the data become their last parts, which say what belongs there.
    pub(crate) fn packed_text(&self, weights: &str) -> String {
        let mut table = self.table.clone();
        for (section, key, value) in [("backbone", "weights", weights), ("features", "cache", ".headstock")] {
            if let Some(Value::Table(section)) = table.get_mut(section) {
                section.insert(key.to_owned(), value.into());
            }
        }
        if let Some(Value::Table(data)) = table.get_mut("data") {
            // A pattern of file names may begin with `/`, too.
            let paths = data.iter_mut().filter(|(key, _)| *key != "label_pattern");
            paths.for_each(|(_, value)| keep_last_part(value));
        }
        table.to_string()
    }

    /// Overrides keys of the config file, for example from the command line. Each of the `assignments` is a
    /// text such as `head.C=0.1`. A value is parsed as TOML; if it is not TOML, or the key wants a string, it is
    /// a string.
    ///
    /// An override of `head.kind` is applied before all others. If it differs from the file's, the other keys
    /// of the file's `[head]` are dropped, because they belong to a different head.
    ///
    /// # Errors
    /// [`ConfigError::Override`] if an assignment is not of the form `KEY=VALUE`, or if a section in its key
    /// is a value.
    pub fn set(&mut self, assignments: &[impl AsRef<str>]) -> Result<(), ConfigError> {
        let assignments: Vec<Assignment<'_>> =
            assignments.iter().map(|text| Assignment::parse(text.as_ref())).collect::<Result<_, _>>()?;
        let is_changed = !assignments.is_empty();
        let (kinds, others): (Vec<_>, Vec<_>) =
            assignments.into_iter().partition(|a| a.path == ["head", "kind"]);
        if let Some(kind) = kinds.last() {
            let current_kind = self.table.get("head").and_then(|head| head.get("kind")?.as_str());
            let is_same_kind = kind.value.as_str() == Some(current_kind.unwrap_or(DEFAULT_HEAD));
            if !is_same_kind
                && let Some(Value::Table(dropped)) = self.table.remove("head")
                && dropped.keys().any(|key| key != "kind")
            {
                tracing::info!(
                    "the section [head] in {} has settings for a different head than the chosen one: these \
                     settings are not used",
                    self.origin
                );
            }
        }
        if is_changed {
            self.origin += " (with changed keys)";
        }
        for assignment in kinds.into_iter().chain(others) {
            let path = assignment.path.iter().map(|&name| name.to_owned()).collect();
            self.override_texts.push((path, assignment.value_text.to_owned()));
            assignment.apply(&mut self.table)?;
        }
        Ok(())
    }

    /// Separates the overrides of the keys of `[head]`, except for its kind, from the other `assignments`:
    /// returns these keys with their values, and the others as they are. A comparison applies them to each
    /// head that has the key.
    ///
    /// # Errors
    /// Those of [`set`](Self::set).
    pub fn separate_head_keys(assignments: &[String]) -> Result<(Table, Vec<String>), ConfigError> {
        let (mut keys, mut others) = (Table::new(), Vec::new());
        for text in assignments {
            let assignment = Assignment::parse(text)?;
            match assignment.path[..] {
                ["head", ref path @ ..] if !path.is_empty() && path != ["kind"] => {
                    let path = path.to_vec();
                    Assignment { path, ..assignment }.apply(&mut keys)?;
                }
                _ => others.push(text.clone()),
            }
        }
        Ok((keys, others))
    }

    /// Checks all keys and values, fills in the defaults and makes paths absolute.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file and the key.
    pub fn resolve(self, registries: &Registries) -> Result<Settings, ConfigError> {
        self.resolve_with(registries, BackboneRequirement::Required)
    }

    /// Unlike [`resolve`](Self::resolve), accepts a config without `[backbone]`, for commands that only read
    /// images.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file and the key.
    pub fn resolve_images_only(self, registries: &Registries) -> Result<Settings, ConfigError> {
        self.resolve_with(registries, BackboneRequirement::Optional)
    }

    /// Replaces the values of overrides by their texts where the key wants a text and the value is a number or
    /// something else in TOML.
    fn take_override_texts(&mut self, registries: &Registries) {
        if self.override_texts.is_empty() {
            return;
        }
        let schema = json_schema(&registries.heads, &registries.sources);
        // The last one counts.
        for (path, text) in self.override_texts.iter().rev() {
            if keys::wants_text(&schema, path) {
                replace_by_text(&mut self.table, path, text);
            }
        }
    }

    /// Turns the parsed TOML into checked settings: refuses unknown keys, deserializes the table, and
    /// resolves the options. `backbone` says whether `[backbone]` may be missing; `registries` are the known
    /// heads and data sources.
    fn resolve_with(
        mut self,
        registries: &Registries,
        backbone: BackboneRequirement,
    ) -> Result<Settings, ConfigError> {
        self.take_override_texts(registries);
        keys::check(&self.table, &self.origin, &registries.sources)?;
        let options = Options::from_table(self.table)
            .map_err(|error| ConfigError::Value { origin: self.origin.clone(), message: one_line(&error) })?;
        Settings::resolve(options, &self.origin, &self.base, registries, backbone)
    }
}

/// A parsed override of a config key, such as `head.C=0.1`.
struct Assignment<'a> {
    /// The override as given, for messages.
    text: &'a str,
    /// The names of the sections and, at the end, of the key.
    path: Vec<&'a str>,
    /// The value as given.
    value_text: &'a str,
    value: Value,
}

impl<'a> Assignment<'a> {
    /// Parses an override of a config key, `SECTION.KEY=VALUE`, into the path of the key and the value. The
    /// error says what is wrong with `text`.
    fn parse(text: &'a str) -> Result<Self, ConfigError> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| Self::override_error(text, "write KEY=VALUE, as in head.C=0.1"))?;
        let path: Vec<&str> = key.trim().split('.').collect();
        if path == ["version"] {
            return Err(Self::override_error(text, "the version of the config file cannot be overridden"));
        }
        if path.iter().any(|name| name.is_empty()) {
            return Err(Self::override_error(text, "the name of a section or key is empty"));
        }
        let value_text = value.trim();
        Ok(Self { text, path, value_text, value: parse_value(value_text) })
    }

    /// The error that the override `text` is invalid, with the `problem`.
    fn override_error(text: &str, problem: &str) -> ConfigError {
        ConfigError::Override { text: text.into(), problem: problem.into() }
    }

    /// Applies the override: sets its key in the config `table` to its value. Creates missing sections.
    fn apply(self, table: &mut Table) -> Result<(), ConfigError> {
        let mut table = table;
        let (leaf, sections) = self.path.split_last().expect("a path has at least one key");
        for section in sections {
            let entry = table.entry(*section).or_insert_with(|| Value::Table(Table::new()));
            table = entry.as_table_mut().ok_or_else(|| {
                Self::override_error(self.text, &format!("`{section}` is a value, not a section with keys"))
            })?;
        }
        table.insert((*leaf).to_owned(), self.value);
        Ok(())
    }
}

/// Replaces absolute paths in `value`, a path or a list of them, by their last parts.
fn keep_last_part(value: &mut Value) {
    match value {
        Value::String(text) if Path::new(text).is_absolute() => {
            let last = Path::new(text).file_name().unwrap_or_default();
            *text = last.to_string_lossy().into_owned();
        }
        Value::Array(values) => values.iter_mut().for_each(keep_last_part),
        _ => {}
    }
}

/// Makes the value of the key `path` in `table` the string `text`, unless it is a string already, because it was
/// in quotes. Does nothing if there is no such key.
fn replace_by_text(table: &mut Table, path: &[String], text: &str) {
    let Some((leaf, sections)) = path.split_last() else { return };
    let section = sections.iter().try_fold(table, |table, name| table.get_mut(name)?.as_table_mut());
    if let Some(value) = section.and_then(|section| section.get_mut(leaf))
        && !value.is_str()
    {
        *value = Value::String(text.to_owned());
    }
}

/// Parses the value of an override of a config key (`KEY=VALUE`) as TOML, such as `0.1` or `["a", "b"]`. Text
/// that is no TOML value is a string, so that `svm` needs no quotes.
fn parse_value(text: &str) -> Value {
    let mut parsed: Table = format!("value = {text}").parse().unwrap_or_default();
    // There are more keys if `text` has several lines; then it is no TOML value.
    let value = if parsed.len() == 1 { parsed.remove("value") } else { None };
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Joins the lines of a TOML error: the message and, on the next line, its position such as "in
/// `split.seed`".
fn one_line(error: &toml::de::Error) -> String {
    error.to_string().split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
