//! Writes a comparison to a file.

use std::path::{Path, PathBuf};

use super::results::{CandidateResult, CandidateStatus, Comparison, MetricEstimate};
use crate::atomic_write::{refuse_to_overwrite_unless, write_atomically};
use crate::csv_table::to_csv;
use crate::error::TrainError;
use crate::metrics::METRICS;

/// The columns of a comparison in CSV: before those of the metrics, and after them.
const COLUMNS: [&[&str]; 2] = [
    &["head", "parameters", "state"],
    &["tied", "fit_seconds", "predict_seconds", "bytes", "warnings", "error"],
];

/// The first bytes of a comparison in JSON.
const JSON_PREFIX: &str = "{\n  \"comparison\": ";

/// The output file of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparisonFile {
    path: PathBuf,
    /// The format: JSON, or CSV.
    is_json: bool,
}

impl ComparisonFile {
    /// The file `path`, to which [`write`](Self::write) writes a comparison later. Checks the name and an
    /// existing file now, before the long work starts. A `.csv` file has one row per candidate, a `.json`
    /// file the whole comparison.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for any other extension, and for an existing file that is not a comparison.
    pub fn new(path: &Path) -> Result<Self, TrainError> {
        // A comparison is recognized by its first bytes.
        let (is_json, start) = match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => (false, format!("{}\n", header().join(","))),
            Some("json") => (true, JSON_PREFIX.to_owned()),
            _ => {
                return Err(TrainError::Usage(format!(
                    "{}: unknown file extension: choose a file name that ends in .csv or .json",
                    path.display()
                )));
            }
        };
        refuse_to_overwrite_unless(path, &[start.into_bytes()])?;
        Ok(Self { path: path.into(), is_json })
    }

    /// Writes `comparison` to the file, as CSV or JSON according to its extension. Other programs never see a
    /// partly written file.
    ///
    /// # Errors
    /// [`TrainError::Inference`].
    pub fn write(&self, comparison: &Comparison) -> Result<(), TrainError> {
        let bytes = if self.is_json {
            (serde_json::to_string_pretty(comparison).expect("figures are JSON") + "\n").into_bytes()
        } else {
            candidates_csv(&comparison.candidates)
        };
        write_atomically(&self.path, &bytes)
    }
}

/// The columns of a comparison in CSV.
fn header() -> Vec<String> {
    let compared = METRICS.iter().filter(|metric| metric.is_compared()).map(|metric| metric.key());
    let of_metrics =
        compared.flat_map(|key| ["", "_to_best_low", "_to_best_high"].map(|suffix| format!("{key}{suffix}")));
    let [before, after] = COLUMNS.map(|columns| columns.iter().map(ToString::to_string));
    before.chain(of_metrics).chain(after).collect()
}

/// The contents of a `.csv` file with the results of a comparison: a header, then one row per candidate.
fn candidates_csv(candidates: &[CandidateResult]) -> Vec<u8> {
    let header = header();
    to_csv(&header, candidates.iter().map(|candidate| to_row(candidate, header.len())))
}

