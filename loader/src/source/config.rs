//! The configuration of a data source: the keys of `[data]` that belong to it.

use std::collections::BTreeMap;
use std::env::home_dir;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::{DataSource, FieldNames};
use crate::dataset::{DatasetError, Split};

/// The configuration of a data source: the table `[data]` without `kind` and without the keys that all
/// sources have in common.
///
/// Derive `Deserialize` with `#[serde(deny_unknown_fields)]`, so that a misspelled key is an error. Derive
/// `JsonSchema` as well: the doc comments of the fields are the descriptions in the reference of the config.
pub trait SourceConfig:
    Clone + fmt::Debug + Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static
{
    /// The name in `data.kind`. If the source has a key of this name, a config may leave out `kind`: `csv =
    /// "labels.csv"` is enough for `kind = "csv"`.
    const KIND: &'static str;

    /// Checks the values of the keys, and makes relative paths absolute: they are relative to `base`, the
    /// folder of the config file. The program calls this when it reads the config, before any work is done.
    ///
    /// # Errors
    /// [`SourceConfigError`], which names the key.
    fn resolve(&mut self, base: &Path) -> Result<(), SourceConfigError>;

    /// The configuration of the images that are for testing only, if keys of the table name some.
    fn test_data(&self) -> Option<Self> {
        None
    }

    /// Whether each sample has a group, which `split.method = "group"` needs.
    fn has_groups(&self) -> bool {
        false
    }

    /// The folder of the images if each image is a file of its own, whose id is its path relative to this
    /// folder: then an image is found by its id without listing the data.
    fn image_root(&self) -> Option<&Path> {
        None
    }

    /// A folder of which every subfolder is part of the data, so that the program must not write a run into
    /// it.
    fn listed_folder(&self) -> Option<&Path> {
        None
    }

    /// The values that name a data set on the Hugging Face hub, such as `hf://datasets/owner/name`. The
    /// program downloads these data sets before it opens the source ([`SourceContext::downloads`]); a run
    /// replaces each by a name with the commit.
    fn hub_datasets(&mut self) -> Vec<&mut String> {
        Vec::new()
    }

    /// Opens the data of this configuration, but not the data of [`test_data`](Self::test_data).
    ///
    /// # Errors
    /// [`DatasetError`] if the source cannot be opened.
    fn open(&self, context: &SourceContext) -> Result<OpenDataSource, DatasetError>;
}

/// What a source gets besides its own configuration when it is opened.
#[derive(Clone, Debug, Default)]
pub struct SourceContext {
    /// The column or field with the split of a sample, `split.column`; `None` unless
    /// `split.method = "predefined"`.
    pub split_column: Option<String>,
    /// Whether links in folders of photos may lead out of them, `data.follow_links`.
    pub follow_links: bool,
    /// The downloaded data sets of the Hugging Face hub by the values of [`SourceConfig::hub_datasets`].
    pub downloads: BTreeMap<String, DownloadedDataset>,
}

impl SourceContext {
    /// The columns or fields with the class, the group and the split of a sample: `label` and `group` are keys
    /// of the source, the column of the split is the same key for all sources.
    pub(super) fn fields(&self, label: &str, group: Option<&String>) -> FieldNames {
        FieldNames { label: label.into(), group: group.cloned(), split: self.split_column.clone() }
    }
}

/// A data set of the Hugging Face hub on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadedDataset {
    /// Its files, in order.
    pub files: Vec<DownloadedFile>,
    /// The folder that the ids of its samples are relative to.
    pub root: PathBuf,
}

/// A file of a data set of the Hugging Face hub on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadedFile {
    /// The file.
    pub path: PathBuf,
    /// The split that the data set puts all samples of the file into; `None` if it does not say.
    pub split: Option<Split>,
}

/// An opened data source.
#[derive(Debug)]
pub struct OpenDataSource {
    /// Lists the samples.
    pub source: Box<dyn DataSource>,
    /// The folder that ids are relative to.
    pub root: PathBuf,
}

/// Why a table `[data]` is not a valid configuration of a source.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SourceConfigError {
    /// A key has a value that is not accepted, or is missing.
    #[error("`{key}` {problem}")]
    Key {
        /// The key within `[data]`.
        key: String,
        /// What is wrong and what to do, such as "is empty: it must be a path".
        problem: String,
    },
    /// The table does not have the keys and types of the source.
    #[error("the table is not valid for the source `{kind}`: {message}")]
    Table {
        /// The name of the source.
        kind: &'static str,
        /// What is wrong, with the key.
        message: String,
    },
}

impl SourceConfigError {
    /// The error that `key`, within `[data]`, has an invalid value or is missing.
    pub fn key(key: &str, problem: impl Into<String>) -> Self {
        Self::Key { key: key.into(), problem: problem.into() }
    }
}

/// Makes `path`, the value of `key` within `[data]`, absolute if it is relative to `base`.
///
/// # Errors
/// [`SourceConfigError::Key`] for an empty path, and for one that is not UTF-8, because runs write it into
/// their config.
pub fn resolve_path(key: &str, path: &mut PathBuf, base: &Path) -> Result<(), SourceConfigError> {
    *path = absolute_path(path, base).map_err(|problem| SourceConfigError::key(key, problem))?.into();
    Ok(())
}

