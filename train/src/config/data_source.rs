//! The source of the samples, resolved from `[data]`.

use std::path::{Path, PathBuf};

use headstock_hub::{DatasetFiles, DownloadProgress, HubError, fetch_dataset};
use headstock_loader::Split;
use headstock_loader::source::{ConfiguredSource, SourceConfigError, SourceKind, SourceRegistry};

use super::validator::Validator;
use super::{ConfigError, DataOptions};

/// Where the samples come from.
#[derive(Clone, Debug)]
pub enum DataSourceConfig {
    /// Images: the data source with its keys.
    Images(Box<dyn ConfiguredSource>),
    /// A file of precomputed features.
    Features(PathBuf),
}

impl PartialEq for DataSourceConfig {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Images(a), Self::Images(b)) => a.kind() == b.kind() && a.table() == b.table(),
            (Self::Features(a), Self::Features(b)) => a == b,
            _ => false,
        }
    }
}

/// Downloads the data set of the Hugging Face hub with this `name`, such as `hf://datasets/owner/name`: of the
/// splits that its README.md states, those that are a [`Split`] by name.
pub(crate) fn fetch_hub_dataset(
    name: &str,
    progress: &dyn DownloadProgress,
) -> Result<DatasetFiles, HubError> {
    let uses_split = |split: &str| Split::from_name(split).is_some();
    fetch_dataset(&name.strip_prefix("hf://").unwrap_or(name).parse()?, &uses_split, progress)
}

impl Validator<'_> {
    /// Finds the source of the samples that the config section `data` names, and checks its keys. Paths
    /// relative to `base` become absolute and the defaults for this kind of source are filled in. `sources`
    /// are the known sources.
    pub(super) fn resolve_source(
        &self,
        data: &DataOptions,
        base: &Path,
        sources: &SourceRegistry,
    ) -> Result<DataSourceConfig, ConfigError> {
        self.check(data.max_pixels > 0, "data.max_pixels", "is 0: it must be at least 1")?;
        let kind = self.find_source_kind(data, sources)?;
        self.refuse_misplaced_keys(data, kind, sources)?;
        let Some(kind) = kind else {
            let features = data.features.as_ref().expect("features are the only data without a source");
            let path = self.absolute_path("data.features", features, base)?;
            return Ok(DataSourceConfig::Features(path.into()));
        };
        let source = kind.configure(data.source.clone(), base).map_err(|error| match error {
            SourceConfigError::Key { key, problem } => self.key_error(&format!("data.{key}"), problem),
            error @ SourceConfigError::Table { .. } => self.value_error(format!("[data]: {error}")),
        })?;
        Ok(DataSourceConfig::Images(source))
    }

    /// The kind of source that `[data]` names: by `kind`, or by a key with the name of a kind. `None` for
    /// precomputed features.
    fn find_source_kind<'a>(
        &self,
        data: &DataOptions,
        sources: &'a SourceRegistry,
    ) -> Result<Option<&'a SourceKind>, ConfigError> {
        let named: Vec<&SourceKind> = match &data.kind {
            Some(kind) => vec![
                sources
                    .get(kind)
                    .map_err(|error| self.key_error("data.kind", format!("is \"{kind}\": {error}")))?,
            ],
            None => sources.iter().filter(|kind| data.source.contains_key(kind.name())).collect(),
        };
        match (named.as_slice(), &data.features) {
            ([kind], None) => Ok(Some(*kind)),
            ([], Some(_)) => Ok(None),
            ([], None) => {
                let keys = naming_keys(sources);
                Err(self.key_error("data", format!("does not say where the photos are: set one of {keys}")))
            }
            _ => Err(self.several_sources_error(sources)),
        }
    }

    fn several_sources_error(&self, sources: &SourceRegistry) -> ConfigError {
        let keys = naming_keys(sources);
        self.key_error("data", format!("must have exactly one of {keys}: remove the others"))
    }

    /// Refuses keys of `[data]` that belong to a different kind of source than `kind`, because they would
    /// silently have no effect: the error says which key would name their source. A key that names a source
    /// itself, such as `parquet` beside `csv`, is an error about two sources.
    fn refuse_misplaced_keys(
        &self,
        data: &DataOptions,
        kind: Option<&SourceKind>,
        sources: &SourceRegistry,
    ) -> Result<(), ConfigError> {
        let own_keys = kind.map(SourceKind::keys).unwrap_or_default();
        let Some(key) = data.source.keys().find(|key| !own_keys.contains(key)) else { return Ok(()) };
        if sources.get(key).is_ok() {
            return Err(self.several_sources_error(sources));
        }
        let owners: Vec<String> =
            sources.iter().filter(|kind| kind.keys().contains(key)).map(naming_key).collect();
        let set = if owners.len() == 1 { "set it" } else { "set one of them" };
        let problem = format!("needs {}: {set}, or remove this key", join_words(&owners, "or"));
        Err(self.key_error(&format!("data.{key}"), problem))
    }
}

/// The key and, if needed, the value with which a config names a kind of source.
fn naming_key(kind: &SourceKind) -> String {
    let name = kind.name();
    if kind.keys().iter().any(|key| key == name) {
        format!("`data.{name}`")
    } else {
        format!("`data.kind = \"{name}\"`")
    }
}

/// The keys with which a config names its data, for messages.
fn naming_keys(sources: &SourceRegistry) -> String {
    let mut keys: Vec<String> = sources.iter().map(|kind| naming_key(kind).replace("data.", "")).collect();
    keys.push("`features`".into());
    join_words(&keys, "and")
}

/// Words as an enumeration: `a, b and c`.
pub(super) fn join_words(words: &[String], conjunction: &str) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} {conjunction} {last}", first.join(", ")),
    }
}
