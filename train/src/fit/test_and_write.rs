//! The end of every training: testing the model and writing the run's files.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use headstock_backbone::Preprocessing;
use headstock_heads::{FittedHead, History, Logits, Tensors};
use headstock_inference::{BackboneRecord, HeadRecord, Model, ModelRecord, Predictions, PretrainedBackbone};

use super::TrainOutcome;
use super::calibrate::CalibrationResult;
use super::cross_validation::OutOfFold;
use crate::config::Settings;
use crate::error::TrainError;
use crate::metrics::Metrics;
use crate::prepared_data::PreparedData;
use crate::report;
use crate::run::{
    CalibrationEffect, CalibrationMetrics, ConformalMetrics, PhaseSeconds, RunFiles, RunMetrics,
    SampleCounts, StartMetrics, TrainTestOverlap, history_csv, predictions_csv,
};
use crate::samples::{SampleRow, split_csv};
use crate::trained_on::{self, ContentHash};

/// A trained model and what the run records of its training.
pub(crate) struct TrainedModel {
    pub(crate) head: FittedHead,
    /// The backbone's fine-tuned tensors, by torchvision's names; empty with a frozen backbone.
    pub(crate) tuned_tensors: Tensors,
    /// The preprocessing and the description of the backbone; `None` for precomputed features.
    pub(crate) backbone: Option<(Preprocessing, BackboneRecord)>,
    pub(crate) history: History,
    /// Hyperparameters chosen by the head's fit.
    pub(crate) chosen_params: Vec<(String, f64)>,
    pub(crate) calibration: CalibrationResult,
    /// The predictions of the training samples that stand for a test, if there is no test set.
    pub(crate) out_of_fold: Option<OutOfFold>,
    /// Content hashes of the samples that the warm-start run was trained on, to find test samples among them;
    /// `None` without a warm start, or if they are not known.
    pub(crate) previously_trained_on: Option<BTreeSet<ContentHash>>,
    /// With a warm start: the logits of the test samples by a head that was fitted from scratch, `[N, C]`.
    pub(crate) cold_logits: Option<Logits>,
    /// Number of training samples.
    pub(crate) n_train_samples: usize,
    /// Number of feature vectors that were computed because they were not in the cache.
    pub(crate) n_computed: usize,
    pub(crate) seconds: PhaseSeconds,
}

