//! A comparison in a file.

use std::fs;
use std::path::{Path, PathBuf};

use super::outcome::{Comparison, Entry, Figure, State};
use crate::error::TrainError;
use crate::files::{refuse_to_replace, write_whole};

const HEADER: [&str; 21] = [
    "head",
    "parameters",
    "state",
    "accuracy",
    "accuracy_to_best_low",
    "accuracy_to_best_high",
    "macro_f1",
    "macro_f1_to_best_low",
    "macro_f1_to_best_high",
    "log_loss",
    "log_loss_to_best_low",
    "log_loss_to_best_high",
    "ece",
    "ece_to_best_low",
    "ece_to_best_high",
    "tied",
    "fit_seconds",
    "predict_seconds",
    "bytes",
    "warnings",
    "error",
];

/// How a file of ours begins that is JSON.
const JSON_BEGINS: &str = "{\n  \"comparison\": ";

/// A file that is going to hold every candidate of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparisonFile {
    path: PathBuf,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Csv,
    Json,
}

impl ComparisonFile {
    /// Where `path` ends in `.csv`, a row a candidate; where in `.json`, the whole comparison.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for another ending, and for a file that is there and is no comparison.
    pub fn new(path: &Path) -> Result<Self, TrainError> {
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => Format::Csv,
            Some("json") => Format::Json,
            _ => {
                return Err(TrainError::Usage(format!(
                    "{}: the ending tells the format; known: .csv, .json",
                    path.display()
                )));
            }
        };
        match format {
            Format::Csv => refuse_to_replace(path, &HEADER)?,
            Format::Json => {
                let ours = || fs::read(path).is_ok_and(|bytes| bytes.starts_with(JSON_BEGINS.as_bytes()));
                if fs::symlink_metadata(path).is_ok() && !ours() {
                    return Err(TrainError::Usage(format!(
                        "{} is there already, and is not what would be written: name another file",
                        path.display()
                    )));
                }
            }
        }
        Ok(Self { path: path.into(), format })
    }

    /// Writes `comparison`, whole or not at all.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn write(&self, comparison: &Comparison) -> Result<(), TrainError> {
        let bytes = match self.format {
            Format::Csv => csv(&comparison.candidates),
            Format::Json => {
                (serde_json::to_string_pretty(comparison).expect("figures are JSON") + "\n").into_bytes()
            }
        };
        write_whole(&self.path, &bytes).map_err(TrainError::io("write", &self.path))
    }
}

fn csv(candidates: &[Entry]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(HEADER).expect("a vector takes every byte");
    for entry in candidates {
        writer.write_record(row(entry)).expect("every row is as long as the header");
    }
    writer.into_inner().expect("a vector takes every byte")
}

fn row(entry: &Entry) -> Vec<String> {
    let (state, error) = match &entry.state {
        State::Compared(_) => ("compared", String::new()),
        State::Failed { error } => ("failed", error.clone()),
        State::LeftOut => ("left-out", String::new()),
    };
    let mut row = vec![entry.head.clone(), entry.described(), state.to_owned()];
    if let Some(judged) = entry.judged() {
        for Figure { value, to_best } in [judged.accuracy, judged.macro_f1, judged.log_loss, judged.ece] {
            row.extend([value, to_best.low, to_best.high].map(|number| number.to_string()));
        }
        row.push(judged.tied.to_string());
        row.extend([judged.fit_seconds, judged.predict_seconds].map(|seconds| seconds.to_string()));
        row.extend([judged.bytes.to_string(), judged.warnings.join("; ")]);
    } else {
        row.resize(HEADER.len() - 1, String::new());
    }
    row.push(error);
    row
}
