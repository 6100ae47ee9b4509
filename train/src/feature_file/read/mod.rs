//! Features made elsewhere.

mod csv;
mod npy;
mod npz;
mod parquet;
mod safetensors;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use headstock_loader::ParquetValue;
use headstock_loader::dataset::number_groups;

use super::FeatureFormat;
use crate::error::TrainError;

/// Features in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureTable {
    /// `[N, F]`, row-major.
    pub values: Vec<f32>,
    /// The number of features, `F`.
    pub width: usize,
}

/// What a file of features holds.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureArchive {
    /// The features, `[N, F]`.
    pub table: FeatureTable,
    /// The labels, `[N]`; where the file has names only, their numbers in the order of the names.
    pub labels: Vec<i64>,
    /// The name of each sample's class, `[N]`, where the file has them; a label has one name, and a name one label.
    pub classes: Option<Vec<String>>,
    /// The number of the group that each sample belongs to, `[N]`, where the file has them.
    pub groups: Option<Vec<u32>>,
}

/// Reads features `[N, F]` (f32, or f64 that is rounded), labels `[N]` (integers) and, where they are there, names of classes
/// and groups, `[N]`, in the format that the ending of `path` tells.
///
/// - `.npz`: `features`, `labels`, `groups`.
/// - `.npy`: the features; a row per sample in the CSV of the same name beside it, with the columns `label`, `class` and
///   `group`, of which one of the first two is needed. Where there is a column `row`, it counts from 0.
/// - `.safetensors`: as `.npz`; features may be F16 and BF16 as well. Names are in the metadata that `headstock extract` writes.
/// - `.parquet`: a row per sample, `features` a list, the other columns as those of the CSV; `labels` will do for `label`.
///
/// # Errors
/// [`TrainError::Usage`] for an unknown ending, and [`TrainError::Data`] or [`TrainError::Dataset`], which name the file and the
/// array or column.
pub fn read_features(path: &Path) -> Result<FeatureArchive, TrainError> {
    match FeatureFormat::from_path(path)? {
        FeatureFormat::Npz => npz::read(path).map_err(data_error(path)),
        FeatureFormat::Npy => npy::read(path),
        FeatureFormat::Safetensors => safetensors::read(path).map_err(data_error(path)),
        FeatureFormat::Parquet => parquet::read(path),
    }
}

/// For `map_err`: names the file.
fn data_error<E: fmt::Display>(path: &Path) -> impl Fn(E) -> TrainError {
    move |problem| TrainError::Data(format!("{}: {problem}", path.display()))
}

impl FeatureTable {
    /// Features of the shape `[N, F]`; all must be finite.
    fn new(values: Vec<f32>, shape: &[usize]) -> Result<Self, String> {
        let &[rows, width] = shape else {
            return Err(format!("`features` is {shape:?}, not [samples, features]"));
        };
        if rows == 0 || width == 0 {
            return Err(format!("`features` is {shape:?}: there is nothing in it"));
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let (row, column) = (index / width, index % width);
            return Err(format!(
                "feature {column} of row {row} is {}: features must be finite",
                values[index]
            ));
        }
        Ok(Self { values, width })
    }

    fn n_rows(&self) -> usize {
        self.values.len() / self.width
    }
}

/// Integers that an array holds, and its shape.
struct IntegerArray {
    values: Vec<i64>,
    shape: Vec<usize>,
}

impl FeatureArchive {
    /// What files of arrays hold: an integer for each row.
    fn from_arrays(
        table: FeatureTable,
        labels: IntegerArray,
        groups: Option<IntegerArray>,
    ) -> Result<Self, String> {
        for (name, array) in [("labels", Some(&labels)), ("groups", groups.as_ref())] {
            if let Some(array) = array.filter(|array| array.shape != [table.n_rows()]) {
                let (shape, rows) = (&array.shape, table.n_rows());
                return Err(format!("`{name}` is {shape:?}, but `features` has {rows} rows"));
            }
        }
        let groups = groups.map(|groups| number_groups(&groups.values));
        Ok(Self { table, labels: labels.values, classes: None, groups })
    }
}

/// What a table says of each row.
struct SampleColumns {
    labels: Option<Vec<i64>>,
    classes: Option<Vec<String>>,
    groups: Option<Vec<ParquetValue>>,
}

impl SampleColumns {
    /// The archive of these rows, which are as many as those of `table`.
    fn into_archive(self, table: FeatureTable) -> Result<FeatureArchive, String> {
        let labels = match (self.labels, &self.classes) {
            (Some(labels), Some(classes)) => {
                check_labels_match_classes(&labels, classes)?;
                labels
            }
            (Some(labels), None) => labels,
            (None, Some(classes)) => number_groups(classes).into_iter().map(i64::from).collect(),
            (None, None) => {
                return Err("there is no column `label` (whole numbers) or `class` (names)".into());
            }
        };
        let groups = self.groups.map(|groups| number_groups(&groups));
        Ok(FeatureArchive { table, labels, classes: self.classes, groups })
    }
}

/// Whether a label has one name, and a name one label.
fn check_labels_match_classes(labels: &[i64], classes: &[String]) -> Result<(), String> {
    let (mut names, mut numbers) = (BTreeMap::new(), BTreeMap::new());
    for (row, (&label, class)) in labels.iter().zip(classes).enumerate() {
        let name = *names.entry(label).or_insert(class);
        if name != class {
            return Err(format!(
                "the label {label} is the class `{class}` in row {row}, but `{name}` before it"
            ));
        }
        let number = *numbers.entry(class).or_insert(label);
        if number != label {
            return Err(format!(
                "the class `{class}` has the label {label} in row {row}, but {number} before it"
            ));
        }
    }
    Ok(())
}