impl PreparedData {
    /// Ends a training: tests the `trained` model on the test set, and writes the run. `test` computes the
    /// model's logits of the test set, `write` writes the files of the run and returns its folder: both
    /// differ between fine-tuning and a fit of a head.
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
            HeadRecord { kind: settings.head.kind().into(), parameters: settings.head.table() },
            self.samples.classes.names().to_vec(),
            trained.head.width(),
            trained.backbone,
            calibration.calibration.clone(),
        );
        let scores = calibration.held_out.as_ref().map(|held_out| held_out.conformal.clone());
        let model =
            Model { record, head: trained.head, tuned_weights: trained.tuned_tensors, conformal: scores };
        let tested = self.tested(&trained.out_of_fold);
        let labels = self.samples.labels(tested);
        let (test_predictions, test_effect, conformal, cross_validation) = match trained.out_of_fold {
            Some(OutOfFold { predictions, conformal, summary }) => {
                (predictions, None, conformal, Some(summary))
            }
            None => {
                let logits = test(&model)?;
                let predictions = model.predictions(&logits)?;
                let effect = CalibrationEffect {
                    before: Metrics::from_predictions(&Predictions::new(&logits), &labels).of_probabilities(),
                    after: Metrics::from_predictions(&predictions, &labels).of_probabilities(),
                };
                let conformal = ConformalMetrics::from_predictions(&model, &predictions, &labels)?;
                (predictions, Some(effect), conformal, None)
            }
        };
        // The heads of a cross-validation start from nothing, so no run was trained on what they are tested on.
        let previously_trained_on =
            trained.previously_trained_on.as_ref().filter(|_| cross_validation.is_none());
        let content_hash = |index: usize| self.features.content_hash(tested[index]);
        let overlap = |hashes: &BTreeSet<ContentHash>| {
            TrainTestOverlap::from_predictions(hashes, &model, &test_predictions, &labels, content_hash)
        };
        let trained_on = previously_trained_on.map(overlap).transpose()?;
        if let Some(overlap) = trained_on.as_ref().filter(|overlap| overlap.samples > 0) {
            tracing::warn!(
                "the run that the training started from was trained on {} of the {} test photos, so the test \
                 results look better than on new photos: use the metrics of the other test photos, which are \
                 shown separately, or evaluate the run on new photos",
                overlap.samples,
                labels.len()
            );
        }
        let cold_predictions =
            trained.cold_logits.as_ref().map(|logits| model.predictions(logits)).transpose()?;
        let starts = cold_predictions.and_then(|cold| {
            let hashes = trained.previously_trained_on.as_ref();
            StartMetrics::from_predictions(hashes, &test_predictions, &cold, &labels, content_hash)
        });
        // What the model has seen: the samples of this training and those of the run that it started from.
        let mut trained_hashes: BTreeSet<ContentHash> =
            self.train.iter().filter_map(|&row| self.features.content_hash(row)).collect();
        trained_hashes.extend(trained.previously_trained_on.iter().flatten());
        let metrics = RunMetrics {
            test: Metrics::from_predictions(&test_predictions, &labels),
            counts: SampleCounts {
                classes: self.samples.classes.len(),
                train: trained.n_train_samples,
                test: self.test.len(),
                views: self.n_augmented,
                skipped: self.samples.rows.len() - self.readable.len(),
                passed_over: self.passed_over(),
                computed: trained.n_computed,
            },
            chosen: trained.chosen_params.into_iter().collect(),
            calibration: calibration_metrics(&calibration, test_effect),
            conformal,
            cross_validation,
            trained_on,
            starts,
            seconds: PhaseSeconds { test: started.elapsed().as_secs_f64(), ..seconds },
        };
        let rows: Vec<&SampleRow> = tested.iter().map(|&i| &self.samples.rows[i]).collect();
        let folder = write(&RunFiles {
            config: resolved_config(settings, self.pretrained.as_ref()),
            model: &model,
            metrics: serde_json::to_string_pretty(&metrics).expect("metrics serialize to JSON") + "\n",
            history: history_csv(&trained.history),
            split: split_csv(&self.samples, &self.readable),
            trained_on: trained_on::to_csv(&trained_hashes),
            tested_on: trained_on::to_csv(
                &self.test.iter().filter_map(|&row| self.features.content_hash(row)).collect(),
            ),
            predictions: predictions_csv(&rows, &test_predictions, &model.record.classes),
            report: report::render(&model.record, &metrics, &rows, &test_predictions),
        })?;
        // An image to try the run on.
        let example =
            self.images.as_ref().and_then(|images| images[tested[0]].file_path()).map(PathBuf::from);
        Ok(TrainOutcome { folder, metrics, example })
    }

    /// The indices of the samples that a run is tested on: the test set, or the training samples out of fold.
    fn tested(&self, out_of_fold: &Option<OutOfFold>) -> &[usize] {
        if out_of_fold.is_some() { &self.train } else { &self.test }
    }
}

/// The text of the run's config file: the settings as TOML. A branch in the `hf://` name of the weights is
/// replaced by the commit that `pretrained` was opened from, so that the next command uses the same weights.
pub(crate) fn resolved_config(settings: &Settings, pretrained: Option<&PretrainedBackbone>) -> String {
    let mut options = settings.to_options();
    if let (Some(backbone), Some(pretrained)) = (&mut options.backbone, pretrained)
        && backbone.weights.starts_with("hf://")
    {
        backbone.weights = pretrained.checkpoint().origin().into();
    }
    options.to_toml()
}

/// How calibration changes the log-loss and the calibration error, for `metrics.json`: on the test set (`test`; `None` if
/// there is none) and on the held-out training samples that `result` was fitted on. `None` if nothing was held out.
fn calibration_metrics(
    result: &CalibrationResult,
    test: Option<CalibrationEffect>,
) -> Option<CalibrationMetrics> {
    let held_out = result.held_out.as_ref()?;
    let out_of_fold = CalibrationEffect { before: held_out.before.clone(), after: held_out.after.clone() };
    Some(CalibrationMetrics {
        method: result.calibration.method(),
        temperature: result.calibration.temperature(),
        dropped: held_out.dropped,
        folds: held_out.n_folds,
        samples: held_out.n_samples,
        test: test.unwrap_or_else(|| out_of_fold.clone()),
        out_of_fold,
    })
}
