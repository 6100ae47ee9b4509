//! What every training ends with, whatever was trained: the test and the run's files.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use headstock_backbone::Preprocessing;
use headstock_heads::{FittedHead, History, Logits, Tensors};

use super::calibrate::Calibrated;
use super::{Outcome, record};
use crate::config::Settings;
use crate::error::TrainError;
use crate::metrics::Predictions;
use crate::prepared::Prepared;
use crate::report;
use crate::run::{
    BackboneRecord, CalibrationMetrics, Change, ConformalMetrics, Counts, Model, ModelRecord, RunFiles,
    RunMetrics, Seconds, TestRow, TrainedOn, history, predictions, split,
};
use crate::trained_on::{self, Content};

/// What was learned.
pub(crate) struct Learned {
    pub(crate) head: FittedHead,
    /// The backbone's tensors that were tuned.
    pub(crate) tuned: Tensors,
    /// How photos become features.
    pub(crate) backbone: Option<(Preprocessing, BackboneRecord)>,
    pub(crate) history: History,
    /// Parameters of the head that its fit chose.
    pub(crate) chosen: Vec<(String, f64)>,
    pub(crate) calibrated: Calibrated,
    /// What the run that this one starts from was trained on, by content; none without such a run, or where it is not known.
    pub(crate) earlier: Option<BTreeSet<Content>>,
    /// Samples that were learned from.
    pub(crate) samples: usize,
    /// Feature vectors that were computed.
    pub(crate) computed: usize,
    pub(crate) seconds: Seconds,
}

impl Prepared {
    /// Tests what was learned on the test part, whose logits `test` gives, and has `write` write the run's files.
    pub(crate) fn finish(
        &self,
        settings: &Settings,
        learned: Learned,
        test: impl FnOnce(&Model) -> Result<Logits, TrainError>,
        write: impl FnOnce(&RunFiles<'_>) -> Result<PathBuf, TrainError>,
    ) -> Result<Outcome, TrainError> {
        let started = Instant::now();
        let Learned { calibrated, seconds, .. } = learned;
        let record = ModelRecord::new(
            record::head(settings),
            self.samples.classes.names().to_vec(),
            learned.head.width(),
            learned.backbone,
            calibrated.calibration.clone(),
        );
        let conformal = calibrated.held_out.as_ref().map(|held_out| held_out.conformal.clone());
        let model = Model { record, head: learned.head, tuned: learned.tuned, conformal };
        let logits = test(&model)?;
        let tested = model.predictions(&logits)?;
        let labels = self.samples.labels(&self.test);
        let content = |test: usize| self.matrix.content(self.test[test]);
        let of_earlier = |known: &BTreeSet<Content>| TrainedOn::of(known, &model, &tested, &labels, content);
        let trained_on = learned.earlier.as_ref().map(of_earlier).transpose()?;
        if let Some(known) = trained_on.filter(|known| known.samples > 0) {
            tracing::warn!(
                "the run that this one starts from was trained on {} of these {} photos: their figures flatter it",
                known.samples,
                labels.len()
            );
        }
        let mut contents: BTreeSet<Content> =
            self.train.iter().filter_map(|&row| self.matrix.content(row)).collect();
        contents.extend(learned.earlier.iter().flatten());
        let metrics = RunMetrics {
            test: tested.metrics(&labels),
            counts: Counts {
                classes: self.samples.classes.len(),
                train: learned.samples,
                test: self.test.len(),
                views: self.views,
                skipped: self.samples.rows.len() - self.kept.len(),
                computed: learned.computed,
            },
            chosen: learned.chosen.into_iter().collect(),
            calibration: calibration_metrics(&calibrated, &logits, &tested, &labels),
            conformal: ConformalMetrics::of(&model, &tested, &labels)?,
            trained_on,
            seconds: Seconds { test: started.elapsed().as_secs_f64(), ..seconds },
        };
        let rows: Vec<TestRow<'_>> = (self.test.iter())
            .map(|&i| &self.samples.rows[i])
            .map(|row| TestRow { path: &row.id, label: row.label })
            .collect();
        let folder = write(&RunFiles {
            config: record::settings(settings, self.stock.as_ref()),
            model: &model,
            metrics: serde_json::to_string_pretty(&metrics).expect("figures are JSON") + "\n",
            history: history(&learned.history),
            split: split(&self.samples, &self.kept),
            trained_on: trained_on::table(&contents),
            predictions: predictions(&rows, &tested, &model.record.classes),
            report: report::html(&model.record, &metrics, &rows, &tested),
        })?;
        let example =
            self.photos.as_ref().and_then(|photos| photos[self.test[0]].file_path()).map(PathBuf::from);
        Ok(Outcome { folder, metrics, example })
    }
}

/// What calibration does to the figures of the test part, and did to those of the photos held out.
fn calibration_metrics(
    calibrated: &Calibrated,
    logits: &Logits,
    tested: &Predictions,
    labels: &[u32],
) -> Option<CalibrationMetrics> {
    let held_out = calibrated.held_out.as_ref()?;
    Some(CalibrationMetrics {
        method: calibrated.calibration.method(),
        temperature: calibrated.calibration.temperature(),
        dropped: held_out.dropped,
        folds: held_out.folds,
        samples: held_out.samples,
        test: Change {
            before: Predictions::new(logits).metrics(labels).reliability(),
            after: tested.metrics(labels).reliability(),
        },
        out_of_fold: Change { before: held_out.before, after: held_out.after },
    })
}
