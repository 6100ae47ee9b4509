//! Reads precomputed features.

mod csv;
mod npy;
mod npz;
mod parquet;
mod safetensors;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use headstock_loader::dataset::number_groups;
use headstock_loader::{ParquetValue, Split};

use super::FeatureFormat;
use crate::error::TrainError;

/// A feature matrix in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureTable {
    /// `[N, F]`, row-major.
    pub values: Vec<f32>,
    /// The number of features, `F`.
    pub width: usize,
}

/// The contents of a file of features.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureArchive {
    /// The features, `[N, F]`.
    pub table: FeatureTable,
    /// The labels, `[N]`. If the file has only class names, these are numbered in the order of the names.
    pub labels: Vec<i64>,
    /// The class name of each sample, `[N]`, if the file has them. Each label has one name, and each name one
    /// label.
    pub classes: Option<Vec<String>>,
    /// The group number of each sample, `[N]`, if the file has groups.
    pub groups: Option<Vec<u32>>,
    /// The path of each sample, `[N]`, if the file has them.
    pub paths: Option<Vec<String>>,
    /// The split of each sample, `[N]`, if the file has them.
    pub splits: Option<Vec<Split>>,
}

/// Reads features `[N, F]` (f32, or f64 rounded to f32), labels `[N]` (integers) and, if present, class names
/// and groups `[N]`. The extension of `path` determines the format:
///
/// - `.npz`: `features`, `labels`, `groups`; `classes`, the class names by label, `[C]`; `paths` and `splits`
///   (`train`, `validation` or `test`) `[N]`.
/// - `.npy`: the features; a CSV of the same name has one row per sample with the columns `label` or `class`
///   or both, and optionally `group`, `path` and `split`. A column `row`, if present, must count from 0.
/// - `.safetensors`: `features`, `labels` and `groups` as in `.npz`; features can also be F16 and BF16. Class
///   names, paths and splits are in the metadata that [`extract`](crate::extract()) writes.
/// - `.parquet`: one row per sample, with `features` as a list and the other columns of the CSV; `labels` is
///   accepted in place of `label`.
///
/// # Errors
/// [`TrainError::Usage`] for an unknown extension; [`TrainError::Data`] or [`TrainError::Dataset`] for
/// invalid contents, with the file and the array or column.
pub fn read_features(path: &Path) -> Result<FeatureArchive, TrainError> {
    match FeatureFormat::from_path(path)? {
        FeatureFormat::Npz => npz::read(path).map_err(data_error(path)),
        FeatureFormat::Npy => npy::read(path),
        FeatureFormat::Safetensors => safetensors::read(path).map_err(data_error(path)),
        FeatureFormat::Parquet => parquet::read(path),
    }
}

/// For `map_err`: [`TrainError::Data`] with the file `path`.
fn data_error<E: fmt::Display>(path: &Path) -> impl Fn(E) -> TrainError {
    move |problem| TrainError::Data(format!("{}: {problem}", path.display()))
}

impl FeatureTable {
    /// Checks features that were read from a file: `shape` must be `[N, F]`, both at least 1, and the
    /// `values` (row-major) must be finite. The error says what is wrong, without the name of the file.
    fn new(values: Vec<f32>, shape: &[usize]) -> Result<Self, String> {
        let &[rows, width] = shape else {
            return Err(format!(
                "`features` has shape {shape:?}, but needs two dimensions: [samples, features]"
            ));
        };
        if rows == 0 || width == 0 {
            return Err(format!(
                "`features` has shape {shape:?}: at least one sample and one feature are needed"
            ));
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let (row, column) = (index / width, index % width);
            return Err(format!(
                "feature {column} of row {row} is {}: features must be finite; leave out this row, or \
                 compute its features again",
                values[index]
            ));
        }
        Ok(Self { values, width })
    }

    /// The number of samples, `N`.
    fn n_rows(&self) -> usize {
        self.values.len() / self.width
    }
}

/// An array of integers (labels or groups) as read from a file.
struct IntegerArray {
    /// The values, row-major.
    values: Vec<i64>,
    shape: Vec<usize>,
}

