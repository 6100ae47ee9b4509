//! `split.csv`: the split of a data set.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::SampleSet;
use crate::atomic_write::{refuse_to_overwrite, write_atomically};
use crate::csv_table::to_csv;
use crate::error::TrainError;

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
/// [`TrainError::Usage`] for such a file, [`TrainError::Inference`].
pub fn write_split(samples: &SampleSet, path: &Path) -> Result<(), TrainError> {
    refuse_to_overwrite(path, &SPLIT_HEADER)?;
    write_atomically(path, &split_csv(samples, &(0..samples.rows.len()).collect::<Vec<_>>()))
}

/// Reads the `split.csv` of a run at `path`, written by [`split_csv`]: one [`SplitRow`] per sample.
pub(crate) fn read_split(path: &Path) -> Result<Vec<SplitRow>, TrainError> {
    let bytes = fs::read(path).map_err(TrainError::io("read", path))?;
    csv::Reader::from_reader(bytes.as_slice())
        .deserialize()
        .collect::<Result<_, _>>()
        .map_err(TrainError::format(path))
}