/// The absolute path of `path`, the value of a config key, which may be relative to `base`, or to the home folder
/// if it begins with `~/`. It must be UTF-8, because runs write it into their config.
///
/// # Errors
/// What is wrong with the value, such as "is empty: it must be a path".
pub fn absolute_path(path: &Path, base: &Path) -> Result<String, String> {
    if path.as_os_str().is_empty() {
        return Err("is empty: it must be a path".into());
    }
    let absolute = base.join(expand_home(path)?);
    absolute.to_str().map(str::to_owned).ok_or_else(|| {
        format!("leads to {}, which is not UTF-8: rename the file or folder", absolute.display())
    })
}

/// `path` with the home folder of the user in place of a `~` at its beginning, as a shell has it.
///
/// # Errors
/// What is wrong with the value: the home folder of another user (`~ann/photos`), or none is known.
pub fn expand_home(path: &Path) -> Result<PathBuf, String> {
    expand_home_to(path, home_dir().as_deref())
}

/// [`expand_home`] with the home folder `home`.
fn expand_home_to(path: &Path, home: Option<&Path>) -> Result<PathBuf, String> {
    let Some(first) = path.iter().next().and_then(OsStr::to_str).filter(|first| first.starts_with('~'))
    else {
        return Ok(path.into());
    };
    if first != "~" {
        return Err(format!(
            "is {}: the home folder of another user is not looked up; write the whole path, or ./{first} if it is \
             the name of a file or folder",
            path.display()
        ));
    }
    let home = home.ok_or_else(|| {
        format!("is {}, but the home folder is not known: write the whole path", path.display())
    })?;
    Ok(path.iter().skip(1).fold(home.into(), |folder, name| folder.join(name)))
}

/// A resolved configuration with its type hidden, so that the program can open any source. Its methods are
/// those of [`SourceConfig`].
pub trait ConfiguredSource: fmt::Debug + Send + Sync {
    /// The name of the source, such as `csv`: the value of `data.kind` in a config.
    fn kind(&self) -> &'static str;
    /// The keys of the source with their values, those with default values too. It is saved with a run.
    fn table(&self) -> toml::Table;
    /// The configuration of the images that are for testing only.
    fn test_data(&self) -> Option<Box<dyn ConfiguredSource>>;
    /// Whether each sample has a group.
    fn has_groups(&self) -> bool;
    /// The folder of the images if each is a file, whose id is its path relative to this folder.
    fn image_root(&self) -> Option<&Path>;
    /// A folder of which every subfolder is part of the data.
    fn listed_folder(&self) -> Option<&Path>;
    /// The values that name a data set on the Hugging Face hub.
    fn hub_datasets(&mut self) -> Vec<&mut String>;
    /// Opens the data.
    ///
    /// # Errors
    /// [`DatasetError`] if the source cannot be opened.
    fn open(&self, context: &SourceContext) -> Result<OpenDataSource, DatasetError>;
    /// A copy of this configuration.
    fn boxed_clone(&self) -> Box<dyn ConfiguredSource>;
}

impl<C: SourceConfig> ConfiguredSource for C {
    fn kind(&self) -> &'static str {
        C::KIND
    }

    fn table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("a source's configuration is a table of TOML values")
    }

    fn test_data(&self) -> Option<Box<dyn ConfiguredSource>> {
        Some(Box::new(SourceConfig::test_data(self)?))
    }

    fn has_groups(&self) -> bool {
        SourceConfig::has_groups(self)
    }

    fn image_root(&self) -> Option<&Path> {
        SourceConfig::image_root(self)
    }

    fn listed_folder(&self) -> Option<&Path> {
        SourceConfig::listed_folder(self)
    }

    fn hub_datasets(&mut self) -> Vec<&mut String> {
        SourceConfig::hub_datasets(self)
    }

    fn open(&self, context: &SourceContext) -> Result<OpenDataSource, DatasetError> {
        SourceConfig::open(self, context)
    }

    fn boxed_clone(&self) -> Box<dyn ConfiguredSource> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn ConfiguredSource> {
    fn clone(&self) -> Self {
        (**self).boxed_clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_is_the_home_folder_and_that_of_another_user_is_refused() {
        let expand = |path: &str| expand_home_to(Path::new(path), Some(Path::new("/home/ann")));
        for (path, expected) in [
            ("~", "/home/ann"),
            ("~/", "/home/ann"),
            ("~/photos/dogs", "/home/ann/photos/dogs"),
            ("photos/~", "photos/~"),
            ("./~bob", "./~bob"),
            ("/~/x", "/~/x"),
            ("", ""),
            ("a~", "a~"),
        ] {
            assert_eq!(expand(path).as_deref(), Ok(Path::new(expected)), "{path}");
        }
        for path in ["~bob", "~bob/photos", "~~", "~."] {
            let error = expand(path).unwrap_err();
            assert!(
                error.starts_with(&format!("is {path}: ")) && error.contains("write the whole path"),
                "{error}"
            );
        }
        assert!(expand("~bob/x").unwrap_err().contains("or ./~bob if it is"));
        assert!(expand_home_to(Path::new("~/x"), None).unwrap_err().contains("home folder is not known"));
        assert_eq!(expand_home_to(Path::new("x"), None).as_deref(), Ok(Path::new("x")));
    }

    #[test]
    fn paths_of_a_config_begin_at_the_home_folder_or_at_its_own() {
        let home = home_dir().unwrap();
        let absolute = |path: &str| absolute_path(Path::new(path), Path::new("/base"));
        assert_eq!(absolute("~/photos").unwrap(), home.join("photos").to_str().unwrap());
        assert_eq!(absolute("photos").unwrap(), "/base/photos");
        assert!(absolute("~bob/photos").unwrap_err().starts_with("is ~bob/photos: "));
    }
}