/// The row of a candidate in the CSV file, with this number of columns. Metrics are empty for candidates
/// without scores.
fn to_row(candidate: &CandidateResult, columns: usize) -> Vec<String> {
    let (status, error) = match &candidate.status {
        CandidateStatus::Compared(_) => ("compared", String::new()),
        CandidateStatus::Failed { error } => ("failed", error.clone()),
        CandidateStatus::LeftOut => ("left-out", String::new()),
    };
    let mut row = vec![candidate.head.clone(), candidate.describe_changes(), status.to_owned()];
    if let Some(scores) = candidate.scores() {
        for (_, MetricEstimate { value, to_best }) in scores.metrics.iter() {
            row.extend([value, &to_best.low, &to_best.high].map(ToString::to_string));
        }
        row.push(scores.tied.to_string());
        row.extend([scores.fit_seconds, scores.predict_seconds].map(|seconds| seconds.to_string()));
        row.extend([scores.bytes.to_string(), scores.warnings.join("; ")]);
    } else {
        // All columns but the last one, `error`.
        row.resize(columns - 1, String::new());
    }
    row.push(error);
    row
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use toml::Table;

    use crate::metrics::{Accuracy, CalibrationError, LogLoss, MacroF1, Metric};

    use super::super::results::{CandidateScores, ChosenParameter};
    use super::*;
    use crate::bootstrap::Interval;

    fn comparison_fixture() -> Comparison {
        let estimate =
            |value: f64| MetricEstimate { value, to_best: Interval { low: value - 1.0, high: value + 1.0 } };
        let metrics: [(&dyn Metric, MetricEstimate); 4] = [
            (&Accuracy, estimate(0.5)),
            (&MacroF1, estimate(0.25)),
            (&LogLoss, estimate(2.0)),
            (&CalibrationError, estimate(0.125)),
        ];
        let scores = CandidateScores {
            metrics: metrics.into_iter().collect(),
            tied: true,
            temperatures: vec![1.5],
            fit_seconds: 3.0,
            predict_seconds: 4.0,
            bytes: 12,
            chosen: vec![ChosenParameter { parameter: "C".into(), values: vec![1.0] }],
            warnings: vec!["one".into(), "two".into()],
        };
        let candidate = |head: &str, status: CandidateStatus| {
            let changed = Table::from_iter([("C".to_owned(), toml::Value::Float(0.5))]);
            CandidateResult { head: head.into(), parameters: changed.clone(), changed, status }
        };
        let candidates = vec![
            candidate("linear", CandidateStatus::Compared(Box::new(scores))),
            candidate("svm", CandidateStatus::Failed { error: "it, too".into() }),
            candidate("knn", CandidateStatus::LeftOut),
        ];
        Comparison {
            comparison: 1,
            metric: &MacroF1,
            folds: 5,
            seed: 3,
            samples: 20,
            groups: None,
            classes: 2,
            features: 4,
            views: 0,
            resamples: 2000,
            coverage: 0.95,
            passed_over: BTreeMap::new(),
            seconds: 1.0,
            candidates,
        }
    }

    // effect: compare --out
    #[test]
    fn every_column_holds_what_its_name_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.csv");
        let file = ComparisonFile::new(&path).unwrap();
        file.write(&comparison_fixture()).unwrap();
        let expected = "head,parameters,state,accuracy,accuracy_to_best_low,accuracy_to_best_high,macro_f1,\
            macro_f1_to_best_low,macro_f1_to_best_high,log_loss,log_loss_to_best_low,log_loss_to_best_high,ece,\
            ece_to_best_low,ece_to_best_high,tied,fit_seconds,predict_seconds,bytes,warnings,error\n\
            linear,C = 0.5,compared,0.5,-0.5,1.5,0.25,-0.75,1.25,2,1,3,0.125,-0.875,1.125,true,3,4,12,one; two,\n\
            svm,C = 0.5,failed,,,,,,,,,,,,,,,,,,\"it, too\"\n\
            knn,C = 0.5,left-out,,,,,,,,,,,,,,,,,,\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        // A comparison may be replaced, but not another file.
        ComparisonFile::new(&path).unwrap().write(&comparison_fixture()).unwrap();
        fs::write(&path, "head,parameters\n").unwrap();
        let error = ComparisonFile::new(&path).unwrap_err();
        assert!(error.to_string().contains("exists and is not"), "{error}");
        assert_eq!(error.kind(), headstock_inference::FailureKind::Usage);
    }

    // effect: compare --out
    #[test]
    fn json_is_the_whole_comparison() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.json");
        ComparisonFile::new(&path).unwrap().write(&comparison_fixture()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(JSON_PREFIX) && text.ends_with("}\n"), "{text}");
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&found["by"], &found["seed"], &found["groups"]),
            (&"macro-f1".into(), &3.into(), &().into())
        );
        let [compared, failed, left_out] = [0, 1, 2].map(|index| &found["candidates"][index]);
        assert_eq!((&compared["state"], &compared["tied"]), (&"compared".into(), &true.into()));
        assert_eq!(
            compared["log_loss"],
            serde_json::json!({ "value": 2.0, "to_best": { "low": 1.0, "high": 3.0 } })
        );
        assert_eq!(compared["chosen"], serde_json::json!([{ "parameter": "C", "values": [1.0] }]));
        assert_eq!((&failed["state"], &failed["error"]), (&"failed".into(), &"it, too".into()));
        assert_eq!(left_out["state"], "left-out");
        ComparisonFile::new(&path).unwrap();
        fs::write(&path, "{}").unwrap();
        assert_eq!(ComparisonFile::new(&path).unwrap_err().kind(), headstock_inference::FailureKind::Usage);
        for name in ["all.txt", "all", "csv"] {
            let error = ComparisonFile::new(&folder.path().join(name)).unwrap_err().to_string();
            assert!(error.contains("ends in .csv or .json"), "{error}");
        }
    }
}
