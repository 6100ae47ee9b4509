//! What every training ends with, whatever was trained: the test and the run's files.

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

/// What was learned.
pub(crate) struct TrainedModel {
    pub(crate) head: FittedHead,
    /// The backbone's tensors that were tuned.
    pub(crate) tuned_tensors: Tensors,
    /// How photos become features.
    pub(crate) backbone: Option<(Preprocessing, BackboneRecord)>,
    pub(crate) history: History,
    /// Parameters of the head that its fit chose.
    pub(crate) chosen_params: Vec<(String, f64)>,
    pub(crate) calibration: CalibrationResult,
    /// What the run that this one starts from was trained on, by content; none without such a run, or where it is not known.
    pub(crate) previously_trained_on: Option<BTreeSet<ContentHash>>,
    /// Samples that were learned from.
    pub(crate) n_train_samples: usize,
    /// Feature vectors that were computed.
    pub(crate) n_computed: usize,
    pub(crate) seconds: PhaseSeconds,
}

impl PreparedData {
    /// Tests what was learned on the test part, whose logits `test` gives, and has `write` write the run's files.
    pub(crate) fn test_and_write(
        &self,
        settings: &Settings,
        learned: TrainedModel,
        test: impl FnOnce(&Model) -> Result<Logits, TrainError>,
        write: impl FnOnce(&RunFiles<'_>) -> Result<PathBuf, TrainError>,
    ) -> Result<TrainOutcome, TrainError> {
        let started = Instant::now();
        let TrainedModel { calibration: calibrated, seconds, .. } = learned;
        let record = ModelRecord::new(
            record::head_record(settings),
            self.samples.classes.names().to_vec(),
            learned.head.width(),
            learned.backbone,
            calibrated.calibration.clone(),
        );
        let conformal = calibrated.held_out.as_ref().map(|held_out| held_out.conformal.clone());
        let model = Model { record, head: learned.head, tuned_weights: learned.tuned_tensors, conformal };
        let logits = test(&model)?;
        let tested = model.predictions(&logits)?;
        let labels = self.samples.labels(&self.test);
        let content = |test: usize| self.features.content(self.test[test]);
        let of_earlier = |known: &BTreeSet<ContentHash>| {
            TrainTestOverlap::from_predictions(known, &model, &tested, &labels, content)
        };
        let trained_on = learned.previously_trained_on.as_ref().map(of_earlier).transpose()?;
        if let Some(known) = trained_on.filter(|known| known.samples > 0) {
            tracing::warn!(
                "the run that this one starts from was trained on {} of these {} photos: their figures flatter it",
                known.samples,
                labels.len()
            );
        }
        let mut contents: BTreeSet<ContentHash> =
            self.train.iter().filter_map(|&row| self.features.content(row)).collect();
        contents.extend(learned.previously_trained_on.iter().flatten());
        let metrics = RunMetrics {
            test: tested.metrics(&labels),
            counts: SampleCounts {
                classes: self.samples.classes.len(),
                train: learned.n_train_samples,
                test: self.test.len(),
                views: self.n_views,
                skipped: self.samples.rows.len() - self.readable.len(),
                computed: learned.n_computed,
            },
            chosen: learned.chosen_params.into_iter().collect(),
            calibration: calibration_metrics(&calibrated, &logits, &tested, &labels),
            conformal: ConformalMetrics::from_predictions(&model, &tested, &labels)?,
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
            metrics: serde_json::to_string_pretty(&metrics).expect("figures are JSON") + "\n",
            history: history_csv(&learned.history),
            split: split_csv(&self.samples, &self.readable),
            trained_on: trained_on::to_csv(&contents),
            predictions: predictions_csv(&rows, &tested, &model.record.classes),
            report: report::render(&model.record, &metrics, &rows, &tested),
        })?;
        let example =
            self.images.as_ref().and_then(|photos| photos[self.test[0]].file_path()).map(PathBuf::from);
        Ok(TrainOutcome { folder, metrics, example })
    }
}

/// What calibration does to the figures of the test part, and did to those of the photos held out.
fn calibration_metrics(
    calibrated: &CalibrationResult,
    logits: &Logits,
    tested: &Predictions,
    labels: &[u32],
) -> Option<CalibrationMetrics> {
    let held_out = calibrated.held_out.as_ref()?;
    Some(CalibrationMetrics {
        method: calibrated.calibration.method(),
        temperature: calibrated.calibration.temperature(),
        dropped: held_out.dropped,
        folds: held_out.n_folds,
        samples: held_out.n_samples,
        test: CalibrationEffect {
            before: Predictions::new(logits).metrics(labels).probability_metrics(),
            after: tested.metrics(labels).probability_metrics(),
        },
        out_of_fold: CalibrationEffect { before: held_out.before, after: held_out.after },
    })
}
