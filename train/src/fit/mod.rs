//! Training: features, fit, calibration, test, and a run.

mod calibrate;
mod learn;
mod record;
mod warm;

use std::path::PathBuf;
use std::time::Instant;

use headstock_heads::{Fitted, Logits};

use self::calibrate::{Calibrated, calibrate};
use self::learn::Learner;
pub(crate) use self::learn::logits;
use crate::config::Settings;
use crate::error::TrainError;
use crate::metrics::Predictions;
use crate::prepared::Prepared;
use crate::progress::Progress;
use crate::report;
use crate::run::{
    CalibrationMetrics, Change, ConformalMetrics, Counts, Model, ModelRecord, Reserved, Run, RunFiles,
    RunMetrics, RunPlace, Seconds, TestRow, history, predictions, split,
};

/// What training ended with.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The run's folder.
    pub folder: PathBuf,
    /// Its figures.
    pub metrics: RunMetrics,
    /// A photo of the test part, to try the run on; none where there are only features.
    pub example: Option<PathBuf>,
}

/// Trains as `settings` say and writes a run. With a run to `start` from, its classes keep their numbers and new ones come
/// after them; a head of the same kind on the same features begins with its weights, where it can.
///
/// # Errors
/// [`TrainError`]; nothing is written then but features, which the next try finds.
pub fn train(
    settings: &Settings,
    start: Option<&Run>,
    place: &RunPlace,
    progress: &dyn Progress,
) -> Result<Outcome, TrainError> {
    let place = place.reserve(&settings.source)?;
    Prepared::after(start, settings, progress)?.train(settings, start, place, progress)
}

impl Prepared {
    /// Fits the head of `settings` on the training part, calibrates and tests it and writes a run. But for the head they are the
    /// settings that this was made of, and so is the run to `start` from.
    ///
    /// # Errors
    /// [`TrainError`]; nothing is written then.
    pub fn train(
        &mut self,
        settings: &Settings,
        start: Option<&Run>,
        place: Reserved<'_>,
        progress: &dyn Progress,
    ) -> Result<Outcome, TrainError> {
        let backbone = self.stock.as_ref().map(record::backbone);
        let start = match start {
            Some(run) => warm::tensors(run, settings, backbone.as_ref().map(|(_, record)| record), self)?,
            None => None,
        };
        let Self { samples, matrix, kept, train, test: tested_on, .. } = self;
        let mut learner = Learner { samples, matrix, views: self.views, progress };
        let what = format!("fitting {}", settings.head.kind());
        learner.tell_memory(settings.head.as_ref(), train.len());
        let (Fitted { head, history: fit_history, chosen }, fit) =
            learner.fit(settings.head.as_ref(), start.as_ref(), train, &what)?;

        let started = Instant::now();
        let fixed = settings.head.with_chosen(&chosen)?;
        let calibrated = calibrate(&mut learner, fixed.as_ref(), train, settings.options.calibration)?;
        let calibration = started.elapsed().as_secs_f64();

        let started = Instant::now();
        let record = ModelRecord::new(
            record::head(settings),
            samples.classes.names().to_vec(),
            matrix.width(),
            backbone,
            calibrated.calibration.clone(),
        );
        let conformal = calibrated.held_out.as_ref().map(|held_out| held_out.conformal.clone());
        let model = Model { record, head, conformal };
        let logits = logits(model.head.as_ref(), matrix, tested_on)?;
        let tested = model.predictions(&logits)?;
        let labels = samples.labels(tested_on);
        let metrics = RunMetrics {
            test: tested.metrics(&labels),
            counts: Counts {
                classes: samples.classes.len(),
                train: train.len(),
                test: tested_on.len(),
                views: self.views,
                skipped: samples.rows.len() - kept.len(),
                computed: matrix.computed(),
            },
            chosen: chosen.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            calibration: calibration_metrics(&calibrated, &logits, &tested, &labels),
            conformal: ConformalMetrics::of(&model, &tested, &labels)?,
            seconds: Seconds {
                features: self.seconds,
                fit,
                calibration,
                test: started.elapsed().as_secs_f64(),
            },
        };

        let rows: Vec<TestRow<'_>> = tested_on
            .iter()
            .map(|&i| TestRow { path: &samples.rows[i].id, label: samples.rows[i].label })
            .collect();
        let files = RunFiles {
            config: record::settings(settings, self.stock.as_ref()),
            model: &model,
            metrics: serde_json::to_string_pretty(&metrics).expect("figures are JSON") + "\n",
            history: history(&fit_history),
            split: split(samples, kept),
            predictions: predictions(&rows, &tested, &model.record.classes),
            report: report::html(&model.record, &metrics, &rows, &tested),
        };
        let folder = place.write(settings.head.kind(), &files)?;
        let example = self.photos.as_ref().map(|photos| photos[tested_on[0]].clone());
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
