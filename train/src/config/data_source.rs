//! The source of the samples, resolved from `[data]`.

use std::path::{Path, PathBuf};

use headstock_loader::{CsvSource, FieldNames};

use super::validator::Validator;
use super::{ConfigError, DataOptions, SplitMethod, SplitOptions};

/// Where the samples come from: exactly one of the keys of `[data]` that name a source is set.
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataSourceConfig {
    /// Images.
    Images {
        /// All images, or those for training.
        main: DataLocation,
        /// Images for testing only.
        test: Option<DataLocation>,
    },
    /// A file of precomputed features.
    Features(PathBuf),
}

/// A location of images and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataLocation {
    /// A folder with one folder per class.
    Folder(PathBuf),
    /// A CSV table with one image per row.
    Csv(CsvSource),
    /// Parquet shards.
    Parquet {
        /// A file, a folder, a pattern, or a data set of the Hugging Face hub.
        shards: String,
        /// The column with the image.
        image: String,
        /// The names of the columns with label, group and split.
        fields: FieldNames,
    },
    /// Tar archives.
    WebDataset {
        /// A file, a folder or a pattern.
        shards: String,
        /// The names of the fields of their `json` members.
        fields: FieldNames,
    },
}

/// Prefix of the names of data sets on the Hugging Face hub.
const HUB_DATASETS: &str = "hf://datasets/";

/// The keys of `[data]` that name a source, for messages.
const SOURCE_KEYS: &str = "`folder`, `csv`, `parquet`, `webdataset` and `features`";

