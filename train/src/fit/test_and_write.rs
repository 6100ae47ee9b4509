//! The end of every training: testing the model and writing the run's files.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use headstock_backbone::Preprocessing;
use headstock_heads::{FittedHead, History, Logits, Tensors};

use super::calibrate::CalibrationResult;
use super::{TrainOutcome, record};
use crate::config::Settings;
use crate::error::TrainError;
use crate::metrics::Predictions;
use crate::prepared_data::PreparedData;
use crate::report;
use crate::run::{
    BackboneRecord, CalibrationEffect, CalibrationMetrics, ConformalMetrics, Model, ModelRecord,
    PhaseSeconds, RunFiles, RunMetrics, SampleCounts, TestSample, TrainTestOverlap, history_csv,
    predictions_csv, split_csv,
};
use crate::trained_on::{self, ContentHash};

/// A trained model and what the run records of its training.
pub(crate) struct TrainedModel {
    pub(crate) head: FittedHead,
    /// The backbone's fine-tuned tensors.
    pub(crate) tuned_tensors: Tensors,
    /// Preprocessing and backbone; `None` for precomputed features.
    pub(crate) backbone: Option<(Preprocessing, BackboneRecord)>,
    pub(crate) history: History,
    /// Hyperparameters chosen by the head's fit.
    pub(crate) chosen_params: Vec<(String, f64)>,
    pub(crate) calibration: CalibrationResult,
    /// Content of the samples that the run this one starts from was trained on; `None` without such a run, or
    /// if it is not known.
    pub(crate) previously_trained_on: Option<BTreeSet<ContentHash>>,
    /// Number of training samples.
    pub(crate) n_train_samples: usize,
    /// Number of feature vectors computed.
    pub(crate) n_computed: usize,
    pub(crate) seconds: PhaseSeconds,
}

impl PreparedData {
    /// Tests the model on the test subset, whose logits `test` computes, and passes the run's files to
    /// `write`.
    pub(crate) fn test_and_write(
        &self,
        settings: &Settings,
        trained: TrainedModel,
        test: impl FnOnce(&Model) -> Result<Logits, TrainError>,
        write: impl FnOnce(&RunFiles<'_>) -> Result<PathBuf, TrainError>,
    ) -> Result<TrainOutcome, TrainError> {
        let started = Instant::now();
        let TrainedModel { calibration, seconds, .. } = trained;
        let record = ModelRecord::new(
            record::head_record(settings),
            self.samples.classes.names().to_vec(),
            trained.head.width(),
            trained.backbone,
            calibration.calibration.clone(),
        );
        let conformal = calibration.held_out.as_ref().map(|held_out| held_out.conformal.clone());
        let model = Model { record, head: trained.head, tuned_weights: trained.tuned_tensors, conformal };
        let logits = test(&model)?;
        let test_predictions = model.predictions(&logits)?;
        let labels = self.samples.labels(&self.test);
        let content = |index: usize| self.features.content(self.test[index]);
        let overlap = |known: &BTreeSet<ContentHash>| {
            TrainTestOverlap::from_predictions(known, &model, &test_predictions, &labels, content)
        };
        let trained_on = trained.previously_trained_on.as_ref().map(overlap).transpose()?;
        if let Some(overlap) = trained_on.filter(|overlap| overlap.samples > 0) {
            tracing::warn!(
                "the run that this one starts from was trained on {} of the {} test photos: test metrics will be optimistic",
                overlap.samples,
                labels.len()
            );
        }
        let mut contents: BTreeSet<ContentHash> =
            self.train.iter().filter_map(|&row| self.features.content(row)).collect();
        contents.extend(trained.previously_trained_on.iter().flatten());
        let metrics = RunMetrics {
            test: test_predictions.metrics(&labels),
            counts: SampleCounts {
                classes: self.samples.classes.len(),
                train: trained.n_train_samples,
                test: self.test.len(),
                views: self.n_augmented,
                skipped: self.samples.rows.len() - self.readable.len(),
                computed: trained.n_computed,
            },
            chosen: trained.chosen_params.into_iter().collect(),
            calibration: calibration_metrics(&calibration, &logits, &test_predictions, &labels),
            conformal: ConformalMetrics::from_predictions(&model, &test_predictions, &labels)?,
            trained_on,
            seconds: PhaseSeconds { test: started.elapsed().as_secs_f64(), ..seconds },
        };
        let rows: Vec<TestSample<'_>> = (self.test.iter())
            .map(|&i| &self.samples.rows[i])
            .map(|row| TestSample { path: &row.id, label: row.label })
            .collect();
        let folder = write(&RunFiles {
            config: record::resolved_config(settings, self.pretrained.as_ref()),
            model: &model,
            metrics: serde_json::to_string_pretty(&metrics).expect("metrics serialize to JSON") + "\n",
            history: history_csv(&trained.history),
            split: split_csv(&self.samples, &self.readable),
            trained_on: trained_on::to_csv(&contents),
            predictions: predictions_csv(&rows, &test_predictions, &model.record.classes),
            report: report::render(&model.record, &metrics, &rows, &test_predictions),
        })?;
        let example =
            self.images.as_ref().and_then(|images| images[self.test[0]].file_path()).map(PathBuf::from);
        Ok(TrainOutcome { folder, metrics, example })
    }
}

/// How calibration changes the metrics of the test subset and of the held-out samples.
fn calibration_metrics(
    result: &CalibrationResult,
    logits: &Logits,
    test_predictions: &Predictions,
    labels: &[u32],
) -> Option<CalibrationMetrics> {
    let held_out = result.held_out.as_ref()?;
    Some(CalibrationMetrics {
        method: result.calibration.method(),
        temperature: result.calibration.temperature(),
        dropped: held_out.dropped,
        folds: held_out.n_folds,
        samples: held_out.n_samples,
        test: CalibrationEffect {
            before: Predictions::new(logits).metrics(labels).probability_metrics(),
            after: test_predictions.metrics(labels).probability_metrics(),
        },
        out_of_fold: CalibrationEffect { before: held_out.before, after: held_out.after },
    })
}