impl FeatureArchive {
    /// Combines the features, labels and groups of a file of arrays (`.npz` or `.safetensors`); an error
    /// unless `labels` and `groups` have shape `[N]`. Groups are numbered from 0. There are no class names
    /// yet.
    fn from_arrays(
        table: FeatureTable,
        labels: IntegerArray,
        groups: Option<IntegerArray>,
    ) -> Result<Self, String> {
        for (name, array) in [("labels", Some(&labels)), ("groups", groups.as_ref())] {
            if let Some(array) = array.filter(|array| array.shape != [table.n_rows()]) {
                let (shape, rows) = (&array.shape, table.n_rows());
                return Err(format!(
                    "`{name}` has shape {shape:?}, but `features` has {rows} rows: give one value for each \
                     row"
                ));
            }
        }
        let groups = groups.map(|groups| number_groups(&groups.values));
        Ok(Self { table, labels: labels.values, classes: None, groups, paths: None, splits: None })
    }

    /// This archive with the paths and the names of the splits of its samples.
    fn with_rows(self, paths: Option<Vec<String>>, splits: Option<Vec<String>>) -> Result<Self, String> {
        let n_rows = self.table.n_rows();
        for (name, values) in [("paths", &paths), ("splits", &splits)] {
            if let Some(values) = values.as_ref().filter(|values| values.len() != n_rows) {
                return Err(format!(
                    "there are {} {name}, but `features` has {n_rows} rows: give one for each row",
                    values.len()
                ));
            }
        }
        let splits = splits.map(|names| parse_splits(&names)).transpose()?;
        Ok(Self { paths, splits, ..self })
    }
}

/// The columns, besides the features, of a CSV or Parquet file with one row per sample; `None` for a column
/// that the file lacks.
struct SampleColumns {
    /// The column `label`.
    labels: Option<Vec<i64>>,
    /// The column `class`: class names.
    classes: Option<Vec<String>>,
    /// The column `group`: numbers or text. The CSV reader uses the type of Parquet values for its text.
    groups: Option<Vec<ParquetValue>>,
    /// The column `path`.
    paths: Option<Vec<String>>,
    /// The column `split`: names of splits.
    splits: Option<Vec<String>>,
}

impl SampleColumns {
    /// Combines the columns with the features of the same samples, `table`. If there are class names only,
    /// the labels are numbered from 0 in the order of the names; an error if there are neither labels nor
    /// class names. Groups are numbered from 0.
    fn into_archive(self, table: FeatureTable) -> Result<FeatureArchive, String> {
        let labels = match (self.labels, &self.classes) {
            (Some(labels), Some(classes)) => {
                check_labels_match_classes(&labels, classes)?;
                labels
            }
            (Some(labels), None) => labels,
            (None, Some(classes)) => number_groups(classes).into_iter().map(i64::from).collect(),
            (None, None) => {
                return Err("there is no column `label` (whole numbers) or `class` (names): add one".into());
            }
        };
        let groups = self.groups.map(|groups| number_groups(&groups));
        let (paths, splits) = (None, None);
        let archive = FeatureArchive { table, labels, classes: self.classes, groups, paths, splits };
        archive.with_rows(self.paths, self.splits)
    }
}

/// The splits with these names, `[N]`; the error names the first that is none.
fn parse_splits(names: &[String]) -> Result<Vec<Split>, String> {
    let parse = |(row, name): (usize, &String)| {
        Split::from_name(name).ok_or_else(|| {
            format!("the split of row {row} is `{name}`: write `train`, `validation` or `test`")
        })
    };
    names.iter().enumerate().map(parse).collect()
}

/// Checks the label and the class name of each sample: each label must have one class name, and each class
/// name one label. Otherwise the two columns do not belong together.
fn check_labels_match_classes(labels: &[i64], classes: &[String]) -> Result<(), String> {
    let (mut names, mut numbers) = (BTreeMap::new(), BTreeMap::new());
    for (row, (&label, class)) in labels.iter().zip(classes).enumerate() {
        let name = *names.entry(label).or_insert(class);
        if name != class {
            return Err(format!(
                "the label {label} is the class `{class}` in row {row}, but `{name}` in an earlier row: give \
                 each class its own label"
            ));
        }
        let number = *numbers.entry(class).or_insert(label);
        if number != label {
            return Err(format!(
                "the class `{class}` has the label {label} in row {row}, but {number} in an earlier row: \
                 give each class one label"
            ));
        }
    }
    Ok(())
}
