//! Lookup of data sources by name.

use std::path::Path;

use schemars::{Schema, SchemaGenerator};
use serde_json::Value;
use thiserror::Error;

use super::coco::CocoConfig;
use super::config::{ConfiguredSource, SourceConfig, SourceConfigError};
use super::csv::CsvConfig;
use super::folder::FolderConfig;
use super::metadata::MetadataConfig;
#[cfg(feature = "parquet")]
use super::parquet::ParquetConfig;
use super::webdataset::WebDatasetConfig;

/// An error from looking up or adding a data source.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SourceRegistryError {
    /// A source with this name is already registered.
    #[error(
        "the program already has a data source named `{0}`: give the new source a different name (its \
         constant `KIND`)"
    )]
    Duplicate(&'static str),
    /// No source has this name.
    #[error("there is no data source `{name}`: choose one of {}", known.join(", "))]
    Unknown {
        /// The requested name.
        name: String,
        /// All known names.
        known: Vec<&'static str>,
    },
}

/// The known data sources, in the order in which they were added.
#[derive(Default)]
pub struct SourceRegistry {
    kinds: Vec<SourceKind>,
}

impl SourceRegistry {
    /// A registry of the sources of this crate: `folder`, `csv`, `metadata`, `coco`, `parquet` and `webdataset`.
    #[must_use]
    pub fn builtin() -> Self {
        Self {
            kinds: vec![
                SourceKind::new::<FolderConfig>(),
                SourceKind::new::<CsvConfig>(),
                SourceKind::new::<MetadataConfig>(),
                SourceKind::new::<CocoConfig>(),
                #[cfg(feature = "parquet")]
                SourceKind::new::<ParquetConfig>(),
                SourceKind::new::<WebDatasetConfig>(),
            ],
        }
    }

    /// A registry without sources, to which [`with`](Self::with) adds some.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// This registry with a source that is not built in, under the name `C::KIND`, so that a config can name
    /// it in `data.kind`. `C` is the source's configuration type.
    ///
    /// # Errors
    /// [`SourceRegistryError::Duplicate`] when a source with this name is already registered.
    pub fn with<C: SourceConfig>(mut self) -> Result<Self, SourceRegistryError> {
        if self.get(C::KIND).is_ok() {
            return Err(SourceRegistryError::Duplicate(C::KIND));
        }
        self.kinds.push(SourceKind::new::<C>());
        Ok(self)
    }

    /// Looks up the source that is registered as `name`, the value of `data.kind` in a config.
    ///
    /// # Errors
    /// [`SourceRegistryError::Unknown`], which lists the known names.
    pub fn get(&self, name: &str) -> Result<&SourceKind, SourceRegistryError> {
        self.iter().find(|kind| kind.name() == name).ok_or_else(|| SourceRegistryError::Unknown {
            name: name.into(),
            known: self.iter().map(SourceKind::name).collect(),
        })
    }

    /// All sources, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &SourceKind> {
        self.kinds.iter()
    }
}

/// The configuration of a source from a table, or what is wrong with the table.
type Configured = Result<Box<dyn ConfiguredSource>, SourceConfigError>;

/// A registered data source with its configuration type hidden.
pub struct SourceKind {
    name: &'static str,
    json_schema: fn(&mut SchemaGenerator) -> Schema,
    configure: fn(toml::Table, &Path) -> Configured,
}

impl SourceKind {
    /// The source with the configuration type `C`.
    fn new<C: SourceConfig>() -> Self {
        Self { name: C::KIND, json_schema: C::json_schema, configure: configure::<C> }
    }

    /// The name of the source, such as `csv`: the value of `data.kind` in a config.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The keys of `[data]` that the source has, in the order of the configuration's fields.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let schema = self.json_schema(&mut SchemaGenerator::default());
        let properties = schema.get("properties").and_then(Value::as_object);
        properties.into_iter().flat_map(|keys| keys.keys().cloned()).collect()
    }

    /// The JSON schema of the table `[data]` with the keys of this source only; `generator` collects the
    /// definitions that the parts of a schema share.
    pub fn json_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        (self.json_schema)(generator)
    }

    /// Parses and resolves the table `[data]`, which has the keys of this source only. Paths in it are
    /// relative to `base`.
    ///
    /// # Errors
    /// [`SourceConfigError`], which names the key.
    pub fn configure(
        &self,
        table: toml::Table,
        base: &Path,
    ) -> Result<Box<dyn ConfiguredSource>, SourceConfigError> {
        (self.configure)(table, base)
    }
}

/// [`SourceKind::configure`] for the source with the configuration type `C`.
fn configure<C: SourceConfig>(table: toml::Table, base: &Path) -> Configured {
    let mut config: C = table.try_into().map_err(|error: toml::de::Error| SourceConfigError::Table {
        kind: C::KIND,
        message: error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    })?;
    config.resolve(base)?;
    Ok(Box::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_sources_are_known_by_name() {
        let names: Vec<&str> = SourceRegistry::builtin().iter().map(SourceKind::name).collect();
        assert_eq!(names, ["folder", "csv", "metadata", "coco", "parquet", "webdataset"]);
    }

    #[test]
    fn a_source_that_is_added_twice_is_an_error() {
        let error = SourceRegistry::builtin().with::<CsvConfig>().err().unwrap().to_string();
        assert!(error.contains("already has a data source named `csv`"), "{error}");
    }

    #[test]
    fn an_unknown_source_lists_the_known_ones() {
        let registry = SourceRegistry::builtin();
        let error = registry.get("cvs").err().unwrap().to_string();
        assert_eq!(
            error,
            "there is no data source `cvs`: choose one of folder, csv, metadata, coco, parquet, webdataset"
        );
    }

    #[test]
    fn a_table_is_checked_completed_and_resolved() {
        let registry = SourceRegistry::builtin();
        let csv = registry.get("csv").unwrap();
        let configure = |text: &str| csv.configure(text.parse().unwrap(), Path::new("/base"));
        let table = configure("csv = 'x.csv'\nimages = 'photos'").unwrap().table();
        assert_eq!(
            table.to_string(),
            "csv = \"/base/x.csv\"\nimages = \"/base/photos\"\nid = \"id\"\nlabel = \"label\"\nextension = \
             \"\"\n"
        );
        let message = |text: &str| configure(text).unwrap_err().to_string();
        assert!(message("csv = ''").starts_with("`csv` is empty"));
        assert!(message("csv = 'x.csv'").starts_with("`images` is missing"));
        assert!(message("csv = 3").contains("expected path string in `csv`"), "{}", message("csv = 3"));
        assert!(message("csv = 'x.csv'\nimage = 'x'").contains("unknown field `image`"));
    }
}