impl Validator<'_> {
    /// Finds the source of the samples that the config section `[data]` names, and checks its keys. In
    /// `data`, paths relative to `base` become absolute and the defaults for this kind of source are filled
    /// in. `split` says whether a column of the data defines the split, and which.
    pub(super) fn resolve_source(
        &self,
        data: &mut DataOptions,
        split: &SplitOptions,
        base: &Path,
    ) -> Result<DataSourceConfig, ConfigError> {
        for (key, path) in [
            ("data.folder", &mut data.folder),
            ("data.csv", &mut data.csv),
            ("data.images", &mut data.images),
            ("data.features", &mut data.features),
            ("data.test_folder", &mut data.test_folder),
        ] {
            if let Some(path) = path {
                *path = self.absolute_path(key, path, base)?.into();
            }
        }
        for (key, shards) in [
            ("data.parquet", &mut data.parquet),
            ("data.test_parquet", &mut data.test_parquet),
            ("data.webdataset", &mut data.webdataset),
            ("data.test_webdataset", &mut data.test_webdataset),
        ] {
            match shards {
                Some(shards) if shards.starts_with(HUB_DATASETS) && key.ends_with("parquet") => {}
                Some(shards) if shards.starts_with("hf://") => {
                    let problem = format!(
                        "is {shards}: only Parquet data sets of the Hugging Face hub are supported; write \
                         `data.parquet = \"{HUB_DATASETS}owner/name\"`"
                    );
                    return Err(self.key_error(key, problem));
                }
                Some(shards) => *shards = self.absolute_path(key, Path::new(shards), base)?,
                None => {}
            }
        }
        if data.max_pixels == 0 {
            return Err(self.key_error("data.max_pixels", "is 0: it must be at least 1"));
        }
        self.refuse_misplaced_keys(data)?;
        let has_table = data.csv.is_some() || data.parquet.is_some() || data.webdataset.is_some();
        let fill_default = |value: &mut Option<String>, default: &str| {
            value.get_or_insert_with(|| default.to_owned()).clone()
        };
        let fields = has_table.then(|| FieldNames {
            label: fill_default(&mut data.label, "label"),
            group: data.group.clone(),
            split: (split.method == SplitMethod::Predefined).then(|| split.column.clone()).flatten(),
        });
        let locations = [
            data.folder.as_ref().map(|folder| DataLocation::Folder(folder.clone())),
            match (&data.csv, &fields) {
                (Some(csv), Some(fields)) => {
                    let Some(images) = data.images.clone() else {
                        return Err(self.key_error(
                            "data.images",
                            "is missing: give the folder that the file names in `data.csv` are relative to",
                        ));
                    };
                    let (id, extension) =
                        (fill_default(&mut data.id, "id"), fill_default(&mut data.extension, ""));
                    Some(DataLocation::Csv(CsvSource {
                        csv: csv.clone(),
                        images,
                        id,
                        extension,
                        fields: fields.clone(),
                    }))
                }
                _ => None,
            },
            match (&data.parquet, &fields) {
                (Some(shards), Some(fields)) => Some(DataLocation::Parquet {
                    shards: shards.clone(),
                    image: fill_default(&mut data.image, "image"),
                    fields: fields.clone(),
                }),
                _ => None,
            },
            match (&data.webdataset, &fields) {
                (Some(shards), Some(fields)) => {
                    Some(DataLocation::WebDataset { shards: shards.clone(), fields: fields.clone() })
                }
                _ => None,
            },
        ];
        // Exactly one source must be set: one location of images, or a file of features.
        let mut locations = locations.into_iter().flatten();
        match (locations.next(), locations.next(), &data.features) {
            (Some(main), None, None) => {
                let test = main.test_location(data);
                Ok(DataSourceConfig::Images { main, test })
            }
            (None, None, Some(features)) => Ok(DataSourceConfig::Features(features.clone())),
            (None, None, None) => Err(self
                .key_error("data", format!("does not say where the photos are: set one of {SOURCE_KEYS}"))),
            _ => {
                Err(self
                    .key_error("data", format!("must have exactly one of {SOURCE_KEYS}: remove the others")))
            }
        }
    }

    /// Refuses keys of `[data]` that belong to a different kind of source than the one that is set, because
    /// they would silently have no effect.
    fn refuse_misplaced_keys(&self, data: &DataOptions) -> Result<(), ConfigError> {
        let (csv, parquet, webdataset) =
            (data.csv.is_some(), data.parquet.is_some(), data.webdataset.is_some());
        let csv_only = "is for CSV data sets: set `data.csv`, or remove this key";
        let tables_only = "is for CSV, Parquet and WebDataset data sets: set `data.csv`, `data.parquet` or \
                           `data.webdataset`, or remove this key";
        for (key, is_set, is_allowed, problem) in [
            ("data.images", data.images.is_some(), csv, csv_only),
            ("data.id", data.id.is_some(), csv, csv_only),
            ("data.extension", data.extension.is_some(), csv, csv_only),
            ("data.label", data.label.is_some(), csv || parquet || webdataset, tables_only),
            ("data.group", data.group.is_some(), csv || parquet || webdataset, tables_only),
            (
                "data.image",
                data.image.is_some(),
                parquet,
                "is for Parquet data sets: set `data.parquet`, or remove this key",
            ),
            (
                "data.test_folder",
                data.test_folder.is_some(),
                data.folder.is_some(),
                "needs `data.folder`; for other data, remove this key: [split] says how the test set is \
                 chosen",
            ),
            (
                "data.test_parquet",
                data.test_parquet.is_some(),
                parquet,
                "needs `data.parquet`: set it, or remove this key",
            ),
            (
                "data.test_webdataset",
                data.test_webdataset.is_some(),
                webdataset,
                "needs `data.webdataset`: set it, or remove this key",
            ),
        ] {
            if is_set && !is_allowed {
                return Err(self.key_error(key, problem));
            }
        }
        Ok(())
    }
}

impl DataLocation {
    /// The separate location of the test images that `data` names, for example in `data.test_folder`. It has
    /// the kind and the columns of `self`, the location of the training images. `None` if `data` names none.
    fn test_location(&self, data: &DataOptions) -> Option<Self> {
        match self {
            Self::Folder(_) => data.test_folder.clone().map(Self::Folder),
            Self::Csv(_) => None,
            Self::Parquet { image, fields, .. } => data.test_parquet.clone().map(|shards| Self::Parquet {
                shards,
                image: image.clone(),
                fields: fields.clone(),
            }),
            Self::WebDataset { fields, .. } => {
                let fields = fields.clone();
                data.test_webdataset.clone().map(|shards| Self::WebDataset { shards, fields })
            }
        }
    }

    /// The names of the columns (or JSON fields) with the label, group and split of an image. `None` for a
    /// folder, which has no columns.
    pub(crate) fn fields(&self) -> Option<&FieldNames> {
        match self {
            Self::Folder(_) => None,
            Self::Csv(CsvSource { fields, .. })
            | Self::Parquet { fields, .. }
            | Self::WebDataset { fields, .. } => Some(fields),
        }
    }
}
