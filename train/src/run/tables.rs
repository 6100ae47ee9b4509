//! The CSV files of a run.

use std::fs;
use std::path::Path;

use headstock_heads::History;
use serde::Deserialize;

use crate::atomic_write::{refuse_to_overwrite, write_atomically};
use crate::error::TrainError;
use crate::metrics::Predictions;
use crate::samples::SampleSet;

/// The columns of `split.csv`.
const SPLIT_HEADER: [&str; 3] = ["path", "label", "split"];

/// A row of `split.csv`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SplitRow {
    /// The image's path relative to the data root, or the row number of precomputed features.
    pub path: String,
    /// The class name.
    pub label: String,
    /// `train` or `test`.
    pub split: String,
}

/// The contents of `split.csv`, which says for each sample with an index in `rows` whether it is in the
/// training or test set: the columns `path,label,split`. A run is tested on the same samples again by it.
pub(crate) fn split_csv(samples: &SampleSet, rows: &[usize]) -> Vec<u8> {
    let rows = rows.iter().map(|&i| &samples.rows[i]).map(|row| {
        [row.id.clone(), samples.classes.name(row.label).to_owned(), row.subset.as_str().to_owned()]
    });
    to_csv(&SPLIT_HEADER, rows)
}

/// Writes the split of `samples` to `path` in the format of a run's `split.csv`. A file that is not a split
/// is not replaced.
///
/// # Errors
/// [`TrainError::Usage`] for such a file, [`TrainError::Io`].
pub fn write_split(samples: &SampleSet, path: &Path) -> Result<(), TrainError> {
    refuse_to_overwrite(path, &SPLIT_HEADER)?;
    write_atomically(path, &split_csv(samples, &(0..samples.rows.len()).collect::<Vec<_>>()))
        .map_err(TrainError::io("write", path))
}

/// Reads the `split.csv` of a run at `path`, written by [`split_csv`]: one [`SplitRow`] per sample.
pub(super) fn read_split(path: &Path) -> Result<Vec<SplitRow>, TrainError> {
    let bytes = fs::read(path).map_err(TrainError::io("read", path))?;
    csv::Reader::from_reader(bytes.as_slice())
        .deserialize()
        .collect::<Result<_, _>>()
        .map_err(TrainError::format(path))
}

/// The contents of `history.csv`, the progress of a fit: one row per epoch or iteration, with columns such as
/// the loss.
pub(crate) fn history_csv(history: &History) -> Vec<u8> {
    to_csv(&history.columns, history.rows.iter().map(|row| row.iter().map(ToString::to_string)))
}

/// A sample of the test set, for `predictions.csv` and the report.
pub(crate) struct TestSample<'a> {
    /// The sample's id: the path of its image, or the row number of its precomputed features.
    pub(crate) path: &'a str,
    /// The number of its true class.
    pub(crate) label: u32,
}

/// The contents of `predictions.csv`, one row per test sample of `rows`, with its `predictions`: the columns
/// `path,label,predicted,probability`, then one column per class with its probability. Read the columns by
/// position: a class may have the name of one of the first four columns.
pub(crate) fn predictions_csv(
    rows: &[TestSample<'_>],
    predictions: &Predictions,
    classes: &[String],
) -> Vec<u8> {
    let fixed = ["path", "label", "predicted", "probability"];
    let header: Vec<&str> = fixed.into_iter().chain(classes.iter().map(String::as_str)).collect();
    let rows = rows.iter().zip(&predictions.predicted).zip(predictions.rows()).map(
        |((row, &predicted), probabilities)| {
            let probability = probabilities[predicted as usize].to_string();
            let name = |class: u32| classes[class as usize].clone();
            let fixed = [row.path.to_owned(), name(row.label), name(predicted), probability];
            fixed.into_iter().chain(probabilities.iter().map(ToString::to_string))
        },
    );
    to_csv(&header, rows)
}

/// The bytes of a CSV file with the columns `header`; each of `rows` must have as many fields.
fn to_csv<R: IntoIterator<Item = String>>(header: &[&str], rows: impl Iterator<Item = R>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header).expect("writing to a vector does not fail");
    for row in rows {
        writer.write_record(row).expect("all rows have the length of the header");
    }
    writer.into_inner().expect("writing to a vector does not fail")
}
